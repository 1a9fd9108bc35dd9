"""Translates errors of SQLite into errors of dtq: no SQLite error leaves the engine."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from typing import Final

from dtq.engines.storefile import open_beside
from dtq.errors import StoreDamaged, StoreError, StoreFull, StoreUnwritable

#: Free bytes below which a failed write is taken for a full disk.
_SCARCE: Final = 2**20
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


def store_error(path: str, error: sqlite3.Error) -> StoreError:
    """The dtq error for an error of SQLite.

    Args:
        path: the store.
        error: the error; one that SQLite itself reports carries a code.
    """
    code = getattr(error, "sqlite_errorcode", None)
    sentence = str(error) or type(error).__name__
    if code is None:
        return StoreError(path, sentence)
    primary = code & 0xFF
    if primary in _DAMAGE or (isinstance(error, sqlite3.DatabaseError) and "malformed" in sentence):
        return StoreDamaged(path, sentence)
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and no_room(path)):
        return StoreFull(path, sentence)
    return StoreError(path, sentence)


def file_error(path: str, error: OSError) -> StoreError:
    """The dtq error for an error at one of the files beside a store."""
    kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
    return kind(path, error.strerror or str(error))


def commit_error(path: str, error: sqlite3.Error) -> StoreError:
    """The dtq error for a commit's error: an error that is neither a full disk nor damage may pass."""
    cause = store_error(path, error)
    return StoreUnwritable(*cause.args) if type(cause) is StoreError else cause


def no_room(path: str) -> bool:
    """Whether the disk, this user's part of it, or the size that this process may give a file, is used up.

    SQLite reports only the plainest case as "full"; if its log or index cannot grow, it reports a "disk I/O error".
    """
    try:
        disk = os.statvfs(os.path.dirname(path) or ".")
        if disk.f_bavail * disk.f_frsize < _SCARCE:
            return True
        largest = max((os.path.getsize(file) for file in (path, path + "-wal") if os.path.exists(file)), default=0)
    except OSError:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return (limit != resource.RLIM_INFINITY and largest + _SCARCE > limit) or _quota_is_used_up(path)


def _quota_is_used_up(path: str) -> bool:
    """A quota's remaining room shows only in an attempt to use it."""
    try:
        file = open_beside(path + ".room")
        try:
            os.posix_fallocate(file, 0, _SCARCE)
        finally:
            os.close(file)
            os.unlink(path + ".room")
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
