"""The states of a task, as users see them."""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """State of a task. `core.states` has the allowed moves."""

    BLOCKED = "blocked"  #: waits for other tasks to end
    SCHEDULED = "scheduled"  #: delayed, or backing off after a failure: waits for a time
    PENDING = "pending"  #: waits for a slot
    RUNNING = "running"  #: leased to a worker
    SUCCEEDED = "succeeded"  #: has a result
    DEAD = "dead"  #: a dead letter: used up its retries or crashes, can be put back
    CANCELLED = "cancelled"  #: stopped on request

    # Enum's own hash is Python code; members are looked up in tables for every move of a task.
    __hash__ = object.__hash__

    @property
    def final(self) -> bool:
        """Whether the task stays in this state unless somebody acts on it."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})


class Outcome(Enum):
    """End of one attempt, as a worker reports it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  #: the function raised
    CRASHED = "crashed"  #: the slot's process died, or its worker was lost
    TIMED_OUT = "timed out"  #: killed at its time limit
    CANCELLED = "cancelled"  #: killed on request

    # Enum's own hash is Python code; members are looked up in tables for every move of a task.
    __hash__ = object.__hash__


#: Exception names of attempts that raised none.
_UNRAISED: Final = {Outcome.TIMED_OUT: "TimeoutError", Outcome.CRASHED: "dtq.errors.TaskCrashed"}


def exception_name(outcome: Outcome | None, exception: str) -> str:
    """The exception's name of an attempt, in lists and searches.

    A time limit and a crash raise nothing in the task; they go by ``TimeoutError`` and ``dtq.errors.TaskCrashed``.

    Args:
        outcome: how the attempt ended; None without an attempt.
        exception: the name of the raised exception, or "".
    """
    return exception or (_UNRAISED.get(outcome, "") if outcome is not None else "")
