"""Tasks that need more of a worker than a slot: resources, several slots, tags."""

from __future__ import annotations

from typing import Any

import pytest

from dtq.core.leases import Lease
from dtq.errors import InvalidValue
from dtq.model.resources import Needs, Offers, Portion, Quantity, needs
from dtq.model.states import State
from tests.driver import Driver, places

GPUS = Portion(name="gpu", units=("0", "1"), amount=2)
MEMORY = Portion(name="memory", amount=32)


def need(slots: int = 1, tags: tuple[str, ...] = (), **resources: int) -> dict[str, Any]:
    return {"needs": needs(resources, slots, tags)}


def offers(*portions: Portion, tags: tuple[str, ...] = ()) -> Offers:
    return Offers(resources=portions, tags=tags)


def units(lease: Lease) -> dict[str, tuple[str, ...] | int]:
    return {portion.name: portion.units or portion.amount for portion in lease.units or ()}


def test_task_gets_units_by_name_and_a_part_of_the_sum(machine: Driver) -> None:
    machine.attach(capacity=4, offers=offers(GPUS, MEMORY))
    machine.submit(2, **need(gpu=1, memory=20))
    machine.submit(1, **need(gpu=1, memory=12))
    # When the second has no memory, then the third does not get what is kept for it
    first = machine.lease_one()
    assert units(first) == {"gpu": ("0",), "memory": 20}
    assert machine.lease() == []
    machine.succeed(first)
    # And when there is, both run beside each other
    assert [units(lease) for lease in machine.lease()] == [
        {"gpu": ("0",), "memory": 20},
        {"gpu": ("1",), "memory": 12},
    ]


def test_what_needs_nothing_goes_to_any_worker(machine: Driver) -> None:
    machine.attach(capacity=2)
    machine.submit(1, **need(gpu=1))
    machine.submit(2)
    assert machine.take() == [(2, 0), (2, 1)]


def test_unit_is_handed_out_once_and_again_when_it_is_free(machine: Driver) -> None:
    machine.attach(capacity=4, offers=offers(GPUS))
    machine.submit(3, **need(gpu=1))
    one, two = machine.lease()
    assert (units(one), units(two)) == ({"gpu": ("0",)}, {"gpu": ("1",)})
    assert machine.lease() == []
    machine.succeed(two)
    assert units(machine.lease_one()) == {"gpu": ("1",)}
    machine.fail(one)
    assert machine.machine.queue_state.workers["w1"].room.units == {"gpu": ["0"]}  # type: ignore[union-attr]


def test_tiny_tasks_with_a_need_are_leased_one_by_one_and_never_ahead(machine: Driver) -> None:
    machine.attach(capacity=2, offers=offers(MEMORY))
    machine.submit(100, **need(memory=1))
    machine.succeed(machine.lease()[0], seconds=1e-6)
    assert [lease.hi - lease.lo for lease in machine.lease()] == [1]


def test_several_slots_are_kept_for_a_task_that_needs_them(machine: Driver) -> None:
    machine.attach(capacity=4)
    machine.submit(3)
    three = machine.lease()
    machine.submit(1, **need(slots=4))
    machine.submit(10)
    # When slots become free one after another, then nothing overtakes
    for lease in three:
        assert machine.lease() == []
        machine.succeed(lease)
    wide = machine.lease_one()
    assert places([wide]) == [(2, 0)]
    assert machine.lease() == []
    machine.succeed(wide)
    assert len(machine.lease()) == 4


def test_wide_task_counts_as_so_many_slots(machine: Driver) -> None:
    machine.attach(capacity=4)
    machine.submit(1, **need(slots=3))
    machine.submit(5)
    assert machine.take() == [(1, 0), (2, 0)]


def test_what_takes_nothing_of_what_is_kept_goes_on(machine: Driver) -> None:
    machine.attach(capacity=4, offers=offers(GPUS, MEMORY))
    machine.submit(1, **need(gpu=1, memory=10))
    machine.lease_one()
    # Given one that lacks a unit, and will need most of the memory
    machine.submit(1, **need(gpu=2, memory=20))
    machine.submit(1, **need(gpu=1))
    machine.submit(1, **need(memory=10))
    machine.submit(1, **need(memory=2))
    machine.submit(1)
    # Then the unit and its memory are kept for it, and what is left is not
    assert machine.take() == [(5, 0), (6, 0)]


def test_large_task_is_not_starved_by_any_stream_of_small_ones(machine: Driver) -> None:
    machine.attach(capacity=4, offers=offers(MEMORY))
    machine.submit(100, **need(memory=8))
    running = machine.lease()
    machine.submit(1, priority=4, **need(memory=32, slots=2))
    for _ in range(4):
        assert machine.lease() == []
        machine.succeed(running.pop())
    assert machine.take() == [(2, 0)]


def test_gathered_resources_stay_while_slots_gather(machine: Driver) -> None:
    machine.attach(capacity=2, offers=offers(GPUS))
    machine.submit(1, **need(gpu=2))
    both = machine.lease_one()
    machine.submit(1, **need(gpu=2, slots=2))
    machine.submit(3)
    machine.submit(3, **need(gpu=1))
    # Given what takes nothing of it goes on, as long as resources lack
    plain = machine.lease_one()
    machine.succeed(both)
    # When these are there, nothing else gets them, nor a slot
    assert machine.lease() == []
    machine.succeed(plain)
    assert machine.take() == [(2, 0)]


def test_what_a_worker_could_never_run_holds_up_nothing_there(machine: Driver) -> None:
    machine.attach("small", capacity=2, offers=offers(Portion(name="gpu", units=("0",), amount=1)))
    machine.attach("tagged", capacity=2, offers=offers(tags=("cuda12",)))
    machine.submit(1, priority=1, **need(gpu=2))
    machine.submit(1, priority=1, **need(slots=3))
    machine.submit(1, priority=2, **need(tags=("cuda12",)))
    machine.submit(1, priority=3, **need(gpu=1))
    machine.submit(1)
    assert machine.take("small") == [(4, 0), (5, 0)]
    assert machine.take("tagged") == [(3, 0)]


def test_order_in_a_queue_is_that_of_submission_whatever_is_needed(machine: Driver) -> None:
    machine.attach(capacity=8, offers=offers(MEMORY))
    for amount in (1, None, 2, None, 1):
        machine.submit(1, **({} if amount is None else need(memory=amount)))
    assert [batch for batch, _ in machine.take()] == [1, 2, 3, 4, 5]


def test_queues_share_by_turns_whatever_is_needed(machine: Driver) -> None:
    machine.attach(capacity=8, offers=offers(MEMORY))
    machine.submit(4, queue="a")
    machine.submit(4, queue="b", **need(memory=1))
    assert [batch for batch, _ in machine.take()] == [1, 2, 1, 2, 1, 2, 1, 2]


def test_worker_with_queues_of_its_own_keeps_the_order(machine: Driver) -> None:
    machine.attach(capacity=8, queues=("a",), offers=offers(MEMORY))
    machine.submit(1, queue="b", priority=1, **need(memory=1))
    machine.submit(1, queue="a", **need(memory=1))
    machine.submit(1, queue="a", priority=4)
    assert machine.take() == [(3, 0), (2, 0)]


def test_limits_hold_for_tasks_with_needs(machine: Driver) -> None:
    machine.attach(capacity=8, offers=offers(MEMORY))
    machine.limit("api", concurrency=1)
    machine.submit(3, limits=("api",), **need(memory=1))
    machine.submit(2, limits=("api",))
    machine.submit(1, **need(memory=1))
    assert machine.take() == [(1, 0), (3, 0)]


def test_paused_queue_keeps_nothing(machine: Driver) -> None:
    machine.attach(capacity=2, offers=offers(GPUS))
    machine.submit(1, queue="a", **need(gpu=2))
    lease = machine.lease_one()
    machine.submit(1, queue="a", **need(slots=2, gpu=2))
    machine.submit(1, queue="b", **need(gpu=2))
    machine.steer("a", paused=True)
    machine.succeed(lease)
    other = machine.lease_one()
    assert places([other]) == [(3, 0)]
    machine.steer("a", paused=False)
    machine.succeed(other)
    assert machine.take() == [(2, 0)]


def test_what_was_kept_for_a_cancelled_task_is_free(machine: Driver) -> None:
    machine.attach(capacity=2)
    machine.submit(1)
    machine.lease_one()
    machine.submit(1, **need(slots=2))
    machine.submit(1)
    assert machine.lease() == []
    assert machine.machine.queue_state.keeping == {"w1"}
    left = machine.machine.queue_state.lines.left
    machine.cancel(2)
    assert machine.machine.queue_state.lines.left > left
    assert machine.take() == [(3, 0)]
    assert machine.machine.queue_state.keeping == set() or not machine.machine.queue_state.lines.needed


def test_units_are_known_after_a_restart(machine: Driver) -> None:
    machine.attach(capacity=4, offers=offers(GPUS, MEMORY))
    machine.submit(3, **need(gpu=1, memory=10, slots=2))
    one, two = machine.lease()
    machine.succeed(one)
    machine.drain()
    # When
    machine.restart()
    machine.attach(capacity=4, offers=offers(GPUS, MEMORY))
    # Then what the second has is not given to the third
    assert units(machine.machine.queue_state.leases[two.token]) == {"gpu": ("1",), "memory": 10}
    third = machine.lease_one()
    assert units(third) == {"gpu": ("0",), "memory": 10}
    assert machine.lease() == []


def test_lost_workers_tasks_go_where_there_is_room(machine: Driver) -> None:
    machine.attach("w1", capacity=2, offers=offers(GPUS))
    machine.submit(2, **need(gpu=1))
    machine.lease("w1")
    machine.attach("w2", capacity=2, offers=offers(GPUS))
    machine.lose("w1")
    assert machine.take("w2") == [(1, 0), (1, 1)]
    assert machine.count(State.RUNNING) == 2


def test_needs_are_the_same_however_they_are_written() -> None:
    asked = needs({"memory": "4GB", "gpu": 1}, 1, ("b", "a", "b"))
    amounts = (Quantity(name="gpu", amount=1), Quantity(name="memory", amount=4 * 10**9))
    assert asked == Needs(resources=amounts, tags=("a", "b"))
    assert str(asked) == "gpu=1, memory=4000000000, the tag a and the tag b"
    assert needs({}, 1, ()) is None


@pytest.mark.parametrize("wrong", [{"gpu": 0}, {"gpu": 1.5}, {"gpu": True}, {"g pu": 1}, {"gpu": "many"}, {"gpu": -1}])
def test_amount_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        needs(wrong, 1, ())
