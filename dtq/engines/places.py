"""The directories in which engines keep the segments of values: how they are made, and how they go.

Engines. A directory is this user's alone (mode 0700), and never a link that somebody else has put there. Beside a store
it stays as the store does. An engine in memory has one of its own in fast memory and one on the disk, which go with it;
those of a process that was killed are removed by the next such engine. A lock in a directory tells whose is alive.
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

#: What the name of the directory beside a store ends with.
BESIDE: Final = ".values"
#: Values of so many bytes are synced by whoever writes them, so that commits have little to wait for.
_SYNC_FROM: Final = 8 << 20
#: A directory in memory, where the system has one.
_FAST: Final = "/dev/shm"
#: Most bytes of values in fast memory, and the share of what is free there.
_MOST_FAST: Final = 1 << 30
_FAST_SHARE: Final = 2


def beside_store(store: str, *, durable: bool, max_value: int) -> Place:
    """The place beside a store, made where it is missing.

    Args:
        store: path of the store.
        durable: whether commits wait for the disk.
        max_value: largest value in bytes.

    Raises:
        StoreError: what has that name is no directory, or not this user's.
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
        sync_directory(path)  # also where a start that failed has made it
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
        fast = _free(_FAST) // _FAST_SHARE
        parents = [_FAST, temporary] if fast > 0 else [temporary]
        for parent in parents:
            directories.remove_abandoned(parent)
        made: list[tuple[str, int]] = []
        self._remove = weakref.finalize(self, directories.remove, made, os.getpid())
        for parent in parents:
            made.append(directories.make(parent))
        paths = tuple(path for path, _ in made)
        #: The place.
        self.place = Place(paths, first_bytes=min(_MOST_FAST, fast), checked=False, max_value=max_value)

    def close(self) -> None:
        """Remove the directories, with what is in them."""
        self._remove()


def _free(directory: str) -> int:
    """How many bytes are free in a directory that can be written to; 0 where there is none."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize if os.access(directory, os.W_OK | os.X_OK) else 0
