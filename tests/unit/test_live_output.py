"""Output that somebody follows, on its way from the worker: in order, in bounds, and once."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dtq.model import fields, pages
from dtq.model.messages import Followed, Succeeded
from dtq.model.printed import Printed
from dtq.model.wire import codec
from dtq.worker import live_output
from dtq.worker.live_output import LiveOutput
from dtq.worker.task_output import TaskOutput


class Chunk:
    token = 7

    def serial_of(self, index: int) -> int:
        return index


class Child:
    """A slot that has lease 7, and runs task 2 of it."""

    def __init__(self) -> None:
        self.output = self
        self.printed = TaskOutput(1000)

    def holding(self, token: int) -> Chunk | None:
        return Chunk() if token == 7 else None

    def kept(self, serial: int) -> TaskOutput | None:
        return self.printed if serial == 2 and self.printed.size else None


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_output, "EVERY_S", 0.0)


def told(live: LiveOutput, child: Child) -> list[tuple[int, bytes]]:
    return [(said.offset, said.data) for said in live.take([cast(Any, child)], {7})]


def test_nothing_is_said_of_what_nobody_follows() -> None:
    live, child = LiveOutput(), Child()
    child.printed.add(b"unheard")
    assert not live.printed()
    assert live.due_at is None
    assert told(live, child) == []


def test_follower_has_everything_once_and_again_what_did_not_arrive() -> None:
    live, child = LiveOutput(), Child()
    live.add([Followed(token=7, index=2)])
    # Given a first report that says that nothing was printed yet
    assert told(live, child) == [(0, b"")]
    live.arrived()
    # When it prints, Then that is news, once
    child.printed.add(b"one")
    assert live.printed()
    assert not live.printed()
    assert told(live, child) == [(0, b"one")]
    # When the report does not arrive, Then it is made again, with what has come since
    live.failed()
    child.printed.add(b"two")
    assert told(live, child) == [(0, b"onetwo")]
    live.arrived()
    child.printed.add(b"three")
    live.printed()
    assert told(live, child) == [(6, b"three")]


def test_follower_sees_the_gap_of_a_flood() -> None:
    live, child = LiveOutput(), Child()
    live.add([Followed(token=7, index=2)])
    child.printed.add(b"a" * 600 + b"b" * 5000 + b"c" * 500)
    assert told(live, child) == [(0, b"a" * 500)]
    live.arrived()
    assert told(live, child) == [(5600, b"c" * 500)]
    live.arrived()
    assert told(live, child) == []
    assert live.due_at is None


def test_tasks_that_nobody_follows_any_more_are_forgotten_but_not_those_that_were_never_told() -> None:
    live, child = LiveOutput(), Child()
    live.add([Followed(token=7, index=2)])
    # Given an answer to a report that was made before the coordinator knew of the follower
    live.only([])
    assert live
    told(live, child)
    live.arrived()
    # When a later one does not name it
    live.only([])
    assert not live


def test_output_that_breaks_a_rule_is_dropped_alone() -> None:
    # Given a report of two tasks' output, of which one is larger than any that is kept
    sound = Printed(index=1, head=b"fine")
    report = Succeeded(
        token=7,
        lo=0,
        results=pages.pack([b"r"] * 2),
        seconds=1.0,
        printed=(Printed(index=0, head=bytes(fields.MAX_OUTPUT + 1)), sound),
    )
    made = codec(Succeeded)
    # When it arrives
    arrived = made.decode(made.plain(report))
    # Then the results are there, and the other output
    assert (arrived.results, arrived.printed) == (report.results, (sound,))


def test_coordinator_that_knows_less_is_told_again() -> None:
    live, child = LiveOutput(), Child()
    live.add([Followed(token=7, index=2)])
    child.printed.add(b"before the restart")
    assert told(live, child) == [(0, b"before the restart")]
    live.arrived()
    # When another coordinator asks for the same task, and when one has lost the end
    live.only([Followed(token=7, index=2)])
    assert told(live, child) == [(0, b"before the restart")]
    live.arrived()
    live.only([Followed(token=7, index=2, known=True, offset=7)])
    assert told(live, child) == [(7, b"the restart")]
    live.arrived()
    # Then one that knows all is told nothing
    live.only([Followed(token=7, index=2, known=True, offset=18)])
    assert told(live, child) == []
    assert live.due_at is None
