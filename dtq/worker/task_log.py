"""The worker's log of its tasks: a line a failed task; with ``--verbose`` also a line when tasks begin and end.

Worker, below the supervisor; everything here under its lock. Tiny tasks come many to a lease, and have one line
together. A task that was cancelled has not failed. No line is a warning: a task's failure is the task's, and is tried
again or kept as a dead letter; the worker is well.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from dtq.model.ids import TaskId
from dtq.model.messages import Failure
from dtq.model.states import Outcome
from dtq.wording import counted, duration
from dtq.worker.chunks import Chunk
from dtq.worker.latelog import LateLog

#: Bounds of the lines about failed tasks: a second in the long run, and at once. The others are counted.
FAILURE_RATE: Final = 10
FAILURE_BURST: Final = 100
#: Longest message of an exception in a line, in characters.
_MESSAGE: Final = 300
_HOW: Final = {
    Outcome.FAILED: "failed",
    Outcome.CRASHED: "crashed",
    Outcome.TIMED_OUT: "timed out",
    Outcome.CANCELLED: "was cancelled",
}


class TaskLog:
    """Logs tasks.

    Args:
        late: takes the lines.
        verbose: whether all tasks are logged.
    """

    def __init__(self, late: LateLog, *, verbose: bool) -> None:
        self._late = late
        self._verbose = verbose
        self._room = float(FAILURE_BURST)
        self._at = time.monotonic()
        #: Number of failed tasks without a line.
        self._more = 0

    def began(self, chunk: Chunk, slot: int) -> None:
        """Log that a slot was sent a lease."""
        if self._verbose:
            text = "%s of %s, attempt %d: sent to slot %d"
            task, grant = _named(chunk, chunk.grant.lo, chunk.grant.hi), chunk.grant
            self._late(logging.INFO, text, task, chunk.spec.function.name, grant.attempt, slot, task=_first(chunk))

    def succeeded(self, chunk: Chunk, lo: int, hi: int, seconds: float) -> None:
        """Log that tasks have succeeded."""
        if self._verbose:
            took = duration(seconds)
            name = chunk.spec.function.name
            task = _named(chunk, lo, hi)
            self._late(logging.INFO, "%s of %s succeeded in %s", task, name, took, task=_first(chunk, lo))

    def failed(self, chunk: Chunk, index: int, outcome: Outcome, failure: Failure, seconds: float) -> None:
        """Log that an attempt of a task was unsuccessful."""
        if outcome is Outcome.CANCELLED and not self._verbose:
            return
        if not self._verbose and not self._has_room():
            self._more += 1
            return
        if self._more:
            self._late(logging.INFO, "%s failed before that, without a line", counted(self._more, "task"))
            self._more = 0
        why = failure.message.strip().splitlines() or [""]
        said = f"{failure.exception}: {why[0]}" if failure.exception else why[0]
        text = "%s of %s %s after %s, attempt %d: %s"
        args: tuple[object, ...] = (
            _named(chunk, index, index + 1),
            chunk.spec.function.name,
            _HOW[outcome],
            duration(seconds),
            chunk.grant.attempt,
            said[:_MESSAGE],
        )
        if self._verbose and failure.traceback:
            text, args = f"{text}\n%s", (*args, failure.traceback.rstrip())
        self._late(logging.INFO, text, *args, task=_first(chunk, index))

    def _has_room(self) -> bool:
        now = time.monotonic()
        self._room = min(FAILURE_BURST, self._room + (now - self._at) * FAILURE_RATE)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


def _first(chunk: Chunk, index: int = -1) -> str:
    grant = chunk.grant
    return str(TaskId(grant.batch, grant.lo if index < 0 else index, grant.single))


def _named(chunk: Chunk, lo: int, hi: int) -> str:
    """Tasks ``[lo, hi)`` of a lease, for people."""
    return f"task {_first(chunk, lo)}" if hi - lo == 1 else f"tasks {_first(chunk, lo)}-{hi - 1}"
