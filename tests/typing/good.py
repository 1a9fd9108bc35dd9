"""Calls that are right: a checker of types finds nothing here, and every type is exactly as written.

Read by checkers, never run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, assert_type

from dtq import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncTaskHandle,
    BatchHandle,
    Client,
    Executor,
    State,
    TaskHandle,
    TaskQueue,
    TaskStatus,
    Worker,
    as_completed,
    current_task,
    progress,
    task,
    wait,
)
from dtq.testing import Cluster, InProcessQueue, Ran, Submitted


def plain(a: int, b: str = "") -> float:
    return a + len(b)


async def coroutine(a: int) -> bytes:
    return bytes(a)


def untyped(a):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - as many programs have them
    return a


@task
def bare(a: int) -> str:
    return str(a)


@task(
    priority=1,
    max_retries=0,
    timeout=timedelta(minutes=1),
    never_retry=(ValueError, "mymodule.Bad"),
    keep_results=timedelta(hours=1),
)
def with_terms(a: int, *, size: int = 1) -> list[int]:
    return [a] * size


@task(name="email")
def email(payload: dict[str, str]) -> bool:
    return bool(payload)


@task(max_retries=1)
async def decorated_coroutine(a: int) -> int:
    return a


def decorators_keep_the_signature() -> None:
    assert_type(bare(1), str)
    assert_type(with_terms(1, size=2), list[int])
    assert_type(email({"to": "me"}), bool)
    kept: Callable[[dict[str, str]], bool] = email
    assert_type(kept({}), bool)


def submitting(client: Client) -> None:
    assert_type(client.submit(plain, 1, b="x"), TaskHandle[float])
    assert_type(client.submit(plain, 1).result(timeout=3), float)
    assert_type(client.submit(bare, 1, priority=1, delay=timedelta(seconds=1), keep_results=60, key="k").result(), str)
    assert_type(client.submit(bare, 1, at=datetime(2030, 1, 1)).result(), str)
    assert_type(client.schedules.add("x", {"every": 5}, bare, 1, options={"priority": 1}), str)
    assert_type(client.schedules.list()[0].upcoming, tuple[float, ...])
    assert_type(client.submit(with_terms, 1, size=2, timeout=None).result(), list[int])
    assert_type(client.submit(coroutine, 1).result(), bytes)
    assert_type(client.submit(decorated_coroutine, 1).result(), int)
    assert_type(client.submit("module:function", 1).result(), Any)
    assert_type(client.submit("email", {"to": "me"}), TaskHandle[Any])
    assert_type(client.submit(lambda: 1).result(), int)
    client.submit(untyped, 1).result()
    handle = client.submit(plain, 1)
    assert_type(handle.id, str)
    assert_type(handle.state, State)
    assert_type(handle.exception(), BaseException | None)
    assert_type(handle.cancel(), bool)


def mapping(client: Client) -> None:
    assert_type(client.map(plain, [1], ["x"], ordered=False, progress=True), Generator[float, None, None])
    assert_type(list(client.map(coroutine, [1], priority=2)), list[bytes])
    assert_type(list(client.map("module:function", [1])), list[Any])
    batch = client.submit_map(plain, range(3), max_retries=0)
    assert_type(batch, BatchHandle[float])
    assert_type(batch.results(), Iterator[float])
    assert_type(batch.task(1), TaskHandle[float])
    assert_type(client.submit_map(coroutine, range(3)), BatchHandle[bytes])
    assert_type(client.submit_map(plain, batch, ["x"]), BatchHandle[float])


def presets(client: Client) -> None:
    preset = client.options(priority=1, max_retries=0)
    assert_type(preset.submit(plain, 1, b="x").result(), float)
    assert_type(preset.submit(coroutine, a=1).result(), bytes)
    assert_type(preset.submit("email", {}).result(), Any)
    assert_type(list(preset.map(plain, [1])), list[float])
    assert_type(preset.submit_map(plain, [1]), BatchHandle[float])


def waiting(client: Client) -> None:
    handles = [client.submit(plain, n) for n in range(3)]
    for handle in as_completed(handles, timeout=1):
        assert_type(handle, TaskHandle[float])
    done, not_done = wait(handles, return_when="FIRST_COMPLETED")
    assert_type(done, set[TaskHandle[float]])
    assert_type(not_done, set[TaskHandle[float]])
    assert_type(progress(handles).done, set[TaskHandle[float]])


async def awaiting(client: AsyncClient) -> None:
    handle = await client.submit(plain, 1, b="x", priority=1)
    assert_type(handle, AsyncTaskHandle[float])
    assert_type(await handle, float)
    assert_type(await handle.result(timeout=1), float)
    assert_type(await (await client.submit(coroutine, 1)), bytes)
    assert_type(await (await client.submit("email", {})), Any)
    assert_type(await client.submit_nowait(plain, 1), float)
    assert_type(client.map(plain, [1]), AsyncGenerator[float, None])
    async for value in client.map(coroutine, [1], read_ahead=5):
        assert_type(value, bytes)
    batch = await client.submit_map(plain, [1])
    assert_type(batch, AsyncBatchHandle[float])
    assert_type(await batch, list[float])
    async for number in batch:
        assert_type(number, float)
    async for ended in client.as_completed([handle]):
        assert_type(ended, AsyncTaskHandle[float])
    done, _ = await client.wait([handle])
    assert_type(done, set[AsyncTaskHandle[float]])
    assert_type(await (await client.options(delay=1).submit(plain, 1)), float)


async def queueing() -> None:
    async with TaskQueue(num_workers=4) as queue:
        id = await queue.submit(plain, 1, b="x", priority=10, max_retries=3)
        assert_type(id, str)
        assert_type(queue.get_task_status(id), TaskStatus)
        assert_type(queue.get_stats()["success_rate"], float)


def working() -> None:
    worker = Worker(worker_id="w", slots=2)
    worker.register_handler("email", email)
    worker.register_handler("other", lambda payload: True)
    worker.start(poll_interval=1.0)


def inside() -> str:
    current_task().progress(1, 2)
    return current_task().id


def executing() -> None:
    with Executor.local(slots=2, priority=1) as executor:
        assert_type(executor.submit(plain, 1, b="x"), Future[float])
        assert_type(executor.submit(bare, 1).result(timeout=1), str)
        assert_type(list(executor.map(plain, [1], ["x"], chunksize=5)), list[float])


def testing() -> None:
    with InProcessQueue(highest_first=True) as queue:
        assert_type(queue.client, Client)
        assert_type(queue.async_client(), AsyncClient)
        assert_type(queue.run_due("mail", at_most=3), list[Ran])
        assert_type(queue.run_all()[0].error, BaseException | None)
        assert_type(queue.assert_submitted(plain, 1, b="x", priority=1), list[Submitted])
        assert_type(queue.submitted("email")[0].args, tuple[Any, ...])
        assert_type(queue.advance(1), float)
        with queue.working() as ran:
            assert_type(ran, list[Ran])
    with Cluster(slots=1, db="queue.db") as cluster, cluster.client() as client:
        assert_type(client.submit(plain, 1).result(), float)
        assert_type(cluster.environment, dict[str, str])
