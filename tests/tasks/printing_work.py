"""Functions that print."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def say(*words: object) -> None:
    print(*words)


def say_once_in(number: int, every: int) -> int:
    """One of so many says its number."""
    if number % every == 0:
        print("I am", number)
    return number


def say_fork_and_child(word: str) -> None:
    """Print by this process, by a program, and by a forked child."""
    print(word, "itself")
    subprocess.run(["echo", word, "by a program"], check=True)
    child = multiprocessing.get_context("fork").Process(target=print, args=(word, "by a child"))
    child.start()
    child.join()


def redirected(word: str) -> str:
    """Print into a file in place of standard output, and return what is in it."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        print(word)
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        file.seek(0)
        return file.read().decode()


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def flood(lines: int) -> None:
    for number in range(lines):
        print("line", number)


def say_and_die(word: str) -> None:
    print(word, end="")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def say_until(path: str, first: str, last: str) -> None:
    """Say something, and something else once a file is there."""
    print(first)
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    print(last)


def fail_at_first(directory: str) -> None:
    """Fail the first time."""
    mark = Path(directory) / "tried"
    first = not mark.exists()
    mark.touch()
    print("try", 1 if first else 2)
    if first:
        raise ValueError("not at once")


def leave_behind(path: str) -> None:
    """Leave a process that prints when a file is there."""
    subprocess.Popen(["sh", "-c", f"while [ ! -e {path} ]; do sleep 0.01; done; echo too late; touch {path}.done"])
    print("in time")
