"""Tests that are coroutines: run in a loop of their own, under a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec

from dtq import AsyncClient, Unreachable
from tests.client_scene import DEADLINE_S, Queue

P = ParamSpec("P")

#: How long one test may take, in seconds; far above what it takes.
TEST_S = 60.0


def looped(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test of a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_in_time(test(*args, **kwargs)))

    return run


async def _in_time(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(TEST_S):
        await test


@contextlib.asynccontextmanager
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


async def until(true: Callable[[], object]) -> None:
    """Wait until something is true that no event tells of, looking often."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
