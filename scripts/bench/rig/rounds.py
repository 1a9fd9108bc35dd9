"""Contenders that do the same work in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

#: What a contender does in one round; returns how much of it was done, or what was measured.
Turn = Callable[[], float]


def rate(work: Callable[[], int]) -> Turn:
    """A turn that measures how many a second."""

    def turn() -> float:
        start = time.perf_counter()
        done = work()
        return done / (time.perf_counter() - start)

    return turn


def alternate(contenders: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Let each have its turn, ``rounds`` times; the order is reversed every other round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for _ in range(rounds):
        for name in names:
            gc.collect()
            found[name].append(contenders[name]())
        names.reverse()
    return found


def quantile(values: list[float], share: float) -> float:
    """The value that a share of all is not above."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
