"""Wrong use of every face gives the exception that the standard library would give for it, and says what it is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dtq import AsyncClient, Client, TaskQueue, Worker
from dtq.testing import InProcessQueue
from tests.looping import looped
from tests.tasks import numbers_work as numbers

LOCK = threading.Lock()


def closure() -> Callable[[], bool]:
    """What no pickle takes."""
    lock = threading.Lock()
    return lambda: lock.locked()


def refused(kind: type[BaseException], said: str, use: Callable[[], object]) -> None:
    """Make sure of what wrong use raises."""
    with pytest.raises(kind, match=said):
        use()


# -- a client for threads -----------------------------------------------------------------------------------------


def test_submit_after_the_end_is_a_runtime_error(dtq_queue: InProcessQueue) -> None:
    # Given a client that is closed; When it is used
    client = Client(connector=dtq_queue)
    client.close()
    # Then it is what an executor raises that was shut down
    refused(RuntimeError, "this client is closed", lambda: client.submit(numbers.add, 1))
    refused(RuntimeError, "this client is closed", lambda: client.submit_map(numbers.add, [1]))
    refused(RuntimeError, "this client is closed", lambda: list(client.map(numbers.add, [1])))
    refused(RuntimeError, "this client is closed", client.stats)


def test_result_of_a_cancelled_task_is_a_cancelled_error(dtq_queue: InProcessQueue) -> None:
    # Given tasks that were cancelled, one of them before anybody waited
    client = dtq_queue.client
    handle = client.submit(numbers.add, 1)
    assert handle.cancel()
    assert handle.wait(20)
    # When their results are asked for; Then it is what a future raises that was cancelled
    refused(concurrent.futures.CancelledError, f"task {handle.id} was cancelled", handle.result)
    assert isinstance(handle.exception(), concurrent.futures.CancelledError)
    batch = client.submit_map(numbers.add, [1, 2])
    batch.cancel()
    refused(concurrent.futures.CancelledError, "was cancelled", lambda: list(batch.results()))
    # And it is an Exception, as it has to be where programs look after their tasks
    assert isinstance(handle.exception(), Exception)


def test_what_cannot_be_pickled_is_a_pickling_error(dtq_queue: InProcessQueue) -> None:
    client = dtq_queue.client
    refused(pickle.PicklingError, "cannot pickle", lambda: client.submit(closure()))
    refused(pickle.PicklingError, "argument 1 .*cannot be pickled", lambda: client.submit(numbers.add, LOCK))
    refused(TypeError, "cannot be pickled", lambda: client.submit(numbers.add, LOCK))
    dtq_queue.assert_nothing_submitted()


def test_time_that_runs_out_is_a_timeout_error(dtq_queue: InProcessQueue) -> None:
    # Given a task that nobody runs; When somebody waits for it, in any way; Then it is the builtin TimeoutError
    client = dtq_queue.client
    handle = client.submit(numbers.add, 1)
    refused(TimeoutError, "did not finish within 10 ms", lambda: handle.result(timeout=0.01))
    refused(TimeoutError, "did not finish within 10 ms", lambda: handle.exception(timeout=0.01))
    refused(concurrent.futures.TimeoutError, "within 10 ms", lambda: list(client.as_completed([handle], timeout=0.01)))
    # And the task goes on
    dtq_queue.run_due()
    assert handle.result() == numbers.add(1)


def test_what_is_no_function_is_a_type_error(dtq_queue: InProcessQueue) -> None:
    wrong: Any = numbers.add(1)
    refused(TypeError, "a task is a function, not int", lambda: dtq_queue.client.submit(wrong))
    refused(TypeError, "at least one iterable", lambda: dtq_queue.client.map(numbers.add))
    refused(TypeError, "not iterable|must support iteration", lambda: dtq_queue.client.submit_map(numbers.add, wrong))
    refused(TypeError, "prioriy", lambda: dtq_queue.client.options(prioriy=1))  # type: ignore[call-arg]
    refused(ValueError, "priority cannot be 11", lambda: dtq_queue.client.submit(numbers.add, 1, priority=11))


def test_unknown_id_is_a_lookup_error(dtq_queue: InProcessQueue) -> None:
    refused(LookupError, "no task 99 is known", lambda: dtq_queue.client.get("99"))
    refused(ValueError, "'x' is not a task id", lambda: dtq_queue.client.get("x"))


# -- a client for coroutines --------------------------------------------------------------------------------------


@looped
async def test_coroutines_get_the_same(dtq_queue: InProcessQueue) -> None:
    # Given a client for coroutines, with a task that is cancelled and one that waits
    async with dtq_queue.async_client() as client:
        handle = await client.submit(numbers.add, 1)
        assert await handle.cancel()
        # When they are awaited; Then each raises its own, and none takes it for a cancellation of the coroutine
        with pytest.raises(concurrent.futures.CancelledError):
            await handle
        done = await asyncio.gather(handle.result(), return_exceptions=True)
        assert [type(error).__name__ for error in done] == ["TaskCancelled"]
        waiting = await client.submit(numbers.add, 1)
        with pytest.raises(TimeoutError):
            await waiting.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting.result(), 0.01)
        with pytest.raises(pickle.PicklingError):
            await client.submit(closure())
        with pytest.raises(TypeError):
            await client.submit(3)  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="this client is closed"):
        await client.submit(numbers.add, 1)


def test_loop_that_is_closed_or_another_one_is_a_runtime_error(dtq_queue: InProcessQueue) -> None:
    use_closed_loop(dtq_queue.async_client())
    gc.collect()  # the client's thread for calls ends when nobody has the client any more


def use_closed_loop(client: AsyncClient) -> None:
    # Given a client that was used in a loop that is closed now
    loop = asyncio.new_event_loop()
    handle = loop.run_until_complete(client.submit(numbers.add, 1))
    loop.close()
    # When its handles are awaited there, or in another one; Then it is what asyncio itself raises
    waiting = handle.result()
    refused(RuntimeError, "Event loop is closed", lambda: loop.run_until_complete(waiting))
    waiting.close()
    refused(RuntimeError, "is bound to a different event loop", lambda: asyncio.run(_await(handle.result)))
    refused(RuntimeError, "is bound to a different event loop", lambda: asyncio.run(_submit(client)))
    # And where none runs there is none
    refused(RuntimeError, "no running event loop", lambda: client.submit(numbers.add, 1).send(None))


async def _await(make: Callable[[], Any]) -> None:
    await make()


async def _submit(client: AsyncClient) -> None:
    await client.submit(numbers.add, 1)


# -- the queue, the worker ----------------------------------------------------------------------------------------


def test_queue_that_is_not_started_is_a_runtime_error() -> None:
    queue = TaskQueue(num_workers=1)
    refused(RuntimeError, "not running: await its start", queue.get_stats)
    refused(RuntimeError, "not running: await its start", lambda: asyncio.run(queue.submit(numbers.add, 1)))
    refused(ValueError, "num_workers|slots", lambda: TaskQueue(num_workers=0))


def test_handler_that_is_none_is_a_type_error() -> None:
    wrong: Any = 3
    refused(TypeError, "a handler is a function, not int", lambda: Worker().register_handler("x", wrong))
    refused(ValueError, "poll_interval", lambda: Worker().start(poll_interval=0))
