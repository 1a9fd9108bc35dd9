"""The files of a store: how they are opened, the locks that keep a second coordinator out, and checks of their
presence.

Engines, used by `sqlite`. The names of the files beside a store follow from the store's. In a directory that others can
write to, another user may have put a link under such a name: its target is never written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from dtq.errors import StoreError, StoreLocked

#: Suffixes of the files beside a store.
BESIDE: Final = (".lock", ".mark", ".reserve", "-wal", "-shm")
#: Suffixes of the files that SQLite has open as long as a store is open.
_IN_USE: Final = ("", "-wal", "-shm")


def sync_directory(path: str) -> None:
    """Make the names in a file's directory durable.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_beside(path: str) -> int:
    """Open a file beside a store for reading and writing; make it if missing.

    Returns:
        The descriptor.

    Raises:
        OSError: it cannot be opened, or it is a link, a pipe or the like.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        raise OSError(errno.EINVAL, f"{path} is no plain file with one name")
    return file


def check_names(store: str) -> None:
    """Check that the names of a store's files lead to plain files of its own.

    A write-ahead log belongs to one name of the store: opened by another name (a hard link), the store would lack the
    log's commits.

    Raises:
        StoreError: one of them is a link, a pipe or the like, or has a second name.
    """
    for path in (store, *(store + end for end in BESIDE)):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(store, f"{path} is not a plain file, and what it leads to must not be written; remove it")
        if found.st_nlink > 1:
            why = (
                "has another name (a hard link); a copy can be used, two names of one file cannot: remove the other one"
            )
            raise StoreError(store, f"{path} {why}")


class StoreLock:
    """Holds a store for this process, until `release` or the process's end, however it ends.

    The kernel keeps the locks with the open files, so they also keep out a second engine of the same process. One lock
    is on a file beside the store, which stays: it holds while there is no store yet. The other one is on the store
    itself (`hold_store`), and so keeps out a process that removes the first, or uses another name of the store.

    Args:
        store: path of the store, for the message.

    Raises:
        StoreLocked: another process holds it.
        OSError: the lock's file cannot be opened.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._files: list[int] = []
        self._take(open_beside(store + ".lock"))
        with contextlib.suppress(OSError):  # a full disk; the pid is for people only
            os.ftruncate(self._files[0], 0)
            os.pwrite(self._files[0], f"{os.getpid()}\n".encode("ascii"), 0)

    def hold_store(self) -> None:
        """Lock the store itself, which exists now.

        The file is not closed before `release`: SQLite's own locks on it would end with that
        (https://sqlite.org/howtocorrupt.html, section 2.2).

        Raises:
            StoreLocked: another process holds it.
            OSError: it cannot be opened.
        """
        self._take(os.open(self._store, os.O_RDWR | os.O_CLOEXEC))

    def release(self) -> None:
        """Release the store."""
        while self._files:
            os.close(self._files.pop())

    def _take(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise StoreLocked(self._store, self._holder()) from error
        except OSError:
            os.close(file)
            raise
        self._files.append(file)

    def _holder(self) -> int | str:
        """The process that holds the store, as the file beside it says."""
        if self._files:
            return "unknown"  # it was removed, and this process has just made a new one
        return _holder(self._store)


@contextlib.contextmanager
def without_coordinator(store: str) -> Iterator[None]:
    """Keep coordinators out of a store that is only read; no file is made or written.

    Raises:
        StoreLocked: a coordinator has it.
        OSError: it cannot be opened.
    """
    with contextlib.ExitStack() as files:
        for path in (store + ".lock", store):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            files.callback(os.close, file)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreLocked(store, _holder(store)) from error
        yield


def _holder(store: str) -> int | str:
    """The process that holds a store, as the file beside it says."""
    with contextlib.suppress(OSError), open(store + ".lock", "rb") as file:
        holder = file.read(32).decode("ascii", "replace").strip()
        if holder.isdecimal():
            return int(holder)
    return "unknown"


class Presence:
    """Checks that the names of an open store's files still lead to them, and that the files have no other names.

    Data written to a file that was moved or removed is lost with this process, or becomes another store's: it must not
    be acknowledged. Nor must data written to a file with a second name: a process that opens it by that name, or
    removes the first, has a store without its log, and no start would accept it (`check_names`).

    Args:
        store: path of the store, which is open.
    """

    def __init__(self, store: str) -> None:
        self._seen = [(path, _identity(path)) for path in (store + end for end in _IN_USE)]

    def missing(self) -> str:
        """The files that are no longer in their place, or not only there, in words; "" for none."""
        for path, seen in self._seen:
            found = _identity(path)
            if found == seen:
                continue
            if found is not None and seen is not None and found[:2] == seen[:2]:
                return f"{path} was given another name (a hard link) while it was in use; remove the other name"
            return f"{path} was removed, moved or replaced while it was in use; put it back, or stop the coordinator"
        return ""


def _identity(path: str) -> tuple[int, int, bool] | None:
    """Device, inode, and whether the file has further names."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_nlink > 1
