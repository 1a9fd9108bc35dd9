"""Where a slot is: a few bytes of memory that it shares with its supervisor.

The slot writes which task it has started and when; the supervisor reads that when it wants to know (time limits,
blame), so saying it costs the slot a tenth of a microsecond and no system call. Tasks are numbered by a serial that
runs through the life of the slot.

The other way goes the *limit*: the slot starts no task whose serial is at or above it. Taking back unstarted work is
therefore safe without a lock: the supervisor lowers the limit, waits until the slot must see it (`SETTLE_S`, far longer
than a store takes to become visible), and only then reads where the slot is. What lies behind that can no longer
start.

Last, the slot's warden leaves here how the slot ended, for a process that has ended cannot say it any more.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Final

_STATE: Final = struct.Struct("=dq")
_LIMIT: Final = struct.Struct("=q")
_LIMIT_AT: Final = 64  # a cache line of its own
_END: Final = struct.Struct("=qq")
_END_AT: Final = 96
SIZE: Final = 128
#: No limit.
UNLIMITED: Final = (1 << 62) - 1
#: How long the supervisor waits between lowering the limit and reading the position, in seconds.
SETTLE_S: Final = 0.001


class Position:
    """The shared bytes.

    Args:
        descriptor: of a file of `SIZE` bytes; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, SIZE)

    @classmethod
    def create(cls) -> tuple[Position, int]:
        """A new one, and its descriptor for the slot."""
        descriptor = _anonymous()
        os.ftruncate(descriptor, SIZE)
        position = cls(descriptor)
        position.start(-1, 0.0)
        position.set_limit(UNLIMITED)
        return position, descriptor

    def start(self, serial: int, at: float) -> bool:
        """The slot starts a task.

        Args:
            serial: of the task.
            at: ``time.monotonic()``.

        Returns:
            Whether it may.
        """
        _STATE.pack_into(self._map, 0, at, serial)
        limit: int = _LIMIT.unpack_from(self._map, _LIMIT_AT)[0]
        return serial < limit

    def read(self) -> tuple[int, float]:
        """Serial of the task started last (-1: none) and when (``time.monotonic()``)."""
        at, serial = _STATE.unpack_from(self._map, 0)
        return serial, at

    def set_limit(self, serial: int) -> None:
        """No task at or above this serial starts from now on."""
        _LIMIT.pack_into(self._map, _LIMIT_AT, serial)

    def stop_after_current(self) -> int:
        """Keep everything that has not started from starting.

        Returns:
            Serial of the task started last; nothing above it will start.
        """
        self.set_limit(self.read()[0] + 1)
        time.sleep(SETTLE_S)
        return self.read()[0]

    def leave(self) -> None:
        """From now on, what is said here is not shared."""
        self._map = mmap.mmap(-1, SIZE)

    def note_end(self, peak: int, left: int) -> None:
        """The slot has ended.

        Args:
            peak: the most memory it has had resident, in bytes.
            left: how many processes it left behind, which have been ended.
        """
        _END.pack_into(self._map, _END_AT, peak, left)

    def end(self) -> tuple[int | None, int]:
        """What `note_end` was told: the peak (None where nobody was there to see it) and how many were left behind."""
        peak, left = _END.unpack_from(self._map, _END_AT)
        return peak or None, left

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dtq-slot")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
