"""Tasks that submit tasks and wait for them, by every face."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import time
from pathlib import Path

from dtq import AsyncClient, Client, Executor, State, as_completed, current_task

#: How long a task waits for the test at most, in seconds.
PATIENCE_S = 60.0


def leaf(number: int) -> int:
    return number


def by_result(number: int) -> int:
    with Client() as client:
        return client.submit(leaf, number).result()


def by_map(number: int) -> int:
    with Client() as client:
        return sum(client.map(leaf, [number, 0]))


def by_batch(number: int) -> int:
    with Client() as client:
        return sum(client.submit_map(leaf, [number, 0]).results())


def by_wait(number: int) -> int:
    with Client() as client:
        handle = client.submit(leaf, number)
        client.wait([handle])
        return handle.result()


def by_future(number: int) -> int:
    with Executor() as executor:
        return executor.submit(leaf, number).result()


def by_futures(number: int) -> int:
    with Executor() as executor:
        future = executor.submit(leaf, number)
        concurrent.futures.wait([future])
        return future.result()


def by_executor_map(number: int) -> int:
    with Executor() as executor:
        return sum(executor.map(leaf, [number, 0]))


async def by_awaiting(number: int) -> int:
    async with AsyncClient() as client:
        return await (await client.submit(leaf, number))


async def by_async_map(number: int) -> int:
    async with AsyncClient() as client:
        return sum([value async for value in client.map(leaf, [number, 0])])


def by_completed(number: int) -> int:
    with Client() as client:
        return sum(handle.result() for handle in as_completed([client.submit(leaf, number), client.submit(leaf, 0)]))


def by_futures_completed(number: int) -> int:
    with Executor() as executor:
        futures = [executor.submit(leaf, number), executor.submit(leaf, 0)]
        return sum(future.result() for future in concurrent.futures.as_completed(futures))


def by_shutdown(number: int) -> int:
    with Executor() as executor:
        future = executor.submit(leaf, number)
    return future.result()


async def by_async_wait(number: int) -> int:
    async with AsyncClient() as client:
        handle = await client.submit(leaf, number)
        done, _ = await client.wait([handle])
        return await done.pop()


async def by_async_completed(number: int) -> int:
    async with AsyncClient() as client:
        handles = [await client.submit(leaf, number), await client.submit(leaf, 0)]
        return sum([await handle async for handle in client.as_completed(handles)])


async def by_gather(number: int) -> int:
    async with AsyncClient() as client:
        handles = [await client.submit(leaf, number), await client.submit(leaf, 0)]
        return sum(await asyncio.gather(*handles))


async def by_run_in_executor(number: int) -> int:
    with Executor() as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, leaf, number)


async def by_wrapped_future(number: int) -> int:
    with Executor() as executor:
        return await asyncio.wrap_future(executor.submit(leaf, number))


async def by_short_awaits(number: int) -> int:
    async with AsyncClient() as client:
        handle = await client.submit(leaf, number)
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(handle.result(), 0.01)


async def by_short_async_waits(number: int) -> int:
    async with AsyncClient() as client:
        handle = await client.submit(leaf, number)
        while not (await client.wait([handle], timeout=0.01))[0]:
            pass
        return await handle


def by_joblib(number: int) -> int:
    import joblib

    import dtq.joblib

    dtq.joblib.register()
    with joblib.parallel_config(backend="dtq"):
        return sum(joblib.Parallel()(joblib.delayed(leaf)(n) for n in (number, 0)))


def by_short_waits(number: int) -> int:
    with Client() as client:
        handle = client.submit(leaf, number)
        while not handle.wait(0.01):
            pass
        return handle.result()


def by_short_results(number: int) -> int:
    with Executor() as executor:
        future = executor.submit(leaf, number)
        while True:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                return future.result(timeout=0.01)


def by_looking_at_handle(number: int) -> int:
    with Client() as client:
        handle = client.submit(leaf, number)
        while not handle.done():
            time.sleep(0.01)
        return handle.result()


def by_looking_at_state(number: int) -> int:
    with Client() as client:
        handle = client.submit(leaf, number)
        while handle.state is not State.SUCCEEDED:
            time.sleep(0.01)
        return handle.result()


def by_looking_at_batch(number: int) -> int:
    with Client() as client:
        batch = client.submit_map(leaf, [number, 0])
        while batch.status().counts.succeeded < 2:
            time.sleep(0.01)
        return sum(batch.results())


def by_looking_at_future(number: int) -> int:
    with Executor() as executor:
        future = executor.submit(leaf, number)
        while not future.done():
            time.sleep(0.01)
        return future.result()


async def by_looking_in_a_loop(number: int) -> int:
    async with AsyncClient() as client:
        handle = await client.submit(leaf, number)
        while not handle.done():
            await asyncio.sleep(0.01)
        return await handle


def fibonacci(number: int) -> int:
    """Waits for tasks that wait for tasks."""
    if number < 2:
        return number
    with Client() as client:
        return sum(client.map(fibonacci, [number - 1, number - 2], max_retries=0))


def priorities() -> list[int]:
    """Those of what this task submits: without and with one of its own."""
    with Client() as client:
        return [client.submit(leaf, 1, **how).status().spec.options.priority for how in ({}, {"priority": 9})]


def wait_for_gate(path: str, queue: str = "default") -> int:
    """Waits for a task that ends when the file is there."""
    with Client() as client:
        return client.submit(gate, path, queue=queue).result()


def gate(path: str) -> int:
    Path(f"{path}.started").touch()
    deadline = time.monotonic() + PATIENCE_S
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


def connect_anyhow() -> None:
    Client()


def in_sight() -> tuple[list[str], str]:
    """What of a key stands in this process's environment and arguments; and this task's worker."""
    words = Path("/proc/self/cmdline").read_text() + Path("/proc/self/environ").read_text()
    return [word for word in words.split("\0") if "authkey" in word.lower()], current_task().worker


def wait_in_queue(queue: str) -> int:
    """Waits for a task in a queue."""
    with Client() as client:
        return client.submit(leaf, 1, queue=queue).result()
