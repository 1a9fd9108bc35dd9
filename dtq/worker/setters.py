"""Wrapped functions that change process-wide state: each records its calls.

Worker, in the slot's process. A check of all state that a task may have changed takes longer than a tiny task. So the
functions of the standard library whose effects may end or mislead the next task are wrapped before user code is
imported: state with recorded calls is checked as soon as the task has ended, and other state costs nothing.

The effects of calls during a module's import stay: the module would not repeat them.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, Final

#: State that cannot be read, and so not be restored: a call of its setter spoils the process.
UNKNOWABLE: Final = "what nothing can tell"
PROCESSES: Final = "its processes"
RANDOM: Final = "its random numbers"
#: By module, the functions and the aspect that they change.
_WATCHED: Final[dict[str, dict[str, str]]] = {
    "signal": {
        "signal": "its signal handlers",
        "siginterrupt": "its signal handlers",
        "set_wakeup_fd": "its signal handlers",
        "pthread_sigmask": "its blocked signals",
        "setitimer": "its timers",
        "alarm": "its timers",
    },
    "resource": {"setrlimit": "its resource limits", "prlimit": "its resource limits"},
    "os": {
        "chdir": "its working directory",
        "fchdir": "its working directory",
        "umask": "its umask",
        "putenv": "its environment",
        "unsetenv": "its environment",
        "nice": "its priority",
        "setpriority": "its priority",
        "sched_setaffinity": "its affinity to processors",
        "sched_setscheduler": "its scheduling",
        "sched_setparam": "its scheduling",
        "dup2": "its standard streams",
        **dict.fromkeys(
            ("setuid", "seteuid", "setreuid", "setresuid", "setgid", "setegid", "setregid", "setresgid", "setgroups"),
            "its user or group",
        ),
        **dict.fromkeys(("chroot", "unshare", "setns"), UNKNOWABLE),
    },
    "time": {"tzset": "its time zone"},
    "locale": {"setlocale": "its locale"},
    "faulthandler": dict.fromkeys(
        ("dump_traceback_later", "enable", "disable", "register", "unregister"), "its fault handler"
    ),
    "warnings": dict.fromkeys(("simplefilter", "filterwarnings", "resetwarnings"), "its warning filters"),
    "socket": {"setdefaulttimeout": "its default time-out of sockets"},
    "threading": {"stack_size": "its limits of the interpreter"},
    "gc": dict.fromkeys(("disable", "set_threshold", "set_debug", "freeze"), "its garbage collection"),
    "random": dict.fromkeys(("seed", "setstate"), RANDOM),
    "sys": {
        "setrecursionlimit": "its limits of the interpreter",
        "setswitchinterval": "its limits of the interpreter",
        "set_int_max_str_digits": "its limits of the interpreter",
        "setdlopenflags": "its limits of the interpreter",
        "addaudithook": UNKNOWABLE,
    },
}
#: Likewise, for modules that are wrapped once they are imported.
_WATCHED_LATER: Final = {
    "numpy.random": dict.fromkeys(("seed", "set_state"), RANDOM),
    "asyncio": dict.fromkeys(("set_event_loop", "set_event_loop_policy"), "its event loop"),
}
#: Sets of functions in which programs look for a function.
_CAPABILITIES: Final = (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids)
_IMPORTING: Final = "<frozen importlib._bootstrap>"


class Setters:
    """The calls since the last check."""

    def __init__(self) -> None:
        #: Aspects that a task may have changed; and those that a module has changed when it was imported.
        self.called: set[str] = set()
        self.at_import: set[str] = set()
        #: Names and arguments, if the aspect's name does not tell enough.
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        #: Names of calls that spoil the process.
        self.unknowable: set[str] = set()
        self._later = dict(_WATCHED_LATER)

    def watch(self) -> None:
        """Wrap the functions, for good."""
        for name, functions in _WATCHED.items():
            self._wrap(importlib.import_module(name), functions)
        self.watch_imported()
        os.register_at_fork(after_in_parent=functools.partial(self.called.add, PROCESSES))

    def watch_imported(self) -> None:
        """Wrap functions of modules that have been imported since."""
        for name in [name for name in self._later if name in sys.modules]:
            self._wrap(sys.modules[name], self._later.pop(name))

    def _wrap(self, module: ModuleType, functions: dict[str, str]) -> None:
        for function, aspect in functions.items():
            original = getattr(module, function, None)
            if original is None:
                continue
            name = f"{module.__name__}.{function}"
            if aspect == UNKNOWABLE:
                self.unknowable.add(name)
            wrapped = self._noting(original, name, aspect)
            # Pickles name a function by its own module and name.
            wrapped.__module__, wrapped.__qualname__ = module.__name__, function
            _replace(module, function, original, wrapped)

    def _noting(self, original: Callable[..., Any], name: str, aspect: str) -> Callable[..., Any]:
        called, at_import, calls = self.called, self.at_import, self.calls

        @functools.wraps(original)
        def noting(*args: Any, **kwargs: Any) -> Any:
            called.add(aspect)
            if _is_importing():
                at_import.add(aspect)
            elif len(calls) < 1_000:
                calls.append((name, args[:1]))
            return original(*args, **kwargs)

        return noting

    def forget(self) -> None:
        """Clear the records, after a check."""
        self.called.clear()
        self.at_import.clear()
        self.calls.clear()


def _replace(module: Any, name: str, original: Callable[..., Any], wrapped: Callable[..., Any]) -> None:
    for place in (module, sys.modules.get(getattr(original, "__module__", None) or "")):
        if place is not None and getattr(place, name, None) is original:
            setattr(place, name, wrapped)
    for functions in _CAPABILITIES:
        if original in functions:
            functions.add(wrapped)


def _is_importing() -> bool:
    """Whether this thread imports a module now."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
