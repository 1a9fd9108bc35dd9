"""A task that raises what ends iterations, coroutines or programs: every face says so, none ends early or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from typing import Any

import pytest

import dtq
from dtq.errors import TaskFailed
from dtq.testing import InProcessQueue
from tests.client_scene import DEADLINE_S, Queue
from tests.looping import connected, looped
from tests.tasks import numbers_work as work

ITERATION = ("StopIteration", "StopAsyncIteration")
ENDING = ("GeneratorExit", "SystemExit", "CancelledError")
#: One that ends an iteration, between two that do not.
NAMES = ("none", "StopIteration", "none")


@pytest.fixture
def queue() -> Iterator[Queue]:
    with Queue() as made:
        yield made


@pytest.fixture(scope="module")
def executor() -> Iterator[dtq.Executor]:
    with dtq.Executor.local(1) as made:
        yield made


def expected(name: str) -> tuple[type[BaseException], str]:
    return (RuntimeError, f"raised {name}$") if name in ITERATION else (TaskFailed, f"failed: .*{name}: 0$")


@pytest.mark.parametrize("name", ITERATION + ENDING)
def test_result_raises_what_no_reader_takes_for_its_own_end(queue: Queue, name: str) -> None:
    kind, sentence = expected(name)
    with queue.working():
        handle = queue.client().submit(work.raise_control, name, max_retries=0)
        with pytest.raises(kind, match=sentence) as caught:
            handle.result(DEADLINE_S)
    assert handle.exception() is caught.value
    if name in ITERATION:
        assert type(caught.value.__cause__).__name__ == name


@pytest.mark.parametrize(
    "read",
    [
        lambda client: client.map(work.raise_control, NAMES, max_retries=0),
        lambda client: client.map(work.raise_control, NAMES, max_retries=0, ordered=False),
        lambda client: client.submit_map(work.raise_control, NAMES, max_retries=0).results(),
    ],
    ids=["map", "unordered map", "batch"],
)
def test_reading_ends_with_an_error(queue: Queue, read: Callable[[Any], Iterator[Any]]) -> None:
    with queue.working(), pytest.raises(RuntimeError, match="raised StopIteration"):
        list(read(queue.client()))


def test_exceptions_are_given_in_their_place(queue: Queue) -> None:
    with queue.working():
        found = list(queue.client().map(work.raise_control, NAMES, max_retries=0, return_exceptions=True))
    assert [type(value) for value in found] == [int, RuntimeError, int]


@looped
async def test_coroutines_get_an_error(queue: Queue) -> None:
    async with connected(queue) as client:
        with queue.working():
            for name in ITERATION + ENDING:
                kind, sentence = expected(name)
                with pytest.raises(kind, match=sentence):
                    await (await client.submit(work.raise_control, name, max_retries=0))
                names = ("none", name)
                with pytest.raises(kind, match=name):
                    async for _ in client.map(work.raise_control, names, max_retries=0):
                        pass
                with pytest.raises(kind, match=name):
                    await (await client.submit_map(work.raise_control, names, max_retries=0))


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_of_an_executor_ends_with_an_error(executor: dtq.Executor, chunksize: int) -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(executor.map(work.raise_control, NAMES, chunksize=chunksize))


def test_futures_have_the_error(executor: dtq.Executor) -> None:
    futures = [executor.submit(work.raise_control, name) for name in ITERATION]
    for future in as_completed(futures, DEADLINE_S):
        with pytest.raises(RuntimeError, match=r"raised Stop.*Iteration"):
            future.result()


def test_run_in_executor_ends(executor: dtq.Executor) -> None:
    async def run(name: str) -> None:
        await asyncio.wait_for(
            asyncio.get_running_loop().run_in_executor(executor, work.raise_control, name), DEADLINE_S
        )

    for name in ITERATION:
        with pytest.raises(RuntimeError, match=f"raised {name}"):
            asyncio.run(run(name))


def test_task_queue_has_the_error() -> None:
    async def run() -> None:
        async with dtq.TaskQueue(1) as queue:
            await queue.result(await queue.submit(work.raise_control, "StopIteration", max_retries=0), DEADLINE_S)

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        asyncio.run(run())


def test_queue_of_a_test_has_the_same() -> None:
    with InProcessQueue() as queue:
        handles = {name: queue.client.submit(work.raise_control, name, max_retries=0) for name in ITERATION + ENDING}
        queue.run_all()
        for name, handle in handles.items():
            kind, sentence = expected(name)
            with pytest.raises(kind, match=sentence):
                handle.result()
