"""What maps and batches promise to coroutines, against a real coordinator: in this process, and across a socket."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import pytest

from dtq import (
    TaskCancelled,
)
from dtq.client import async_handle
from dtq.errors import CannotPickle, InvalidValue
from tests.client_scene import DEADLINE_S, Queue
from tests.looping import connected, looped, until
from tests.tasks import numbers_work as work


@pytest.fixture(params=["in process", "wire"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue(wire=request.param == "wire") as made:
        yield made


@pytest.fixture
def near() -> Iterator[Queue]:
    """A queue whose lines the test can cut."""
    with Queue() as made:
        yield made


# -- maps ---------------------------------------------------------------------------------------------------------


async def numbers(count: int) -> AsyncIterator[int]:
    for n in range(count):
        if n % 100 == 0:
            await asyncio.sleep(0)
        yield n


@pytest.mark.parametrize("count", [0, 1, 10, 2100])
@looped
async def test_map_gives_all_results_in_order(queue: Queue, count: int) -> None:
    # Given a worker; When a map is read; Then its results come in the order of its items, from any kind of iterable
    expected = [n * n for n in range(count)]
    async with connected(queue) as client:
        with queue.working():
            assert [value async for value in client.map(work.square, range(count))] == expected
            assert [value async for value in client.map(work.square, (n for n in range(count)))] == expected
            assert [value async for value in client.map(work.square, numbers(count))] == expected
            assert sorted([value async for value in client.map(work.square, numbers(count), ordered=False)]) == expected


@looped
async def test_map_zips_iterables_of_both_kinds(queue: Queue) -> None:
    # Given iterables of different lengths and kinds; When they are mapped together; Then the shortest ends the map
    async with connected(queue) as client:
        with queue.working():
            assert [v async for v in client.map(work.add, numbers(5), range(3))] == [0, 2, 4]
            assert [v async for v in client.map(work.add, range(5), numbers(3))] == [0, 2, 4]


@looped
async def test_map_raises_where_its_turn_comes(queue: Queue) -> None:
    # Given a map with an item that fails
    async with connected(queue) as client:
        with queue.working():
            seen = []
            with pytest.raises(ZeroDivisionError):
                async for value in client.map(work.inverse, [1, 2, 0, 4], max_retries=0):
                    seen.append(value)
            # Then what came before it was given; and with exceptions wanted, all of it is
            assert seen == [1.0, 0.5]
            mixed = client.map(work.inverse, [1, 0], max_retries=0, return_exceptions=True)
            results: list[object] = [value async for value in mixed]
            first, second = results
            assert first == 1.0
            assert isinstance(second, ZeroDivisionError)


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
@looped
async def test_map_raises_what_its_iterable_raises_after_the_results(queue: Queue, kind: str) -> None:
    # Given an iterable that breaks
    def plain() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more")

    async def asynchronous() -> AsyncIterator[int]:
        for n in range(3):
            yield n
        raise LookupError("no more")

    async with connected(queue) as client:
        with queue.working():
            seen: list[int] = []
            items: Any = plain() if kind == "plain" else asynchronous()
            # When it is mapped; Then its results come, and then what it raised
            with pytest.raises(LookupError, match="no more"):
                async for value in client.map(work.square, items):
                    seen.append(value)
            assert seen == [0, 1, 4]
            # And a map that is only submitted is given up
            items = plain() if kind == "plain" else asynchronous()
            with pytest.raises(LookupError, match="no more"):
                await client.submit_map(work.square, items)


@pytest.mark.parametrize("how", ["break", "cancel", "never read on"])
@looped
async def test_map_that_is_left_is_cancelled(queue: Queue, how: str) -> None:
    # Given an endless map, whose iterable says how far it was pulled
    pulled = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled
            if pulled % 100 == 0:
                await asyncio.sleep(0)

    async with connected(queue) as client:
        with queue.working():
            # When it is left, in one way or another
            await _leave(client.map(work.square, endless(), read_ahead=500), how)
        # Then its items are pulled no more, and what has not ended is cancelled
        await until(lambda: not any(task.get_name() == "dtq-feeder" for task in asyncio.all_tasks()))
        before = pulled
        deadline = time.monotonic() + DEADLINE_S
        while (await client.stats()).counts.unfinished:
            assert time.monotonic() < deadline, await client.stats()
        assert pulled == before


async def _leave(results: AsyncGenerator[int, None], how: str) -> None:
    if how == "never read on":
        assert await anext(results) == 1
        del results
        gc.collect()
    elif how == "break":
        async for _ in results:
            break
        await results.aclose()
    else:
        reading = asyncio.create_task(_read_all(results))
        await asyncio.wait([reading], timeout=0.05)
        reading.cancel()
        await asyncio.wait([reading])


async def _read_all(results: AsyncIterator[int]) -> None:
    async for _ in results:
        pass


@looped
async def test_map_pulls_no_further_than_it_may(queue: Queue) -> None:
    # Given a map whose results nobody produces
    pulled = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    async with connected(queue) as client:
        reading = asyncio.ensure_future(anext(client.map(work.square, endless(), read_ahead=100)))
        # When it is read; Then no more items are pulled than may be ahead, and the loop goes on
        await asyncio.wait([reading], timeout=0.1)
        assert 100 <= pulled <= 101
        reading.cancel()
        await asyncio.wait([reading])


@looped
async def test_wrong_map_is_refused(queue: Queue) -> None:
    async with connected(queue) as client:
        with pytest.raises(InvalidValue, match="use submit_map"):
            await anext(client.map(work.square, [1], key="k"))
        with pytest.raises(TypeError, match="at least one iterable"):
            await anext(client.map(work.square))
        with pytest.raises(CannotPickle):
            await anext(client.map(work.square, [threading.Lock()]))


# -- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
@looped
async def test_batch_is_read_awaited_and_taken_apart(queue: Queue, kind: str) -> None:
    # Given a batch that was submitted as a whole
    async with connected(queue) as client:
        items: Any = range(2500) if kind == "plain" else numbers(2500)
        batch = await client.submit_map(work.square, items)
        assert batch.size == 2500
        assert (await batch.status()).complete
        assert not batch.done()
        assert not await batch.wait(0.01)
        with queue.working():
            # When it is read; Then all of its results are there, as often as they are asked for
            assert [value async for value in batch] == [n * n for n in range(2500)]
            assert (await batch)[-1] == 2499**2
            assert await batch.wait()
            task = await batch.task(7)
            assert (await task, task.id) == (49, f"{batch.id}.7")
            assert batch.done()
            assert not batch.failed()
            with pytest.raises(InvalidValue, match="2,500 tasks"):
                await batch.task(2500)


@looped
async def test_batch_without_items_has_no_results(queue: Queue) -> None:
    async with connected(queue) as client:
        batch = await client.submit_map(work.square, [])
        assert await batch == []
        assert await batch.wait(0)
        with pytest.raises(InvalidValue, match="without tasks"):
            _ = batch.id


@looped
async def test_batch_is_cancelled(queue: Queue) -> None:
    # Given a batch that waits
    async with connected(queue) as client:
        batch = await client.submit_map(work.square, range(100))
        # When it is cancelled; Then all of it has ended, without results
        assert (await batch.cancel()).cancelled == 100
        assert await batch.wait(DEADLINE_S)
        with pytest.raises(TaskCancelled):
            await batch
        assert len([error async for error in batch.results(return_exceptions=True)]) == 100


@looped
async def test_batch_that_another_is_still_submitting_is_waited_for(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a batch of another client's, whose last items are still to come
    monkeypatch.setattr(async_handle, "SIZE_EVERY_S", 0.02)
    more = threading.Event()

    def items() -> Iterator[int]:
        yield from range(100)
        more.wait(DEADLINE_S)
        yield from range(100, 150)

    other = queue.client()
    results = other.map(work.square, items())
    with queue.working():
        assert next(results) == 0
        async with connected(queue) as client:
            batch = await client.get_batch("1")
            # When it is waited for; Then it has not ended before all of it is there
            waiting = asyncio.create_task(batch.wait())
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            more.set()
            assert list(results)[-1] == 149**2
            assert await waiting
            assert batch.size == 150
            assert (await batch)[-1] == 149**2
