"""Process state in the kernel and the C library, as aspects to compare and restore.

Worker, in the slot's process. Each check costs a system call or more: some microseconds.
"""

from __future__ import annotations

import importlib
import locale
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from dtq.worker.aspects import Aspect, Spoilt

_SIGNALS: Final = tuple(
    int(number) for number in signal.valid_signals() if number < 32 and number not in (signal.SIGKILL, signal.SIGSTOP)
)
# The functions behind the signal module's, which spend a microsecond each on making enumerations of numbers.
_signal: Any = importlib.import_module("_signal")
_handler: Final[Callable[[int], Any]] = _signal.getsignal
_mask: Final[Callable[[int, Any], Any]] = _signal.pthread_sigmask
# As they are before `setters` wraps them.
_set_umask: Final = os.umask
_set_locale: Final = locale.setlocale
_set_wakeup_fd: Final[Callable[..., int]] = _signal.set_wakeup_fd
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS: Final = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))
_LINUX: Final = sys.platform == "linux"
#: The share of its limit of descriptors that a process may hold open and go on.
MOST_OPEN: Final = 0.5


def _limits() -> tuple[tuple[int, int], ...]:
    return tuple(map(resource.getrlimit, _LIMITS))


def _set_limits(right: tuple[tuple[int, int], ...]) -> None:
    for limit, now, before in zip(_LIMITS, _limits(), right, strict=True):
        if now != before:
            resource.setrlimit(limit, before)


def _timers() -> tuple[bool, ...]:
    """The set timers: when they go off is their own affair."""
    return tuple(_signal.getitimer(timer)[0] > 0 for timer in _TIMERS)


def _stop_timers(right: tuple[bool, ...]) -> None:
    for timer, wanted in zip(_TIMERS, right, strict=True):
        if not wanted:
            _signal.setitimer(timer, 0)


def _handlers() -> list[Any]:
    return [_handler(number) for number in _SIGNALS]


def _set_handlers(right: list[Any]) -> None:
    for number, now, handler in zip(_SIGNALS, _handlers(), right, strict=True):
        if now != handler and handler is not None:  # None: not set from Python, so it cannot be restored either
            _signal.signal(number, handler)


def _blocked() -> Any:
    return _mask(signal.SIG_BLOCK, ())


def _set_blocked(right: Any) -> None:
    # Pending signals were meant for the task that has masked them.
    while (waiting := signal.sigpending() - right) and signal.sigtimedwait(waiting, 0) is not None:
        pass
    _mask(signal.SIG_SETMASK, right)


def _wakeup() -> int:
    descriptor = _set_wakeup_fd(-1)
    if descriptor != -1:
        _set_wakeup(descriptor)
    return descriptor


def _set_wakeup(right: int) -> None:
    _set_wakeup_fd(right, warn_on_full_buffer=False)


class _Umask:
    """The bits that are taken from the mode of new files. The system tells them only when they are set: so the right
    ones are set, and threads that make files meanwhile are not misled.
    """

    def __init__(self) -> None:
        self._right = self._read()

    @staticmethod
    def _read() -> int:
        with suppress(OSError, StopIteration, ValueError), open("/proc/self/status", "rb") as file:
            return int(next(line for line in file if line.startswith(b"Umask:")).split()[1], 8)
        mask = _set_umask(0o077)
        _set_umask(mask)
        return mask

    def look(self) -> int:
        """The previous bits; the right ones are set now."""
        return _set_umask(self._right)

    def keep(self, now: int) -> int:
        """Make the previous bits the right ones."""
        _set_umask(now)
        self._right = now
        return now


class _Directory:
    """The working directory. It may no longer have a name, or none that may be read."""

    def __init__(self) -> None:
        self._home = -1
        self._right: tuple[int, int] | None = None

    def look(self) -> tuple[int, int] | None:
        """Its identity."""
        try:
            found = os.stat(".")
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def keep(self, now: tuple[int, int] | None) -> tuple[int, int] | None:
        """Hold it open."""
        if now != self._right:
            if self._home >= 0:
                os.close(self._home)
            # A directory that may be entered but not read is a working directory, too; without O_PATH it is not.
            self._home = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
            self._right = now
        return now

    def put_back(self, right: object) -> None:
        """Go back."""
        os.fchdir(self._home)


class _Descriptors:
    """The descriptors 0 to 2."""

    def __init__(self) -> None:
        #: Copies of them, out of reach of code that closes them, and their files.
        self._spare = [-1, -1, -1]
        self._right: list[tuple[int, int] | None] = [None, None, None]

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int] | None:
        try:
            found = os.fstat(descriptor)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def look(self) -> list[tuple[int, int] | None]:
        """Their files; None for a closed one."""
        return [self._identity(descriptor) for descriptor in range(3)]

    def keep(self, now: list[tuple[int, int] | None]) -> list[tuple[int, int] | None]:
        """Copy them."""
        for descriptor, identity in enumerate(now):
            if identity is not None and identity != self._right[descriptor]:
                if self._spare[descriptor] >= 0:
                    os.close(self._spare[descriptor])
                self._spare[descriptor] = os.dup(descriptor)
                self._right[descriptor] = identity
        return list(self._right)

    def put_back(self, right: list[tuple[int, int] | None]) -> None:
        """Restore them from the copies."""
        for descriptor, (now, before) in enumerate(zip(self.look(), right, strict=True)):
            if now != before:
                if self._identity(self._spare[descriptor]) != before:
                    raise Spoilt("closed descriptors that are not its own")
                os.dup2(self._spare[descriptor], descriptor)


class Environment:
    """The environment, in Python and in the C library."""

    def __init__(self) -> None:
        self._object = os.environ

    def look(self) -> tuple[Any, ...]:
        """A comparison through `os.environ` would decode every entry."""
        found: dict[bytes, bytes] = self._object._data  # type: ignore[attr-defined]
        return os.environ, found

    def keep(self, now: tuple[Any, ...]) -> tuple[Any, ...]:
        """A copy."""
        return self._object, dict(now[1])

    def put_back(self, right: tuple[Any, ...]) -> None:
        """Restore it."""
        os.environ = self._object  # noqa: B003 - the very object that it was
        now, before = os.environb, right[1]
        zone = now.get(b"TZ")
        for name in [name for name in now if name not in before]:
            del now[name]
        for name, value in before.items():
            now[name] = value
        if zone != now.get(b"TZ"):
            time.tzset()

    def put_back_in_c(self, names: set[bytes], right: tuple[Any, ...]) -> None:
        """Restore entries that were changed past `os.environ`."""
        for name in names:
            value = right[1].get(name)
            with suppress(ValueError, OSError):
                os.unsetenv(name) if value is None else os.putenv(name, value)
        if b"TZ" in names:
            time.tzset()


def _zone() -> tuple[Any, ...]:
    return time.tzname, time.timezone, time.altzone, time.daylight


def _locale() -> str:
    return _set_locale(locale.LC_ALL)


def _scheduling() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def _set_scheduling(right: tuple[int, int]) -> None:
    os.sched_setscheduler(0, right[0], os.sched_param(right[1]))


def _identity() -> tuple[Any, ...]:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _set_identity(right: tuple[Any, ...]) -> None:
    users, groups, others = right
    os.setresuid(*users)  # first, as the others may take a privilege
    os.setresgid(*groups)
    if os.getgroups() != others:
        os.setgroups(others)


def check_descriptors() -> None:
    """Make sure that the next task has free descriptors.

    Raises:
        Spoilt: so many are open that it might not.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest = os.dup(0)  # the lowest free one
    except OSError as error:
        raise Spoilt(f"leaves no descriptor ({error})") from error
    os.close(lowest)
    if limit != resource.RLIM_INFINITY and lowest > limit * MOST_OPEN:
        raise Spoilt(f"leaves {lowest} descriptors open, and there are {limit}")


def aspects(environment: Environment) -> tuple[Aspect, ...]:
    """All of them, for the process in its present state, in the order of their restoration: first those that may end it
    meanwhile, and those that may block the others.
    """
    umask, directory, descriptors = _Umask(), _Directory(), _Descriptors()
    found = [
        Aspect(name="its timers", look=_timers, put_back=_stop_timers),
        Aspect(name="its resource limits", look=_limits, put_back=_set_limits),
        Aspect(
            name="its standard streams", look=descriptors.look, put_back=descriptors.put_back, keep=descriptors.keep
        ),
        Aspect(name="its signal handlers", look=_handlers, put_back=_set_handlers),
        Aspect(name="its wake-up descriptor", look=_wakeup, put_back=_set_wakeup),
        Aspect(name="its blocked signals", look=_blocked, put_back=_set_blocked),
        Aspect(name="its working directory", look=directory.look, put_back=directory.put_back, keep=directory.keep),
        Aspect(name="its umask", look=umask.look, put_back=lambda right: None, keep=umask.keep),
        Aspect(name="its environment", look=environment.look, put_back=environment.put_back, keep=environment.keep),
        Aspect(name="its time zone", look=_zone, put_back=lambda right: time.tzset()),
        Aspect(name="its locale", look=_locale, put_back=lambda right: _set_locale(locale.LC_ALL, right)),
        Aspect(
            name="its priority",
            look=lambda: os.getpriority(os.PRIO_PROCESS, 0),
            put_back=lambda right: os.setpriority(os.PRIO_PROCESS, 0, right),
        ),
    ]
    if _LINUX:
        found += [
            Aspect(
                name="its affinity to processors",
                look=lambda: os.sched_getaffinity(0),
                put_back=lambda right: os.sched_setaffinity(0, right),
            ),
            Aspect(name="its scheduling", look=_scheduling, put_back=_set_scheduling),
            Aspect(name="its user or group", look=_identity, put_back=_set_identity),
        ]
    return tuple(found)
