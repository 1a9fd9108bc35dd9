"""What is kept of the output of a running task: its first and its last bytes.

Worker, below `output`. A task that prints for ever costs no more memory than one that fills its bound.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from dtq.model.printed import Printed, cut, whole_lines

#: Bounds of the output that a worker reports with its tasks' outcomes: bytes a second in the long run, and at once.
RATE: Final = 1 << 20
BURST: Final = 16 << 20


class TaskOutput:
    """The output of one task so far.

    Args:
        most: bytes that are kept.
    """

    __slots__ = ("_first", "_head", "_last", "_lock", "_tail", "size")

    def __init__(self, most: int) -> None:
        self._first = most // 2
        self._last = most - self._first
        self._head = bytearray()
        self._tail = bytearray()
        #: Number of bytes that were printed.
        self.size = 0
        #: The loop adds, the reporting thread reads.
        self._lock = threading.Lock()

    def add(self, data: bytes) -> None:
        """Add bytes that have arrived."""
        with self._lock:
            self.size += len(data)
            room = self._first - len(self._head)
            if room > 0:
                self._head += data[:room]
                data = data[room:]
            if data:
                self._tail += data[-self._last :] if self._last else b""
                if len(self._tail) > 2 * self._last:  # so that most additions move nothing
                    del self._tail[: -self._last]

    def printed(self, index: int) -> Printed:
        """All that is kept, of the task with this index."""
        with self._lock:
            head, tail = bytes(self._head), bytes(self._tail[-self._last :])
            left_out = self.size - len(head) - len(tail)
        if not left_out:
            return Printed(index=index, head=head + tail)
        return Printed(index=index, head=head, left_out=left_out, tail=tail)


class OutputBudget:
    """Bounds the output that a worker reports: what is beyond it is left out."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def within(self, printed: Printed) -> Printed:
        """The output of an ended task, as much of it as there is room for."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._at) * RATE)
        self._at = now
        kept = whole_lines(cut(printed, int(self._left)))
        self._left -= kept.kept
        return kept
