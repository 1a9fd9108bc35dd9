"""The first screen: one bounded answer about everything, for the terminal dashboard and the page.

Nothing here walks the tasks: numbers come from the machine's counts, from leases, and from the workers' own accounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from dtq import __version__
from dtq.coordinator import attention
from dtq.coordinator.lost_workers import LostWorker
from dtq.coordinator.queries import session_name
from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.core.depths import Depths
from dtq.core.glance import Glance, QueueNumbers
from dtq.core.leases import Lease
from dtq.core.queues import steering
from dtq.engines.base import EndedRun
from dtq.model.dashboard import (
    Dashboard,
    LatestFailure,
    QueueLine,
    SlotLine,
    SlotUse,
    WorkerLine,
    WorkerState,
)
from dtq.model.messages import WorkerOrder
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State, exception_name
from dtq.records import replace
from dtq.wording import PYTHON_VERSION

#: Most queues and workers on the first screen; most slots of one worker, and of all of them.
MOST_QUEUES: Final = 100
MOST_WORKERS: Final = 300
_SLOTS: Final = 64
_ALL_SLOTS: Final = 2_000
#: Most of the latest failures.
_FAILURES: Final = 10
#: Parts of a lease after which a worker that has said nothing counts as silent.
_SILENT: Final = 0.6
#: The order of workers by state; those that need somebody come first.
_FIRST: Final = (WorkerState.LOST, WorkerState.IN_TROUBLE, WorkerState.SILENT)


def dashboard(c: Coordinator, since: float) -> Dashboard:
    """See `Service.dashboard`."""
    trouble = c.committer.trouble
    with c.lock:
        now = c.clock.now()
        queue_state = c.machine.queue_state
        totals = c.totals()
        lost = c.lost_workers.of_late(now)
        glance = Glance(queue_state)
        workers = _workers(c, glance, lost, now)
        first = glance.first(MOST_QUEUES)
        depths = Depths(queue_state, [queue.name for queue in first])
        lines = tuple(_queue(c, queue, depths, now) for queue in first)
        oldest = [line.oldest_s for line in lines if line.oldest_s is not None]
        longest = _longest(queue_state.leases.values())
        hour_s, hour_done, hour_failed = c.history.last_hour(totals)
        told = attention.gather(c, glance, workers, lost, trouble, now)
        alive = [worker for worker in workers if worker.state is not WorkerState.LOST]
        failures = list(queue_state.latest_failures)
        answer = Dashboard(
            now=now,
            epoch=c.machine.epoch,
            started_at=c.started_at,
            pid=os.getpid(),
            version=__version__,
            python=PYTHON_VERSION,
            store=c.setup.store,
            counts=glance.counts(),
            rates=c.history.rates(now, totals),
            hour_s=min(hour_s, max(1.0, now - c.started_at)),
            hour_done=hour_done,
            hour_failed=hour_failed,
            oldest_s=max(oldest, default=None),
            longest=None if longest is None else _slot(c, longest, 0, None, now),
            longest_worker="" if longest is None else longest.worker.name,
            alive=len(alive),
            lost=len(lost),
            slots=sum(worker.size for worker in alive),
            busy=sum(worker.busy for worker in alive),
            history=c.history.since(since),
            attention=told,
            queues=lines,
            more_queues=len(glance.names()) - len(lines),
            workers=tuple(_few_slots(workers[:MOST_WORKERS])),
            more_workers=max(0, len(workers) - MOST_WORKERS),
        )
    if len(failures) < _FAILURES and answer.counts.dead:
        failures = _with_earlier(c, failures, now)
    return replace(answer, failures=tuple(sorted(failures, key=attrgetter("at"), reverse=True)))


# -- queues -----------------------------------------------------------------------------------------------------------


def _queue(c: Coordinator, queue: QueueNumbers, depths: Depths, now: float) -> QueueLine:
    how = steering(c.machine.queue_state, queue.name)
    oldest_at = depths.oldest_at(queue.name) if queue.waiting else None
    return QueueLine(
        name=queue.name,
        ready=queue.ready,
        running=queue.running,
        scheduled=queue.scheduled,
        blocked=queue.blocked,
        oldest_s=None if oldest_at is None else max(0.0, now - oldest_at),
        depths=depths.of(queue.name, queue.waiting) if queue.waiting else (),
        done_per_min=c.paces.per_minute(queue.name, now, c.machine.queue_state.tally.done),
        workers=queue.workers,
        paused=how.paused,
        draining=how.draining,
    )


# -- workers ----------------------------------------------------------------------------------------------------------


def _workers(c: Coordinator, glance: Glance, lost: list[LostWorker], now: float) -> list[WorkerLine]:
    """All workers: those that need somebody first, then the others by name."""
    found = [replace(worker.line, seen_s=now - worker.at) for worker in lost]
    found += [_worker(c, glance, state, now) for state in c.sessions.by_id.values() if state.is_worker]
    return sorted(found, key=lambda line: (line.state not in _FIRST, line.name))


def _worker(c: Coordinator, glance: Glance, state: SessionState, now: float) -> WorkerLine:
    hello = state.hello
    worker = c.machine.queue_state.workers.get(hello.session)
    runs = glance.running.get(hello.session, [])
    slots = _slots(c, state, runs, now)
    known = [slot.cpu for slot in slots if slot.cpu is not None]
    sizes = [slot.memory for slot in slots if slot.memory is not None]
    seen_s = max(0.0, now - state.seen_at)
    return WorkerLine(
        session=session_name(hello.session),
        name=state.name,
        host=hello.host,
        pid=hello.pid,
        state=_state(c, state, seen_s, busy=bool(runs)),
        size=hello.slots,
        busy=min(hello.slots, len(runs)),
        held=glance.held.get(hello.session, 0),
        queues=hello.queues,
        seen_s=seen_s,
        since=state.connected_at,
        done=0 if worker is None else worker.succeeded,
        failed=0 if worker is None else worker.failed,
        cpu=sum(known) if known else None,
        memory=sum(sizes) if sizes else None,
        slots=tuple(slots),
        version=hello.version,
        python=hello.python,
        trouble=state.trouble,
        ahead_s=state.ahead_s,
    )


def _state(c: Coordinator, state: SessionState, seen_s: float, *, busy: bool) -> WorkerState:
    order = c.sessions.order_of(state)
    if state.away or seen_s > c.setup.rules.lease_s * _SILENT:
        return WorkerState.SILENT
    if order is WorkerOrder.STOP:
        return WorkerState.STOPPING
    if order is not WorkerOrder.WORK:
        return WorkerState.DRAINING if busy or order.final else WorkerState.DRAINED
    if state.trouble:
        return WorkerState.IN_TROUBLE
    if state.draining:
        return WorkerState.STARTING
    return WorkerState.WORKING if busy else WorkerState.IDLE


def _slots(c: Coordinator, state: SessionState, runs: list[Lease], now: float) -> list[SlotLine]:
    """The slots of a worker: each running lease in the slot that the worker has named, or in one that is free."""
    uses = {use.number: use for use in state.slots}
    by_token = {use.token: use.number for use in state.slots if use.token}
    placed = {number: lease for lease in runs if (number := by_token.get(lease.token)) is not None}
    size = max(state.hello.slots, *placed, 0) if placed else state.hello.slots
    free = iter([number for number in range(1, size + 1) if number not in placed])
    for lease in runs:
        if by_token.get(lease.token) is None and (number := next(free, None)) is not None:
            placed[number] = lease
    shown = range(1, min(size, _SLOTS) + 1)
    return [
        _slot(c, placed[number], number, uses.get(number), now, state)
        if number in placed
        else _idle(number, uses.get(number))
        for number in shown
    ]


def _idle(number: int, use: SlotUse | None) -> SlotLine:
    return SlotLine(number=number, cpu=None if use is None else use.cpu, memory=None if use is None else use.memory)


def _slot(
    c: Coordinator, lease: Lease, number: int, use: SlotUse | None, now: float, state: SessionState | None = None
) -> SlotLine:
    index, began_at = lease.lo, lease.since
    own = use is not None and use.token == lease.token and lease.lo <= use.index < lease.hi
    if own and use is not None and state is not None:
        index, began_at = use.index, state.slots_at - use.seconds
    progress = None if state is None else state.progress.get((lease.token, index))
    return SlotLine(
        number=number,
        batch=lease.batch.number,
        index=index,
        single=lease.batch.single,
        function=lease.batch.entry.spec.function.name,
        attempt=lease.attempt,
        seconds=max(0.0, now - began_at),
        progress=progress,
        cpu=use.cpu if use is not None else None,
        memory=use.memory if use is not None else None,
    )


def _few_slots(workers: list[WorkerLine]) -> Iterable[WorkerLine]:
    """The workers, and as many of their slots as an answer should have."""
    left = _ALL_SLOTS
    for worker in workers:
        yield worker if len(worker.slots) <= left else replace(worker, slots=worker.slots[:left])
        left = max(0, left - len(worker.slots))


def _longest(leases: Iterable[Lease]) -> Lease | None:
    """The lease whose first task has run longest."""
    started = (lease for lease in leases if lease.started and lease.before is None)
    return min(started, key=attrgetter("since"), default=None)


# -- failures ---------------------------------------------------------------------------------------------------------


def _with_earlier(c: Coordinator, failures: list[LatestFailure], now: float) -> list[LatestFailure]:
    """The latest failures, and dead letters of earlier runs of the coordinator."""
    found = c.engine.ended(Selection(state=State.DEAD, limit=_FAILURES), now)
    return (failures + [_earlier(run) for run in found if run.ended_at < c.started_at])[:_FAILURES]


def _earlier(run: EndedRun) -> LatestFailure:
    task, spec = run.task, run.batch.spec
    outcome = Outcome.FAILED if task is None else task.outcome or Outcome.FAILED
    return LatestFailure(
        at=run.ended_at,
        batch=run.batch.row.batch,
        index=run.lo,
        single=run.batch.row.complete and run.batch.row.size == 1,
        function=spec.function.name,
        queue=spec.options.queue,
        attempt=0 if task is None else task.attempt,
        most=spec.options.max_retries + 1,
        outcome=outcome,
        exception=exception_name(outcome, "" if task is None else task.exception),
        message="" if task is None else task.message[:200],
        dead=True,
    )
