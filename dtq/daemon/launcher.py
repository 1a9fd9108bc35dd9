"""The launcher of a local cluster: starts its coordinator and its worker, watches over them, and ends them.

Daemon, started by `client.processes` as ``python -m dtq.daemon.launcher``, imported by nobody else. It imports once
what both need, forks them, and then only waits: it has one thread, as a process has to that is forked. What it is told
comes through a pipe from the program; what it has to say goes through another, a line each:

- ``listening ADDRESS``: clients can connect.
- ``ready COORDINATOR WORKER``: the worker is connected, too; their processes.
- ``ended NAME CODE``: one has ended that was not told to.

When the program is gone, however that ended, its end of the pipe closes, or (where a child of the program still holds
that) the kernel says that its process has ended: then both are killed at once. Nothing is asked of the program itself:
it may be busy, or killed. Where this process is killed, both end by themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import select
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from dtq.client import handover
from dtq.client.handover import End, Start
from dtq.config import make_authkey
from dtq.worker.tracker import start_tracker
from dtq.worker.warden import die_with, name_process

#: What the two run: ``begin`` of the module is called with the settings that are known at first, ``run`` with all.
COORDINATOR: Final = "coordinator"
WORKER: Final = "worker"
_PARTS: Final = {COORDINATOR: "dtq.daemon.local_coordinator", WORKER: "dtq.daemon.local_worker"}
#: What both import.
SHARED: Final = (
    "dtq.config.authkey",
    "dtq.config.tls",
    "dtq.daemon.local_part",
    "dtq.daemon.logs",
    "dtq.daemon.signals",
    "dtq.model.inputs",
    "dtq.model.lru",
    "dtq.model.weight",
    "dtq.transport.calls",
    "dtq.transport.endpoints",
    "dtq.values.local",
    "dtq.values.offers",
)
#: Whether the two are forked. Where that is not safe for libraries of the system, they are started.
FORKS: Final = sys.platform == "linux"
#: How long one may take to end after it was told to, where it has nothing to wait for, in seconds.
END_S: Final = 10.0
#: How long a worker may take that has nobody to report to, in seconds: enough to kill what its slots have started.
ALONE_S: Final = 1.0
#: How long a log may become, in bytes, before it begins anew: it is read only when something has gone wrong.
LOG_BYTES: Final = 1 << 20


class Log(io.TextIOWrapper):
    """A file of text that never grows far beyond a limit.

    Args:
        path: the file; what it held is lost.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - it lives as long as this
        super().__init__(self._file, encoding="utf-8", errors="replace", line_buffering=True)

    def write(self, text: str, /) -> int:
        """See `io.TextIOWrapper.write`."""
        if self._file.tell() > LOG_BYTES:
            self._file.seek(0)
            self._file.truncate()
        return super().write(text)


# -- a part of the cluster --------------------------------------------------------------------------------------------


def be(name: str, launcher: int, orders: int, output: int, directory: str) -> NoReturn:
    """Be the coordinator or the worker, in a process of its own, until its end.

    Args:
        name: which of them.
        launcher: the process that this one is not to outlive.
        orders: descriptor of the pipe from it, for settings: those that are known at first with what slots inherit,
            and then the rest. It closes when the launcher is gone.
        output: descriptor of the pipe to it, for the readiness line.
        directory: the cluster's directory.
    """
    if sys.platform == "linux":
        die_with(launcher, signal.SIGKILL)
    sys.stderr = sys.__stderr__  # what is forked for slots has the program's
    try:
        with open(orders, "rb", buffering=0, closefd=False) as file:
            settings, inheritance = handover.read(file)
            handover.inherit(inheritance)
            if name == COORDINATOR:  # the user's own must not be taken for this one, nor its settings for this one's
                os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = directory
                os.chdir(directory)
            part = import_module(_PARTS[name])
            part.begin(settings)
            settings |= handover.read(file)
    except EOFError:
        os._exit(1)
    name_process(f"dtq-{name}")
    # What tasks print goes where the program's own output goes; what dtq says here does not.
    sys.stdout = os.fdopen(output, "w", encoding="utf-8")
    sys.stderr = Log(os.path.join(directory, f"{name}.log"))
    if sys.platform != "linux":
        threading.Thread(target=_die_with_pipe, args=(orders,), name="dtq-parent", daemon=True).start()
    _end(part.run(settings))


def _die_with_pipe(orders: int) -> None:
    os.read(orders, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _end(code: int) -> NoReturn:
    """End this process without taking the interpreter apart: that takes 50 ms, and the program waits for it."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class Part:
    """The coordinator or the worker, as the launcher sees it.

    Args:
        name: which of them.
        directory: the cluster's directory.
        kept: descriptors of this process that a fork of it must not have.
        settings: what it runs with, as far as it is known.
        start: what else it is to have.
    """

    def __init__(self, name: str, directory: str, kept: list[int], settings: dict[str, Any], start: Start) -> None:
        self.name = name
        #: What it has printed: its readiness line.
        self.line = b""
        self.code: int | None = None
        orders, self._orders = os.pipe()
        #: Readable when it has printed something, or has ended.
        self.output, output = os.pipe()
        launcher, tracker = os.getpid(), start.inheritance.tracker
        self.pid = os.fork() if FORKS else _started(name, orders, output, directory, tracker)
        if not self.pid:
            os.setsid()
            if name == COORDINATOR and tracker >= 0:
                os.close(tracker)
            for descriptor in (*kept, self._orders, self.output):
                os.close(descriptor)
            _hide_input()
            be(name, launcher, orders, output, directory)
        os.close(orders)
        os.close(output)
        self.tell((settings, start.inheritance))

    @property
    def descriptors(self) -> list[int]:
        """What the launcher has open for it."""
        return [self.output, self._orders]

    def tell(self, what: Any) -> None:
        """Send it settings."""
        with contextlib.suppress(OSError), open(self._orders, "wb", buffering=0, closefd=False) as file:
            handover.write(file, what)

    def hear(self) -> bool:
        """Take what it has printed; whether it is there still."""
        data = os.read(self.output, 1 << 12)
        self.line += data
        if not data:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return bool(data)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.code is None:
            os.kill(self.pid, number)


def _started(name: str, orders: int, output: int, directory: str, tracker: int) -> int:
    words = [name, str(os.getpid()), str(orders), str(output), directory]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __spec__.name, *words],
        pass_fds=[descriptor for descriptor in (orders, output, tracker) if descriptor >= 0],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ).pid


def _hide_input() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


# -- the launcher -----------------------------------------------------------------------------------------------------


class Launcher:
    """Watches over the cluster.

    Args:
        program: the process of the program.
        output: descriptor of the pipe to it.
        directory: the cluster's directory; removed when the program is gone.
        start: what it has told.
    """

    def __init__(self, program: int, output: int, directory: str, start: Start) -> None:
        self._program = program
        self._output = output
        self._directory = directory
        self._tracker = start.tracker
        self._poll = select.poll()
        kept = [output]
        self._poll.register(0, select.POLLIN)
        with contextlib.suppress(
            AttributeError, OSError
        ):  # an old kernel has no such descriptors, but there is the pipe
            kept.append(os.pidfd_open(program))
            self._poll.register(kept[-1], select.POLLIN)
        if start.tracker >= 0:
            kept.append(start.tracker)
            self._poll.register(start.tracker, select.POLLIN)
        gc.freeze()  # or the first collection in each part would copy the memory of all objects
        self._parts: dict[str, Part] = {}
        for name, settings in ((COORDINATOR, start.coordinator), (WORKER, start.worker)):
            part = self._parts[name] = Part(name, directory, kept, settings, start)
            kept += part.descriptors
            self._poll.register(part.output, select.POLLIN)
        self._parts[COORDINATOR].tell({})
        if start.inheritance.tracker >= 0:
            os.close(start.inheritance.tracker)  # as long as it is open here, the tracker waits

    def run(self) -> None:
        """Watch over both until the program says how they are to end; then end them. It returns when they have."""
        with open(0, "rb", buffering=0, closefd=False) as program:
            end = None
            while end is None:
                for ready in self._wait(None):
                    if ready == 0:
                        end = self._read(program)
        self._close(end)

    def _read(self, program: IO[bytes]) -> End:
        try:
            end: End = handover.read(program)
        except EOFError:
            self._give_up()
        return end

    def _wait(self, until: float | None, *, told: bool = False) -> list[int]:
        """Wait until something happens, and see to it.

        Args:
            until: how long, ``time.monotonic()``; None for ever.
            told: whether the parts have been told to end, so that nobody need know that they do.

        Returns:
            Descriptors that can be read of which nothing was seen to.
        """
        left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1e3
        ready = [descriptor for descriptor, _ in self._poll.poll(left_ms)]
        by_output = {part.output: part for part in self._parts.values()}
        rest = []
        for descriptor in ready:
            if descriptor in by_output:
                self._hear(by_output[descriptor], told)
            elif descriptor == self._tracker:
                self._poll.unregister(descriptor)
                self._start_tracker()
            elif descriptor == 0 and os.getppid() == self._program and not told:
                rest.append(descriptor)
            else:
                self._give_up()
        return rest

    def _hear(self, part: Part, told: bool) -> None:
        known = part.line.endswith(b"\n")
        if not part.hear():
            self._poll.unregister(part.output)
            if not told:
                self._say(f"ended {part.name} {part.code}")
        elif not known and part.line.endswith(b"\n"):
            if part.name == COORDINATOR:
                address = part.line.decode().split()[3]
                self._say(f"listening {address}")
                self._parts[WORKER].tell({"connect": (address,)})
            else:
                self._say(f"ready {self._parts[COORDINATOR].pid} {part.pid}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the program is gone, which is seen soon
            os.write(self._output, f"{line}\n".encode())

    def _start_tracker(self) -> None:
        """Start the program's resource tracker: somebody has something to say to it."""
        with contextlib.suppress(OSError):
            start_tracker(self._tracker)
        os.close(self._tracker)

    def _give_up(self) -> NoReturn:
        """The program is gone."""
        for part in self._parts.values():
            part.signal(signal.SIGKILL)
        import shutil  # where all goes as it should, it is not needed

        shutil.rmtree(self._directory, ignore_errors=True)
        os._exit(1)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _close(self, end: End) -> None:
        worker, coordinator = self._parts[WORKER], self._parts[COORDINATOR]
        alone = coordinator.code is not None
        worker.signal(signal.SIGTERM)
        if not end.drain or alone or not self._ended(worker, end.timeout_s):
            worker.signal(signal.SIGINT)  # the second signal: it kills what runs, with all that this started
            self._ended(worker, ALONE_S if alone else END_S)
        worker.signal(signal.SIGKILL)
        coordinator.signal(signal.SIGTERM)
        self._ended(coordinator, END_S)
        coordinator.signal(signal.SIGKILL)
        for part in (worker, coordinator):
            self._ended(part, None)
        self._wait(0.0, told=True)  # whether the program's resource tracker is needed after all

    def _ended(self, part: Part, timeout_s: float | None) -> bool:
        """Wait for the end of a part; whether it has ended."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while part.code is None and (until is None or time.monotonic() < until):
            self._wait(until, told=True)
        return part.code is not None


def main(arguments: list[str]) -> NoReturn:
    """Entry point.

    Args:
        arguments: the program's process, the descriptor of the pipe to it, and the cluster's directory.
    """
    program, output, directory = arguments
    sys.stderr = Log(os.path.join(directory, "launcher.log"))
    try:
        with open(0, "rb", buffering=0, closefd=False) as file:
            start = handover.read(file)
    except EOFError:
        os._exit(1)
    if FORKS:
        for name in SHARED:
            import_module(name)
    make_authkey(Path(directory) / "authkey")
    Launcher(int(program), int(output), directory, start).run()
    _end(0)


if __name__ == "__main__":
    # The module that runs is __main__; what it forks imports the real one.
    from dtq.daemon import launcher

    words = sys.argv[1:]
    if words[0] in (launcher.COORDINATOR, launcher.WORKER):
        part, parent, orders, output, directory = words
        launcher.be(part, int(parent), int(orders), int(output), directory)
    launcher.main(words)
