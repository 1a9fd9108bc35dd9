"""What every peer can do, and the processes that some of them need."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from importlib.metadata import version
from typing import ClassVar, Final, Self

from rig.scene import BENCH, PATIENCE_S
from rig.work import noop, spin

#: How many processes run tasks.
SLOTS: Final = 2
#: Where peers that need a redis-server find it.
REDIS_URL: Final = "BENCH_REDIS_URL"
FUNCTIONS: Final = {"noop": noop, "spin": spin}


class Peer(ABC):
    """One of them; started by entering it, and warm when `run` has returned once."""

    #: What it is called, and the distribution that its version is told of; "" for the standard library.
    name: ClassVar[str]
    distribution: ClassVar[str] = ""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @classmethod
    def title(cls) -> str:
        """Its name and version."""
        return f"{cls.name} {version(cls.distribution)}" if cls.distribution else cls.name

    @abstractmethod
    def start(self) -> None:
        """Make everything that is needed, to be undone by `stack`."""

    @abstractmethod
    def run(self, task: str, values: list[int]) -> list[int]:
        """Have a function (of `FUNCTIONS`) called for each value; all results."""

    def background(self, *words: str) -> subprocess.Popen[bytes]:
        """A process that can import this package; ended with the peer, together with what it started."""
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=BENCH,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH), *sys.path[1:]])},
            start_new_session=True,
        )
        self.stack.callback(_end, process)
        return process


class RedisServer:
    """A redis-server that keeps nothing on disk, on a free port."""

    def __init__(self, program: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory(prefix="dtq-bench-redis-")
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [program, *words, "--dir", self._directory.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.environ[REDIS_URL] = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        _end(self._process)
        self._directory.cleanup()


def redis_version(program: str) -> str:
    """As the program says: ``redis-server 7.0.15``."""
    words = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return "redis-server " + next((word[2:] for word in words if word.startswith("v=")), "?")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
    _end_group(process.pid)


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
