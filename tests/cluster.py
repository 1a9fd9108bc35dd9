"""A real cluster for tests: coordinator and workers as processes of their own, on a free port, with a key of their own.

Processes are waited for by their readiness line, and ended (killed if need be) when the cluster is closed; what they
wrote is shown when a wait runs out.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dtq.config import load_authkey
from dtq.errors import DtqError
from dtq.model.messages import Hello, Role
from dtq.transport.proxy import Proxy
from tests import prefork

T = TypeVar("T")

#: Where the modules are that test tasks stand in.
TASKS = Path(__file__).parent / "tasks"
#: How long anything may take, in seconds; far above what it takes, also on a slow machine that does much else, and
#: below the minute that tasks take at most which do not end by themselves.
DEADLINE_S = 50.0
#: What Python runs unless something else is said.
DTQ = ("-m", "dtq")


class Process:
    """A dtq command that runs (or another program), with what it prints in a file."""

    def __init__(
        self,
        name: str,
        words: list[str],
        directory: Path,
        environment: dict[str, str],
        program: Sequence[str] = DTQ,
        within: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("w") as output:
            if (program, within, python) == (DTQ, (), sys.executable):
                self.popen: prefork.Started = prefork.start(
                    words, directory, environment, output.fileno(), output.fileno()
                )
                return
            self.popen = subprocess.Popen(
                [*within, python, *program, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self.popen.pid

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def await_line(self, text: str) -> str:
        """Wait until it has printed a line with a text in it, and return the line."""

        def line() -> str | None:
            found = [line for line in self.output().splitlines() if text in line]
            assert found or self.popen.poll() is None, f"{self.name} ended:\n{self.output()}"
            return found[0] if found else None

        return until(line, f"{self.name} to print {text!r}", self.output)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """Kill it as the kernel would, and see it dead. Only itself: not what it started."""
        self.popen.kill()
        self.popen.wait(DEADLINE_S)

    def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        try:
            return self.popen.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.output()}") from None


class Cluster:
    """A coordinator and workers.

    Args:
        directory: for the store, the key and the logs.
        memory: whether the coordinator keeps no file.
        store: its file, by default in the directory.
        within: words that come before those of the coordinator's command, to run it under other conditions; they have
            to become it (exec), as its process is what is signalled.
    """

    def __init__(
        self, directory: Path, *, memory: bool = False, store: Path | None = None, within: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.key_file = directory / "authkey"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.environment = clean_environment(directory)
        self._store = ["--memory"] if memory else ["--db", str(store or directory / "queue.db")]
        self.within = tuple(within)
        #: The Python that what is started next runs on.
        self.python = sys.executable
        self._started = 0
        self._processes: list[Process] = []
        self._proxies: list[Proxy] = []

    def run(self, name: str, words: list[str], within: Sequence[str] = ()) -> Process:
        """Start a dtq command."""
        self._started += 1
        process = Process(
            f"{name}-{self._started}", words, self.directory, self.environment, within=within, python=self.python
        )
        self._processes.append(process)
        return process

    def coordinator(self, *words: str) -> Process:
        """Start the coordinator, and wait until it is ready."""
        where = ["--port", str(self.port), "--authkey-file", str(self.key_file), *self._store]
        process = self.run("coordinator", ["coordinator", "start", *where, *words], self.within)
        process.await_line("coordinator ready")
        return process

    def worker(self, *words: str, slots: int = 2, ready: bool = True) -> Process:
        """Start a worker, and wait until it is ready."""
        where = ["--connect", self.address, "--authkey-file", str(self.key_file), "--slots", str(slots)]
        process = self.run("worker", ["worker", *where, "--path", str(TASKS), *words])
        if ready:
            process.await_line("ready")
        return process

    def service(self, role: Role = Role.CLIENT, **hello_parts: Any) -> Proxy:
        """A connection to the coordinator, as the service; a client's, unless something else is said."""
        key, origin = load_authkey(self.key_file)
        hello = Hello(session=os.urandom(16).hex(), role=role, name="test", **hello_parts)
        address = ("127.0.0.1", self.port)
        proxy = Proxy([address], key, hello, key_source=origin)
        self._proxies.append(proxy)
        return proxy

    def command(self, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a dtq command against the cluster to its end."""
        environment = {
            **self.environment,
            "DTQ_ADDRESS": self.address,
            "DTQ_AUTHKEY_FILE": str(self.key_file),
        }
        if input is None and self.python == sys.executable:
            return prefork.run(words, self.directory, environment, DEADLINE_S)
        return subprocess.run(
            [self.python, "-m", "dtq", *words],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            cwd=self.directory,
            env=environment,
            check=False,
        )

    def close(self) -> None:
        """End everything; slots end with their workers."""
        for proxy in self._proxies:
            with contextlib.suppress(DtqError):
                proxy.close()
        for process in reversed(self._processes):
            if process.popen.poll() is None:
                process.signal(signal.SIGKILL)
                process.signal(signal.SIGCONT)
            process.popen.wait(DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()
        if kind is not None:
            for process in self._processes:
                sys.stdout.write(f"--- {process.name} ---\n{process.output()}\n")


def until(look: Callable[[], T | None], what: str, dump: Callable[[], object] = str) -> T:
    """Wait until something true is there, looking often; show the last state when the deadline passes.

    For what only another process knows; inside one process, wait for its event.
    """
    deadline = time.monotonic() + DEADLINE_S
    pause = _pauses()
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}; last seen:\n{dump()}"
        time.sleep(next(pause))


def _pauses() -> Iterator[float]:
    pause = 0.002
    while True:
        yield pause
        pause = min(0.05, pause * 1.5)


def free_port() -> int:
    """A port that nothing listens on at the moment, and that no connection is given by the kernel: below those."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def clean_environment(directory: Path) -> dict[str, str]:
    """This environment without anything of dtq's or of this pytest's, with configuration and state in a directory of
    their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DTQ_", "PYTEST_"))}
    return {
        **kept,
        "XDG_CONFIG_HOME": str(directory / "config"),
        "XDG_STATE_HOME": str(directory / "state"),
        "XDG_RUNTIME_DIR": str(directory / "run"),
        "HOME": str(directory),
    }
