"""The slots of a worker as processes: they are started, watched, replaced after their end, and closed.

Worker, below the supervisor, in its loop. Slots are forked from the worker's fork server if it has one, else started.
An ended slot's leases are settled (`settling`) when its process is seen to have ended, not before.

The list of slots is changed under the supervisor's lock, by the loop's thread alone: that thread may read it without.
Processes are started without the lock, for that may take long on a busy machine.
"""

from __future__ import annotations

import logging
import selectors
import sys
import threading
import time
from collections.abc import Sequence

from dtq.worker.child import Child
from dtq.worker.extras import Extras
from dtq.worker.fork_restarts import ForkRestarts
from dtq.worker.latelog import LateLog
from dtq.worker.lifecycle import Lifecycle
from dtq.worker.output import Output
from dtq.worker.output_listener import OutputListener
from dtq.worker.preparing import Preparing
from dtq.worker.respawns import Respawns
from dtq.worker.settling import Settling
from dtq.worker.slot_exit import KillReason
from dtq.worker.slot_messages import SlotMessages
from dtq.worker.terms import WorkerTerms
from dtq.worker.tracker import Tracker

log = logging.getLogger("dtq.worker")


class SlotPool:
    """Starts and ends slots.

    Args:
        children: the slots, an empty list, which is changed here alone.
        terms: settings.
        lock: the supervisor's.
        selector: the loop's.
        forks: the fork server of the slots.
        lifecycle: whether slots are to be started.
        respawns: the planned starts.
        extras: the further slots.
        preparing: the functions that slots import in advance.
        settling: settles the leases of ended slots.
        messages: handles what slots say.
        late: takes lines to be logged once the lock is free.
    """

    def __init__(
        self,
        children: list[Child],
        terms: WorkerTerms,
        lock: threading.Lock,
        selector: selectors.BaseSelector,
        forks: ForkRestarts,
        *,
        lifecycle: Lifecycle,
        respawns: Respawns,
        extras: Extras,
        preparing: Preparing,
        settling: Settling,
        messages: SlotMessages,
        late: LateLog,
    ) -> None:
        self._children = children
        self._terms = terms
        self._lock = lock
        self._selector = selector
        self._forks = forks
        self._lifecycle = lifecycle
        self._respawns = respawns
        self._extras = extras
        self._preparing = preparing
        self._settling = settling
        self._messages = messages
        self._late = late
        self._outputs = OutputListener(selector)
        #: Output of ended slots, to be logged.
        self._printed: list[Output] = []
        self._tracker: Tracker | None = None
        if terms.slot.inherited.tracker < 0:
            self._tracker = Tracker()
            selector.register(self._tracker, selectors.EVENT_READ, self._tracker)

    # -- starts ---------------------------------------------------------------------------------------------------

    def begin(self, early: Sequence[Child]) -> None:
        """Plan the start of every slot; adopt those that were started before their settings were known."""
        for child in early:
            child.greet(self._terms.slot)
            self._take_in(child)
        for number in {*range(1, self._terms.slots + 1)} - {child.number for child in early}:
            self._respawns.plan(number, time.monotonic())

    def due(self, now: float, *, work_waits: bool) -> list[int]:
        """The numbers of slots to be started now, further slots for waiting tasks among them; unneeded ones are
        removed. Under the lock.

        Args:
            now: ``time.monotonic()``.
            work_waits: whether leases wait: then one of several tasks that all wait for others is ended.
        """
        if self._lifecycle.draining or self._lifecycle.fatal is not None or self._forks.starting:
            return []
        due = self._respawns.due(now)
        due += self._extras.missing(self._children, [*self._respawns.planned(), *due], now)
        for child in self._extras.surplus(self._children, now):
            self.retire(child)
        latest = self._extras.latest(self._children) if work_waits else None
        running = None if latest is None else latest.running()
        if latest is not None and running is not None:
            latest.condemn(KillReason(running[0].token, running[1], timed_out=False, waiting=True))
        return due

    def moments(self, now: float) -> list[float]:
        """The moments of the next starts and removals."""
        moments = [] if self._forks.starting else self._respawns.moments()
        return moments + [at for at in self._extras.moments(self._children) if at > now]

    def spawn(self, number: int) -> None:
        """Start a slot; not under the lock, for it may take long on a busy machine."""
        try:
            tracker = None if self._tracker is None else self._tracker.writing_end
            child = Child(number, self._terms.slot, tracker, self._forks.current)
        except OSError as error:
            log.error("slot %d cannot be started: %s", number, error)
            with self._lock:
                self._not_born(number)
            return
        self._take_in(child)

    def _take_in(self, child: Child) -> None:
        self._selector.register(child.channel, selectors.EVENT_READ, child)
        if isinstance(child.output, Output):
            self._outputs.add(child.output)
        with self._lock:
            self._children.append(child)
            if self._lifecycle.ending:
                child.kill()

    def start_tracker(self, tracker: Tracker) -> None:
        """Start the process that removes shared memory which tasks leave behind: one of them has used it first."""
        self._selector.unregister(tracker)
        try:
            tracker.start()
        except OSError as error:
            log.error("shared memory that tasks leave behind will not be removed: no process for that (%s)", error)

    # -- pipes and output -----------------------------------------------------------------------------------------

    @property
    def outputs_at(self) -> float | None:
        """When outputs are to be listened to again, ``time.monotonic()``; None for no such moment."""
        return self._outputs.next_at

    def listen_to_outputs(self) -> None:
        """Listen again to the outputs whose pause is over."""
        self._outputs.go_on()

    def take_output(self, output: Output) -> None:
        """Take some of a slot's output, and log it."""
        self._outputs.took(output, output.take())
        output.write()

    def watch_for_room(self) -> None:
        """Wake the loop when a pipe takes more, if bytes are left for it. Under the lock."""
        for child in self._children:
            wanted = child.channel.unsent
            if wanted is not child.watched_for_room and not child.retired:
                child.watched_for_room = wanted
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
                self._selector.modify(child.channel, events, child)

    def write_logs(self) -> None:
        """Write the waiting log lines; the reader of the log may take its time."""
        self._late.write()
        for child in self._children:  # only this thread changes them
            child.output.write()
        while self._printed:
            self._printed.pop().write()

    # -- ends -----------------------------------------------------------------------------------------------------

    def retire(self, child: Child) -> None:
        """Replace an idle slot. Under the lock."""
        self._selector.unregister(child.channel)
        child.retire()

    def end_all(self) -> None:
        """Kill every slot. Under the lock."""
        for child in self._children:
            child.condemn(KillReason(0, 0, timed_out=False))

    def reap(self, now: float) -> None:
        """Settle the leases of slots that have ended, and plan their restarts. Under the lock.

        Args:
            now: ``time.monotonic()``.
        """
        for child in [child for child in self._children if child.exited()]:
            if not child.retired:
                gathered = child.channel.gather(sys.maxsize)  # its last messages
                child.output.drain()
                self._messages.take(child, gathered.messages, gathered.breach, now)
            if not child.retired:
                self._selector.unregister(child.channel)
            self._children.remove(child)
            if isinstance(child.output, Output):
                self._outputs.remove(child.output)
                self._printed.append(child.output)
            if child.preparing and not child.leaving:
                self._preparing.give_up(child.preparing)
            remains = child.collect()
            self._settling.bury(child, remains, len(self._children) + 1, now)
            child.let_go()
            self._plan_respawn(child)
        if self._forks.current is not None:
            tracker = None if self._tracker is None else self._tracker.pid
            known = {child.pid for child in self._children}
            self._forks.reap_strangers(known if tracker is None else {*known, tracker})

    def _plan_respawn(self, child: Child) -> None:
        if self._lifecycle.draining:
            return
        if not child.ready:
            self._not_born(child.number, child.uninitialized)
            return
        if not self._extras.is_extra(child):
            self._respawns.plan(child.number, time.monotonic())
        if child.kill_reason is None and child.preparing and not child.leaving:
            text = "slot %d (pid %d) died while it imported %s, for which no task had come yet; it is replaced"
            self._late(logging.WARNING, text, child.number, child.pid, child.preparing)
        elif child.kill_reason is None and not (child.retired and not child.broken) and not child.leaving:
            self._late(logging.WARNING, "slot %d (pid %d) died; it is replaced", child.number, child.pid)

    def _not_born(self, number: int, why: str = "") -> None:
        """Handle a slot that was never ready for work: try again later; unless the reason is known to pass, give up if
        no other slot is ready.
        """
        self._respawns.plan(number, time.monotonic(), stillborn=True, why=why)
        if not any(child.sound for child in self._children):
            self._lifecycle.fatal = self._lifecycle.fatal or self._respawns.verdict()

    def kill(self) -> None:
        """End every slot, with no regard to its leases; the last lines are logged. Nothing is started any more."""
        with self._lock:
            children = list(self._children)
            self._children.clear()
            for child in children:
                child.kill()
        for child in children:
            child.collect()
            child.let_go()
            child.output.write()
        self.write_logs()

    def close(self) -> None:
        """Close what slots had in common, after their end."""
        self._forks.close()
        if self._tracker is not None:
            self._tracker.close()
