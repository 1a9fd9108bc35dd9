"""Functions that do to their process what no function should."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

#: Kept for good by whoever leaks.
_kept: list[bytes] = []


def end(how: str) -> None:
    """Print a line, then end the process."""
    print(f"about to end by {how}")
    if how == "exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(4)
    elif how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "kill parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    else:
        raise ValueError(how)


def spin_in_c(directory: str) -> None:
    """Never end, hold the interpreter's lock, and hear no signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    (Path(directory) / str(os.getpid())).touch()
    collections.deque(itertools.repeat(None), maxlen=0)


def hold_the_lock(directory: str, seconds: float) -> None:
    """Hold the interpreter's lock for so long."""
    (Path(directory) / str(time.monotonic_ns())).touch()
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def _sleeper(directory: Path) -> None:
    """Be a process that goes on for long, and leave its number."""
    (directory / str(os.getpid())).touch()
    time.sleep(1000)
    os._exit(0)


def beget(directory: str, kind: str, then: str) -> str:
    """Start a process that goes on: a child, one in a session of its own, or a daemon; then go on as told."""
    before = len(os.listdir(directory))
    if kind == "program":
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        (Path(directory) / str(child.pid)).touch()
    elif (number := os.fork()) == 0:
        if kind == "child":
            _sleeper(Path(directory))
        os.setsid()
        if kind == "session":
            _sleeper(Path(directory))
        if os.fork() == 0:  # a daemon: its parent ends at once
            _sleeper(Path(directory))
        os._exit(0)
    elif kind == "daemon":
        os.waitpid(number, 0)  # or it might be that one that is found running
    while len(os.listdir(directory)) == before:
        time.sleep(0.002)
    if then == "crash":
        os._exit(9)
    if then == "wait":
        time.sleep(1000)
    return then


def leak(size: int) -> tuple[int, int]:
    """Keep so many bytes for good; this process, and how much it has resident now."""
    _kept.append(os.urandom(1) * size)
    with open("/proc/self/statm") as file:
        return os.getpid(), int(file.read().split()[1]) * resource.getpagesize()


def flood(lines: int) -> int:
    """Print a lot, by the interpreter and by another program."""
    for number in range(lines):
        print(f"line {number} of a task that says too much")
    subprocess.run(["sh", "-c", "echo the end of it >&2"], check=True)
    return lines


def flood_and_fail(lines: int) -> None:
    flood(lines)
    raise ValueError("enough")


def whisper_and_fail(text: str) -> None:
    """Print something without a newline, and fail."""
    print(text, end="")
    raise ValueError(text)


def close_everything(seconds: float) -> str:
    """Close all that is open, and go on for so long."""
    os.closerange(0, 1 << 16)
    time.sleep(seconds)
    return "closed"


def spoil(directory: str) -> int:
    """Change what the next task would find."""
    os.chdir(directory)
    os.umask(0o000)
    os.environ["SPOILT"] = "1"
    os.environ.pop("HOME", None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.setitimer(signal.ITIMER_REAL, 1000)
    sys.setrecursionlimit(100_000)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - left open, as such tasks do
    os.close(1)
    return os.getpid()


def spoil_and_fail(directory: str) -> None:
    spoil(directory)
    raise ValueError("spoilt")


def surroundings() -> dict[str, object]:
    """What a task finds."""
    print("seen")
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "directory": os.getcwd(),
        "umask": mask,
        "spoilt": os.environ.get("SPOILT"),
        "home": os.environ.get("HOME"),
        "sigterm": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "sigalrm": signal.getsignal(signal.SIGALRM) is signal.SIG_DFL,
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "recursion": sys.getrecursionlimit(),
        "stdout": os.fstat(1).st_ino == os.fstat(2).st_ino and sys.stdout.fileno() == 1,
    }


def pid() -> int:
    return os.getpid()


def recurse(deep: int) -> int:
    return recurse(deep + 1) + 1


def recurse_in_c() -> None:
    """Recurse by way of C, with the interpreter's own limit out of the way, until a small stack is used up."""
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 18, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    sys.setrecursionlimit(1 << 30)
    again = ctypes.CFUNCTYPE(None)(lambda: again())
    again()


class TwoArguments(Exception):
    """Pickles, and does not come back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unspeakable(Exception):
    """Can neither be pickled nor printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __reduce__(self) -> str:
        raise RuntimeError("no pickle")


def raise_awkward(directory: str, kind: str) -> object:
    """Leave a mark, then give back what cannot travel."""
    (Path(directory) / f"{kind}-{time.monotonic_ns()}").touch()
    if kind == "two arguments":
        raise TwoArguments(1, 2)
    if kind == "unspeakable":
        raise Unspeakable
    if kind == "deep":
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        return deep
    with contextlib.suppress(ValueError):
        return threading.Lock()
    return None


def much(size: int) -> bytes:
    return bytes(size)


def raise_own(kind: str) -> None:
    """Raise what dtq itself raises where a worker cannot do something; or reach for a module that is not there."""
    import dtq.errors

    if kind == "ModuleNotFoundError":
        import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401
    error = getattr(dtq.errors, kind)
    raise error("a thing", "a place", "a reason", "3.11", "[]")


#: Where `mark_and` of this process writes.
_marks: dict[str, int] = {}


def mark_and(directory: str, number: int, then: str) -> int:
    """Leave a mark that this task ran, and do as told; quick enough to be leased with many others."""
    file = _marks.get(directory)
    if file is None:
        name = str(Path(directory) / str(os.getpid()))
        file = _marks[directory] = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, number.to_bytes(4, "big"))
    if then == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif then == "exit":
        os._exit(3)
    elif then == "sleep":
        time.sleep(60)
    elif then == "hold":
        ctypes.PyDLL(None).usleep(60_000_000)
    elif then == "write":
        os.write(_pipe(), bytes(16))
    return number


def _pipe() -> int:
    """The descriptor of the pipe between this slot and the worker."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
    raise RuntimeError("this process has no socket")


def write_into_pipe(data: bytes, seconds: float) -> str:
    """Write into the slot's own pipe, and go on for so long."""
    os.write(_pipe(), data)
    time.sleep(seconds)
    return "written"


class _Obstacle:
    """Stands in the place of standard output; whoever flushes it writes into the slot's own pipe, and stays there.

    Args:
        data: what is written.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        os.write(_pipe(), self._data)
        time.sleep(60)


def write_into_pipe_once_done(number: int, data: bytes) -> int:
    """Return; the slot writes into its own pipe when it has made the result and is about to send it."""
    if data:
        sys.stdout = _Obstacle(data)  # type: ignore[assignment]  # what stands there is a task's to choose
    return number


def read_from_pipe(seconds: float) -> str:
    """Read what the worker sends."""
    import socket

    stolen = socket.socket(fileno=os.dup(_pipe()))
    stolen.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        stolen.recv(1 << 20)
    stolen.detach()
    return "read"


def shared_memory() -> tuple[int, int]:
    """Where the memory is that slot and worker share, and how much of it there is."""
    with open("/proc/self/maps") as file:
        for line in file:
            if "memfd:dtq-slot" in line:
                begin, end = (int(word, 16) for word in line.split()[0].split("-"))
                return begin, end - begin
    raise RuntimeError("this process shares no memory")


def scribble(at: int, data: bytes, seconds: float) -> str:
    """Write into that memory; all of it where no data are given, again and again for so long."""
    begin, size = shared_memory()
    until = time.monotonic() + seconds
    while True:
        ctypes.memmove(begin + at, data or bytes(size), len(data) or size)
        if time.monotonic() >= until:
            return "scribbled"
        time.sleep(0.01)


def scribble_and_crash(data: bytes) -> None:
    scribble(0, data, 0.0)
    os.kill(os.getpid(), signal.SIGKILL)


def say_not_begun(junk: bytes, seconds: float, exits: bool) -> None:
    """Put the position back to the task before; then write into the pipe, go on, or end the process."""
    begin, _ = shared_memory()
    ctypes.c_int64.from_address(begin + 8).value -= 1
    if junk:
        write_into_pipe(junk, 0.0)
    time.sleep(seconds)
    if exits:
        os._exit(1)


def run_ahead(seconds: float) -> None:
    """Say, again and again, that the next task has begun."""
    begin, _ = shared_memory()
    serial = ctypes.c_int64.from_address(begin + 8)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        serial.value += 1
        ctypes.c_double.from_address(begin).value = time.monotonic()
        time.sleep(0.1)


def raise_named(length: int) -> None:
    """Raise something whose class has a long name."""
    raise type("N" * length, (Exception,), {"__module__": "m" * length})("no")


def quick_or_long(number: int, seconds: float) -> int:
    if seconds:
        time.sleep(seconds)
    return number


def forget_modules() -> None:
    sys.modules.clear()
