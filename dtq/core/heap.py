"""The heap of runs.

A million-element map must not become a million objects: an entry is a *run*, a contiguous range of one batch's tasks
that wait at one rank. Runs are ordered by ``(rank, batch, lo)``: rank is the spec's urgency, lower first; batches are
numbered in the order of their acceptance, so inside a rank it is first in, first out, and a task that comes back
returns to its place. This module knows nothing of tasks or batches; whether an entry is still true is the
register's to say.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final, NamedTuple

#: At most so many runs are looked at to tell how many tasks are ahead of one: about two milliseconds of work.
_LOOKED_AT: Final = 5_000


class Run(NamedTuple):
    """Tasks ``[lo, hi)`` of a batch that wait at one rank."""

    rank: int
    batch: int
    lo: int
    hi: int


class RunHeap:
    """A priority queue of runs."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def __len__(self) -> int:
        return len(self._runs)

    def push(self, run: Run) -> None:
        """Add a run."""
        heappush(self._runs, run)

    def top(self) -> Run | None:
        """The first run, left in place."""
        return self._runs[0] if self._runs else None

    def advance(self, lo: int) -> None:
        """Take everything below ``lo`` off the first run, and the run itself if nothing is left of it.

        Runs of one batch and rank do not overlap, so what is left is still the first: no sifting.
        """
        first = self._runs[0]
        if lo >= first.hi:
            heappop(self._runs)
        else:
            self._runs[0] = Run(first.rank, first.batch, lo, first.hi)

    def ahead(self, place: Run) -> tuple[int, bool]:
        """How many tasks come before a place, and whether that is all of them: only so many runs are looked at.

        Stale runs count; nothing but the runs that come before is walked through.
        """
        count = 0
        todo = [0]
        for _ in range(_LOOKED_AT):
            while todo and (todo[-1] >= len(self._runs) or self._runs[todo[-1]] >= place):
                todo.pop()
            if not todo:
                return count, True
            at = todo.pop()
            run = self._runs[at]
            count += min(run.hi, place.lo if run[:2] == place[:2] else run.hi) - run.lo
            todo += (2 * at + 1, 2 * at + 2)
        return count, False

    def runs(self) -> list[Run]:
        """All runs in their order: a sorted copy, for listings and checks."""
        return sorted(self._runs)


class DueHeap:
    """Runs that wait for a time."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[tuple[float, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    def push(self, due_at: float, batch: int, lo: int, hi: int) -> None:
        """Add tasks ``[lo, hi)`` of a batch, due at a moment."""
        heappush(self._due, (due_at, batch, lo, hi))

    def next_at(self) -> float | None:
        """When the first is due."""
        return self._due[0][0] if self._due else None

    def pop_due(self, now: float) -> tuple[float, int, int, int] | None:
        """The first run, ``(due_at, batch, lo, hi)``, if it is due."""
        if self._due and self._due[0][0] <= now:
            return heappop(self._due)
        return None
