"""Tasks with a soft time limit, and a hook around each of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import dtq

HOOKED = "MARKS_OF_HOOKS"


@dtq.around_task
def noted(task: dtq.CurrentTask) -> Iterator[None]:
    """Write down what it is told, where a test asks for it."""
    place = os.environ.get(HOOKED)
    try:
        yield
    finally:
        if place:
            with Path(place).open("a") as file:
                file.write(f"{task.name} {task.id} {task.attempt} {task.queue}\n")


def sleep(seconds: float) -> str:
    """Wait where only a signal ends it."""
    time.sleep(seconds)
    return "slept"


def spin(seconds: float) -> str:
    """Compute."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "spun"


def tidy(seconds: float) -> str:
    """End in order when the limit has come."""
    try:
        return sleep(seconds)
    except dtq.SoftTimeout:
        return "tidied up"


def stubborn(seconds: float) -> str:
    """Take no notice of it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(dtq.SoftTimeout):
            time.sleep(0.01)
    return "went on"


async def nap(seconds: float) -> str:
    """Wait in an event loop."""
    await asyncio.sleep(seconds)
    return "slept"


def tiny(seconds: float) -> float:
    """One of many that take next to nothing, or as long as that."""
    if seconds:
        time.sleep(seconds)
    return seconds
