"""Functions that change the whole process, as they say that they were called.

Worker, in the slot's process. Looking at everything that a task may have changed takes longer than a tiny task. So the
functions of the standard library with which it would change anything that may end or mislead the next one are wrapped
before user code is imported: what was called is looked at as soon as the task has ended, and costs others nothing.

What a module calls while it is imported stays: it would not be called again.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, Final

#: What cannot be looked at, and so not be put back: calling it spoils the process.
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
#: Likewise, of modules that are watched once something has imported them.
_WATCHED_LATER: Final = {
    "numpy.random": dict.fromkeys(("seed", "set_state"), RANDOM),
    "asyncio": dict.fromkeys(("set_event_loop", "set_event_loop_policy"), "its event loop"),
}
#: Sets of functions that programs ask whether something is among them.
_CAPABILITIES: Final = (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids)
_IMPORTING: Final = "<frozen importlib._bootstrap>"


class Setters:
    """What was called since the last look."""

    def __init__(self) -> None:
        #: Aspects that a task may have changed; and those that a module has changed when it was imported.
        self.called: set[str] = set()
        self.at_import: set[str] = set()
        #: Names and arguments, where the aspect's name does not say enough.
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        #: Names of those that spoil the process.
        self.unknowable: set[str] = set()
        self._later = dict(_WATCHED_LATER)

    def watch(self) -> None:
        """Wrap the functions, from now on and for good."""
        for name, functions in _WATCHED.items():
            self._wrap(importlib.import_module(name), functions)
        self.watch_imported()
        os.register_at_fork(after_in_parent=functools.partial(self.called.add, PROCESSES))

    def watch_imported(self) -> None:
        """Wrap those of modules that have been imported since."""
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
            # Pickles name a function by what it says of itself.
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
        """It was looked at."""
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
