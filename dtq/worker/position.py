"""The position of a slot: a few bytes of memory that it shares with its supervisor.

The slot writes which task it has started and when; the supervisor reads that when it needs it (time limits, blame), so
an update costs the slot a tenth of a microsecond and no system call. Tasks are numbered by a serial that runs through
the life of the slot.

In the other direction the supervisor sets the *limit*: the slot starts no task whose serial is at or above it. Taking
back unstarted work is therefore safe without a lock: the supervisor lowers the limit, waits until the slot must see it
(`SETTLE_S`, far longer than a store takes to become visible), and only then reads the position. Tasks behind that can
no longer start.

Last, the slot's reaper records the slot's end here, because an ended process cannot report it.

A task can write into this memory, too. So the supervisor trusts a position only if it can be true (`Child.look`), and
never for longer than its own clock allows.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

#: Offset of each number, in units of eight bytes: time, serial; and the limit, in a cache line of its own. They are
#: written one by one, in one store each: writing a whole structure clears it first, and a reader may see that.
_TIME: Final = 0
_SERIAL: Final = 1
_LIMIT: Final = 8
_END: Final = struct.Struct("=qq")
_END_AT: Final = 96
SIZE: Final = 128
#: No limit.
UNLIMITED: Final = (1 << 62) - 1
#: Wait between lowering the limit and reading the position, in seconds.
SETTLE_S: Final = 0.001
#: Reads of a position that keeps changing.
_READS: Final = 100
#: Largest plausible numbers of an end.
_MAX_MEMORY: Final = 1 << 50
_MAX_PROCESSES: Final = 1 << 22


class Position:
    """The shared bytes.

    Args:
        descriptor: of a file of at least this many bytes; stays the caller's.
        size: bytes to map; those behind the position are the `arena`.
    """

    def __init__(self, descriptor: int, size: int = SIZE) -> None:
        self.memory = mmap.mmap(descriptor, size)
        self._numbers = memoryview(self.memory)[:_END_AT].cast("q")
        self._times = memoryview(self.memory)[:_END_AT].cast("d")

    @classmethod
    def create(cls, size: int = SIZE) -> tuple[Position, int]:
        """Make a new one; with the descriptor for the slot.

        Args:
            size: size of the file, in bytes.
        """
        descriptor = _anonymous()
        os.ftruncate(descriptor, size)
        position = cls(descriptor, size)
        position.starter()(-1, time.monotonic())
        position.set_limit(UNLIMITED)
        return position, descriptor

    def starter(self) -> Callable[[int, float], bool]:
        """The slot's function to start a task, with its serial and ``time.monotonic()``; returns whether it may
        start.
        """
        numbers, times = self._numbers, self._times

        def start(serial: int, at: float) -> bool:
            times[_TIME] = at  # first: a reader that sees the serial sees no earlier time
            numbers[_SERIAL] = serial
            return serial < numbers[_LIMIT]

        return start

    @property
    def serial(self) -> int:
        """Serial of the task started last; -1 for none."""
        return self._numbers[_SERIAL]

    def read(self) -> tuple[int, float]:
        """Serial of the task started last (-1: none) and when (``time.monotonic()``)."""
        serial = self._numbers[_SERIAL]
        for _ in range(_READS):
            at = self._times[_TIME]
            before, serial = serial, self._numbers[_SERIAL]
            if serial == before:
                break
        return serial, at

    @property
    def limit(self) -> int:
        """See `set_limit`."""
        return self._numbers[_LIMIT]

    def set_limit(self, serial: int) -> None:
        """No task at or above this serial starts from now on."""
        self._numbers[_LIMIT] = serial

    def keep_from_children(self) -> None:
        """Keep the memory from processes that are forked from this one."""
        with suppress(OSError, ValueError):
            self.memory.madvise(getattr(mmap, "MADV_DONTFORK", -1))

    def note_end(self, peak: int, left: int) -> None:
        """Record the slot's end.

        Args:
            peak: its highest resident memory, in bytes.
            left: number of processes it left behind, which have been ended.
        """
        _END.pack_into(self.memory, _END_AT, peak, left)

    def end(self) -> tuple[int | None, int]:
        """The record of `note_end`: the peak (None without a reaper) and the number of processes left behind."""
        peak, left = _END.unpack_from(self.memory, _END_AT)
        return (peak if 0 < peak <= _MAX_MEMORY else None), min(max(0, left), _MAX_PROCESSES)

    def close(self) -> None:
        """Release the memory."""
        self._numbers.release()
        self._times.release()
        self.memory.close()


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dtq-slot")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
