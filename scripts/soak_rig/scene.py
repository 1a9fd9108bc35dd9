"""The cluster of a soak: its processes, one name and one number each time that one is started, and its wires.

Workers are called ``w2-3``: the third start of ``w2``. What is said of a fault names the start that it hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

import dtq
from dtq.config import load_authkey
from dtq.model.messages import Hello, Role, Welcome
from dtq.transport import Proxy
from soak_rig.guard import MARK, marked
from soak_rig.plan import COORDINATOR, LEASE_S, PRODUCERS, WORKERS
from soak_rig.tasks import LEDGERS
from soak_rig.wire import Wire

#: Where tasks and producers are imported from.
SCRIPTS: Final = Path(__file__).resolve().parents[1]
#: How long anything may take to start or end, in seconds; far above what it takes.
PATIENCE_S: Final = 60.0


class Stuck(Exception):
    """Something does not start, or does not end."""


class Node:
    """One process.

    Args:
        name: its name and number.
        words: its command line, after the interpreter.
        directory: for its log.
        environment: its variables.
    """

    def __init__(self, name: str, words: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=environment,
                start_new_session=True,
            )
        self.pid = self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def await_line(self, text: str) -> None:
        """Wait until it has printed something.

        Raises:
            Stuck: it does not.
        """
        deadline = time.monotonic() + PATIENCE_S
        while text not in (said := self.log.read_text(errors="replace")):
            if not self.alive or time.monotonic() > deadline:
                raise Stuck(f"{self.name} does not start; its log ends:\n{said[-2000:]}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send it a signal; what has ended takes none."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def kill(self) -> None:
        """Kill it, and see it dead."""
        self.signal(signal.SIGKILL)
        self.popen.wait(PATIENCE_S)

    def ended(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for its end.

        Returns:
            Its exit code.

        Raises:
            Stuck: it does not end.
        """
        try:
            return self.popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGUSR1)  # it says what it is doing
            time.sleep(0.5)
            raise Stuck(f"{self.name} (pid {self.pid}) does not end within {patience_s:g} s") from None

    def children(self) -> list[psutil.Process]:
        """Its children and theirs, as they are now."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def slots(self) -> list[psutil.Process]:
        """The processes that run tasks, as they are now: its children's children, for reapers stand between."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            for reaper in psutil.Process(self.pid).children():
                found += reaper.children()
        return found


class Scene:
    """Coordinator, workers, producers and wires.

    Args:
        directory: for the store, the key, logs and ledgers.
        seed: what producers draw from.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.key_file = directory / "authkey"
        self.executions = directory / "executions"
        self.executions.mkdir(parents=True)
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.ledgers = directory / "ledgers"
        self.ledgers.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.wires: dict[str, Wire] = {}
        self.nodes: dict[str, Node] = {}
        #: One at a time does something to a node.
        self.locks = {name: threading.Lock() for name in (COORDINATOR, *WORKERS, *PRODUCERS)}
        self._starts: dict[str, int] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._environment = self._clean_environment()

    def _clean_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DTQ_")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(Path(dtq.__file__).parents[1]), str(SCRIPTS)]),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            LEDGERS: str(self.executions),
            MARK: str(self.directory),
        }

    def open(self) -> None:
        """Start everything."""
        words = [sys.executable, "-m", "soak_rig.guard", str(self.directory)]
        unmarked = {name: value for name, value in self._environment.items() if name != MARK}
        self._guard = subprocess.Popen(words, stdin=subprocess.PIPE, env=unmarked, start_new_session=True)
        self.start(COORDINATOR)
        for name, (*_, wired) in {**WORKERS, **PRODUCERS}.items():
            if wired:
                self.wires[name] = Wire(self.port)
        for name in WORKERS:
            self.start(name)
        for name in PRODUCERS:
            self.start(name)

    def start(self, name: str) -> Node:
        """Start a process, and wait until it is ready."""
        self._starts[name] = self._starts.get(name, 0) + 1
        called = f"{name}-{self._starts[name]}"
        if name == COORDINATOR:
            words, ready = self._coordinator_words(), "coordinator ready"
        elif name in WORKERS:
            words, ready = self._worker_words(name, called), " ready: "
        else:
            words, ready = self._producer_words(name, called), ""
        node = Node(called, words, self.logs, self._environment)
        self.nodes[name] = node
        node.await_line(ready)  # a worker waits for the coordinator, if need be
        return node

    def _address(self, name: str) -> str:
        return f"127.0.0.1:{self.wires[name].port if name in self.wires else self.port}"

    def _coordinator_words(self) -> list[str]:
        words = ["-m", "dtq", "coordinator", "start", "--port", str(self.port), "--lease", f"{LEASE_S}s"]
        return [*words, "--authkey-file", str(self.key_file), "--db", str(self.directory / "queue.db")]

    def _worker_words(self, name: str, called: str) -> list[str]:
        slots, queues, _ = WORKERS[name]
        words = ["-m", "dtq", "worker", "--connect", self._address(name), "--authkey-file", str(self.key_file)]
        words += ["--slots", str(slots), "--name", called, "--path", str(SCRIPTS)]
        for queue in queues:
            words += ["--queue", queue]
        return words + ["--max-tasks-per-slot", "2000"] * bool(queues)

    def _producer_words(self, name: str, called: str) -> list[str]:
        kind, _ = PRODUCERS[name]
        ledger = self.ledgers / called
        address = self._address(name)
        return ["-m", "soak_rig.producing", called, kind, str(self.seed), address, str(self.key_file), str(ledger)]

    def service(self, name: str, timeout_s: float = 10.0, on_welcome: Callable[[Welcome], None] | None = None) -> Proxy:
        """A connection of our own, by no wire."""
        key, origin = load_authkey(self.key_file)
        hello = Hello(session=os.urandom(16).hex(), role=Role.CLIENT, name=name)
        address = ("127.0.0.1", self.port)
        return Proxy([address], key, hello, on_welcome=on_welcome, key_source=origin, call_timeout_s=timeout_s)

    def hog(self, what: str, seconds: float) -> None:
        """Keep the disk or all processors busy for so long."""
        words = [sys.executable, "-m", "soak_rig.hog", what, str(seconds), str(self.directory)]
        count = 1 if what == "disk" else 2 * (os.cpu_count() or 1)
        hogs = [subprocess.Popen(words, env=self._environment, cwd=self.directory) for _ in range(count)]
        for hog in hogs:
            hog.wait(PATIENCE_S)

    def leftovers(self) -> list[psutil.Process]:
        """All processes of this run but this one."""
        return marked(str(self.directory))

    def close(self) -> None:
        """Kill whatever is left."""
        for node in self.nodes.values():
            if node.alive:
                node.signal(signal.SIGKILL)
                node.popen.wait(PATIENCE_S)
        for process in self.leftovers():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for wire in self.wires.values():
            wire.close()
        if self._guard is not None:
            self._guard.communicate()
