"""Batches that have a time of their own: when they expire, and that those are few moments."""

from __future__ import annotations

import pytest

from dtq.core.changes import OwnExpired
from dtq.core.expiry import Expiries, moment_of_expiry
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.driver import Driver

DAY_S = 86_400.0


def finished(machine: Driver, **options: object) -> int:
    """A batch whose only task has succeeded."""
    machine.attach()
    batch = machine.submit(**options)  # type: ignore[arg-type]  # any of the options of a task
    machine.succeed(machine.lease_one())
    machine.drain()
    return batch


def is_kept(machine: Driver, batch: int) -> bool:
    machine.drain()
    return bool(machine.store.batches([batch]))


def wait(machine: Driver, seconds: float) -> None:
    """Let time pass, and do what is due when it is."""
    until = machine.now + seconds
    while (deadline := machine.machine.next_deadline()) <= until:
        machine.tick(max(0.0, deadline - machine.now))
    machine.clock.advance(until - machine.now)


@pytest.mark.parametrize("keep_s", [0.0, 0.5, 1.0, 7.9, 60.0, 3600.0, DAY_S, 30 * DAY_S])
def test_results_are_kept_as_long_as_they_are_to_be_and_not_much_longer(keep_s: float) -> None:
    for finished_at in (0.0, 12.375, 1.7e9 + 0.1):
        kept_s = moment_of_expiry(finished_at, keep_s) - finished_at
        assert max(1.0, keep_s) <= kept_s <= max(1.0, keep_s) + max(1.0, keep_s / 8)


def test_many_batches_expire_at_few_moments() -> None:
    # Given a batch each 10 ms for an hour, with three times of their own
    expiries = Expiries()
    for at in range(360_000):
        expiries.add(moment_of_expiry(1.7e9 + at / 100, (60.0, 3600.0, DAY_S)[at % 3]))

    # Then their moments are told from each other only as far as it matters: every 4 s, 256 s and 34 min
    assert len(list(expiries)) < 3600 / 4 + 3600 / 256 + 10


def test_moments_that_have_come_are_taken_out_together() -> None:
    expiries = Expiries()
    for at in (3.0, 1.0, 2.0, 3.0, 9.0):
        expiries.add(at)

    assert expiries.pop_due(0.5) is None
    assert expiries.pop_due(3.0) == 3.0
    assert expiries.next_at() == 9.0
    expiries.add(3.0)
    assert list(expiries) == [3.0, 9.0]


@pytest.mark.parametrize(("own_s", "others_s"), [(10.0, 1000.0), (1000.0, 10.0)])
def test_batch_with_a_time_of_its_own_expires_by_that(own_s: float, others_s: float) -> None:
    # Given a batch with a time of its own beside one without
    machine = Driver(keep_results_s=others_s)
    own = finished(machine, keep_results_s=own_s)
    other = finished(machine)

    # When the shorter time is over, Then only what is kept for that is gone
    wait(machine, 9.0)
    assert is_kept(machine, own)
    assert is_kept(machine, other)
    wait(machine, 6.0)
    assert is_kept(machine, own) is (own_s > others_s)
    assert is_kept(machine, other) is (others_s > own_s)

    # and when the longer one is over, all is
    wait(machine, 1150.0)
    assert not is_kept(machine, own)
    assert not is_kept(machine, other)


def test_tick_asks_to_be_called_when_a_batch_expires_by_its_own_time() -> None:
    machine = Driver(keep_results_s=8 * DAY_S)
    machine.attach()
    batch = machine.submit(keep_results_s=60.0)
    machine.succeed(machine.lease_one())

    machine.machine.lose("w1", machine.now)
    assert machine.tick() == moment_of_expiry(machine.now, 60.0)
    assert is_kept(machine, batch)


def test_time_of_its_own_outlives_a_restart() -> None:
    # Given a batch that is kept for a minute, half of which is over when the coordinator is killed
    machine = Driver(keep_results_s=8 * DAY_S)
    batch = finished(machine, keep_results_s=60.0)
    machine.clock.advance(30.0)
    machine.restart()

    # When, Then
    wait(machine, 25.0)
    assert is_kept(machine, batch)
    wait(machine, 15.0)
    assert not is_kept(machine, batch)


def test_batch_whose_time_was_over_before_a_restart_goes_at_once() -> None:
    machine = Driver(keep_results_s=8 * DAY_S)
    batch = finished(machine, keep_results_s=60.0)
    machine.clock.advance(600.0)
    machine.restart()
    machine.tick()
    assert not is_kept(machine, batch)


def test_start_with_a_clock_that_stands_ahead_keeps_what_has_a_time_of_its_own_for_a_while_too() -> None:
    # Given a result that is kept for a week, and a start 40 days later, as it seems
    machine = Driver(keep_results_s=DAY_S)
    batch = finished(machine, keep_results_s=7 * DAY_S)
    machine.clock.advance(40 * DAY_S)
    machine.restart()

    # Then it is there for another hour
    machine.tick()
    wait(machine, 3599.0)
    assert is_kept(machine, batch)
    wait(machine, 1.0)
    assert not is_kept(machine, batch)


def test_dead_letter_outlives_the_time_of_its_batch() -> None:
    # Given a batch of a success and a dead letter
    machine = Driver(keep_results_s=DAY_S)
    machine.attach()
    batch = machine.submit(2, max_retries=0, keep_results_s=10.0)
    machine.succeed(machine.lease_one())
    machine.fail(machine.lease_one())

    # When its time is over, Then the dead letter is there, alone,
    wait(machine, 60.0)
    assert is_kept(machine, batch)
    ended = machine.store.ended(Selection(ids=((batch, -1),), limit=0), machine.now)
    assert [(run.lo, run.state) for run in ended] == [(1, State.DEAD)]

    # and all of it goes when that is purged
    machine.purge(batch, 1)
    wait(machine, 1.0)
    assert not is_kept(machine, batch)


def test_dead_letter_that_is_put_back_is_kept_anew_when_it_has_ended() -> None:
    # Given a batch whose time was over long ago, but for its dead letter
    machine = Driver(keep_results_s=DAY_S)
    machine.attach()
    batch = machine.submit(max_retries=0, keep_results_s=30.0)
    machine.fail(machine.lease_one())
    wait(machine, 25.0)

    # When it is put back, and ends about when its first time would be over
    machine.drain()
    machine.revive(batch)
    machine.attach()
    machine.succeed(machine.lease_one())

    # Then it has all of its time again
    wait(machine, 29.0)
    assert is_kept(machine, batch)
    wait(machine, 6.0)
    assert not is_kept(machine, batch)


def test_nothing_is_said_where_nothing_has_a_time_of_its_own() -> None:
    machine = Driver(keep_results_s=10.0)
    finished(machine)
    machine.tick(1000.0)
    changes, _ = machine.machine.drain(machine.now)
    assert not [change for change in changes if isinstance(change, OwnExpired)]
