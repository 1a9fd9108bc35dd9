"""The high-water mark: detects at start that acknowledged commits are missing from a store.

SQLite takes a damaged write-ahead log for one that ends before the damage: after one flipped bit it opens without an
error, and the commits behind the bit are gone. Therefore each commit carries a number, and after each commit its head
(`head`) is also written to a small file of its own beside the store. A store that opens with a lower number than its
mark has lost the commits in between. The mark also has the highest numbers that had been given out, so that none of
them is given out again.

The mark is written with a plain write after each commit, before the commit is acknowledged, and synced about once a
second and at close. That is enough: the write survives the death of the process at once. After a power cut the mark may
be a second old, which matters only if the same power cut also damaged the synced log of that second. To cover that,
each commit would have to wait for the disk twice. A mark older than its store is no fault and not complained of.

Two places are written in turn, so that a torn write leaves the one before.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Final

from dtq.engines.head import HEAD_BYTES, Head, unpack
from dtq.engines.storefile import open_beside

_log = logging.getLogger("dtq.engines")

#: Distance of the two places in bytes, so that no write to a disk touches both.
_PLACE: Final = 4096
#: Seconds between two syncs.
_SYNC_S: Final = 1.0


class CommitMarker:
    """The mark of an open store.

    Args:
        path: its file; made if missing.
        sync: whether it is ever synced.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, *, sync: bool) -> None:
        self._path = path
        self._sync = sync
        self._place = _PLACE if _latest(path)[1] else 0
        self._synced_at = time.monotonic()
        self._complained = False
        self._file = open_beside(path)

    def start(self, head: Head) -> None:
        """Write a head to both places, durably, one after the other.

        Raises:
            OSError: they cannot be written.
        """
        for _ in range(2):
            self._place = _PLACE - self._place
            os.pwrite(self._file, head.pack(), self._place)
            if self._sync:
                os.fsync(self._file)

    def write(self, head: Head) -> None:
        """Write a head. A mark that cannot be written is logged once: the commit itself is in place."""
        self._place = _PLACE - self._place
        try:
            os.pwrite(self._file, head.pack(), self._place)
            if self._sync and time.monotonic() - self._synced_at > _SYNC_S:
                os.fdatasync(self._file)
                self._synced_at = time.monotonic()
        except OSError as error:
            if not self._complained:
                _log.warning("%s cannot be written (%s): losses would not be noticed", self._path, error)
            self._complained = True

    def close(self) -> None:
        """Sync and close."""
        try:
            if self._sync:
                os.fdatasync(self._file)
        except OSError as error:
            _log.warning("%s cannot be synced (%s)", self._path, error)
        finally:
            os.close(self._file)


def read(path: str) -> Head | None:
    """The latest head in a mark's file; None if the file is missing or both places are damaged.

    Raises:
        OSError: the file exists and cannot be read.
    """
    return _latest(path)[0]


def _latest(path: str) -> tuple[Head | None, int]:
    try:
        with open(path, "rb") as file:
            raw = file.read(2 * _PLACE)
    except FileNotFoundError:
        return None, 0
    first, second = unpack(raw[:HEAD_BYTES]), unpack(raw[_PLACE : _PLACE + HEAD_BYTES])
    if second is not None and (first is None or second.sequence > first.sequence):
        return second, 1
    return first, 0
