"""How much a lease holds, and what is learned of a function's duration."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dtq.core.batches import SpecEntry
from dtq.core.leases import CHUNK_S, MAX_CHUNK, chunk
from dtq.model.states import Outcome, State
from tests.driver import Driver, spec


def entry() -> SpecEntry:
    return SpecEntry(1, spec(), 5)


PLENTY = 10**6


def test_chunk_of_an_unknown_function_is_one_task() -> None:
    assert chunk(None, PLENTY, 1) == 1


@pytest.mark.parametrize("estimate_s", [CHUNK_S, 0.026, 1.0, 3600.0, math.inf])
def test_chunk_of_long_tasks_is_one(estimate_s: float) -> None:
    assert chunk(estimate_s, PLENTY, 1) == 1


@pytest.mark.parametrize("estimate_s", [0.010, 0.009, 0.005, 0.001, 0.000_1, 0.000_033])
def test_chunk_of_tiny_tasks_is_what_the_time_of_one_chunk_has_room_for(estimate_s: float) -> None:
    most = chunk(estimate_s, PLENTY, 1)
    assert most * estimate_s <= CHUNK_S
    assert (most + 1) * estimate_s > CHUNK_S


@pytest.mark.parametrize("estimate_s", [0.0, 1e-9, 1e-6])
def test_chunk_of_tasks_that_take_no_time_is_a_page(estimate_s: float) -> None:
    assert chunk(estimate_s, PLENTY, 1) == MAX_CHUNK


def test_last_tasks_are_shared_out_among_all_slots() -> None:
    # Given 12 tasks of 4 ms for 3 slots; 6 of them would fit into a lease
    left, taken = 12, []
    # When leases are made of them
    while left:
        taken.append(chunk(0.004, left, 3))
        left -= taken[-1]
    # Then they become smaller towards the end
    assert taken == [2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_tasks_are_not_spread_thinner_than_a_lease_is_worth() -> None:
    assert chunk(0.000_01, 300, 100) == 200
    assert chunk(0.001, 4, 100) == 2
    assert chunk(0.004, 4, 100) == 1


def test_chunk_before_any_worker_says_how_many_slots_it_has_is_bounded_too() -> None:
    assert chunk(0.001, 100, 0) == 25


def test_estimate_begins_with_the_first_duration_of_one_task() -> None:
    function = entry()

    function.observe(1.0, 10)

    assert function.estimate_s == 0.1


def test_estimate_is_moved_little_by_an_outlier() -> None:
    # Given a function that is quick
    function = entry()
    for _ in range(10):
        function.observe(0.001, 1)

    # When it takes thirty times as long once
    function.observe(0.03, 1)

    # Then it is still thought quick
    assert function.estimate_s == pytest.approx(0.0028, rel=0.02)


def test_estimate_follows_a_lasting_change_within_a_few_reports() -> None:
    # Given a first task that took long (its module was imported)
    function = entry()
    function.observe(0.5, 1)

    # When the others are quick
    for _ in range(8):
        function.observe(0.001, 1)

    # Then that is believed
    assert function.estimate_s is not None
    assert function.estimate_s < 0.002


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, -math.inf])
def test_estimate_learns_nothing_from_what_is_no_duration(seconds: float) -> None:
    function = entry()
    function.observe(0.5, 1)

    function.observe(seconds, 1)

    assert function.estimate_s == 0.5


def test_durations_that_are_none_do_not_stop_the_queue(machine: Driver) -> None:
    # Given a worker that reports nonsense
    machine.attach()
    machine.submit(3)
    machine.succeed(machine.lease_one(), seconds=math.nan)
    machine.fail(machine.lease_one(), seconds=math.inf)

    # When it asks for more, it gets more
    assert machine.take() == [(1, 2)]
    attempts = [change.row for change in machine.drain() if hasattr(change, "row") and hasattr(change.row, "attempt")]
    assert all(math.isfinite(getattr(row.attempt, "started_at", 0.0)) for row in attempts)


def test_lease_holds_one_task_while_the_duration_is_unknown(machine: Driver) -> None:
    machine.attach(capacity=2)
    machine.submit(10)

    leases = machine.lease()

    assert [(lease.lo, lease.hi) for lease in leases] == [(0, 1), (1, 2)]


def test_lease_holds_many_tiny_tasks_of_one_batch(machine: Driver) -> None:
    # Given a function that takes a millisecond
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    machine.submit(60)

    # When
    first, second = machine.lease()

    # Then 25 milliseconds of work, and as much again so that the slot need not wait for a round trip
    assert [(lease.lo, lease.hi) for lease in (first, second)] == [(0, 25), (25, 50)]


def test_lease_does_not_reach_beyond_its_batch_or_piece(machine: Driver) -> None:
    # Given tiny tasks in two pieces and another batch
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    batch = machine.submit(3, complete=False)
    machine.submit(4, batch=batch, offset=3)
    machine.submit(5)

    # When
    leases = machine.lease()

    # Then
    taken = [(lease.batch.number, lease.lo, lease.hi) for lease in leases]
    assert taken == [(batch, 0, 3), (batch, 3, 7), (batch + 1, 0, 5)]


def test_lease_stops_before_a_task_that_was_cancelled(machine: Driver) -> None:
    # Given
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    batch = machine.submit(8)
    machine.cancel(batch, 3)

    # When
    leases = machine.lease()

    # Then
    assert [(lease.lo, lease.hi) for lease in leases] == [(0, 3), (4, 8)]


def test_tiny_tasks_that_came_back_are_leased_together_again(machine: Driver) -> None:
    # Given two leases of tiny tasks that come back, one task of them after a crash
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    batch = machine.submit(40)
    first, second = machine.lease()
    machine.succeed(first, 2, seconds=0.002)
    machine.crash(first)
    machine.release(first)
    machine.release(second)

    # When they are leased again
    leases = machine.lease()

    # Then the one that crashed runs alone, the others together
    assert [(lease.lo, lease.hi, lease.attempt) for lease in leases] == [(2, 3, 2), (3, 28, 1), (28, 40, 1)]
    assert machine.states(batch, 40) == [State.SUCCEEDED] * 2 + [State.RUNNING] * 38


def test_tasks_that_came_back_from_different_attempts_are_not_leased_together(machine: Driver) -> None:
    # Given six tiny tasks, of which the first had run when its slot died in the second
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    machine.submit(6)
    (lease,) = machine.lease()
    machine.fail(lease, 1, Outcome.CRASHED)
    machine.release(lease)

    # Then those that have started are on their second attempt
    leases = machine.lease()
    assert [(lease.lo, lease.hi, lease.attempt) for lease in leases] == [(0, 1, 2), (1, 2, 2), (2, 6, 1)]


def test_worker_gets_one_lease_a_slot_of_work_that_takes_its_time(machine: Driver) -> None:
    # Given
    machine.attach(capacity=3)
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=CHUNK_S * 1.01)
    machine.submit(10)

    # Then
    assert len(machine.lease()) == 3
    assert machine.lease() == []


def test_worker_gets_two_leases_a_slot_of_work_that_takes_no_time(machine: Driver) -> None:
    # Given
    machine.attach(capacity=3)
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=CHUNK_S)
    machine.submit(10)

    # Then
    assert len(machine.lease()) == 6
    assert machine.lease() == []


def small_batches(machine: Driver, count: int, *, seconds: float, **options: Any) -> None:
    """So many batches of one task wait, of a function that takes so long."""
    machine.submit(1, **options)
    machine.succeed(machine.lease_one(), seconds=seconds)
    for _ in range(count):
        machine.submit(1, **options)


def test_worker_gets_of_small_batches_what_it_would_get_of_one_large_batch(machine: Driver) -> None:
    # Given batches of one task each of 2 ms: a lease of a large batch would hold 12
    machine.attach(capacity=2)
    small_batches(machine, 100, seconds=0.002)

    # Then as much as that for each slot, and no more
    assert len(machine.lease()) == 2 * 12
    assert machine.lease() == []


def test_last_small_batches_are_shared_out_among_all_slots(machine: Driver) -> None:
    # Given two workers, and batches of one task each for a quarter of a lease a slot
    machine.attach(capacity=1)
    machine.attach("another", capacity=1)
    small_batches(machine, 12, seconds=0.000_5)

    # Then the first leaves half of them to the other one
    assert len(machine.lease()) == 4
    assert len(machine.lease("another")) == 4


def test_tasks_of_other_queues_are_expected_to_take_as_long_as_others_of_their_function(machine: Driver) -> None:
    # Given a function that is known to be quick in one queue
    machine.attach(capacity=1)
    small_batches(machine, 0, seconds=0.001)

    # When tasks of it wait in others
    for number in range(10):
        machine.submit(1, queue=f"q{number}")

    # Then the first of each need not be waited for
    assert len(machine.lease()) > 2


def test_worker_takes_small_batches_ahead_of_no_more_than_half_of_what_their_limit_allows(machine: Driver) -> None:
    # Given a limit of 10, and many batches of one task each that count against it
    machine.limit("them", concurrency=10)
    machine.attach(capacity=1)
    small_batches(machine, 100, seconds=0.000_5, limits=("them",))

    # Then half of that is left to other workers
    assert len(machine.lease()) == 6
    machine.attach("another", capacity=1)
    assert len(machine.lease("another")) == 2


def test_only_leases_within_the_slots_count_as_started(machine: Driver) -> None:
    machine.attach(capacity=1)
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    machine.submit(100)

    first, ahead = machine.lease()

    assert (first.started, ahead.started) == (True, False)


def test_tokens_hold_the_epoch_and_are_never_used_twice(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    machine.submit(4)
    before = [lease.token for lease in machine.lease()]
    machine.drain()

    # When the coordinator starts again
    machine.restart()
    machine.attach("w2", capacity=2)
    after = [lease.token for lease in machine.lease("w2")]

    # Then
    assert {token >> 32 for token in before} == {1}
    assert {token >> 32 for token in after} == {2}
    assert len({*before, *after}) == 4


def test_unimportant_task_waits_as_long_as_there_is_anything_more_urgent(machine: Driver) -> None:
    """Row 63: priorities are strict, and nothing ages; `status` says what is ahead."""
    # Given an unimportant task, and others that keep coming
    machine.attach()
    low = machine.submit(1, priority=9)
    for _ in range(200):
        urgent = machine.submit(1, priority=1)
        lease = machine.lease_one()
        assert lease.batch.number == urgent
        machine.succeed(lease, seconds=1.0)

    # When no more come, its turn has come
    assert machine.state(low) is State.PENDING
    assert machine.take() == [(low, 0)]


@pytest.mark.parametrize("reports", [(0.0, 1.7e308, 0.0), (1.7e308, 0.0), (0.0, 1e300, 1e-300, 1.7e308)])
def test_estimate_stays_a_number_whatever_is_reported(reports: tuple[float, ...]) -> None:
    entry = SpecEntry(1, spec(), 5)

    for seconds in reports:
        entry.observe(seconds, 1)

    assert entry.estimate_s is not None
    assert 0 < entry.estimate_s < math.inf
    assert chunk(entry.estimate_s, 100, 4) >= 1
