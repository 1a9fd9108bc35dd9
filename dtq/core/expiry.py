"""When batches expire that have a time of their own.

There may be a million of them, and each has left memory when it finished: so what is held here is the moments at which
some expire, and which those are is for the engine to find. Moments are multiples of a step that grows with the time, so
that there are few of them, however many batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import ceil, frexp, ldexp
from typing import Final

#: Least and most seconds between two moments at which batches expire; between them, an eighth of their time or less.
_STEP_S: Final = (1.0, 2048.0)
_STEPS: Final = 8
#: Least time that a result is kept, in seconds: whoever waits for it is told meanwhile.
_LEAST_S: Final = 1.0


def moment_of_expiry(finished_at: float, keep_s: float) -> float:
    """Until when a batch is kept: as long as it is to be, and up to a step longer.

    Args:
        finished_at: when its last task ended.
        keep_s: for how many seconds it is to be kept.
    """
    low, high = _STEP_S
    step = min(high, max(low, ldexp(1.0, frexp(keep_s / _STEPS)[1] - 1)))
    return ceil((finished_at + max(_LEAST_S, keep_s)) / step) * step


class Expiries:
    """The moments to come, each once."""

    __slots__ = ("_heap", "_known")

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._known: set[float] = set()

    def add(self, at: float) -> None:
        """Something expires at a moment."""
        if at not in self._known:
            self._known.add(at)
            heapq.heappush(self._heap, at)

    def next_at(self) -> float | None:
        """The first moment; None where nothing has a time of its own."""
        return self._heap[0] if self._heap else None

    def pop_due(self, now: float) -> float | None:
        """Take out the moments that have come; the last of them, None where none has."""
        due = None
        while self._heap and self._heap[0] <= now:
            due = heapq.heappop(self._heap)
            self._known.discard(due)
        return due

    def __iter__(self) -> Iterator[float]:
        return iter(sorted(self._heap))
