"""How a task ended, as its submitter gets it: the value, or the exception to raise.

Client, below the handles. Pure: what the coordinator said goes in, a value or an exception comes out. It is called in
the thread that asks for the result, so results nobody asks for are never unpickled.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from typing import Any, Final

from dtq.errors import DtqError, ResultExpired, TaskCancelled, TaskCrashed, TaskFailed, TaskTimedOut
from dtq.model import pages
from dtq.model.messages import Ended, Failure
from dtq.model.states import Outcome, State

#: What is said where the coordinator has no more than the bare fact.
_NOTHING: Final = Failure(message="no details were kept")


class RemoteTraceback(Exception):
    """The traceback of the attempt that failed, as text; the ``__cause__`` of the exception that a result raises."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return f'\n"""\n{self.traceback.strip()}\n"""'


class Value:
    """What a task returned, decoded."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Raised:
    """What asking for a result raises.

    Attributes:
        error: the exception.
        state: where the task stands; None where that is not known: its submission was refused, or the client has
            ended.
    """

    __slots__ = ("error", "state")

    def __init__(self, error: BaseException, state: State | None = None) -> None:
        self.error = error
        self.state = state


#: What is known of an ended task: its result as it travels, or the coordinator's words; or either of them decoded.
Known = bytes | Ended | Value | Raised


def take(ended: Ended, index: int) -> bytes | Ended:
    """What is to be kept of the end of one task."""
    if ended.results:
        return pages.unpack(pages.cut(ended.results, index - ended.lo, index - ended.lo + 1))[0]
    return ended


def state_of(known: Known) -> State | None:
    """The state of a task of which this is known."""
    return known.state if isinstance(known, Ended | Raised) else State.SUCCEEDED


def decode(known: bytes | Ended, task: str, decoder: Callable[[bytes], Any]) -> Value | Raised:
    """The value, or the exception to raise.

    Args:
        known: as `take` gave it.
        task: the task's id, for sentences.
        decoder: how its result is decoded.
    """
    if isinstance(known, Ended):
        return Raised(error_of(known, task), known.state)
    try:
        return Value(decoder(known))
    except DtqError as error:
        return Raised(error, State.SUCCEEDED)


def error_of(ended: Ended, task: str) -> BaseException:
    """The exception of a task that has no result (any more)."""
    if ended.state is State.SUCCEEDED:
        return ResultExpired(task)
    if ended.state is State.CANCELLED:
        return TaskCancelled(task)
    failure = ended.failure or _NOTHING
    error = _error(failure, ended.outcome, task)
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def _error(failure: Failure, outcome: Outcome | None, task: str) -> BaseException:
    if outcome is Outcome.CRASHED:
        return TaskCrashed(task, _death(failure))
    if outcome is Outcome.TIMED_OUT:
        return TaskTimedOut(task, failure.message or "it ran into its time limit")
    own = _own(failure.pickled) if failure.pickled else None
    return own if own is not None else TaskFailed(task, failure.exception or "it", failure.message)


def _own(pickled: bytes) -> Exception | None:
    """The task's own exception, if it can be made here and is safe to raise (an exit or an interrupt is not)."""
    try:
        error = pickle.loads(pickled)
    except (Exception, SystemExit):  # noqa: BLE001 - unpickling runs the exception's own code, which may raise anything
        return None
    return error if isinstance(error, Exception) else None


def _death(failure: Failure) -> str:
    if failure.message:
        return failure.message
    if failure.signal is not None:
        try:
            return f"by {signal.Signals(failure.signal).name}"
        except ValueError:
            return f"by signal {failure.signal}"
    return "without a word" if failure.exit_code is None else f"with exit code {failure.exit_code}"
