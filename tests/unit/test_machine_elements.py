"""Maps over what other maps return: each task waits for the one of its own index."""

from __future__ import annotations

import pytest

from dtq.core import views
from dtq.core.leases import Lease
from dtq.core.queue_state import Rules
from dtq.errors import BatchTooLarge, QueueFull
from dtq.model.states import State
from tests.driver import Driver

B, P, R, S = State.BLOCKED, State.PENDING, State.RUNNING, State.SUCCEEDED
C, D, X = State.CANCELLED, State.DEAD, State.SCHEDULED


@pytest.fixture
def machine() -> Driver:
    made = Driver()
    made.attach(capacity=10)
    return made


def tiny() -> Driver:
    """A machine that knows the tasks of functions to be tiny, and leases many at once."""
    machine = Driver()
    machine.attach(capacity=1)
    machine.attach("w2", capacity=1)
    machine.submit()
    machine.succeed(machine.lease_one(), seconds=0.001)
    return machine


def leased(machine: Driver, batch: int, index: int) -> Lease:
    """The lease of a task."""
    leases = machine.machine.queue_state.leases.values()
    return next(each for each in leases if each.batch.number == batch and each.lo <= index < each.hi)


# -- starting -------------------------------------------------------------------------------------------------------


def test_each_task_starts_when_the_one_of_its_index_has_ended(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent])
    assert machine.states(child, 3) == [B, B, B]
    machine.lease()

    machine.succeed(leased(machine, parent, 0))

    assert machine.states(child, 3) == [P, B, B]
    assert machine.take() == [(child, 0)]
    machine.succeed(leased(machine, parent, 1))
    assert machine.states(child, 3) == [R, P, B]


def test_straggler_holds_up_only_its_own_task(machine: Driver) -> None:
    parent = machine.submit(4)
    child = machine.submit(0, each=[parent])
    machine.lease()

    for index in (1, 2, 3):
        machine.succeed(leased(machine, parent, index))

    assert machine.states(child, 4) == [B, P, P, P]
    assert machine.take() == [(child, 1), (child, 2), (child, 3)]
    machine.succeed(leased(machine, parent, 0))
    assert machine.take() == [(child, 0)]


def test_failed_task_that_is_tried_again_holds_up_only_its_own(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent])
    machine.lease()
    machine.succeed(leased(machine, parent, 1))
    machine.fail(leased(machine, parent, 0))
    assert machine.states(parent, 2) == [X, S]

    assert machine.states(child, 3) == [B, P, B]


def test_tasks_that_are_leased_together_are_waited_for_together() -> None:
    machine = tiny()
    parent = machine.submit(40)
    child = machine.submit(0, each=[parent])
    first, second = machine.lease("w1")[:2]
    assert (first.lo, first.hi, second.lo, second.hi) == (0, 10, 10, 18)

    machine.succeed(second, seconds=0.008)
    assert machine.states(child, 18) == [B] * 18
    machine.succeed(first, 7, seconds=0.007)
    assert machine.states(child, 18) == [P] * 7 + [B] * 11
    machine.succeed(first, seconds=0.003)

    assert machine.states(child, 19) == [P] * 18 + [B]
    assert machine.live(child).tasks is None  # nothing is noted of single tasks


def test_lease_that_is_given_back_behind_its_first_task_holds_up_only_that() -> None:
    machine = tiny()
    parent = machine.submit(16)
    child = machine.submit(0, each=[parent])
    first, second = machine.lease("w1")[:2]
    machine.succeed(second, seconds=0.003)
    assert (first.hi, second.hi) == (4, 7)
    assert machine.states(child, 7) == [B] * 7

    machine.release(first, 1)

    assert machine.states(child, 8) == [B] * 4 + [P] * 3 + [B]


def test_map_of_a_map_of_a_map_passes_stragglers_over(machine: Driver) -> None:
    first = machine.submit(3)
    second = machine.submit(0, each=[first])
    third = machine.submit(0, each=[second])
    machine.lease()
    machine.succeed(leased(machine, first, 1))
    machine.succeed(leased(machine, first, 2))
    machine.lease()
    machine.succeed(leased(machine, second, 2))

    assert machine.states(second, 3) == [B, R, S]
    assert machine.states(third, 3) == [B, B, P]


def test_map_over_several_waits_for_all_of_them_and_is_as_long_as_the_shortest(machine: Driver) -> None:
    one, other = machine.submit(3), machine.submit(2)
    child = machine.submit(0, each=[one, other])
    assert machine.batch(child).size == 2
    machine.lease()
    machine.succeed(leased(machine, one, 0))
    machine.succeed(leased(machine, other, 1))
    assert machine.states(child, 2) == [B, B]

    machine.succeed(leased(machine, other, 0))

    assert machine.states(child, 2) == [P, B]


def test_what_has_ended_before_is_not_waited_for(machine: Driver) -> None:
    whole, half = machine.submit(2), machine.submit(3)
    machine.lease()
    for batch, index in ((whole, 0), (whole, 1), (half, 2)):
        machine.succeed(leased(machine, batch, index))

    assert machine.states(machine.submit(0, each=[whole]), 2) == [P, P]
    assert machine.states(machine.submit(0, each=[half]), 3) == [B, B, P]


def test_delayed_map_is_due_at_its_time_as_far_as_it_is_ready(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent], delay_s=10.0)
    machine.lease()
    machine.succeed(leased(machine, parent, 0))
    assert machine.states(child, 3) == [X, B, B]
    assert machine.view(child).due_at == machine.now + 10.0

    machine.tick(10.0)

    assert machine.states(child, 3) == [P, B, B]
    machine.succeed(leased(machine, parent, 1))
    assert machine.states(child, 3) == [P, P, B]


def test_map_that_waits_for_something_else_too_starts_after_that(machine: Driver) -> None:
    parent, other = machine.submit(2), machine.submit()
    child = machine.submit(0, each=[parent], after=[(other, 0, 0, False)])
    machine.lease()
    machine.succeed(leased(machine, parent, 0))
    assert machine.states(child, 2) == [B, B]

    machine.succeed(leased(machine, other, 0))

    assert machine.states(child, 2) == [P, B]


# -- what ends without a result -------------------------------------------------------------------------------------


def test_dead_task_cancels_the_one_of_its_index_and_that_the_next(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent])
    grandchild = machine.submit(0, each=[child])
    machine.lease()

    machine.fail(leased(machine, parent, 1), exception="Hopeless")
    assert machine.states(child, 3) == [B, B, B]
    for _ in range(4):
        machine.tick(30.0)
        lease = next((each for each in machine.lease() if each.lo == 1), None) or leased(machine, parent, 1)
        machine.fail(lease)
        if machine.count(D):
            break

    assert machine.states(child, 3) == [B, C, B]
    assert machine.states(grandchild, 3) == [B, C, B]
    told = {(ended.batch, ended.lo): ended.why for ended in machine.told if ended.state is C}
    assert told == {(child, 1): f"parent {parent}.1 is dead", (grandchild, 1): f"parent {child}.1 is cancelled"}


def test_cancelled_parent_cancels_what_has_not_begun_as_a_whole(machine: Driver) -> None:
    parent = machine.submit(1000)
    child = machine.submit(0, each=[parent])
    machine.lease()
    machine.succeed(leased(machine, parent, 0))
    machine.succeed(leased(machine, parent, 2))

    machine.cancel(parent)

    assert machine.states(child, 11) == [P, *[B] * 9, C]
    assert machine.batch(child).counts.cancelled == 990
    assert len(machine.live(child).tasks or ()) < 10
    for index in (1, *range(3, 10)):
        machine.fail(leased(machine, parent, index), exception="Stopped")
    assert machine.states(child, 4) == [P, C, P, C]
    assert machine.batch(child).counts.cancelled == 998
    machine.drain()
    machine.restart()
    assert machine.states(child, 4) == [P, C, P, C]


def test_map_that_runs_anyway_takes_what_has_no_result_too(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent], run_anyway=True)

    machine.cancel(parent, 1)
    assert machine.take() == [(parent, 0), (parent, 2), (child, 1)]
    machine.succeed(leased(machine, parent, 0))

    assert machine.states(child, 3) == [P, R, B]


def test_map_over_what_has_ended_without_results_loses_just_these(machine: Driver) -> None:
    parent = machine.submit(4)
    machine.lease()
    for index in (0, 3):
        machine.succeed(leased(machine, parent, index))
    machine.cancel(parent, 1)
    machine.fail(leased(machine, parent, 1), exception="Stopped")

    child = machine.submit(0, each=[parent])

    assert machine.states(child, 4) == [P, C, B, B]
    assert machine.take() == [(child, 0), (child, 3)]
    assert machine.states(child, 4) == [R, C, B, R]


def test_map_over_a_batch_that_was_cancelled_is_cancelled(machine: Driver) -> None:
    parent = machine.submit(5)
    machine.cancel(parent)

    child = machine.submit(0, each=[parent])

    assert not machine.is_live(child)
    assert machine.batch(child).counts.cancelled == 5
    assert machine.batch(child).reason == f"parent {parent} is cancelled"


# -- operators ------------------------------------------------------------------------------------------------------


def test_map_is_cancelled_whole_alone_and_by_state(machine: Driver) -> None:
    parent = machine.submit(5)
    whole, alone = machine.submit(0, each=[parent]), machine.submit(0, each=[parent])
    machine.lease()
    machine.succeed(leased(machine, parent, 0))
    machine.succeed(leased(machine, parent, 2))

    assert machine.cancel(alone, 2) == machine.cancel(alone, 3) == (1, 0)
    assert machine.states(alone, 5) == [P, B, C, C, B]
    assert machine.cancel(whole) == (5, 0)
    machine.succeed(leased(machine, parent, 1))
    machine.succeed(leased(machine, parent, 3))
    machine.succeed(leased(machine, parent, 4))
    assert machine.states(alone, 5) == [P, P, C, C, P]
    assert len(machine.lease()) == 3


def test_map_goes_to_its_new_place_with_another_priority(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent])
    other = machine.submit()
    machine.attach("w2", capacity=1)
    machine.lease()
    machine.submit()
    machine.succeed(leased(machine, parent, 1))
    machine.succeed(leased(machine, parent, 2))
    assert machine.state(other) is R

    machine.reprioritize(child, priority=1)

    assert machine.take("w2") == [(child, 1)]


def test_reason_names_the_task_that_is_waited_for(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(0, each=[parent])

    assert views.why_waiting(machine.machine, machine.view(child, 2), machine.now) == f"waits for {parent}.2"


# -- durability -----------------------------------------------------------------------------------------------------


def test_map_is_the_same_after_a_restart(machine: Driver) -> None:
    parent = machine.submit(6)
    child = machine.submit(0, each=[parent])
    machine.lease()
    for index in (1, 2, 4):
        machine.succeed(leased(machine, parent, index))
    machine.lease()
    before = machine.states(child, 6)
    machine.drain()

    machine.restart()

    assert machine.states(child, 6) == before == [B, R, R, B, R, B]
    for index in (0, 3, 5):
        machine.succeed(leased(machine, parent, index))
    assert machine.states(child, 6) == [P, R, R, P, R, P]


def test_results_are_kept_for_a_map_until_it_has_ended(machine: Driver) -> None:
    parent = machine.submit(2)
    child = machine.submit(0, each=[parent])
    machine.lease()
    for index in (0, 1):
        machine.succeed(leased(machine, parent, index))
    machine.machine.read(parent, 0, 2)
    machine.machine.batches_read([parent])
    machine.drain()
    assert machine.batch(parent).counts.succeeded == 2

    machine.lease()
    for index in (0, 1):
        machine.succeed(leased(machine, child, index))
    machine.drain()

    assert not machine.store.batches([parent])


def test_retried_parent_task_has_those_that_run_anyway_wait_again(machine: Driver) -> None:
    parent = machine.submit(2, max_retries=0)
    child = machine.submit(0, each=[parent], run_anyway=True)
    machine.lease()
    machine.fail(leased(machine, parent, 0))
    assert machine.states(child, 2) == [P, B]

    machine.revive(parent, 0)

    assert machine.states(child, 2) == [B, B]
    machine.lease()
    machine.succeed(leased(machine, parent, 0))
    assert machine.states(child, 2) == [P, B]


def test_dead_task_that_is_put_back_brings_back_those_that_its_death_had_cancelled(machine: Driver) -> None:
    parent = machine.submit(2, max_retries=0)
    child = machine.submit(0, each=[parent])
    grandchild = machine.submit(0, each=[child])
    machine.lease()
    machine.fail(leased(machine, parent, 0))
    machine.succeed(leased(machine, parent, 1))
    machine.lease()
    machine.succeed(leased(machine, child, 1))
    machine.lease()
    machine.succeed(leased(machine, grandchild, 1))
    machine.drain()
    assert not machine.is_live(grandchild)
    assert machine.states(grandchild, 2) == [C, S]

    machine.revive(parent, 0)

    assert machine.states(child, 2) == machine.states(grandchild, 2) == [B, S]
    machine.succeed(machine.lease_one())
    machine.succeed(machine.lease_one())
    assert machine.states(grandchild, 2) == [P, S]


@pytest.mark.parametrize("when", ["before", "after"])
def test_map_that_had_ended_before_it_had_waited_comes_back(machine: Driver, when: str) -> None:
    # Given a map that is cancelled as it is submitted, and waits for something else, too
    first, parent = machine.submit(), machine.submit(max_retries=0)
    child = machine.submit(0, each=[parent])
    machine.lease()
    machine.fail(leased(machine, parent, 0))
    if when == "before":
        machine.succeed(leased(machine, first, 0))
    grandchild = machine.submit(0, each=[child], after=((first, 0, 0, False),))
    machine.drain()
    assert machine.states(grandchild, 1) == [C]

    machine.revive(parent)

    assert machine.states(grandchild, 1) == [B]
    for _ in range(2):
        machine.succeed(machine.lease_one())
    if when == "after":
        assert machine.states(grandchild, 1) == [B]
        machine.succeed(leased(machine, first, 0))
    assert machine.states(grandchild, 1) == [P]


def test_task_stays_cancelled_as_long_as_another_that_it_waited_for_is_dead(machine: Driver) -> None:
    one, other = machine.submit(2, max_retries=0), machine.submit(2, max_retries=0)
    child = machine.submit(0, each=[one, other])
    machine.lease()
    for batch in (one, other):
        machine.fail(leased(machine, batch, 0))

    machine.revive(one)
    assert machine.states(child, 2) == [C, B]
    machine.revive(other)

    assert machine.states(child, 2) == [B, B]


def test_map_whose_parent_was_cancelled_as_a_whole_comes_back_with_it(machine: Driver) -> None:
    first = machine.submit(max_retries=0)
    parent = machine.submit(3, after=[(first, 0, 0, False)])
    child = machine.submit(0, each=[parent])
    machine.lease()
    machine.fail(leased(machine, first, 0))
    assert machine.states(child, 3) == [C, C, C]

    machine.revive(first)

    assert machine.states(child, 3) == [B, B, B]
    machine.succeed(machine.lease_one())
    assert len(machine.take()) == 3


def test_task_that_is_passed_over_is_so_by_the_next_map_too(machine: Driver) -> None:
    parent = machine.submit(4)
    child = machine.submit(0, each=[parent])
    last = machine.submit(0, each=[child], run_anyway=True)
    machine.cancel(child, 1)
    machine.lease()
    assert machine.states(last, 2) == [B, B]

    machine.succeed(leased(machine, parent, 2))

    assert machine.states(child, 3) == [B, C, P]
    assert machine.states(last, 2) == [B, P]


def test_map_that_never_fits_into_the_queue_is_refused_for_good(machine: Driver) -> None:
    small = Driver(max_tasks=1_500)
    parent = small.submit(1_000)
    with pytest.raises(QueueFull):
        small.submit(0, each=[parent])
    small.cancel(parent)
    small.submit(0, each=[parent], run_anyway=True)

    large = machine.submit(1_000, complete=False)
    machine.submit(1_000, batch=large, offset=1_000)
    machine.machine.queue_state.rules = Rules(max_tasks=1_500)
    with pytest.raises(BatchTooLarge):
        machine.submit(0, each=[large])


def test_retried_parent_task_is_waited_for_again_by_a_map_that_still_waits_for_something_else(machine: Driver) -> None:
    parent, other = machine.submit(2, max_retries=0), machine.submit()
    child = machine.submit(0, each=[parent], after=[(other, 0, 0, False)], run_anyway=True)
    machine.lease()
    machine.fail(leased(machine, parent, 0))

    machine.revive(parent, 0)
    machine.succeed(leased(machine, other, 0))

    assert machine.states(child, 2) == [B, B]
    machine.lease()
    machine.succeed(leased(machine, parent, 0))
    assert machine.states(child, 2) == [P, B]
