"""The launcher of a local cluster: starts its coordinator and its worker, watches over them, and ends them.

Daemon, started by `client.processes` as ``python -m dtq.daemon.launcher``, imported by nobody else. It imports once the
modules that both need, forks them, and then only waits: it has one thread, as a forking process must. The program's
messages come through one pipe; its own go through another, a line each:

- ``listening ADDRESS``: clients can connect.
- ``ready COORDINATOR WORKER``: the worker is connected, too; their processes.
- ``ended NAME CODE``: one has ended unexpectedly.

When the program is gone, however it ended, its end of the pipe closes, or (where a child of the program still holds
that) the kernel reports the end of its process: then both are killed at once. The program itself is not asked: it may
be busy, or killed. If this process is killed, both end by themselves.
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
from dtq.worker.reaper import die_with, name_process
from dtq.worker.tracker import start_tracker

#: The modules of the two: ``begin`` is called with the settings that are known at first, ``run`` with all.
COORDINATOR: Final = "coordinator"
WORKER: Final = "worker"
_PARTS: Final = {COORDINATOR: "dtq.daemon.local_coordinator", WORKER: "dtq.daemon.local_worker"}
#: Modules that both import.
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
#: Whether the two are forked. If a fork is not safe for the system's libraries, they are started.
FORKS: Final = sys.platform == "linux"
#: Time for an unhurried end after the request, in seconds.
END_S: Final = 10.0
#: Time for the end of a worker without a coordinator, in seconds: enough to kill its slots' processes.
ALONE_S: Final = 1.0
#: Size of a log in bytes after which it begins anew: it is read only after a failure.
LOG_BYTES: Final = 1 << 20


class Log(io.TextIOWrapper):
    """A file of text that never grows far beyond a limit.

    Args:
        path: the file; its content is lost.
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
        name: `COORDINATOR` or `WORKER`.
        launcher: the process that this one must not outlive.
        orders: descriptor of the pipe from it, for settings: those that are known at first with the slots' inheritance,
            and then the rest. It closes when the launcher is gone.
        output: descriptor of the pipe to it, for the readiness line.
        directory: the cluster's directory.
    """
    if sys.platform == "linux":
        die_with(launcher, signal.SIGKILL)
    sys.stderr = sys.__stderr__  # processes that are forked for slots have the program's
    try:
        with open(orders, "rb", buffering=0, closefd=False) as file:
            settings, inheritance = handover.read(file)
            handover.inherit(inheritance)
            if name == COORDINATOR:  # the user's own must not be confused with this one, in key or settings
                os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = directory
                os.chdir(directory)
            part = import_module(_PARTS[name])
            part.begin(settings)
            settings |= handover.read(file)
    except EOFError:
        os._exit(1)
    gc.enable()
    name_process(f"dtq-{name}")
    # Tasks' output goes where the program's own output goes; dtq's log does not.
    sys.stdout = os.fdopen(output, "w", encoding="utf-8")
    sys.stderr = Log(os.path.join(directory, f"{name}.log"))
    if sys.platform != "linux":
        threading.Thread(target=_die_with_pipe, args=(orders,), name="dtq-parent", daemon=True).start()
    _end(part.run(settings))


def _die_with_pipe(orders: int) -> None:
    os.read(orders, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _end(code: int) -> NoReturn:
    """End this process without finalizing the interpreter: that takes 50 ms, and the program waits for it."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class Part:
    """The coordinator or the worker, as the launcher sees it.

    Args:
        name: `COORDINATOR` or `WORKER`.
        directory: the cluster's directory.
        kept: descriptors of this process that a fork of it must not have.
        settings: those that are known at first.
        start: the program's message.
    """

    def __init__(self, name: str, directory: str, kept: list[int], settings: dict[str, Any], start: Start) -> None:
        self.name = name
        #: Its output: the readiness line.
        self.line = b""
        self.code: int | None = None
        orders, self._orders = os.pipe()
        #: Readable when it has printed, or has ended.
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
        """The launcher's descriptors for it."""
        return [self.output, self._orders]

    def tell(self, what: Any) -> None:
        """Send it settings."""
        with contextlib.suppress(OSError), open(self._orders, "wb", buffering=0, closefd=False) as file:
            handover.write(file, what)

    def hear(self) -> bool:
        """Read its output; whether it is still running."""
        data = os.read(self.output, 1 << 12)
        self.line += data
        if not data:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return bool(data)

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
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
        start: its message.
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
        """Watch over both until the program requests their end; then end them. It returns when they have ended."""
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
        """Wait for an event, and handle it.

        Args:
            until: how long, ``time.monotonic()``; None for ever.
            told: whether the parts have been told to end, so that their ends are not reported.

        Returns:
            Readable descriptors that were not handled.
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
        """Start the program's resource tracker: a process has a message for it."""
        with contextlib.suppress(OSError):
            start_tracker(self._tracker)
        os.close(self._tracker)

    def _give_up(self) -> NoReturn:
        """Kill both, because the program is gone."""
        for part in self._parts.values():
            part.signal(signal.SIGKILL)
        import shutil  # not needed if all goes well

        shutil.rmtree(self._directory, ignore_errors=True)
        os._exit(1)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _close(self, end: End) -> None:
        worker, coordinator = self._parts[WORKER], self._parts[COORDINATOR]
        alone = coordinator.code is not None
        worker.signal(signal.SIGTERM)
        if not end.drain or alone or not self._ended(worker, end.timeout_s):
            worker.signal(signal.SIGINT)  # the second signal: it kills running tasks, with all their processes
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
    gc.disable()  # imported modules stay; scanning them takes a twentieth of the time
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
    # The module that runs is __main__; forked processes import the real one.
    from dtq.daemon import launcher

    words = sys.argv[1:]
    if words[0] in (launcher.COORDINATOR, launcher.WORKER):
        part, parent, orders, output, directory = words
        launcher.be(part, int(parent), int(orders), int(output), directory)
    launcher.main(words)
