"""The executors that make the same promises: dtq's, and the standard library's own.

That the contract is what the standard library's executor does is proved where it is written, with
``DTQ_CONTRACTS_ALL=1``: neither changes without a new Python, or a change here.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import dtq
from dtq.client.local import LocalCluster
from dtq.errors import TaskCrashed
from tests.cluster import DEADLINE_S, until
from tests.tasks import executor_work

#: How many calls run at once.
SLOTS = 2


class Kind(ABC):
    """One of them. What differs is declared here, with the reason in docs/executor.md.

    Attributes:
        name: for people.
        buffersize: whether `map` knows it.
        crash: what a call raises whose process dies.
        crash_breaks: whether that is the end of the executor; else the call runs again, a few times.
        waits_ahead: how many calls are handed out beyond those that run, and cannot be cancelled any more.
    """

    name: str
    buffersize: bool
    crash: type[BaseException]
    crash_breaks: bool
    waits_ahead: int

    @abstractmethod
    def make(self) -> Executor:
        """A fresh one, quickly."""

    @abstractmethod
    def close(self) -> None:
        """Nothing is made any more."""


class StandardKind(Kind):
    """`ProcessPoolExecutor`."""

    name = "ProcessPoolExecutor"
    buffersize = sys.version_info >= (3, 14)
    crash = BrokenProcessPool
    crash_breaks = True
    waits_ahead = SLOTS + 1

    def make(self) -> Executor:
        return ProcessPoolExecutor(SLOTS, mp_context=multiprocessing.get_context("forkserver"))

    def close(self) -> None:
        """Nothing is left of them."""


class DtqKind(Kind):
    """`dtq.Executor`, of a cluster that runs already."""

    name = "dtq.Executor"
    buffersize = True
    crash = TaskCrashed
    crash_breaks = False
    waits_ahead = 0

    def __init__(self) -> None:
        self._cluster = LocalCluster(SLOTS).start()
        self._limits = count(600)

    def make(self) -> Executor:
        # With terms of its own nothing is known of how long its calls take, and so none are handed out ahead.
        where = self._cluster.address
        return dtq.Executor(where, authkey_file=self._cluster.authkey_file, timeout=next(self._limits))

    def close(self) -> None:
        """End the cluster."""
        self._cluster.close(drain=False)


KINDS: dict[str, type[Kind]] = {"standard": StandardKind, "dtq": DtqKind}
#: Those that the contract is proved with.
PROVED: list[str] = list(KINDS) if "DTQ_CONTRACTS_ALL" in os.environ else ["dtq"]


class Gate:
    """Calls that begin, and end when the test says so.

    Args:
        directory: for the files that say it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def submit(self, executor: Executor, result: int = 0) -> Future[int]:
        """Submit a call that waits for `open`."""
        return executor.submit(executor_work.gated, *self.paths(), result)

    def paths(self) -> tuple[str, str]:
        """What one more such call is told: the file it makes, and the file it waits for."""
        self._count += 1
        return str(self._directory / f"started-{self._count}"), str(self._directory / "gate")

    def fill(self, executor: Executor, kind: Kind, extra: int = 0) -> list[Future[int]]:
        """Have all slots busy, and everything that is handed out ahead; return once the slots are."""
        futures = [self.submit(executor, n) for n in range(SLOTS + kind.waits_ahead + extra)]
        self.await_started(SLOTS)
        return futures

    def await_started(self, count: int) -> None:
        """Wait until so many calls have begun."""
        until(lambda: self.started() >= count, f"{count} calls to begin", self.started)

    def started(self) -> int:
        """How many calls have begun."""
        return len(self._begun())

    def pids(self) -> set[int]:
        """The processes of those that have."""
        return {int(path.read_text() or 0) for path in self._begun()} - {0}

    def _begun(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.name.startswith("started")]

    def open(self) -> None:
        """Let them end."""
        (self._directory / "gate").touch()


@contextmanager
def closing(executor: Executor) -> Iterator[Any]:
    """An executor that is shut down without waiting for what is left of it, where the test failed."""
    done = False
    try:
        yield executor
        done = True
    finally:
        executor.shutdown(wait=done, cancel_futures=not done)


__all__ = ["DEADLINE_S", "KINDS", "PROVED", "SLOTS", "DtqKind", "Gate", "Kind", "StandardKind", "closing"]
