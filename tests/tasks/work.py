"""Functions that test tasks call in real slots."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add(a: int, b: int) -> int:
    return a + b


def echo(value: object) -> object:
    return value


def note(directory: str, name: str) -> str:
    """Leave a mark, one file an execution, in the order of execution."""
    (Path(directory) / f"{time.monotonic_ns():020d}-{name}").touch()
    return name


def seen(directory: str) -> list[str]:
    """What has been noted by now."""
    return sorted(name.rpartition("-")[2] for name in os.listdir(directory))


def ends(values: Sequence[int], others: Sequence[int]) -> tuple[object, ...]:
    """How many there are, the first and the last, and the last two of others, backwards."""
    return len(values), values[0], values[-1], others[:-3:-1]


def lengths(values: Sequence[bytes]) -> list[int]:
    """How long each is."""
    return [len(value) for value in values]


def leave_if_odd(value: int) -> int:
    """Itself, if it is even."""
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value


def marked_nap(directory: str, name: str, seconds: float) -> str:
    """Leave a mark, then take a while."""
    note(directory, name)
    time.sleep(seconds)
    return name


def until_file(directory: str, name: str, path: str) -> str:
    """Leave a mark with this process's number, then wait until a file is there."""
    note(directory, f"{name}-{os.getpid()}")
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return name


def spin(directory: str, name: str) -> None:
    """Leave a mark, ignore what can be ignored, and never end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(directory, f"{name}-{os.getpid()}")
    while True:
        pass


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def square(n: int) -> int:
    return n * n


def fail(text: str) -> None:
    raise ValueError(text)


def flaky(directory: str, name: str, failures: int) -> str:
    """Fail so many times, then succeed."""
    note(directory, name)
    before = sum(path.name.endswith(f"-{name}") for path in Path(directory).iterdir())
    if before <= failures:
        raise ConnectionError(f"attempt {before} of {name}")
    return name


def leave(code: int) -> None:
    os._exit(code)


def crash() -> None:
    ctypes.string_at(0)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def unpicklable() -> object:
    return threading.Lock()


class Awkward(Exception):
    """An exception that pickles, and does not come back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_awkward() -> None:
    raise Awkward(1, 2)


def environment() -> list[str]:
    return sorted(name for name in os.environ if "KEY" in name)


def pid() -> int:
    return os.getpid()


def fork_and_count(number: int) -> int:
    """Forks; how many threads this process has."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return len(os.listdir("/proc/self/task"))


def leave_if(value: int, poison: bool) -> int:
    if poison:
        os._exit(9)
    return value


def grown(data: bytes, size: int) -> bytes:
    """So many bytes like the first."""
    return data[:1] * size


def fail_at_length(text: str, size: int) -> None:
    raise ValueError(f"{text} {'x' * size}")


def until_file_grown(directory: str, path: str, size: int) -> bytes:
    """Leave a mark, wait for a file, and return so many bytes."""
    until_file(directory, "grown", path)
    return b"x" * size


def surroundings() -> dict[str, Any]:
    """What a slot could have of the processes that it comes from."""
    pipes = []
    for descriptor in range(1024):
        try:
            kind = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if kind.startswith("pipe:") and descriptor > 2:
            pipes.append(kind)
    return {
        "main": sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("__")),
        "input": os.readlink("/proc/self/fd/0"),
        "pipes": pipes,
        "session": os.getsid(0),
    }


def alone(directory: str, name: str, seconds: float) -> bool:
    """Whether nobody else was in here meanwhile: each holds a file that must not be there before."""
    inside = Path(directory, "inside")
    note(directory, name)
    try:
        inside.touch(exist_ok=False)
    except FileExistsError:
        return False
    time.sleep(seconds)
    inside.unlink()
    return True


def print_much(size: int) -> int:
    """Print so many bytes, and return how many."""
    print("x" * (size - 1))
    return size
