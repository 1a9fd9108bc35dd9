"""The last line of defence: a defect in one call, or in what is due, is felt by nobody else. Defects are put in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.coordinator import sessions
from dtq.core import granting, invariants
from dtq.core.leases import chunk
from dtq.core.machine import Machine
from dtq.model.states import State
from tests.contracts.service_scene import DEADLINE_S, House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House("memory", tmp_path)
    yield house
    house.close()
    invariants.check(house.coordinator.machine)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> float:
    """An estimate with which nothing can be handed out."""

    def strict(estimate_s: float | None, *others: Any) -> int:
        if estimate_s == 0.666:
            raise ZeroDivisionError("a defect")
        return chunk(estimate_s, *others)

    monkeypatch.setattr(granting, "chunk", strict)
    return 0.666


def test_task_that_cannot_be_handed_out_keeps_no_other_from_it(
    house: House, poison: float, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a worker that waits, and a function of which the coordinator believes what breaks it
    client, hand = house.client(), house.worker()
    waiting = house.begin_fetch(hand)
    client.submit(function="m:other", queue="elsewhere")
    entry = next(iter(house.coordinator.machine.queue_state.specs.values()))
    batch = client.submit(3, function="m:poison", submission={"complete": False, "delay_s": 0.0}, queue="later")
    poisoned = [e for e in house.coordinator.machine.queue_state.specs.values() if e is not entry]
    for each in poisoned:
        each.estimate_s = poison

    # When somebody submits more of that, which is to be handed to the one that waits
    more = client.submit(1, function="m:poison", queue="later")

    # Then the submitter is answered; and what comes after it is handed out
    good = client.submit(1, function="m:good", queue="default")
    granted = waiting.result(DEADLINE_S).grants
    batches = [grant.batch for grant in granted]
    while good not in batches:
        for grant in granted:
            hand.succeed(grant)
        granted = hand.fetch_orders().grants
        assert granted, "nothing is handed out any more"
        batches += [grant.batch for grant in granted]
    assert more not in batches
    assert client.service.task(batch, 0).state in (State.PENDING, State.RUNNING, State.SUCCEEDED)
    assert "set aside" in caplog.text


def test_error_in_one_thing_that_is_due_keeps_nothing_else_from_being_done(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a machine whose tick has a defect, and a worker that dies with a task
    client, hand, other = house.client(), house.worker("dies"), house.worker("other", queues=("default",))
    client.submit()
    hand.fetch_one()
    monkeypatch.setattr(Machine, "tick", lambda self, now: 1 / 0)

    # When it is given up
    waiting = house.begin_fetch(other)
    hand.hang_up()
    hand.fetcher.hang_up()

    # Then its task goes to the other, in spite of the defect
    assert len(waiting.result(DEADLINE_S).grants) == 1
    assert "a step that was due failed" in caplog.text


def test_error_in_a_call_is_answered_to_its_caller_and_leaves_the_rest_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a coordinator behind its wire, one of whose methods has a defect
    from dtq.coordinator import operating
    from dtq.errors import InternalError
    from dtq.model.snapshots import Selection

    house = House("wire", tmp_path)
    caplog.set_level(logging.INFO, "dtq.audit")
    monkeypatch.setattr(operating, "purge_dead", lambda c, selection: (c.lock.acquire() and c.lock.release()) or 1 / 0)
    try:
        mean, client, hand = house.client(), house.client(), house.worker()

        # When it is called
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            mean.service.purge_dead(Selection(limit=0))

        # Then its caller hears so, it is on record, and everybody goes on: the caller on the same connection
        assert "failed (ZeroDivisionError)" in caplog.text
        assert mean.service.stats().counts.total == 0
        batch = client.submit()
        hand.succeed(hand.fetch_one())
        assert client.service.task(batch, 0).state is State.SUCCEEDED
    finally:
        house.close()


def test_sessions_without_a_connection_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given room for five who are away
    monkeypatch.setattr(sessions, "MOST_AWAY", 5)
    stays = house.client()

    # When thirty come and go
    for _ in range(30):
        house.client().hang_up()
    house.coordinator.tick()

    # Then the last five may come back, and who stays has stayed
    assert len(house.coordinator.sessions.by_id) == 6
    assert stays.session in house.coordinator.sessions.by_id
