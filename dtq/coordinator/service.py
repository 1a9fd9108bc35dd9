"""The coordinator: the machine behind one lock, and the threads that do its I/O.

Every call takes the lock, asks the machine, takes a ticket for the commit that its answer depends on, releases the lock
and waits for the ticket. The call that adds tasks also grants them: it leases them to the longest waiting fetching
calls that can be served, and wakes exactly those.

The connections share a `Coordinator`; `coordinator.connection` has the calls themselves, one object a connection, and
`coordinator.queries` those that only read.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from dtq.clock import Clock, SteadyClock
from dtq.coordinator.cache import PageCache
from dtq.coordinator.committer import Committer, Generation
from dtq.coordinator.cron import CronCalendar
from dtq.coordinator.history import Recorder, Totals
from dtq.coordinator.lost_workers import LostWorkers
from dtq.coordinator.paces import Paces
from dtq.coordinator.printing import Printing
from dtq.coordinator.sessions import Sessions, SessionState
from dtq.coordinator.ticker import Ticker
from dtq.coordinator.values import PeerValues
from dtq.core import operators, uniqueness
from dtq.core.batches import Batch
from dtq.core.changes import BatchesRead, Change, Expired, OwnExpired, Read
from dtq.core.depths import oldest_ready_s
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.core.queue_state import Rules
from dtq.core.restoring import SECOND_LOOK_S, restore, would_expire_all
from dtq.core.scheduling import Made, run_due
from dtq.engines.base import Engine, Opened
from dtq.errors import DtqError, ShuttingDown
from dtq.model.messages import Cancellation
from dtq.model.states import State
from dtq.records import dataclass
from dtq.wording import counted, duration

log = logging.getLogger("dtq.coordinator")

#: Longest wait of one call in seconds: bounds how long a vanished peer can hold a thread.
LONGEST_WAIT_S: Final = 20.0
#: Approximate bytes of one answer, if messages may be so large.
_ANSWER_BYTES: Final = 4 << 20
#: Most cancellations in one answer to a worker; the next answers have the others.
MOST_CANCELS: Final = 4_096
#: Longest wait of incomplete batches for their submitter after a restart, in seconds.
_ORPHANS_S: Final = 60.0
#: Most runs that one call sets aside because a defect keeps them from being granted.
_SET_ASIDE: Final = 8
#: Pause after a tick with a failed step, in seconds.
_AFTER_DEFECT_S: Final = 1.0
#: Seconds between two looks at the wall clock while anything waits for it: the delay after which a change of that clock
#: is noticed.
_LOOK_S: Final = 1.0
#: Changes that free much memory, and the delay in seconds after which it is given back.
_FREEING: Final = (Read, BatchesRead, Expired, OwnExpired)
_FREED_S: Final = 5.0


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector: it would search a million new batches again and again for garbage that does
    not exist, a fifth of a restart's time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Settings of a coordinator.

    Attributes:
        rules: the machine's settings.
        durability: "fsync", "os" (survives a killed process, not a power cut) or "none" (answers do not wait).
        store: the store's name for people.
        max_message: largest message in bytes, told to peers.
        max_unread: most ended ranges kept for a client that has not asked for them.
        values: whether blobs too large for a message are kept as values, if the engine has a place for them.
        by_reference: whether peers on this machine may write and read values' files themselves.
    """

    rules: Rules
    durability: str = "fsync"
    store: str = "memory"
    max_message: int = 16 << 20
    max_unread: int = 1_000_000
    values: bool = True
    by_reference: bool = True

    @property
    def answer_bytes(self) -> int:
        """Approximate bytes of one answer; a larger item goes alone."""
        return min(_ANSWER_BYTES, self.max_message // 4)


class Coordinator:
    """Keeps the queue; hands out a service object for each connection.

    Args:
        engine: keeps the state; opened by `start`, closed by `stop`.
        setup: settings.
        clock: makes the clock, when the store is open.
        on_stop: called (once, from any thread) when a peer asks the coordinator to stop.
        on_reload_keys: called (from any thread) when a peer asks it to read its keys again; returns the keys' names.
        on_freed: called by the ticker some time after much memory may have been freed, to give it back.
    """

    def __init__(
        self,
        engine: Engine,
        setup: Setup,
        *,
        clock: Callable[[], Clock] = SteadyClock,
        on_stop: Callable[[], None] = lambda: None,
        on_reload_keys: Callable[[], list[str]] = list,
        on_freed: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.setup = setup
        self.on_stop = on_stop
        self.on_reload_keys = on_reload_keys
        self._on_freed = on_freed
        #: When to call that; None if nothing was freed since the last time.
        self._freed_at: float | None = None
        self.lock = threading.Lock()
        self.sessions = Sessions(setup.max_unread)
        #: Tasks whose output somebody follows.
        self.printing = Printing()
        #: Calls that wait because the queue is full: the tasks that each needs room for; longest waiting first.
        self.held: deque[tuple[int, threading.Event]] = deque()
        self.cache = PageCache(engine)
        #: The peers' values; None if none are kept.
        self.values: PeerValues | None = None
        self.lost_workers = LostWorkers()
        self.stopping = False
        #: Batches made in uncommitted generations: withdrawn if their commit fails.
        self.uncommitted: dict[Generation, list[Batch]] = {}
        #: Serialises operators' verbs on ended tasks: each reads the engine and then changes the machine.
        self.operators = threading.Lock()
        self._make_clock = clock
        self._orphans_at: float | None = None
        self._asked_to_stop = False
        #: Value of `Lines.pushed` when waiting workers were last served.
        self._handed_out = 0
        #: Value of `Lines.left` when workers with kept resources were last served.
        self._left = 0

    def start(self) -> Opened:
        """Open the store, restore the queue, start the threads.

        Returns:
            The engine's answer: epoch and losses.

        Raises:
            StoreError: the store cannot be used; see its kinds.
        """
        self.opened = self.engine.open()
        self.clock = self._make_clock()
        self.started_at = self.clock.now()
        with _uncollected():
            self.machine = restore(
                self.opened.epoch,
                self.setup.rules,
                self.opened.totals,
                self.engine.restore(),
                self.started_at,
                CronCalendar(),
            )
            operators.cancel_cut_short(self.machine, self.started_at)
        place = self.engine.place if self.setup.values else None
        if place is not None:
            self.values = PeerValues(place, self.engine.holds, by_reference=self.setup.by_reference)
        for loss in self.opened.losses:
            log.error("%s", loss)
        if would_expire_all(self.setup.rules, self.opened.totals, self.started_at):
            log.warning(
                "by this machine's clock the store was last changed %s ago, and what it holds of results goes in %s; if"
                " the clock is wrong, stop the coordinator before that and set it",
                duration(self.started_at - self.opened.totals.clock),
                duration(min(SECOND_LOOK_S, self.setup.rules.keep_results_s)),
            )
        if self.machine.queue_state.open:
            self._orphans_at = self.started_at + _ORPHANS_S
        self.history = Recorder(self.started_at, self.totals())
        self.paces = Paces(self.started_at, self.machine.queue_state.tally.done)
        self.committer = Committer(
            self.engine,
            self.lock,
            drain=self._drain,
            dirty=lambda: not self.machine.queue_state.ledger.empty,
            committed=self._on_committed,
            failed=self._on_failed,
            wait=self.setup.durability != "none",
        )
        self.ticker = Ticker(self.clock, self.tick)
        self.committer.start()
        self.ticker.start()
        return self.opened

    def quiesce(self) -> None:
        """Grant no more work, and release waiting calls; calls under way are still answered."""
        with self.lock:
            self.stopping = True
            for fetch in self.sessions.fetching.values():
                fetch.serve([], [])
            self.sessions.fetching.clear()
            for _, event in self.held:
                event.set()
            self.held.clear()
            for state in self.sessions.by_id.values():
                state.wake()
            self.printing.wake_all()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Commit and close the store. No call may follow.

        Returns:
            Whether all decisions are durable.
        """
        self.quiesce()
        self.ticker.stop()
        durable = self.committer.stop(timeout_s)
        if self.values is not None:
            self.values.close()
        self.engine.close()
        return durable

    def refuse_if_stopping(self) -> None:
        """Raise ShuttingDown if the coordinator is stopping."""
        if self.stopping:
            raise ShuttingDown(f"pid {os.getpid()}")

    def flush(self) -> None:
        """Wait until everything so far is in the engine, whatever the durability.

        Raises:
            StoreError: the store cannot be written at the moment.
        """
        with self.lock:
            ticket = self.committer.ticket()
        self.committer.complete(ticket)

    def ask_to_stop(self) -> None:
        """Ask the coordinator to stop; `on_stop` is called once."""
        with self.lock:
            asked, self._asked_to_stop = self._asked_to_stop, True
        if not asked:
            self.on_stop()

    # -- under the lock -------------------------------------------------------------------------------------------

    def dispatch(self, now: float, changed: str = "") -> None:
        """Grant waiting tasks to the waiting fetching calls, longest waiting first.

        Args:
            now: the time.
            changed: session of a worker that may take more than before. Other workers could not be given anything when
                they began to wait, so they are served only if more tasks have come since.
        """
        self.let_in()
        queue_state, fetching = self.machine.queue_state, self.sessions.fetching
        candidates = (
            list(fetching) if queue_state.lines.pushed > self._handed_out else [changed] if changed in fetching else []
        )
        self._handed_out = queue_state.lines.pushed
        self._hand_to(candidates, now)
        # If resources that were kept for a task are free, as it has started elsewhere or never will, no task has come.
        while queue_state.keeping and queue_state.lines.left != self._left:
            self._left = queue_state.lines.left
            self._hand_to([session for session in fetching if session in queue_state.keeping], now)
            if not queue_state.lines.needed:
                queue_state.keeping.clear()

    def _hand_to(self, sessions: list[str], now: float) -> None:
        fetching = self.sessions.fetching
        for session in sessions:
            if not (
                self.machine.queue_state.tally[State.PENDING] or self.machine.granting.may_have_successors(session)
            ):
                continue
            may_take = self.sessions.may_take(self.sessions.by_id[session])
            leases = [] if not may_take else self.lease(session, now, fetching[session].call)
            if leases:
                fetching.pop(session).serve(leases, [], self.committer.ticket())

    def lease(self, session: str, now: float, call: int = 0, *, by_report: bool = False) -> list[Lease]:
        """Grant as much as a worker has room for (`Granting.lease`).

        The caller brings tasks that are granted to others: a defect of ours in that must not fail the caller, nor block
        the tasks behind the one that it is about. So that task is set aside, and the next is granted.
        """
        for _ in range(_SET_ASIDE):
            try:
                leases = self.machine.granting.lease(session, now, call, by_report=by_report)
                self.ticker.by(self.machine.queue_state.limits.next_at())
                return leases
            except DtqError:
                raise
            except Exception:
                log.exception("a defect keeps the next tasks from being leased; they are set aside")
                if not self._guarded(partial(operators.set_aside, self.machine, session), now):
                    break
        return []

    def let_in(self) -> None:
        """Let waiting calls go on for which the queue has room now, in their order."""
        if self.held:
            room = self.machine.queue_state.room
            while self.held and self.held[0][0] <= room:
                needed, event = self.held.popleft()
                room -= needed
                event.set()

    def tell_cancelled(self) -> None:
        """Wake the fetching calls of workers with tasks to stop."""
        self.let_in()
        for session, fetch in list(self.sessions.fetching.items()):
            untold = self.untold(self.sessions.by_id[session])
            if untold:
                del self.sessions.fetching[session]
                fetch.serve([], untold)

    def tell_followed(self) -> None:
        """Wake the fetching calls of workers that hold further tasks whose output is followed."""
        for session in self.printing.untold:
            fetch = self.sessions.fetching.pop(session, None)
            if fetch is not None:
                fetch.serve([], [])

    def untold(self, state: SessionState) -> list[Cancellation]:
        """A worker's cancellations that no fetching call has told it; they count as told from now on."""
        cancellations = self.machine.cancelling(state.hello.session)
        if not cancellations:
            state.told.clear()
            return []
        untold = [d for d in cancellations if (d.token, d.index) not in state.told][:MOST_CANCELS]
        state.told &= {(d.token, d.index) for d in cancellations}
        state.told |= {(d.token, d.index) for d in untold}
        return untold

    def lose_worker(self, state: SessionState, now: float) -> None:
        """Handle the loss of a worker: its tasks run elsewhere."""
        worker = self.machine.queue_state.workers.get(state.hello.session)
        held = len(worker.leases) if worker is not None else 0
        if held or not state.draining:  # else it has said goodbye
            self._note_lost(state, held, now)
        self.machine.lose(state.hello.session, now)
        if held:
            log.warning("worker %s is gone; %s of it go back to the queue", state.name, counted(held, "lease"))
        else:
            log.info("worker %s has left", state.name)

    def _note_lost(self, state: SessionState, leases: int, now: float) -> None:
        self.lost_workers.add(state, leases, now)
        self.ticker.by(self.history.wake(now))

    def totals(self) -> Totals:
        """The totals of which the history has samples. Under the lock."""
        queue_state = self.machine.queue_state
        tally = queue_state.tally
        return Totals(
            submitted=queue_state.submitted,
            done=tally[State.SUCCEEDED],
            failed=queue_state.failed,
            died=queue_state.died,
            lost=self.lost_workers.count,
            backlog=tally.unfinished - tally[State.RUNNING],
        )

    def next_deadline(self) -> float:
        """The next deadline."""
        deadlines = [self.machine.next_deadline()]
        deadlines += [at for at in (self.sessions.next_deadline(), self._orphans_at, self._freed_at) if at is not None]
        if self.machine.on_wall:
            deadlines.append(self.next_on_wall())
        return min(deadlines)

    def look_at_wall(self, now: float) -> float:
        """Tell the machine the time of the wall clock, and return it."""
        wall = self.clock.wall()
        self.machine.queue_state.wall_ahead_s = wall - now
        return wall

    def next_on_wall(self) -> float:
        """The next deadline by the wall clock, or the next look at that clock, which may be set."""
        now = self.clock.now()
        at = self.machine.next_on_wall()
        return now + (_LOOK_S if at is None else min(_LOOK_S, max(0.0, at - self.clock.wall())))

    # -- called by the threads ------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Do everything that is due. Called by the ticker at the next deadline, and by whoever moves a manual clock.

        Returns:
            The next deadline.
        """
        now = self.clock.now()
        with self.lock:
            if self.machine.on_wall:
                self.look_at_wall(now)
            # A defect in one of them must not block the others.
            steps = (
                self._tick_machine,
                self._run_schedules,
                self._give_up_sessions,
                self._abandon_orphans,
                self.dispatch,
                self._record,
            )
            done = [self._guarded(step, now) for step in steps]
            self.committer.soon()
            freed = self._freed_at is not None and self._freed_at <= now
            if freed:
                self._freed_at = None
            deadline = self.next_deadline() if all(done) else now + _AFTER_DEFECT_S
            if self.history.due_at is not None:
                deadline = min(deadline, self.history.due_at)
        if freed:
            self._on_freed()
        if self.values is not None:
            self.values.tick(self.sessions.by_id.__contains__, now)
            if self.values.next_at is not None:
                deadline = min(deadline, self.values.next_at)
        return deadline

    def _guarded(self, step: Callable[[float], object], now: float) -> bool:
        """Do a step; whether it had no defect."""
        try:
            step(now)
        except Exception:
            log.exception("a step that was due failed")
            return False
        return True

    def _tick_machine(self, now: float) -> None:
        known = set(self.machine.queue_state.workers)
        for session in [name for name, state in self.sessions.by_id.items() if state.kept_waiting]:
            self.machine.excuse(session, now)
        try:
            self.machine.tick(now)
        finally:
            for session in known - set(self.machine.queue_state.workers):
                state = self.sessions.by_id.get(session)
                log.warning("worker %s has been silent for too long", state.name if state else session)
                if state is not None:
                    self._note_lost(state, 0, now)
                    self.sessions.remove(state)

    def _record(self, now: float) -> None:
        if self.history.due_at is not None and self.history.due_at <= now:
            oldest_s = oldest_ready_s(self.machine.queue_state, now)
            self.history.sample(now, self.totals()._replace(oldest_ms=int(oldest_s * 1_000)))
            self.paces.mark(now, self.machine.queue_state.tally.done)

    def _run_schedules(self, now: float) -> None:
        if self.machine.schedules and not self.stopping:
            wall = now + self.machine.queue_state.wall_ahead_s
            self.take_made(run_due(self.machine, now, wall, self.committer.trouble))

    def take_made(self, made: Made) -> None:
        """Apply the effects of schedules' due times. Under the lock."""
        self.cache.add(made.pages)
        if made.cancelled:
            self.tell_cancelled()

    def _give_up_sessions(self, now: float) -> None:
        for state in self.sessions.expired(now):
            if state.is_worker:
                self._guarded(partial(self.lose_worker, state), now)
            else:
                self._guarded(partial(self.machine.abandon, state.hello.session), now)

    def _abandon_orphans(self, now: float) -> None:
        if self._orphans_at is None or self._orphans_at > now:
            return
        self._orphans_at = None
        for batch in list(self.machine.queue_state.open.values()):
            if batch.session not in self.sessions.by_id:
                self.machine.seal(batch, now)

    def _drain(self) -> tuple[list[Change], list[EndedRange]]:
        return self.machine.drain(self.clock.now())

    def _on_committed(self, generation: Generation, changes: list[Change], ended: list[EndedRange]) -> None:
        self.cache.committed(changes)
        made = self.uncommitted.pop(generation, None)
        if made is not None:
            self._guarded(partial(self._replace_earlier, made), self.clock.now())
        for ended_range in ended:
            self.sessions.publish(ended_range)
        self.sessions.batches_finished(changes)
        self.printing.committed(changes)
        # They come last in a commit, but for the totals.
        if self._freed_at is None and any(type(change) in _FREEING for change in changes[-2:]):
            self._freed_at = self.clock.now() + _FREED_S
            self.ticker.by(self._freed_at)
        if self.history.due_at is None:
            self.ticker.by(self.history.wake(self.clock.now()))

    def _replace_earlier(self, made: list[Batch], now: float) -> None:
        """Cancel the batches that durable batches replace."""
        if any([uniqueness.replace_earlier(self.machine, batch, now) for batch in made]):
            self.tell_cancelled()
            self.dispatch(now)
            self.committer.soon()

    def _on_failed(self, generations: list[Generation]) -> set[int]:
        """Withdraw the batches that were never acknowledged; all other changes are kept and tried again."""
        taken_back: set[int] = set()
        for batch in [batch for generation in generations for batch in self.uncommitted.pop(generation, ())]:
            self.machine.withdraw(batch, self.clock.now())
            taken_back.add(batch.number)
        self.cache.forget(taken_back)
        for state in self.sessions.by_id.values():
            state.receipts = {}
        if taken_back:
            self.dispatch(self.clock.now())  # they held room, and resources were kept for some
        return taken_back
