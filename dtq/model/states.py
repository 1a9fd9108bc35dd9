"""The states of a task, as users see them."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a task stands. `core.states` says how it may move."""

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
