"""Tasks that leave something behind in their process, and one that says what it finds there."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import ctypes
import decimal
import faulthandler
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="fresh")
_LIMITS = ("CPU", "FSIZE", "NOFILE", "AS", "CORE", "DATA", "STACK", "NPROC", "MEMLOCK", "RSS", "SIGPENDING", "RTPRIO")


def _timer(which: int) -> Callable[[], object]:
    return lambda: signal.setitimer(which, 0.05, 0.05)


def _soft(name: str, value: int) -> Callable[[], object]:
    number = getattr(resource, f"RLIMIT_{name}")
    return lambda: resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def _set(target: Any, name: str, value: Any) -> Callable[[], object]:
    return lambda: setattr(target, name, value)


def _zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def _zone_in_c() -> None:
    """The C library looks at the environment whenever it makes a time; Python is not told."""
    os.environ["TZ"] = "Asia/Tokyo"
    time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0))


def _loop() -> None:
    asyncio.run(asyncio.sleep(0))


def _policy() -> None:
    class Policy(asyncio.DefaultEventLoopPolicy):
        pass

    asyncio.set_event_loop_policy(Policy())


def _pending_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    os.kill(os.getpid(), signal.SIGUSR1)


def _own_finder() -> None:
    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


def _watch() -> None:
    monitoring: Any = getattr(sys, "monitoring", None)  # since Python 3.12
    if monitoring is not None:
        monitoring.use_tool_id(3, "left")
        monitoring.set_events(3, monitoring.events.LINE)


def _hard_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


def _open_many() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    _kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(soft * 6 // 10))


_kept: list[int] = []


#: By name, what a task may leave behind.
KINDS: dict[str, Callable[[], object]] = {
    "timer real": _timer(signal.ITIMER_REAL),
    "timer virtual": _timer(signal.ITIMER_VIRTUAL),
    "timer prof": _timer(signal.ITIMER_PROF),
    "alarm": lambda: signal.alarm(1),
    "timer in C": lambda: ctypes.CDLL(None).alarm(1),
    "limit CPU": _soft("CPU", 1),
    "limit FSIZE": _soft("FSIZE", 0),
    "limit NOFILE": _soft("NOFILE", 10),
    "limit AS": _soft("AS", 300 << 20),
    "limit NPROC": _soft("NPROC", 1),
    "limit CORE": _soft("CORE", 0),
    "limit STACK": _soft("STACK", 1 << 20),
    "hard limit": _hard_limit,
    "open descriptors": _open_many,
    "delayed exit": lambda: faulthandler.dump_traceback_later(0.1, exit=True),
    "fault handler off": faulthandler.disable,
    "fault handler of a signal": lambda: faulthandler.register(signal.SIGUSR2),
    "event loop": _loop,
    "event loop policy": _policy,
    "decimal precision": lambda: setattr(decimal.getcontext(), "prec", 3),
    "decimal context": lambda: decimal.setcontext(decimal.Context(prec=4)),
    "decimal template": lambda: setattr(decimal.DefaultContext, "prec", 5),
    "context variable": lambda: VARIABLE.set("left"),
    "time zone": _zone,
    "time zone in C": _zone_in_c,
    "environment": lambda: os.environ.update(LEFT="1"),
    "environment in C": lambda: os.putenv("LEFT", "1"),
    "another environment": lambda: setattr(os, "environ", {}),
    "working directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o000),
    "affinity": lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    "nice": lambda: os.nice(5),
    "scheduling": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "warning filters": lambda: warnings.simplefilter("error"),
    "warnings shown": _set(warnings, "showwarning", print),
    "collection off": gc.disable,
    "collection threshold": lambda: gc.set_threshold(1),
    "collection debug": lambda: gc.set_debug(gc.DEBUG_COLLECTABLE),
    "collection frozen": gc.freeze,
    "collection callback": lambda: gc.callbacks.append(print),
    "trace": lambda: sys.settrace(lambda *_: None),
    "profile": lambda: sys.setprofile(lambda *_: None),
    "trace of threads": lambda: threading.settrace(lambda *_: None),
    "profile of threads": lambda: threading.setprofile(lambda *_: None),
    "trace of memory": tracemalloc.start,
    "sys.monitoring": _watch,
    "socket time-out": lambda: socket.setdefaulttimeout(0.001),
    "sys.path": lambda: sys.path.insert(0, "/left"),
    "sys.path entry gone": lambda: sys.path.pop(),
    "import hook": _own_finder,
    "sys.argv": lambda: sys.argv.append("left"),
    "__main__": lambda: sys.modules.update(__main__=asyncio),
    "sys.stdout": _set(sys, "stdout", None),
    "sys.stdin": _set(sys, "stdin", None),
    "descriptor 1": lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 1),
    "descriptor 2": lambda: os.close(2),
    "recursion limit": lambda: sys.setrecursionlimit(200),
    "switch interval": lambda: sys.setswitchinterval(1.0),
    "stack of threads": lambda: threading.stack_size(1 << 15),
    "flags of libraries": lambda: sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL),
    "digits": lambda: sys.set_int_max_str_digits(700),
    "signal handler": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "blocked signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    "pending signal": _pending_signal,
    "excepthook": _set(sys, "excepthook", print),
    "unraisablehook": _set(sys, "unraisablehook", print),
    "displayhook": _set(sys, "displayhook", print),
    "threading.excepthook": _set(threading, "excepthook", print),
    "variable of __main__": lambda: setattr(sys.modules["__main__"], "left", 1),
    "builtins": _set(builtins, "left", 1),
    "a builtin replaced": _set(builtins, "open", print),
    "logging level": lambda: logging.getLogger().setLevel(1),
    "logging handler": lambda: logging.getLogger().addHandler(logging.NullHandler()),
    "logging off": lambda: logging.disable(logging.CRITICAL),
    "start method": lambda: multiprocessing.set_start_method("forkserver", force=True),
    "user": lambda: os.setegid(65534),
    "audit hook": lambda: sys.addaudithook(lambda *_: None),
}


def leave(kind: str) -> int:
    """Leave something behind."""
    KINDS[kind]()
    return os.getpid()


def wait(seconds: float) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return os.getpid()


def leave_slowly_or_find(number: int, kind: str) -> dict[str, Any]:
    """One of some tasks that are not tiny."""
    wait(0.005)
    return leave_sometimes(number, kind)


def leave_sometimes(number: int, kind: str) -> dict[str, Any]:
    """One of many tiny tasks; the one in the middle leaves something behind, after it has looked around."""
    found = find()
    if number in (5, 15):
        leave(kind)
    return found


def import_lazily() -> None:
    """Import a module that sets something up, and leave something behind as well."""
    import lazy_work  # noqa: F401

    sys.path.insert(0, "/left")


def set_up() -> tuple[bool, ...]:
    """Whether what that module has set up is there, and whether what was left is."""
    finders = [type(finder).__name__ for finder in sys.meta_path]
    return os.environ.get("LAZY") == "1", "lazy" in repr(warnings.filters), "Finder" in finders, "/left" in sys.path


async def coroutine() -> str:
    await asyncio.sleep(0)
    return "done"


def pid() -> int:
    return os.getpid()


def seeded(number: int) -> float:
    """The first of them seeds the generator, the others take what it gives."""
    if number == 0:
        random.seed(42)
    return random.random()


def _tool(number: int) -> str | None:
    monitoring: Any = getattr(sys, "monitoring", None)
    name: str | None = None if monitoring is None else monitoring.get_tool(number)
    return name


def _event_loop() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = asyncio.get_event_loop()
    loop.close()
    return "an event loop"


def find() -> dict[str, Any]:
    """What a task finds."""
    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "timers": [signal.getitimer(which)[0] for which in (0, 1, 2)],
        "limits": [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in _LIMITS],
        "fault handler": (faulthandler.is_enabled(), faulthandler.unregister(signal.SIGUSR2)),
        "event loop": (_event_loop(), type(asyncio.get_event_loop_policy()).__name__),
        "decimal": (str(decimal.Decimal(1) / 3), str(decimal.Context().divide(1, decimal.Decimal(3)))),
        "variable": VARIABLE.get(),
        "time zone": (time.tzname, datetime.fromtimestamp(0).hour, datetime.now(UTC).astimezone().utcoffset()),
        "local hour": time.localtime(0).tm_hour,
        "environment": (dict(os.environ), type(os.environ).__name__),
        "environment in C": ctypes.CDLL(None).getenv(b"LEFT"),
        "directory": os.getcwd(),
        "umask": mask,
        "affinity": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduling": os.sched_getscheduler(0),
        "locale": locale.setlocale(locale.LC_ALL),
        "warnings": (repr(warnings.filters), warnings.showwarning.__name__),
        "collection": (
            gc.isenabled(),
            gc.get_threshold(),
            gc.get_debug(),
            len(gc.callbacks),
            gc.get_freeze_count() > 1000,
        ),
        "tracing": (sys.gettrace(), sys.getprofile(), vars(threading)["_trace_hook"], vars(threading)["_profile_hook"]),
        "tracing of memory": (tracemalloc.is_tracing(), "left" in map(_tool, range(6))),
        "socket time-out": socket.getdefaulttimeout(),
        "path": list(sys.path),
        "import hooks": (len(sys.meta_path), len(sys.path_hooks)),
        "argv": (len(sys.argv), sys.modules["__main__"].__name__, hasattr(sys.modules["__main__"], "left")),
        "streams": [getattr(getattr(sys, name), "name", None) for name in ("stdin", "stdout", "stderr")],
        "descriptors": [os.readlink(f"/proc/self/fd/{number}").partition(":")[0] for number in range(3)],
        "limits of the interpreter": (sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits()),
        "stack of threads": threading.stack_size(),
        "flags of libraries": sys.getdlopenflags(),
        "signals": [str(signal.getsignal(number)) for number in range(1, 32)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "pending": sorted(signal.sigpending()),
        "hooks": [
            hook.__name__ for hook in (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook)
        ],
        "builtins": (len(vars(builtins)), open.__name__),
        "logging": (logging.root.level, len(logging.root.handlers), logging.root.manager.disable),
        "start method": multiprocessing.get_start_method(),
        "user": (os.getresuid(), os.getresgid()),
    }


def fork(how: str) -> tuple[int, str]:
    """Fork a child that does not end by itself; wait for it."""
    child = ctypes.CDLL(None).fork() if how.startswith("in C") else os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.getpid(), f"exit {os.waitstatus_to_exitcode(status)}"
    if how.endswith("raises"):
        raise ValueError("in the child")
    if how.endswith("exits"):
        sys.exit(3)
    from dtq import current_task

    current_task().progress(99, 100)
    return 0, "the child"


def fork_and_leave(how: str) -> int:
    """Fork a child that returns much later than its parent."""
    if os.fork() == 0:
        time.sleep(30 if how == "sleeps" else 0.05)
        return 0
    return os.getpid()


def _square(number: int) -> int:
    return number * number


def fork_by_multiprocessing() -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        squares = pool.map(_square, range(4))
        pool.close()
        pool.join()
    return squares
