"""Results that this client has read for the last time, gathered until the coordinator is told.

Client, below the handles. A client that submits and reads the results itself (an executor) has no use for the
coordinator's copies. Telling the coordinator costs a call, so one call covers many batches; single tasks of a batch are
told only if large: small ones are told when all of their batch has been read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from dtq.model.coverage import Coverage
from dtq.model.messages import TaskRange

#: Least bytes of arguments and result of a single task that is told by itself.
WORTH: Final = 4096
#: The coordinator is told once the ranges have this many bytes, or concern this many batches; or when there is nothing
#: else to do.
DUE_BYTES: Final = 4 << 20
DUE_BATCHES: Final = 256
#: Most ranges in one call.
_MOST: Final = 10_000


class ReadRanges:
    """Ranges of read results. Any thread.

    Args:
        wake: called when there may be ranges to tell.
    """

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._read: dict[int, Coverage] = {}
        self._bytes = 0.0
        #: By batch, the number of results that have still to be read from their places.
        self._pinned: dict[int, int] = {}

    def add(self, batch: int, lo: int, hi: int, size: float) -> None:
        """Tasks ``[lo, hi)`` of a batch have been read.

        Args:
            batch: the batch.
            lo: index of the first task.
            hi: index after the last.
            size: approximate bytes of their arguments and results.
        """
        with self._lock:
            covered = self._read.get(batch)
            if covered is None:
                covered = self._read[batch] = Coverage()
            covered.add(lo, hi)
            self._bytes += size
        self._wake()

    def pin(self, batch: int) -> None:
        """Pin a batch: results here must still be read from their places, so it must not be let go yet."""
        with self._lock:
            self._pinned[batch] = self._pinned.get(batch, 0) + 1

    def unpin(self, batch: int) -> None:
        """Unpin after one of them has been read."""
        with self._lock:
            left = self._pinned.pop(batch, 1) - 1
            if left:
                self._pinned[batch] = left
        self._wake()

    @property
    def due(self) -> bool:
        """Whether it is time to tell the coordinator."""
        return self._bytes >= DUE_BYTES or len(self._read) >= DUE_BATCHES

    def __bool__(self) -> bool:
        """Whether there are ranges to tell."""
        with self._lock:
            return not self._read.keys() <= self._pinned.keys()

    def take(self) -> list[TaskRange]:
        """Take the ranges of the next call."""
        with self._lock:
            self._bytes = 0.0
            taken: list[TaskRange] = []
            pinned = {batch: self._read.pop(batch) for batch in self._pinned if batch in self._read}
            while self._read and len(taken) < _MOST:
                batch, covered = self._read.popitem()
                taken += [TaskRange(batch=batch, lo=lo, hi=hi) for lo, hi in covered]
            self._read.update(pinned)
            return taken

    def put_back(self, ranges: Iterable[TaskRange]) -> None:
        """Put ranges back after a failed call."""
        for tasks in ranges:
            self.add(tasks.batch, tasks.lo, tasks.hi, 0.0)
