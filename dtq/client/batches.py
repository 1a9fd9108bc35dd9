"""The client's state of a batch of several tasks: ended tasks, and results that nobody has taken yet.

Client, below the handles of batches and the results of a map. However large the batch, the state is bounded: ended
tasks are a few intervals, and at most `UNREAD_BYTES` of results wait here; the others stay durable at the coordinator,
and are fetched in their turn.
"""

from __future__ import annotations

import weakref
from typing import Final, NamedTuple

from dtq.client.following import ACCEPTED, ENDED, NEWS, Target, Waiters, Wake, wake_waiters
from dtq.errors import DtqError
from dtq.model.coverage import Coverage
from dtq.model.messages import Ended

#: Most bytes of one batch's results that wait here for a reader.
UNREAD_BYTES: Final = 64 << 20
#: Results fetched at a time.
FETCHED: Final = 4096


class Part(NamedTuple):
    """Tasks ``[lo, hi)`` that ended alike; ``ended`` may cover more."""

    lo: int
    hi: int
    ended: Ended


class Batch:
    """A batch that is followed. Everything is used under the lock of `Following`.

    Attributes:
        number: its number; 0 until its first piece is accepted.
        size: number of its accepted tasks.
        complete: whether the size is final.
        error: why the client will learn no more about it.
        ended: its ended tasks.
        followed: whether news of it are sent.
        kept: whether results are kept for a reader.
        ordered: whether the reader takes them in order, and so knows the next range to fetch.
        foreign: whether another client submitted it, so that its completion must be fetched.
        unread: bytes of waiting results.
    """

    __slots__ = (
        "__weakref__",
        "_far",
        "_members",
        "_parts",
        "_waiters",
        "complete",
        "ended",
        "error",
        "followed",
        "foreign",
        "kept",
        "number",
        "ordered",
        "size",
        "unread",
    )

    def __init__(self, number: int = 0, size: int = 0, *, complete: bool = False) -> None:
        self.number = number
        self.size = size
        self.complete = complete
        self.error: DtqError | None = None
        self.ended = Coverage()
        self.kept = False
        self.ordered = True
        self.followed = False
        self.foreign = False
        self.unread = 0
        self._waiters: Waiters | None = None
        self._parts: dict[int, Part] = {}
        self._far: list[tuple[int, int]] = []
        self._members: dict[int, list[weakref.ref[Target]]] = {}

    @property
    def finished(self) -> bool:
        """Whether all of its tasks have ended."""
        return self.complete and self.ended.count >= self.size

    # -- news -----------------------------------------------------------------------------------------------------

    def on_accepted(self, number: int, size: int, complete: bool, wakes: list[Wake]) -> None:
        """Note that the coordinator has accepted a piece of it."""
        self.number = number
        self.size = size
        self.complete = complete
        wake_waiters(self, ENDED if self.finished else NEWS if complete else ACCEPTED, wakes)

    def _on_ended(self, ended: Ended, wakes: list[Wake]) -> bool:
        for lo, hi in self.ended.add(ended.lo, ended.hi):
            if self.kept:
                self._keep(Part(lo, hi, ended))
        if self._members:
            self._tell_members(ended, wakes)
        wake_waiters(self, ENDED if self.finished else NEWS, wakes)
        return self.finished

    def _on_failed(self, error: DtqError, wakes: list[Wake]) -> None:
        if self.error is None:
            self.error = error
        for index in list(self._members):
            for member in self._take_members(index):
                member._on_failed(error, wakes)
        wake_waiters(self, ENDED, wakes)

    def _reached(self, level: int) -> bool:
        if self.error is not None or self.finished:
            return True
        return level == ACCEPTED and self.number > 0

    # -- waiting results ------------------------------------------------------------------------------------------

    def keep_results(self, ordered: bool) -> None:
        """Keep the results for a reader, from the first on."""
        self.kept = True
        self.ordered = ordered
        self.unread = 0
        self._parts.clear()
        self._far = [] if ordered else list(self.ended)

    def drop_results(self) -> list[tuple[int, int]]:
        """Drop the results: their reader has stopped; see `following.Results`."""
        self.kept = False
        self.unread = 0
        self._parts.clear()
        self._far.clear()
        return list(self.ended)

    def _keep(self, part: Part) -> None:
        size = len(part.ended.results)
        if size == 0 or self.unread + size <= UNREAD_BYTES:
            self.unread += size
            self._parts[part.lo] = part
        elif not self.ordered:
            self._far.append((part.lo, part.hi))

    def take(self, index: int) -> Part | None:
        """The part that begins at an index, if it is here; None otherwise."""
        return self._taken(self._parts.pop(index, None))

    def take_any(self) -> Part | None:
        """The part that has waited longest; None for none."""
        return self._taken(self._parts.pop(next(iter(self._parts)))) if self._parts else None

    def _taken(self, part: Part | None) -> Part | None:
        if part is None:
            return None
        self.unread -= len(part.ended.results)
        if part.hi - part.lo > FETCHED and not part.ended.results:  # a large batch that was cancelled: piece by piece
            middle = part.lo + FETCHED
            self._parts[middle] = part._replace(lo=middle)
            return part._replace(hi=middle)
        return part

    def far_from(self, index: int) -> tuple[int, int] | None:
        """A range from an index on that has ended and must be fetched; parts of it that are here are dropped."""
        end = self.ended.end(index)
        if end is None:
            return None
        end = min(end, index + FETCHED)
        for lo in [lo for lo in self._parts if index <= lo < end]:
            self.take(lo)
        return index, end

    def far_any(self) -> tuple[int, int] | None:
        """Any range that has ended and must be fetched."""
        if not self._far:
            return None
        lo, hi = self._far.pop()
        self.put_far(lo + FETCHED, hi)
        return lo, min(hi, lo + FETCHED)

    def put_far(self, lo: int, hi: int) -> None:
        """Note a range that has ended and must be fetched later."""
        if lo < hi:
            self._far.append((lo, hi))

    # -- handles of single tasks ----------------------------------------------------------------------------------

    def enlist(self, index: int, member: Target) -> None:
        """Pass on the end of one task."""
        self._members.setdefault(index, []).append(weakref.ref(member))

    def _tell_members(self, ended: Ended, wakes: list[Wake]) -> None:
        if len(self._members) < ended.hi - ended.lo:
            indices = [index for index in self._members if ended.lo <= index < ended.hi]
        else:
            indices = [index for index in range(ended.lo, ended.hi) if index in self._members]
        for index in indices:
            for member in self._take_members(index):
                member._on_ended(ended, wakes)

    def _take_members(self, index: int) -> list[Target]:
        return [member for entry in self._members.pop(index, ()) if (member := entry()) is not None]
