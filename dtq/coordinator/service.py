"""The coordinator: the machine behind one lock, and the threads that carry for it.

Every call takes the lock, asks the machine, takes a ticket for the commit that its answer depends on, lets go of the
lock and waits for the ticket. Work is handed to waiting workers by whoever brings it: the call that adds tasks leases
them to the longest waiting fetching calls that can be served, and wakes exactly those.

`Coordinator` is what the connections share; `coordinator.connection` has the calls themselves, one object a connection,
and `coordinator.queries` those that only look.
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
from dtq.coordinator.sessions import Sessions, SessionState
from dtq.coordinator.ticker import Ticker
from dtq.coordinator.values import PeerValues
from dtq.core import operators, uniqueness
from dtq.core.batches import Batch
from dtq.core.changes import BatchesRead, Change, Expired, OwnExpired, Read
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.core.register import Rules
from dtq.core.restoring import SECOND_LOOK_S, restore, would_expire_all
from dtq.core.scheduling import Made, run_due
from dtq.engines.base import Engine, Opened
from dtq.errors import DtqError, ShuttingDown
from dtq.model.messages import Doomed
from dtq.model.states import State
from dtq.records import dataclass
from dtq.wording import counted, duration

log = logging.getLogger("dtq.coordinator")

#: Longest wait of one call in seconds: bounds how long a thread is held by a peer that is gone without a word.
LONGEST_WAIT_S: Final = 20.0
#: About how many bytes one answer gathers, if messages may be so large.
_ANSWER_BYTES: Final = 4 << 20
#: Most tasks that one answer tells a worker to stop; of the others its next ones tell.
MOST_CANCELS: Final = 4_096
#: How long batches that were being submitted wait for their submitter after a restart, in seconds.
_ORPHANS_S: Final = 60.0
#: How often in one call something is set aside that a defect keeps from being handed out.
_SET_ASIDE: Final = 8
#: Pause after a tick in which something could not be done, in seconds.
_AFTER_DEFECT_S: Final = 1.0
#: How often the wall clock is looked at while something waits for it, in seconds: how late it is noticed that somebody
#: has set it.
_LOOK_S: Final = 1.0
#: Changes that let go of much, and how long after them, in seconds, memory is given back.
_FREEING: Final = (Read, BatchesRead, Expired, OwnExpired)
_FREED_S: Final = 5.0


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector: it would look through a million new batches again and again for the garbage
    that there is not, a fifth of the time that a restart takes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a coordinator is told once.

    Attributes:
        rules: the machine's settings.
        durability: "fsync", "os" (survives a killed process, not a power cut) or "none" (answers do not wait).
        store: what to call the store towards people.
        max_message: largest message in bytes, told to peers.
        max_unread: how many ended ranges that a client has not asked for are kept for it.
        values: whether what is too large for a message is kept as values, where the engine has a place for them.
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
        """About how many bytes one answer gathers; one item that has more goes alone."""
        return min(_ANSWER_BYTES, self.max_message // 4)


class Coordinator:
    """Keeps the queue; hands out a service object for each connection.

    Args:
        engine: where the state is kept; opened by `start`, closed by `stop`.
        setup: settings.
        clock: makes the clock, when the store is open.
        on_stop: called (once, from any thread) when somebody asks the coordinator to stop.
        on_reload_keys: called (from any thread) when somebody asks it to read its keys again; the names that it has.
        on_freed: called by the ticker some time after much may have been let go: what it took may be given back.
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
        #: When to call that; None where nothing was let go since the last time.
        self._freed_at: float | None = None
        self.lock = threading.Lock()
        self.sessions = Sessions(setup.max_unread)
        #: Calls that are held because the queue is full: how many tasks each has to find room for; longest held first.
        self.held: deque[tuple[int, threading.Event]] = deque()
        self.cache = PageCache(engine)
        #: Where values are; None where none are kept.
        self.values: PeerValues | None = None
        self.stopping = False
        #: Batches made in generations that are not committed yet: taken back if their commit fails.
        self.uncommitted: dict[Generation, list[Batch]] = {}
        #: One operator's verb on ended tasks at a time: it reads the engine and then changes the machine.
        self.operators = threading.Lock()
        self._make_clock = clock
        self._orphans_at: float | None = None
        self._asked_to_stop = False
        #: How many runs had come to wait when waiting workers were last asked.
        self._handed_out = 0
        #: What `Lines.left` was when workers were last asked of which something is kept.
        self._left = 0

    def start(self) -> Opened:
        """Open the store, restore the queue, start the threads.

        Returns:
            What the engine said: epoch and losses.

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
        if self.machine.register.open:
            self._orphans_at = self.started_at + _ORPHANS_S
        self.committer = Committer(
            self.engine,
            self.lock,
            drain=self._drain,
            dirty=lambda: not self.machine.register.ledger.empty,
            committed=self._on_committed,
            failed=self._on_failed,
            wait=self.setup.durability != "none",
        )
        self.ticker = Ticker(self.clock, self.tick)
        self.committer.start()
        self.ticker.start()
        return self.opened

    def quiesce(self) -> None:
        """Take no more work, and let waiting calls go; calls under way are still answered."""
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

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Commit and close the store. Nobody may call any more.

        Returns:
            Whether everything that was decided is durable.
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
            StoreError: it cannot be written at the moment.
        """
        with self.lock:
            ticket = self.committer.ticket()
        self.committer.complete(ticket)

    def ask_to_stop(self) -> None:
        """Somebody wants the coordinator to stop; whoever runs it is told once."""
        with self.lock:
            asked, self._asked_to_stop = self._asked_to_stop, True
        if not asked:
            self.on_stop()

    # -- under the lock -------------------------------------------------------------------------------------------

    def dispatch(self, now: float, changed: str = "") -> None:
        """Hand what waits to the fetching calls that wait, longest waiting first.

        Args:
            now: the time.
            changed: session of a worker that may take more than before. Others could not be given anything when they
                began to wait, so they are asked only if more has come since.
        """
        self.let_in()
        register, fetching = self.machine.register, self.sessions.fetching
        candidates = (
            list(fetching) if register.lines.pushed > self._handed_out else [changed] if changed in fetching else []
        )
        self._handed_out = register.lines.pushed
        self._hand_to(candidates, now)
        # Where what was kept for a task is free, as that has started elsewhere or never will, nothing new has come.
        while register.keeping and register.lines.left != self._left:
            self._left = register.lines.left
            self._hand_to([session for session in fetching if session in register.keeping], now)
            if not register.lines.needed:
                register.keeping.clear()

    def _hand_to(self, sessions: list[str], now: float) -> None:
        fetching = self.sessions.fetching
        for session in sessions:
            if not self.machine.register.tally[State.PENDING]:
                return
            # A worker that may be dead is given nothing; when it says hello again, it is asked again.
            away = self.sessions.by_id[session].away
            leases = [] if away else self.lease(session, now, fetching[session].call)
            if leases:
                fetching.pop(session).serve(leases, [])

    def lease(self, session: str, now: float, call: int = 0, *, by_report: bool = False) -> list[Lease]:
        """Hand out what a worker has room for (`Machine.lease`).

        Whoever brings tasks hands them to others: an error of ours in that must not be theirs, nor keep everybody from
        what comes after the task that it is about. So that is set aside, and the next is handed out.
        """
        for _ in range(_SET_ASIDE):
            try:
                leases = self.machine.lease(session, now, call, by_report=by_report)
                self.ticker.by(self.machine.register.limits.next_at())
                return leases
            except DtqError:
                raise
            except Exception:
                log.exception("a defect keeps the next tasks from being handed out; they are set aside")
                if not self._guarded(partial(operators.set_aside, self.machine, session), now):
                    break
        return []

    def let_in(self) -> None:
        """Let calls go on that the queue has room for now, in their order."""
        if self.held:
            room = self.machine.register.room
            while self.held and self.held[0][0] <= room:
                needed, event = self.held.popleft()
                room -= needed
                event.set()

    def tell_cancelled(self) -> None:
        """Wake the fetching calls of workers that have something to stop."""
        self.let_in()
        for session, fetch in list(self.sessions.fetching.items()):
            untold = self.untold(self.sessions.by_id[session])
            if untold:
                del self.sessions.fetching[session]
                fetch.serve([], untold)

    def untold(self, state: SessionState) -> list[Doomed]:
        """What a worker is to stop and has not been told on a fetching call; it counts as told from now on."""
        doomed = self.machine.cancelling(state.hello.session)
        if not doomed:
            state.told.clear()
            return []
        untold = [d for d in doomed if (d.token, d.index) not in state.told][:MOST_CANCELS]
        state.told &= {(d.token, d.index) for d in doomed}
        state.told |= {(d.token, d.index) for d in untold}
        return untold

    def lose_worker(self, state: SessionState, now: float) -> None:
        """A worker is gone for good: its tasks run elsewhere."""
        worker = self.machine.register.workers.get(state.hello.session)
        held = len(worker.leases) if worker is not None else 0
        self.machine.lose(state.hello.session, now)
        if held:
            log.warning("worker %s is gone; %s of it go back to the queue", state.name, counted(held, "lease"))
        else:
            log.info("worker %s has left", state.name)

    def next_deadline(self) -> float:
        """When something is due next."""
        deadlines = [self.machine.next_deadline()]
        deadlines += [at for at in (self.sessions.next_deadline(), self._orphans_at, self._freed_at) if at is not None]
        if self.machine.on_wall:
            deadlines.append(self.next_on_wall())
        return min(deadlines)

    def look_at_wall(self, now: float) -> float:
        """Tell the machine what the wall clock shows; that moment."""
        wall = self.clock.wall()
        self.machine.register.wall_ahead_s = wall - now
        return wall

    def next_on_wall(self) -> float:
        """When something is due next by the wall clock, or that clock is to be looked at: somebody may set it."""
        now = self.clock.now()
        at = self.machine.next_on_wall()
        return now + (_LOOK_S if at is None else min(_LOOK_S, max(0.0, at - self.clock.wall())))

    # -- called by the threads ------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Do what is due. The ticker calls this at the next deadline, and whoever moves a clock that stands still.

        Returns:
            The next deadline.
        """
        now = self.clock.now()
        with self.lock:
            if self.machine.on_wall:
                self.look_at_wall(now)
            # A defect in one of them must not keep the others from being done.
            steps = (
                self._tick_machine,
                self._run_schedules,
                self._give_up_sessions,
                self._abandon_orphans,
                self.dispatch,
            )
            done = [self._guarded(step, now) for step in steps]
            self.committer.soon()
            freed = self._freed_at is not None and self._freed_at <= now
            if freed:
                self._freed_at = None
            deadline = self.next_deadline() if all(done) else now + _AFTER_DEFECT_S
        if freed:
            self._on_freed()
        if self.values is not None:
            self.values.tick(self.sessions.by_id.__contains__, now)
            if self.values.next_at is not None:
                deadline = min(deadline, self.values.next_at)
        return deadline

    def _guarded(self, step: Callable[[float], object], now: float) -> bool:
        """Do a step; whether it was without an error of ours."""
        try:
            step(now)
        except Exception:
            log.exception("what was due could not all be done")
            return False
        return True

    def _tick_machine(self, now: float) -> None:
        known = set(self.machine.register.workers)
        for session in [name for name, state in self.sessions.by_id.items() if state.kept_waiting]:
            self.machine.excuse(session, now)
        try:
            self.machine.tick(now)
        finally:
            for session in known - set(self.machine.register.workers):
                state = self.sessions.by_id.get(session)
                log.warning("worker %s has been silent for too long", state.name if state else session)
                if state is not None:
                    self.sessions.remove(state)

    def _run_schedules(self, now: float) -> None:
        if self.machine.schedules and not self.stopping:
            wall = now + self.machine.register.wall_ahead_s
            self.take_made(run_due(self.machine, now, wall, self.committer.trouble))

    def take_made(self, made: Made) -> None:
        """Take in what due times of schedules have brought about. Under the lock."""
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
        for batch in list(self.machine.register.open.values()):
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
        # They come last in a commit, but for the totals.
        if self._freed_at is None and any(type(change) in _FREEING for change in changes[-2:]):
            self._freed_at = self.clock.now() + _FREED_S
            self.ticker.by(self._freed_at)

    def _replace_earlier(self, made: list[Batch], now: float) -> None:
        """Batches are on disk: cancel what they replace."""
        if any([uniqueness.replace_earlier(self.machine, batch, now) for batch in made]):
            self.tell_cancelled()
            self.dispatch(now)
            self.committer.soon()

    def _on_failed(self, generations: list[Generation]) -> set[int]:
        """Take back the batches that were never acknowledged; everything else is kept and tried again."""
        taken_back: set[int] = set()
        for batch in [batch for generation in generations for batch in self.uncommitted.pop(generation, ())]:
            self.machine.withdraw(batch, self.clock.now())
            taken_back.add(batch.number)
        self.cache.forget(taken_back)
        for state in self.sessions.by_id.values():
            state.receipts = {}
        return taken_back
