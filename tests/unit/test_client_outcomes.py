"""The end of a task, as its submitter gets it."""

from __future__ import annotations

import pickle
import traceback

import pytest

from dtq.client.outcomes import Raised, RemoteTraceback, Value, decode, error_of, state_of, take
from dtq.client.payloads import decode_result, encode_result
from dtq.errors import (
    CannotUnpickle,
    ResultExpired,
    TaskCancelled,
    TaskCrashed,
    TaskFailed,
    TaskTimedOut,
)
from dtq.model import pages
from dtq.model.messages import Ended, Failure
from dtq.model.states import Outcome, State


class Awkward(Exception):
    """Pickles, and does not come back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def dead(failure: Failure | None, outcome: Outcome = Outcome.FAILED) -> Ended:
    return Ended(batch=17, lo=3, hi=4, state=State.DEAD, outcome=outcome, failure=failure)


def test_result_is_cut_out_of_its_page() -> None:
    # Given a page of results; When one of them is taken; Then it is that one
    page = pages.pack([encode_result(n) for n in range(10)])
    known = take(Ended(batch=1, lo=20, hi=30, state=State.SUCCEEDED, results=page), 27)
    found = decode(known, "1.27", decode_result)
    assert isinstance(found, Value)
    assert found.value == 7


def test_own_exception_comes_with_the_remote_traceback() -> None:
    # Given a task that raised
    failure = Failure(
        exception="KeyError", message="'k'", traceback="Traceback: line 1", pickled=pickle.dumps(KeyError("k"))
    )
    # When its submitter asks
    error = error_of(dead(failure), "17.3")
    # Then it is that exception, and a traceback printed here shows the one from there
    assert isinstance(error, KeyError)
    assert error.args == ("k",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "Traceback: line 1" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"garbage",
        pickle.dumps(Awkward(1, 2)),
        pickle.dumps("no exception"),
        pickle.dumps(SystemExit(3)),
        pickle.dumps(KeyboardInterrupt()),
    ],
)
def test_exception_that_cannot_be_raised_here_is_described(pickled: bytes) -> None:
    # Given an exception that does not come back, or would end this program; When its submitter asks
    error = error_of(dead(Failure(exception="m.E", message="why", traceback="tb", pickled=pickled)), "17.3")
    # Then it is told in words, the traceback with it
    assert isinstance(error, TaskFailed)
    assert str(error) == "task 17.3 failed: m.E: why"
    assert isinstance(error.__cause__, RemoteTraceback)


@pytest.mark.parametrize(
    ("ended", "kind", "sentence"),
    [
        (dead(Failure(signal=9), Outcome.CRASHED), TaskCrashed, "its process was killed by SIGKILL"),
        (dead(Failure(exit_code=3), Outcome.CRASHED), TaskCrashed, "its process ended with exit code 3"),
        (
            dead(Failure(message="the worker w was lost"), Outcome.CRASHED),
            TaskCrashed,
            "letters: the worker w was lost.",
        ),
        (dead(Failure(), Outcome.CRASHED), TaskCrashed, "its process ended without a word"),
        (dead(Failure(message="it ran for 60 s"), Outcome.TIMED_OUT), TaskTimedOut, "it ran for 60 s"),
        (dead(None), TaskFailed, "no details were kept"),
        (Ended(batch=17, lo=0, hi=9, state=State.CANCELLED), TaskCancelled, "task 17.3 was cancelled"),
        (Ended(batch=17, lo=0, hi=9, state=State.SUCCEEDED), ResultExpired, "no longer kept"),
    ],
)
def test_ends_without_an_exception_of_their_own_have_their_error(
    ended: Ended, kind: type[Exception], sentence: str
) -> None:
    # Given such an end; When its submitter asks; Then it is its own error, in a sentence
    error = error_of(ended, "17.3")
    assert type(error) is kind
    assert sentence in str(error)


def test_state_is_known_before_and_after_decoding() -> None:
    # Given ends; When they are decoded or not; Then the state is the same
    cancelled = Ended(batch=17, lo=0, hi=9, state=State.CANCELLED)
    assert state_of(b"") is State.SUCCEEDED
    assert state_of(cancelled) is State.CANCELLED
    assert state_of(decode(cancelled, "17.3", decode_result)) is State.CANCELLED
    assert state_of(Raised(ValueError())) is None


def test_result_that_cannot_be_unpickled_did_succeed() -> None:
    # Given a result of a class that is not here; When it is asked for; Then the error says so, and the state does not
    found = decode(b"\x80\x05cno_such_module\nThing\n.", "17.3", decode_result)
    assert isinstance(found, Raised)
    assert isinstance(found.error, CannotUnpickle)
    assert found.state is State.SUCCEEDED
