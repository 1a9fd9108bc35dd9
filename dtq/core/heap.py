"""The heap of runs.

A million-element map must not become a million objects: an entry is a *run*, a contiguous range of one batch's tasks
that wait at one rank. Runs are ordered by ``(rank, batch, lo)``: rank is the spec's urgency, lower first; batches are
numbered in the order of their acceptance, so inside a rank it is first in, first out, and a task that comes back
returns to its place. This module knows nothing of tasks or batches; whether an entry is still true is the
register's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Hashable, Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

#: At most so many runs are looked at to tell how many tasks are ahead of one: about two milliseconds of work.
_LOOKED_AT: Final = 5_000
#: With fewer moments than this, those of batches that have finished are left where they are.
_FEW: Final = 1024
#: So many entries that do not count any more are not worth looking for.
_SPARE: Final = 64


#: Where a run stands: rank, batch, lo; among lines also what a line has paid.
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

    #: What its tasks count against (`core.lines.Group`); nothing, for most.
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

        Runs of one batch and rank do not overlap, so what is left is still the first: no sifting.
        """
        first = self._runs[0]
        if lo >= first.hi:
            heappop(self._runs)
        else:
            self._runs[0] = Run(first.rank, first.batch, lo, first.hi)

    def absorb(self, other: RunHeap) -> None:
        """Take over all runs of another heap, whose end that is."""
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
        """What comes before a place, run by run, stale ones too; nothing else is walked through."""
        todo = [0]
        while todo:
            at = todo.pop()
            if at >= len(self._runs) or self._runs[at] >= place:
                continue
            run = self._runs[at]
            yield run._replace(hi=min(run.hi, place.lo)) if run[:2] == place[:2] else run
            todo += (2 * at + 1, 2 * at + 2)

    def count(self, waiting: Callable[[Run], int]) -> int:
        """How many tasks it has; how many of a run still wait is for `waiting` to say."""
        return sum(map(waiting, self._runs))

    def runs(self) -> list[Run]:
        """All runs in their order: a sorted copy, for listings and checks."""
        return sorted(self._runs)


def length(run: Run) -> int:
    """How many tasks a run has, stale ones included."""
    return run.hi - run.lo


def ahead(heaps: Iterable[RunHeap], place: Run, waiting: Callable[[Run], int] = length) -> tuple[int, bool]:
    """How many tasks of some heaps come before a place, and whether that is all of them: only so many runs are looked
    at. How many of a run still wait is for `waiting` to say."""
    runs = (run for heap in heaps for run in heap.before(place))
    count = sum(map(waiting, islice(runs, _LOOKED_AT)))
    return count, next(runs, None) is None


class Tops(Generic[K]):
    """Which of many heaps has the most urgent run, found without looking at each of them.

    An entry is the place of a heap's first run as it was at some time. It is never behind the true one: whoever pushes
    a run that comes before tells (`pushed`); that a run was taken is noticed when the entry comes up (`moved`).
    """

    __slots__ = ("_entries", "_places")

    def __init__(self) -> None:
        self._entries: list[tuple[Place, K]] = []
        #: The place of each heap's only entry that counts.
        self._places: dict[K, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def names(self) -> Collection[K]:
        """The heaps that stand here, in no order."""
        return self._places.keys()

    def pushed(self, name: K, place: Place) -> None:
        """A run has come into a heap, or a heap among the others."""
        known = self._places.get(name)
        if known is None or place < known:
            self._places[name] = place
            heappush(self._entries, (place, name))
            if len(self._entries) > 2 * len(self._places) + _SPARE:
                self._entries = [(place, name) for name, place in self._places.items()]
                heapify(self._entries)

    def peek(self) -> tuple[Place, K] | None:
        """The first entry that counts, left where it is: it is for the caller to tell whether its place is true."""
        while self._entries:
            first = self._entries[0]
            if self._places.get(first[1]) == first[0]:
                return first
            heappop(self._entries)  # another entry of this heap has come before it
        return None

    def moved(self, place: Place) -> None:
        """The heap of the first entry (`peek`) is at another place, further back."""
        name = self._entries[0][1]
        self._places[name] = place
        heapreplace(self._entries, (place, name))

    def remove_first(self) -> None:
        """The heap of the first entry (`peek`) has no run, or does not stand among the others any more."""
        _, name = heappop(self._entries)
        del self._places[name]

    def place_of(self, name: K) -> Place | None:
        """Where a heap stands, as far as is known; None where it does not."""
        return self._places.get(name)

    def discard(self, name: K) -> None:
        """A heap does not stand among the others any more, if it does."""
        self._places.pop(name, None)

    def clear(self) -> None:
        """No heap stands here any more."""
        self._entries.clear()
        self._places.clear()


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


class Moments:
    """Moments to come, and the batches that they are of; some of these may have finished meanwhile."""

    __slots__ = ("_heap", "_most")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._most = _FEW

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, batch: int, live: Container[int]) -> None:
        """Something is due for a batch at a moment.

        Args:
            at: the moment.
            batch: its number.
            live: the numbers of live batches: where those that have finished gather, they are thrown away.
        """
        heappush(self._heap, (at, batch))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[1] in live]
            heapify(self._heap)
            self._most = max(_FEW, 2 * len(self._heap))

    def next_at(self) -> float | None:
        """The first moment; None where there is none."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> int | None:
        """Take out the first, if it has come; the batch."""
        return heappop(self._heap)[1] if self._heap and self._heap[0][0] <= now else None
