"""Failures, crashes and delays, as they move a task."""

from __future__ import annotations

import pytest

from dtq.core.changes import AttemptRow, Stored, TaskRow
from dtq.model.states import Outcome, State
from tests.driver import Driver


def fail_again(machine: Driver) -> None:
    """Let the backoff of the only task pass, and fail it once more."""
    machine.tick(300.0)
    machine.attach()
    machine.fail(machine.lease_one())


def test_failed_task_waits_for_its_backoff(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit()
    machine.fail(machine.lease_one())

    # Then
    view = machine.view(batch)
    assert (view.state, view.failures, view.attempt) == (State.SCHEDULED, 1, 1)
    assert view.due_at == machine.now + 2.0
    machine.tick(1.9)
    assert machine.state(batch) is State.SCHEDULED
    machine.tick(0.1)
    assert machine.state(batch) is State.PENDING


def test_tick_tells_when_the_next_task_becomes_due(machine: Driver) -> None:
    machine.tick()
    machine.submit(delay_s=7.0)
    machine.submit(delay_s=3.0)

    assert machine.tick() == machine.now + 3.0


def test_backoff_doubles_from_failure_to_failure(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(max_retries=5)

    waits = []
    for _ in range(4):
        machine.fail(machine.lease_one())
        due_at = machine.view(batch).due_at
        assert due_at is not None
        waits.append(due_at - machine.now)
        machine.tick(waits[-1])

    assert waits == [2.0, 4.0, 8.0, 16.0]


def test_retry_without_delay_is_possible(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(retry_delay_s=0.0)
    machine.fail(machine.lease_one())

    machine.tick()

    assert machine.state(batch) is State.PENDING


def test_task_dies_after_its_last_retry(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(max_retries=3)
    machine.fail(machine.lease_one(), message="the fourth time is no charm")

    # When
    for _ in range(2):
        fail_again(machine)
    assert machine.state(batch) is State.SCHEDULED
    fail_again(machine)

    # Then
    assert machine.state(batch) is State.DEAD
    assert machine.machine.queue_state.retries == 3
    assert [attempt.number for attempt in machine.store.attempts(batch, 0)] == [1, 2, 3, 4]
    assert not machine.is_live(batch)


def test_dead_letter_s_row_says_why(machine: Driver) -> None:
    # When
    machine.attach()
    machine.submit(max_retries=0)
    machine.fail(machine.lease_one(), exception="shop.SoldOut", message="x" * 2000)

    # Then
    rows = [change.row for change in machine.drain() if isinstance(change, Stored)]
    (task,) = [row for row in rows if isinstance(row, TaskRow)]
    assert (task.state, task.outcome, task.exception) == (State.DEAD, Outcome.FAILED, "shop.SoldOut")
    assert task.message == "x" * 500  # the history has all of it
    assert task.ended_at == machine.now
    (attempt,) = [row for row in rows if isinstance(row, AttemptRow)]
    assert attempt.attempt.failure.message == "x" * 2000


def test_exception_that_is_never_retried_is_death_at_once_for_its_subclasses_too(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(2, never_retry=("ValueError",))

    machine.fail(machine.lease_one(), exception="UnicodeError", bases=("ValueError", "Exception"))
    machine.fail(machine.lease_one(), exception="OSError", bases=("Exception",))

    assert machine.states(batch, 2) == [State.DEAD, State.SCHEDULED]


def test_timed_out_task_is_retried_like_a_failed_one(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit()

    machine.fail(machine.lease_one(), outcome=Outcome.TIMED_OUT)

    assert machine.state(batch) is State.SCHEDULED
    assert machine.view(batch).failures == 1


def test_time_limit_teaches_nothing_about_the_duration(machine: Driver) -> None:
    machine.attach()
    machine.submit()

    machine.fail(machine.lease_one(), outcome=Outcome.TIMED_OUT, seconds=60.0)

    assert machine.live(1).entry.estimate_s is None


def test_crashed_task_goes_back_at_once_and_dies_at_max_crashes(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(max_retries=0)

    # Then
    machine.crash(machine.lease_one())
    assert machine.state(batch) is State.PENDING
    machine.crash(machine.lease_one())
    assert machine.state(batch) is State.PENDING
    machine.crash(machine.lease_one())
    assert machine.state(batch) is State.DEAD


def test_task_that_never_crashes_may_fail_and_one_that_never_fails_may_crash(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(max_crashes=2, max_retries=1)

    machine.crash(machine.lease_one())
    machine.fail(machine.lease_one())
    machine.tick(2.0)

    view = machine.view(batch)
    assert (view.state, view.failures, view.crashes) == (State.PENDING, 1, 1)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CRASHED])
def test_only_the_task_that_failed_leaves_the_common_path(machine: Driver, outcome: Outcome) -> None:
    machine.attach(capacity=3)
    batch = machine.submit(1000)
    _, second, _ = machine.lease()

    machine.fail(second, outcome=outcome)

    assert list(machine.live(batch).tasks or ()) == [1]


# -- delays ---------------------------------------------------------------------------------------------------------


def test_delayed_batch_is_scheduled_until_its_time(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(3, delay_s=10.0)

    # Then
    assert machine.states(batch, 3) == [State.SCHEDULED] * 3
    assert machine.view(batch).due_at == machine.now + 10.0
    assert machine.take() == []
    machine.tick(9.9)
    assert machine.take() == []
    machine.tick(0.1)
    assert machine.states(batch, 3) == [State.PENDING] * 3
    assert machine.take() == [(batch, 0)]


def test_delay_of_a_year_passes(machine: Driver) -> None:
    batch = machine.submit(delay_s=366 * 86_400.0)

    machine.tick(366 * 86_400.0)

    assert machine.state(batch) is State.PENDING


def test_tasks_become_due_each_at_its_time(machine: Driver) -> None:
    late, soon = machine.submit(delay_s=10.0), machine.submit(delay_s=5.0)

    machine.tick(5.0)

    assert (machine.state(late), machine.state(soon)) == (State.SCHEDULED, State.PENDING)
