"""Dead letters: put back with fresh counters at their old place, or thrown away."""

from __future__ import annotations

import pytest

from dtq.core import operators
from dtq.core.changes import ArgumentPage, TaskForgotten
from dtq.model.states import State
from tests.driver import Driver

DEAD, PENDING, SUCCEEDED = State.DEAD, State.PENDING, State.SUCCEEDED


@pytest.fixture
def dead(machine: Driver) -> int:
    """A finished batch of three tasks: 0 and 2 are dead letters, after an exception; w1 serves with one slot."""
    machine.attach()
    batch = machine.submit(3, max_retries=0)
    machine.fail(machine.lease_one())
    machine.succeed(machine.lease_one())
    machine.fail(machine.lease_one())
    assert not machine.is_live(batch)
    return batch


# -- put back -------------------------------------------------------------------------------------------------------


def test_revived_dead_letters_wait_again(machine: Driver, dead: int) -> None:
    assert machine.revive(dead) == 2

    assert machine.states(dead, 3) == [PENDING, SUCCEEDED, PENDING]
    assert machine.count(DEAD) == 0


def test_revived_dead_letter_has_fresh_counters_and_goes_on_counting_attempts(machine: Driver, dead: int) -> None:
    # When
    machine.revive(dead, 2)

    # Then
    view = machine.view(dead, 2)
    assert (view.failures, view.crashes, view.attempt) == (0, 0, 1)
    lease = machine.lease_one()
    assert lease.attempt == 2
    machine.fail(lease)
    assert machine.state(dead, 2) is DEAD
    assert [attempt.number for attempt in machine.store.attempts(dead, 2)] == [1, 2]


def test_revived_dead_letter_has_its_old_place(machine: Driver, dead: int) -> None:
    later = machine.submit()

    machine.revive(dead, 2)

    machine.exchange(capacity=5)
    assert machine.take() == [(dead, 2), (later, 0)]


def test_revived_batch_finishes_again(machine: Driver, dead: int) -> None:
    # Given
    machine.revive(dead)

    # When
    machine.succeed(machine.lease_one())
    machine.fail(machine.lease_one())

    # Then
    assert not machine.is_live(dead)
    counts = machine.batch(dead).counts
    assert (counts.succeeded, counts.dead, counts.unfinished) == (2, 1, 0)


def test_dead_letter_of_a_live_batch_is_revived_in_place(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(3, max_retries=0)
    machine.fail(machine.lease_one())

    # When
    assert machine.revive(batch, 0) == 1

    # Then
    machine.exchange(capacity=3)
    assert machine.take() == [(batch, 0), (batch, 1), (batch, 2)]


def test_reviving_twice_is_once(machine: Driver, dead: int) -> None:
    assert machine.revive(dead, 0) == 1

    assert machine.revive(dead, 0) == 0

    assert machine.count(PENDING) == 1


def test_reviving_beside_a_task_that_was_cancelled_alone_does_not_bring_that_back(machine: Driver) -> None:
    # Given a batch whose last tasks were cancelled before anybody came to them, and a dead letter
    machine.attach(capacity=2)
    batch = machine.submit(4, max_retries=0)
    first, second = machine.lease()
    machine.cancel(batch, 3)
    machine.cancel(batch, 2)
    machine.succeed(first)
    machine.fail(second)
    assert not machine.is_live(batch)

    # When
    machine.revive(batch)

    # Then
    assert machine.states(batch, 4) == [SUCCEEDED, PENDING, State.CANCELLED, State.CANCELLED]
    machine.exchange(capacity=4)
    assert machine.take() == [(batch, 1)]
    machine.drain()
    machine.restart()
    assert machine.count(PENDING) == 0


def test_reviving_in_a_batch_that_was_cancelled_does_not_bring_the_rest_back(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(4, max_retries=0)
    machine.fail(machine.lease_one())
    machine.cancel(batch)

    # When
    machine.revive(batch)

    # Then
    assert machine.states(batch, 4) == [PENDING] + [State.CANCELLED] * 3
    machine.succeed(machine.lease_one())
    assert machine.take() == []
    assert not machine.is_live(batch)


def test_revived_task_s_key_is_taken_again(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(key="nightly", max_retries=0)
    machine.fail(machine.lease_one())

    machine.revive(batch)

    assert machine.submit(key="nightly", max_retries=0) == batch


def test_revived_poison_dies_again_at_max_crashes(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(max_crashes=2)
    for _ in range(2):
        machine.crash(machine.lease_one())
    machine.revive(batch)

    # Then it has both its lives again
    machine.crash(machine.lease_one())
    assert machine.state(batch) is PENDING
    machine.crash(machine.lease_one())
    assert machine.state(batch) is DEAD


def test_revived_dead_letter_outlives_a_restart(machine: Driver, dead: int) -> None:
    machine.revive(dead, 2)
    machine.drain()

    machine.restart()

    assert machine.states(dead, 3) == [DEAD, SUCCEEDED, PENDING]
    machine.attach("w2", capacity=3)
    lease = machine.lease_one("w2")
    assert (lease.lo, lease.attempt) == (2, 2)


def test_revived_dead_letter_of_an_expired_batch_runs_and_its_results_are_kept_anew() -> None:
    # Given dead letters whose batch has long expired around them
    machine = Driver(keep_results_s=10.0)
    machine.attach()
    batch = machine.submit(2, max_retries=0)
    machine.succeed(machine.lease_one())
    machine.fail(machine.lease_one())
    for _ in range(10):
        machine.tick(10.0)
        machine.drain()

    # When
    machine.revive(batch)
    machine.attach()
    machine.succeed(machine.lease_one())

    # Then
    assert machine.state(batch, 1) is SUCCEEDED
    assert not machine.is_live(batch)


# -- thrown away ----------------------------------------------------------------------------------------------------


def test_purged_dead_letter_is_gone_with_its_history(machine: Driver, dead: int) -> None:
    # When
    assert machine.purge(dead, 0) == 1

    # Then
    assert TaskForgotten(dead, 0, history=True) in machine.drain()
    assert machine.store.attempts(dead, 0) == []
    assert machine.count(DEAD) == 1
    assert machine.batch(dead).counts.dead == 1
    assert machine.state(dead, 2) is DEAD


def test_purged_dead_letter_of_a_live_batch_counts_as_ended(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(2, max_retries=0)
    machine.fail(machine.lease_one())

    # When
    machine.purge(batch)
    machine.succeed(machine.lease_one())

    # Then
    assert not machine.is_live(batch)
    assert machine.batch(batch).counts.total == 1


def test_arguments_of_purged_dead_letters_go_with_them(machine: Driver, dead: int) -> None:
    # When one of two dead letters of a page is purged, Then the other one needs the page
    machine.purge(dead, 0)
    machine.drain()
    assert machine.store.pages(ArgumentPage, dead, 0, 9) != []

    # When that is purged too
    machine.purge(dead, 2)
    machine.drain()
    assert machine.store.pages(ArgumentPage, dead, 0, 9) == []


def test_arguments_of_dead_letters_purged_before_the_end_go_at_the_end(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(2, max_retries=0)
    machine.fail(machine.lease_one())
    machine.purge(batch)
    machine.drain()
    assert machine.store.pages(ArgumentPage, batch, 0, 9) != []

    # When
    machine.succeed(machine.lease_one())
    machine.drain()

    # Then
    assert machine.store.pages(ArgumentPage, batch, 0, 9) == []


def test_dead_letter_put_back_right_after_a_purge_keeps_its_arguments(machine: Driver, dead: int) -> None:
    # When both happen between two commits
    machine.purge(dead, 0)
    machine.revive(dead, 2)
    machine.drain()

    # Then what is to run again can
    assert machine.store.pages(ArgumentPage, dead, 0, 9) != []


def test_purging_twice_is_once(machine: Driver, dead: int) -> None:
    assert machine.purge(dead) == 2

    assert machine.purge(dead) == 0

    assert machine.count(DEAD) == 0


def test_purged_batch_without_dead_letters_expires() -> None:
    # Given
    machine = Driver(keep_results_s=10.0)
    machine.attach()
    batch = machine.submit(max_retries=0)
    machine.fail(machine.lease_one())
    machine.tick(20.0)
    machine.drain()
    assert machine.store.batches([batch]) != []

    # When
    machine.purge(batch)
    for _ in range(3):
        machine.tick(2.0)
        machine.drain()

    # Then
    assert machine.store.batches([batch]) == []


def test_dead_letter_that_was_put_back_meanwhile_is_left_alone(machine: Driver, dead: int) -> None:
    # Given operators who looked at the same time, of whom one was quicker
    stored, tasks = machine.dead(dead, 0)
    machine.revive(dead, 0)

    # Then there is nothing left to do for the others
    assert operators.purge(machine.machine, stored.row, tasks) == 0
    assert operators.revive(machine.machine, stored.row, stored.spec, tasks, machine.now) == 0
    assert machine.state(dead, 0) is PENDING
