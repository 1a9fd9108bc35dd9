"""Chains: what waits for a task is handed out behind it, and counts only once that has a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dtq.core.leases import CHUNK_S, Lease
from dtq.model.messages import Conditions, Failed, Failure, Released
from dtq.model.resources import needs
from dtq.model.states import Outcome, State
from tests.driver import Driver, places

TINY_S = 0.0001


def known(machine: Driver, seconds: float = TINY_S, **options: Any) -> None:
    """Have the duration of the tasks known."""
    machine.submit(**options)
    machine.succeed(machine.lease_one(), seconds=seconds)


@pytest.fixture
def machine() -> Driver:
    made = Driver()
    made.attach(capacity=1, chains=True)
    known(made)
    return made


def chain(machine: Driver, length: int, **options: Any) -> list[int]:
    """So many tasks, each after the one before."""
    batches = [machine.submit(**options)]
    for _ in range(length - 1):
        batches.append(machine.submit(after=[(batches[-1], 0, 1, True)], **options))
    return batches


# -- what is handed out ---------------------------------------------------------------------------------------------


def test_chain_is_handed_out_as_a_whole_each_task_behind_the_one_that_it_waits_for(machine: Driver) -> None:
    batches = chain(machine, 5)

    leases = machine.lease()

    assert places(leases) == [(batch, 0) for batch in batches]
    assert [lease.behind for lease in leases] == [0, *[lease.token for lease in leases[:-1]]]
    assert [lease.given for lease in leases] == [None, *[(batch, 0) for batch in batches[:-1]]]
    assert machine.states(batches[-1], 1) == [State.RUNNING]
    assert machine.count(State.BLOCKED) == 0


def test_chain_goes_on_behind_what_is_still_held(machine: Driver) -> None:
    batches = chain(machine, 2)
    leases = machine.lease()
    batches.append(machine.submit(after=[(batches[-1], 0, 1, True)]))

    machine.succeed(leases[0], seconds=TINY_S)

    (more,) = machine.lease()
    assert (more.batch.number, more.behind) == (batches[-1], leases[1].token)


def test_no_more_is_handed_out_than_a_slot_runs_in_a_short_time(machine: Driver) -> None:
    machine.attach(capacity=4, chains=True)
    known(machine, CHUNK_S / 5.5, priority=1)
    chain(machine, 30, priority=1)

    # Then it is that, however many slots the worker has: one runs the chain
    leases = machine.lease()
    assert len(leases) == 1 + 5
    machine.succeed(leases[0], seconds=CHUNK_S / 5.5)
    assert len(machine.lease()) == 1


def test_successors_take_no_room_from_others(machine: Driver) -> None:
    # Given a worker of two slots, and a chain
    machine.attach(capacity=2, chains=True)
    first = chain(machine, 4)
    assert places(machine.lease()) == [(batch, 0) for batch in first]

    # When others come
    later = [machine.submit(function="work:unknown") for _ in range(5)]

    # Then it is given what it would be without: one that may take long for the other slot
    assert places(machine.lease()) == [(later[0], 0)]


def waits_for_two(machine: Driver, batch: int) -> None:
    machine.submit(after=[(batch, 0, 1, True), (machine.submit(delay_s=9.0), 0, 1, False)])


UNFIT: dict[str, Callable[[Driver, int], object]] = {
    "it may take long": lambda machine, batch: machine.submit(after=[(batch, 0, 1, True)], function="work:unknown"),
    "it waits for two": waits_for_two,
    "it runs whatever becomes of the other": lambda machine, batch: machine.submit(
        after=[(batch, 0, 1, True)], run_anyway=True
    ),
    "it is several": lambda machine, batch: machine.submit(2, after=[(batch, 0, 1, True)]),
    "more of it comes": lambda machine, batch: machine.submit(1, after=[(batch, 0, 1, True)], complete=False),
    "it is due later": lambda machine, batch: machine.submit(after=[(batch, 0, 1, True)], delay_s=9.0),
    "it must start by a moment": lambda machine, batch: machine.submit(
        after=[(batch, 0, 1, True)], conditions=Conditions(expires_s=9.0)
    ),
}


@pytest.mark.parametrize("why", UNFIT)
def test_nothing_is_handed_out_early_that_is_not_certain_to_be_next_and_soon_over(machine: Driver, why: str) -> None:
    batch = machine.submit()
    UNFIT[why](machine, batch)

    assert places(machine.lease()) == [(batch, 0)]


@pytest.mark.parametrize(
    "options", [{"limits": ("x",)}, {"needs": needs({}, 2, ())}, {"queue": "other"}], ids=["limits", "needs", "queue"]
)
def test_successor_is_plain_work_of_a_queue_that_the_worker_serves(machine: Driver, options: dict[str, Any]) -> None:
    machine.attach("all", capacity=2)
    machine.submit(**options)
    (lease,) = machine.lease("all")
    machine.succeed(lease, seconds=TINY_S)
    machine.attach(capacity=1, queues=("default",), chains=True)
    batch = machine.submit()
    machine.submit(after=[(batch, 0, 1, True)], **options)

    assert places(machine.lease()) == [(batch, 0)]


def test_successor_of_a_paused_queue_waits(machine: Driver) -> None:
    known(machine, queue="other")
    batch = machine.submit()
    machine.submit(after=[(batch, 0, 1, True)], queue="other")
    machine.steer("other", paused=True)

    assert places(machine.lease()) == [(batch, 0)]


@pytest.mark.parametrize(
    ("other", "overtaken"),
    [("earlier", False), ("urgent", False), ("later", True), ("elsewhere", False), ("less urgent elsewhere", True)],
)
def test_what_comes_first_is_not_overtaken(machine: Driver, other: str, overtaken: bool) -> None:
    # Given a worker that has a task, and something else that waits, and may take long
    options: dict[str, Any] = {"function": "work:unknown"}
    earlier = machine.submit(delay_s=5.0, **options) if other == "earlier" else 0
    head = machine.submit()
    assert places(machine.lease()) == [(head, 0)]
    machine.tick(5.0 if earlier else 0.0)
    if other == "urgent":
        machine.submit(priority=1, **options)
    elif other == "elsewhere":
        machine.submit(queue="other", **options)
    elif other == "less urgent elsewhere":
        machine.submit(queue="other", priority=9, **options)

    # When a successor of the task comes
    child = machine.submit(after=[(head, 0, 1, True)])
    if other == "later":
        machine.submit(**options)

    # Then it is handed out at once only where it will be next
    assert places(machine.lease()) == ([(child, 0)] if overtaken else [])


def test_worker_that_does_not_say_that_it_can_is_given_no_successors(machine: Driver) -> None:
    machine.attach(capacity=1, chains=False)
    batches = chain(machine, 3)

    assert places(machine.lease()) == [(batches[0], 0)]


# -- what counts ----------------------------------------------------------------------------------------------------


def test_results_of_a_chain_count_in_their_order(machine: Driver) -> None:
    batches = chain(machine, 3)
    first, second, third = machine.lease()

    machine.succeed(second)
    machine.fail(third)

    assert machine.machine.refused == 2
    assert [machine.state(batch) for batch in batches] == [State.RUNNING] * 3
    for lease in (first, second, third):
        machine.succeed(lease)
    assert [machine.state(batch) for batch in batches] == [State.SUCCEEDED] * 3


def test_successor_that_comes_back_waits_again_and_is_not_granted_behind_the_same_task(machine: Driver) -> None:
    """Else a worker that cannot run it there would be given it again and again."""
    batches = chain(machine, 3)
    leases = machine.lease()

    machine.release(leases[1])

    assert [machine.state(batch) for batch in batches] == [State.RUNNING, State.BLOCKED, State.BLOCKED]
    assert machine.lease() == []
    machine.succeed(leases[0], seconds=TINY_S)
    again = machine.lease()
    assert places(again) == [(batches[1], 0), (batches[2], 0)]
    assert [lease.behind for lease in again] == [0, again[0].token]
    assert [lease.attempt for lease in again] == [1, 1]


def test_what_is_behind_a_task_that_comes_back_is_so_no_more(machine: Driver) -> None:
    """Else its result might count that was made of another result than the one that counts."""
    batches = chain(machine, 3)
    first, second, third = machine.lease()

    # When the first comes back, and runs elsewhere
    machine.release(first)
    assert [machine.state(batch) for batch in batches] == [State.PENDING, State.BLOCKED, State.BLOCKED]
    machine.attach("w2", capacity=1)
    (again,) = machine.lease("w2")
    machine.succeed(again)

    # Then what the worker makes of the others is refused
    assert machine.machine.refused == 0
    for lease in (second, third):
        machine.succeed(lease)
    assert machine.machine.refused == 2
    assert [machine.state(batch) for batch in batches] == [State.SUCCEEDED, State.PENDING, State.BLOCKED]


def test_chain_that_is_given_back_together_is_so_in_any_order(machine: Driver) -> None:
    batches = chain(machine, 3)
    leases = machine.lease()

    machine.exchange(released=tuple(Released(token=lease.token, lo=0, hi=1) for lease in leases))

    assert machine.machine.refused == 0
    assert [machine.state(batch) for batch in batches] == [State.PENDING, State.BLOCKED, State.BLOCKED]


def test_lost_worker_is_blamed_for_the_task_that_it_had_begun_alone(machine: Driver) -> None:
    batches = chain(machine, 3)
    machine.lease()

    machine.lose()

    assert [machine.state(batch) for batch in batches] == [State.PENDING, State.BLOCKED, State.BLOCKED]
    assert [machine.view(batch).crashes for batch in batches] == [1, 0, 0]


def failed(machine: Driver, lease: Lease, *back: Lease, exception: str = "ValueError") -> None:
    """A task has failed, and what is behind it was given back, as a worker says it."""
    failure = Failed(
        token=lease.token,
        index=0,
        outcome=Outcome.FAILED,
        failure=Failure(exception=exception),
        seconds=TINY_S,
    )
    released = tuple(Released(token=each.token, lo=0, hi=1) for each in back)
    machine.exchange(failed=(failure,), released=released)


def test_task_that_is_tried_again_has_its_successors_wait_again(machine: Driver) -> None:
    batches = chain(machine, 3)
    leases = machine.lease()

    failed(machine, *leases)

    assert [machine.state(batch) for batch in batches] == [State.SCHEDULED, State.BLOCKED, State.BLOCKED]
    machine.tick(60.0)
    machine.attach(capacity=1, chains=True)
    again = machine.lease()
    assert places(again) == [(batch, 0) for batch in batches]
    for lease in again:
        machine.succeed(lease)
    assert machine.machine.refused == 0


@pytest.mark.parametrize("said", [True, False], ids=["given back with it", "not given back"])
def test_task_that_dies_cancels_its_successors_and_they_are_brought_back_with_it(machine: Driver, said: bool) -> None:
    known(machine, never_retry=("Hopeless",))
    batches = chain(machine, 3, never_retry=("Hopeless",))
    leases = machine.lease()

    failed(machine, leases[0], *(leases[1:] if said else ()), exception="Hopeless")

    assert [machine.state(batch) for batch in batches] == [State.DEAD, State.CANCELLED, State.CANCELLED]
    assert machine.batch(batches[1]).reason == f"parent {batches[0]} is dead"
    assert machine.machine.refused == 0
    assert not machine.machine.queue_state.leases
    machine.revive(batches[0])
    assert [machine.state(batch) for batch in batches] == [State.PENDING, State.BLOCKED, State.BLOCKED]


@pytest.mark.parametrize("whole", [True, False], ids=["batch", "task"])
def test_successor_that_is_cancelled_is_at_once_and_its_worker_hears_of_it(machine: Driver, whole: bool) -> None:
    batches = chain(machine, 3)
    leases = machine.lease()

    assert machine.cancel(batches[1], None if whole else 0) == (1, 0)

    assert [machine.state(batch) for batch in batches] == [State.RUNNING, State.CANCELLED, State.CANCELLED]
    assert [lease.token for lease in machine.machine.queue_state.leases.values()] == [leases[0].token]


def test_chain_is_handed_out_after_a_restart_as_before(machine: Driver) -> None:
    # Given a chain in the hands of a worker when the coordinator ends
    batches = chain(machine, 3)
    leases = machine.lease()
    machine.drain()
    machine.restart()

    # Then the worker's results count as if nothing had happened
    machine.attach(capacity=1, chains=True)
    for lease in [machine.machine.queue_state.leases[lease.token] for lease in leases]:
        machine.succeed(lease)
    assert [machine.state(batch) for batch in batches] == [State.SUCCEEDED] * 3


def test_chain_is_one_after_a_restart_too(machine: Driver) -> None:
    batches = chain(machine, 3)
    leases = machine.lease()
    machine.drain()
    machine.restart()
    machine.attach(capacity=1, chains=True)

    machine.release(machine.machine.queue_state.leases[leases[0].token])

    assert [machine.state(batch) for batch in batches] == [State.PENDING, State.BLOCKED, State.BLOCKED]


def test_chain_of_a_worker_that_does_not_come_back_after_a_restart_waits_again(machine: Driver) -> None:
    batches = chain(machine, 3)
    machine.lease()
    machine.drain()
    machine.restart()

    machine.lose()

    assert [machine.state(batch) for batch in batches] == [State.PENDING, State.BLOCKED, State.BLOCKED]
