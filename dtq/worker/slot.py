"""A slot: the child process that runs tasks, one at a time.

Started by the supervisor as ``python -m dtq.worker.slot`` with two descriptors and nothing else: no key, no address. It
reads leases from its pipe, runs their tasks in order and reports results in pages; what it is at stands in shared
memory. It lives as long as its supervisor: the kernel kills it with its parent where it can, and the closed pipe ends
it elsewhere.

User code may do anything here (exit, crash, close every descriptor): whatever happens, the supervisor sees a report or
the end of the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from dtq.client import current
from dtq.client.functions import cannot_import, exception_name, resolve
from dtq.client.payloads import call_decoder, result_encoder
from dtq.client.runnables import runnable
from dtq.errors import CannotUnpickle, OnlyRegistered, TooLarge
from dtq.model import pages
from dtq.model.messages import Failure
from dtq.model.options import Function, FunctionKind
from dtq.model.wire import codec
from dtq.worker.channel import Channel
from dtq.worker.logrecords import mark_records
from dtq.worker.position import Position
from dtq.worker.program import Program, become

#: Results are sent when they are so old, in seconds, or so large, in bytes.
FLUSH_S: Final = 0.005
FLUSH_BYTES: Final = 1 << 20
#: Bounds of what a failure may carry: characters of text, bytes of the pickled exception.
MAX_MESSAGE: Final = 4_000
MAX_TRACEBACK: Final = 32_000
MAX_PICKLED: Final = 256 << 10
_PR_SET_PDEATHSIG: Final = 1

_FAILURE: Final = codec(Failure)
_FUNCTION: Final = codec(Function)
_PROGRAM: Final = codec(Program)


class Spec:
    """A function as this process calls it, imported when it is first called.

    Args:
        function: how it travelled.
        worker: the worker's name.
        only_registered: whether nothing but registered task types may run: nothing else is even unpickled.
    """

    __slots__ = ("_call", "_function", "_worker", "decode", "encode")

    def __init__(self, function: Function, worker: str, only_registered: bool) -> None:
        self._function = function
        self._worker = worker
        self._call: Callable[..., Any] | None = None
        self.decode = call_decoder(function.kind)
        if only_registered and function.kind is not FunctionKind.REGISTERED:
            self.decode = self._refuse
        self.encode = result_encoder(function.kind)

    @property
    def call(self) -> Callable[..., Any]:
        """The function."""
        if self._call is None:
            self._call = runnable(resolve(self._function, f"the worker {self._worker}"), self._function)
        return self._call

    def located(self, error: BaseException) -> BaseException:
        """What a task raised; where its arguments could not be made for want of a module, it says who lacks it."""
        if type(error) is CannotUnpickle and isinstance(error.__cause__, ImportError):
            return cannot_import(f"what {error.args[0]} need", f"the worker {self._worker}", error.__cause__)
        return error

    def _refuse(self, blob: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        raise OnlyRegistered(self._function.name, f"the worker {self._worker}")


class Slot:
    """Runs what the supervisor sends.

    Args:
        channel: to the supervisor.
        position: shared with it.
        worker: the worker's name.
        max_result: largest result in bytes.
        only_registered: whether nothing but registered task types may run.
    """

    def __init__(
        self, channel: Channel, position: Position, worker: str, max_result: int, only_registered: bool
    ) -> None:
        self._channel = channel
        self._position = position
        self._worker = worker
        self._max_result = max_result
        self._only_registered = only_registered
        self._specs: dict[int, Spec] = {}
        self._token = 0
        self._index = 0
        current.serve(worker, self._progress)

    def run(self) -> None:
        """Serve until the pipe is closed."""
        while (message := self._channel.receive()) is not None:
            kind, *fields = message
            if kind == "spec":
                number, function = fields
                self._specs[number] = Spec(_FUNCTION.decode(function), self._worker, self._only_registered)
            elif kind == "forget":
                self._specs.pop(fields[0], None)
            else:
                self._lease(*fields)

    def _progress(self, done: float, total: float) -> None:
        self._channel.send("progress", self._token, self._index, done, total)

    def _lease(
        self, token: int, serial: int, batch: int, lo: int, single: bool, attempt: int, number: int, arguments: bytes
    ) -> None:
        spec = self._specs[number]
        self._token = token
        start = self._position.start
        results: list[bytes] = []
        size = 0
        begun = flushed = monotonic()
        for index, blob in enumerate(pages.unpack(arguments), lo):
            if not start(serial + index - lo, begun):
                self._flush(token, index - len(results), results, begun - flushed)
                self._channel.send("stopped", token, index)
                return
            self._index = index
            current.begin(batch, index, single, attempt)
            try:
                args, kwargs = spec.decode(blob)
                result = spec.encode(spec.call(*args, **kwargs))
                if len(result) > self._max_result:
                    raise TooLarge("the result", len(result), self._max_result)
            except BaseException as error:  # noqa: BLE001 - the edge to user code: whatever it raises is its outcome
                now = monotonic()
                self._flush(token, index - len(results), results, begun - flushed)
                self._channel.send("failed", token, index, now - begun, _describe(spec.located(error)))
                results, size = [], 0
                begun = flushed = now
                continue
            results.append(result)
            size += len(result)
            begun = monotonic()
            if begun - flushed > FLUSH_S or size > FLUSH_BYTES:
                self._flush(token, index + 1 - len(results), results, begun - flushed)
                results, size = [], 0
                flushed = begun
        current.end()
        self._flush(token, lo + pages.count(arguments) - len(results), results, begun - flushed)

    def _flush(self, token: int, lo: int, results: list[bytes], seconds: float) -> None:
        current.end()
        if results:
            self._channel.send("succeeded", token, lo, pages.pack(results), seconds)


def _describe(error: BaseException) -> Any:
    """What the coordinator keeps of an exception, plain and bounded."""
    current.end()
    kind = type(error)
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the exception's own code
        message = "(the exception's own message cannot be made)"
    failure = Failure(
        exception=exception_name(kind),
        bases=tuple(exception_name(base) for base in kind.__mro__[1:-1])[:32],
        message=_bounded(message, MAX_MESSAGE),
        traceback=_bounded(_traceback(error), MAX_TRACEBACK),
        pickled=_pickled(error),
    )
    return _FAILURE.plain(failure)


def _bounded(text: str, most: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - most} characters left out ...]\n{text[-half:]}"


def _traceback(error: BaseException) -> str:
    """The traceback as text, without the frames of this file at its top."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename == __file__:
        own = own.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, own or error.__traceback__))
    except Exception as second:  # noqa: BLE001 - as above
        return f"(the traceback cannot be made: {type(second).__name__})"


def _pickled(error: BaseException) -> bytes:
    try:
        data = pickle.dumps(error.with_traceback(None), 5)
    except Exception:  # noqa: BLE001 - pickling runs the exception's own code; its text is kept all the same
        return b""
    return data if len(data) <= MAX_PICKLED else b""


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its supervisor ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prepare(channel: Channel, worker: str, paths: tuple[str, ...], imports: tuple[str, ...], program: Program) -> bool:
    """Make the user's modules importable, import those that are wanted from the start, and know the task types."""
    sys.path[:0] = [path for path in paths if path not in sys.path]
    what = ""
    try:
        for what in imports:
            importlib.import_module(what)
        what = f"the program {program.path}" if program.path else "the registered task types"
        become(program)
    except BaseException as error:  # noqa: BLE001 - the edge to user code, at import
        why = cannot_import(what, f"the worker {worker}", error)
        channel.send("unusable", _traceback(error), *why.args)
        return False
    channel.send("ready", os.getpid())
    return True


def main(arguments: list[str]) -> int:
    """Entry point: ``parent-pid channel-fd position-fd``; the rest comes through the channel."""
    parent, channel_fd, position_fd = map(int, arguments)
    _die_with(parent)
    channel = Channel(socket.socket(fileno=channel_fd))
    position = Position(position_fd)
    os.close(position_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    greeting = channel.receive()
    if greeting is None:
        return 0
    worker, paths, imports, max_result, only_registered, program = greeting
    mark_records()
    if not _prepare(channel, worker, paths, imports, _PROGRAM.decode(program)):
        return 1
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        Slot(channel, position, worker, max_result, only_registered).run()
    return 0


if __name__ == "__main__":
    # The module that runs is __main__; user code must find the real one.
    from dtq.worker.slot import main as run

    sys.exit(run(sys.argv[1:]))
