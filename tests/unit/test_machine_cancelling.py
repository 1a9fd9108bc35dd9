"""Cancelling: what waits never starts, what runs is stopped, and nothing follows."""

from __future__ import annotations

import pytest

from dtq.core.changes import TaskForgotten
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.model.messages import Cancellation
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.driver import Driver

PENDING, RUNNING, CANCELLED = State.PENDING, State.RUNNING, State.CANCELLED


# -- one task -------------------------------------------------------------------------------------------------------


def test_cancelled_fresh_task_never_starts(machine: Driver) -> None:
    # Given
    batch = machine.submit(4)

    # When
    assert machine.cancel(batch, 1) == (1, 0)

    # Then
    assert machine.states(batch, 4) == [PENDING, CANCELLED, PENDING, PENDING]
    machine.attach(capacity=4)
    assert machine.take() == [(batch, 0), (batch, 2), (batch, 3)]


@pytest.mark.parametrize("index", [0, 3])
def test_cancelled_first_or_last_task_never_starts(machine: Driver, index: int) -> None:
    batch = machine.submit(4)

    machine.cancel(batch, index)

    machine.attach(capacity=4)
    assert machine.take() == [(batch, other) for other in range(4) if other != index]


def test_cancelled_task_of_a_delayed_batch_never_starts(machine: Driver) -> None:
    batch = machine.submit(3, delay_s=5.0)

    machine.cancel(batch, 0)

    machine.tick(5.0)
    machine.attach(capacity=3)
    assert machine.take() == [(batch, 1), (batch, 2)]


def test_batch_ends_when_all_its_tasks_were_cancelled_one_by_one(machine: Driver) -> None:
    batch = machine.submit(3)

    for index in (1, 0, 2):
        assert machine.cancel(batch, index) == (1, 0)

    assert not machine.is_live(batch)
    assert machine.states(batch, 3) == [CANCELLED] * 3


def test_cancelled_task_that_backs_off_never_starts_again(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit()
    machine.fail(machine.lease_one())

    assert machine.cancel(batch, 0) == (1, 0)

    machine.tick(10.0)
    assert machine.take() == []
    assert machine.state(batch) is CANCELLED
    (run,) = machine.store.ended(Selection(ids=((batch, 0),)), machine.now)
    assert run.task is not None
    assert (run.task.due_at, run.task.failures) == (None, 1)


def test_cancelled_task_that_came_back_never_starts_again(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(2)
    machine.release(machine.lease_one())

    assert machine.cancel(batch, 0) == (1, 0)

    assert machine.take() == [(batch, 1)]


def test_cancelled_running_task_is_named_to_its_worker_until_it_has_ended(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    batch = machine.submit(2)
    first, second = machine.lease()

    # When
    assert machine.cancel(batch, 1) == (0, 1)

    # Then
    doomed = [Cancellation(token=second.token, index=1)]
    assert machine.machine.cancelling("w1") == doomed
    assert machine.fetch("w1", first, second).cancel == doomed
    assert machine.fetch("w1", first, second).cancel == doomed
    assert machine.view(batch, 1).cancelling
    machine.fail(second, outcome=Outcome.CANCELLED, exception="")
    assert machine.machine.cancelling("w1") == []
    assert machine.state(batch, 1) is CANCELLED


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.CANCELLED])
def test_nothing_follows_a_task_that_is_being_stopped_however_it_ends(machine: Driver, outcome: Outcome) -> None:
    machine.attach()
    batch = machine.submit()
    lease = machine.lease_one()
    machine.cancel(batch, 0)

    machine.fail(lease, outcome=outcome)

    assert machine.state(batch) is CANCELLED


def test_task_that_is_being_stopped_may_still_succeed(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit()
    lease = machine.lease_one()
    machine.cancel(batch, 0)

    machine.succeed(lease)

    assert machine.state(batch) is State.SUCCEEDED


def test_task_that_is_being_stopped_does_not_go_back_when_it_is_released_or_its_worker_lost(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    batch = machine.submit(3)
    released, _ = machine.lease()
    machine.cancel(batch, 0)
    machine.cancel(batch, 1)

    # When
    machine.release(released)
    machine.lose()

    # Then
    assert machine.states(batch, 3) == [CANCELLED, CANCELLED, PENDING]


def test_cancelling_a_running_task_twice_is_once(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit()
    lease = machine.lease_one()
    machine.cancel(batch, 0)
    machine.cancel(batch, 0)

    machine.fail(lease, outcome=Outcome.CANCELLED)

    assert machine.count(CANCELLED) == 1


def test_cancelling_what_has_ended_changes_nothing(machine: Driver) -> None:
    # Given
    machine.attach(capacity=3)
    batch = machine.submit(4, max_retries=0)
    succeeded, died, _ = machine.lease()
    machine.succeed(succeeded)
    machine.fail(died)
    machine.cancel(batch, 3)

    # Then
    for index in (0, 1, 3):
        assert machine.cancel(batch, index) == (0, 0)
    assert machine.states(batch, 4) == [State.SUCCEEDED, State.DEAD, RUNNING, CANCELLED]


# -- a whole batch --------------------------------------------------------------------------------------------------


def test_cancelled_batch_never_starts(machine: Driver) -> None:
    # When
    batch = machine.submit(1000)
    assert machine.cancel(batch) == (1000, 0)

    # Then it is one row, not a thousand
    assert machine.state(batch, 17) is CANCELLED
    assert machine.store.attempts(batch, 17) == []
    assert machine.told == [EndedRange(batch, 0, 1000, CANCELLED, "client")]
    assert not machine.is_live(batch)
    machine.attach()
    assert machine.take() == []


def test_cancelled_batch_stops_what_runs_and_ends_when_that_has(machine: Driver) -> None:
    # Given one task of each kind
    machine.attach(capacity=5)
    batch = machine.submit(8, max_retries=1)
    succeeded, failed, released, running, also_running = machine.lease()
    machine.succeed(succeeded)
    machine.fail(failed)
    machine.release(released)
    machine.cancel(batch, 6)

    # When
    assert machine.cancel(batch) == (4, 2)

    # Then
    expected = [State.SUCCEEDED, CANCELLED, CANCELLED, RUNNING, RUNNING, CANCELLED, CANCELLED, CANCELLED]
    assert machine.states(batch, 8) == expected
    machine.crash(running)
    assert machine.is_live(batch)
    machine.succeed(also_running)
    assert not machine.is_live(batch)
    assert machine.batch(batch).counts.cancelled == 6
    assert machine.batch(batch).counts.succeeded == 2


def test_cancelled_batch_tells_each_task_once(machine: Driver) -> None:
    # Given tasks that were cancelled alone before
    batch = machine.submit(6)
    machine.cancel(batch, 0)
    machine.cancel(batch, 3)
    machine.drain()

    # When
    machine.cancel(batch)
    changes = machine.drain()

    # Then the whole is told and kept as ranges, without the single ones' rows
    told = sorted(index for ended in machine.told for index in range(ended.lo, ended.hi))
    assert told == [0, 1, 2, 3, 4, 5]
    assert [change for change in changes if isinstance(change, TaskForgotten)] == [
        TaskForgotten(batch, 0, history=True),
        TaskForgotten(batch, 3, history=True),
    ]
    assert machine.states(batch, 6) == [CANCELLED] * 6


def test_cancelled_delayed_batch_never_becomes_due(machine: Driver) -> None:
    batch = machine.submit(5, delay_s=10.0)

    assert machine.cancel(batch) == (5, 0)

    machine.tick(10.0)
    machine.attach()
    assert machine.take() == []
    assert machine.count(CANCELLED) == 5


def test_cancelled_delayed_batch_with_nothing_left_running_is_finished(machine: Driver) -> None:
    batch = machine.submit(5, delay_s=10.0)

    machine.cancel(batch)

    assert not machine.is_live(batch)


def test_cancelled_batch_that_is_still_being_submitted_takes_no_more(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(2, complete=False)
    lease: Lease = machine.lease_one()

    assert machine.cancel(batch) == (1, 1)

    assert machine.live(batch).complete
    machine.submit(2, batch=batch, offset=2)
    machine.fail(lease, outcome=Outcome.CANCELLED)
    assert machine.batch(batch).counts.cancelled == 2


def test_cancelling_a_batch_twice_changes_nothing_more(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(3)
    machine.lease_one()
    machine.cancel(batch)

    assert machine.cancel(batch) == (0, 0)

    assert machine.states(batch, 3) == [RUNNING, CANCELLED, CANCELLED]


def test_cancelled_batch_stays_cancelled_over_a_restart(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    batch = machine.submit(6)
    machine.lease()
    machine.cancel(batch, 4)
    machine.cancel(batch)
    machine.drain()

    # When
    machine.restart()

    # Then
    assert machine.states(batch, 6) == [RUNNING, RUNNING, CANCELLED, CANCELLED, CANCELLED, CANCELLED]
    assert len(machine.machine.cancelling("w1")) == 2
    machine.lose()
    assert not machine.is_live(batch)
    assert machine.states(batch, 6) == [CANCELLED] * 6


def test_key_is_free_again_when_its_batch_was_cancelled(machine: Driver) -> None:
    batch = machine.submit(key="nightly")

    machine.cancel(batch)

    assert machine.machine.queue_state.keys == {}
