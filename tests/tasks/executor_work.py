"""Functions that the executors' tests have called."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from pickle import PicklingError
from typing import Any, NoReturn

#: How long a task waits for the test at most, in seconds.
PATIENCE_S = 60.0
#: A call that takes longer is no tiny one, in seconds.
LEAST_S = 0.05


def add(a: int, b: int = 0) -> int:
    return a + b


def square(n: int) -> int:
    return n * n


def keywords(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def inverse(n: int) -> float:
    return 1 / n


def fail(text: str) -> NoReturn:
    raise ValueError(text)


def leave(code: int) -> NoReturn:
    os._exit(code)


def pid() -> int:
    return os.getpid()


def loaded(module: str) -> bool:
    """Whether this process has imported it."""
    return module in sys.modules


def mark(path: str) -> None:
    """Leave a file."""
    Path(path).touch()


def gated(started: str, gate: str, result: int = 0) -> int:
    """Say that it has started, and in which process, then wait for a file.

    It takes so long at least that nothing is handed out behind it.
    """
    Path(started).write_text(str(os.getpid()))
    begun = time.monotonic()
    while not Path(gate).exists() and time.monotonic() < begun + PATIENCE_S:
        time.sleep(0.005)
    time.sleep(max(0.0, begun + LEAST_S - time.monotonic()))
    return result


def lock() -> object:
    return threading.Lock()


class Plain:
    """Something that can be referred to weakly."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def double(self, _: object = None) -> int:
        return 2 * self.n


def plain(n: int) -> Plain:
    return Plain(n)


class NotHere:
    """Cannot be made again where it arrives."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ("it cannot be made here",)


def not_here() -> NotHere:
    return NotHere()


class Departing:
    """Leaves a file when it is let go, but only where it has been sent to."""

    def __init__(self, path: str, home: int = 0) -> None:
        self.path = path
        self.home = home or os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home:
            Path(self.path).touch()


class NotThere:
    """Cannot be pickled: says so, or ends the process in which somebody tries."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code

    def __reduce__(self) -> NoReturn:
        if self.code is not None:
            os._exit(self.code)
        raise PicklingError("it cannot be sent")


def not_there(code: int | None = None) -> NotThere:
    return NotThere(code)


class Ends:
    """Ends the process in which it is made again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (5,)


def leave_over(data: str) -> NoReturn:
    """End the process that has a large argument."""
    os._exit(len(data) % 100 or 1)


class Exits:
    """Ends who makes it again where it arrives."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


def exits() -> Exits:
    return Exits()


class Falsey(Exception):
    """An exception that is no true value."""

    def __bool__(self) -> bool:
        return False


def raise_falsey() -> NoReturn:
    raise Falsey("it says no")


class Awkward(Exception):
    """An exception that pickles, and does not come back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_awkward() -> NoReturn:
    raise Awkward(1, 2)


def init(directory: str, name: str) -> None:
    """An initializer that leaves a file."""
    Path(directory, f"{name}-{os.getpid()}").touch()


def fail_to_init() -> None:
    """An initializer that fails."""
    raise LookupError("there is nothing to begin with")


def raise_at_once(kind: type[BaseException]) -> None:
    """Raise an exception of a class."""
    raise kind("on its way out")
