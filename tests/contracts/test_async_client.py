"""What the client for coroutines promises, against a real coordinator: in this process, and across a socket."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import datetime
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
from dtq.core.queue_state import Rules
from dtq.errors import CannotPickle, InvalidId, InvalidValue, QueueFull, StoreReplaced, UnknownId, WrongKey
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
        async with AsyncClient(connector=full, when_full="fail") as client:
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
            preset = client.options(priority=2, keep_results=60).options(max_retries=0)
            handle = await preset.submit(work.with_own_names, timeout=3, priority="high")
            assert await handle == "3 high"
            options = (await handle.status()).spec.options
            assert (options.priority, options.max_retries, options.keep_results_s) == (2, 0, 60.0)
            brief = await client.submit(work.square, 3, keep_results=1)
            assert (await brief.status()).spec.options.keep_results_s == 1.0
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
        await until(lambda: client._loop.shared.outbox.is_empty)  # under way
        handles = [first, client.submit_nowait(work.add, 1), client.submit_nowait(work.add, 2)]
        # When more is submitted; Then the one refuses, the other waits, and the loop goes on
        with pytest.raises(asyncio.QueueFull):
            client.submit_nowait(work.add, 3)
        waiting = [asyncio.create_task(client.submit(work.add, n)) for n in range(3, 20)]
        _, pending = await asyncio.wait(waiting, timeout=0.02)
        assert len(pending) == len(waiting)
        # When there is room, and one more comes before those who wait have seen it
        near.start()
        while not client._loop.shared.outbox.is_empty:
            time.sleep(0.001)  # the loop sees nothing meanwhile
        waiting.append(asyncio.create_task(client.submit(work.add, 20)))
        # Then all are accepted, in their order
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
        with pytest.raises(TimeoutError, match=f"task {handle.id} did not finish within 10 ms"):
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
async def test_moment_is_kept_by_every_way_to_submit(queue: Queue) -> None:
    at = datetime(2030, 1, 1, 8)
    async with connected(queue) as client:
        for handle in (await client.submit(work.add, 1, at=at), client.submit_nowait(work.add, 1, at=at)):
            await handle.accepted()
            assert (await handle.status()).due_at == at.timestamp()
        batch = await client.submit_map(work.add, [1, 2], at=at)
        assert [view.due_at for view in await client.tasks(batch)] == [at.timestamp()]


@looped
async def test_schedules_are_defined_steered_and_run(queue: Queue) -> None:
    async with connected(queue) as client:
        schedules = client.schedules
        assert await schedules.add("a", {"every": 3600}, work.add, 1, 2, options={"priority": 2}) == "added"
        await schedules.pause("a")
        assert [(view.schedule.name, view.paused) for view in await schedules.list()] == [("a", True)]
        handle = await schedules.run("a")
        with queue.working():
            assert await handle == 3
        await schedules.resume("a")
        assert len((await schedules.get("a")).upcoming) == 3
        await schedules.remove("a")
        assert await schedules.list() == []


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
        assert {str(view.batch) for view in await client.batches(function="*")} >= {single.id, batch.id}
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
async def test_close_does_not_wait_behind_a_call(near: Queue) -> None:
    # Given a call that waits for a coordinator that is away
    async with connected(near) as client:
        near.stop()
        asking = asyncio.create_task(client.stats())
        await asyncio.wait([asking], timeout=0.05)
        # When the client is closed; Then both end at once
        began = time.monotonic()
        with contextlib.suppress(Unreachable):
            await client.close(0.05)
        with pytest.raises((ClientClosed, Unreachable)):
            await asking
        assert time.monotonic() - began < DEADLINE_S / 2


@looped
async def test_wrong_key_ends_everything(near: Queue) -> None:
    # Given a coordinator that refuses this client
    near.refusal = WrongKey("here", "the test's")
    client = AsyncClient(connector=near)
    # When it is used in any way; Then it says so
    for ask in (client.stats, lambda: client.submit(work.add, 1), client.__aenter__):
        with pytest.raises(WrongKey):
            await ask()
    await client.close()


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
    before = set(threading.enumerate())
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
    # And no thread is started that nobody would end
    assert not set(threading.enumerate()) - before


@looped
async def test_client_has_one_thread_for_calls_over_two_stores(near: Queue) -> None:
    # Given a client with a handle of a store that another has taken the place of
    def callers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "dtq-loop-calls" and thread not in before]

    before = set(threading.enumerate())
    async with connected(near) as client:
        lost = await client.submit(work.add, 1)
        near.stop()
        near.forget_everything()
        near.start()
        # When both the handle and the client are used
        with pytest.raises(StoreReplaced):
            await lost.status()
        assert (await client.stats()).submitted == 0
        with pytest.raises(StoreReplaced):
            await lost.status()
        (thread,) = callers()
    # Then there was one thread, which ends with the client
    thread.join(DEADLINE_S)
    assert not callers()


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
