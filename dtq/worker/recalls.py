"""Recalls: taking back the tasks that a busy slot has not begun, and stopping its running one.

Worker, below the supervisor; everything here under its lock. A slot says in shared memory which task it has begun
(`position`). So a recall has two steps: first the slot is kept from beginning another task, and once it must have seen
that, the rest goes back. A task can be stopped only then, for only then is it known whether it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dtq.worker.child import Child
from dtq.worker.settling import Settling
from dtq.worker.slot_exit import KillReason
from dtq.worker.takenback import TakenBack


class Recalls:
    """Takes back unstarted tasks.

    Args:
        settling: returns tasks to the coordinator.
        taken_back: notes which ones went back.
        wake: wakes the loop, which finishes recalls.
    """

    def __init__(self, settling: Settling, taken_back: TakenBack, wake: Callable[[], None]) -> None:
        self._settling = settling
        self._taken_back = taken_back
        self._wake = wake

    def begin(self, child: Child) -> None:
        """Begin to take back a slot's unstarted tasks. By any thread; the loop finishes it."""
        if child.kill_reason is not None or child.retired or not child.chunks or child.recalled:
            return
        now = time.monotonic()
        if child.recall_at is None and child.look(now):
            child.begin_recall(now)

    def stop(self, child: Child, token: int, index: int) -> None:
        """Stop a task once it is known whether it is the running one; -1 for the lease's running task."""
        child.cancellations.append((token, index))
        self.begin(child)
        self._wake()

    def go_on(self, child: Child, now: float) -> None:
        """Finish what is due of a slot's recall, and then stop its tasks.

        Args:
            child: the slot.
            now: ``time.monotonic()``.
        """
        if child.recall_at is not None and now >= child.recall_at:
            self._finish(child)
        if child.cancellations and child.recall_at is None:
            self._execute(child, now)

    def _finish(self, child: Child) -> None:
        for chunk, lo, hi in child.recall():
            self._taken_back.note(chunk.grant, lo)
            self._settling.release(chunk, lo, hi)
        while child.chunks and child.chunks[-1].ended and child.chunks[-1].token not in child.recalled:
            child.chunks.pop()

    def _execute(self, child: Child, now: float) -> None:
        """Stop the tasks that must be, if they run."""
        child.look(now)
        running = child.running()
        waiting: list[tuple[int, int]] = []
        for token, index in child.cancellations:
            if running is not None and running[0].token == token and index in (-1, running[1]):
                child.condemn(KillReason(token, running[1], timed_out=False))
            elif (chunk := child.holding(token)) is not None and (index < 0 or chunk.next <= index < chunk.end):
                waiting.append((token, index))
        child.cancellations = waiting
