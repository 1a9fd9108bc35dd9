"""Contenders that do the same work in turns, so that what else the machine does falls on all of them.

A machine is rarely all ours. What other programs use of the cores during a turn is measured, told below the table, and
with ``--patience`` a turn that they disturbed is done again: by that measure alone, whatever its result was.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import psutil

from rig.options import Options

T = TypeVar("T")
#: A turn counts as undisturbed if other programs use less than this share of one core meanwhile.
CALM: Final = 0.05


def rate(work: Callable[[], int]) -> Callable[[], float]:
    """A turn that measures how many a second."""

    def turn() -> float:
        start = time.perf_counter()
        done = work()
        return done / (time.perf_counter() - start)

    return turn


def quantile(values: list[float], share: float) -> float:
    """The value that a share of all is not above."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Rounds:
    """Rounds of a benchmark.

    Args:
        options: how many, and for how long in all to wait for the machine to be ours.
    """

    def __init__(self, options: Options) -> None:
        self.count = options.rounds
        self._patience_s = options.patience_s
        #: What others used during the turns that count, as shares of a core.
        self._others: list[float] = []

    def alternate(self, contenders: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Let each have its turn, as often as there are rounds; the order is reversed every other round.

        Returns:
            What the turns returned that count.
        """
        found: dict[str, list[T]] = {name: [] for name in contenders}
        names = list(contenders)
        for _ in range(self.count):
            for name in names:
                found[name].append(self._one(contenders[name]))
            names.reverse()
        return found

    def repeat(self, turn: Callable[[], T]) -> list[T]:
        """The same, of one."""
        return [self._one(turn) for _ in range(self.count)]

    def told(self) -> str:
        """What others used, in a sentence."""
        if not self._others:
            return ""
        median, most = (f"{share * 100:.0f} %" for share in (statistics.median(self._others), max(self._others)))
        return f"Meanwhile other programs used {median} of one core in the median turn, {most} in the worst."

    def _one(self, turn: Callable[[], T]) -> T:
        """A turn that nobody disturbed; when patience is at its end, the least disturbed of all that were tried."""
        tried: list[tuple[float, T]] = []
        while True:
            began = time.monotonic()
            gc.collect()
            before = _foreign_s()
            start = time.monotonic()
            value = turn()
            others = (_foreign_s() - before) / (time.monotonic() - start)
            tried.append((max(0.0, others), value))
            if others <= CALM or self._patience_s <= 0:
                break
            self._await_calm()
            self._patience_s -= time.monotonic() - began
        others, value = min(tried, key=lambda one: one[0])
        self._others.append(others)
        return value

    def _await_calm(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            before, start = _foreign_s(), time.monotonic()
            time.sleep(1.0)
            if (_foreign_s() - before) / (time.monotonic() - start) <= CALM:
                return


def _foreign_s() -> float:
    """Seconds of all cores that were used so far, less those that this process and all it has started used."""
    every = psutil.cpu_times()
    return float(sum(every) - every.idle - getattr(every, "iowait", 0.0)) - _own_s()


def _own_s() -> float:
    me = psutil.Process()
    seconds = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has just ended; its time is its parent's from now on
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
