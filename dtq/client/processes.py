"""Starts, watches and ends the two processes of a local cluster.

Client, below `local`. They run the code of the commands ``dtq coordinator start`` and ``dtq worker``, with settings
instead of command-line words, each on a `leash`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from dtq.client import handover
from dtq.client.inheritance import Inheritance
from dtq.errors import ClusterEnded
from dtq.wording import duration

#: How long a process may take to be ready, in seconds.
START_S: Final = 60.0
#: How long a process may take to end after it was told to, where it has nothing to wait for, in seconds.
END_S: Final = 10.0
#: How long a worker may take that has nobody to report to, in seconds: enough to kill what its slots have started.
ALONE_S: Final = 1.0
#: How much of a log is shown where something went wrong, in characters.
_SHOWN: Final = 2000


class Process:
    """One of them, on a leash.

    Args:
        name: what it is, for people and for its log.
        part: the module of what it runs; see `leash.main`.
        settings: what it runs with, as far as it is known; by the names of the configuration.
        log: where it says what it does.
        environment: its environment.
        home: its working directory; None for this program's.
        doomed: a directory that it removes when this program is killed.
        inheritance: what its slots take over.
    """

    def __init__(
        self,
        name: str,
        part: str,
        settings: dict[str, Any],
        log: Path,
        environment: dict[str, str],
        *,
        home: Path | None = None,
        doomed: Path | None = None,
        inheritance: Inheritance | None = None,
    ) -> None:
        self.name = name
        self._log = log
        read, write = os.pipe()
        #: What it prints: its readiness line; then nothing, until it ends.
        self.output = os.fdopen(read, "rb", buffering=0)
        given = inheritance or Inheritance()
        leash = [str(os.getpid()), str(write), str(log), "" if doomed is None else str(doomed), part]
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "dtq.client.leash", *leash],
                stdin=subprocess.PIPE,
                pass_fds=(write,) if given.tracker < 0 else (write, given.tracker),
                cwd=home,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the program, which ends its cluster as it sees fit
            )
        except BaseException:
            self.output.close()
            raise
        finally:
            os.close(write)
        self._send(given)
        self._send(settings)

    def _send(self, what: Inheritance | dict[str, Any]) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: `await_ready` says so
            handover.write(self.popen.stdin, what)

    def go(self, **settings: Any) -> None:
        """Have it begin; to be called once.

        Args:
            settings: the rest of its settings.
        """
        self._send(settings)

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self.popen.poll() is not None

    def await_ready(self) -> str:
        """Its readiness line.

        Raises:
            ClusterEnded: it ended, or took too long.
        """
        deadline = time.monotonic() + START_S
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.output], [], [], max(0.0, deadline - time.monotonic()))
            data = self.output.read(1 << 12) if ready else b""
            if not data:
                raise self.failure("ended at its start" if ready else f"was not ready within {duration(START_S)}")
            line += data
        return line.decode()

    def failure(self, what: str) -> ClusterEnded:
        """An error with the end of its log."""
        said = ""
        with contextlib.suppress(OSError):
            said = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_SHOWN:]
        return ClusterEnded(f"its {self.name} {what}{': ' * bool(said)}{said}")

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for its end; whether it has ended."""
        if timeout_s is not None and not self.gone:  # `Popen` looks again and again, up to 50 ms apart
            with contextlib.suppress(AttributeError, OSError):  # a system without such descriptors
                descriptor = os.pidfd_open(self.popen.pid)
                try:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(timeout_s * 1e3)
                    timeout_s = 0.0
                finally:
                    os.close(descriptor)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout_s)
        return self.gone

    def close(self) -> None:
        """End it if it has not ended, and let go of its pipes."""
        if not self.gone:
            self.popen.kill()
            self.popen.wait()
        self.output.close()
        if self.popen.stdin is not None:
            self.popen.stdin.close()


class Pair:
    """Coordinator and worker, and the directory with their key and logs.

    Args:
        directory: theirs alone; removed with them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, Process] = {}
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._watched = False
        #: Written to and closed when they are being closed, for `watch`. Closing alone says nothing as long as a child
        #: made by `os.fork` has it open, too.
        self._closing_read, self._closing = os.pipe()

    def add(self, process: Process) -> Process:
        """Take a process in: it ends with the pair."""
        self.processes[process.name] = process
        return process

    def watch(self) -> ClusterEnded | None:
        """Wait until one of them ends, or they are being closed.

        Returns:
            Why they are of no more use; None where they are being closed.
        """
        with self._lock:
            if self._closed:
                return None
            self._watched = True
        failure = self._watch()
        if failure is None:  # `close` has the lock, and leaves this to the one who waits for it
            os.close(self._closing_read)
        else:
            self._end_watching()
        return failure

    def _end_watching(self) -> None:
        with self._lock:
            self._watched = False
            if self._closed:  # else `close` will write to it
                os.close(self._closing_read)

    def _watch(self) -> ClusterEnded | None:
        poll = select.poll()
        poll.register(self._closing_read, select.POLLIN)
        outputs = {process.output.fileno(): process for process in self.processes.values()}
        for descriptor in outputs:
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._closing_read in ready:
                return None
            for descriptor in ready:
                if not os.read(descriptor, 1 << 12):
                    outputs[descriptor].wait(END_S)
                    code = outputs[descriptor].popen.returncode
                    return outputs[descriptor].failure(f"ended unexpectedly (exit code {code})")

    def close(self, drain: bool, timeout_s: float | None) -> None:
        """End both, and see them ended.

        Args:
            drain: let what runs finish.
            timeout_s: how long that may take, in seconds; None for as long as it needs.
        """
        if os.getpid() != self._owner:
            return  # in a child made by os.fork they are somebody else's
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.write(self._closing, b".")
            os.close(self._closing)
            if not self._watched:
                os.close(self._closing_read)
            worker, coordinator = self.processes.get("worker"), self.processes.get("coordinator")
            if worker is not None:
                alone = coordinator is None or coordinator.gone
                self._end_worker(
                    worker, drain=drain and not alone, timeout_s=timeout_s, grace_s=ALONE_S if alone else END_S
                )
            if coordinator is not None:
                coordinator.signal(signal.SIGTERM)
                coordinator.wait(END_S)
                coordinator.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _end_worker(worker: Process, *, drain: bool, timeout_s: float | None, grace_s: float) -> None:
        worker.signal(signal.SIGTERM)
        if not drain or not worker.wait(timeout_s):
            worker.signal(signal.SIGINT)  # the second signal: it kills what runs, with all that this started
            worker.wait(grace_s)
        worker.close()
