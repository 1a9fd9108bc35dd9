"""What a worker holds and has not started is shown as what it is, wherever people look."""

from __future__ import annotations

import pytest

from dtq.core import operators, views
from dtq.core.leases import Lease
from dtq.model.messages import Holding
from dtq.model.snapshots import Counts, Selection
from dtq.model.states import State
from tests.driver import Driver

PENDING, RUNNING, BLOCKED = State.PENDING, State.RUNNING, State.BLOCKED


def with_tiny_tasks(machine: Driver, *counts: int, **terms: object) -> list[Lease]:
    """The leases of a worker with one slot, of batches of tiny tasks."""
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    for count in counts:
        machine.submit(count, **terms)  # type: ignore[arg-type]  # as given
    return machine.lease()


def shown(machine: Driver, batch: int, count: int) -> list[State]:
    return [machine.view(batch, index).state for index in range(count)]


def why(machine: Driver, batch: int, index: int = 0) -> str:
    return views.why_waiting(machine.machine, machine.view(batch, index), machine.now)


def listed(machine: Driver, state: State) -> list[tuple[int, int, int]]:
    found = views.live_tasks(machine.machine, Selection(state=state), machine.now)
    return [(view.batch, view.index, view.count) for view in found]


def test_of_a_lease_of_several_tasks_only_the_first_runs(machine: Driver) -> None:
    # Given
    (lease,) = with_tiny_tasks(machine, 8)

    # Then every place says so
    assert (lease.lo, lease.hi) == (0, 8)
    assert shown(machine, 2, 8) == [RUNNING] + [PENDING] * 7
    first, last = machine.view(2, 0), machine.view(2, 7)
    assert (first.held, first.attempt, first.started_at, first.worker) == (False, 1, machine.now, "name of w1")
    assert (last.held, last.attempt, last.started_at, last.worker) == (True, 0, None, "name of w1")
    assert why(machine, 2, 0) == ""
    assert why(machine, 2, 1) == "held by the worker name of w1, behind 1 task"
    assert why(machine, 2, 7) == "held by the worker name of w1, behind 7 tasks"
    assert (listed(machine, RUNNING), listed(machine, PENDING)) == ([(2, 0, 1)], [(2, 1, 7)])
    assert machine.batch(2).counts == Counts(running=1, pending=7)
    assert views.counts(machine.machine) == Counts(running=1, pending=7, succeeded=1)
    (queue,) = views.queues(machine.machine)
    assert (queue.pending, queue.running) == (7, 1)


def test_next_task_of_a_lease_runs_once_the_one_before_has_ended(machine: Driver) -> None:
    (lease,) = with_tiny_tasks(machine, 8)
    began = machine.now
    machine.clock.advance(3.0)

    machine.succeed(lease, 3, seconds=0.003)

    assert [machine.view(2, index).state for index in range(3, 8)] == [RUNNING] + [PENDING] * 4
    assert machine.view(2, 3).started_at == began + 3.0
    assert why(machine, 2, 4) == "held by the worker name of w1, behind 1 task"


def test_lease_beyond_the_slots_is_held_until_a_slot_is_free(machine: Driver) -> None:
    # Given a worker with one slot that holds two leases
    first, second, *_ = with_tiny_tasks(machine, 1, 1)
    assert (shown(machine, 2, 1), shown(machine, 3, 1)) == ([RUNNING], [PENDING])
    assert why(machine, 3) == "held by the worker name of w1, behind 1 task"

    # When the first has ended, then its slot goes on, even before its worker says so
    machine.clock.advance(5.0)
    machine.succeed(first)
    began = machine.now
    assert (machine.view(3).state, machine.view(3).started_at) == (RUNNING, began)
    # and once it says so, too
    machine.clock.advance(1.0)
    machine.exchange(holding=(Holding(token=second.token, started=0),))
    assert (machine.view(3).state, machine.view(3).started_at) == (RUNNING, began)


def test_worker_that_says_which_lease_has_started_is_believed(machine: Driver) -> None:
    # Given two slots, and three leases of which the third is further than the second
    machine.attach(capacity=2)
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    for _ in range(4):
        machine.submit(1)
    leases = machine.lease()
    machine.succeed(leases[0], seconds=0.001)

    machine.exchange(
        holding=(
            Holding(token=leases[1].token, started=0),
            Holding(token=leases[2].token),
            Holding(token=leases[3].token, started=0),
        )
    )

    assert [machine.view(batch).state for batch in (3, 4, 5)] == [RUNNING, PENDING, RUNNING]


def test_task_granted_behind_the_one_that_it_waits_for_stays_blocked(machine: Driver) -> None:
    machine.attach(chains=True)
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    parent = machine.submit(1)
    child = machine.submit(1, after=((parent, 0, 1, True),))
    leases = machine.lease()
    assert [lease.batch.number for lease in leases] == [parent, child]

    assert (machine.view(child).state, machine.view(child).held) == (BLOCKED, True)
    assert why(machine, child) == "held by the worker name of w1, right behind the task that it waits for"
    assert views.counts(machine.machine) == Counts(running=1, blocked=1, succeeded=1)
    assert operators.cancel_task(machine.machine, machine.live(child), 0, machine.now, RUNNING) is None
    assert operators.cancel_task(machine.machine, machine.live(child), 0, machine.now, BLOCKED) is State.CANCELLED
    machine.check()


@pytest.mark.parametrize("index", [None, 0, 1])
@pytest.mark.parametrize("only", [RUNNING, PENDING])
def test_cancelling_by_state_goes_by_what_is_shown(machine: Driver, index: int | None, only: State) -> None:
    with_tiny_tasks(machine, 8)
    expected = [0] if only is RUNNING else list(range(1, 8))

    if index is None:
        stopping = operators.cancel_batch(machine.machine, machine.live(2), machine.now, only)
        assert stopping == (0, len(expected))
    else:
        state = operators.cancel_task(machine.machine, machine.live(2), index, machine.now, only)
        assert (state is not None) is (index in expected)
        expected = [index] if index in expected else []

    assert [index for index in range(8) if machine.view(2, index).cancelling] == expected
    machine.check()


def test_list_that_was_cut_off_goes_on_behind_what_is_held(machine: Driver) -> None:
    # Given held tasks, and others of the same batch that came back, and that are fresh
    machine.attach(capacity=2)
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    machine.submit(40)
    machine.release(machine.lease()[0])
    pending = [index for index in range(40) if machine.view(2, index).state is PENDING]

    # When the list is read one run at a time
    seen: list[int] = []
    after = None
    while True:
        found = views.live_tasks(machine.machine, Selection(state=PENDING, limit=1, after=after), machine.now)
        if not found:
            break
        seen += range(found[0].index, found[0].index + found[0].count)
        after = found[0].place

    # Then no task is missing, or there twice
    assert seen == pending
    assert any(machine.view(2, index).held for index in pending)


def test_neighbours_that_are_held_or_came_back_share_a_line(machine: Driver) -> None:
    # Given tasks of a lease that came back unblamed, of which some are held again
    (lease,) = with_tiny_tasks(machine, 8)
    machine.release(lease)
    assert listed(machine, PENDING) == [(2, 0, 8)]

    machine.lease()
    assert (listed(machine, RUNNING), listed(machine, PENDING)) == ([(2, 0, 1)], [(2, 1, 7)])

    # Then a task that is being stopped has a line of its own
    machine.cancel(2, 4)
    assert listed(machine, PENDING) == [(2, 1, 3), (2, 4, 1), (2, 5, 3)]
