"""Coroutine functions, and functions that log, for tests that run them in real slots."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from functools import partial
from pathlib import Path

from dtq import task


async def plus(a: int, b: int) -> int:
    await asyncio.sleep(0.001)
    return a + b


async def both(a: int, b: int) -> tuple[int, int, bool]:
    """Runs coroutines of its own at the same time; in the main thread, as libraries expect."""
    first, second = await asyncio.gather(plus(a, 1), plus(b, 1))
    return first, second, threading.current_thread() is threading.main_thread()


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("asynchronously")


class Adder:
    """An object with an asynchronous call."""

    def __init__(self, by: int) -> None:
        self.by = by

    async def __call__(self, n: int) -> int:
        return await plus(n, self.by)


plus_one = partial(plus, 1)


def logs(path: str) -> None:
    """Write what a handler of the user's, with a format of the user's, makes of two records; then fail once."""
    logger = logging.getLogger("shop")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(task_id)s %(attempt)d %(message)s"))
    logger.addHandler(handler)
    try:
        logger.warning("plain")
        logger.warning("extra", extra={"task_id": "mine", "order": 7})
        thread = threading.Thread(target=logger.warning, args=("thread",))
        thread.start()
        thread.join()
    finally:
        logger.removeHandler(handler)
        handler.close()
    if len(Path(path).read_text().splitlines()) < 6:
        raise ConnectionError("once more")


@task(name="async_work.pid")
def registered_pid(payload: dict[str, object]) -> int:
    return os.getpid()


@task(name="async_work.slow", max_retries=0)
async def registered_slow(payload: dict[str, int]) -> bool:
    return await plus(payload["a"], payload["b"]) == payload["sum"]
