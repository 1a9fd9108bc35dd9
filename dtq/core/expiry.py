"""Moments at which batches with a retention time of their own expire.

Such batches may number a million, and each has left memory when it finished: so only the moments at which some expire
are held here, and the engine finds the batches. Moments are multiples of a step that grows with the time, so their
number stays small, however many batches expire.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import ceil, frexp, ldexp
from typing import Final

#: Least and most seconds between two moments at which batches expire; between them, at most an eighth of the batch's
#: time.
_STEP_S: Final = (1.0, 2048.0)
_STEPS: Final = 8
#: Least time that a result is kept, in seconds: its waiting clients are told meanwhile.
_LEAST_S: Final = 1.0


def moment_of_expiry(finished_at: float, keep_s: float) -> float:
    """The moment at which a batch expires: after its retention time, and up to a step later.

    Args:
        finished_at: when its last task ended.
        keep_s: its retention time, in seconds.
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
        """Add a moment."""
        if at not in self._known:
            self._known.add(at)
            heapq.heappush(self._heap, at)

    def next_at(self) -> float | None:
        """The first moment; None if no batch has a time of its own."""
        return self._heap[0] if self._heap else None

    def pop_due(self, now: float) -> float | None:
        """Take out the moments that have come; the last of them, None for none."""
        due = None
        while self._heap and self._heap[0] <= now:
            due = heapq.heappop(self._heap)
            self._known.discard(due)
        return due

    def __iter__(self) -> Iterator[float]:
        return iter(sorted(self._heap))
