"""Real dtq commands, and programs with dtq, as processes of their own, forked from one that has imported dtq once.

Most of the processor time of a command that ends soon is its imports, and tests start hundreds. Each command is a
process like any other: with a session, standard streams, a directory and an environment of its own, killed and waited
for as such. It differs in what the kernel says of how it began: its parent, its command line and first environment.
So it is with the fork server of a worker, the first time: a fork of the worker before that has a key.
``DTQ_TESTS_EXEC=1`` has each one started anew, as a user does. Tests that are about how commands begin always do so:
those of ``dtq up``, of the README and the examples, and the soak.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import importlib
import json
import os
import random
import resource
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

#: What is imported before the fork: what the commands import that are started most often.
MODULES: Final = (
    *("dtq.cli.app", "dtq.cli.coordinator", "dtq.cli.worker", "dtq.daemon.coordinator", "dtq.daemon.worker"),
    *("dtq.cli.submit", "dtq.cli.tasks", "dtq.cli.waiting", "dtq.cli.dlq", "dtq.cli.results", "dtq.client.sync"),
    "dtq.worker.forkserver",
)
#: Largest request, in bytes.
LONGEST: Final = 1 << 17
#: Variables that Python reads as it begins: a command that is to have other ones is started anew.
READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "MALLOC_", "LD_", "TZ")
#: Whether a process has begun, and its number; else it has ended, and with what status.
MESSAGE: Final = "?i"
#: What waits while a process is forked: an exception in the middle of that is lost.
INTERRUPTS: Final = (signal.SIGINT,)
#: Threads that a worker has when it makes its fork server; the second one waits for a signal.
IDLE: Final = {"MainThread", "dtq-signal"}
ROOT: Final = Path(__file__).parents[1]


class Started(Protocol):
    """A process as `subprocess.Popen` shows it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | Any: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


class Forked:
    """A process that was forked.

    Args:
        pid: its number.
        status: a pipe; its number came in it, and its exit status will.
    """

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self._status = status
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code as `subprocess` has it, once it has ended."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("dtq", timeout)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            _, said = struct.unpack(MESSAGE, os.read(self._status, struct.calcsize(MESSAGE)))
            os.close(self._status)
            self.returncode = os.waitstatus_to_exitcode(said)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            try:
                os.kill(self.pid, sig)
            except ProcessLookupError:
                self.wait()  # it has ended meanwhile

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that forks; it ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONGEST)
        self._at_start = at_start(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.prefork", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether what it forks is as if it had begun with these variables."""
        return at_start(environment) == self._at_start

    def start(
        self,
        words: Sequence[str],
        directory: Path,
        environment: dict[str, str],
        output: int,
        errors: int,
        program: str | None = None,
    ) -> Forked:
        """Have a command forked, or a program; its standard input is empty."""
        status, theirs = os.pipe()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        request = json.dumps([program, list(words), str(directory), environment, limit]).encode()
        socket.send_fds(self._socket, [request], [output, errors, theirs])
        os.close(theirs)
        begun, number = struct.unpack(MESSAGE, os.read(status, struct.calcsize(MESSAGE)))
        if not begun:
            raise OSError(f"the process that was forked has ended before it began, with status {number}")
        return Forked(number, status)


def at_start(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that Python reads as it begins."""
    return {name: value for name, value in variables.items() if name.startswith(READ_AT_START)}


@cache
def server() -> Server:
    """The one of this process."""
    return Server()


def start(
    words: Sequence[str],
    directory: Path,
    environment: dict[str, str],
    output: int,
    errors: int,
    program: str | None = None,
) -> Started:
    """Start a dtq command, or a program, in a session of its own.

    Args:
        words: the command line after ``dtq``, or after the program.
        directory: where it runs.
        environment: all of its variables.
        output: descriptor of its standard output.
        errors: the same for standard error.
        program: the file of a Python program in the directory, instead of dtq's command.
    """
    if "DTQ_TESTS_EXEC" not in os.environ and server().suits(environment):
        return server().start(words, directory, environment, output, errors, program)
    return subprocess.Popen(
        [sys.executable, *(["-m", "dtq"] if program is None else [program]), *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        cwd=directory,
        env=environment,
        start_new_session=True,
    )


def run(
    words: Sequence[str], directory: Path, environment: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a dtq command to its end, as ``subprocess.run`` does."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start(words, directory, environment, output.fileno(), errors.fileno())
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(["dtq", *words], code, output.read(), errors.read())


# -- in the process that forks ------------------------------------------------------------------------------------


def serve(sock: socket.socket) -> tuple[str | None, list[str]] | None:
    """Fork commands until nobody asks any more: None then. In a process that is to be one it returns what it is."""
    running: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not sock:
                    pid, status = running.pop(key.fd)
                    _, said = os.waitpid(pid, 0)
                    selector.unregister(key.fd)
                    _tell(status, said)
                    os.close(key.fd)
                    continue
                request, descriptors, _, _ = socket.recv_fds(sock, LONGEST, 3)
                if not request:
                    return None
                signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
                pid = os.fork()
                if not pid:
                    for end, (_, status) in running.items():
                        os.close(end)
                        os.close(status)
                    selector.close()
                    sock.close()
                    return become(request, descriptors)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
                for descriptor in descriptors[:2]:
                    os.close(descriptor)
                end = os.pidfd_open(pid)
                running[end] = pid, descriptors[2]
                selector.register(end, selectors.EVENT_READ)


def _tell(status: int, said: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(status, struct.pack(MESSAGE, False, said))
    os.close(status)


def become(request: bytes, descriptors: list[int]) -> tuple[str | None, list[str]]:
    """Be what a request asks for, and say so once nothing is left of what was."""
    program, words, directory, environment, limit = json.loads(request)
    *streams, status = descriptors
    os.setsid()
    for descriptor, target in zip(streams, (1, 2), strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    # Made anew, as Python does: those that were there know whether what was there can be sought in.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it stays open
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = directory
    random.seed()
    os.write(status, struct.pack(MESSAGE, True, os.getpid()))
    os.close(status)
    return program, words


def run_program(program: str) -> None:
    """Be a program, as Python is one that is started with its file."""
    module = ModuleType("__main__")
    module.__file__ = program
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    exec(compile(Path(program).read_bytes(), program, "exec"), module.__dict__)


class BecomeForkServer(BaseException):
    """Leaves all that a worker's process does: this one, a fork of it, is to be its fork server.

    Args:
        parent: the worker's process.
        sock: descriptor of the socket between both.
        streams: whether standard output is the worker's; else it is standard error.
    """

    def __init__(self, parent: int, sock: int, *, streams: bool) -> None:
        super().__init__(parent, sock)
        self.parent = parent
        self.sock = sock
        self.streams = streams


def fork_fork_servers() -> None:
    """Have a worker fork its fork server where it would start another interpreter, before it has threads that work."""
    forking = importlib.import_module("dtq.worker.forking")
    start_anew = forking._start

    def start(flags: tuple[str, ...], sock: int, *, streams: bool) -> Any:
        if {thread.name for thread in threading.enumerate()} - IDLE or flags != forking.interpreter_flags():
            return start_anew(flags, sock, streams=streams)
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            raise BecomeForkServer(parent, os.dup(sock), streams=streams)  # who is left on the way closes the other one
        return forking.Forked(pid)

    forking._start = start


def be_fork_server(asked: BecomeForkServer) -> None:
    """Be what `dtq.worker.forking` starts, with nothing of the worker but its modules."""
    terms = importlib.import_module("dtq.worker.terms")
    os.setsid()
    if not asked.streams:
        os.dup2(2, 1)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != asked.sock:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(int(name))
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    environment = terms.slot_environment()
    os.environ.clear()
    os.environ.update(environment)
    del sys.path[0]
    server = importlib.import_module("dtq.worker.forkserver")
    sys.argv = [str(server.__file__), str(asked.parent), str(asked.sock)]
    sys.exit(server.main(sys.argv[1:]))


def main(descriptor: int) -> None:
    """Be the process that forks, or one that is forked."""
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or the first collection in each process would copy the memory of all objects
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    found = serve(sock)
    if found is None:
        return
    program, words = found
    for name in ("__main__", "tests.prefork", "tests"):
        sys.modules.pop(name, None)
    sys.argv = ["dtq" if program is None else program, *words]
    if program is None and words[:1] == ["worker"]:
        fork_fork_servers()
    asked = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        if program is not None:
            return run_program(program)
        runpy.run_module("dtq", run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # as `dtq.cli.main` has it
        sys.exit(130)
    except BecomeForkServer as error:
        asked = error.with_traceback(None)
    if asked is not None:
        be_fork_server(asked)


if __name__ == "__main__":
    from tests.prefork import main as begin

    begin(int(sys.argv[1]))
