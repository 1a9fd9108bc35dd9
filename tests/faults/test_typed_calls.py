"""Tens of thousands of random calls of the right types, under every role: refused or answered, and nobody is harmed.

``python -m tests.typed_calls`` does the same for as long as it is told.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dtq.coordinator.service import Coordinator, Setup
from dtq.engines.memory import MemoryEngine
from dtq.engines.sqlite import SqliteEngine
from dtq.model.service import Service
from dtq.model.wire import methods
from tests.typed_calls import Honest, Onslaught, coordinator_rules

#: Calls of one test. Some methods have few random arguments that are answered.
FEWEST_CALLS: Final = 4_000
MOST_CALLS: Final = 12_000


@pytest.fixture(params=["memory", "sqlite"])
def coordinator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Coordinator]:
    engine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "dtq.db", durability="none")
    coordinator = Coordinator(engine, Setup(rules=coordinator_rules(), durability="none"))
    coordinator.start()
    yield coordinator
    assert coordinator.stop()


@pytest.mark.parametrize(("coordinator", "seed"), [("memory", 1), ("sqlite", 2)], indirect=["coordinator"])
def test_random_calls_of_every_role_are_answered_and_harm_nobody(
    coordinator: Coordinator, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Given those who do their work, and peers of every role who say whatever has the right type
    caplog.set_level(logging.ERROR)
    honest, onslaught = Honest(coordinator), Onslaught(coordinator, seed)

    # When they say so, until chance has made a call of each method that is answered
    by_chance = {name for name in methods(Service) if "schedule" in name}  # few random rules are ones
    wanted = set(methods(Service)) - {"hello", "task", "spec"} - by_chance
    for count in range(1, MOST_CALLS + 1):
        onslaught.one()  # which sees that the answer is none of an internal error
        if count % 100 == 0:
            honest.work()  # which sees that everything is done as always
        if count % 1000 == 0:
            onslaught.check()
            if count >= FEWEST_CALLS and wanted <= {name for name, code in onslaught.answers if not code}:
                break

    # Then every method was answered and refused, and no error of ours is in the log
    answered = {name for name, code in onslaught.answers if not code}
    refused = {name for name, code in onslaught.answers if code}
    assert answered >= wanted
    assert refused == set(methods(Service))
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_calls_and_sessions_that_have_ended_leave_no_cycles(coordinator: Coordinator) -> None:
    """The coordinator's process does not look for cyclic garbage in what has lived through a collection."""
    # Given some that live, and nothing to collect
    honest, onslaught = Honest(coordinator), Onslaught(coordinator, 3)
    for _ in range(500):
        onslaught.one()
    gc.collect()
    gc.disable()
    try:
        # When many calls are answered and refused, and connections come and go
        for _ in range(800):
            onslaught.one()
        honest.work()
        Onslaught(coordinator, 4).one()

        # Then all that they have made is freed without the collector
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [repr(type(one)) for one in gc.garbage if type(one).__module__.startswith("dtq")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert found == []
