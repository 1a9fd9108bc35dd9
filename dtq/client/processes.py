"""Starts, watches and ends the processes of a local cluster, from the program's side.

Client, below `local`. The program starts one process, the launcher (`daemon.launcher`), which starts the others. They
run the code of the commands ``dtq coordinator start`` and ``dtq worker``, with settings instead of command-line words.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any, Final

from dtq.client import handover
from dtq.client.handover import End, Start
from dtq.client.inheritance import Inheritance
from dtq.errors import ClusterEnded
from dtq.records import replace
from dtq.transport import family
from dtq.wording import duration

#: The module that the program starts. Above this floor, and so only named here.
_LAUNCHER: Final = "dtq.daemon.launcher"
#: Longest time until the processes are ready, in seconds.
START_S: Final = 60.0
#: Longest time until they have ended, beside the tasks' time, in seconds: more than the launcher waits before it kills
#: them.
END_S: Final = 30.0
#: Characters of a log in an error.
_SHOWN: Final = 2000


class Processes:
    """Launcher, coordinator and worker, and the directory with their key and logs.

    Args:
        directory: theirs alone; removed with them.
        environment: of all of them.

    Raises:
        OSError: the machine has no process, memory or descriptor left.
    """

    def __init__(self, directory: str, environment: dict[str, str]) -> None:
        self.directory = directory
        #: Coordinator and worker, once they are ready.
        self.pids: dict[str, int] = {}
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._watched = False
        self._heard = b""
        read, write = os.pipe()
        #: The launcher's messages.
        self._output = os.fdopen(read, "rb", buffering=0)
        #: Written to and closed when they are being closed, for `watch`. A close alone tells nothing as long as a child
        #: made by `os.fork` has it open, too.
        self._closing_read, self._closing = os.pipe()
        tracker = family.tracker_pipe()
        #: The pipe to the program's resource tracker; and if none runs, the reading end: the launcher starts a tracker
        #: when that is readable.
        self._tracker_read, self._tracker = os.pipe() if tracker < 0 else (-1, tracker)
        try:
            self._launcher = subprocess.Popen(
                [sys.executable, "-P", "-m", _LAUNCHER, str(os.getpid()), str(write), directory],
                stdin=subprocess.PIPE,
                pass_fds=[fd for fd in (write, self._tracker, self._tracker_read) if fd >= 0],
                env=environment,
                start_new_session=True,  # Ctrl-C is for the program, which ends its cluster as it sees fit
            )
        except BaseException:
            for descriptor in (read, self._closing_read, self._closing):
                os.close(descriptor)
            if tracker < 0:
                os.close(self._tracker)
            raise
        finally:
            os.close(write)
            if tracker < 0:
                os.close(self._tracker_read)
        assert self._launcher.stdin is not None
        self._stdin = self._launcher.stdin
        if tracker < 0:
            family.use_tracker(self._tracker)

    def begin(self, coordinator: dict[str, Any], worker: dict[str, Any], inheritance: Inheritance) -> None:
        """Start coordinator and worker; called once.

        Args:
            coordinator: the coordinator's settings, by the names of the configuration.
            worker: the worker's, without an address.
            inheritance: the parts of the slots' inheritance that are unknown here.
        """
        own = replace(inheritance, authkey=family.authentication_key(), tracker=self._tracker)
        self._tell(Start(coordinator, worker, own, self._tracker_read))

    def _tell(self, what: Start | End) -> None:
        with contextlib.suppress(OSError):  # it has ended, which the wait for it reports
            handover.write(self._stdin, what)

    # -- messages of the launcher ---------------------------------------------------------------------------------

    def _next(self, timeout_s: float | None) -> list[str] | None:
        """The words of the next line; None after the time-out, empty after the last line."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        while b"\n" not in self._heard:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poll.poll(None if left_s is None else left_s * 1e3):
                return None
            data = self._output.read(1 << 12)
            if not data:
                return []
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().split()

    def await_listening(self) -> str:
        """Wait until the coordinator accepts connections.

        Returns:
            Its address, ``host:port``.

        Raises:
            ClusterEnded: one of them ended, or the start takes too long; the sentence has its log.
        """
        (address,) = self._await("listening", "coordinator")
        return address

    def await_ready(self) -> None:
        """Wait until the worker is connected, after `await_listening`.

        Raises:
            ClusterEnded: likewise.
        """
        coordinator, worker = self._await("ready", "worker")
        self.pids = {"coordinator": int(coordinator), "worker": int(worker)}

    def _await(self, what: str, who: str) -> list[str]:
        words = self._next(START_S)
        if words is None:
            raise self._failure(who, f"was not ready within {duration(START_S)}")
        if words and words[0] == what:
            return words[1:]
        raise self._failure(words[1] if words else "launcher", "ended at its start")

    def _failure(self, name: str, what: str) -> ClusterEnded:
        """An error with the end of a process's log."""
        said = ""
        path = os.path.join(self.directory, f"{name}.log")
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as log:
            said = log.read().strip()[-_SHOWN:]
        return ClusterEnded(f"its {name} {what}{': ' * bool(said)}{said}")

    def watch(self) -> ClusterEnded | None:
        """Wait until one of them ends, or they are being closed.

        Returns:
            Why they are unusable; None if they are being closed.
        """
        with self._lock:
            if self._closed:
                return None
            self._watched = True
        failure = self._watch()
        if failure is None:  # `close` has the lock, and leaves the report to its waiter
            os.close(self._closing_read)
            return None
        return None if self._end_watching() else failure

    def _end_watching(self) -> bool:
        """Watch no more; whether they are closed by now."""
        with self._lock:
            self._watched = False
            if self._closed:  # else `close` will write to it
                os.close(self._closing_read)
            return self._closed

    def _watch(self) -> ClusterEnded | None:
        poll = select.poll()
        poll.register(self._closing_read, select.POLLIN)
        poll.register(self._output, select.POLLIN)
        if not self._heard and self._closing_read in [descriptor for descriptor, _ in poll.poll()]:
            return None
        words = self._next(None) or ["ended", "launcher", str(self._launcher.wait())]
        return self._failure(words[1], f"ended unexpectedly (exit code {words[2]})")

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self, drain: bool, timeout_s: float | None) -> None:
        """End all, and wait for their ends.

        Args:
            drain: let running tasks finish.
            timeout_s: longest time for that, in seconds; None for as long as it needs.
        """
        if os.getpid() != self._owner:
            return  # in a child made by os.fork they belong to the parent
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.write(self._closing, b".")
            os.close(self._closing)
            if not self._watched:
                os.close(self._closing_read)
            self._tell(End(drain, timeout_s))
            self._await_end(None if drain and timeout_s is None else (timeout_s or 0.0) * drain + END_S)
            self._output.close()
            with contextlib.suppress(OSError):
                self._stdin.close()
            family.tracker_pipe()  # it notices a tracker that was started, and otherwise closes the pipe
            _remove(self.directory)

    def _await_end(self, timeout_s: float | None) -> None:
        launcher = self._launcher
        if timeout_s is not None and launcher.poll() is None:  # `Popen` polls, up to 50 ms apart
            with contextlib.suppress(AttributeError, OSError):  # a system without such descriptors
                descriptor = os.pidfd_open(launcher.pid)
                try:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(timeout_s * 1e3)
                    timeout_s = 0.0
                finally:
                    os.close(descriptor)
        try:
            launcher.wait(timeout_s)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()


def _remove(directory: str) -> None:
    """Remove a directory with its content, as far as it exists."""
    for path, directories, files in os.walk(directory, topdown=False):
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(path, name))
        for name in directories:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(path, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)
