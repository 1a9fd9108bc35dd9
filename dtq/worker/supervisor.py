"""The supervisor: owns a worker's slots and leases; runs no user code.

One loop, in the main thread, waits for messages of slots and for deadlines (time limits, stuck work); it starts and
ends the slots' processes. Two threads of `worker.link` talk to the coordinator: one fetches leases, one reports. They
meet under one lock, held for moments only.

This module has the loop, and composes the parts, each of which has one subject: `lifecycle` (work, drain, stop),
`leases`, `dispatch` (leases to slots) and `recalls` (back from slots), `slot_pool` (processes), `slot_messages`,
`limits`, `settling` (outcomes) and `exchanges` (messages for the coordinator).

Rules:

1. A slot gets a lease when it is idle, or when its running task is about to end. Work that waits behind a task that
   turns out long is taken back and returned to the queue within `dispatch.STUCK_S`.
2. A slot is free when its process is idle or dead. Time limits and cancels kill the slot's process group; the outcome
   is reported when the process is seen to have ended.
3. Of a dead slot's tasks only the one that had started is blamed; finished but unsent results are taken from the memory
   that the slot leaves, and unstarted tasks go back unblamed.
4. A slot's message is a stranger's word. A slot that breaks the protocol is killed, and its running task is blamed.
5. No thread waits under the lock: messages that a slot has not read are kept, slow work is done without the lock, and
   log lines are written afterwards.
6. A report is kept until the coordinator has it on disk; so a coordinator may restart at any time.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtq.errors import DtqError
from dtq.model.messages import Exchange, WorkerOrder
from dtq.values.place import Place
from dtq.worker.calls import Calls
from dtq.worker.child import Child
from dtq.worker.chunks import Holdings
from dtq.worker.dispatch import Dispatch
from dtq.worker.exchanges import Exchanges
from dtq.worker.extras import Extras
from dtq.worker.fork_restarts import ForkRestarts
from dtq.worker.forking import ForkServer
from dtq.worker.latelog import LateLog
from dtq.worker.leases import Leases
from dtq.worker.lifecycle import Lifecycle
from dtq.worker.limits import SlotLimits
from dtq.worker.live_output import LiveOutput
from dtq.worker.output import Output
from dtq.worker.preparing import Preparing
from dtq.worker.recalls import Recalls
from dtq.worker.respawns import Respawns
from dtq.worker.settling import Settling
from dtq.worker.slot_messages import SlotMessages
from dtq.worker.slot_pool import SlotPool
from dtq.worker.takenback import TakenBack
from dtq.worker.task_log import TaskLog
from dtq.worker.terms import WorkerTerms
from dtq.worker.tracker import Tracker
from dtq.worker.wakeup import Wakeup

if TYPE_CHECKING:
    from dtq.worker.transfers import Transfers

log = logging.getLogger("dtq.worker")


class Supervisor:
    """Runs leases in slots.

    Args:
        terms: settings.
        forks: the fork server of the slots, if any; the supervisor owns it.
        early: slots that were started before the settings were known; the supervisor owns them once it runs.
    """

    def __init__(self, terms: WorkerTerms, forks: ForkServer | None = None, early: Sequence[Child] = ()) -> None:
        self.terms = terms
        self._early = early
        self.lock = threading.Lock()
        #: Notified of new outcomes, and of changes of the worker's state.
        self.news = threading.Condition(self.lock)
        #: Notified likewise, but of results of unfinished leases.
        self.pressing = threading.Condition(self.lock)
        self.lifecycle = Lifecycle()
        self.holdings = Holdings()
        self.calls = Calls()
        #: Output that somebody follows.
        self.live = LiveOutput()
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
        #: The latest moment of the loop's next round, ``time.monotonic()``; None for no deadline.
        self._due_at: float | None = None
        self._late = LateLog(log)
        self._extras = Extras(terms.slots, terms.max_waiting)
        self._preparing = Preparing(terms.slot.only_registered)
        self._forks = ForkRestarts(terms.slot, forks, self._selector)
        respawns = Respawns(terms.slot.worker, self._late)
        taken_back = TakenBack()
        tasks = TaskLog(self._late, verbose=terms.verbose)
        self._settling = Settling(self.holdings, self.news.notify_all, self.announce, self._late, tasks)
        #: Tells whether slots are killed for lack of memory.
        self.shortage = self._settling.shortage
        recalls = Recalls(self._settling, taken_back, self.wake)
        self._dispatch = Dispatch(
            self._children,
            self.holdings,
            self._settling,
            taken_back,
            self._extras,
            self._preparing,
            place=terms.slot.place,
            late=self._late,
            tasks=tasks,
        )
        #: Takes the leases that the coordinator grants, and its cancellations. Under the lock.
        self.leases = Leases(
            self._children,
            self.holdings,
            self.lifecycle,
            self._settling,
            taken_back,
            self._dispatch,
            recalls,
            late=self._late,
            wake=self.wake,
        )
        #: Composes messages for the coordinator. Under the lock.
        self.exchanges = Exchanges(self._children, self.holdings, self.lifecycle, self.calls, self.live, taken_back)
        self._messages = SlotMessages(
            self._settling,
            self._dispatch,
            self._preparing,
            respawns,
            self._forks,
            self.lifecycle,
            init=terms.slot.init,
            selector=self._selector,
            late=self._late,
            announce=self.announce,
        )
        self._pool = SlotPool(
            self._children,
            terms,
            self.lock,
            self._selector,
            self._forks,
            lifecycle=self.lifecycle,
            respawns=respawns,
            extras=self._extras,
            preparing=self._preparing,
            settling=self._settling,
            messages=self._messages,
            late=self._late,
        )
        self._limits = SlotLimits(self._children, self._pool, self._messages, recalls, self.lifecycle, self._late)

    # -- called from signal handlers and the link's threads ---------------------------------------------------------

    def wake(self) -> None:
        """Wake the loop."""
        self._wakeup.ring()

    def announce(self) -> None:
        """Wake the threads that wait for news. Under the lock."""
        self.news.notify_all()
        self.pressing.notify_all()

    @property
    def capacity(self) -> int:
        """Number of leases that the worker can hold: one for each slot that can run tasks, and those that wait only for
        room at the coordinator: they keep no slot from running others. 0 while it takes none. Under the lock.
        """
        if not self.lifecycle.takes:
            return 0
        capacity = self._extras.capacity(self._children)
        return capacity + self.transfers.stalled if capacity and self.transfers is not None else capacity

    def exchange(
        self, *, fetch: bool, wait_s: float = 0.0, room: int = 0, largest: int = 0, quiet: bool = False
    ) -> Exchange:
        """Make the next message for the coordinator. Under the lock; a report takes the waiting outcomes.

        Args:
            fetch: whether it is a fetching call, which reports nothing.
            wait_s: how long that may wait, in seconds.
            room: bytes of outcomes in a report; at least one outcome.
            largest: most bytes of one outcome, if it can be made smaller.
            quiet: whether it has no progress, and asks for nothing.
        """
        if fetch:
            return self.exchanges.fetch(self.capacity, wait_s)
        return self.exchanges.report(self.capacity, room, largest, quiet=quiet)

    @property
    def transfers(self) -> Transfers | None:
        """Brings arguments and results that are values here and back; None if slots access them."""
        return self._settling.transfers

    def move(self, place: Place | None, transfers: Transfers | None = None) -> None:
        """Set another place of values from now on. Any thread.

        Args:
            place: the slots' place of values; None for none.
            transfers: brings them there and back; None if slots access those of the coordinator.
        """
        with self.lock:
            self._settling.transfers = transfers
            if place != self._dispatch.place:
                self._dispatch.place = place

    def drain(self) -> None:
        """Drain: take no more work, return unstarted tasks, end when the running ones have ended. Any thread."""
        with self.lock:
            if not self.lifecycle.drain(time.monotonic(), self.terms.grace_s):
                return
            self.leases.give_back_unstarted()
            self.announce()
        self.wake()

    def follow(self, order: WorkerOrder) -> None:
        """Follow an operator's order. Any thread."""
        if order is WorkerOrder.STOP:
            self.end()
        elif order is WorkerOrder.DRAIN:
            self.drain()
        else:
            with self.lock:
                self.lifecycle.paused = order is WorkerOrder.STAY
                if self.lifecycle.paused:
                    self.leases.give_back_unstarted()
                self.announce()
            self.wake()

    def leave(self, error: DtqError) -> None:
        """Drain, and then end with this error. Any thread."""
        self.lifecycle.parting = error
        self.drain()

    def end(self) -> None:
        """Kill running tasks and return everything. Any thread."""
        with self.lock:
            self.lifecycle.stop()
            self.leases.give_back_waiting()
            self._pool.end_all()
            self.announce()
        self.wake()

    def hindrances(self) -> list[str]:
        """Reasons why a drain may take long although no task runs: results without room, a sentence each. Any
        thread.
        """
        with self.lock:
            return self.leases.hindrances()

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run slots until drained or ended; its thread does nothing else. Slots end with that thread.

        Raises:
            DtqError: the worker cannot go on: a wrong key, or a missing module.
        """
        with self._wakeup.by_signals():
            try:
                self._forks.listen()
                self._pool.begin(self._early)
                self._look_around()
                while not self._done():
                    self._turn()
            finally:
                self._close()
        if (error := self.lifecycle.error) is not None:
            raise error

    def _done(self) -> bool:
        """Whether the worker ends: at once, or as no lease is held any more, and every outcome is acknowledged."""
        with self.lock:
            return self.lifecycle.fatal is not None or (self.lifecycle.draining and not self.holdings.chunks)

    def _turn(self) -> None:
        """Wait for an event, and handle it. If the events are only results of slots that have nothing left to do, other
        threads get this thread's lock first: nothing else is due then.
        """
        moments = [at for at in (self._due_at, self._pool.outputs_at) if at is not None]
        ready = self._selector.select(max(0.0, min(moments) - time.monotonic()) if moments else None)
        self._pool.listen_to_outputs()
        unsettled = False
        for key, events in ready:
            if key.data is None:
                self._wakeup.clear()
                unsettled = True
            elif isinstance(key.data, Output):
                self._take_output(key.data)
            elif isinstance(key.data, Tracker):
                self._pool.start_tracker(key.data)
            elif isinstance(key.data, ForkServer):
                self._hear_forks(key.data)
                unsettled = True
            else:
                unsettled = not self._hear(key.data, events) or unsettled
        if unsettled or (self._due_at is not None and time.monotonic() >= self._due_at):
            self._look_around()

    def _take_output(self, output: Output) -> None:
        """Take some of a slot's output, and log it."""
        self._pool.take_output(output)
        if self.live:
            with self.lock:
                self._note_printed()

    def _note_printed(self) -> None:
        """Note that output was read; somebody may follow it. Under the lock."""
        if self.live.printed():
            self.news.notify_all()

    def _hear_forks(self, forks: ForkServer) -> None:
        """Handle the fork server's message, or its end."""
        report = self._forks.hear(forks)
        if report is not None:
            with self.lock:
                self._messages.on_unusable("the fork server", report)

    def _hear(self, child: Child, events: int) -> bool:
        """Handle a slot's messages; whether they were results only, and the slot has nothing left to do."""
        gathered = child.channel.gather()
        if gathered.messages:  # what a task has printed was written before its result
            child.output.drain()
        with self.lock:
            now = time.monotonic()
            if events & selectors.EVENT_WRITE:
                child.pump()
            noticed = self._messages.take(child, gathered.messages, gathered.breach, now)
            if self.live:
                self._note_printed()
            if gathered.closed:
                self._messages.on_closed(child)
            self._dispatch.assign(now)
            settled = child.idle and not child.worn_out() and not self._late.waits
            settled = settled and child.prepared == self._preparing.latest
        if child.output.waits:
            child.output.write()
        return settled and not noticed and not events & selectors.EVENT_WRITE

    def _look_around(self) -> None:
        """Handle everything that may be due, and plan the next round."""
        with self.lock:
            now = time.monotonic()
            self._pool.reap(now)
            if self.lifecycle.ending and not self._children and self.holdings.waiting:
                self.holdings.give_up()
                self.announce()
            self._dispatch.put_back_stuck(now)
            self._limits.enforce(now)
            if self.lifecycle.grace_is_over(now):
                self._pool.end_all()
            due = self._pool.due(now, work_waits=bool(self._dispatch.waiting))
            self._dispatch.assign(now)
            if self.lifecycle.takes:
                self._dispatch.prepare()
        self._forks.renew()
        for number in due:
            self._pool.spawn(number)
        self._pool.write_logs()
        with self.lock:
            wait_s = self._until_next(now := time.monotonic())
            self._due_at = None if wait_s is None else now + wait_s
            self._pool.watch_for_room()

    def _until_next(self, now: float) -> float | None:
        """Seconds to the next moment at which something is due; None for no such moment."""
        moments = self._pool.moments(now) + self._limits.moments(now)
        moments += [at for at in (self.lifecycle.drain_until, self._dispatch.next_at) if at is not None]
        if self._wakeup.look_s is not None:
            moments.append(now + self._wakeup.look_s)
        return max(0.0, min(moments) - now) if moments else None

    def _close(self) -> None:
        self._pool.kill()
        self.holdings.segments.close()
        self._pool.close()
        self._selector.close()
        self._wakeup.close()
