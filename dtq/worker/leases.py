"""A worker's leases: they arrive, are cancelled or taken away by the coordinator, and go back before a pause or an end.

Worker, below the supervisor; everything here under its lock. A lease whose arguments are values elsewhere waits for
them first (`transfers`), then for a slot (`dispatch`). Its tasks' outcomes are made in `settling`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from dtq.model.messages import Cancellation, Grant
from dtq.model.options import Spec
from dtq.wording import counted
from dtq.worker.child import Child
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.dispatch import Dispatch
from dtq.worker.latelog import LateLog
from dtq.worker.lifecycle import Lifecycle
from dtq.worker.recalls import Recalls
from dtq.worker.settling import Settling
from dtq.worker.takenback import TakenBack


class Leases:
    """Takes leases, and gives them up.

    Args:
        children: the slots.
        holdings: the worker's leases.
        lifecycle: whether it takes work.
        settling: returns tasks to the coordinator.
        taken_back: tasks that went back because they would have had to wait.
        dispatch: sends leases to slots.
        recalls: takes them back from slots.
        late: takes lines to be logged once the lock is free.
        wake: wakes the loop.
    """

    def __init__(
        self,
        children: Sequence[Child],
        holdings: Holdings,
        lifecycle: Lifecycle,
        settling: Settling,
        taken_back: TakenBack,
        dispatch: Dispatch,
        recalls: Recalls,
        *,
        late: LateLog,
        wake: Callable[[], None],
    ) -> None:
        self._children = children
        self._holdings = holdings
        self._lifecycle = lifecycle
        self._settling = settling
        self._taken_back = taken_back
        self._dispatch = dispatch
        self._recalls = recalls
        self._late = late
        self._wake = wake

    def granted(self, grants: list[tuple[Grant, Spec]]) -> None:
        """Take new leases."""
        now = time.monotonic()
        overtaking = self._taken_back.overtaking([grant for grant, _ in grants])
        transfers = self._settling.transfers
        for grant, spec in grants:
            chunk = Chunk(grant, spec, now)
            self._holdings.add(chunk)
            if not self._lifecycle.takes:
                self._settling.release(chunk, chunk.next, chunk.end)
            elif grant.token in overtaking:
                self._dispatch.put_back(chunk, chunk.next)
            elif transfers is None or transfers.fetch(chunk):
                self._dispatch.queue(chunk, now)
            for cancellation in self._holdings.cancellations.pop(chunk.token, ()):
                self.cancel(cancellation)
        self._dispatch.assign(now)
        self._wake()

    def fetched(self, token: int) -> None:
        """Note that a lease has all its arguments."""
        chunk = self._holdings.chunks.get(token)
        if chunk is None or chunk.ended:
            return
        if not self._lifecycle.takes:
            self._settling.release(chunk, chunk.next, chunk.end)
            return
        chunk.granted_at = time.monotonic()
        self._dispatch.queue(chunk, chunk.granted_at)
        self._dispatch.assign(chunk.granted_at)
        self._wake()

    def unfetched(self, token: int) -> None:
        """Note that the arguments of a lease have no room."""
        chunk = self._holdings.chunks.get(token)
        if chunk is not None:
            self._settling.release(chunk, chunk.next, chunk.end)

    def cancel(self, cancellation: Cancellation) -> None:
        """Stop a task."""
        chunk = self._holdings.chunks.get(cancellation.token)
        if chunk is None:
            # Its lease may be in the answer that is under way on the other connection.
            self._holdings.note_cancellation(cancellation)
            return
        if not chunk.next <= cancellation.index < chunk.end:
            if self._settling.transfers is not None:
                self._settling.transfers.cancel(cancellation.token, cancellation.index)
            return
        child = self._child_with(chunk)
        if child is None:
            if chunk in self._dispatch.waiting:  # else its arguments are on their way
                self._dispatch.waiting.remove(chunk)
            self._settling.release(chunk, chunk.next, chunk.end)
            return
        self._recalls.stop(child, cancellation.token, cancellation.index)

    def drop(self, token: int) -> None:
        """Stop a lease that is no longer this worker's, without reports."""
        chunk = self._holdings.chunks.get(token)
        if chunk is None or (chunk.ended and token not in self._holdings.waiting):
            return  # its outcomes are on their way, or have arrived: the next acknowledgement ends it
        text = "the lease of task %d.%d was taken back by the coordinator"
        self._late(logging.WARNING, text, chunk.grant.batch, chunk.next)
        child = self._child_with(chunk)
        if child is not None:
            self._recalls.stop(child, token, -1)
        elif chunk in self._dispatch.waiting:
            self._dispatch.waiting.remove(chunk)
        self._holdings.forget(token)
        self._wake()

    def give_back_unstarted(self) -> None:
        """Return every task that has not begun; those in slots follow when they are known not to have begun."""
        self.give_back_waiting()
        for child in self._children:
            self._recalls.begin(child)

    def give_back_waiting(self) -> None:
        """Return the leases that were not sent to a slot yet."""
        self._dispatch.waiting.clear()
        for chunk in list(self._holdings.chunks.values()):
            if chunk.serial < 0 and not chunk.ended:
                self._settling.release(chunk, chunk.next, chunk.end)

    def hindrances(self) -> list[str]:
        """Reasons why a drain may take long although no task runs: results without room, a sentence each."""
        waiting = [
            f"the result of a task of {chunk.spec.function.name} in slot {child.number} waits for room:"
            f" {chunk.no_room[1]}"
            for child in self._children
            for chunk in child.chunks
            if chunk.no_room is not None and chunk.no_room[0] == chunk.next and not chunk.ended
        ]
        stalled = 0 if self._settling.transfers is None else self._settling.transfers.stalled
        if stalled:
            waiting.append(f"{counted(stalled, 'result')} of ended tasks: the coordinator has no room")
        return waiting

    def _child_with(self, chunk: Chunk) -> Child | None:
        return next((child for child in self._children if chunk in child.chunks), None)
