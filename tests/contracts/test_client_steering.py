"""Limits, queues that are steered and priorities that change, as programs have them: `Client` and `AsyncClient`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from dtq import State
from dtq.client import client_core
from dtq.core.queue_state import Rules
from dtq.errors import InvalidValue, QueueDraining, UnknownLimit, UnknownWorker
from dtq.model.limits import Limit
from dtq.model.messages import WorkerOrder
from dtq.model.queues import Steering
from dtq.model.snapshots import CancelReport
from tests.client_scene import DEADLINE_S, Queue
from tests.looping import connected, looped
from tests.tasks import numbers_work as work


@pytest.fixture(params=["in process", "wire"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue(wire=request.param == "wire") as made:
        yield made


def test_tasks_name_the_limits_that_they_count_against(queue: Queue) -> None:
    # Given
    client = queue.client()
    client.limits.set("api", concurrency=0)
    client.limits.set("tenant-*", rate="600/m", burst=5)

    # When
    held = client.submit(work.square, 2, limits=("api", "tenant-7"), label="nightly")
    free = client.options(limits="tenant-8").submit(work.square, 3)

    # Then
    with queue.working():
        assert free.result(DEADLINE_S) == 9
        assert held.status().reason == "the limit 'api' is closed"
        assert [view.limit for view in client.limits.list()] == [
            Limit(name="api", concurrency=0),
            Limit(name="tenant-*", starts=600, per_s=60.0, burst=5),
        ]
        assert [view.batch for view in client.tasks(label="nightly")] == [int(held.id)]
        client.limits.remove("api")
        assert held.result(DEADLINE_S) == 4
    with pytest.raises(UnknownLimit):
        client.limits.remove("api")


@pytest.mark.parametrize("wrong", [7, [7], "a b", "", ["x"] * 1_000 + ["y" * 200], [f"n{i}" for i in range(17)]])
def test_what_is_no_name_of_a_limit_is_refused_at_the_caller(wrong: object) -> None:
    with Queue() as near, pytest.raises(InvalidValue, match="limit"):
        near.client().submit(work.square, 2, limits=wrong)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        (5, {"concurrency": 1}),
        ("x", {"concurrency": 1.5}),
        ("x", {"concurrency": True}),
        ("x", {"rate": 5}),
        ("x", {"rate": "5/s", "burst": "3"}),
    ],
)
def test_limit_that_is_none_is_refused_at_the_caller(name: Any, bounds: dict[str, Any]) -> None:
    with Queue() as near, pytest.raises(InvalidValue):
        near.client().limits.set(name, **bounds)


@pytest.mark.parametrize("name", [None, 5, "", "a b"])
def test_queue_without_a_name_is_not_every_queue(name: Any) -> None:
    # Given a program that has lost the name of its queue
    with Queue() as near:
        client = near.client()
        waiting = client.submit(work.square, 1, queue="mail")
        # When it steers; Then it is told so
        for verb in (client.queues.purge, client.queues.pause, client.queues.drain, client.queues.resume):
            with pytest.raises(InvalidValue, match="queue cannot be"):
                verb(name)
        for weight in ("3", 1.5, True):
            with pytest.raises(InvalidValue, match="a weight cannot be"):
                client.queues.weigh("mail", weight)  # type: ignore[arg-type]
        assert waiting.status().state is State.PENDING


def test_filter_that_is_misspelt_selects_nothing() -> None:
    with Queue() as near:
        client: Any = near.client()
        waiting = client.submit(work.square, 1, queue="mail")
        verbs = (client.cancel, client.retry_dead, client.purge_dead, client.tasks, client.dead_letters)
        for verb in (*verbs, partial(client.reprioritize, priority=1)):
            with pytest.raises(TypeError, match="unexpected keyword argument 'lable'; the filters are queue, function"):
                verb(queue="mail", lable="nightly")
        assert waiting.status().state is State.PENDING


def test_queues_are_steered(queue: Queue) -> None:
    # Given
    client = queue.client()
    assert client.queues.pause("mail") == Steering(paused=True)
    held = client.submit_map(work.square, range(3), queue="mail")
    assert held.accepted(DEADLINE_S)
    assert client.queues.drain("mail") == Steering(paused=True, draining=True)
    with pytest.raises(QueueDraining, match="'mail' takes no new tasks"):
        client.submit(work.square, 1, queue="mail").result(DEADLINE_S)

    # Then
    with queue.working():
        assert [(view.name, view.paused, view.pending) for view in client.queues.list()] == [("mail", True, 3)]
        assert client.queues.resume("mail") == Steering()
        assert list(held.results()) == [0, 1, 4]
    assert client.queues.weigh("mail", 3) == Steering(weight=3)
    with pytest.raises(InvalidValue, match="a weight"):
        client.queues.weigh("mail", 0)
    waiting = client.submit(work.square, 1, queue="mail", delay=60)
    waiting.accepted(DEADLINE_S)
    client.submit(work.square, 1, queue="mail").accepted(DEADLINE_S)
    assert client.queues.purge("mail") == 2
    assert waiting.status().state is State.CANCELLED


def test_what_waits_gets_another_priority(queue: Queue) -> None:
    client = queue.client()
    handle = client.submit(work.square, 2, priority=7)
    handle.accepted(DEADLINE_S)

    assert client.reprioritize(handle, priority=2) == 1
    assert client.reprioritize(queue="default", priority=3) == 1
    assert handle.status().spec.options.priority == 3
    with pytest.raises(InvalidValue, match="priority"):
        client.reprioritize(handle, priority=11)
    with pytest.raises(InvalidValue, match="a selection"):
        client.reprioritize(priority=1)


@looped
async def test_coroutines_have_the_same(queue: Queue) -> None:
    async with connected(queue) as client:
        await client.limits.set("api", concurrency=0)
        held = await client.submit(work.square, 2, limits="api", label="nightly")
        assert [view.waiting for view in await client.limits.list()] == [1]
        assert await client.reprioritize(held, priority=1) == 1
        assert await client.queues.pause("mail") == Steering(paused=True)
        assert [view.name for view in await client.queues.list()] == ["default", "mail"]
        await client.queues.resume("mail")
        assert await client.queues.drain("mail") == Steering(draining=True)
        assert await client.queues.weigh("mail", 2) == Steering(draining=True, weight=2)
        assert await client.queues.purge("default") == 1
        await client.limits.remove("api")


def test_verbs_hold_for_all_that_was_submitted_before_accepted_or_not(queue: Queue) -> None:
    # Given so many submissions that most of them are on their way
    client = queue.client()

    def submit(count: int = 1_500, **options: Any) -> None:
        for number in range(count):
            client.submit(work.square, number, **options)
        client.submit_map(work.square, range(count), **options)

    submit(label="nightly", queue="mail")
    assert client.cancel(label="nightly").cancelled == 3_000
    submit(queue="mail")
    assert client.queues.purge("mail") == 3_000
    submit(queue="mail")
    client.queues.drain("mail")
    assert client.stats().counts.unfinished == 3_000


def test_purge_takes_what_a_full_queue_had_no_room_for() -> None:
    # Given a client of which a full queue has no room for some
    with Queue(rules=Rules(max_tasks=10)) as queue:
        client = queue.client()
        for number in range(25):
            client.submit(work.square, number)
        assert client.queues.purge("default") == 25
        assert client.stats().counts.unfinished == 0


def test_verb_that_makes_no_room_in_a_full_queue_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_core, "_HELD_S", 0.1)
    with Queue(rules=Rules(max_tasks=10)) as queue:
        client = queue.client()
        held = [client.submit(work.square, number) for number in range(15)]
        assert client.cancel(label="nightly") == CancelReport(cancelled=0, stopping=0, finished=0)
        assert client.queues.purge("default") == 15
        assert all(handle.status().state is State.CANCELLED for handle in held)


def test_workers_are_drained_and_resumed_by_programs(queue: Queue) -> None:
    # Given
    client = queue.client()
    with queue.working():
        client.submit(work.square, 2).result(DEADLINE_S)
        (worker,) = client.workers.list()

        # When, Then: the order holds at once, and no longer when it is taken back
        assert [each.order for each in client.workers.drain(worker.name, stay=True)] == [WorkerOrder.STAY]
        assert [each.order for each in client.workers.resume(all=True)] == [WorkerOrder.WORK]
        with pytest.raises(UnknownWorker):
            client.workers.stop("nobody-*")

        @looped
        async def asynchronously() -> None:
            async with connected(queue) as near:
                await near.workers.drain(worker.name, stay=True)
                assert [each.name for each in await near.workers.resume(worker.name)] == [worker.name]
                assert [view.name for view in await near.workers.list()] == [worker.name]

        asynchronously()
    for names, everything in [((), False), (("x",), True), (("",), False), ((7,), False)]:
        with pytest.raises(InvalidValue):
            client.workers.stop(*names, all=everything)


def test_explanations_are_had_by_programs(queue: Queue) -> None:
    client = queue.client()
    handle = client.submit(work.square, 2)
    (found,) = client.explain(handle)
    assert found.reasons[0] == handle.status().reason

    @looped
    async def asynchronously() -> None:
        async with connected(queue) as near:
            assert await near.explain(str(handle.id)) == [found]

    asynchronously()


def test_ended_tasks_are_submitted_once_more_by_programs(queue: Queue) -> None:
    # Given
    client = queue.client()
    with queue.working():
        handle = client.submit(work.square, 7)
        assert handle.result(DEADLINE_S) == 49

        # When, Then
        (made,) = client.rerun(handle).batches
        assert client.get(made.batch).result(DEADLINE_S) == 49
        assert client.rerun(state="dead").tasks == 0
        with pytest.raises(InvalidValue):
            client.rerun()

        @looped
        async def asynchronously() -> None:
            async with connected(queue) as near:
                assert (await near.rerun(made.batch)).tasks == 1

        asynchronously()
