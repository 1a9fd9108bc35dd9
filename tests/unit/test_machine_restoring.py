"""Restarts: what the rows say is all there is, and it is enough."""

from __future__ import annotations

import pytest

from dtq.core.changes import LeaseRow
from dtq.model.messages import Holding
from dtq.model.states import Outcome, State
from dtq.testing import ManualClock
from tests.driver import Driver

PENDING, RUNNING, SCHEDULED, SUCCEEDED = State.PENDING, State.RUNNING, State.SCHEDULED, State.SUCCEEDED


def test_restart_keeps_every_task_where_it_was(machine: Driver) -> None:
    # Given one task of every kind
    machine.attach(capacity=6)
    batch = machine.submit(8, max_retries=1)
    done, failed, released, crashed, _, dead = machine.lease()
    machine.succeed(done)
    machine.fail(failed)
    machine.release(released)
    machine.crash(crashed)
    machine.fail(dead, exception="ValueError")
    machine.cancel(batch, 6)
    machine.submit(2, delay_s=60.0)
    before = [*machine.states(batch, 8), *machine.states(2, 2)]
    counts = machine.machine.queue_state.tally.counts()

    # When
    machine.restart()

    # Then
    assert [*machine.states(batch, 8), *machine.states(2, 2)] == before
    assert machine.machine.queue_state.tally.counts() == counts


def test_restart_keeps_the_order(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    machine.submit(3, priority=5)
    machine.submit(2, priority=1)
    for lease in machine.lease():
        machine.release(lease)
    machine.drain()

    # When
    machine.restart()

    # Then
    machine.attach("w2", capacity=10)
    assert machine.take("w2") == [(2, 0), (2, 1), (1, 0), (1, 1), (1, 2)]


def test_restart_gives_workers_one_lease_time_to_claim_what_they_run(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    machine.submit(2)
    claimed, lost = machine.lease()
    machine.drain()
    machine.restart()
    machine.tick()

    # When one worker comes back with one of its leases
    machine.tick(10.0)
    assert machine.attach("w1") is True
    answer = machine.fetch("w1", Holding(token=claimed.token, started=0))

    # Then that one goes on, the other has never arrived
    assert answer.drop == []
    assert machine.states(1, 2) == [RUNNING, PENDING]
    machine.succeed(claimed)
    assert machine.state(1, 0) is SUCCEEDED
    assert machine.machine.refused == 0
    assert lost.token not in machine.machine.queue_state.leases


def test_restart_runs_what_nobody_claims_elsewhere(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.lease()
    machine.drain()
    machine.restart()
    machine.tick()

    machine.tick(14.75)
    assert machine.state(1) is RUNNING
    machine.tick(0.25)

    assert machine.state(1) is PENDING


def test_lease_that_was_not_written_in_time_is_refused_after_a_restart(machine: Driver) -> None:
    # Given a lease that was granted just before the coordinator died
    machine.attach()
    machine.submit()
    machine.drain()
    lease = machine.lease_one()

    # When
    machine.restart()
    machine.attach()

    # Then the task runs again, and the first run's report is refused
    again = machine.lease_one()
    assert again.token != lease.token
    machine.succeed(lease)
    assert machine.machine.refused == 1
    machine.succeed(again)
    assert machine.state(1) is SUCCEEDED


def test_restart_keeps_failures_attempts_and_backoff(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(max_retries=1, max_crashes=2)
    machine.crash(machine.lease_one())
    machine.fail(machine.lease_one())
    due_at = machine.view(batch).due_at
    machine.drain()

    # When
    machine.restart()

    # Then
    view = machine.view(batch)
    assert (view.state, view.failures, view.crashes, view.attempt, view.due_at) == (SCHEDULED, 1, 1, 2, due_at)
    machine.tick(2.0)
    machine.attach()
    lease = machine.lease_one()
    assert lease.attempt == 3
    machine.crash(lease)
    assert machine.state(batch) is State.DEAD


def test_restart_keeps_a_cancel_that_is_under_way(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit()
    lease = machine.lease_one()
    machine.cancel(batch, 0)
    machine.drain()

    machine.restart()

    assert machine.view(batch).cancelling
    machine.attach()
    assert [d.token for d in machine.fetch("w1", Holding(token=lease.token, started=0)).cancel] == [lease.token]
    machine.fail(lease, outcome=Outcome.CRASHED)
    assert machine.state(batch) is State.CANCELLED


def test_restart_keeps_keys_and_numbers(machine: Driver) -> None:
    first = machine.submit(key="nightly")
    machine.drain()

    machine.restart()

    assert machine.submit(key="nightly") == first
    assert machine.submit() == first + 1


def test_numbers_of_finished_batches_are_not_used_again_after_a_restart(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.succeed(machine.lease_one())
    machine.drain()

    machine.restart()

    assert machine.submit() == 2
    assert machine.count(SUCCEEDED) == 1
    assert machine.machine.queue_state.submitted == 2


def test_batch_that_was_being_submitted_can_be_gone_on_with_after_a_restart(machine: Driver) -> None:
    batch = machine.submit(2, complete=False)
    machine.drain()

    machine.restart()

    machine.submit(2, batch=batch, offset=1)
    assert machine.states(batch, 3) == [PENDING] * 3
    assert machine.machine.queue_state.open == {}


def test_batch_that_was_being_submitted_can_be_abandoned_after_a_restart(machine: Driver) -> None:
    batch = machine.submit(2, complete=False, session="gone")
    machine.drain()
    machine.restart()

    machine.abandon("gone")

    assert machine.live(batch).complete


def test_finished_batches_are_not_restored(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.succeed(machine.lease_one())
    machine.drain()

    machine.restart()

    assert machine.machine.queue_state.batches == {}
    assert not any(isinstance(row, LeaseRow) for row in machine.store.restore())


def test_restart_while_nothing_has_changed_writes_nothing_new(machine: Driver) -> None:
    machine.submit(3)
    machine.drain()

    machine.restart()

    assert machine.drain() == []


def test_clock_that_stood_ahead_once_is_left_behind(machine: Driver) -> None:
    # Given a run of the coordinator whose clock stood 40 days ahead, and work that is due in an hour and in two
    machine.attach()
    ahead_s = 40 * 86400.0
    machine.tick(ahead_s)
    failed = machine.submit(1)
    machine.fail(machine.lease_one())
    due_at = machine.view(failed).due_at
    delayed = machine.submit(2, delay_s=3600.0)
    assert due_at is not None
    backoff_s = due_at - machine.now
    machine.drain()

    # When the next run has the right time, Then all of it waits as long as it had to,
    machine.clock = ManualClock(machine.now - ahead_s)
    for _ in range(2):  # also the run after that
        machine.restart()
        assert machine.view(failed).due_at == pytest.approx(machine.now + backoff_s)
        assert machine.view(delayed).due_at == pytest.approx(machine.now + 3600.0)
        machine.tick()
        machine.drain()
    # and time that the coordinator is away counts again.
    machine.clock.advance(3600.0)
    machine.restart()
    machine.tick()
    assert machine.states(delayed, 2) == [PENDING, PENDING]


@pytest.mark.parametrize(("keep_results_s", "kept_s"), [(86_400.0, 3600.0), (60.0, 60.0)])
def test_results_outlive_a_start_with_a_clock_that_stands_ahead_for_a_while(
    keep_results_s: float, kept_s: float
) -> None:
    # Given a result
    machine = Driver(keep_results_s=keep_results_s)
    machine.attach()
    batch = machine.submit()
    machine.succeed(machine.lease_one())
    machine.drain()
    right = machine.now

    # When the coordinator starts with a clock that is 40 days ahead
    machine.clock.advance(40 * 86_400.0)
    machine.restart()
    machine.tick()
    machine.tick(kept_s - 1.0)
    machine.drain()

    # Then the result is there, also for the next one with the right clock, whose time it has again
    assert machine.state(batch) is State.SUCCEEDED
    machine.clock = ManualClock(right + 10.0)
    machine.restart()
    machine.tick(keep_results_s / 2)
    machine.drain()
    assert machine.state(batch) is State.SUCCEEDED


def test_results_go_soon_after_a_long_time_away() -> None:
    # Given a result, and 40 days without a coordinator
    machine = Driver(keep_results_s=86_400.0)
    machine.attach()
    batch = machine.submit()
    machine.succeed(machine.lease_one())
    machine.drain()
    machine.clock.advance(40 * 86_400.0)
    machine.restart()

    # When
    deadline = machine.tick()
    machine.tick(3600.0)
    machine.drain()

    # Then
    assert deadline == machine.now
    assert machine.store.batches([batch]) == []
