"""Dispatch: which slot gets which lease, and which functions idle slots import in advance.

Worker, below the supervisor; everything here under its lock.

Rules:

1. A lease goes to an idle slot, or behind a running task that is about to end. Leases wait here in their order.
2. A lease that comes behind another one goes to the slot that was sent that one, or back.
3. Of several idle slots one is preferred that last had the same units of resources, or the same code, for its process
   may have opened or imported them; then one that had none.
4. A lease that waits too long goes back, with those behind it, which would overtake it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from dtq.model.resources import Portion
from dtq.values.place import Place
from dtq.worker.child import DYING_S, MAX_AHEAD_BYTES, Child
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.extras import Extras
from dtq.worker.latelog import LateLog
from dtq.worker.preparing import Preparing
from dtq.worker.settling import Settling
from dtq.worker.slot_exit import KillReason
from dtq.worker.slotcode import code_of
from dtq.worker.takenback import TakenBack
from dtq.worker.task_log import TaskLog

#: Longest wait of work behind a running task before it is taken back, in seconds.
STUCK_S: Final = 0.05
#: Most leases of a slot, the running one among them: as many as the coordinator grants of tiny ones. Of leases of many
#: tasks it grants at most two.
MOST_LEASES: Final = 96


class Dispatch:
    """Sends leases to slots.

    Args:
        children: the slots.
        holdings: the worker's leases.
        settling: returns tasks to the coordinator.
        taken_back: tasks that went back because they would have had to wait.
        extras: tells which slots are free.
        preparing: the functions to import in advance.
        place: the slots' place of values; None for none.
        late: takes lines to be logged once the lock is free.
        tasks: logs begins of tasks.
    """

    def __init__(
        self,
        children: Sequence[Child],
        holdings: Holdings,
        settling: Settling,
        taken_back: TakenBack,
        extras: Extras,
        preparing: Preparing,
        *,
        place: Place | None,
        late: LateLog,
        tasks: TaskLog,
    ) -> None:
        #: Leases that were not sent to a slot yet, in their order.
        self.waiting: deque[Chunk] = deque()
        #: The slots' place of values; None for none.
        self.place = place
        self._children = children
        self._holdings = holdings
        self._settling = settling
        self._taken_back = taken_back
        self._extras = extras
        self._preparing = preparing
        self._late = late
        self._tasks = tasks
        #: Whether leases of several kinds of code come, see `slotcode`.
        self._several_codes = False

    @property
    def next_at(self) -> float | None:
        """When the first lease has waited too long, ``time.monotonic()``; None if no lease waits."""
        return self.waiting[0].granted_at + STUCK_S if self.waiting else None

    def note_several_codes(self) -> None:
        """Note that leases of several kinds of code come: slots import nothing in advance any more."""
        self._preparing.stop()
        self._several_codes = True

    def queue(self, chunk: Chunk, now: float) -> None:
        """Have a lease sent to a slot: at once if it is behind one that was sent, else in its turn."""
        behind = chunk.grant.behind
        if behind and not any(waiting.token == behind for waiting in reversed(self.waiting)):
            self._follow(chunk, now)
        else:
            self.waiting.append(chunk)

    def _follow(self, chunk: Chunk, now: float) -> None:
        """Send a lease to the slot that was sent the lease before it; without such a slot it goes back."""
        child = next((child for child in self._children if child.was_sent(chunk.grant.behind)), None)
        if child is None or not child.usable or child.worn_out() or not self._send(child, chunk, now):
            self._settling.release(chunk, chunk.next, chunk.end)

    def assign(self, now: float) -> None:
        """Send waiting leases to slots that are idle, or about to be."""
        while self.waiting:
            chunk = self.waiting[0]
            if chunk.grant.behind:
                self.waiting.popleft()
                self._follow(chunk, now)
                continue
            name, slots = chunk.spec.function.name, chunk.slots
            child = self._extras.free(self._children, name, slots) or self._nearly_idle(chunk, now)
            if child is None:
                return
            if chunk.grant.units:
                child = self._suited(chunk.grant.units, child)
            elif self._several_codes:
                child = self._of_code(code_of(chunk.spec.function), child)
            self.waiting.popleft()
            if not self._send(child, chunk, now):
                self.waiting.appendleft(chunk)

    def _send(self, child: Child, chunk: Chunk, now: float) -> bool:
        """Send a slot a lease; whether it takes it."""
        self._preparing.note(chunk.spec.function)
        chunk.careful = bool(self._holdings.careful.get(chunk.spec.function.name))
        try:
            if child.place is not self.place:
                child.move(self.place)
            child.send(chunk, chunk.spec, now)
            self._tasks.began(chunk, child.number)
        except OSError as error:  # it died by itself, and its running task, if any, is to blame
            self._late(logging.WARNING, "slot %d does not take work (%s); it is replaced", child.number, error)
            child.broken = True
            child.leave_within(DYING_S)
            return False
        return True

    def _suited(self, units: tuple[Portion, ...], child: Child) -> Child:
        """The idle slot that last had the same units, which its process may have opened; else one that had none."""
        idle = [other for other in self._children if other.idle and not other.worn_out()]
        suited = next((other for wanted in (units, ()) for other in idle if other.units == wanted), child)
        suited.units = units
        return suited

    def _of_code(self, code: bytes | None, child: Child) -> Child:
        """The idle slot that last had the same code, which its process has imported; else one that had none."""
        if code is None:
            return child
        idle = [other for other in self._children if other.idle and not other.worn_out()] if child.idle else []
        suited = next((other for wanted in (code, None) for other in idle if other.code == wanted), child)
        suited.code = code
        return suited

    def _nearly_idle(self, chunk: Chunk, now: float) -> Child | None:
        if chunk.grant.units is not None or len(chunk.grant.arguments) > MAX_AHEAD_BYTES:
            return None
        found, least = None, MOST_LEASES
        for child in self._children:
            if child.usable and 0 < len(child.chunks) < least and child.waiting_since is None:
                brief = len(child.chunks) * len(chunk.grant.arguments) <= MAX_AHEAD_BYTES
                if brief and child.is_brisk(now, STUCK_S) and not child.worn_out():
                    found, least = child, len(child.chunks)
        return found

    # -- back to the queue ----------------------------------------------------------------------------------------

    def put_back(self, chunk: Chunk, lo: int) -> None:
        """Return a lease's unstarted tasks, from a task on, because they would have to wait."""
        self._taken_back.note(chunk.grant, lo)
        self._settling.release(chunk, lo, chunk.end)

    def put_back_stuck(self, now: float) -> None:
        """Return the leases that have waited too long by now, ``time.monotonic()``."""
        while self.waiting and now - self.waiting[0].granted_at > STUCK_S:
            chunk = self.waiting[0]
            if self._extras.free(self._children, chunk.spec.function.name, chunk.slots) is not None:
                break
            self._stop_preparing()
            while self.waiting:  # with those behind it, which would overtake it
                chunk = self.waiting.popleft()
                self.put_back(chunk, chunk.next)

    # -- advance imports ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Have idle slots import new functions in advance, each slot one at a time."""
        if self.waiting:
            return
        for child in self._children:
            while child.idle and not child.worn_out() and child.prepared < self._preparing.latest:
                number, function = self._preparing.after(child.prepared) or (self._preparing.latest, None)
                if function is None:
                    child.prepared = number
                    break
                try:
                    child.prepare(number, function)
                except OSError:  # as in `_send`
                    child.preparing = ""
                    child.broken = True
                    child.leave_within(DYING_S)

    def _stop_preparing(self) -> None:
        """End a slot that only imports in advance, because a lease for it waits."""
        for child in self._children:
            if child.preparing and not child.chunks and child.usable:
                child.condemn(KillReason(0, 0, timed_out=False))
                return
