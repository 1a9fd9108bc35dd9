"""Limits by name: how many run at once, how many start per time, and nobody else waits for those that wait."""

from __future__ import annotations

import random

import pytest

from dtq.client.steering import limit_of
from dtq.core import queues, views
from dtq.core.ledger import Ledger
from dtq.core.limits import Limits
from dtq.errors import InvalidValue, LimitsFull
from dtq.model.limits import Limit
from dtq.model.states import State
from tests.driver import Driver, places


@pytest.fixture
def machine() -> Driver:
    return Driver()


def running(machine: Driver) -> int:
    return machine.count(State.RUNNING)


# -- concurrency ----------------------------------------------------------------------------------------------------


def test_never_more_run_at_once_than_the_limit_says(machine: Driver) -> None:
    machine.limit("api", concurrency=2)
    machine.attach("w1", capacity=5)
    machine.submit(6, limits=("api",))

    leases = machine.lease()

    assert places(leases) == [(1, 0), (1, 1)]
    machine.succeed(leases[0])
    assert machine.take() == [(1, 2)]
    machine.fail(leases[1])
    assert machine.take() == [(1, 3)]
    machine.lose()
    machine.attach("w2", capacity=5)
    assert len(machine.take("w2")) == 2
    assert running(machine) == 2


def test_lease_of_many_takes_as_many(machine: Driver) -> None:
    machine.attach("w1", capacity=1)
    machine.submit(1, limits=("api",))
    machine.succeed(machine.lease_one(), seconds=0.0001)
    machine.limit("api", concurrency=7)
    machine.submit(100, limits=("api",))

    (lease,) = machine.lease()

    assert lease.hi - lease.lo == 7
    machine.succeed(lease, 3, seconds=0.0003)
    assert running(machine) == 4
    assert sum(each.hi - each.lo for each in machine.lease()) == 3


def test_first_task_of_each_tenant_is_none_of_unknown_duration(machine: Driver) -> None:
    machine.attach("w1", capacity=1)
    machine.submit(1, limits=("tenant-1",))
    machine.succeed(machine.lease_one(), seconds=0.0001)
    machine.submit(50, limits=("tenant-2",))
    machine.submit(50, limits=("tenant-3",), function="work:other")

    first, *_ = machine.lease()

    assert first.hi - first.lo > 1
    machine.lose()
    machine.cancel(2)
    machine.attach("w2", capacity=1)
    assert machine.take("w2") == [(3, 0)]


def test_what_is_held_back_holds_up_nobody(machine: Driver) -> None:
    machine.limit("api", concurrency=0)
    machine.attach("w1", capacity=2)
    machine.submit(50, limits=("api",), priority=1)
    machine.submit(1, limits=("other",), priority=9)
    machine.submit(1, priority=10)

    assert machine.take() == [(2, 0), (3, 0)]


def test_held_back_tasks_start_by_priority_and_submission(machine: Driver) -> None:
    machine.limit("api", concurrency=1)
    machine.attach("w1", capacity=1)
    machine.submit(1, limits=("api",))
    first = machine.lease_one()
    machine.submit(1, limits=("api",), priority=7)
    machine.submit(1, limits=("api", "tenant-1"), priority=5)
    machine.submit(1, limits=("tenant-2", "api"), priority=5)
    machine.submit(1, limits=("api", "tenant-3"), priority=1)
    order = []

    for _ in range(4):
        machine.succeed(first)
        first = machine.lease_one()
        order += places([first])

    assert order == [(5, 0), (3, 0), (4, 0), (2, 0)]


def test_each_name_of_a_glob_has_a_bucket_of_its_own(machine: Driver) -> None:
    machine.limit("tenant-*", concurrency=1)
    machine.limit("tenant-vip-*", concurrency=2)
    machine.limit("tenant-vip-7", concurrency=3)
    machine.attach("w1", capacity=20)
    for name in ("tenant-1", "tenant-2", "tenant-vip-1", "tenant-vip-7", "someone"):
        machine.submit(5, limits=(name,))

    machine.lease()

    names = [lease.batch.limits[0] for lease in machine.machine.queue_state.leases.values()]
    assert {name: names.count(name) for name in names} == {
        "tenant-1": 1,
        "tenant-2": 1,
        "tenant-vip-1": 2,
        "tenant-vip-7": 3,
        "someone": 5,
    }


def test_limit_may_be_set_changed_and_removed_while_tasks_run(machine: Driver) -> None:
    machine.attach("w1", capacity=10)
    machine.submit(20, limits=("api",))
    leases = [lease for _ in range(1) for lease in machine.lease()]
    assert len(leases) == 10

    # Those that run count from the start
    machine.limit("api", concurrency=5)
    for lease in leases[:5]:
        machine.succeed(lease)
    assert machine.take() == []
    machine.succeed(leases[5])
    assert len(machine.take()) == 1

    machine.limit("api", concurrency=6)
    assert len(machine.take()) == 1
    machine.limit("api", concurrency=0)
    machine.lose()
    machine.attach("w2", capacity=3)
    assert machine.take("w2") == []
    assert machine.unlimit("api")
    assert not machine.unlimit("api")
    assert len(machine.take("w2")) == 3


def test_all_that_was_held_back_by_a_removed_limit_starts(machine: Driver) -> None:
    machine.limit("api", concurrency=0)
    for tenant in range(30):
        machine.submit(1, limits=("api", f"tenant-{tenant}"))
    machine.attach("w1", capacity=30)
    assert machine.take() == []

    machine.unlimit("api")

    assert machine.take() == [(1 + tenant, 0) for tenant in range(30)]


def test_concurrency_survives_a_restart(machine: Driver) -> None:
    machine.limit("api", concurrency=3)
    machine.attach("w1", capacity=2)
    machine.submit(9, limits=("api",))
    machine.lease()
    machine.drain()

    machine.restart()

    machine.attach("w2", capacity=5)
    assert len(machine.take("w2")) == 1
    machine.lose("w1")  # it does not come back
    assert len(machine.take("w2")) == 2
    assert running(machine) == 3


def test_cancelled_tasks_leave_no_trace_at_their_limits(machine: Driver) -> None:
    machine.limit("*", concurrency=1)
    machine.attach("w1", capacity=5)
    for _ in range(3):
        machine.submit(2, limits=("a", "b"))
    first = machine.lease_one()
    for batch in (2, 3):
        machine.cancel(batch)
    machine.cancel(1)
    machine.succeed(first)

    assert machine.take() == []
    assert machine.machine.queue_state.limits.buckets == {}
    assert list(machine.machine.queue_state.lines) == []


def test_task_that_has_room_at_one_limit_only_keeps_others_from_nothing(machine: Driver) -> None:
    machine.limit("a", concurrency=1)
    machine.limit("b", concurrency=1)
    machine.attach("w1", capacity=5)
    machine.submit(1, limits=("b",))
    holder = machine.lease_one()
    machine.submit(1, limits=("a", "b"))
    machine.submit(1, limits=("a",))

    assert machine.take() == [(3, 0)]
    machine.succeed(holder)
    assert machine.take() == []  # now it is the other one that is used up
    machine.succeed(next(iter(machine.machine.queue_state.leases.values())))
    assert machine.take() == [(2, 0)]


# -- rates ----------------------------------------------------------------------------------------------------------


def starts(machine: Driver, until: float) -> list[float]:
    """When tasks start, if a worker asks whenever something is due."""
    found = []
    while machine.now < until:
        for lease in machine.lease():
            found.append(machine.now)
            machine.succeed(lease, seconds=0.0001)
        machine.tick(max(0.0, min(until, machine.machine.next_deadline()) - machine.now))
        machine.exchange("w1")
    return found


def no_window_is_over(found: list[float], rate: float, burst: int) -> bool:
    return all(
        count <= rate * (found[first + count - 1] - found[first]) + burst + 1e-6
        for first in range(len(found))
        for count in range(1, len(found) - first + 1)
    )


@pytest.mark.parametrize("burst", [1, 5])
def test_starts_in_any_window_are_at_most_the_rate_and_the_burst(machine: Driver, burst: int) -> None:
    machine.limit("api", starts=50, burst=burst)
    machine.attach("w1", capacity=4)
    machine.submit(500, limits=("api",))
    begin = machine.now

    found = starts(machine, begin + 4.0)

    assert no_window_is_over(found, 50.0, burst)
    assert abs(len(found) - 200 - burst + 1) <= 1


def test_rate_that_several_groups_of_tasks_share_holds_none_of_them_back_for_ever(machine: Driver) -> None:
    machine.limit("paced", starts=1, per_s=1.0)
    machine.attach("w1", capacity=4)
    for limits in (("paced",), ("paced", "tenant-1"), ("tenant-1", "paced")):
        machine.submit(1, limits=limits)

    found = starts(machine, machine.now + 10.0)

    assert len(found) == 3
    assert machine.count(State.SUCCEEDED) == 3


def test_after_a_restart_a_rate_is_used_up(machine: Driver) -> None:
    machine.limit("api", starts=1, per_s=10.0, burst=3)
    machine.attach("w1", capacity=5)
    machine.submit(10, limits=("api",))
    assert len(machine.take()) == 3
    machine.drain()

    machine.restart()
    machine.attach("w1", capacity=9)

    assert machine.take() == []
    assert machine.tick() <= machine.now + 10.0
    machine.tick(10.0)
    assert len(machine.take()) == 1


def test_task_with_a_rate_is_never_leased_ahead_of_a_free_slot(machine: Driver) -> None:
    machine.limit("api", starts=1_000, burst=1_000)
    machine.attach("w1", capacity=1)
    machine.submit(1, limits=("api",))
    machine.succeed(machine.lease_one(), seconds=0.0001)
    machine.submit(100, limits=("api",))

    assert len(machine.take()) == 1


def test_idle_buckets_are_forgotten(machine: Driver) -> None:
    machine.limit("*", starts=1, concurrency=1)
    machine.attach("w1", capacity=50)
    for tenant in range(50):
        machine.submit(1, limits=(f"tenant-{tenant}",))
    for lease in machine.lease():
        machine.succeed(lease)
    assert len(machine.machine.queue_state.limits.buckets) == 50

    machine.lease()
    machine.tick(1.0)

    assert machine.machine.queue_state.limits.buckets == {}


# -- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [{"concurrency": -1}, {"starts": 0}, {"starts": 5, "per_s": 0.0}, {"starts": 5, "burst": 0}],
)
def test_limit_that_means_nothing_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(InvalidValue):
        Limit(name="api", **bounds)  # type: ignore[arg-type]  # that is the point


def test_there_are_only_so_many_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtq.core.limits.MOST", 3)
    limits = Limits(Ledger())
    for name in ("a", "b*", "c"):
        limits.define(Limit(name=name, concurrency=1), (), 0.0)

    limits.define(Limit(name="c", concurrency=2), (), 0.0)
    with pytest.raises(LimitsFull):
        limits.define(Limit(name="d", concurrency=1), (), 0.0)
    assert [limit.name for limit in limits] == ["a", "b*", "c"]


# -- how much it costs ----------------------------------------------------------------------------------------------


def test_one_open_task_behind_many_that_are_held_back_is_found_at_once(machine: Driver) -> None:
    machine.limit("api", concurrency=0)
    machine.attach("w1", capacity=1)
    machine.submit(100, limits=("api",), priority=1)
    for tenant in range(60):
        machine.submit(1, limits=("api", f"tenant-{tenant}"), priority=1)
    parked = machine.machine.queue_state.limits.buckets["api"].standings["default"].parked
    machine.submit(1)

    machine.lease_one()

    looked_at = len(machine.machine.queue_state.lines.get("default").open)  # type: ignore[union-attr]  # something waits
    assert looked_at == 0
    assert len(parked) == 61


# -- queues that are steered ----------------------------------------------------------------------------------------


def order_of(machine: Driver, count: int, session: str = "w1") -> list[int]:
    """The batches of so many tasks in the order in which they start, one at a time."""
    order = []
    for _ in range(count):
        lease = machine.lease_one(session)
        order.append(lease.batch.number)
        machine.succeed(lease)
    return order


@pytest.mark.parametrize("served", [(), ("ann", "bob")])
def test_queues_of_equal_priority_take_turns(machine: Driver, served: tuple[str, ...]) -> None:
    machine.attach("w1", capacity=1, queues=served)
    machine.submit(1_000, queue="ann")
    machine.submit(1_000, queue="bob")

    assert order_of(machine, 20) == [1, 2] * 10


@pytest.mark.parametrize("served", [(), ("ann", "bob")])
def test_queues_have_their_shares_by_weight(machine: Driver, served: tuple[str, ...]) -> None:
    machine.attach("w1", capacity=1, queues=served)
    machine.steer("ann", weight=3)
    machine.submit(100, queue="ann")
    machine.submit(100, queue="bob")

    order = order_of(machine, 40)

    assert order.count(1) == 30
    # Smoothly: never more than a turn away from it
    assert all(abs(order[:n].count(1) - 0.75 * n) <= 1 for n in range(40))


def test_turn_of_tiny_tasks_is_no_large_part_of_a_queue(machine: Driver) -> None:
    # Given tasks that are known to be tiny, of two users
    machine.attach("w1", capacity=1)
    machine.submit(1, queue="ann")
    machine.succeed(machine.lease_one(), seconds=0.00001)
    for queue in ("ann", "ann", "bob", "bob"):
        machine.submit(1_000, queue=queue)
    started = {"ann": 0, "bob": 0}
    # When half of the later ones have started
    while started["bob"] < 1_000:
        for lease in machine.lease():
            started[lease.batch.queue] += lease.hi - lease.lo
            machine.succeed(lease, seconds=0.00001 * (lease.hi - lease.lo))
    # Then little more than half of the others have
    assert started["ann"] <= 1_300


def test_more_urgent_queue_comes_first_whatever_its_share(machine: Driver) -> None:
    machine.attach("w1", capacity=1)
    machine.submit(10, queue="ann", priority=5)
    machine.submit(5, queue="bob", priority=4)

    assert order_of(machine, 8) == [2] * 5 + [1] * 3


@pytest.mark.parametrize("served", [(), ("ann", "bob", "carl")])
def test_queue_that_gets_work_anew_has_saved_up_nothing(machine: Driver, served: tuple[str, ...]) -> None:
    machine.attach("w1", capacity=1, queues=served)
    machine.submit(100, queue="ann")
    machine.submit(1, queue="bob")
    machine.submit(1, queue="carl", priority=9)
    assert order_of(machine, 30).count(2) == 1

    machine.submit(50, queue="bob")

    assert sorted(order_of(machine, 20)) == [1] * 10 + [4] * 10


def test_one_who_submits_one_task_after_the_other_has_no_more_than_a_share(machine: Driver) -> None:
    machine.attach("w1", capacity=1)
    machine.submit(100, queue="ann")
    bobs = {machine.submit(1, queue="bob")}
    order = []
    for _ in range(30):
        order += order_of(machine, 1)
        if order[-1] in bobs:
            bobs.add(machine.submit(1, queue="bob"))

    assert 14 <= sum(number == 1 for number in order) <= 16


def test_line_comes_and_goes_among_others(machine: Driver) -> None:
    draw = random.Random(3)
    machine.attach("w1", capacity=1)
    for _ in range(400):
        if draw.random() < 0.5:
            machine.submit(draw.randint(1, 2), queue=draw.choice("abcd"), priority=draw.randint(4, 5))
        for lease in machine.lease():
            waiting = [
                batch.entry.rank
                for batch in machine.machine.queue_state.batches.values()
                if batch.fresh or any(task.state is State.PENDING for task in (batch.tasks or {}).values())
            ]
            assert lease.batch.entry.rank <= min(waiting, default=10)
            machine.succeed(lease)


def test_paused_queue_accepts_and_starts_nothing(machine: Driver) -> None:
    machine.attach("w1", capacity=2)
    machine.steer("ann", paused=True)
    machine.submit(2, queue="ann")
    machine.submit(1, queue="bob")
    assert machine.take() == [(2, 0)]

    machine.drain()
    machine.restart()
    machine.attach("w1", capacity=3)
    assert machine.take() == []
    machine.steer("ann", paused=False)

    assert len(machine.take()) == 2
    assert queues.steered(machine.machine.queue_state) == set()


def test_task_that_comes_back_to_a_group_that_waits_is_not_lost(machine: Driver) -> None:
    machine.limit("rate", starts=1, per_s=10.0)
    machine.attach()
    machine.submit(2, limits=("rate",))
    lease = machine.lease_one()
    assert machine.lease() == []
    machine.crash(lease)
    machine.tick(10.0)
    assert machine.take() == [(1, 0)]


def test_rate_that_was_far_too_low_holds_nothing_back_once_it_is_mended(machine: Driver) -> None:
    machine.limit("api", starts=1, per_s=3600.0)
    machine.attach("w1", capacity=9)
    machine.submit(9, limits=("api",))
    assert machine.take() == [(1, 0)]
    assert machine.take() == []

    machine.limit("api", starts=10, per_s=1.0, burst=3)

    assert machine.take() == []  # as if it was just used up
    machine.tick(0.1)
    assert machine.take() == [(1, 1)]
    machine.tick(0.3)
    assert machine.take() == [(1, 2), (1, 3), (1, 4)]


def test_what_was_cancelled_waits_at_no_limit(machine: Driver) -> None:
    machine.limit("api", concurrency=0)
    whole, some = machine.submit(5, limits=("api",)), machine.submit(4, limits=("api",))
    machine.submit(2, limits=("api", "b"))

    machine.cancel(whole)
    machine.cancel(some, 2)

    (view,) = views.limits(machine.machine, machine.now)
    assert view.waiting == 3 + 2


@pytest.mark.parametrize("name", ["", "n" * 129, "two\nlines"])
def test_name_that_is_none_is_refused_where_the_limit_is_made(name: str) -> None:
    with pytest.raises(InvalidValue, match="the name of a limit"):
        limit_of(name, 1, None, 1)
