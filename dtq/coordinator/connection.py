"""One connection's service object: the calls, as `model.service` promises them.

Made for a transport, or for whoever talks to the coordinator in the same process. The calls of one connection come one
at a time; different connections call at once.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from dtq import __version__
from dtq.coordinator import queries
from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import Fetch, SessionState
from dtq.core import operators
from dtq.core.batches import Batch
from dtq.core.changes import TaskRow
from dtq.core.leases import Lease
from dtq.engines.base import StoredBatch
from dtq.errors import (
    DtqError,
    InvalidValue,
    NotPermitted,
    ProtocolMismatch,
    StoreDamaged,
    StoreError,
    UnknownId,
    to_wire,
)
from dtq.model.messages import (
    PROTOCOL,
    Ended,
    Exchange,
    Failure,
    Grant,
    Hello,
    Orders,
    Receipt,
    Role,
    Submission,
    Watched,
    Welcome,
)
from dtq.model.options import Spec
from dtq.model.snapshots import BatchView, CancelReport, DeadLetter, Selection, Stats, TaskView
from dtq.model.states import Outcome, State

log = logging.getLogger("dtq.coordinator")

#: Longest wait of one call in seconds: bounds how long a thread is held by a peer that is gone without a word.
LONGEST_WAIT_S: Final = 20.0
#: Most submissions in one call.
MOST_SUBMISSIONS: Final = 100_000


class Connection:
    """The service of one connection.

    Args:
        coordinator: what the connections share.
        peer: who is at the other end, for the log.
    """

    def __init__(self, coordinator: Coordinator, peer: str) -> None:
        self._c = coordinator
        self._peer = peer
        self._state: SessionState | None = None
        self._primary = False

    # -- coming and going -----------------------------------------------------------------------------------------

    def hello(self, hello: Hello) -> Welcome:
        """See `Service.hello`."""
        c = self._c
        if hello.protocol != PROTOCOL:
            raise ProtocolMismatch(PROTOCOL, hello.protocol)
        if not hello.session or len(hello.session) > 64:
            raise InvalidValue("a session", hello.session[:80], "it has 1 to 64 characters")
        if self._state is not None:
            raise NotPermitted("a second hello")
        with c.lock:
            now = c.clock.now()
            state, resumed = c.sessions.enter(hello, now)
            if hello.role is Role.WORKER:
                resumed = c.machine.attach(hello.session, hello.name, hello.queues, now)
            self._state, self._primary = state, hello.primary
            c.ticker.by(c.next_deadline())
        if not resumed and (hello.primary or hello.role is Role.CLIENT):
            # Every command is a client: too many to be news.
            level = logging.INFO if hello.role is Role.WORKER else logging.DEBUG
            log.log(level, "%s %s from %s joins", hello.role.value, hello.name, self._peer)
        return Welcome(
            epoch=c.machine.epoch,
            resumed=resumed,
            lease_s=c.setup.rules.lease_s,
            heartbeat_s=c.setup.rules.lease_s / 3,
            max_message=c.setup.max_message,
            highest_first=c.setup.rules.highest_first,
            version=__version__,
        )

    def disconnected(self) -> None:
        """See `Session.disconnected`."""
        c = self._c
        if self._state is None:
            return
        with c.lock:
            c.sessions.leave(self._state, primary=self._primary, now=c.clock.now())
            c.ticker.by(c.sessions.next_deadline())

    @property
    def _session(self) -> SessionState:
        if self._state is None:
            raise NotPermitted("a call before hello")
        return self._state

    # -- submitting -----------------------------------------------------------------------------------------------

    def submit(self, specs: list[Spec], submissions: list[Submission], repeated: bool) -> list[Receipt]:
        """See `Service.submit`."""
        c, state = self._c, self._session
        if len(submissions) > MOST_SUBMISSIONS:
            raise InvalidValue("submissions", len(submissions), f"a call has at most {MOST_SUBMISSIONS}")
        remembered = self._remembered(submissions, repeated)
        with c.lock:
            c.refuse_if_stopping()
            if c.committer.trouble is not None:
                raise c.committer.trouble
            now = c.clock.now()
            made: list[Batch] = []
            receipts: dict[int, Receipt] = {}
            for submission in submissions:
                known = (state.receipts.get(submission.number) if repeated else None) or remembered.get(
                    submission.number
                )
                receipts[submission.number] = known or self._accept(specs, submission, made, now)
            state.receipts = receipts
            c.dispatch(now)
            c.ticker.by(c.machine.register.waiting.next_at())
            ticket = c.committer.ticket()
            if ticket is not None and made:
                c.uncommitted.setdefault(ticket, []).extend(made)
        c.committer.settle(ticket)
        return list(receipts.values())

    def _accept(self, specs: list[Spec], submission: Submission, made: list[Batch], now: float) -> Receipt:
        c = self._c
        try:
            if not 0 <= submission.spec < len(specs):
                raise InvalidValue("a spec", submission.spec, f"the call has {len(specs)}")
            last = c.machine.register.last_batch
            batch, page = c.machine.submit(specs[submission.spec], submission, self._session.hello.session, now)
            if batch.number > last:
                made.append(batch)
            if page is not None:
                c.cache.add([page])
            return Receipt(batch=batch.number, size=batch.size)
        except DtqError as error:
            code, details = to_wire(error)
            return Receipt(batch=0, size=0, code=code, details=details)

    def _remembered(self, submissions: list[Submission], repeated: bool) -> dict[int, Receipt]:
        """Receipts of submissions that finished batches answer for: repeated ones, and those with a user's key."""
        c = self._c
        keyed = [s for s in submissions if s.batch is None and (s.key is not None or repeated)]
        if not keyed:
            return {}
        self._flush()
        found: dict[int, Receipt] = {}
        for submission in keyed:
            key = submission.key or f"{self._session.hello.session}/{submission.number}"
            for stored in c.engine.batches(key=key):
                if stored.row.finished_at is not None or submission.key is None:
                    found[submission.number] = Receipt(batch=stored.row.batch, size=stored.row.size)
        return found

    def _settle(self) -> None:
        """Wait until everything so far is durable.

        Raises:
            StoreError: it cannot be made so at the moment.
        """
        with self._c.lock:
            ticket = self._c.committer.ticket()
        self._c.committer.settle(ticket)

    def _flush(self) -> None:
        """Wait until everything so far is in the engine, for a call that is going to look there.

        While the store cannot be written (the committer logs it) looking goes on with what is there.
        """
        with self._c.lock:
            ticket = self._c.committer.ticket()
        if ticket is not None:
            with contextlib.suppress(StoreError):
                ticket.wait()

    # -- working --------------------------------------------------------------------------------------------------

    def exchange(self, exchange: Exchange) -> Orders:
        """See `Service.exchange`."""
        c, state = self._c, self._session
        if not state.is_worker:
            raise NotPermitted("exchange by a client")
        with c.lock:
            if exchange.fetch:
                c.refuse_if_stopping()
            now = c.clock.now()
            self._note(state, exchange, now)
            answer = c.machine.exchange(state.hello.session, exchange, now)
            c.cache.add(answer.pages)
            superseded = c.sessions.fetching.pop(state.hello.session, None) if exchange.fetch else None
            if superseded is not None:
                superseded.serve([], [])
            # A worker that has to be told something is given what there is, and does not wait.
            wait = exchange.wait_s > 0 and not answer.drop
            fetch = self._fetch(state, wait, now) if exchange.fetch else None
            c.dispatch(now)
            c.ticker.by(c.machine.register.waiting.next_at())
            ticket = c.committer.ticket()
        if fetch is not None:
            grants = self._await(state, fetch, exchange.wait_s)
            return Orders(grants=grants, cancel=tuple(fetch.cancel), drop=tuple(answer.drop))
        if exchange.succeeded or exchange.failed or exchange.released:
            c.committer.settle(ticket)
        return Orders(cancel=tuple(answer.cancel), drop=tuple(answer.drop))

    def _note(self, state: SessionState, exchange: Exchange, now: float) -> None:
        state.seen_at = now
        state.draining = exchange.capacity == 0
        leases = self._c.machine.register.leases
        state.progress = {at: done for at, done in state.progress.items() if at[0] in leases}
        for said in exchange.progress:
            state.progress[said.token, said.index] = (said.done, said.total)

    def _fetch(self, state: SessionState, wait: bool, now: float) -> Fetch:
        """A fetching call: served already, or waiting."""
        c = self._c
        fetch = Fetch()
        cancel = c.untold(state)
        leases = c.machine.lease(state.hello.session, now)
        if leases or cancel or not wait:
            fetch.serve(leases, cancel)
        else:
            c.sessions.fetching[state.hello.session] = fetch
        return fetch

    def _await(self, state: SessionState, fetch: Fetch, wait_s: float) -> tuple[Grant, ...]:
        c = self._c
        if not fetch.wait(min(wait_s, LONGEST_WAIT_S)):
            with c.lock:
                if c.sessions.fetching.get(state.hello.session) is fetch:
                    del c.sessions.fetching[state.hello.session]
        return tuple([grant for lease in fetch.leases if (grant := self._grant(lease)) is not None])

    def _grant(self, lease: Lease) -> Grant | None:
        batch, lo, hi = lease.batch, lease.lo, lease.hi
        try:
            arguments = self._c.cache.arguments(batch.number, lo, hi)
        except (StoreDamaged, LookupError) as error:
            self._fail_lease(lease, str(error))
            return None
        return Grant(
            token=lease.token,
            batch=batch.number,
            lo=lo,
            hi=hi,
            single=batch.single,
            attempt=lease.attempt,
            spec=batch.entry.number,
            arguments=arguments,
        )

    def _fail_lease(self, lease: Lease, why: str) -> None:
        """The arguments of a lease cannot be read: its tasks fail, with the reason, until they are dead letters."""
        c = self._c
        log.error("the arguments of %d.%d to %d cannot be read: %s", lease.batch.number, lease.lo, lease.hi - 1, why)
        failure = Failure(exception="dtq.errors.StoreDamaged", message=f"the task's arguments cannot be read: {why}")
        with c.lock:
            now = c.clock.now()
            while lease.token in c.machine.register.leases:
                index = lease.lo
                c.machine.register.shorten(lease, index + 1)
                c.machine.register.attempt_ended(lease, index, Outcome.FAILED, failure, now, now)
            c.ticker.by(c.machine.register.waiting.next_at())
            c.committer.ticket()

    def spec(self, number: int) -> Spec:
        """See `Service.spec`."""
        with self._c.lock:
            entry = self._c.machine.register.specs_by_number.get(number)
        if entry is None:
            raise UnknownId(f"spec {number}")
        return entry.spec

    # -- following ------------------------------------------------------------------------------------------------

    def follow(self, batches: list[int]) -> list[int]:
        """See `Service.follow`."""
        c, state = self._c, self._session
        with c.lock:
            for number in batches:
                if number in c.machine.register.batches:
                    c.sessions.follow(number, state)
        self._flush()
        unknown: list[int] = []
        for number in batches:
            runs = queries.ended_ranges(c, number)
            if runs is None:
                unknown.append(number)
                continue
            with c.lock:
                for run in runs:
                    state.publish(run)
        return unknown

    def watch(self, cursor: int, wait_s: float) -> Watched:
        """See `Service.watch`."""
        c, state = self._c, self._session
        with c.lock:
            ended = state.since(cursor)
            more = None if ended or c.stopping else state.watch()
        if more is not None:
            more.wait(min(wait_s, LONGEST_WAIT_S))
            with c.lock:
                ended = state.since(cursor)
        taken: list[Ended] = []
        room = queries.ANSWER_BYTES
        for at, run in ended:
            described = queries.describe_ended(c, run.batch, run.lo, run.hi, run.state)
            taken += described
            cursor = at
            room -= sum(len(e.results) + 200 for e in described)
            if room < 0:
                break
        return Watched(cursor=cursor, ended=tuple(taken))

    # -- looking --------------------------------------------------------------------------------------------------

    def batch(self, batch: int) -> BatchView:
        """See `Service.batch`."""
        self._flush()
        return queries.batch(self._c, batch)

    def task(self, batch: int, index: int) -> TaskView:
        """See `Service.task`."""
        self._flush()
        return queries.task(self._c, batch, index)

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """See `Service.results`."""
        self._flush()
        return queries.results(self._c, batch, lo, hi)

    def tasks(self, selection: Selection) -> list[TaskView]:
        """See `Service.tasks`."""
        self._flush()
        return queries.tasks(self._c, selection)

    def dead_letters(self, selection: Selection) -> list[DeadLetter]:
        """See `Service.dead_letters`."""
        self._flush()
        return queries.dead_letters(self._c, selection)

    def stats(self) -> Stats:
        """See `Service.stats`."""
        return queries.stats(self._c)

    # -- operating ------------------------------------------------------------------------------------------------

    def cancel(self, selection: Selection) -> CancelReport:
        """See `Service.cancel`."""
        c = self._c
        self._flush()
        targets = queries.cancel_targets(c, selection)
        cancelled = stopping = finished = 0
        with c.lock:
            now = c.clock.now()
            for number, index in targets:
                batch = c.machine.register.batches.get(number)
                if batch is None:
                    finished += 1
                elif index < 0:
                    never, stopped = operators.cancel_batch(c.machine, batch, now, selection.state)
                    cancelled, stopping = cancelled + never, stopping + stopped
                else:
                    state = operators.cancel_task(c.machine, batch, index, now, selection.state)
                    cancelled += state is State.CANCELLED
                    stopping += state is State.RUNNING
                    finished += state is None and selection.state is None
            c.tell_cancelled()
            ticket = c.committer.ticket()
        c.committer.settle(ticket)
        return CancelReport(cancelled=cancelled, stopping=stopping, finished=finished)

    def retry_dead(self, selection: Selection) -> int:
        """See `Service.retry_dead`."""
        c = self._c
        with c.operators:
            put_back = 0
            for stored, tasks in self._dead(selection):
                with c.lock:
                    now = c.clock.now()
                    put_back += operators.revive(c.machine, stored.row, stored.spec, tasks, now)
                    c.dispatch(now)
            self._settle()
        log.info("%s put %d dead letters back", self._session.hello.name or self._peer, put_back)
        return put_back

    def purge_dead(self, selection: Selection) -> int:
        """See `Service.purge_dead`."""
        c = self._c
        with c.operators:
            purged = 0
            for stored, tasks in self._dead(selection):
                with c.lock:
                    purged += operators.purge(c.machine, stored.row, tasks)
            self._settle()
        log.info("%s purged %d dead letters", self._session.hello.name or self._peer, purged)
        return purged

    def _dead(self, selection: Selection) -> list[tuple[StoredBatch, list[TaskRow]]]:
        """The dead letters that match, by batch.

        Raises:
            UnknownId: one of the selected ids is not a dead letter.
        """
        self._flush()
        runs = queries.dead_runs(self._c, selection)
        found = {(run.batch.row.batch, run.lo) for run in runs} | {(run.batch.row.batch, -1) for run in runs}
        for number, index in selection.ids:
            if (number, index) not in found:
                raise UnknownId(f"{number} (dead letter)" if index < 0 else f"{number}.{index} (dead letter)")
        by_batch: dict[int, tuple[StoredBatch, list[TaskRow]]] = {}
        for run in runs:
            if run.task is not None:
                by_batch.setdefault(run.batch.row.batch, (run.batch, []))[1].append(run.task)
        return list(by_batch.values())

    def stop(self) -> None:
        """See `Service.stop`."""
        log.info("%s asks the coordinator to stop", self._session.hello.name or self._peer)
        self._c.on_stop()
