"""Ended tasks in the order of their ends, for an engine without indexes of its own.

A sorted list in blocks, so that an insertion or removal costs the same at any place and any length.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from operator import itemgetter
from typing import Final

#: The place of a run of ended tasks: the moment of its end, its batch, its first task, and whether it has a row of its
#: own.
End = tuple[float, int, int, bool]

#: Half of the most entries of one block.
_BLOCK: Final = 1_000

_first = itemgetter(0)


class ByEnd:
    """Ended runs in the order of their ends."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        #: None of the blocks is empty; all ends in one come before those in the next.
        self._blocks: list[list[End]] = []

    def add(self, end: End) -> None:
        """Add a new run."""
        if not self._blocks:
            self._blocks.append([end])
            return
        at = self._block_of(end)
        block = self._blocks[at]
        insort(block, end)
        if len(block) > 2 * _BLOCK:
            self._blocks.insert(at + 1, block[_BLOCK:])
            del block[_BLOCK:]

    def remove(self, end: End) -> None:
        """Remove a run."""
        at = self._block_of(end)
        block = self._blocks[at]
        del block[bisect_left(block, end)]
        if not block:
            del self._blocks[at]

    def latest_first(self, below: tuple[float, int, int]) -> Iterator[End]:
        """The runs whose end, batch and first task come before a place, latest first."""
        at = self._block_of((*below, False)) if self._blocks else -1
        while at >= 0:
            block = self._blocks[at]
            for place in range(bisect_left(block, (*below, False)) - 1, -1, -1):
                yield block[place]
            at -= 1

    def _block_of(self, end: End) -> int:
        return max(0, bisect_right(self._blocks, end, key=_first) - 1)
