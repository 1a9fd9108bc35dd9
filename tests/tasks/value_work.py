"""Tasks whose arguments and results are large, and some that do to values what they should not."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


def much(size: int, fill: int = 7) -> bytes:
    return bytes([fill]) * size


def ones(count: int) -> Any:
    return np.ones(count)


def total_and_write(array: Any) -> float:
    """An argument may be written to, and that is nobody else's."""
    found = float(array.sum())
    array += 1.0
    return found


def echo(value: Any) -> Any:
    return value


def resident(value: Any = None) -> int:
    """How much memory the process has now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most memory that it has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def segments() -> list[str]:
    """The segments that this process has open to write to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if path.endswith(".values"):
            found.append(name)
    return found


def put_a_file_in_its_place(path: str, size: int) -> bytes:
    """Close the segment's descriptor, have its number for a file of one's own, and return much."""
    with open(path, "w+b") as file:
        for name in segments():
            os.dup2(file.fileno(), int(name))
    return much(size)


def close_all(size: int) -> bytes:
    os.closerange(3, 4096)
    return much(size)


def cut(size: int) -> bytes:
    for name in segments():
        os.ftruncate(int(name), 0)
    return much(size)


def fork_and_return(size: int) -> bytes:
    os.fork()
    return much(size)


class _Ends:
    """Ends the process when it is pickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> NoReturn:
        if self.how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def end_in_the_middle(size: int, how: str) -> list[Any]:
    return [much(size), much(size), _Ends(how)]


class _Forks:
    """Forks when it is pickled, and both go on."""

    def __reduce__(self) -> Any:
        os.fork()
        return str, ("forked",)


def fork_in_the_middle(size: int) -> list[Any]:
    return [much(size), _Forks(), much(size)]


def narrow(size: int, how: str) -> bytes:
    """Leave little room for what is written after it."""
    if how == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
    elif how == "descriptors":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    elif how == "mask":
        os.umask(0o777)
    return much(size)


def lie(size: int, what: str) -> bytes:
    """Have the slot report another value than the one that was made."""
    from dtq.client import large_payloads
    from dtq.model import values

    known = {
        "nowhere": values.Value(1, 0, size),
        "too long": None,
        "huge": None,
    }[what]
    real = large_payloads.describe

    def describe(found: Any, rest: bytes = b"") -> bytes:
        large_payloads.describe = real
        (own,) = found
        if known is not None:
            return real([known], rest)
        length = 1 << (61 if what == "huge" else 24)
        return real([values.Value(own.segment, own.offset, length)], rest)

    large_payloads.describe = describe  # type: ignore[assignment]
    return much(size)


def hang_with_a_pipe(directory: str, size: int) -> bytes:
    """Put a pipe in the place of a segment, and report that."""
    from dtq.client import large_payloads
    from dtq.model import values

    os.mkfifo(f"{directory}/{5:016x}.values")
    real = large_payloads.describe

    def describe(found: Any, rest: bytes = b"") -> bytes:
        large_payloads.describe = real
        return real([values.Value(5, 0, size)], rest)

    large_payloads.describe = describe  # type: ignore[assignment]
    return much(size)


def fill_the_disk(path: str, size: int) -> bytes:
    """Have no room for values until a file is there; how often it was tried is the length of another."""
    real = os.pwritev

    def pwritev(*arguments: Any) -> int:
        if not Path(path).exists():
            with open(f"{path}.tries", "a") as file:
                file.write("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwritev = real
        return real(*arguments)

    os.pwritev = pwritev  # type: ignore[assignment]
    return much(size)


def remove_segments(directory: str, size: int) -> bytes:
    for path in glob.glob(f"{directory}/*.values"):
        os.unlink(path)
    return much(size)


def unlock(size: int) -> bytes:
    for name in segments():
        fcntl.flock(int(name), fcntl.LOCK_UN)
    return much(size)


def slow(size: int, seconds: float) -> bytes:
    time.sleep(seconds)
    return much(size)


def total_with(array: Any, other: float = 0.0) -> float:
    return float(array.sum()) + other


def first_and_write(array: Any, _: int = 0) -> float:
    """What an argument begins with, before it is overwritten."""
    found = float(array[0])
    array[:] = -1.0
    return found


def mapped_files(array: Any, _: int = 0) -> list[str]:
    """The segments that this process has mapped, while it has an array."""
    with open("/proc/self/maps", encoding="utf-8") as file:
        found = {line.split()[-1] for line in file if line.rstrip().endswith(".values")}
    return sorted(found) if len(array) else []


def _until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)


def echo_when(value: Any, path: str) -> Any:
    _until(path)
    return value


def much_when(size: int, fill: int, path: str) -> bytes:
    _until(path)
    return much(size, fill)
