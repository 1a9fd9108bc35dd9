"""Tasks of a batch that wait for others by themselves: a map with handles among its items."""

from __future__ import annotations

import pytest

from dtq.core import views
from dtq.core.leases import Lease
from dtq.errors import EdgesFull
from dtq.model.messages import Conditions
from dtq.model.states import State
from tests.driver import Driver

B, P, R, S = State.BLOCKED, State.PENDING, State.RUNNING, State.SUCCEEDED
C, D, X = State.CANCELLED, State.DEAD, State.SCHEDULED


def of(batch: int, index: int = 0, *, value: bool = True) -> tuple[int, int, int, bool]:
    """A task to be given the result of."""
    return (batch, index, index + 1, value)


@pytest.fixture
def machine() -> Driver:
    made = Driver()
    made.attach(capacity=10)
    return made


def leased(machine: Driver, batch: int, index: int = 0) -> Lease:
    """The lease of a task."""
    leases = machine.machine.queue_state.leases.values()
    return next(each for each in leases if each.batch.number == batch and each.lo <= index < each.hi)


def test_only_the_items_that_are_given_something_wait(machine: Driver) -> None:
    one, other = machine.submit(), machine.submit()
    child = machine.submit(4, items={0: (of(one),), 2: (of(one), of(other))})
    assert machine.states(child, 4) == [B, P, B, P]
    assert views.why_waiting(machine.machine, machine.view(child, 2), machine.now) == f"waits for {one}, {other}"
    assert machine.batch(child).counts.blocked == 2

    assert machine.take() == [(one, 0), (other, 0), (child, 1), (child, 3)]
    machine.succeed(leased(machine, one))

    assert machine.take() == [(child, 0)]
    machine.succeed(leased(machine, other))
    assert machine.take() == [(child, 2)]


def test_item_that_is_free_before_its_turn_takes_its_turn() -> None:
    machine = Driver()
    machine.attach(capacity=1)
    one = machine.submit()
    child = machine.submit(4, items={2: (of(one),)})

    machine.succeed(machine.lease_one())

    assert machine.states(child, 4) == [P, P, P, P]
    for index in range(4):
        (lease,) = machine.lease()
        assert (lease.batch.number, lease.lo) == (child, index)
        machine.succeed(lease)


def test_batch_of_items_that_all_wait_starts_none_of_them(machine: Driver) -> None:
    one = machine.submit()
    child = machine.submit(3, items=dict.fromkeys(range(3), (of(one),)))
    assert machine.take() == [(one, 0)]
    assert machine.states(child, 3) == [B, B, B]

    machine.succeed(leased(machine, one))

    assert machine.take() == [(child, 0), (child, 1), (child, 2)]


def test_what_has_ended_before_is_not_waited_for_but_given(machine: Driver) -> None:
    one = machine.submit()
    machine.succeed(machine.lease_one())

    child = machine.submit(2, items={1: (of(one),)})

    assert machine.states(child, 2) == [P, P]
    (lease, own) = machine.lease()
    assert (lease.lo, own.lo) == (0, 1)
    task = machine.live(child).task(1)
    assert task is not None
    assert task.after == (of(one),)


def test_parent_without_a_result_cancels_its_item_alone(machine: Driver) -> None:
    bad, good = machine.submit(max_retries=0), machine.submit()
    child = machine.submit(3, items={0: (of(bad),), 2: (of(good),)})
    machine.lease()

    machine.fail(leased(machine, bad))
    machine.succeed(leased(machine, good))

    assert machine.states(child, 3) == [C, R, P]
    machine.drain()
    assert [e.why for e in machine.told if e.batch == child] == [f"parent {bad} is dead"]
    late = machine.submit(2, items={1: (of(bad),)})
    assert machine.states(late, 2) == [P, C]


def test_item_runs_anyway_where_that_was_asked_for(machine: Driver) -> None:
    bad = machine.submit(max_retries=0)
    child = machine.submit(2, items={0: (of(bad),)}, run_anyway=True)
    machine.lease()

    machine.fail(leased(machine, bad))
    late = machine.submit(1, items={0: (of(bad),)}, run_anyway=True)

    assert machine.state(child) is P
    assert machine.state(late) is P


def test_dead_parent_that_is_put_back_has_the_item_wait_again(machine: Driver) -> None:
    bad = machine.submit(max_retries=0)
    child = machine.submit(1, items={0: (of(bad),)}, run_anyway=True)
    machine.lease()
    machine.fail(leased(machine, bad))
    assert machine.state(child) is P

    machine.revive(bad)

    assert machine.state(child) is B


@pytest.mark.parametrize("hi", [1, 2, 0])
def test_item_that_comes_back_waits_for_all_that_it_had_waited_for(machine: Driver, hi: int) -> None:
    # Given an item that waits for two batches, the first of which dies; its batch goes on with another item
    one, other = machine.submit(max_retries=0), machine.submit(2)
    child = machine.submit(2, items={0: (of(one), (other, 0, hi, True))})
    machine.lease()
    machine.fail(leased(machine, one))
    assert machine.states(child, 2) == [C, R]
    # When that one is put back, and the second one ends
    machine.revive(one)
    for index in (0, 1):
        machine.succeed(leased(machine, other, index))
    # Then the item waits for the first still
    assert machine.states(child, 2) == [B, R]
    machine.lease()
    machine.succeed(leased(machine, one))
    assert machine.states(child, 2) == [P, R]


def test_dead_item_that_is_put_back_is_given_the_same(machine: Driver) -> None:
    one = machine.submit()
    child = machine.submit(2, items={1: (of(one),)}, max_retries=0)
    machine.lease()
    machine.succeed(leased(machine, one))
    machine.lease()
    machine.fail(leased(machine, child, 1))
    assert machine.states(child, 2) == [R, D]

    machine.revive(child, 1)

    task = machine.live(child).task(1)
    assert task is not None
    assert task.after == (of(one),)


def test_delayed_items_are_due_with_their_batch(machine: Driver) -> None:
    one, other = machine.submit(), machine.submit()
    child = machine.submit(3, items={0: (of(one),), 2: (of(other),)}, delay_s=10.0)
    machine.lease()
    machine.succeed(leased(machine, one))
    assert machine.states(child, 3) == [X, X, B]
    assert machine.view(child).due_at == machine.view(child, 1).due_at == machine.now + 10.0

    machine.drain()
    machine.restart()
    machine.tick(10.0)

    assert machine.states(child, 3) == [P, P, B]


def test_items_of_a_batch_that_waits_start_after_both(machine: Driver) -> None:
    one, other = machine.submit(), machine.submit()
    child = machine.submit(2, items={0: (of(one),)}, after=[of(other, value=False)])
    machine.lease()
    machine.succeed(leased(machine, one))
    assert machine.states(child, 2) == [B, B]

    machine.succeed(leased(machine, other))

    assert machine.states(child, 2) == [P, P]


def test_items_are_cancelled_by_themselves_with_their_batch_and_as_they_expire(machine: Driver) -> None:
    one = machine.submit()
    machine.lease()
    items = {0: (of(one),), 2: (of(one),)}
    alone, whole = machine.submit(3, items=items), machine.submit(3, items=items)
    late = machine.submit(3, items=items, conditions=Conditions(expires_s=5.0))

    assert machine.cancel(alone, 0) == (1, 0)
    assert machine.cancel(whole) == (3, 0)
    machine.tick(5.0)

    assert machine.states(alone, 3) == [C, P, B]
    assert machine.states(whole, 3) == machine.states(late, 3) == [C, C, C]
    machine.succeed(leased(machine, one))
    assert machine.states(alone, 3) == [C, P, P]


def test_items_are_the_same_after_a_restart(machine: Driver) -> None:
    one, other = machine.submit(), machine.submit()
    child = machine.submit(5, items={0: (of(one),), 2: (of(other),), 4: (of(one), of(other))})
    machine.lease()
    machine.succeed(leased(machine, other))
    machine.drain()
    before = machine.states(child, 5)

    machine.restart()

    assert machine.states(child, 5) == before == [B, R, P, R, B]
    machine.succeed(leased(machine, one))
    assert machine.states(child, 5) == [P, R, P, R, P]


def test_results_are_kept_until_the_item_that_is_given_them_has_ended(machine: Driver) -> None:
    one = machine.submit()
    child = machine.submit(2, items={0: (of(one),)})
    machine.lease()
    machine.succeed(leased(machine, one))
    machine.machine.batches_read([one])
    machine.drain()
    assert machine.store.batches([one])

    machine.lease()
    machine.succeed(leased(machine, child))
    machine.drain()

    assert machine.is_live(child)
    assert not machine.store.batches([one])


def test_items_that_come_with_later_pieces_wait_too(machine: Driver) -> None:
    one = machine.submit()
    child = machine.submit(1, complete=False)
    machine.submit(2, batch=child, offset=1, items={2: (of(one),)})

    assert machine.states(child, 3) == [P, P, B]
    machine.submit(2, batch=child, offset=1, items={2: (of(one),)})  # repeated
    assert machine.states(child, 3) == [P, P, B]


def test_all_that_is_waited_for_is_bounded() -> None:
    machine = Driver(max_edges=2)
    one = machine.submit()
    machine.submit(2, items={0: (of(one),), 1: (of(one),)})

    with pytest.raises(EdgesFull):
        machine.submit(1, items={0: (of(one),)})
    assert list(machine.machine.queue_state.batches) == [1, 2]  # what is refused leaves nothing behind


def test_batch_with_items_that_could_not_be_made_durable_leaves_nothing(machine: Driver) -> None:
    one = machine.submit()
    child = machine.submit(3, items={0: (of(one),)})
    machine.lease()

    machine.withdraw(machine.live(child))

    assert machine.count(B) == 0
    assert machine.machine.queue_state.dependencies.kept.needed == {}


def test_dead_task_that_is_put_back_brings_back_the_item_that_its_death_had_cancelled(machine: Driver) -> None:
    bad, other = machine.submit(max_retries=0), machine.submit()
    child = machine.submit(3, items={0: (of(bad), of(other)), 2: (of(other),)})
    last = machine.submit(after=[of(child, 0)])
    machine.lease()
    machine.fail(leased(machine, bad))
    machine.cancel(child, 2)
    assert machine.states(child, 3) == [C, R, C]
    assert machine.state(last) is C

    machine.revive(bad)

    assert machine.states(child, 3) == [B, R, C]
    assert machine.state(last) is B
    machine.lease()
    machine.succeed(leased(machine, bad))
    assert machine.state(child) is B
    machine.succeed(leased(machine, other))
    assert machine.state(child) is P


def test_items_that_are_free_are_leased_together_up_to_one_that_waits() -> None:
    machine = Driver()
    machine.attach(capacity=1)
    one = machine.submit()
    machine.succeed(machine.lease_one(), seconds=0.0)
    other = machine.submit(delay_s=10.0)
    items = {0: (of(one),), 1: (of(one),), 2: (of(other),), 3: (of(one),)}
    child = machine.submit(4, items=items)
    assert machine.states(child, 4) == [P, P, B, P]

    leases = machine.lease()

    assert [(lease.lo, lease.hi) for lease in leases] == [(0, 2), (3, 4)]
    assert machine.states(child, 4) == [R, R, B, R]
