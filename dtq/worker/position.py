"""Where a slot is: a few bytes of memory that it shares with its supervisor.

The slot writes which task it has started and when; the supervisor reads that when it wants to know (time limits,
blame), so saying it costs the slot a tenth of a microsecond and no system call. Tasks are numbered by a serial that
runs through the life of the slot.

The other way goes the *limit*: the slot starts no task whose serial is at or above it. Taking back unstarted work is
therefore safe without a lock: the supervisor lowers the limit, waits until the slot must see it (`SETTLE_S`, far longer
than a store takes to become visible), and only then reads where the slot is. What lies behind that can no longer
start.

Last, the slot's warden leaves here how the slot ended, for a process that has ended cannot say it any more.

A task can write into this memory, too. So the supervisor believes a position only where it can be true (`Child.look`),
and never for longer than its own clock allows.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

#: Where each number is, in units of eight bytes: when, serial; and the limit, in a cache line of its own. They are
#: stored one by one, for that is one store each: what writes a whole structure clears it first, and may be seen to.
_TIME: Final = 0
_SERIAL: Final = 1
_LIMIT: Final = 8
_END: Final = struct.Struct("=qq")
_END_AT: Final = 96
SIZE: Final = 128
#: No limit.
UNLIMITED: Final = (1 << 62) - 1
#: How long the supervisor waits between lowering the limit and reading the position, in seconds.
SETTLE_S: Final = 0.001
#: How often a position is read that changes while it is.
_READS: Final = 100
#: Most that the numbers of an end can be.
_MAX_MEMORY: Final = 1 << 50
_MAX_PROCESSES: Final = 1 << 22


class Position:
    """The shared bytes.

    Args:
        descriptor: of a file of at least so many bytes; stays the caller's.
        size: how many of them to have in memory: what lies behind is the `arena`.
    """

    def __init__(self, descriptor: int, size: int = SIZE) -> None:
        self.memory = mmap.mmap(descriptor, size)
        self._numbers = memoryview(self.memory)[:_END_AT].cast("q")
        self._times = memoryview(self.memory)[:_END_AT].cast("d")

    @classmethod
    def create(cls, size: int = SIZE) -> tuple[Position, int]:
        """A new one, and the descriptor for the slot.

        Args:
            size: how large the file is to be, in bytes.
        """
        descriptor = _anonymous()
        os.ftruncate(descriptor, size)
        position = cls(descriptor, size)
        position.starter()(-1, time.monotonic())
        position.set_limit(UNLIMITED)
        return position, descriptor

    def starter(self) -> Callable[[int, float], bool]:
        """What the slot calls to start a task, with its serial and ``time.monotonic()``; it says whether it may."""
        numbers, times = self._numbers, self._times

        def start(serial: int, at: float) -> bool:
            times[_TIME] = at  # first: who sees the serial sees no earlier time
            numbers[_SERIAL] = serial
            return serial < numbers[_LIMIT]

        return start

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
        """Processes that are forked from this one have nothing of it."""
        with suppress(OSError, ValueError):
            self.memory.madvise(getattr(mmap, "MADV_DONTFORK", -1))

    def note_end(self, peak: int, left: int) -> None:
        """The slot has ended.

        Args:
            peak: the most memory it has had resident, in bytes.
            left: how many processes it left behind, which have been ended.
        """
        _END.pack_into(self.memory, _END_AT, peak, left)

    def end(self) -> tuple[int | None, int]:
        """What `note_end` was told: the peak (None where nobody was there to see it) and how many were left behind."""
        peak, left = _END.unpack_from(self.memory, _END_AT)
        return (peak if 0 < peak <= _MAX_MEMORY else None), min(max(0, left), _MAX_PROCESSES)

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._times.release()
        self.memory.close()


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dtq-slot")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
