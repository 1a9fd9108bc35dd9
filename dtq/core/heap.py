"""The heap of runs.

A million-element map must not become a million objects: an entry is a *run*, a contiguous range of one batch's tasks
that wait at one rank. Runs are ordered by ``(rank, batch, lo)``. Rank is the spec's urgency, lower first. Batches are
numbered in the order of their acceptance, so tasks of a rank are first in, first out, and a task that comes back
returns to its place. This module knows nothing of tasks or batches; the queue's state knows whether an entry is still
true.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Hashable, Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

#: Most runs that are looked at to count the tasks ahead of one: about two milliseconds of work.
_LOOKED_AT: Final = 5_000
#: With fewer moments than this, those of finished batches are left in place.
_FEW: Final = 1024
#: Outdated entries up to this number are not searched for.
_SPARE: Final = 64


#: The place of a run: rank, batch, lo; among lines also the line's paid cost.
Place = tuple[float, ...]


class Run(NamedTuple):
    """Tasks ``[lo, hi)`` of a batch that wait at one rank."""

    rank: int
    batch: int
    lo: int
    hi: int


class RunHeap:
    """A priority queue of runs."""

    __slots__ = ("_runs",)

    #: The limits of its tasks (`core.lines.Group`); none, for most.
    limits: tuple[str, ...] = ()

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

        Runs of one batch and rank do not overlap, so the rest is still the first: no sifting.
        """
        first = self._runs[0]
        if lo >= first.hi:
            heappop(self._runs)
        else:
            self._runs[0] = Run(first.rank, first.batch, lo, first.hi)

    def put_back(self, lo: int) -> None:
        """As `advance`, where other runs may lie in what is taken off."""
        first = self._runs[0]
        heapreplace(self._runs, Run(first.rank, first.batch, lo, first.hi))

    def absorb(self, other: RunHeap) -> None:
        """Take over all runs of another heap, which is not used after that."""
        few, self._runs = sorted((other._runs, self._runs), key=len)
        if 8 * len(few) < len(self._runs):
            for run in few:
                heappush(self._runs, run)
        else:
            self._runs += few
            heapify(self._runs)

    def without(self, batches: Collection[int]) -> None:
        """Take out all runs of some batches, stale ones too."""
        self._runs = [run for run in self._runs if run.batch not in batches]
        heapify(self._runs)

    def before(self, place: Run) -> Iterator[Run]:
        """The runs before a place, one by one, stale ones too; no other run is visited."""
        todo = [0]
        while todo:
            at = todo.pop()
            if at >= len(self._runs) or self._runs[at] >= place:
                continue
            run = self._runs[at]
            yield run._replace(hi=min(run.hi, place.lo)) if run[:2] == place[:2] else run
            todo += (2 * at + 1, 2 * at + 2)

    def first(self, most: int) -> Iterator[Run]:
        """The first runs in their order, stale ones too, at most so many; few others are visited."""
        if len(self._runs) <= most:
            yield from sorted(self._runs)
            return
        todo = [(self._runs[0], 0)]
        for _ in range(most):
            run, at = heappop(todo)
            yield run
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(self._runs):
                    heappush(todo, (self._runs[child], child))

    def count(self, waiting: Callable[[Run], int]) -> int:
        """Number of its tasks; `waiting` counts those of a run that still wait."""
        return sum(map(waiting, self._runs))

    def runs(self) -> list[Run]:
        """All runs in their order: a sorted copy, for listings and checks."""
        return sorted(self._runs)


def length(run: Run) -> int:
    """Length of a run, stale tasks included."""
    return run.hi - run.lo


def ahead(heaps: Iterable[RunHeap], place: Run, waiting: Callable[[Run], int] = length) -> tuple[int, bool]:
    """Count tasks ahead of `place`; False if the scan stopped early. `waiting` counts the tasks of a run that still
    wait.
    """
    runs = (run for heap in heaps for run in heap.before(place))
    count = sum(map(waiting, islice(runs, _LOOKED_AT)))
    return count, next(runs, None) is None


class Tops(Generic[K]):
    """Finds the most urgent run of many heaps, without a look at each of them.

    An entry is the place of a heap's first run at some time. It is never behind the true one: a push of a run that
    comes before is announced (`pushed`); a run that was taken is noticed when the entry comes up (`moved`).
    """

    __slots__ = ("_entries", "_places")

    def __init__(self) -> None:
        self._entries: list[tuple[Place, K]] = []
        #: The place of each heap's only valid entry.
        self._places: dict[K, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def names(self) -> Collection[K]:
        """The names of the heaps here, in no order."""
        return self._places.keys()

    def pushed(self, name: K, place: Place) -> None:
        """Announce that a run has come into a heap, or a heap among the others."""
        known = self._places.get(name)
        if known is None or place < known:
            self._places[name] = place
            heappush(self._entries, (place, name))
            if len(self._entries) > 2 * len(self._places) + _SPARE:
                self._entries = [(place, name) for name, place in self._places.items()]
                heapify(self._entries)

    def peek(self) -> tuple[Place, K] | None:
        """The first valid entry, left in place; the caller checks whether its place is true."""
        while self._entries:
            first = self._entries[0]
            if self._places.get(first[1]) == first[0]:
                return first
            heappop(self._entries)  # another entry of this heap has come before it
        return None

    def moved(self, place: Place) -> None:
        """Move the heap of the first entry (`peek`) to another place, further back."""
        name = self._entries[0][1]
        self._places[name] = place
        heapreplace(self._entries, (place, name))

    def remove_first(self) -> None:
        """Remove the heap of the first entry (`peek`)."""
        _, name = heappop(self._entries)
        del self._places[name]

    def place_of(self, name: K) -> Place | None:
        """The known place of a heap; None if the heap is not here."""
        return self._places.get(name)

    def discard(self, name: K) -> None:
        """Remove a heap, if it is here."""
        self._places.pop(name, None)

    def clear(self) -> None:
        """Remove all heaps."""
        self._entries.clear()
        self._places.clear()


class DueHeap:
    """Runs that wait for a time."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[tuple[float, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[tuple[float, int, int, int]]:
        return iter(self._due)

    def push(self, due_at: float, batch: int, lo: int, hi: int) -> None:
        """Add tasks ``[lo, hi)`` of a batch, due at a moment."""
        heappush(self._due, (due_at, batch, lo, hi))

    def next_at(self) -> float | None:
        """The moment at which the first is due."""
        return self._due[0][0] if self._due else None

    def pop_due(self, now: float) -> tuple[float, int, int, int] | None:
        """The first run, ``(due_at, batch, lo, hi)``, if it is due."""
        if self._due and self._due[0][0] <= now:
            return heappop(self._due)
        return None


class Moments:
    """Moments to come, and their batches; some of these may have finished meanwhile."""

    __slots__ = ("_heap", "_most")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._most = _FEW

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[tuple[float, int]]:
        return iter(self._heap)

    def add(self, at: float, batch: int, live: Container[int]) -> None:
        """Add a moment for a batch.

        Args:
            at: the moment.
            batch: its number.
            live: the numbers of live batches: when entries of finished batches gather, they are thrown away.
        """
        heappush(self._heap, (at, batch))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[1] in live]
            heapify(self._heap)
            self._most = max(_FEW, 2 * len(self._heap))

    def next_at(self) -> float | None:
        """The first moment; None if none is left."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> int | None:
        """Take out the first moment if it has come, and return its batch."""
        return heappop(self._heap)[1] if self._heap and self._heap[0][0] <= now else None
