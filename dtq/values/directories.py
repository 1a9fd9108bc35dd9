"""Directories for values that belong to a process, and are removed with it, however it ends.

A lock in a directory tells whether its process is alive. The next process that makes such a directory in the same place
removes those that killed processes left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from typing import Final

_PREFIX: Final = "dtq-values-"
_LOCK: Final = "lock"
#: Seconds after which a directory without a lock counts as abandoned.
_ABANDONED_S: Final = 60.0


def make(parent: str) -> tuple[str, int]:
    """Make a directory, and the lock that marks it as used; its path, and the lock's descriptor."""
    while True:
        path = os.path.join(parent, _PREFIX + secrets.token_hex(8))
        os.mkdir(path, 0o700)
        lock = -1
        # Until it is locked, a process that clears up may take it for an abandoned one.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:
                return path, lock
        if lock >= 0:
            os.close(lock)


def remove(made: list[tuple[str, int]], process: int) -> None:
    """Remove directories that were made, in the process that has made them.

    Args:
        made: the results of `make`; only read now.
        process: that process.
    """
    if os.getpid() != process:
        return  # a fork of their process
    for path, lock in made:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: str) -> None:
    """Remove the directories in a place that killed processes left behind."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        _remove_if_abandoned(entry.path)


def _remove_if_abandoned(path: str) -> None:
    try:
        lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENOENT and time.time() - os.stat(path).st_mtime > _ABANDONED_S:
            os.rmdir(path)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
