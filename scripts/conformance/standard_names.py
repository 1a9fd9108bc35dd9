"""`dtq.Executor` as CPython's own tests want it: made with the arguments of a `ProcessPoolExecutor`, and with the parts
of one that those tests look at.

What they look at is there in truth: the processes of the slots, the thread that ends the executor, the thread that
sends calls. Imported by those tests, by the programs that they start, and by the slots.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import test

from dtq import Executor

#: Where CPython's tests are, if not in this Python.
TESTS = "CONFORMANCE_TESTS"

#: How long slots may take to start, and processes to end, in seconds.
DEADLINE_S = 30.0

if TESTS in os.environ:
    test.__path__.append(os.environ[TESTS])


class Slot:
    """A slot's process, as a `multiprocessing.Process` is looked at."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def join(self) -> None:
        """Wait until it has ended; an error where it does not."""
        self._process.wait(DEADLINE_S)

    def terminate(self) -> None:
        """See `multiprocessing.Process.terminate`."""
        self._process.terminate()


class CallQueue:
    """What brings calls to the slots: a thread of the client's."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def join_thread(self) -> None:
        """See `multiprocessing.Queue.join_thread`."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


class Pool(Executor):
    """An executor that shows its parts."""

    @property
    def _processes(self) -> dict[int, Slot]:
        """The processes of the slots that there are now."""
        cluster = self._completer.cluster
        assert cluster is not None
        found = {}
        for child in psutil.Process(cluster.pids["worker"]).children():
            # Its children are the reapers of the slots, and the fork server, whose own are there for a moment only.
            with contextlib.suppress(psutil.NoSuchProcess):
                slots = child.children() if sys.platform == "linux" else [child]
                found.update({slot.pid: Slot(slot) for slot in slots if slot.status() != psutil.STATUS_ZOMBIE})
        return found

    @property
    def _executor_manager_thread(self) -> threading.Thread:
        """It ends when everything of the executor has."""
        return self._completer._thread

    @property
    def _call_queue(self) -> CallQueue:
        thread = self._completer.core.sender._thread
        assert thread is not None
        return CallQueue(thread)

    def await_slots(self, count: int) -> None:
        """Wait until so many slots are there, and one of them can run something."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self._processes) < count or all(worker.draining for worker in self.client.stats().workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)


class DtqExecutor(Executor):
    """Makes an executor with a cluster of its own."""

    def __new__(cls, max_workers: int | None = None, mp_context: object = None, **terms: Any) -> Any:
        """As `concurrent.futures.ProcessPoolExecutor`; the context is left out, as slots are always fresh processes.

        A pool starts its processes in `submit`, so that one of them at least takes a call; here the worker starts them,
        and what is made is an executor whose worker has.
        """
        here = Path(__file__).parent
        executor = Pool.local(max_workers=max_workers, imports=["standard_names"], paths=[here], **terms)
        if "initializer" not in terms:  # which may fail, so that there never is a slot
            executor.await_slots(executor._max_workers)
        return executor
