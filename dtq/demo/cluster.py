"""A cluster for the demo: a coordinator and workers, as processes, in a temporary directory.

They are the commands that a user would start, with key, store and settings of their own. None outlives the demo,
however that ends (`daemon.part`). The user's own coordinator, key and settings are left alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import dtq
from dtq.errors import ClusterEnded
from dtq.model.text import printable_line

#: How long a process may take until it is ready, and until it has ended, in seconds.
_START_S: Final = 60.0
_END_S: Final = 5.0
#: Most characters of a log that an error repeats.
_LOG: Final = 1_000


class _Process:
    """One of the processes.

    Args:
        name: its name.
        words: its command.
        directory: its directory, which gets its log.
        environment: its variables.
    """

    def __init__(self, name: str, words: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        watched, self._watch = os.pipe()
        try:
            with self._log.open("wb") as log:
                self._popen = subprocess.Popen(
                    [sys.executable, "-m", "dtq.daemon.part", str(watched), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    pass_fds=(watched,),
                    cwd=directory,
                    env=dict(environment),
                    start_new_session=True,  # Ctrl-C is for the demo
                )
        except BaseException:
            os.close(self._watch)
            raise
        finally:
            os.close(watched)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def ready_line(self) -> str:
        """Wait for its first line: it is ready.

        Raises:
            ClusterEnded: it has ended, or takes too long.
        """
        assert self._popen.stdout is not None
        said, deadline = b"", time.monotonic() + _START_S
        while b"\n" not in said:
            ready, _, _ = select.select([self._popen.stdout], [], [], max(0.0, deadline - time.monotonic()))
            some = os.read(self._popen.stdout.fileno(), 1 << 12) if ready else b""
            if not some:
                raise self._failure("did not become ready")
            said += some
        return said.decode(errors="replace").partition("\n")[0]

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            ClusterEnded: it has ended.
        """
        if self._popen.poll() is not None:
            code = self._popen.returncode
            raise self._failure(f"was killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}")

    def _failure(self, what: str) -> ClusterEnded:
        with contextlib.suppress(OSError):
            log = printable_line(self._log.read_text(errors="replace")[-_LOG:].strip())
            return ClusterEnded(f"{self.name} {what}; its log: {log}" if log else f"{self.name} {what}")
        return ClusterEnded(f"{self.name} {what}")

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def close(self, deadline: float) -> None:
        """Wait for its end until a deadline (``time.monotonic()``), then kill it."""
        try:
            self._popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        os.close(self._watch)
        if self._popen.stdout is not None:
            self._popen.stdout.close()


class DemoCluster:
    """A coordinator and workers, from the beginning of a ``with`` block to its end.

    Args:
        workers: how many workers.
        slots: how many slots each has.
    """

    def __init__(self, workers: int, slots: int) -> None:
        self.workers = workers
        self.slots = slots
        self.address = ""
        self._directory: Path | None = None
        self._processes: list[_Process] = []

    @property
    def directory(self) -> Path:
        """Its directory."""
        assert self._directory is not None, "the cluster runs"
        return self._directory

    @property
    def authkey_file(self) -> Path:
        """The file with the key."""
        return self.directory / "authkey"

    @property
    def pids(self) -> list[int]:
        """The processes: the coordinator first, then the workers."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="dtq-demo-"))
        environment = _environment(self.directory)
        key = f"--authkey-file={self.authkey_file}"
        words = ["coordinator", "start", "--port=0", f"--db={self.directory / 'queue.db'}", key]
        self._processes.append(_Process("coordinator", words, self.directory, environment))
        self.address = self._processes[0].ready_line().split()[3]
        for number in range(1, self.workers + 1):
            name = f"worker-{number}"
            words = ["worker", f"--connect={self.address}", key, f"--name={name}", f"--slots={self.slots}"]
            words += ["--import=dtq.demo.tasks"]
            self._processes.append(_Process(name, words, self.directory, environment))
        for process in self._processes[1:]:
            process.ready_line()

    def check(self) -> None:
        """Make sure that all processes run.

        Raises:
            ClusterEnded: one has ended.
        """
        for process in self._processes:
            process.check()

    def close(self) -> None:
        """End all processes, and remove the directory. Tasks that still run are given up."""
        processes, self._processes = self._processes, []
        deadline = time.monotonic() + _END_S
        for process in processes[1:]:
            process.signal(signal.SIGHUP)  # SIGTERM would let tasks finish
        for process in reversed(processes):
            process.signal(signal.SIGHUP)
            process.close(deadline)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _environment(directory: Path) -> dict[str, str]:
    """The variables of the processes: nothing of the user's dtq, and this very package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DTQ_")}
    package = Path(dtq.__file__).parents[1]
    found = package.name in ("site-packages", "dist-packages")  # there, Python finds it by itself
    return {
        **kept,
        "XDG_CONFIG_HOME": str(directory / "config"),
        "XDG_STATE_HOME": str(directory / "state"),
        "XDG_RUNTIME_DIR": str(directory / "run"),
        "PYTHONPATH": os.pathsep.join(filter(None, ["" if found else str(package), kept.get("PYTHONPATH", "")])),
    }
