"""The supervisor: owns a worker's slots and leases; runs no user code.

One loop, in the main thread, waits for messages of slots and for deadlines (time limits, stuck work); it starts and
ends the slots' processes. Two threads of `worker.link` talk to the coordinator: one fetches leases, one reports. They
meet under one lock, held for moments only.

Rules:

1. A slot gets a lease when it is idle, or when its running task is about to end. Work that waits behind a task that
   turns out long is taken back and returned to the queue within `STUCK_S`.
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
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from dtq.errors import BadMessage, CannotImport, DtqError, InitializerFailed
from dtq.model.dashboard import SlotUse
from dtq.model.messages import Cancellation, Exchange, Failed, Grant, Released, Succeeded, WorkerOrder
from dtq.model.options import Spec
from dtq.model.resources import Portion
from dtq.values.place import Place
from dtq.wording import counted
from dtq.worker import reports
from dtq.worker.calls import Calls
from dtq.worker.child import DYING_S, LEAVING_S, MAX_AHEAD_BYTES, Child
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.extras import Extras
from dtq.worker.forking import ForkServer, reap_strangers
from dtq.worker.latelog import LateLog
from dtq.worker.live_output import LiveOutput
from dtq.worker.output import Output
from dtq.worker.output_listener import OutputListener
from dtq.worker.preparing import Preparing
from dtq.worker.reports import Leaving, Misplaced, Prepared, Ready, Stale, Uninitialized, Unusable, Waiting
from dtq.worker.respawns import Respawns
from dtq.worker.settling import Settling
from dtq.worker.slot_exit import KillReason
from dtq.worker.slotcode import code_of
from dtq.worker.takenback import TakenBack
from dtq.worker.task_log import TaskLog
from dtq.worker.terms import WorkerTerms
from dtq.worker.tracker import Tracker
from dtq.worker.wakeup import Wakeup

if TYPE_CHECKING:
    from dtq.worker.transfers import Transfers

log = logging.getLogger("dtq.worker")

#: Longest wait of work behind a running task before it is taken back, in seconds.
STUCK_S: Final = 0.05
#: Most leases of a slot, the running one among them: as many as the coordinator grants of tiny ones. Of leases of many
#: tasks it grants at most two.
MOST_LEASES: Final = 96
#: Times in a row that a fork server may die before it is ready, until slots go without.
MOST_STILLBORN_FORKS: Final = 3


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
        self._forks = forks
        #: Times in a row that a fork server has died before it was ready.
        self._stillborn_forks = 0
        self.lock = threading.Lock()
        #: Notified of new outcomes, and of changes of the worker's state.
        self.news = threading.Condition(self.lock)
        #: Notified likewise, but of results of unfinished leases.
        self.pressing = threading.Condition(self.lock)
        self.holdings = Holdings()
        self.calls = Calls()
        #: Output that somebody follows.
        self.live = LiveOutput()
        self.draining = False
        #: Whether it takes no work until it is told to.
        self.paused = False
        #: Whether everything must stop now.
        self.ending = False
        #: The error with which the worker ends at once; and the error with which it ends after a drain.
        self.fatal: DtqError | None = None
        #: Why slots do not start at the moment; empty if they do.
        self.trouble = ""
        #: The slots' place of values; None for none.
        self.place = terms.slot.place
        self.parting: DtqError | None = None
        self._children: list[Child] = []
        self._waiting: deque[Chunk] = deque()
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
        self._tracker: Tracker | None = None
        if terms.slot.inherited.tracker < 0:
            self._tracker = Tracker()
            self._selector.register(self._tracker, selectors.EVENT_READ, self._tracker)
        self._drain_until: float | None = None
        #: The latest moment of the loop's next round, ``time.monotonic()``; None for no deadline.
        self._due_at: float | None = None
        self._late = LateLog(log)
        self._respawns = Respawns(terms.slot.worker, self._late)
        self._extras = Extras(terms.slots, terms.max_waiting)
        self._preparing = Preparing(terms.slot.only_registered)
        #: Whether leases of several kinds of code come, see `slotcode`.
        self._several_codes = False
        #: Tasks that went back because they would have had to wait.
        self._taken_back = TakenBack()
        #: Whether the fork server may have imported code that has changed since.
        self._outdated = False
        self._tasks = TaskLog(self._late, verbose=terms.verbose)
        self._settling = Settling(self.holdings, self.news.notify_all, self.announce, self._late, self._tasks)
        #: Tells whether slots are killed for lack of memory.
        self.shortage = self._settling.shortage
        self._outputs = OutputListener(self._selector)
        #: Output of ended slots, to be logged.
        self._printed: list[Output] = []

    # -- called from signal handlers and the link's threads ---------------------------------------------------------

    def wake(self) -> None:
        """Wake the loop."""
        self._wakeup.ring()

    @property
    def capacity(self) -> int:
        """Number of leases that the worker can hold: one for each slot that can run tasks, and those that wait only for
        room at the coordinator: they keep no slot from running others. 0 while it takes none. Under the lock.
        """
        if not self._takes:
            return 0
        capacity = self._extras.capacity(self._children)
        return capacity + self.transfers.stalled if capacity and self.transfers is not None else capacity

    @property
    def _takes(self) -> bool:
        """Whether the worker takes work. Under the lock."""
        return not (self.draining or self.paused or self.ending)

    @property
    def follows(self) -> WorkerOrder:
        """The order that the worker follows, of a signal or an operator. Under the lock."""
        if self.ending:
            return WorkerOrder.STOP
        return WorkerOrder.DRAIN if self.draining else WorkerOrder.STAY if self.paused else WorkerOrder.WORK

    @property
    def listens(self) -> bool:
        """Whether the worker waits at the coordinator, for work or for orders. Under the lock."""
        return (self.paused or self.draining) and not self.ending

    @property
    def saturated(self) -> bool:
        """Whether every slot that can run tasks does, and more leases are at hand. Under the lock."""
        ready = [child for child in self._children if child.ready]
        return bool(ready) and all(child.chunks for child in ready)

    def announce(self) -> None:
        """Wake the threads that wait for news. Under the lock."""
        self.news.notify_all()
        self.pressing.notify_all()

    def _brisk(self, now: float) -> bool:
        """Whether all slots are busy with tasks that are about to end, so that the worker will want more soon. Work
        given to a worker behind a long task only comes back. Under the lock.
        """
        if not (self._takes and self.saturated):
            return False
        return all(now - running[2] < STUCK_S for child in self._children if (running := child.running()) is not None)

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
        started: dict[int, int] = {}
        for child in self._children:
            running = child.running()
            if running is not None:
                started[running[0].token] = running[1]
        holding = self.holdings.say(started)
        call, beside = self.calls.begin(fetch=fetch)
        if fetch:
            return Exchange(
                holding=holding,
                capacity=self.capacity,
                fetch=True,
                wait_s=wait_s,
                call=call,
                beside=beside,
                trouble=self.trouble,
                follows=self.follows,
            )
        said = self.holdings.take(room, largest)
        released = tuple([outcome for outcome in said if isinstance(outcome, Released)])
        more = not (quiet or released or self.holdings.burdened) and self._brisk(time.monotonic())
        return Exchange(
            succeeded=tuple([outcome for outcome in said if isinstance(outcome, Succeeded)]),
            failed=tuple([outcome for outcome in said if isinstance(outcome, Failed)]),
            released=released,
            holding=holding,
            progress=() if quiet else self.holdings.take_progress(),
            printed=() if quiet or not self.live else self.live.take(self._children, self.holdings.chunks),
            capacity=self.capacity,
            more=more,
            call=call,
            beside=beside,
            trouble=self.trouble,
            follows=self.follows,
        )

    def slots_in_use(self) -> list[tuple[int, SlotUse]]:
        """Each slot's process, 0 if it is unknown, and what the slot runs. Under the lock."""
        now = time.monotonic()
        found = []
        for child in self._children:
            use = SlotUse(number=child.number)
            running = child.running()
            if running is not None:
                chunk, index, at = running
                use = SlotUse(number=child.number, token=chunk.token, index=index, seconds=max(0.0, now - at))
            found.append((child.slot_pid, use))
        return found

    def farewell(self) -> Exchange:
        """Make the last message: no call is under way any more, and no lease is held. Under the lock."""
        self.calls.all_over()
        call, _ = self.calls.begin(fetch=True)
        return Exchange(fetch=True, call=call, follows=self.follows)

    def acknowledged(self) -> None:
        """Note that the report under way has arrived and is durable. Under the lock."""
        self.live.arrived()
        if self._taken_back and any([isinstance(outcome, Released) for outcome in self.holdings.reporting]):
            self._taken_back.clear()
        self.holdings.acknowledged()

    def granted(self, grants: list[tuple[Grant, Spec]]) -> None:
        """Take new leases. Under the lock."""
        now = time.monotonic()
        overtaking = self._taken_back.overtaking([grant for grant, _ in grants])
        for grant, spec in grants:
            chunk = Chunk(grant, spec, now)
            self.holdings.add(chunk)
            if not self._takes:
                self._settling.release(chunk, chunk.next, chunk.end)
            elif grant.token in overtaking:
                self._put_back(chunk, chunk.next)
            elif self.transfers is None or self.transfers.fetch(chunk):
                self._queue(chunk, now)
            for cancellation in self.holdings.cancellations.pop(chunk.token, ()):
                self.cancel(cancellation)
        self._assign(now)
        self.wake()

    def _queue(self, chunk: Chunk, now: float) -> None:
        """Have a lease sent to a slot: at once if it is behind one that was sent, else in its turn. Under the lock."""
        behind = chunk.grant.behind
        if behind and not any(waiting.token == behind for waiting in reversed(self._waiting)):
            self._follow(chunk, now)
        else:
            self._waiting.append(chunk)

    def _follow(self, chunk: Chunk, now: float) -> None:
        """Send a lease to the slot that was sent the lease before it; without such a slot it goes back."""
        child = next((child for child in self._children if child.was_sent(chunk.grant.behind)), None)
        if child is None or not child.usable or child.worn_out() or not self._send(child, chunk, now):
            self._settling.release(chunk, chunk.next, chunk.end)

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
            if place != self.place:
                self.place = place

    def fetched(self, token: int) -> None:
        """Note that a lease has all its arguments. Under the lock."""
        chunk = self.holdings.chunks.get(token)
        if chunk is None or chunk.ended:
            return
        if not self._takes:
            self._settling.release(chunk, chunk.next, chunk.end)
            return
        chunk.granted_at = time.monotonic()
        self._queue(chunk, chunk.granted_at)
        self._assign(chunk.granted_at)
        self.wake()

    def unfetched(self, token: int) -> None:
        """Note that the arguments of a lease have no room. Under the lock."""
        chunk = self.holdings.chunks.get(token)
        if chunk is not None:
            self._settling.release(chunk, chunk.next, chunk.end)

    def cancel(self, cancellation: Cancellation) -> None:
        """Stop a task. Under the lock."""
        chunk = self.holdings.chunks.get(cancellation.token)
        if chunk is None:
            self.holdings.note_cancellation(
                cancellation
            )  # its lease may be in the answer that is under way on the other connection
            return
        if not chunk.next <= cancellation.index < chunk.end:
            if self.transfers is not None:
                self.transfers.cancel(cancellation.token, cancellation.index)
            return
        child = self._child_with(chunk)
        if child is None:
            if chunk in self._waiting:  # else its arguments are on their way
                self._waiting.remove(chunk)
            self._settling.release(chunk, chunk.next, chunk.end)
            return
        self._stop(child, cancellation.token, cancellation.index)

    def _stop(self, child: Child, token: int, index: int) -> None:
        """Stop a task once it is known whether it is the running one; -1 for the lease's running task."""
        child.cancellations.append((token, index))
        self._recall(child)
        self.wake()

    def drop(self, token: int) -> None:
        """Stop a lease that is no longer this worker's, without reports. Under the lock."""
        chunk = self.holdings.chunks.get(token)
        if chunk is None or (chunk.ended and token not in self.holdings.waiting):
            return  # its outcomes are on their way, or have arrived: the next acknowledgement ends it
        text = "the lease of task %d.%d was taken back by the coordinator"
        self._late(logging.WARNING, text, chunk.grant.batch, chunk.next)
        child = self._child_with(chunk)
        if child is not None:
            self._stop(child, token, -1)
        elif chunk in self._waiting:
            self._waiting.remove(chunk)
        self.holdings.forget(token)
        self.wake()

    def drain(self) -> None:
        """Drain: take no more work, return unstarted tasks, end when the running ones have ended. Any thread."""
        with self.lock:
            if self.draining:
                return
            self.draining = True
            if self.terms.grace_s is not None:
                self._drain_until = time.monotonic() + self.terms.grace_s
            self._give_back_unstarted()
        self.wake()

    def follow(self, order: WorkerOrder) -> None:
        """Follow an operator's order. Any thread."""
        if order is WorkerOrder.STOP:
            self.end()
        elif order is WorkerOrder.DRAIN:
            self.drain()
        else:
            with self.lock:
                self.paused = order is WorkerOrder.STAY
                if self.paused:
                    self._give_back_unstarted()
                self.announce()
            self.wake()

    def _give_back_unstarted(self) -> None:
        self._give_back_waiting()
        for child in self._children:
            self._recall(child)
        self.announce()

    def leave(self, error: DtqError) -> None:
        """Drain, and then end with this error. Any thread."""
        self.parting = error
        self.drain()

    def end(self) -> None:
        """Kill running tasks and return everything. Any thread."""
        with self.lock:
            self.draining = self.ending = True
            self._give_back_waiting()
            for child in self._children:
                self._condemn(child, KillReason(0, 0, timed_out=False))
            self.announce()
        self.wake()

    def hindrances(self) -> list[str]:
        """Reasons why a drain may take long although no task runs: results without room, a sentence each. Any
        thread.
        """
        with self.lock:
            waiting = [
                f"the result of a task of {chunk.spec.function.name} in slot {child.number} waits for room:"
                f" {chunk.no_room[1]}"
                for child in self._children
                for chunk in child.chunks
                if chunk.no_room is not None and chunk.no_room[0] == chunk.next and not chunk.ended
            ]
            stalled = 0 if self.transfers is None else self.transfers.stalled
        if stalled:
            waiting.append(f"{counted(stalled, 'result')} of ended tasks: the coordinator has no room")
        return waiting

    @property
    def idle(self) -> bool:
        """Whether no lease is held any more, and every outcome is acknowledged. Under the lock."""
        return not self.holdings.chunks

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run slots until drained or ended; its thread does nothing else. Slots end with that thread.

        Raises:
            DtqError: the worker cannot go on: a wrong key, or a missing module.
        """
        with self._wakeup.by_signals():
            try:
                if self._forks is not None:
                    self._selector.register(self._forks, selectors.EVENT_READ, self._forks)
                for child in self._early:
                    self._adopt(child)
                for number in {*range(1, self.terms.slots + 1)} - {child.number for child in self._early}:
                    self._respawns.plan(number, time.monotonic())
                self._look_around()
                while not self._done():
                    self._turn()
            finally:
                self._close()
        if (error := self.fatal or self.parting) is not None:
            raise error

    def _done(self) -> bool:
        with self.lock:
            return self.fatal is not None or (self.draining and self.idle)

    def _turn(self) -> None:
        """Wait for an event, and handle it. If the events are only results of slots that have nothing left to do, other
        threads get this thread's lock first: nothing else is due then.
        """
        moments = [at for at in (self._due_at, self._outputs.next_at) if at is not None]
        ready = self._selector.select(max(0.0, min(moments) - time.monotonic()) if moments else None)
        self._outputs.go_on()
        unsettled = False
        for key, events in ready:
            if key.data is None:
                self._wakeup.clear()
                unsettled = True
            elif isinstance(key.data, Output):
                self._take_output(key.data)
            elif isinstance(key.data, Tracker):
                self._start_tracker(key.data)
            elif isinstance(key.data, ForkServer):
                self._hear_forks(key.data)
                unsettled = True
            else:
                unsettled = not self._hear(key.data, events) or unsettled
        if unsettled or (self._due_at is not None and time.monotonic() >= self._due_at):
            self._look_around()

    def _take_output(self, output: Output) -> None:
        """Take some of a slot's output, and log it."""
        self._outputs.took(output, output.take())
        output.write()
        if self.live:
            with self.lock:
                self._note_printed()

    def _note_printed(self) -> None:
        """Note that output was read; somebody may follow it. Under the lock."""
        if self.live.printed():
            self.news.notify_all()

    def _look_around(self) -> None:
        """Handle everything that may be due, and plan the next round."""
        with self.lock:
            now = time.monotonic()
            self._reap_slots(now)
            if self.ending and not self._children and self.holdings.waiting:
                self.holdings.give_up()
                self.announce()
            if self._forks is not None:
                reap_strangers({child.pid for child in self._children} | {self._forks.pid} | self._tracker_pids())
            self._enforce(now)
            due = self._to_be_started(now)
            self._assign(now)
            self._prepare()
        if self._outdated:  # it may have imported the changed code
            self._outdated = False
            self._replace_forks()
        for number in due:
            self._spawn(number)
        self._write_logs()
        with self.lock:
            wait_s = self._until_next(now := time.monotonic())
            self._due_at = None if wait_s is None else now + wait_s
            for child in self._children:
                self._watch_for_room(child)

    def _watch_for_room(self, child: Child) -> None:
        """Wake the loop when the pipe takes more, if bytes are left for it."""
        wanted = child.channel.unsent
        if wanted is not child.watched_for_room and not child.retired:
            child.watched_for_room = wanted
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self._selector.modify(child.channel, events, child)

    def _write_logs(self) -> None:
        """Write the waiting log lines; the reader of the log may take its time."""
        self._late.write()
        for child in self._children:  # only this thread changes them
            child.output.write()
        while self._printed:
            self._printed.pop().write()

    def _until_next(self, now: float) -> float | None:
        moments = [] if self._forks is not None and self._forks.starting else self._respawns.moments()
        if self._drain_until is not None:
            moments.append(self._drain_until)
        if self._waiting:
            moments.append(self._waiting[0].granted_at + STUCK_S)
        for child in self._children:
            moments += child.moments(now, STUCK_S)
        moments += [at for at in self._extras.moments(self._children) if at > now]
        if self._wakeup.look_s is not None:
            moments.append(now + self._wakeup.look_s)
        return max(0.0, min(moments) - now) if moments else None

    # -- messages of slots ----------------------------------------------------------------------------------------

    def _hear(self, child: Child, events: int) -> bool:
        """Handle a slot's messages; whether they were results only, and the slot has nothing left to do."""
        gathered = child.channel.gather()
        if gathered.messages:  # what a task has printed was written before its result
            child.output.drain()
        with self.lock:
            now = time.monotonic()
            if events & selectors.EVENT_WRITE:
                self._pump(child)
            noticed = self._take(child, gathered.messages, gathered.breach, now)
            if self.live:
                self._note_printed()
            if gathered.closed and not child.retired:
                self._selector.unregister(child.channel)
                child.retired = child.broken = True
                child.leave_within(DYING_S)
            self._assign(now)
            settled = child.idle and not child.worn_out() and not self._late.waits
            settled = settled and child.prepared == self._preparing.latest
        if child.output.waits:
            child.output.write()
        return settled and not noticed and not events & selectors.EVENT_WRITE

    def _pump(self, child: Child) -> None:
        try:
            child.channel.pump()
        except OSError:  # it has died, or is about to
            child.broken = True
            child.leave_within(DYING_S)

    def _take(self, child: Child, messages: list[Any], breach: str, now: float) -> bool:
        """Handle a slot's messages, until one breaks the protocol; whether one was about the slot itself."""
        noticed = False
        for message in messages:
            if child.breach:
                return True
            try:
                report = reports.read(message)
                if child.ready is isinstance(report, Ready | Unusable | Uninitialized):
                    raise BadMessage("it is not the time for that")
                if self._notice(child, report):
                    noticed = True
                else:
                    self._settling.take(child, report, now)
            except BadMessage as error:
                breach = str(error)
                break
        if breach:
            self._breach(child, breach)
        return noticed or bool(breach)

    def _notice(self, child: Child, report: reports.Report) -> bool:
        """Handle a slot's message about itself; whether this was such."""
        if isinstance(report, Ready):
            child.began(report.pid)
            self._respawns.began(child.number)
            self.trouble = ""
            self.announce()
        elif isinstance(report, Prepared):
            self._on_prepared(child, report.sound)
        elif isinstance(report, Leaving):
            chunk = child.known(report.token)
            name = chunk.spec.function.name if chunk is not None else "some function"
            text = "slot %d: a task of %s %s; the slot is replaced"
            self._late(logging.WARNING, text, child.number, name, report.why)
            child.leaving = True
            child.leave_within(LEAVING_S)
        elif isinstance(report, Stale | Misplaced):
            self._on_other_code(child, report)
        elif isinstance(report, Waiting):
            child.waits(report.token, report.index, report.seconds, report.blocked)
            self.announce()
        elif isinstance(report, Unusable):
            self._on_unusable(f"slot {child.number}", report)
        elif isinstance(report, Uninitialized) and self.terms.slot.init:
            # Its requirement (a device, a server) may exist later: `_not_born` has it tried again.
            child.uninitialized = self.trouble = f"its --init {self.terms.slot.init} fails: {report.why}"
            self.announce()
        elif isinstance(report, Uninitialized):
            text = "slot %d cannot start: its initializer failed:\n%s"
            self._late(logging.ERROR, text, child.number, report.trace)
            self.fatal = InitializerFailed(report.why)
        else:
            return False
        return True

    def _on_other_code(self, child: Child, report: Stale | Misplaced) -> None:
        """Handle the end of a slot that has imported other code than its next lease needs."""
        if isinstance(report, Stale):
            text = "slot %d: %s has changed since it was imported; the slot is replaced"
            self._late(logging.WARNING, text, child.number, report.path)
            self._outdated = self._outdated or (bool(self.terms.slot.preload) and child.origin is self._forks)
        else:
            text = "slot %d has imported other code than that of %s; the slot is replaced"
            self._late(logging.DEBUG, text, child.number, report.function)
            self._preparing.stop()
            self._several_codes = True
        for chunk in child.chunks:
            chunk.stoppable = True
        child.leaving = True
        child.leave_within(LEAVING_S)

    def _on_prepared(self, child: Child, sound: bool) -> None:
        """Handle the end of an advance import.

        Raises:
            BadMessage: the slot was not told to import one.
        """
        name = child.has_prepared()
        if not name:
            raise BadMessage("it was to import nothing")
        if not sound:
            self._preparing.give_up(name)
            child.leaving = True
            child.leave_within(LEAVING_S)

    def _breach(self, child: Child, why: str) -> None:
        """Handle a breach of the protocol: the slot is killed, and no further message of it is read."""
        if child.breach:
            return
        self._late(logging.ERROR, "slot %d does not keep to the protocol (%s); it is killed", child.number, why)
        child.breach = why
        if not child.retired:
            self._selector.unregister(child.channel)
            child.retired = child.broken = True
        child.kill()

    def _give_back_waiting(self) -> None:
        self._waiting.clear()
        for chunk in list(self.holdings.chunks.values()):
            if chunk.serial < 0 and not chunk.ended:  # not sent to a slot yet
                self._settling.release(chunk, chunk.next, chunk.end)

    # -- slots ----------------------------------------------------------------------------------------------------

    def _spawn(self, number: int) -> None:
        """Start a slot; not under the lock, for it may take long on a busy machine."""
        try:
            tracker = None if self._tracker is None else self._tracker.writing_end
            child = Child(number, self.terms.slot, tracker, self._forks)
        except OSError as error:
            log.error("slot %d cannot be started: %s", number, error)
            with self.lock:
                self._not_born(number)
            return
        self._take_in(child)

    def _take_in(self, child: Child) -> None:
        self._selector.register(child.channel, selectors.EVENT_READ, child)
        if isinstance(child.output, Output):
            self._outputs.add(child.output)
        with self.lock:
            self._children.append(child)
            if self.ending:
                child.kill()

    def _adopt(self, child: Child) -> None:
        """Adopt a slot that was started before its settings were known."""
        child.greet(self.terms.slot)
        self._take_in(child)

    def _hear_forks(self, forks: ForkServer) -> None:
        """Handle the fork server's message, or its end."""
        starting = forks.starting
        report = forks.hear()
        if isinstance(report, Ready):
            self._stillborn_forks = 0
        elif isinstance(report, Unusable):
            with self.lock:
                self._on_unusable("the fork server", report)
        elif forks is self._forks:
            log.warning("the fork server (pid %d) is gone; another is started", forks.pid)
            self._stillborn_forks += starting
            self._replace_forks()

    def _replace_forks(self) -> None:
        """Start another fork server; without one, slots are started as processes of their own."""
        if self._forks is None:
            return
        self._selector.unregister(self._forks)
        self._forks.close()
        self._forks = None
        if self._stillborn_forks >= MOST_STILLBORN_FORKS:
            log.error("the fork server has died %d times at its start; slots go without", self._stillborn_forks)
            return
        try:
            self._forks = ForkServer(self.terms.slot)
        except OSError as error:
            log.error("no fork server can be started (%s); slots go without", error)
            return
        self._selector.register(self._forks, selectors.EVENT_READ, self._forks)

    def _tracker_pids(self) -> set[int]:
        pid = None if self._tracker is None else self._tracker.pid
        return set() if pid is None else {pid}

    def _on_unusable(self, who: str, report: Unusable) -> None:
        self._late(logging.ERROR, "%s cannot import %s:\n%s", who, report.why[0], report.trace)
        self.fatal = CannotImport(*report.why)

    def _start_tracker(self, tracker: Tracker) -> None:
        self._selector.unregister(tracker)
        try:
            tracker.start()
        except OSError as error:
            log.error("shared memory that tasks leave behind will not be removed: no process for that (%s)", error)

    def _to_be_started(self, now: float) -> list[int]:
        """The numbers of slots to be started now, further slots for waiting tasks among them; unneeded ones are
        removed.
        """
        if self.draining or self.fatal is not None or (self._forks is not None and self._forks.starting):
            return []
        due = self._respawns.due(now)
        due += self._extras.missing(self._children, [*self._respawns.planned(), *due], now)
        for child in self._extras.surplus(self._children, now):
            self._retire(child)
        latest = self._extras.latest(self._children) if self._waiting else None
        running = None if latest is None else latest.running()
        if latest is not None and running is not None:
            self._condemn(latest, KillReason(running[0].token, running[1], timed_out=False, waiting=True))
        return due

    def _child_with(self, chunk: Chunk) -> Child | None:
        return next((child for child in self._children if chunk in child.chunks), None)

    def _assign(self, now: float) -> None:
        """Send waiting leases to slots that are idle, or about to be."""
        while self._waiting:
            chunk = self._waiting[0]
            if chunk.grant.behind:
                self._waiting.popleft()
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
            self._waiting.popleft()
            if not self._send(child, chunk, now):
                self._waiting.appendleft(chunk)

    def _send(self, child: Child, chunk: Chunk, now: float) -> bool:
        """Send a slot a lease; whether it takes it."""
        self._preparing.note(chunk.spec.function)
        chunk.careful = bool(self.holdings.careful.get(chunk.spec.function.name))
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

    def _prepare(self) -> None:
        """Have idle slots import new functions in advance, each slot one at a time."""
        if not self._takes or self._waiting:
            return
        for child in self._children:
            while child.idle and not child.worn_out() and child.prepared < self._preparing.latest:
                number, function = self._preparing.after(child.prepared) or (self._preparing.latest, None)
                if function is None:
                    child.prepared = number
                    break
                try:
                    child.prepare(number, function)
                except OSError:  # as in `_assign`
                    child.preparing = ""
                    child.broken = True
                    child.leave_within(DYING_S)

    def _stop_preparing(self) -> None:
        """End a slot that only imports in advance, because a lease for it waits."""
        for child in self._children:
            if child.preparing and not child.chunks and child.usable:
                self._condemn(child, KillReason(0, 0, timed_out=False))
                return

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

    def _retire(self, child: Child) -> None:
        """Replace an idle slot."""
        self._selector.unregister(child.channel)
        child.retire()

    def _condemn(self, child: Child, reason: KillReason) -> None:
        child.kill_reason = child.kill_reason or reason
        child.kill()

    def _recall(self, child: Child) -> None:
        """Begin to take back a slot's unstarted tasks. By any thread; the loop finishes it."""
        if child.kill_reason is not None or child.retired or not child.chunks or child.recalled:
            return
        now = time.monotonic()
        if child.recall_at is None and child.look(now):
            child.begin_recall(now)

    def _put_back(self, chunk: Chunk, lo: int) -> None:
        """Return a lease's unstarted tasks, from a task on, because they would have to wait."""
        self._taken_back.note(chunk.grant, lo)
        self._settling.release(chunk, lo, chunk.end)

    def _finish_recall(self, child: Child) -> None:
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
                self._condemn(child, KillReason(token, running[1], timed_out=False))
            elif (chunk := child.holding(token)) is not None and (index < 0 or chunk.next <= index < chunk.end):
                waiting.append((token, index))
        child.cancellations = waiting

    def _enforce(self, now: float) -> None:
        """Enforce time limits, handle work that is stuck behind work, worn-out slots, and the end of a drain."""
        while self._waiting and now - self._waiting[0].granted_at > STUCK_S:
            chunk = self._waiting[0]
            if self._extras.free(self._children, chunk.spec.function.name, chunk.slots) is not None:
                break
            self._stop_preparing()
            while self._waiting:  # with those behind it, which would overtake it
                chunk = self._waiting.popleft()
                self._put_back(chunk, chunk.next)
        for child in self._children:
            child.overdue(now)
            if child.kill_reason is None and not child.breach:
                self._look_after(child, now)
        if self._drain_until is not None and now >= self._drain_until:
            self._drain_until = None
            self.ending = True
            for child in self._children:
                self._condemn(child, KillReason(0, 0, timed_out=False))

    def _look_after(self, child: Child, now: float) -> None:
        if not child.look(now):
            self._breach(child, "it is said to be where it cannot be")
            return
        if child.recall_at is not None and now >= child.recall_at:
            self._finish_recall(child)
        if child.cancellations and child.recall_at is None:
            self._execute(child, now)
        if child.idle and child.worn_out() and not self.draining:
            self._retire(child)
        elif child.hides(now):
            self._breach(child, "it is said not to have begun, though it has what it was sent")
        elif child.stalled(now):
            text = "slot %d has not begun with what it was sent; it is replaced"
            self._late(logging.WARNING, text, child.number)
            self._condemn(child, KillReason(0, 0, timed_out=False))
        elif (running := child.running()) is not None:
            self._limit(child, *running, now)
        elif len(child.chunks) > 1 and not child.is_brisk(now, STUCK_S):
            self._recall(child)

    def _limit(self, child: Child, chunk: Chunk, index: int, at: float, now: float) -> None:
        """Apply a running task's time limit, and let no work wait behind a long task."""
        timeout_s = chunk.spec.options.timeout_s
        if timeout_s is not None and now - at >= timeout_s:
            self._condemn(child, KillReason(chunk.token, index, timed_out=True))
        elif now - at > STUCK_S and (len(child.chunks) > 1 or index + 1 < chunk.end):
            self._recall(child)

    # -- the dead -------------------------------------------------------------------------------------------------

    def _reap_slots(self, now: float) -> None:
        for child in [child for child in self._children if child.exited()]:
            if not child.retired:
                gathered = child.channel.gather(sys.maxsize)  # its last messages
                child.output.drain()
                self._take(child, gathered.messages, gathered.breach, now)
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

    def _plan_respawn(self, child: Child) -> None:
        if self.draining:
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
            self.fatal = self.fatal or self._respawns.verdict()

    def _close(self) -> None:
        with self.lock:
            children, self._children = self._children, []
            for child in children:
                child.kill()
        for child in children:
            child.collect()
            child.let_go()
            child.output.write()
        self._write_logs()
        self.holdings.segments.close()
        if self._forks is not None:
            self._forks.close()
        if self._tracker is not None:
            self._tracker.close()
        self._selector.close()
        self._wakeup.close()
