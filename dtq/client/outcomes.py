"""Outcomes of tasks for their submitters: the value, or the exception to raise.

Client, below the handles. Pure: the coordinator's answer goes in, a value or an exception comes out. It runs in the
thread that asks for the result, so a result that nobody asks for is never unpickled.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from dtq.client.exception_pickles import load_exception
from dtq.client.terms import exception_name
from dtq.errors import DtqError, ResultExpired, TaskCancelled, TaskCrashed, TaskFailed, TaskTimedOut, ValueGone
from dtq.model import pages
from dtq.model.messages import Ended, Failure
from dtq.model.states import Outcome, State

#: The failure if the coordinator has no details.
_NOTHING: Final = Failure(message="no details were kept")
#: Exceptions that would end the reader's program, thread, generator or coroutine: they are told in words only.
_ENDING: Final = frozenset(("SystemExit", "KeyboardInterrupt", "GeneratorExit", "asyncio.exceptions.CancelledError"))


class RemoteTraceback(Exception):
    """The traceback of the attempt that failed, as text; the ``__cause__`` of the exception that a result raises."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    @property
    def tb(self) -> str:
        """The printed traceback; the standard library's name for it."""
        return str(self)

    def __str__(self) -> str:
        return f'\n"""\n{self.traceback.strip()}\n"""'


def _standard(remote: RemoteTraceback) -> BaseException:
    """The class that programs expect of an executor; if the standard library has none, ours."""
    process = import_module("concurrent.futures.process")  # it takes long, and most programs never need it
    made: Callable[[str], BaseException] = getattr(process, "_RemoteTraceback", RemoteTraceback)
    return made(str(remote))


class Value:
    """A task's result, decoded."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Raised:
    """The exception of a read of a result.

    Attributes:
        error: the exception.
        state: the task's state; None if unknown: its submission was refused, or the client has ended.
    """

    __slots__ = ("error", "state")

    def __init__(self, error: BaseException, state: State | None = None) -> None:
        self.error = error
        self.state = state


#: Facts of an ended task: its encoded result, or the coordinator's answer; or either of them decoded.
Known = bytes | Ended | Value | Raised


def take(ended: Ended, index: int) -> bytes | Ended:
    """The facts to keep of the end of one task."""
    if ended.results:
        return pages.unpack(pages.cut(ended.results, index - ended.lo, index - ended.lo + 1))[0]
    return ended


def state_of(known: Known) -> State | None:
    """The state of a task with these facts."""
    return known.state if isinstance(known, Ended | Raised) else State.SUCCEEDED


def decode(known: bytes | Ended, task: str, decoder: Callable[[bytes], Any], standard: bool = False) -> Value | Raised:
    """The value, or the exception to raise.

    Args:
        known: the result of `take`.
        task: the task's id, for sentences.
        decoder: decodes its result.
        standard: see `error_of`.
    """
    if isinstance(known, Ended):
        return Raised(error_of(known, task, standard), known.state)
    try:
        return Value(decoder(known))
    except ValueGone:
        return Raised(ResultExpired(task), State.SUCCEEDED)
    except DtqError as error:
        return Raised(error, State.SUCCEEDED)


def error_of(ended: Ended, task: str, standard: bool = False) -> BaseException:
    """The exception of a task without a result.

    Args:
        ended: its end.
        task: its id, for sentences.
        standard: whether it is in the form of a standard library executor: exceptions that end a program or a thread
            included, and with the standard library's own class for the cause.
    """
    if ended.state is State.SUCCEEDED:
        told = ended.failure
        return ResultExpired(task) if told is None else TaskFailed(task, told.exception, told.message)
    if ended.state is State.CANCELLED:
        return TaskCancelled(task) if ended.failure is None else TaskCancelled(task, ended.failure.message)
    failure = ended.failure or _NOTHING
    error = _error(failure, ended.outcome, task, standard)
    if failure.traceback:
        if error.__cause__ is not None:
            error.__context__ = error.__cause__
        remote = RemoteTraceback(failure.traceback)
        error.__cause__ = _standard(remote) if standard else remote
    return _loud(error, task)


def _error(failure: Failure, outcome: Outcome | None, task: str, standard: bool) -> BaseException:
    if outcome is Outcome.CRASHED:
        return TaskCrashed(task, _death(failure))
    if outcome is Outcome.TIMED_OUT:
        return TaskTimedOut(task, failure.message or "it ran into its time limit")
    own = load_exception(failure.pickled) if failure.pickled else None
    told = not standard or failure.particular  # if opening the call exits, the pickle does
    if own is None or (told and any(exception_name(base) in _ENDING for base in type(own).__mro__[:-1])):
        return TaskFailed(task, failure.exception or "it", failure.message)
    return own


def _loud(error: BaseException, task: str) -> BaseException:
    """The error in a form that can be raised anywhere: StopIteration would silently end the reader's iteration."""
    if not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    loud = RuntimeError(f"task {task} raised {type(error).__name__}")
    loud.__cause__ = error
    return loud


def _death(failure: Failure) -> str:
    if failure.message:
        return failure.message
    if failure.signal is not None:
        try:
            return f"its process was killed by {signal.Signals(failure.signal).name}"
        except ValueError:
            return f"its process was killed by signal {failure.signal}"
    how = "without a word" if failure.exit_code is None else f"with exit code {failure.exit_code}"
    return f"its process ended {how}"
