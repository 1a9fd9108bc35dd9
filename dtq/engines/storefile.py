"""The files around a store: its directory, and the lock that keeps a second coordinator out."""

from __future__ import annotations

import contextlib
import fcntl
import os

from dtq.errors import StoreLocked


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


class StoreLock:
    """Holds a store for this process, until `release` or the process's end, however it ends.

    The kernel keeps the lock with the open file, so it also keeps out a second engine of the same process. The file
    itself stays: removing it would let two processes lock two files of one name.

    Args:
        store: path of the store, for the message.

    Raises:
        StoreLocked: somebody else holds it.
        OSError: the lock's file cannot be opened.
    """

    def __init__(self, store: str) -> None:
        self._file = os.open(store + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise StoreLocked(store, int(holder) if holder.isdecimal() else "unknown") from error
        except OSError:
            os.close(self._file)
            raise
        with contextlib.suppress(OSError):  # a full disk; the pid is for people only
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let the store go."""
        os.close(self._file)
