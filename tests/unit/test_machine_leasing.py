"""Handing out: strict priority, first in first out, queues, and the old place of what comes back."""

from __future__ import annotations

import random

import pytest

from dtq.errors import SessionUnknown
from dtq.model.messages import Released
from dtq.model.states import Outcome, State
from tests.driver import Driver


def test_more_urgent_tasks_go_first_whenever_they_were_submitted(machine: Driver) -> None:
    # Given
    for priority in (5, 9, 1, 10, 3):
        machine.submit(2, priority=priority)
    machine.attach(capacity=10)

    # Then
    assert machine.take() == [(batch, index) for batch in (3, 5, 1, 2, 4) for index in (0, 1)]


def test_equally_urgent_tasks_go_in_the_order_of_their_submission(machine: Driver) -> None:
    for count in (1, 3, 2):
        machine.submit(count)
    machine.attach(capacity=6)

    assert machine.take() == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1)]


def test_an_urgent_task_that_arrives_late_is_next(machine: Driver) -> None:
    # Given a long batch under way
    machine.submit(1000, priority=5)
    machine.attach(capacity=2)
    first, _ = machine.lease()

    # When
    urgent = machine.submit(1, priority=1)
    machine.succeed(first)

    # Then
    assert machine.take() == [(urgent, 0)]


def test_highest_first_serves_higher_numbers_first() -> None:
    machine = Driver(highest_first=True)
    for priority in (5, 9, 1, 9):
        machine.submit(priority=priority)
    machine.attach(capacity=10)

    assert machine.take() == [(2, 0), (4, 0), (1, 0), (3, 0)]


@pytest.mark.parametrize("highest_first", [False, True])
def test_deeper_tasks_go_before_their_like_and_no_further(highest_first: bool) -> None:
    # Given tasks that tasks have submitted, and others of the same priority, of a better and a worse one
    machine = Driver(highest_first=highest_first)
    better, worse = (6, 4) if highest_first else (4, 6)
    first = machine.submit()
    last = machine.submit(priority=worse, depth=63)
    deep = machine.submit(depth=1)
    deeper = machine.submit(depth=2)
    best = machine.submit(priority=better)
    # When they are leased; Then deeper ones are first among those of their priority, also after a restart
    machine.drain()
    machine.restart()
    machine.attach(capacity=10)
    assert machine.take() == [(best, 0), (deeper, 0), (deep, 0), (first, 0), (last, 0)]


def test_priorities_hold_across_queues(machine: Driver) -> None:
    machine.submit(priority=5, queue="a")
    machine.submit(priority=1, queue="b")
    machine.submit(priority=3, queue="c")
    machine.attach(capacity=3)

    assert machine.take() == [(2, 0), (3, 0), (1, 0)]


def test_worker_gets_only_tasks_of_the_queues_it_serves(machine: Driver) -> None:
    # Given
    machine.submit(priority=1, queue="gpu")
    machine.submit(priority=5, queue="cpu")
    machine.submit(priority=9, queue="mail")
    machine.attach("w1", capacity=5, queues=("mail", "cpu"))

    # Then
    assert machine.take() == [(2, 0), (3, 0)]
    assert machine.state(1) is State.PENDING


def test_worker_that_names_no_queue_serves_all_also_those_made_later(machine: Driver) -> None:
    machine.attach(capacity=5)
    machine.submit(queue="new")

    assert machine.take() == [(1, 0)]


@pytest.mark.parametrize("back", ["release", "crash", "lose", "never arrived"])
def test_task_that_comes_back_returns_to_its_old_place(machine: Driver, back: str) -> None:
    # Given tasks of three batches out at a worker, others behind them
    machine.attach(capacity=3)
    machine.submit(4)
    machine.submit(2)
    machine.submit(1, priority=9)
    one, *others = machine.lease()

    # When one of them comes back
    if back == "release":
        machine.release(one)
    elif back == "crash":
        machine.crash(one)
    elif back == "lose":
        machine.lose()
    else:
        machine.fetch("w1", *others)

    # Then it is before what was behind it
    machine.attach("w2", capacity=10)
    taken = machine.take("w2")
    assert taken[0] == (1, 0)
    assert taken == sorted(taken, key=lambda place: (place[0] == 3, place))


def test_retried_task_goes_before_later_ones_once_its_backoff_is_over(machine: Driver) -> None:
    # Given
    machine.attach()
    first, second = machine.submit(), machine.submit()
    machine.fail(machine.lease_one())

    # Then not before
    lease = machine.lease_one()
    assert lease.batch.number == second
    third = machine.submit()
    machine.tick(2.0)
    machine.succeed(lease)

    # But then
    assert machine.take() == [(first, 0)]
    assert machine.state(third) is State.PENDING


def test_delayed_batch_takes_the_place_of_its_submission(machine: Driver) -> None:
    delayed = machine.submit(2, delay_s=5.0)
    later = machine.submit(1)
    machine.tick(5.0)
    machine.attach(capacity=3)

    assert machine.take() == [(delayed, 0), (delayed, 1), (later, 0)]


def test_tasks_run_in_order_whatever_was_returned_when(machine: Driver) -> None:
    # Given tasks that come and go at random
    chance = random.Random(4)
    machine.attach(capacity=4)
    for _ in range(6):
        machine.submit(chance.randint(1, 8), priority=chance.choice((1, 5)))
    ranks = {number: batch.entry.rank for number, batch in machine.machine.queue_state.batches.items()}
    for _ in range(60):
        leases = machine.lease()
        for lease in leases:
            if chance.random() < 0.7:
                machine.release(lease)

    # When all are back
    machine.lose()
    machine.attach("w2", capacity=100)

    # Then
    taken = machine.take("w2")
    assert taken == sorted(taken, key=lambda place: (ranks[place[0]], place))
    assert len(taken) == sum(machine.live(number).size for number in ranks)


def test_draining_worker_gets_nothing(machine: Driver) -> None:
    machine.submit()
    machine.attach(capacity=0)

    assert machine.take() == []


def test_worker_gets_no_more_than_it_has_slots_for_until_it_reports(machine: Driver) -> None:
    # Given
    machine.submit(5)
    machine.attach(capacity=2)
    first, _ = machine.lease()

    # Then
    assert machine.lease() == []
    machine.succeed(first)
    assert machine.take() == [(1, 2)]


def test_leased_task_is_running_and_gone_from_the_heap(machine: Driver) -> None:
    machine.submit(2)
    machine.attach("w1")
    machine.attach("w2")

    assert machine.take("w1") == [(1, 0)]

    assert machine.state(1, 0) is State.RUNNING
    assert machine.take("w2") == [(1, 1)]
    assert machine.take("w2") == []


def test_lease_for_an_unknown_worker_is_refused(machine: Driver) -> None:
    machine.submit()

    with pytest.raises(SessionUnknown, match="w7"):
        machine.lease("w7")

    assert machine.state(1) is State.PENDING


def test_attempts_are_counted_from_one_and_by_their_starts(machine: Driver) -> None:
    machine.attach()
    machine.submit(max_retries=9, retry_delay_s=0.0)

    attempts = []
    for turn in range(6):
        lease = machine.lease_one()
        attempts.append(lease.attempt)
        if turn % 2:
            machine.fail(lease)
            machine.tick()
        else:
            machine.release(lease)

    # One that was handed back before it started is none.
    assert attempts == [1, 1, 2, 2, 3, 3]


def test_task_that_was_stopped_with_its_worker_has_had_an_attempt(machine: Driver) -> None:
    # Given a task that ran when its worker was ended
    machine.attach()
    batch = machine.submit()
    lease = machine.lease_one()
    machine.exchange(released=(Released(token=lease.token, lo=0, hi=1, started=1),))

    # Then its next start is the second, and nothing counts against it
    again = machine.lease_one()
    assert again.attempt == 2
    view = machine.view(batch)
    assert (view.attempt, view.failures, view.crashes) == (2, 0, 0)
    machine.drain()
    (attempt,) = machine.store.attempts(batch, 0)
    assert (attempt.number, attempt.outcome) == (1, Outcome.CANCELLED)
    assert "it was stopped as its slot ended" in attempt.failure.message


def test_results_that_died_with_a_slot_were_attempts(machine: Driver) -> None:
    # Given ten tiny tasks, of which the fifth ends its slot before anything was reported
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.0024)
    batch = machine.submit(10)
    (lease,) = machine.lease()
    machine.crash_at(lease, 4)
    machine.release(lease)

    # Then what ran has had an attempt, what did not has had none
    assert [machine.view(batch, index).attempt for index in range(10)] == [1] * 5 + [0] * 5
    assert [machine.view(batch, index).crashes for index in range(10)] == [0] * 4 + [1] + [0] * 5
