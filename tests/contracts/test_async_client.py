"""What the client for coroutines promises, against a real coordinator: in this process, and across a socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dtq import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncTaskHandle,
    ClientClosed,
    State,
    TaskCancelled,
    Unreachable,
    WaitTimeout,
)
from dtq.client import outbox
from dtq.client.outcomes import RemoteTraceback
from dtq.core.register import Rules
from dtq.errors import CannotPickle, InvalidId, InvalidValue, QueueFull, UnknownId, WrongKey
from tests.client_scene import DEADLINE_S, Queue
from tests.looping import looped
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


@asynccontextmanager
async def connected(queue: Queue, timeout: float = DEADLINE_S) -> AsyncIterator[AsyncClient]:
    """A client; closed without patience where the test failed, or the coordinator is away."""
    client = AsyncClient(connector=queue, timeout=timeout)
    await client.connect()
    fine = False
    try:
        yield client
        fine = True
    finally:
        with contextlib.suppress(Unreachable):
            await client.close(DEADLINE_S if fine and queue.coordinator is not None else 0)


# -- one task -----------------------------------------------------------------------------------------------------


@looped
async def test_results_come_back_each_to_its_handle(queue: Queue) -> None:
    # Given a worker
    async with connected(queue) as client:
        with queue.working():
            # When tasks are submitted at once; Then each handle has its own result
            handles = await asyncio.gather(*[client.submit(work.add, n, b=1) for n in range(500)])
            assert await asyncio.gather(*handles) == list(range(1, 501))
            assert all(handle.done() and not handle.failed() for handle in handles)
            assert await handles[0].state() is State.SUCCEEDED


@looped
async def test_submit_returns_when_the_task_is_accepted(near: Queue) -> None:
    # Given a coordinator that is away
    async with connected(near) as client:
        near.stop()
        submitting = asyncio.create_task(client.submit(work.add, 1))
        # When something is submitted; Then it is not accepted
        done, _ = await asyncio.wait([submitting], timeout=0.05)
        assert not done
        # When the coordinator is back; Then it is, and has its id
        near.start()
        handle = await submitting
        assert handle.id == "1"
        assert repr(handle) == "<AsyncTaskHandle 1 tests.tasks.numbers_work:add accepted>"


@looped
async def test_refusal_is_raised_by_submit() -> None:
    # Given a queue that is full
    with Queue(rules=Rules(max_tasks=1)) as full:
        async with connected(full) as client:
            await client.submit(work.add, 1)
            # When one more is submitted; Then submitting says why not
            with pytest.raises(QueueFull, match="its limit is 1"):
                await client.submit(work.add, 2)
            # And so does everything that asks, where nobody waited
            handle = client.submit_nowait(work.add, 3)
            for ask in (handle.accepted, handle.result, handle.status, handle.cancel):
                with pytest.raises(QueueFull, match="its limit is 1"):
                    await ask()
            with pytest.raises(QueueFull):
                _ = handle.id


@looped
async def test_own_exception_is_raised_with_the_remote_traceback(queue: Queue) -> None:
    # Given a task that raises
    async with connected(queue) as client:
        with queue.working():
            handle = await client.submit(work.inverse, 0, max_retries=0)
            # When it is awaited
            with pytest.raises(ZeroDivisionError) as caught:
                await handle
            # Then it is its own exception, with the line where it was raised
            assert isinstance(caught.value.__cause__, RemoteTraceback)
            assert "return 1 / n" in "".join(traceback.format_exception(caught.value))
            assert await handle.exception() is caught.value
            assert handle.failed()
            assert await handle.state() is State.DEAD


@looped
async def test_what_cannot_be_sent_is_refused_where_it_is_submitted(queue: Queue) -> None:
    # Given an argument that cannot travel; When it is submitted; Then nothing is, and the caller hears of it
    async with connected(queue) as client:
        with pytest.raises(CannotPickle, match="argument 1"):
            await client.submit(work.add, threading.Lock())
        with pytest.raises(InvalidValue, match="priority"):
            await client.submit(work.add, 1, priority=11)
        assert (await client.stats()).submitted == 0


@looped
async def test_options_leave_all_keywords_to_the_function(queue: Queue) -> None:
    # Given a function whose keywords are named like options
    async with connected(queue) as client:
        with queue.working():
            # When it is submitted through a client with options; Then they arrive, and the options hold
            preset = client.options(priority=2).options(max_retries=0)
            handle = await preset.submit(work.with_own_names, timeout=3, priority="high")
            assert await handle == "3 high"
            options = (await handle.status()).spec.options
            assert (options.priority, options.max_retries) == (2, 0)
            assert [value async for value in preset.map(work.square, [1, 2])] == [1, 4]
            assert await (await preset.submit_map(work.square, [3])) == [9]
            assert await preset.submit_nowait(work.add, 1) == 1


# -- without waiting ----------------------------------------------------------------------------------------------


@looped
async def test_submit_nowait_gives_a_handle_before_it_is_accepted(near: Queue) -> None:
    # Given a client that is not connected; When something is submitted without waiting; Then it says so
    client = AsyncClient(connector=near)
    with pytest.raises(RuntimeError, match="not connected yet"):
        client.submit_nowait(work.add, 1)
    # Given one that is, and a coordinator that is away
    async with client:
        near.stop()
        # When something is submitted; Then there is a handle, without an id
        handle = client.submit_nowait(work.add, 1)
        assert not await handle.accepted(0.02)
        with pytest.raises(asyncio.InvalidStateError, match="not accepted yet"):
            _ = handle.id
        with pytest.raises(WaitTimeout, match="a task not accepted yet"):
            await handle.result(0.01)
        # When the coordinator is back; Then it has
        near.start()
        assert await handle.accepted(DEADLINE_S)
        assert handle.id == "1"


@looped
async def test_full_outbox_makes_submit_wait_and_submit_nowait_refuse(
    near: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an outbox for two, and a coordinator that takes nothing
    monkeypatch.setattr(outbox, "MAX_WAITING", 2)
    async with connected(near) as client:
        near.stop()
        first = client.submit_nowait(work.add, 0)
        await _until(lambda: client._loop.hub.outbox.is_empty)  # under way
        handles = [first, client.submit_nowait(work.add, 1), client.submit_nowait(work.add, 2)]
        # When more is submitted; Then the one refuses, the other waits, and the loop goes on
        with pytest.raises(asyncio.QueueFull):
            client.submit_nowait(work.add, 3)
        waiting = [asyncio.create_task(client.submit(work.add, n)) for n in range(3, 20)]
        _, pending = await asyncio.wait(waiting, timeout=0.02)
        assert len(pending) == len(waiting)
        # When there is room; Then all are accepted, in their order
        near.start()
        handles += await asyncio.gather(*waiting)
        await asyncio.gather(*[handle.accepted() for handle in handles])
        numbers = [tuple(map(int, handle.id.split("."))) for handle in handles]
        assert numbers == sorted(numbers)


@looped
async def test_closing_ends_those_who_wait_for_room(near: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given coroutines that wait for room in the outbox
    monkeypatch.setattr(outbox, "MAX_WAITING", 1)
    async with connected(near) as client:
        near.stop()
        waiting = [asyncio.create_task(client.submit(work.add, n)) for n in range(5)]
        await asyncio.wait(waiting, timeout=0.05)
        # When the client is closed
        with pytest.raises(Unreachable):
            await client.close(0.05)
        # Then all of them hear of it
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(error, ClientClosed | Unreachable) for error in errors), errors


async def _until(true: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


# -- waiting ------------------------------------------------------------------------------------------------------


@looped
async def test_cancelled_coroutine_leaves_the_task_alone(queue: Queue) -> None:
    # Given coroutines that wait for a task
    async with connected(queue) as client:
        handle = await client.submit(work.add, 1)
        waiting = [asyncio.create_task(handle.result()) for _ in range(5)]
        await asyncio.wait(waiting, timeout=0.01)
        # When all but one are cancelled
        for one in waiting[1:]:
            one.cancel()
        await asyncio.wait(waiting[1:])
        # Then nothing of them is left, and the task has its result for the other
        assert len(handle._handle._waiters or ()) == 1
        assert await handle.state() is State.PENDING
        with queue.working():
            assert await waiting[0] == 1


@looped
async def test_task_is_stopped_only_when_asked(queue: Queue) -> None:
    # Given a task that waits
    async with connected(queue) as client:
        handle = await client.submit(work.add, 1)
        waiting = asyncio.create_task(handle.result())
        # When it is cancelled; Then whoever waits gets an error that is not the cancellation of a coroutine
        assert await handle.cancel()
        with pytest.raises(TaskCancelled, match=f"task {handle.id} was cancelled"):
            await waiting
        assert not await handle.cancel()


@looped
async def test_timeout_is_one_of_the_standard_library(queue: Queue) -> None:
    # Given a task that nobody runs
    async with connected(queue) as client:
        handle = await client.submit(work.add, 1)
        # When somebody waits for a while; Then it is a TimeoutError, from either way to wait
        with pytest.raises(TimeoutError, match=f"task {handle.id} did not finish within 0.01 s"):
            await handle.result(0.01)
        with pytest.raises(TimeoutError):
            await handle.exception(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.result(), 0.01)
        assert not await handle.wait(0)
        # And the task goes on
        with queue.working():
            assert await handle == 1
            assert await handle.wait(0)


@looped
async def test_one_wake_up_serves_many(near: Queue) -> None:
    # Given a thousand coroutines that wait
    async with connected(near) as client:
        handles = [client.submit_nowait(work.add, n) for n in range(1000)]
        await asyncio.gather(*[handle.accepted() for handle in handles])
        loop = asyncio.get_running_loop()
        woken = 0
        wake = loop.call_soon_threadsafe

        def counting(*args: Any, **kwargs: Any) -> asyncio.Handle:
            nonlocal woken
            woken += 1
            return wake(*args, **kwargs)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign,assignment]
        # When all of the tasks end
        with near.working():
            results = await asyncio.gather(*handles)
        # Then the loop was woken a few times, and there was no thread for any of them
        assert results == list(range(1000))
        assert woken < 200
        assert sum(thread.name.startswith("dtq-") for thread in threading.enumerate()) <= 6


@looped
async def test_as_completed_gives_handles_as_they_end(queue: Queue) -> None:
    # Given tasks and a batch, some ended and some not
    async with connected(queue) as client:
        slow = await client.submit(work.add, 0, delay=0.1)
        with queue.working():
            ended = await client.submit(work.add, 1)
            await ended
            batch = await client.submit_map(work.square, range(10))
            # When they are read as they end; Then each comes once, the slow one last
            handles: list[AsyncTaskHandle[int] | AsyncBatchHandle[int]] = [slow, ended, batch, ended]
            seen = [handle async for handle in client.as_completed(handles)]
            assert len(seen) == 3
            assert seen[-1] is slow
            assert batch.done()


@looped
async def test_as_completed_times_out_and_leaves_nothing_behind(queue: Queue) -> None:
    # Given a task that nobody runs
    async with connected(queue) as client:
        handle = await client.submit(work.add, 1)
        # When it does not end in time; Then that is said, and nobody waits any more
        with pytest.raises(WaitTimeout, match="1 of 1 handles"):
            async for _ in client.as_completed([handle], timeout=0.01):
                pass
        assert handle._handle._waiters is None


@looped
async def test_wait_tells_the_ended_from_the_others(queue: Queue) -> None:
    # Given tasks that succeed, fail and wait
    async with connected(queue) as client:
        late = await client.submit(work.add, 3, delay=60)
        with queue.working():
            fine, bad = await client.submit(work.add, 1), await client.submit(work.inverse, 0, max_retries=0)
            done, not_done = await client.wait([late, fine, bad], return_when="FIRST_EXCEPTION")
            assert bad in done
            assert late in not_done
            assert await client.wait([fine, bad]) == ({fine, bad}, set())
            first, _ = await client.wait([late, fine], return_when="FIRST_COMPLETED")
            assert first == {fine}
            assert await client.wait([late, fine], timeout=0.01) == ({fine}, {late})
            with pytest.raises(InvalidValue, match="return_when"):
                await client.wait([], return_when="SOON")  # type: ignore[arg-type]


@looped
async def test_calls_do_not_hold_up_the_loop(near: Queue) -> None:
    # Given a coordinator that is away
    async with connected(near) as client:
        near.stop()
        asking = asyncio.create_task(client.stats())
        # When a call waits for it; Then other coroutines run
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not asking.done()
        near.start()
        assert (await asking).submitted == 0


# -- maps ---------------------------------------------------------------------------------------------------------


async def numbers(count: int) -> AsyncIterator[int]:
    for n in range(count):
        if n % 100 == 0:
            await asyncio.sleep(0)
        yield n


@pytest.mark.parametrize("count", [0, 1, 10, 5000])
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
        await _until(lambda: not any(task.get_name() == "dtq-feeder" for task in asyncio.all_tasks()))
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
            with pytest.raises(InvalidValue, match="2500 tasks"):
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


# -- asking and operating -----------------------------------------------------------------------------------------


@looped
async def test_tasks_of_others_are_found_by_their_ids(queue: Queue) -> None:
    # Given tasks that another client submitted
    other = queue.client()
    single, batch = other.submit(work.add, 1, b=2), other.submit_map(work.square, range(3))
    async with connected(queue) as client:
        # When they are asked for by id; Then there are handles that can be awaited
        mine, whole = await client.get(single.id), await client.get_batch(batch.id)
        one = await client.get(f"{batch.id}.2")
        with queue.working():
            assert await asyncio.gather(mine, one, whole) == [3, 4, [0, 1, 4]]
        assert (await client.status(mine)).state is State.SUCCEEDED
        assert (await client.batch_status(whole)).counts.succeeded == 3
        assert [view.state for view in await client.tasks(mine, one)] == [State.SUCCEEDED] * 2
        with pytest.raises(UnknownId):
            await client.get("999")
        with pytest.raises(InvalidId):
            await client.status("nonsense")
        with pytest.raises(TypeError, match="of another client"):
            await client.status(single)


@looped
async def test_operators_verbs_reach_the_coordinator(queue: Queue) -> None:
    # Given two dead letters, and a task that waits
    async with connected(queue) as client:
        with queue.working():
            bad = [await client.submit(work.inverse, 0, max_retries=0) for _ in range(2)]
            await client.wait(bad)
        waiting = await client.submit(work.add, 1)
        # When they are listed, put back, purged, cancelled; Then each verb does what the plain client's does
        assert {str(letter.id) for letter in await client.dead_letters()} == {bad[0].id, bad[1].id}
        assert await client.retry_dead(bad[0]) == 1
        assert await client.purge_dead(all=True) == 1
        assert (await client.cancel(waiting, bad[0])).cancelled == 2
        with pytest.raises(InvalidValue, match="nothing"):
            await client.cancel()


# -- loops --------------------------------------------------------------------------------------------------------


def test_loop_is_only_used_from_its_thread(queue: Queue) -> None:
    # Given a loop that looks which thread calls it
    async def use() -> None:
        async with connected(queue) as client:
            handles = await asyncio.gather(*[client.submit(work.add, n) for n in range(50)])
            assert await asyncio.gather(*handles) == list(range(50))
            assert [value async for value in client.map(work.square, numbers(300))][-1] == 299**2

    # When news come from the client's threads; Then they never do what only the loop's own thread may
    with queue.working():
        asyncio.run(use(), debug=True)


def test_client_needs_a_loop_that_runs(queue: Queue) -> None:
    # Given no loop; When the client is used; Then it says what asyncio says
    client = AsyncClient(connector=queue)
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.submit_nowait(work.add, 1)
    with contextlib.closing(client.stats()) as asking, pytest.raises(RuntimeError, match="no running event loop"):
        asking.send(None)


def test_client_belongs_to_its_first_loop(queue: Queue) -> None:
    # Given a client that was used in a loop that is closed by now, with a coroutine that waited there
    client = AsyncClient(connector=queue)

    async def use() -> Any:
        handle = await client.submit(work.add, 1)
        waiting = asyncio.create_task(handle.result())
        await asyncio.wait([waiting], timeout=0.01)
        return handle

    handle = asyncio.run(use())

    async def again() -> None:
        # When it is used in another; Then everything refuses, in the standard library's words
        for ask in (client.stats, handle.result, lambda: client.submit(work.add, 1), handle.cancel):
            with pytest.raises(RuntimeError, match="is bound to a different event loop"):
                await ask()

    asyncio.run(again())
    # And news that come for the closed loop disturb nobody
    with queue.working():
        assert handle._handle.result(DEADLINE_S) == 1
    client._client.close()


# -- outages and the end ------------------------------------------------------------------------------------------


@looped
async def test_coordinator_that_comes_back_is_followed_again(near: Queue) -> None:
    # Given coroutines that wait for tasks
    async with connected(near) as client:
        handles = await asyncio.gather(*[client.submit(work.add, n) for n in range(1000)])
        waiting = asyncio.gather(*handles)
        await asyncio.sleep(0)
        # When the coordinator goes, comes back, and the tasks run
        near.stop()
        await asyncio.sleep(0.01)
        near.start()
        with near.working():
            # Then all of them have their results
            assert await waiting == list(range(1000))


@looped
async def test_wrong_key_ends_everything(near: Queue) -> None:
    # Given a coordinator that refuses this client
    near.refusal = WrongKey("here", "the test's")
    client = AsyncClient(connector=near)
    # When it is used in any way; Then it says so
    for ask in (client.stats, lambda: client.submit(work.add, 1), client.__aenter__):
        with pytest.raises(WrongKey):
            await ask()


@looped
async def test_closed_client_says_so(queue: Queue) -> None:
    # Given a client that is closed, with a task that has ended and one that has not
    async with AsyncClient(connector=queue) as client:
        with queue.working():
            ended = await client.submit(work.add, 1)
            assert await ended == 1
        waiting = await client.submit(work.add, 2)
        result = asyncio.create_task(waiting.result())
        await asyncio.sleep(0)
    await client.close()
    # When it is used; Then everything says that it is closed, but what is known
    for ask in (
        lambda: client.submit(work.add, 1),
        lambda: anext(client.map(work.add, [1])),
        lambda: client.submit_map(work.add, [1]),
        client.stats,
        waiting.status,
    ):
        with pytest.raises(ClientClosed, match="this client is closed"):
            await ask()
    with pytest.raises(ClientClosed):
        client.submit_nowait(work.add, 1)
    with pytest.raises(ClientClosed):
        await result
    assert await ended == 1
    assert waiting.id == "2"


@looped
async def test_close_sends_what_was_submitted(queue: Queue) -> None:
    # Given submissions that nobody waited for
    async with AsyncClient(connector=queue) as client:
        for n in range(3000):
            client.submit_nowait(work.add, n)
    # When the client has ended; Then all are accepted
    assert queue.client().stats().submitted == 3000


@looped
async def test_exception_in_the_block_is_not_hidden_by_closing(
    near: Queue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a block that raises while the coordinator is away
    client = AsyncClient(connector=near)
    monkeypatch.setattr(client, "close", lambda: client._loop.close(0.05))
    with pytest.raises(KeyError):
        async with client:
            near.stop()
            client.submit_nowait(work.add, 1)
            # When it ends; Then the exception is the block's, and the log has what was lost
            raise KeyError
    assert "was not accepted" in caplog.text


@looped
async def test_client_that_is_forgotten_leaves_no_thread_for_calls(queue: Queue) -> None:
    # Given a client that made a call
    before = set(threading.enumerate())
    client = AsyncClient(connector=queue)
    await client.stats()
    (calls,) = [t for t in threading.enumerate() if t.name == "dtq-loop-calls" and t not in before]
    # When it is dropped
    client._client.close()
    del client
    gc.collect()
    # Then its thread ends
    calls.join(DEADLINE_S)
    assert not calls.is_alive()
