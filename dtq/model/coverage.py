"""Sets of task indices, stored as few intervals."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Coverage:
    """A set of indices, as few intervals as possible.

    Attributes:
        count: how many indices it has.
    """

    __slots__ = ("_ends", "_starts", "count")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0

    def add(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """Add ``[lo, hi)``.

        Returns:
            The parts of it that were new.
        """
        starts, ends = self._starts, self._ends
        first = bisect_left(ends, lo)  # the first interval that overlaps, or touches
        last = bisect_right(starts, hi, lo=first)
        new = []
        at = lo
        for place in range(first, last):
            if at < starts[place]:
                new.append((at, starts[place]))
            at = max(at, ends[place])
        if at < hi:
            new.append((at, hi))
        if last > first:
            lo, hi = min(lo, starts[first]), max(hi, ends[last - 1])
        starts[first:last] = [lo]
        ends[first:last] = [hi]
        self.count += sum([end - start for start, end in new])
        return new

    def remove(self, lo: int, hi: int) -> None:
        """Remove ``[lo, hi)``, as far as it is there."""
        starts, ends = self._starts, self._ends
        first, last = bisect_right(ends, lo), bisect_left(starts, hi)
        if first >= last:
            return
        kept = [(starts[first], lo), (hi, ends[last - 1])]
        self.count -= sum([min(ends[at], hi) - max(starts[at], lo) for at in range(first, last)])
        starts[first:last] = [start for start, end in kept if start < end]
        ends[first:last] = [end for start, end in kept if start < end]

    def goes_beyond(self, index: int) -> bool:
        """Whether it has a higher index than that."""
        return bool(self._ends) and self._ends[-1] > index + 1

    def end(self, index: int) -> int | None:
        """The end of the interval that has this index; None if none has."""
        interval = self.interval(index)
        return None if interval is None else interval[1]

    def interval(self, index: int) -> tuple[int, int] | None:
        """The interval that has this index; None if none has."""
        place = bisect_right(self._starts, index) - 1
        end = self._ends[place] if place >= 0 else index
        return (self._starts[place], end) if index < end else None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))
