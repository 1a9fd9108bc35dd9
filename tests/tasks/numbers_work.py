"""Functions that the tests of the client have called, here or in real slots."""

from __future__ import annotations

import asyncio
import threading
import time

from dtq import current_task, task


def add(a: int, b: int = 0) -> int:
    return a + b


def square(n: int) -> int:
    return n * n


def nothing(*args: object) -> None:
    return None


def inverse(n: int) -> float:
    return 1 / n


def with_own_names(*, timeout: int, priority: str) -> str:
    return f"{timeout} {priority}"


@task(keep_results=60)
def kept_briefly(n: int) -> int:
    return n * n


@task(priority=1, max_retries=0, timeout=60)
def urgent(n: int) -> int:
    return n


def unpicklable() -> object:
    return threading.Lock()


def large(size: int) -> bytes:
    return b"x" * size


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def who_am_i() -> tuple[str, int]:
    current = current_task()
    current.progress(1, 2)
    return current.id, current.attempt


def raise_control(name: str, good: int = 0) -> int:
    """Raise what Python itself uses to end something; 0 where that is to be none."""
    if name == "none":
        return good
    kinds: dict[str, type[BaseException]] = {
        "StopIteration": StopIteration,
        "StopAsyncIteration": StopAsyncIteration,
        "GeneratorExit": GeneratorExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "SystemExit": SystemExit,
        "CancelledError": asyncio.CancelledError,
    }
    raise kinds[name](good)
