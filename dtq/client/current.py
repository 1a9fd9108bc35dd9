"""The task that runs now, as its own code sees it.

Client, because user code imports it; the worker's slot sets it. A slot's process runs one task at a time, so the place
is a plain variable: the task's threads see it too, and setting it costs a task two assignments. What `current_task`
gives out belongs to that one task for ever: a thread that outlives its task cannot report progress for the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from dtq.errors import InvalidValue, NotInTask
from dtq.model.ids import TaskId

#: Shortest time between two progress reports of a task that are sent, in seconds; the last one always is.
REPORT_EVERY_S: Final = 0.25

#: ``(done, total)`` of the task that runs now, towards the coordinator.
Report = Callable[[float, float], None]


#: What the slot says of the task that runs now: batch, index, whether it is the batch's only task, attempt. Never the
#: same object for two tasks.
_Running = tuple[int, int, bool, int]


class CurrentTask:
    """A running task.

    Attributes:
        id: its id, as everywhere.
        attempt: which attempt this is, from 1.
        worker: name of the worker.
    """

    __slots__ = ("_next_report", "_running", "attempt", "id", "worker")

    def __init__(self, running: _Running, worker: str) -> None:
        batch, index, single, attempt = running
        self.id = str(TaskId(batch, index, single))
        self.attempt = attempt
        self.worker = worker
        self._running = running
        self._next_report = 0.0

    def progress(self, done: float, total: float) -> None:
        """Say how far the task is; `dtq status` and the dashboard show it. At most a few reports a second are sent.

        Args:
            done: how much is done, in any unit.
            total: how much there is, in the same.

        Raises:
            InvalidValue: one of them is not a finite number.
        """
        try:
            done_number, total_number = float(done), float(total)
        except (TypeError, ValueError):
            raise InvalidValue("progress", f"{done!r}, {total!r}"[:80], "it is two numbers") from None
        if not (math.isfinite(done_number) and math.isfinite(total_number)):
            raise InvalidValue("progress", f"{done!r}, {total!r}", "it is two finite numbers")
        now = time.monotonic()
        if (now < self._next_report and done_number < total_number) or not self.belongs_to(_slot.running):
            return
        self._next_report = now + REPORT_EVERY_S
        _slot.report(done_number, total_number)

    def belongs_to(self, running: _Running | None) -> bool:
        """Whether this is the task that runs now; for `current_task`."""
        return running is self._running

    def __repr__(self) -> str:
        return f"<CurrentTask {self.id} attempt {self.attempt} on {self.worker}>"


def _nowhere(done: float, total: float) -> None:
    """Where reports go before a slot says otherwise."""


class _Slot:
    """The one slot of this process."""

    __slots__ = ("current", "report", "running", "worker")

    def __init__(self) -> None:
        self.worker = ""
        self.report: Report = _nowhere
        self.running: _Running | None = None
        self.current: CurrentTask | None = None


_slot: Final = _Slot()


def current_task() -> CurrentTask:
    """The task that this process runs, from any of its threads.

    Raises:
        NotInTask: no task runs here.
    """
    running = _slot.running
    if running is None:
        raise NotInTask("current_task()")
    current = _slot.current
    if current is None or not current.belongs_to(running):
        current = _slot.current = CurrentTask(running, _slot.worker)
    return current


def running() -> tuple[str, int]:
    """Id and attempt of the task that this process runs; an empty text and 0 where it runs none."""
    now = _slot.running
    if now is None:
        return "", 0
    batch, index, single, attempt = now
    return str(TaskId(batch, index, single)), attempt


# -- for the slot ---------------------------------------------------------------------------------------------------


def serve(worker: str, report: Report) -> None:
    """Say who runs tasks in this process. Once, before the first task.

    Args:
        worker: name of the worker.
        report: takes ``(done, total)`` of the task that runs now; called from any thread of the task, at most a few
            times a second.
    """
    _slot.worker = worker
    _slot.report = report


def begin(batch: int, index: int, single: bool, attempt: int) -> None:
    """A task starts in this process."""
    _slot.running = (batch, index, single, attempt)


def end() -> None:
    """It has ended."""
    _slot.running = None
