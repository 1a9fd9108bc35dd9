"""Workers that fall silent, get lost and come back: what they had started is blamed, the rest is not."""

from __future__ import annotations

import pytest

from dtq.core.leases import Lease
from dtq.model.messages import Holding
from dtq.model.states import Outcome, State
from tests.driver import Driver


def tiny_chunks(machine: Driver, count: int) -> list[Lease]:
    """Leases of ten tiny tasks each at w1, which has one slot: what it runs, and what waits for it there."""
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.0024)
    machine.submit(count)
    return machine.lease()


def crashes(machine: Driver, batch: int, count: int) -> list[int]:
    return [machine.view(batch, index).crashes for index in range(count)]


# -- who is blamed --------------------------------------------------------------------------------------------------


def test_lost_worker_is_blamed_on_the_task_it_had_started_alone(machine: Driver) -> None:
    # Given a worker with ten tasks in its slot and ten behind them
    tiny_chunks(machine, 20)

    # When
    assert machine.lose()

    # Then
    assert machine.states(2, 20) == [State.PENDING] * 20
    assert crashes(machine, 2, 20) == [1] + [0] * 19


def test_lost_worker_is_blamed_on_what_it_said_it_had_started(machine: Driver) -> None:
    # Given a worker whose second lease has come into a slot
    first, second = tiny_chunks(machine, 20)
    machine.exchange(holding=(Holding(token=first.token), Holding(token=second.token, started=10)))

    # When
    machine.lose()

    # Then
    assert [index for index, blamed in enumerate(crashes(machine, 2, 20)) if blamed] == [0, 10]


def test_lost_worker_is_blamed_on_the_task_after_the_last_result(machine: Driver) -> None:
    # Given results of the second lease, so that its slot is in the middle of it
    first, second = tiny_chunks(machine, 20)
    machine.succeed(first)
    machine.succeed(second, 4)

    # When
    machine.lose()

    # Then
    assert machine.states(2, 20) == [State.SUCCEEDED] * 14 + [State.PENDING] * 6
    assert [machine.view(2, index).crashes for index in range(14, 20)] == [1, 0, 0, 0, 0, 0]


def test_lost_worker_is_not_blamed_on_what_was_behind_a_crash(machine: Driver) -> None:
    # Given a slot that died, and the rest of its lease not given back yet
    first, _ = tiny_chunks(machine, 20)
    machine.crash(first)

    # When the worker is lost before it starts anything else
    machine.lose()

    # Then
    assert crashes(machine, 2, 20) == [1] + [0] * 19


def test_loss_is_a_crash_in_the_task_s_history(machine: Driver) -> None:
    # Given
    machine.attach()
    machine.submit()
    machine.lease_one()
    leased_at = machine.now
    machine.clock.advance(3.0)

    # When
    machine.lose()

    # Then
    machine.drain()
    (attempt,) = machine.store.attempts(1, 0)
    assert (attempt.outcome, attempt.number, attempt.worker) == (Outcome.CRASHED, 1, "name of w1")
    assert (attempt.started_at, attempt.ended_at) == (leased_at, machine.now)
    assert "was lost while it ran the task" in attempt.failure.message


def test_poison_that_kills_worker_after_worker_is_a_dead_letter_and_its_neighbours_are_not_touched(
    machine: Driver,
) -> None:
    # Given
    machine.attach("w0")
    machine.submit(1)
    machine.succeed(machine.lease_one("w0"), seconds=0.001)
    machine.submit(5)

    # When worker after worker starts with the first task, and dies
    for number in (1, 2, 3):
        machine.attach(f"w{number}")
        assert machine.take(f"w{number}")[0] == (2, 0)
        machine.lose(f"w{number}")

    # Then
    assert machine.states(2, 5) == [State.DEAD] + [State.PENDING] * 4
    assert [machine.view(2, index).crashes for index in range(1, 5)] == [0, 0, 0, 0]


def test_losing_a_worker_twice_or_an_unknown_one_changes_nothing(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.lease_one()
    machine.lose()

    assert not machine.lose()
    assert not machine.lose("nobody")

    assert machine.view(1).crashes == 1


# -- silence --------------------------------------------------------------------------------------------------------


def test_silent_worker_is_lost_when_its_lease_time_is_over(machine: Driver) -> None:
    # Given
    machine.attach()
    machine.submit()
    machine.lease_one()

    # Then
    machine.tick(14.75)
    assert machine.state(1) is State.RUNNING
    machine.tick(0.25)
    assert machine.state(1) is State.PENDING
    assert "w1" not in machine.machine.queue_state.workers


def test_tick_tells_when_the_next_worker_would_be_lost(machine: Driver) -> None:
    machine.attach("w1")
    machine.clock.advance(5.0)
    machine.attach("w2")

    assert machine.tick() == pytest.approx(machine.now + 10.0)


@pytest.mark.parametrize("fetching", [False, True])
def test_anything_a_worker_says_renews_all_its_leases(machine: Driver, fetching: bool) -> None:
    # Given a task that runs longer than a lease
    machine.attach()
    machine.submit()
    lease = machine.lease_one()

    # When the worker reports in time, again and again
    for _ in range(10):
        machine.tick(10.0)
        machine.exchange(holding=(Holding(token=lease.token, started=0),), fetch=fetching)

    # Then
    assert machine.state(1) is State.RUNNING
    assert machine.machine.queue_state.leases[lease.token] is lease


def test_worker_that_comes_back_in_time_finds_its_leases(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    lease = machine.lease_one()
    machine.clock.advance(10.0)

    assert machine.attach("w1") is True

    machine.tick(10.0)
    machine.succeed(lease)
    assert machine.machine.refused == 0


def test_worker_that_comes_back_too_late_finds_nothing(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    lease = machine.lease_one()
    machine.tick(15.0)

    assert machine.attach("w1") is False
    assert machine.exchange(holding=(Holding(token=lease.token),)).drop == [lease.token]


# -- pauses of the coordinator --------------------------------------------------------------------------------------


def test_pause_of_the_coordinator_costs_no_worker_its_leases(machine: Driver) -> None:
    # Given a coordinator that is stopped
    machine.attach()
    machine.submit()
    lease = machine.lease_one()

    # When it goes on long after every lease has run out
    machine.tick(60.0)

    # Then the worker has a whole lease time to be heard
    assert machine.state(1) is State.RUNNING
    machine.tick(14.75)
    machine.succeed(lease)
    assert machine.state(1) is State.SUCCEEDED


def test_worker_that_stays_silent_after_a_pause_is_lost(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.lease_one()
    machine.tick(60.0)

    machine.tick(15.0)

    assert machine.state(1) is State.PENDING


def test_coordinator_that_is_always_late_does_not_keep_the_dead(machine: Driver) -> None:
    # Given a worker that is gone, and one that reports
    machine.attach("dead")
    machine.submit()
    machine.lease_one("dead")
    machine.attach("alive")

    # When every tick comes late, for something or other
    for _ in range(31):
        machine.submit(delay_s=0.5)
        machine.tick(1.0)
        machine.exchange("alive")

    # Then
    assert list(machine.machine.queue_state.workers) == ["alive"]


def test_tick_that_comes_when_it_was_asked_for_is_no_pause(machine: Driver) -> None:
    # Given
    machine.attach()
    machine.submit()
    machine.lease_one()

    # When it comes in time, or as late as a busy machine makes it
    deadline = machine.tick()
    machine.tick(deadline - machine.now + 0.0625)

    # Then
    assert machine.state(1) is State.PENDING


# -- expiry ---------------------------------------------------------------------------------------------------------


def test_finished_batches_are_kept_for_their_time_and_then_expire() -> None:
    # Given
    machine = Driver(keep_results_s=100.0)
    machine.attach()
    batch = machine.submit()
    machine.succeed(machine.lease_one())
    machine.drain()

    # Then
    machine.tick(99.0)
    machine.drain()
    assert machine.state(batch) is State.SUCCEEDED
    for _ in range(5):
        machine.tick(13.0)
    machine.drain()
    assert machine.store.batches([batch]) == []
    assert machine.count(State.SUCCEEDED) == 1  # what is counted since the store was made stays counted


def test_tick_asks_to_be_called_for_the_next_expiry() -> None:
    machine = Driver(keep_results_s=80.0)

    assert machine.tick() == machine.now + 10.0


def test_dead_letters_do_not_expire() -> None:
    # Given
    machine = Driver(keep_results_s=10.0)
    machine.attach()
    batch = machine.submit(max_retries=0)
    machine.fail(machine.lease_one())

    # When
    for _ in range(20):
        machine.tick(10.0)
        machine.drain()

    # Then
    assert machine.state(batch) is State.DEAD
    assert machine.revive(batch) == 1
