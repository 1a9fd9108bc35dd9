"""The service object of one connection: the calls, as `model.service` promises them.

Made for a transport, or for a caller in the same process. The calls of one connection come one at a time; different
connections call at once.
"""

from __future__ import annotations

import contextlib
import logging
import time

from dtq import __version__
from dtq.coordinator import (
    arguments,
    batch_list,
    dashboard,
    explaining,
    graph,
    holding,
    letting_go,
    operating,
    output,
    queries,
    rerunning,
    results,
    scheduling,
    steering,
    submitting,
)
from dtq.coordinator.committer import Generation
from dtq.coordinator.granting import grants_of
from dtq.coordinator.service import LONGEST_WAIT_S, MOST_CANCELS, Coordinator
from dtq.coordinator.sessions import PARTING_WAIT_S, Fetch, SessionState
from dtq.coordinator.values import PeerValues
from dtq.coordinator.vetting import report as vetting_of
from dtq.core.leases import Lease
from dtq.core.reporting import Answer
from dtq.errors import (
    InvalidValue,
    NotPermitted,
    ProtocolMismatch,
    SessionUnknown,
    StoreError,
    UnknownId,
)
from dtq.model.dashboard import Dashboard, SlotUse
from dtq.model.explanations import Explanation
from dtq.model.limits import Limit, LimitView
from dtq.model.messages import (
    PROTOCOL,
    Ended,
    Exchange,
    Followed,
    Grant,
    Hello,
    Orders,
    Receipt,
    Role,
    Submission,
    TaskRange,
    Watched,
    Welcome,
    WorkerOrder,
)
from dtq.model.options import Spec
from dtq.model.pages import PAGE_BLOBS
from dtq.model.queues import Steering, SteeringChange
from dtq.model.schedules import Schedule, ScheduleView
from dtq.model.snapshots import (
    Attempt,
    BatchList,
    BatchSelection,
    BatchView,
    CancelReport,
    DeadLetter,
    DeadSummary,
    GraphNode,
    GroupBy,
    OrderedWorker,
    OutputPart,
    QueueView,
    RerunReport,
    Selection,
    Stats,
    TaskArguments,
    TaskView,
    WorkerView,
)
from dtq.model.states import State
from dtq.wording import counted

log = logging.getLogger("dtq.coordinator")


class Connection:
    """The service of one connection.

    Args:
        coordinator: shared by the connections.
        peer: the peer, for the log.
    """

    def __init__(self, coordinator: Coordinator, peer: str) -> None:
        self._c = coordinator
        self._peer = peer
        self._state: SessionState | None = None
        self._primary = False

    # -- begin and end --------------------------------------------------------------------------------------------

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
            known = c.sessions.by_id.get(hello.session)
            if known is not None and known.hello.role is not hello.role:
                raise NotPermitted(f"a hello as {hello.role.value} in the session of a {known.hello.role.value}")
            state, resumed = c.sessions.enter(hello, now)
            if hello.role is Role.WORKER:
                resumed = c.machine.attach(
                    hello.session,
                    state.name,
                    hello.queues,
                    now,
                    slots=hello.slots,
                    offers=hello.offers,
                    chains=hello.chains,
                )
                c.lost_workers.back(state.name)
                c.dispatch(now, hello.session)  # its other connection may have waited for its return
            else:
                c.machine.resume(hello.session)
            self._state, self._primary = state, hello.primary
            c.ticker.by(c.next_deadline())
        if not resumed and (hello.primary or hello.role is Role.CLIENT):
            # Every command is a client: too many for the log at INFO.
            level = logging.INFO if hello.role is Role.WORKER else logging.DEBUG
            log.log(level, "%s %s from %s joins", hello.role.value, state.name, self._peer)
        return Welcome(
            epoch=c.machine.epoch,
            resumed=resumed,
            lease_s=c.setup.rules.lease_s,
            heartbeat_s=c.setup.rules.lease_s / 3,
            max_message=c.setup.max_message,
            max_blob=c.setup.rules.max_blob,
            max_piece=max(1, min(PAGE_BLOBS, c.setup.rules.max_tasks // 8, c.setup.rules.max_batch)),
            highest_first=c.setup.rules.highest_first,
            version=__version__,
            values=None if c.values is None else c.values.offer,
            store=c.opened.store,
        )

    def alive(self) -> None:
        """See `Session.alive`."""
        c, state = self._c, self._state
        if state is None or not state.is_worker:
            return
        with c.lock:
            if c.sessions.by_id.get(state.hello.session) is state:
                state.seen_at = c.clock.now()
                c.machine.excuse(state.hello.session, state.seen_at)

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

    def _flush(self) -> None:
        """Wait until everything so far is in the engine, for a call that is going to read there.

        While the store cannot be written (the committer logs it) the call reads the older state.
        """
        with contextlib.suppress(StoreError):
            self._c.flush()

    # -- submitting -----------------------------------------------------------------------------------------------

    def submit(self, specs: list[Spec], submissions: list[Submission], repeated: bool) -> list[Receipt]:
        """See `Service.submit`."""
        return submitting.submit(self._c, self._session, specs, submissions, repeated)

    # -- values ---------------------------------------------------------------------------------------------------

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        """See `Service.write_value`."""
        session = self._session.hello.session
        self._values.write(session, segment, offset, data)

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        """See `Service.read_value`."""
        _ = self._session
        return self._values.read(segment, offset, length)

    def open_value(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """See `Session.open_value`."""
        _ = self._session
        return self._values.open(segment, offset, length)

    @property
    def _values(self) -> PeerValues:
        if self._c.values is None:
            raise NotPermitted("a value, to a coordinator that keeps none,")
        return self._c.values

    # -- working --------------------------------------------------------------------------------------------------

    def exchange(self, exchange: Exchange) -> Orders:
        """See `Service.exchange`."""
        c, state = self._c, self._session
        if not state.is_worker:
            raise NotPermitted("exchange by a client")
        exchange, vetting = vetting_of(c, state, exchange)
        try:
            if vetting is not None:
                vetting.sync(exchange.succeeded)
            answer, fetch, leases = self._exchange(state, exchange)
        finally:
            if vetting is not None:
                vetting.close()
        if fetch is not None:
            grants = self._await(state, fetch, exchange.wait_s, told=bool(answer.drop))
            cancel = tuple(fetch.cancel)
        else:
            grants = grants_of(c, leases, large=False, inline=state.hello.inline)
            cancel = tuple(answer.cancel[:MOST_CANCELS])
        return Orders(
            grants=grants,
            cancel=cancel,
            drop=tuple(answer.drop),
            order=c.sessions.untold_order(state),
            follow=self._followed(state),
        )

    def _exchange(self, state: SessionState, exchange: Exchange) -> tuple[Answer, Fetch | None, list[Lease]]:
        """Apply a report, durably."""
        c = self._c
        with c.lock:
            if exchange.fetch:
                c.refuse_if_stopping()
            if c.sessions.by_id.get(state.hello.session) is not state:
                raise SessionUnknown(state.hello.session)
            now = c.clock.now()
            answer = c.machine.reporting.exchange(state.hello.session, exchange, now)
            self._note(state, exchange, now, overtaken=answer.overtaken)
            self._part(state, exchange)
            c.cache.add(answer.pages)
            fetches = exchange.fetch and not answer.over
            brings = exchange.more and not exchange.fetch and not answer.over
            self._let_go(state, fetches)
            # A worker with orders gets its grants at once, and does not wait.
            wait = exchange.wait_s > 0 and not answer.drop and c.sessions.untold_order(state) is None
            fetch = self._fetch(state, wait, exchange.call, now) if fetches else None
            leases = self._more(state, exchange.call, now) if brings else []
            c.dispatch(now, state.hello.session)
            c.ticker.by(c.machine.queue_state.waiting.next_at())
            c.ticker.by(c.machine.queue_state.probe_at)
            told = bool(exchange.succeeded or exchange.failed or exchange.released)
            ticket = c.committer.ticket() if told or leases else None
            if told:
                state.reported = ticket
            else:
                c.committer.soon()
        if told:
            c.committer.settle(ticket)
        else:
            self._record(leases, ticket)
        return answer, fetch, leases

    def note_slots(self, wall: float, slots: list[SlotUse]) -> None:
        """See `Service.note_slots`."""
        c, state = self._c, self._session
        if not state.is_worker:
            raise NotPermitted("an account of slots by a client")
        with c.lock:
            state.seen_at = state.slots_at = c.clock.now()
            state.slots = tuple(slots)
            state.ahead_s = wall - c.clock.wall()
            c.machine.excuse(state.hello.session, state.seen_at)

    def _followed(self, state: SessionState) -> tuple[Followed, ...]:
        """The worker's tasks whose output somebody follows."""
        if not self._c.printing:
            return ()
        with self._c.lock:
            return self._c.printing.tell(state.hello.session, time.monotonic())

    def _part(self, state: SessionState, exchange: Exchange) -> None:
        """Tell a worker that it is broken, when it asks for work; and make it ask.

        Raises:
            WorkerBroken: the worker is broken, and asks.
        """
        broken = self._c.machine.broken(state.hello.session)
        if broken is None:
            return
        if exchange.fetch and exchange.capacity:
            raise broken
        fetch = self._c.sessions.fetching.pop(state.hello.session, None)
        if fetch is not None:
            fetch.serve([], [])

    def _let_go(self, state: SessionState, superseded: bool) -> None:
        """Answer the waiting fetching call, if another replaces it or nobody reads its answer any more."""
        c, session = self._c, state.hello.session
        waiting = c.sessions.fetching.get(session)
        if waiting is not None and (superseded or c.machine.is_over(session, waiting.call)):
            del c.sessions.fetching[session]
            waiting.serve([], [])

    def _note(self, state: SessionState, exchange: Exchange, now: float, *, overtaken: bool) -> None:
        state.seen_at = now
        if exchange.printed:  # also of an overtaken report: it is not repeated
            leases = self._c.machine.leases_of(state.hello.session)
            self._c.printing.told(state.hello.session, exchange.printed, leases)
        if overtaken:
            return
        state.draining = exchange.capacity == 0 and not exchange.trouble
        state.follows = exchange.follows
        state.trouble = exchange.trouble
        leases = self._c.machine.leases_of(state.hello.session)
        if state.progress:
            state.progress = {at: done for at, done in state.progress.items() if at[0] in leases}
        for said in exchange.progress:
            lease = leases.get(said.token)
            if lease is not None and lease.lo <= said.index < lease.hi:  # it cannot report other workers' tasks
                state.progress[said.token, said.index] = (said.done, said.total)

    def _fetch(self, state: SessionState, wait: bool, call: int, now: float) -> Fetch:
        """A fetching call: served already, or waiting."""
        c = self._c
        cancel = c.untold(state)
        leases = c.lease(state.hello.session, now, call) if c.sessions.may_take(state) else []
        waits = wait and not leases and not cancel and state.hello.session not in c.printing.untold
        fetch = Fetch(leases, cancel, waits=waits, call=call, ticket=c.committer.ticket() if leases else None)
        if waits:
            c.sessions.fetching[state.hello.session] = fetch
        return fetch

    def _more(self, state: SessionState, call: int, now: float) -> list[Lease]:
        """The leases that the answer to a report brings. A chain goes on by the call that waits for work, if there is
        one: that answer need not wait for the commit of the report.
        """
        c, session = self._c, state.hello.session
        if c.stopping or not c.sessions.may_take(state):
            return []
        if session in c.sessions.fetching and c.machine.granting.may_have_successors(session):
            return []
        return c.lease(session, now, call, by_report=True)

    def _await(self, state: SessionState, fetch: Fetch, wait_s: float, *, told: bool) -> tuple[Grant, ...]:
        c = self._c
        # A worker that waits here sends nothing meanwhile, and must not count as silent.
        if not fetch.wait(min(_bounded(wait_s), c.setup.rules.lease_s / 2)):
            with c.lock:
                if c.sessions.fetching.get(state.hello.session) is fetch:
                    del c.sessions.fetching[state.hello.session]
        self._record(fetch.leases, fetch.ticket)
        # Other orders must not be delayed by a large answer.
        return grants_of(c, fetch.leases, large=not (fetch.cancel or told), inline=state.hello.inline)

    def _record(self, leases: list[Lease], ticket: Generation | None) -> None:
        """Write leases that count against limits or hold units, before their worker begins: a coordinator that is
        killed must not grant the same room once more. On a full disk such work goes on unwritten."""
        bounded = self._c.machine.queue_state.limits.buckets.keys()
        if any([lease.units or not bounded.isdisjoint(lease.batch.limits) for lease in leases]):
            with contextlib.suppress(StoreError):
                self._c.committer.settle(ticket)

    def spec(self, number: int) -> Spec:
        """See `Service.spec`."""
        with self._c.lock:
            entry = self._c.machine.queue_state.specs_by_number.get(number)
        if entry is None:
            raise UnknownId(f"spec {number}")
        return entry.spec

    # -- following ------------------------------------------------------------------------------------------------

    def follow(self, batches: list[int]) -> list[int]:
        """See `Service.follow`."""
        c, state = self._c, self._session
        with c.lock:
            for number in batches:
                c.sessions.follow(number, state)
        self._flush()
        unknown: list[int] = []
        for number in dict.fromkeys(batches):
            known = queries.ended_ranges(c, number)
            finished, runs = (True, []) if known is None else known
            if known is None:
                unknown.append(number)
            with c.lock:
                if finished:
                    c.sessions.unfollow(number, state)
                state.publish_past(number, runs)
        return unknown

    def watch(self, cursor: int, wait_s: float) -> Watched:
        """See `Service.watch`."""
        c, state = self._c, self._session
        with c.lock:
            ended = state.since(cursor)
            more = None if ended or c.stopping else state.watch()
            longest_s = PARTING_WAIT_S if state.parting else LONGEST_WAIT_S
        if more is not None:
            more.wait(min(longest_s, _bounded(wait_s)))
            with c.lock:
                ended = state.since(cursor)
        return results.watched(c, cursor, ended, state.hello.inline)

    def let_go(self, read: list[TaskRange]) -> None:
        """See `Service.let_go`."""
        letting_go.let_go(self._c, self._session, read)

    # -- holding --------------------------------------------------------------------------------------------------

    def hold(self, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        """See `Service.hold`."""
        return holding.hold(self._c, self._session, digest, description, ttl_s)

    def release(self, digests: list[bytes]) -> None:
        """See `Service.release`."""
        holding.release(self._c, self._session, digests)

    # -- queries --------------------------------------------------------------------------------------------------

    def batch(self, batch: int) -> BatchView:
        """See `Service.batch`."""
        return queries.batch(self._c, batch)

    def batches(self, selection: BatchSelection) -> BatchList:
        """See `Service.batches`."""
        _ = self._session
        return batch_list.batches(self._c, selection)

    def task(self, batch: int, index: int) -> TaskView:
        """See `Service.task`."""
        return queries.task(self._c, batch, index)

    def explain(self, batch: int, index: int) -> list[Explanation]:
        """See `Service.explain`."""
        return explaining.explain(self._c, batch, index)

    def attempts(self, batch: int, index: int, first: int) -> list[Attempt]:
        """See `Service.attempts`."""
        return queries.attempts(self._c, batch, index, first)[0]

    def output(self, batch: int, index: int, attempt: int, offset: int, wait_s: float) -> OutputPart:
        """See `Service.output`."""
        return output.output(self._c, batch, index, attempt, offset, _bounded(wait_s))

    def arguments(self, tasks: list[tuple[int, int]], most: int) -> list[TaskArguments]:
        """See `Service.arguments`."""
        return arguments.arguments(self._c, tasks, most)

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """See `Service.results`."""
        return results.results(self._c, batch, lo, hi, self._session.hello.inline)

    def tasks(self, selection: Selection) -> list[TaskView]:
        """See `Service.tasks`."""
        return queries.tasks(self._c, _checked(selection))

    def graph(self, batch: int, limit: int) -> list[GraphNode]:
        """See `Service.graph`."""
        return graph.graph(self._c, batch, limit)

    def dead_letters(self, selection: Selection) -> list[DeadLetter]:
        """See `Service.dead_letters`."""
        self._flush()
        return queries.dead_letters(self._c, _checked(selection))

    def dashboard(self, since: float) -> Dashboard:
        """See `Service.dashboard`."""
        return dashboard.dashboard(self._c, since)

    def dead_summary(self, selection: Selection, by: GroupBy) -> DeadSummary:
        """See `Service.dead_summary`."""
        self._flush()
        return queries.dead_summary(self._c, _checked(selection), by)

    def stats(self) -> Stats:
        """See `Service.stats`."""
        return queries.stats(self._c)

    def queues(self, after: str) -> list[QueueView]:
        """See `Service.queues`."""
        return queries.queues(self._c, after)

    def workers(self, after: str, session: str) -> list[WorkerView]:
        """See `Service.workers`."""
        return queries.workers(self._c, after, session)

    # -- operating ------------------------------------------------------------------------------------------------

    def cancel(self, selection: Selection) -> CancelReport:
        """See `Service.cancel`."""
        return operating.cancel(self._c, _checked(selection))

    def retry_dead(self, selection: Selection) -> int:
        """See `Service.retry_dead`."""
        count = operating.retry_dead(self._c, _checked(selection))
        log.info("%s put %d dead letters back", self._who, count)
        return count

    def purge_dead(self, selection: Selection) -> int:
        """See `Service.purge_dead`."""
        count = operating.purge_dead(self._c, _checked(selection))
        log.info("%s purged %d dead letters", self._who, count)
        return count

    def rerun(self, selection: Selection) -> RerunReport:
        """See `Service.rerun`."""
        _ = self._session
        report = rerunning.rerun(self._c, _checked(selection))
        log.info("%s submits %s once more", self._who, counted(report.tasks, "ended task"))
        return report

    def reprioritize(self, selection: Selection, priority: int) -> int:
        """See `Service.reprioritize`."""
        count = operating.reprioritize(self._c, _checked(selection), priority)
        log.info("%s gave %d waiting tasks the priority %d", self._who, count, priority)
        return count

    # -- queues and limits ----------------------------------------------------------------------------------------

    def steer_queue(self, queue: str, how: SteeringChange) -> Steering:
        """See `Service.steer_queue`."""
        _ = self._session
        after = steering.steer(self._c, queue, how)
        log.info("%s steers the queue %s: %s", self._who, queue, after)
        return after

    def order_workers(self, names: list[str], order: WorkerOrder) -> list[OrderedWorker]:
        """See `Service.order_workers`."""
        _ = self._session
        ordered = steering.order_workers(self._c, names, order)
        log.info("%s orders %s to %s", self._who, counted(len(ordered), "worker"), order.value)
        return ordered

    def set_limit(self, limit: Limit) -> None:
        """See `Service.set_limit`."""
        _ = self._session
        steering.set_limit(self._c, limit)
        log.info("%s has set %s", self._who, limit)

    def limits(self, after: str) -> list[LimitView]:
        """See `Service.limits`."""
        return steering.limits(self._c, after)

    def remove_limit(self, name: str) -> None:
        """See `Service.remove_limit`."""
        _ = self._session
        steering.remove_limit(self._c, name)
        log.info("%s has removed the limit %s", self._who, name)

    # -- schedules ------------------------------------------------------------------------------------------------

    def set_schedule(self, schedule: Schedule, replace: bool, dry_run: bool) -> str:
        """See `Service.set_schedule`."""
        _ = self._session
        return scheduling.define(self._c, schedule, change=replace, dry_run=dry_run)

    def schedules(self, after: str) -> list[ScheduleView]:
        """See `Service.schedules`."""
        return scheduling.listed(self._c, after)

    def schedule(self, name: str) -> ScheduleView:
        """See `Service.schedule`."""
        return scheduling.show(self._c, name)

    def pause_schedule(self, name: str, paused: bool) -> None:
        """See `Service.pause_schedule`."""
        scheduling.pause(self._c, name, paused=paused)
        log.info("%s has schedule %s %s", self._who, name, "paused" if paused else "resumed")

    def run_schedule(self, name: str) -> int:
        """See `Service.run_schedule`."""
        return scheduling.run(self._c, name)

    def remove_schedule(self, name: str) -> None:
        """See `Service.remove_schedule`."""
        scheduling.remove(self._c, name)
        log.info("%s has removed schedule %s", self._who, name)

    # -- the coordinator itself -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """See `Service.stop`."""
        log.info("%s asks the coordinator to stop", self._who)
        self._c.ask_to_stop()

    def reload_keys(self) -> list[str]:
        """See `Service.reload_keys`."""
        return self._c.on_reload_keys()

    @property
    def _who(self) -> str:
        return self._session.hello.name or self._peer


def _checked(selection: Selection) -> Selection:
    """The selection, if valid.

    Raises:
        InvalidValue: its limit is negative.
    """
    if selection.limit < 0:
        raise InvalidValue("a limit", selection.limit, "it is 0 for none, or more")
    if selection.after is not None and selection.after[0] not in {state.value for state in State}:
        raise InvalidValue("a place", selection.after[0], "it begins with a state")
    return selection


def _bounded(wait_s: float) -> float:
    """A wait's length, bounded; NaN counts as the longest."""
    return min(LONGEST_WAIT_S, wait_s)
