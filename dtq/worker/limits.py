"""Limits of slots: time limits of tasks, work that is stuck behind a long task, and slots that do not do their part.

Worker, below the supervisor, in its loop; everything here under its lock. A slot is killed with its process group; the
outcome of its running task is made when the process is seen to have ended.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dtq.worker.child import Child
from dtq.worker.chunks import Chunk
from dtq.worker.dispatch import STUCK_S
from dtq.worker.latelog import LateLog
from dtq.worker.lifecycle import Lifecycle
from dtq.worker.recalls import Recalls
from dtq.worker.slot_exit import KillReason
from dtq.worker.slot_messages import SlotMessages
from dtq.worker.slot_pool import SlotPool


class SlotLimits:
    """Enforces the limits.

    Args:
        children: the slots.
        pool: replaces worn-out slots.
        messages: handles breaches of the protocol.
        recalls: takes back work that would have to wait.
        lifecycle: whether the worker drains.
        late: takes lines to be logged once the lock is free.
    """

    def __init__(
        self,
        children: Sequence[Child],
        pool: SlotPool,
        messages: SlotMessages,
        recalls: Recalls,
        lifecycle: Lifecycle,
        late: LateLog,
    ) -> None:
        self._children = children
        self._pool = pool
        self._messages = messages
        self._recalls = recalls
        self._lifecycle = lifecycle
        self._late = late

    def enforce(self, now: float) -> None:
        """Look after every slot.

        Args:
            now: ``time.monotonic()``.
        """
        for child in self._children:
            child.overdue(now)
            if child.kill_reason is None and not child.breach:
                self._look_after(child, now)

    def moments(self, now: float) -> list[float]:
        """The moments of the next looks."""
        return [at for child in self._children for at in child.moments(now, STUCK_S)]

    def _look_after(self, child: Child, now: float) -> None:
        if not child.look(now):
            self._messages.on_breach(child, "it is said to be where it cannot be")
            return
        self._recalls.go_on(child, now)
        if child.idle and child.worn_out() and not self._lifecycle.draining:
            self._pool.retire(child)
        elif child.hides(now):
            self._messages.on_breach(child, "it is said not to have begun, though it has what it was sent")
        elif child.stalled(now):
            text = "slot %d has not begun with what it was sent; it is replaced"
            self._late(logging.WARNING, text, child.number)
            child.condemn(KillReason(0, 0, timed_out=False))
        elif (running := child.running()) is not None:
            self._limit(child, *running, now)
        elif len(child.chunks) > 1 and not child.is_brisk(now, STUCK_S):
            self._recalls.begin(child)

    def _limit(self, child: Child, chunk: Chunk, index: int, at: float, now: float) -> None:
        """Apply a running task's time limit, and let no work wait behind a long task."""
        timeout_s = chunk.spec.options.timeout_s
        if timeout_s is not None and now - at >= timeout_s:
            child.condemn(KillReason(chunk.token, index, timed_out=True))
        elif now - at > STUCK_S and (len(child.chunks) > 1 or index + 1 < chunk.end):
            self._recalls.begin(child)
