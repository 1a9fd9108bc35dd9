"""What the soak's workers run. Each execution writes its start and its end into a ledger of its process, and returns
what only it can return: its tag, a checksum, and which execution it was.

How a task is to behave is part of its arguments: None returns at once, a number sleeps so many seconds, and a list
names a misdeed: ``["fail", n]`` raises up to attempt n, ``["segv"]``, ``["exit"]`` and ``["kill"]`` end the process,
``["hang"]`` outlives every time limit.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import zlib
from typing import Any

from dtq import current_task

#: Name of the variable that says where the execution ledgers are.
LEDGERS = "DTQ_SOAK_LEDGERS"
#: What a task ends its process with.
EXIT_CODE = 7
#: How long a task hangs, in seconds: far beyond its time limit.
HANG_S = 60.0

_file = -1


class Misdeed(Exception):
    """What a failing task raises."""


def checksum(tag: str) -> int:
    """What a task has to compute from its tag."""
    return zlib.crc32(tag.encode())


def _note(line: str) -> None:
    os.write(_file, line.encode())


def _work(tag: str, how: Any, given: Any = None) -> tuple[str, int, int, int]:
    global _file
    task = current_task()
    if _file < 0:
        path = os.path.join(os.environ[LEDGERS], f"{task.worker}~{os.getpid()}")
        _file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _note(f"S {tag} {task.id} {task.attempt} {time.monotonic():.6f}\n")
    wrong = _wrong_in(given)
    if wrong:
        _note(f"W {tag} {wrong}\n")
    try:
        _behave(how, task.attempt)
    except Misdeed:
        _note(f"F {tag} {time.monotonic():.6f}\n")
        raise
    value = (tag, checksum(tag), task.attempt, os.getpid())
    _note(f"E {tag} {time.monotonic():.6f}\n")
    return value


def _wrong_in(given: Any) -> str:
    """The first of the results that a task was given which is another task's; "" where each is right, or an exception
    in the place of one.

    Args:
        given: the names of tasks, and their results.
    """
    if given is None:
        return ""
    for wanted, value in zip(*given, strict=True):
        pairs = [(wanted, value)] if isinstance(wanted, str) else zip(wanted, value, strict=True)
        for name, result in pairs:
            if not isinstance(result, BaseException) and (not isinstance(result, tuple) or result[0] != name):
                return f"{name}: {str(result)[:80]!r}"
    return ""


def _behave(how: Any, attempt: int) -> None:
    if how is None:
        return
    if isinstance(how, float | int):
        time.sleep(how)
    elif how[0] == "fail":
        if attempt <= how[1]:
            raise Misdeed(f"attempt {attempt}")
    elif how[0] == "segv":
        ctypes.string_at(0)
    elif how[0] == "exit":
        os._exit(EXIT_CODE)
    elif how[0] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(HANG_S)


# Several names for one function: the queue estimates durations by name and terms, and so chunks some and others not.


def tiny(tag: str, how: Any = None, given: Any = None) -> tuple[str, int, int, int]:
    """Takes no time, nearly always."""
    return _work(tag, how, given)


def slow(tag: str, how: Any = None, given: Any = None) -> tuple[str, int, int, int]:
    """Takes a while."""
    return _work(tag, how, given)


def wicked(tag: str, how: Any = None, given: Any = None) -> tuple[str, int, int, int]:
    """Misbehaves."""
    return _work(tag, how, given)
