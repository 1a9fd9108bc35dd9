"""Directories for the segments of values: how engines make and remove them.

Engines. A directory is this user's alone (mode 0700), and never a link that another user has put there. A directory
beside a store stays as long as the store. An engine in memory has one in the directory for temporary files, and another
in fast memory if the disk has little room. They are removed with it; those of a killed process are removed by the next
such engine. A lock in a directory tells whether its owner is alive.

Files on a disk are memory as well, the kernel's page cache: what is removed within half a minute is never written. The
cache takes pages in large pieces, where tmpfs takes each by itself: an echo of 1 MB by reference cost 2.2 ms of
processor time instead of 3.3 (Linux 6.18, ext4). And it gives way where memory is short or limited, as tmpfs does not.
"""

from __future__ import annotations

import os
import stat
import tempfile
import weakref
from typing import Final

from dtq.engines.reserve import base_on
from dtq.engines.storefile import sync_directory
from dtq.errors import StoreError
from dtq.values import directories
from dtq.values.place import Place

#: Suffix of the directory beside a store.
BESIDE: Final = ".values"
#: The writer of a value of this many bytes syncs it, so that commits have little to wait for.
_SYNC_FROM: Final = 8 << 20
#: Free bytes of a disk on which values are kept, if they need not outlast the process.
_ENOUGH: Final = 4 << 30
#: A directory in memory, if the system has one.
_FAST: Final = "/dev/shm"
#: Most bytes of values in fast memory, and the share of its free room.
_MOST_FAST: Final = 1 << 30
_FAST_SHARE: Final = 2


def beside_store(store: str, *, durable: bool, max_value: int) -> Place:
    """The place beside a store, made if missing.

    Args:
        store: path of the store.
        durable: whether commits wait for the disk.
        max_value: largest value in bytes.

    Raises:
        StoreError: the name belongs to no directory, or not to this user's.
        OSError: it cannot be made.
    """
    path = store + BESIDE
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(store, f"{path} is not a directory; remove it") from None
        if found.st_uid != os.geteuid():
            raise StoreError(store, f"{path} belongs to another user") from None
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    if durable:
        sync_directory(path)  # also if a failed start has made it
    sync_from = _SYNC_FROM if durable else 0
    return Place((path,), max_value=max_value, sync_from=sync_from, spare=base_on(path))


class OwnPlace:
    """Directories of this process's own, which end with this object or with the process, however that ends.

    Args:
        max_value: largest value in bytes.

    Raises:
        OSError: they cannot be made.
    """

    def __init__(self, max_value: int) -> None:
        temporary = tempfile.gettempdir()
        for parent in (_FAST, temporary):
            directories.remove_abandoned(parent)
        fast = 0 if _free(temporary) >= _ENOUGH else _free(_FAST) // _FAST_SHARE
        parents = [_FAST, temporary] if fast > 0 else [temporary]
        made: list[tuple[str, int]] = []
        self._remove = weakref.finalize(self, directories.remove, made, os.getpid())
        for parent in parents:
            made.append(directories.make(parent))
        paths = tuple(path for path, _ in made)
        #: The place.
        self.place = Place(paths, first_bytes=min(_MOST_FAST, fast), checked=False, max_value=max_value)

    def close(self) -> None:
        """Remove the directories, with their contents."""
        self._remove()


def _free(directory: str) -> int:
    """Free bytes in a writable directory; 0 if there is none."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize if os.access(directory, os.W_OK | os.X_OK) else 0
