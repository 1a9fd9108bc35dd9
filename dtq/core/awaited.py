"""Awaited tasks: which batches, and tasks by themselves, wait for the tasks of one batch.

An entry stays where it is if its waiter is cancelled; whoever reads it asks whether the waiter still waits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from dtq.core.batches import Batch
from dtq.core.elements import Watched

#: A child: a task that waits by itself, or all of a batch.
Waiter = tuple[Batch, int]
#: The index of a waiter that is all of a batch.
ALL: Final = -1


class Span:
    """Several tasks of one batch that another batch waits for.

    Attributes:
        child: the waiting batch.
        lo: index of the first.
        hi: index after the last.
        left: number of these tasks that have not ended.
    """

    __slots__ = ("child", "hi", "left", "lo")

    def __init__(self, child: Waiter, lo: int, hi: int, left: int) -> None:
        self.child = child
        self.lo = lo
        self.hi = hi
        self.left = left


class Awaited:
    """The batches that wait for tasks of one batch; some may have been cancelled since."""

    __slots__ = ("by_index", "each", "spans", "whole")

    def __init__(self) -> None:
        self.by_index: dict[int, list[Waiter]] = {}
        self.spans: list[Span] = []
        #: Children that wait until all of the batch has ended.
        self.whole: list[Waiter] = []
        #: Batches that wait for it task by task.
        self.each: Watched | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing waits for the batch any more."""
        return not (self.by_index or self.spans or self.whole or self.each)

    def forget(self, batch: Batch, indexes: Collection[int]) -> None:
        """Remove tasks of a batch that wait by themselves."""

        def stays(waiter: Waiter) -> bool:
            return waiter[0] is not batch or waiter[1] not in indexes

        by_index = {index: [*filter(stays, waiters)] for index, waiters in self.by_index.items()}
        self.by_index = {index: waiters for index, waiters in by_index.items() if waiters}
        self.spans = [span for span in self.spans if stays(span.child)]
        self.whole = [*filter(stays, self.whole)]

    def indexes(self, lo: int, hi: int) -> list[int]:
        """The single tasks of a range that batches wait for."""
        by_index = self.by_index
        if not by_index:
            return []
        if hi - lo <= len(by_index):
            return [index for index in range(lo, hi) if index in by_index]
        return sorted(index for index in by_index if lo <= index < hi)


def is_doomed(batch: Batch) -> bool:
    """Whether a batch never starts, and is cancelled as soon as it is complete."""
    return batch.blocked and batch.cut is None and batch.flow is not None and batch.flow.why != ""
