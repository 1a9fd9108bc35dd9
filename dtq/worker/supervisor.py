"""The supervisor: owns a worker's slots and leases; runs no user code.

One loop, in the main thread, waits for what slots send and for deadlines (time limits, stuck work); it starts and ends
the slots' processes. Two threads of `worker.link` talk to the coordinator: one fetches leases, one reports. They meet
under one lock, held for moments only.

Rules:

1. A slot gets a lease when it is idle, or when what it runs is about to end. Anything that waits behind a task that
   turns out long is taken back and returned to the queue within `STUCK_S`.
2. A slot is free when its process is idle or dead. Time limits and cancels kill the slot's process group; the outcome
   is reported when the process is seen to have ended.
3. Of a slot that died only the task that had started is blamed; what it had finished but not reported, and what it had
   not started, goes back unblamed.
4. What was reported is kept until the coordinator has it on disk; so a coordinator may restart at any time.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any, Final

from dtq.errors import BadMessage, CannotImport, DtqError, InitializerFailed
from dtq.model.messages import Doomed, Exchange, Failed, Failure, Grant, Progress, Released, Succeeded
from dtq.model.options import Spec
from dtq.model.states import Outcome
from dtq.model.wire import codec
from dtq.worker.calls import Calls
from dtq.worker.child import DYING_S, LEAVING_S, MAX_AHEAD_BYTES, Child
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.extras import Extras
from dtq.worker.output import Output
from dtq.worker.remains import Condemned, Remains, last_words, refusal, verdict
from dtq.worker.respawns import Respawns
from dtq.worker.terms import WorkerTerms
from dtq.worker.tracker import Tracker
from dtq.worker.wakeup import Wakeup

log = logging.getLogger("dtq.worker")

_FAILURE: Final = codec(Failure)
#: How long work may wait behind a running task before it is taken back, in seconds.
STUCK_S: Final = 0.05


class Supervisor:
    """Runs leases in slots.

    Args:
        terms: settings.
    """

    def __init__(self, terms: WorkerTerms) -> None:
        self.terms = terms
        self.lock = threading.Lock()
        #: Notified when there is something to report, or the worker's state changed.
        self.news = threading.Condition(self.lock)
        #: Notified likewise, but for results of leases that go on.
        self.pressing = threading.Condition(self.lock)
        self.holdings = Holdings()
        self.calls = Calls()
        self.draining = False
        #: Whether everything is to stop now.
        self.ending = False
        #: Why the worker cannot go on; and why it is to end when what runs has ended.
        self.fatal: DtqError | None = None
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
        self._respawns = Respawns(terms.slot.worker)
        self._extras = Extras(terms.slots, terms.max_waiting)

    # -- called from signal handlers and the link's threads ---------------------------------------------------------

    def wake(self) -> None:
        """Have the loop look around."""
        self._wakeup.ring()

    @property
    def capacity(self) -> int:
        """How many slots can run something; 0 while draining. Under the lock."""
        if self.draining or self.ending:
            return 0
        return self._extras.capacity(self._children)

    @property
    def saturated(self) -> bool:
        """Whether every slot that can run something does, and more is at hand. Under the lock."""
        ready = [child for child in self._children if child.ready]
        return bool(ready) and all(child.chunks for child in ready)

    def announce(self) -> None:
        """Wake whoever waits for news. Under the lock."""
        self.news.notify_all()
        self.pressing.notify_all()

    def _brisk(self, now: float) -> bool:
        """Whether all slots are busy with what is about to end, so that more will be wanted soon. What is given to a
        worker behind a long task only comes back. Under the lock."""
        if self.draining or not self.saturated:
            return False
        return all(now - running[2] < STUCK_S for child in self._children if (running := child.running()) is not None)

    def exchange(
        self, *, fetch: bool, wait_s: float = 0.0, room: int = 0, largest: int = 0, quiet: bool = False
    ) -> Exchange:
        """What to tell the coordinator now. Under the lock; a report takes what is to be reported.

        Args:
            fetch: whether it is a fetching call, which reports nothing.
            wait_s: how long that may wait, in seconds.
            room: how many bytes of outcomes a report has; at least one outcome.
            largest: how many bytes one outcome has at most, if it can have less.
            quiet: whether it says nothing of progress, and asks for nothing.
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
                holding=holding, capacity=self.capacity, fetch=True, wait_s=wait_s, call=call, beside=beside
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
            capacity=self.capacity,
            more=more,
            call=call,
            beside=beside,
        )

    def farewell(self) -> Exchange:
        """The last thing to tell: no call is under way any more, and nothing is held. Under the lock."""
        self.calls.all_over()
        call, _ = self.calls.begin(fetch=True)
        return Exchange(fetch=True, call=call)

    def granted(self, grants: list[tuple[Grant, Spec]]) -> None:
        """Leases have arrived. Under the lock."""
        now = time.monotonic()
        for grant, spec in grants:
            chunk = Chunk(grant, spec, now)
            self.holdings.add(chunk)
            if self.draining or self.ending:
                self._release(chunk, chunk.next, chunk.end)
            else:
                self._waiting.append(chunk)
            for doomed in self.holdings.doomed.pop(chunk.token, ()):
                self.cancel(doomed)
        self._assign(now)
        self.wake()

    def cancel(self, doomed: Doomed) -> None:
        """A task is to be stopped. Under the lock."""
        chunk = self.holdings.chunks.get(doomed.token)
        if chunk is None:
            self.holdings.doom(doomed)  # its lease may be in the answer that is under way on the other connection
            return
        if not chunk.next <= doomed.index < chunk.end:
            return
        child = self._child_with(chunk)
        if child is None:
            self._waiting.remove(chunk)
            self._release(chunk, chunk.next, chunk.end)
            return
        self._recall(child)
        if doomed.index < chunk.end and child.condemned is None:
            self._condemn(child, Condemned(doomed.token, doomed.index, timed_out=False))

    def drop(self, token: int) -> None:
        """A lease is no longer this worker's: stop it and say nothing of it. Under the lock."""
        chunk = self.holdings.chunks.get(token)
        if chunk is None or chunk.ended:
            return  # its outcomes are on their way, or have arrived: the next acknowledgement ends it
        log.warning("the lease of task %d.%d was taken back by the coordinator", chunk.grant.batch, chunk.next)
        child = self._child_with(chunk)
        if child is None:
            if chunk in self._waiting:
                self._waiting.remove(chunk)
        else:
            self._recall(child)
            running = child.running()
            if running is not None and running[0] is chunk and child.condemned is None:
                self._condemn(child, Condemned(token, running[1], timed_out=False))
        self.holdings.forget(token)

    def drain(self) -> None:
        """Take no more work, give back what has not started, end when what runs has ended. Any thread."""
        with self.lock:
            if self.draining:
                return
            self.draining = True
            if self.terms.grace_s is not None:
                self._drain_until = time.monotonic() + self.terms.grace_s
            self._give_back_waiting()
            for child in self._children:
                self._recall(child)
            self.announce()
        self.wake()

    def leave(self, error: DtqError) -> None:
        """Drain, and then end with this error. Any thread."""
        self.parting = error
        self.drain()

    def end(self) -> None:
        """Kill what runs and give everything back. Any thread."""
        with self.lock:
            self.draining = self.ending = True
            self._give_back_waiting()
            for child in self._children:
                self._condemn(child, Condemned(0, 0, timed_out=False))
            self.announce()
        self.wake()

    @property
    def idle(self) -> bool:
        """Whether nothing is held any more, and everything that was is acknowledged. Under the lock."""
        return not self.holdings.chunks

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run slots until drained or ended; all that its thread does. Slots end with that thread.

        Raises:
            DtqError: the worker cannot go on: a wrong key, or a module to import that is not there.
        """
        with self._wakeup.by_signals():
            try:
                for number in range(1, self.terms.slots + 1):
                    self._spawn(number)
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
        with self.lock:
            timeout_s = self._until_next(time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                self._wakeup.clear()
            elif isinstance(key.data, Output):
                key.data.take()
            elif isinstance(key.data, Tracker):
                self._start_tracker(key.data)
            else:
                self._hear(key.data)
        with self.lock:
            now = time.monotonic()
            self._bury()
            self._enforce(now)
            self._respawn(now)
            self._make_room(now)
            self._assign(now)

    def _until_next(self, now: float) -> float | None:
        moments = self._respawns.moments()
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

    # -- what slots say -------------------------------------------------------------------------------------------

    def _hear(self, child: Child) -> None:
        try:
            messages, closed = child.channel.gather()
        except (BadMessage, OSError) as error:
            log.error("slot %d does not keep to the protocol (%s); it is killed", child.number, error)
            messages, closed = [], True
        with self.lock:
            for message in messages:
                self._take(child, message)
            if closed and not child.retired:
                self._selector.unregister(child.channel)
                child.retired = child.broken = True
                child.leave_within(DYING_S)
            self._assign(time.monotonic())

    def _take(self, child: Child, message: Any) -> None:
        kind, *fields = message
        if kind == "succeeded":
            token, lo, results, seconds = fields
            count = int.from_bytes(results[:4], "big")
            self._ended(child, token, lo + count)
            self._owe(Succeeded(token=token, lo=lo, results=results, seconds=seconds))
        elif kind == "failed":
            token, index, seconds, failure = fields
            self._ended(child, token, index + 1)
            said = replace(_FAILURE.decode(failure), output=child.last_lines(token, index))
            self._fail(token, index, Outcome.FAILED, said, seconds)
        elif kind == "stopped":
            token, index = fields
            child.stopped(token)
            chunk = self.holdings.chunks.get(token)
            if chunk is not None and index < chunk.end:
                self._release(chunk, index, chunk.end)
            self._ended(child, token, 0)
        elif kind == "progress":
            token, index, done, total = fields
            if token in self.holdings.chunks:
                progress = Progress(token=token, index=index, done=done, total=total)
                self.holdings.outbox.progress[token] = progress
                self.announce()
        else:
            self._notice(child, kind, fields)

    def _notice(self, child: Child, kind: str, fields: list[Any]) -> None:
        """What a slot says of itself."""
        if kind == "ready":
            child.ready = True
            self._respawns.began(child.number)
            self.announce()
        elif kind == "changed":
            log.warning("slot %d: a task of %s changed %s; it was put back", child.number, *fields)
        elif kind == "waiting":
            child.waits(*fields)
            self.announce()
        elif kind == "leaving":
            log.warning("slot %d: a task of %s %s; the slot is replaced", child.number, *fields)
            child.leaving = True
            child.leave_within(LEAVING_S)
        elif kind == "stale":
            log.warning("slot %d: %s has changed since it was imported; the slot is replaced", child.number, *fields)
            child.leaving = True
            child.leave_within(LEAVING_S)
        elif kind == "unusable":
            text, *why = fields
            log.error("slot %d cannot import %s:\n%s", child.number, why[0], text)
            self.fatal = CannotImport(*why)
        elif kind == "uninitialized":
            text, why = fields
            log.error("slot %d cannot start: its initializer failed:\n%s", child.number, text)
            self.fatal = InitializerFailed(why)

    def _ended(self, child: Child, token: int, upto: int) -> None:
        """Tasks of a lease below ``upto`` have ended; a lease without more leaves the slot."""
        for chunk in child.chunks:
            if chunk.token == token:
                chunk.next = max(chunk.next, upto)
                child.latest = chunk
                break
        while child.chunks and child.chunks[0].ended:
            child.chunks.popleft()

    def _owe(self, outcome: Succeeded | Failed | Released) -> None:
        if outcome.token in self.holdings.chunks:
            self.holdings.outbox.add(outcome)
            if type(outcome) is Succeeded and not self.holdings.chunks[outcome.token].ended:
                self.news.notify_all()
            else:
                self.announce()

    def _fail(self, token: int, index: int, outcome: Outcome, failure: Failure, seconds: float) -> None:
        self._owe(Failed(token=token, index=index, outcome=outcome, failure=failure, seconds=seconds))

    def _release(self, chunk: Chunk, lo: int, hi: int) -> None:
        chunk.end = lo
        if lo < hi:
            self._owe(Released(token=chunk.token, lo=lo, hi=hi))

    def _give_back_waiting(self) -> None:
        while self._waiting:
            chunk = self._waiting.popleft()
            self._release(chunk, chunk.next, chunk.end)

    # -- slots ----------------------------------------------------------------------------------------------------

    def _spawn(self, number: int) -> None:
        try:
            child = Child(number, self.terms.slot, None if self._tracker is None else self._tracker.writing_end)
        except OSError as error:
            log.error("slot %d cannot be started: %s", number, error)
            self._not_born(number)
            return
        self._children.append(child)
        self._selector.register(child.channel, selectors.EVENT_READ, child)
        if isinstance(child.output, Output):
            self._selector.register(child.output, selectors.EVENT_READ, child.output)

    def _start_tracker(self, tracker: Tracker) -> None:
        self._selector.unregister(tracker)
        try:
            tracker.start()
        except OSError as error:
            log.error("what tasks leave of shared memory will not be removed: no process for that (%s)", error)

    def _respawn(self, now: float) -> None:
        for number in self._respawns.due(now):
            if not self.draining and self.fatal is None:
                self._spawn(number)

    def _make_room(self, now: float) -> None:
        """Add slots for those whose tasks wait for other tasks, and take away those that are not needed any more."""
        if self.draining or self.fatal is not None:
            return
        for number in self._extras.missing(self._children, self._respawns.planned(), now):
            self._spawn(number)
        for child in self._extras.surplus(self._children, now):
            self._retire(child)
        latest = self._extras.latest(self._children) if self._waiting else None
        running = None if latest is None else latest.running()
        if latest is not None and running is not None:
            self._condemn(latest, Condemned(running[0].token, running[1], timed_out=False, waiting=True))

    def _child_with(self, chunk: Chunk) -> Child | None:
        return next((child for child in self._children if chunk in child.chunks), None)

    def _assign(self, now: float) -> None:
        """Send waiting leases to slots that are idle, or about to be."""
        while self._waiting:
            child = self._extras.free(self._children)
            if child is not None and child.worn_out():
                self._retire(child)
                continue
            if child is None:
                child = self._nearly_idle(self._waiting[0], now)
            if child is None:
                return
            chunk = self._waiting.popleft()
            try:
                child.send(chunk, chunk.spec)
            except OSError as error:
                log.warning("slot %d does not take work (%s); it is replaced", child.number, error)
                self._waiting.appendleft(chunk)
                if isinstance(error, TimeoutError):
                    self._condemn(child, Condemned(0, 0, timed_out=False))
                else:  # it died by itself, and what it ran, if anything, is to blame
                    child.broken = True
                    child.leave_within(DYING_S)

    def _nearly_idle(self, chunk: Chunk, now: float) -> Child | None:
        if len(chunk.grant.arguments) > MAX_AHEAD_BYTES:
            return None
        for child in self._children:
            if child.usable and len(child.chunks) == 1 and child.waiting_since is None:
                running = child.running()
                if running is not None and now - running[2] < STUCK_S and not child.worn_out():
                    return child
        return None

    def _retire(self, child: Child) -> None:
        """Replace an idle slot."""
        self._selector.unregister(child.channel)
        child.retire()

    def _condemn(self, child: Child, reason: Condemned) -> None:
        child.condemned = reason
        child.kill()

    def _recall(self, child: Child) -> None:
        if child.condemned is None and not child.retired and child.chunks and not child.recalled:
            for chunk, lo, hi in child.recall():
                self._release(chunk, lo, hi)
            while child.chunks and child.chunks[-1].ended and child.chunks[-1].token not in child.recalled:
                child.chunks.pop()

    def _enforce(self, now: float) -> None:
        """Time limits, work that is stuck behind work, the end of a drain."""
        while (
            self._waiting and now - self._waiting[0].granted_at > STUCK_S and self._extras.free(self._children) is None
        ):
            chunk = self._waiting.popleft()
            self._release(chunk, chunk.next, chunk.end)
        for child in self._children:
            child.overdue(now)
            running = child.running()
            if running is None or child.condemned is not None:
                continue
            chunk, index, at = running
            timeout_s = chunk.spec.options.timeout_s
            if timeout_s is not None and now - at >= timeout_s:
                self._condemn(child, Condemned(chunk.token, index, timed_out=True))
            elif now - at > STUCK_S and (len(child.chunks) > 1 or index + 1 < chunk.end):
                self._recall(child)
        if self._drain_until is not None and now >= self._drain_until:
            self._drain_until = None
            self.ending = True
            for child in self._children:
                self._condemn(child, Condemned(0, 0, timed_out=False))

    # -- the dead -------------------------------------------------------------------------------------------------

    def _bury(self) -> None:
        for child in [child for child in self._children if child.exited()]:
            if not child.retired:
                messages, _ = child.channel.gather()  # what it said last
                for message in messages:
                    self._take(child, message)
                self._selector.unregister(child.channel)
            running = child.running()
            self._children.remove(child)
            if isinstance(child.output, Output):
                self._selector.unregister(child.output)
            self._account(child, running, child.close())
            self._plan_respawn(child)

    def _account(self, child: Child, running: tuple[Chunk, int, float] | None, remains: Remains) -> None:
        """Report what a dead slot leaves behind."""
        for chunk in list(child.chunks):
            lo = chunk.next
            if running is not None and running[0] is chunk:
                _, index, at = running
                outcome = verdict(child.condemned, chunk.token, index)
                if outcome is Outcome.FAILED:
                    failure = refusal(len(self._children) + 1, self.terms.slot.worker, remains)
                    self._fail(chunk.token, index, outcome, failure, time.monotonic() - at)
                    lo = index + 1
                elif outcome is not None:
                    failure = last_words(outcome, remains, chunk.spec.options.timeout_s)
                    self._fail(chunk.token, index, outcome, failure, time.monotonic() - at)
                    lo = index + 1
            chunk.next = lo
            self._release(chunk, lo, chunk.end)
        child.chunks.clear()

    def _plan_respawn(self, child: Child) -> None:
        if self.draining:
            return
        if not child.ready:
            self._not_born(child.number)
            return
        if not self._extras.is_extra(child):
            self._respawns.plan(child.number, time.monotonic())
        if child.condemned is None and not (child.retired and not child.broken) and not child.leaving:
            log.warning("slot %d (pid %d) died; it is replaced", child.number, child.pid)

    def _not_born(self, number: int) -> None:
        """A slot was never ready for work: try again later, or give up where no other is."""
        self._respawns.plan(number, time.monotonic(), stillborn=True)
        if not any(child.sound for child in self._children):
            self.fatal = self.fatal or self._respawns.verdict()

    def _close(self) -> None:
        with self.lock:
            for child in self._children:
                child.kill()
            for child in self._children:
                child.close()
            self._children.clear()
        if self._tracker is not None:
            self._tracker.close()
        self._selector.close()
        self._wakeup.close()
