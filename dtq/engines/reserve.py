"""The reserve: space set aside beside a store, so that accepted work can be finished and recorded on a full disk.

Engines, used by `sqlite`. The reserve is a file that nothing is ever read from. It holds room for accepted work, so
that a full disk first stops the acceptance of more. When a commit that cannot be refused any more finds no room, the
reserve gives up some of its own, a little at a time, because others write to the same disk; and new work is refused
until the reserve is whole again, with as much free room beside it as was missing. The test for room is its allocation:
the space that a file system reports as free may be free for others only (quotas, limits of file sizes).

SQLite needs that room for its log, which grows until a checkpoint moves it into the file, and for the file then.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from dtq.core.changes import Totals
from dtq.engines.storefile import open_beside

#: Bytes for the log between two checkpoints, twice; on a small file system an eighth of it, if that is less.
_BASE: Final = 16 * 2**20
_SHARE: Final = 8
#: Bytes for the outcome of one accepted task, and the most for all of them.
_PER_TASK: Final = 128
_MOST_FOR_TASKS: Final = 256 * 2**20
#: Bytes by which the reserve grows with the work; a large step, so that it grows rarely.
_STEP: Final = 4 * 2**20
#: Bytes given up at a time.
_GIFT: Final = 2**20
#: Bytes that only openings of the store may use, a quarter each.
_FOR_OPENING: Final = 2**18
#: Least bytes that must be free beside the reserve before work is accepted again.
_LEAST_HEADROOM: Final = 2**18
#: Seconds between two checks for room.
_LOOK_S: Final = 0.2


def base_on(directory: str) -> int:
    """Bytes of a reserve in a directory without any work."""
    disk = os.statvfs(directory)
    return min(_BASE, disk.f_blocks * disk.f_frsize // _SHARE)


class Reserve:
    """The reserve of one store.

    Args:
        store: path of the store; its directory exists.
    """

    def __init__(self, store: str) -> None:
        self._path = store + ".reserve"
        #: Its bytes without any work.
        self.base = base_on(os.path.dirname(store) or ".")
        self._size = _allocated(self._path)
        self._wanted = self.base
        self._headroom = 0
        self._failed_at = float("-inf")

    @property
    def short(self) -> bool:
        """Whether the reserve has given up room, or a commit was refused, and there has been no room since."""
        return self._size < self._wanted or self._headroom > 0

    @property
    def missing(self) -> int:
        """Bytes that must be free before work is accepted again."""
        return max(0, self._wanted - self._size) + self._headroom

    def want(self, totals: Totals) -> None:
        """Set the wanted size for the work after a commit. The reserve grows with the next `fill`."""
        unfinished = totals.submitted - totals.succeeded - totals.dead - totals.cancelled
        wanted = min(_MOST_FOR_TASKS, _PER_TASK * unfinished)
        self._wanted = self.base + (wanted - wanted % _STEP if wanted > 0 else 0)

    def refused(self, size: int) -> None:
        """Note that a commit of this many bytes found no room: so much must be free before the next try."""
        self._headroom = max(self._headroom, 2 * size, min(_LEAST_HEADROOM, self.base))

    def fill(self, elsewhere: int = 0) -> bool:
        """Allocate the whole reserve, if there is room.

        Args:
            elsewhere: bytes that the store could use without growing.

        Returns:
            Whether work may be accepted.
        """
        if self._size + elsewhere < self._wanted + self._headroom and not self._allocate():
            self._failed_at = time.monotonic()
            return False
        self._headroom = 0
        return True

    def give(self, *, all_of_it: bool = False) -> bool:
        """Give up some room to the store; whether the reserve had any.

        Args:
            all_of_it: whether also the part for the next opening of the store, which needs little.
        """
        kept = 0 if all_of_it else min(_FOR_OPENING, self.base // 4)
        if self._size <= kept:
            return False
        self._size = max(kept, self._size - (_FOR_OPENING // 4 if all_of_it else _GIFT))
        os.truncate(self._path, self._size)
        return True

    @property
    def due(self) -> bool:
        """Whether it is time for a check for room."""
        return time.monotonic() - self._failed_at >= _LOOK_S

    def _allocate(self) -> bool:
        """Allocate the wanted size and the headroom, and give the headroom back."""
        try:
            file = open_beside(self._path)
        except OSError:
            return False
        try:
            os.posix_fallocate(file, 0, self._wanted + self._headroom)
        except OSError:
            with contextlib.suppress(OSError):  # some file systems keep the part that had room
                os.ftruncate(file, self._size)
            return False
        else:
            os.ftruncate(file, self._wanted)
            self._size = self._wanted
            return True
        finally:
            os.close(file)


def _allocated(path: str) -> int:
    """Bytes of a file that are certainly on the disk; 0 if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return min(found.st_size, 512 * found.st_blocks)
