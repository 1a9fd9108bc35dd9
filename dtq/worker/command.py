"""Runs a command as a task: `dtq run` submits calls of `run`.

Worker, in the slot's process, which imports this at the first command. The command is a child of the slot in a process
group of its own: it ends with the task, however that ends, as every process below a slot does (`reaper`). What it
prints is kept, bounded, and written to the slot's own output too, so that it stands where the output of every task
stands.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Final

from dtq.client.commands import KEPT_FAILED, NOT_FOUND, NOT_STARTED, SIGNALLED, CommandResult, CommandSettings
from dtq.client.current import current_task
from dtq.errors import CommandFailed, NotInTask, SoftTimeout
from dtq.records import replace
from dtq.worker.kept_output import KeptOutput
from dtq.worker.terms import SECRETS

#: What runs a command line of a shell.
SHELL: Final = ("/bin/sh", "-c")
#: Bytes that are read or written at a time.
_PIECE: Final = 1 << 16
#: Pause between two looks whether the command has ended, where the system has no descriptor for that, in seconds.
_LOOK_S: Final = 0.05
_NO_SETTINGS: Final = CommandSettings()


def run(words: Sequence[str] | str, settings: CommandSettings | str = _NO_SETTINGS, sequence: int = 0) -> CommandResult:
    """Run a command to its end.

    Args:
        words: the command and its arguments; or a text, as a line for the shell.
        settings: its directory, environment, standard input, and the kept bytes of its output; or its directory alone.
        sequence: its number among the commands of its submission, from 1; 0 for the only one. It finds it in
            ``DTQ_SEQ``.

    Returns:
        How it ended: with exit code 0.

    Raises:
        CommandFailed: it ended with another exit code, by a signal, or could not be started.
    """
    if isinstance(settings, str):
        settings = CommandSettings(cwd=settings)
    argv = (*SHELL, words) if isinstance(words, str) else tuple(words)
    worker, variables = _surroundings(sequence)
    outputs = KeptOutput(settings.keep_output), KeptOutput(settings.keep_output)
    result = CommandResult(worker=worker, started_at=time.time())
    begun = time.monotonic()
    try:
        process = _started(argv, settings, variables)
    except OSError as error:
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED
        raise _failed(_no_start(argv[0], settings, worker, error), "", replace(result, exit_code=code)) from None
    with _grouped(process):
        _collect(process, settings.stdin, outputs)
    code = process.returncode
    most = None if code == 0 else KEPT_FAILED
    result = replace(
        result,
        exit_code=code if code >= 0 else SIGNALLED - code,
        signal=max(0, -code),
        stdout=outputs[0].kept(most),
        stderr=outputs[1].kept(most),
        printed=outputs[0].size,
        seconds=time.monotonic() - begun,
    )
    if code:
        raise _failed(_ending(code), outputs[1].last_line(), result)
    return result


def _surroundings(sequence: int) -> tuple[str, dict[str, str]]:
    """The worker's name, and the variables that tell a command what it is."""
    try:
        task = current_task()
    except NotInTask:
        return "", {}
    variables = {"DTQ_TASK_ID": task.id, "DTQ_ATTEMPT": str(task.attempt)}
    return task.worker, {**variables, "DTQ_SEQ": str(sequence)} if sequence else variables


def _started(argv: Sequence[str], settings: CommandSettings, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    if settings.cwd and not os.path.isdir(settings.cwd):
        raise NotADirectoryError(settings.cwd)
    environment = {**os.environ, **variables, **dict(settings.env)}
    for name in SECRETS:
        environment.pop(name, None)
    with _interruptible():
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if settings.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=settings.cwd or None,
            env=environment,
            process_group=0,
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have a command that is started not ignore SIGINT, as its slot does."""
    if threading.current_thread() is not threading.main_thread():  # only that one sets handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _grouped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Have the processes that a command leaves in its group end with it. On the soft time limit the group gets SIGTERM,
    and may end in its own way until the hard limit.
    """
    try:
        try:
            yield
        finally:
            _signal(process.pid, signal.SIGKILL)  # before the command is collected, so that the group's number is its
            process.wait()
            with suppress(ChildProcessError):
                while True:
                    os.waitpid(-process.pid, 0)
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _collect(process: subprocess.Popen[bytes], stdin: bytes, outputs: tuple[KeptOutput, KeptOutput]) -> None:
    """Feed a command, and keep its output, until it has ended."""
    with _Pipes(process, stdin, outputs) as pipes:
        try:
            pipes.serve()
        except SoftTimeout:
            _signal(process.pid, signal.SIGTERM)
            pipes.serve()


class _Pipes:
    """The pipes of a running command.

    Args:
        process: the command.
        stdin: its standard input.
        outputs: keep its standard output and standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, outputs: tuple[KeptOutput, KeptOutput]) -> None:
        self._process = process
        self._left = memoryview(stdin)
        self._selector = selectors.DefaultSelector()
        #: Readable once the command has ended; -1 where there is no such thing.
        self._ending = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else -1
        if self._ending >= 0:
            self._selector.register(self._ending, selectors.EVENT_READ)
        for stream, kept, own in ((process.stdout, outputs[0], 1), (process.stderr, outputs[1], 2)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ, (kept, own))
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        if self._ending >= 0:
            os.close(self._ending)

    def serve(self) -> None:
        """Serve them until the command has ended, and all that it had printed is read."""
        over = False
        while not over:
            for key, _ in self._selector.select(None if self._ending >= 0 else _LOOK_S):
                if key.data is not None:
                    self._read(key.fileobj, *key.data)
                elif key.fileobj == self._ending:
                    over = True
                else:
                    self._write(key.fileobj)
            over = over or (self._ending < 0 and self._process.poll() is not None)
        for key in list(self._selector.get_map().values()):
            # A process that it has left running may hold its output open; what that prints later is not its own.
            while key.data is not None and self._read(key.fileobj, *key.data):
                pass

    def _read(self, stream: object, kept: KeptOutput, own: int) -> bool:
        """Read what is there; whether there may be more."""
        assert hasattr(stream, "fileno")
        try:
            data = os.read(stream.fileno(), _PIECE)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(stream)
            return False
        kept.add(data)
        _pass_on(own, data)
        return True

    def _write(self, stream: object) -> None:
        assert isinstance(stream, IO) or hasattr(stream, "fileno")
        try:
            self._left = self._left[os.write(stream.fileno(), self._left[:_PIECE]) :]
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            self._left = memoryview(b"")
        if not self._left:
            self._selector.unregister(stream)
            assert self._process.stdin is not None
            self._process.stdin.close()


def _pass_on(own: int, data: bytes) -> None:
    """Write output to the slot's own output."""
    with suppress(OSError):
        while data:
            data = data[os.write(own, data) :]


# -- sentences ----------------------------------------------------------------------------------------------------


def _failed(how: str, last: str, result: CommandResult) -> CommandFailed:
    error = CommandFailed(how, last)
    error.result = result
    return error


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _no_start(name: str, settings: CommandSettings, worker: str, error: OSError) -> str:
    where = f"the worker {worker}" if worker else "this machine"
    if isinstance(error, NotADirectoryError) and error.args == (settings.cwd,):
        return (
            f"could not be started: there is no directory {settings.cwd} on {where}; "
            "--cwd names another, --cwd . the worker's own"
        )
    if isinstance(error, FileNotFoundError):
        return f"could not be started: there is no {name} on {where}"
    return f"could not be started on {where}: {name}: {error.strerror or error}"
