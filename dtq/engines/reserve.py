"""Space set aside beside a store, so that what was accepted can be finished and recorded on a full disk.

Engines, used by `sqlite`. The reserve is a file that nothing is ever read from. It holds room for the work that has
been accepted, so that accepting more is what a full disk stops first. When a commit that cannot be refused any more
finds no room, the reserve gives some of its own, a little at a time, as others write to the same disk; and new work is
refused until the reserve is whole again, with as much free beside it as was missing. That is found out by allocating
it: what a file system says is free may be free for others only (quotas, limits of file sizes).

SQLite needs that room for its log, which grows until a checkpoint moves it into the file, and for the file then.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from dtq.core.changes import Totals
from dtq.engines.storefile import open_beside

#: Bytes for the log between two checkpoints, twice; less on a small file system, of which it takes an eighth.
_BASE: Final = 16 * 2**20
_SHARE: Final = 8
#: Bytes for the outcome of one accepted task, and for all of them at most.
_PER_TASK: Final = 128
_MOST_FOR_TASKS: Final = 256 * 2**20
#: Bytes by which it grows with the work, so that it does seldom.
_STEP: Final = 4 * 2**20
#: Bytes that it gives at a time.
_GIFT: Final = 2**20
#: Bytes of it that only openings of the store are given, a quarter each.
_FOR_OPENING: Final = 2**18
#: Bytes that have to be free beside it before work is accepted again, at least.
_LEAST_HEADROOM: Final = 2**18
#: Seconds between two looks whether there is room again.
_LOOK_S: Final = 0.2


def base_on(directory: str) -> int:
    """How many bytes a reserve in a directory has, whatever work there is."""
    disk = os.statvfs(directory)
    return min(_BASE, disk.f_blocks * disk.f_frsize // _SHARE)


class Reserve:
    """The reserve of one store.

    Args:
        store: path of the store; its directory is there.
    """

    def __init__(self, store: str) -> None:
        self._path = store + ".reserve"
        #: Bytes that it has whatever work there is.
        self.base = base_on(os.path.dirname(store) or ".")
        self._size = _allocated(self._path)
        self._wanted = self.base
        self._headroom = 0
        self._failed_at = float("-inf")

    @property
    def short(self) -> bool:
        """Whether it has given something, or something was refused, and there has been no room since."""
        return self._size < self._wanted or self._headroom > 0

    @property
    def missing(self) -> int:
        """Bytes that there have to be before work is accepted again."""
        return max(0, self._wanted - self._size) + self._headroom

    def want(self, totals: Totals) -> None:
        """Have room for the work that there is after a commit. It grows with the next `fill`."""
        unfinished = totals.submitted - totals.succeeded - totals.dead - totals.cancelled
        wanted = min(_MOST_FOR_TASKS, _PER_TASK * unfinished)
        self._wanted = self.base + (wanted - wanted % _STEP if wanted > 0 else 0)

    def refused(self, size: int) -> None:
        """A commit of so many bytes found no room: before the next one is tried, that much has to be free."""
        self._headroom = max(self._headroom, 2 * size, min(_LEAST_HEADROOM, self.base))

    def fill(self, elsewhere: int = 0) -> bool:
        """Be whole again, if there is room.

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
        """Let some of its room go to the store; whether it had any to give.

        Args:
            all_of_it: whether also what is kept for the next opening of the store, which needs little.
        """
        kept = 0 if all_of_it else min(_FOR_OPENING, self.base // 4)
        if self._size <= kept:
            return False
        self._size = max(kept, self._size - (_FOR_OPENING // 4 if all_of_it else _GIFT))
        os.truncate(self._path, self._size)
        return True

    @property
    def due(self) -> bool:
        """Whether it is time to look for room again."""
        return time.monotonic() - self._failed_at >= _LOOK_S

    def _allocate(self) -> bool:
        """Take what it wants and the headroom, and give the headroom back."""
        try:
            file = open_beside(self._path)
        except OSError:
            return False
        try:
            os.posix_fallocate(file, 0, self._wanted + self._headroom)
        except OSError:
            with contextlib.suppress(OSError):  # some file systems keep what there was room for
                os.ftruncate(file, self._size)
            return False
        else:
            os.ftruncate(file, self._wanted)
            self._size = self._wanted
            return True
        finally:
            os.close(file)


def _allocated(path: str) -> int:
    """Bytes of a file that are on the disk for sure; 0 where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return min(found.st_size, 512 * found.st_blocks)
