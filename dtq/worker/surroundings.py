"""What a task finds around it in its process, and gets back to be so when it was changed by the one before.

Worker, in the slot's process. Working directory, umask, environment, signal handlers, blocked signals, timers, standard
streams and their descriptors are compared with what they were, and put back; processes that a task left running cannot
be taken back from whatever in this process still counts on them, so the slot ends, and its warden ends them.

Looking costs some 10 us: far more than a tiny task, so tiny tasks of one lease are looked after together.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from dtq.worker.warden import children

_SIGNALS: Final = tuple(
    int(number) for number in signal.valid_signals() if number < 32 and number not in (signal.SIGKILL, signal.SIGSTOP)
)
_STREAMS: Final = ("stdin", "stdout", "stderr")
# What lies behind the signal module's functions, which spend a microsecond each on making enumerations of numbers.
_signal: Any = importlib.import_module("_signal")
_handler: Final[Callable[[int], Any]] = _signal.getsignal
_mask: Final[Callable[[int, Any], Any]] = _signal.pthread_sigmask


class Spoilt(Exception):
    """Something cannot be put back: this process must not run another task."""


def _identity(descriptor: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None where it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _directory() -> tuple[int, int] | None:
    try:
        found = os.stat(".")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Surroundings:
    """How this process is to be for every task; at first as it is now.

    Args:
        keep_processes: whether processes that tasks leave running may go on.
    """

    def __init__(self, keep_processes: bool) -> None:
        self._keep_processes = keep_processes
        self._directory: tuple[int, int] | None = None
        self._home = -1
        #: Copies of the descriptors 0 to 2, out of the way of what closes them, and what they stand for.
        self._spare = [-1, -1, -1]
        self._standard: list[tuple[int, int] | None] = [None, None, None]
        self.accept()

    def accept(self) -> None:
        """What is now is right: a module that was imported for the first time has set something up."""
        self._accept_directory()
        self._accept_descriptors()
        self._umask = _umask()
        self._environment = dict(_environment())
        self._handlers = [_handler(number) for number in _SIGNALS]
        self._mask = _mask(signal.SIG_BLOCK, ())
        self._streams: list[Any] = [getattr(sys, name) for name in _STREAMS]
        self._depth = sys.getrecursionlimit()
        self._timer = signal.getitimer(signal.ITIMER_REAL)[0] > 0
        self._known = frozenset(_helpers()) if _has_children() else frozenset()

    def _accept_directory(self) -> None:
        now = _directory()
        if now == self._directory:
            return
        if self._home >= 0:
            os.close(self._home)
        # A directory that may be entered, and not read, is one to work in, too; where there is no O_PATH it is not.
        self._home = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        self._directory = now

    def _accept_descriptors(self) -> None:
        for descriptor, spare in enumerate(self._spare):
            now = _identity(descriptor)
            if now is not None and now != self._standard[descriptor]:
                if spare >= 0:
                    os.close(spare)
                self._spare[descriptor] = os.dup(descriptor)
                self._standard[descriptor] = now

    def restore(self) -> list[str]:
        """Put back what has changed.

        Returns:
            What had.

        Raises:
            Spoilt: it cannot be.
        """
        changed = [what for what, put_back in self._checks() if put_back()]
        left = self._left_running()
        if left:
            raise Spoilt(f"left {', '.join(left)} running")
        return changed

    def _checks(self) -> tuple[tuple[str, Callable[[], bool]], ...]:
        return (
            ("its standard streams", self._restore_streams),
            ("its working directory", self._restore_directory),
            ("its umask", self._restore_umask),
            ("its environment", self._restore_environment),
            ("its signal handlers", self._restore_signals),
            ("its recursion limit", self._restore_depth),
        )

    def _restore_streams(self) -> bool:
        changed = False
        for descriptor, (spare, right) in enumerate(zip(self._spare, self._standard, strict=True)):
            if _identity(descriptor) != right:
                if _identity(spare) != right:
                    raise Spoilt("closed descriptors that are not its own")
                os.dup2(spare, descriptor)
                changed = True
        for name, stream in zip(_STREAMS, self._streams, strict=True):
            if getattr(sys, name) is not stream:
                setattr(sys, name, stream)
                changed = True
            if getattr(stream, "closed", False):
                raise Spoilt(f"closed sys.{name}")
        return changed

    def _restore_directory(self) -> bool:
        if _directory() == self._directory:
            return False
        with suppress(OSError):
            os.fchdir(self._home)
        if _directory() != self._directory:
            raise Spoilt("is in another working directory, and cannot go back")
        return True

    def _restore_umask(self) -> bool:
        return os.umask(self._umask) != self._umask

    def _restore_environment(self) -> bool:
        if _environment() == self._environment:
            return False
        now, before = os.environb, self._environment
        for name in [name for name in now if name not in before]:
            del now[name]
        for name, value in before.items():
            now[name] = value
        return True

    def _restore_depth(self) -> bool:
        if sys.getrecursionlimit() == self._depth:
            return False
        sys.setrecursionlimit(self._depth)
        return True

    def _restore_signals(self) -> bool:
        changed = False
        if [_handler(number) for number in _SIGNALS] != self._handlers:
            changed = True
            for number, handler in zip(_SIGNALS, self._handlers, strict=True):
                if handler is not None:  # None: not set from Python, so it cannot be set back either
                    signal.signal(number, handler)
        if not self._timer and signal.getitimer(signal.ITIMER_REAL)[0] > 0:
            changed = True
            signal.setitimer(signal.ITIMER_REAL, 0)
        if _mask(signal.SIG_SETMASK, self._mask) != self._mask:
            changed = True
        return changed

    def _left_running(self) -> list[str]:
        """Names and numbers of processes that were started since and still run."""
        if not _has_children() or self._keep_processes:
            return []
        left = [pid for pid in _helpers() if pid not in self._known]
        return [f"{_name(pid)} (pid {pid})" for pid in left if pid != _resource_tracker()]


def _environment() -> dict[bytes, bytes]:
    # What lies behind os.environ: comparing through it would decode every entry.
    found: dict[bytes, bytes] = os.environb._data  # type: ignore[attr-defined]
    return found


def _has_children() -> bool:
    """Whether there are children that run; the ended are collected on the way, for nobody else will."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            os.waitpid(ended.si_pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _helpers() -> list[int]:
    return children() if sys.platform == "linux" else []


def _resource_tracker() -> int | None:
    """The process that multiprocessing keeps for good, which ends with this one by itself."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    with suppress(AttributeError):
        found: int | None = module._resource_tracker._pid  # type: ignore[union-attr]
        return found
    return None


def _name(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return "a process"
