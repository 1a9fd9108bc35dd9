"""The tasks that the benchmarks run. Importable without dtq, so that every contender runs the same."""

from __future__ import annotations

import os
import time


def noop(number: int) -> int:
    return number


def spin(turns: int) -> int:
    """A fixed amount of work, however long it takes: a core that is shared with others makes it longer."""
    total = 0
    for turn in range(turns):
        total += turn
    return total


def turns_for(seconds: float) -> int:
    """How many turns of `spin` take so long on this machine when nothing else runs."""
    turns = 10_000
    fastest = min(_timed(turns) for _ in range(50))
    turns = max(1, int(turns * seconds / fastest))
    return max(1, int(turns * seconds / min(_timed(turns) for _ in range(max(3, int(0.05 / seconds))))))


def _timed(turns: int) -> float:
    start = time.perf_counter()
    spin(turns)
    return time.perf_counter() - start


def begun_at(_: int) -> float:
    """As `begun`, of a map."""
    return begun()


def begun() -> float:
    """When it started; all processes of a machine read one clock."""
    return time.monotonic()


def doze(seconds: float) -> tuple[float, float, int]:
    """When it started and ended, and in which process; takes its time without needing a core."""
    start = time.monotonic()
    time.sleep(seconds)
    return start, time.monotonic(), os.getpid()


def stay(directory: str, seconds: float) -> None:
    """Say that it has started, and stay for a while."""
    with open(os.path.join(directory, f"{time.monotonic()!r} {os.getpid()}"), "w"):
        pass
    time.sleep(seconds)
