"""A cluster of processes of its own: a temporary directory, a free port, a key, ended and removed afterwards."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Self

import psutil

import dtq
from dtq import Client

#: Where the tasks are found, as ``rig.work``.
BENCH: Final = Path(__file__).resolve().parents[1]
#: How long anything may take to start or end, in seconds; far above what it takes.
PATIENCE_S: Final = 120.0


class Process:
    """A dtq command in the background, its output in a file."""

    def __init__(self, words: list[str], log: Path, environment: dict[str, str], ready: str) -> None:
        self._log = log
        self._ready = ready
        self._words = words
        self.started = time.perf_counter()
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "dtq", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env=environment,
            )

    def await_ready(self) -> float:
        """Wait for the readiness line; the seconds since the start."""
        while self._ready not in (text := self._log.read_text()):
            if self.popen.poll() is not None or time.perf_counter() > self.started + PATIENCE_S:
                raise RuntimeError(f"dtq {shlex.join(self._words)} is not ready; its log:\n{text}")
            time.sleep(0.002)
        return time.perf_counter() - self.started

    @property
    def rss_mb(self) -> float:
        return float(psutil.Process(self.popen.pid).memory_info().rss) / 1e6

    @property
    def cpu_s(self) -> float:
        """Seconds of a core that it has used so far."""
        times = psutil.Process(self.popen.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def most_mb(self) -> float:
        """The most memory that it had at any time."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6

    def end(self) -> None:
        """Ask it to end, and wait until it has."""
        self.popen.terminate()
        self.popen.wait(PATIENCE_S)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(PATIENCE_S)


class Scene:
    """A coordinator and workers.

    Args:
        store: ``fsync``, ``os`` or ``none`` for a store with that durability, ``memory`` for none at all.
        slots: of the worker that is started at once; 0 for no worker.
        directory: where to put the store, instead of the directory for temporary files.
        by_reference: whether peers on this machine write and read the files of large values themselves.
    """

    def __init__(
        self, store: str = "fsync", *, slots: int = 2, directory: Path | None = None, by_reference: bool = True
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="dtq-bench-", dir=directory)
        self.directory = Path(self._temporary.name)
        self.key_file = self.directory / "authkey"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._store = ["--memory"] if store == "memory" else ["--db", str(self.directory / "queue.db")]
        if store != "memory":
            self._store += ["--durability", store]
        if not by_reference:
            self._store += ["--no-by-reference"]
        self._processes: list[Process] = []
        #: In the order of their start.
        self.workers: list[Process] = []
        self._slots = slots

    def __enter__(self) -> Self:
        try:
            self.coordinator = self.start_coordinator()
            self.coordinator.await_ready()
            if self._slots:
                self.start_worker(self._slots)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_coordinator(self) -> Process:
        where = ["--port", str(self.port), "--authkey-file", str(self.key_file)]
        self.coordinator = self._run("coordinator", ["start", *where, *self._store], "coordinator ready")
        return self.coordinator

    def start_worker(self, slots: int = 2, *words: str) -> Process:
        where = ["--connect", self.address, "--authkey-file", str(self.key_file), "--slots", str(slots)]
        worker = self._run("worker", [*where, "--path", str(BENCH), "--import", "rig.work", *words], " ready:")
        worker.await_ready()
        self.workers.append(worker)
        return worker

    def client(self) -> Client:
        return Client(self.address, authkey_file=self.key_file)

    @property
    def environment(self) -> dict[str, str]:
        """Where a client of this cluster finds it: for processes of their own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DTQ_")}
        paths = [str(BENCH), str(Path(dtq.__file__).parents[1])]
        return kept | {
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "DTQ_ADDRESS": self.address,
            "DTQ_AUTHKEY_FILE": str(self.key_file),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
        self._temporary.cleanup()

    def _run(self, kind: str, words: list[str], ready: str) -> Process:
        log = self.directory / f"{kind}-{len(self._processes)}.log"
        environment = {name: text for name, text in self.environment.items() if not name.startswith("DTQ_")}
        process = Process([kind, *words], log, environment, ready)
        self._processes.append(process)
        return process
