"""The states of a task, as users see them."""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a task stands. `core.states` says how it may move."""

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
        """Whether nothing more happens to the task by itself."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})


class Outcome(Enum):
    """How one attempt ended, as a worker reports it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  #: the function raised
    CRASHED = "crashed"  #: the slot's process died, or its worker was lost
    TIMED_OUT = "timed out"  #: killed at its time limit
    CANCELLED = "cancelled"  #: killed on request

    # Enum's own hash is Python code; members are looked up in tables for every move of a task.
    __hash__ = object.__hash__


#: What stands for the exception of an attempt that raised none.
_UNRAISED: Final = {Outcome.TIMED_OUT: "TimeoutError", Outcome.CRASHED: "dtq.errors.TaskCrashed"}


def exception_name(outcome: Outcome | None, exception: str) -> str:
    """The name that an attempt's exception is listed and looked for by.

    A time limit and a crash raise nothing in the task; they go by ``TimeoutError`` and ``dtq.errors.TaskCrashed``.

    Args:
        outcome: how the attempt ended; None where there was none.
        exception: the name of what it raised, or "".
    """
    return exception or (_UNRAISED.get(outcome, "") if outcome is not None else "")
