"""Processes that are killed later: a pinned process is never confused with another that has its number by then.

Worker, below `child`. If the kernel has descriptors of processes (Linux), one is held. Elsewhere, and for the
descendants of a process, `psutil` is used, which takes longer to import than everything else that a worker needs for
its slots; so it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib import import_module
from typing import Any, Protocol


class Pinned(Protocol):
    """A pinned process."""

    def kill(self) -> None:
        """Kill it, if it still exists."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


def pinned(pid: int, parent: int) -> Pinned | None:
    """Pin a process.

    Args:
        pid: its number.
        parent: that of its parent.

    Returns:
        None if that parent has no such child.
    """
    if sys.platform != "linux":
        return _by_number(pid, parent)
    try:
        found = _ByDescriptor(os.pidfd_open(pid))
    except ProcessLookupError:
        return None
    except (AttributeError, OSError):  # an old kernel, or no descriptor is left
        return _by_number(pid, parent)
    if _parent(pid) == parent:
        return found
    found.close()
    return None


class _ByDescriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def kill(self) -> None:
        """See `Pinned.kill`."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """See `Pinned.close`."""
        os.close(self._descriptor)


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        # The command's name, in parentheses, may contain anything; the parent is the second word after it.
        return int(file.read().rpartition(b")")[2].split()[1])
    return None


class _ByNumber:
    def __init__(self, process: Any) -> None:
        self._process = process

    def kill(self) -> None:
        """See `Pinned.kill`."""
        with contextlib.suppress(import_module("psutil").Error):
            self._process.kill()  # it makes sure that the number is still the same process's

    def close(self) -> None:
        """See `Pinned.close`."""


def _by_number(pid: int, parent: int) -> Pinned | None:
    psutil = import_module("psutil")
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.ppid() == parent:
            return _ByNumber(process)
    return None


def kill_tree(pid: int) -> None:
    """Kill a process, its group, and all its descendants."""
    psutil = import_module("psutil")
    descendants: list[Any] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
