"""Calls that only look: at the machine for what has not ended, at the engine for what has."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from operator import attrgetter
from typing import Final

from dtq import __version__
from dtq.coordinator.committer import Generation
from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.core import views
from dtq.core.batches import SpecEntry
from dtq.core.changes import ResultPage
from dtq.core.ledger import EndedRange
from dtq.engines.base import EndedRun
from dtq.errors import StoreError, UnknownId
from dtq.model import pages
from dtq.model.ids import TaskId
from dtq.model.messages import Ended
from dtq.model.snapshots import BatchView, DeadLetter, Selection, Stats, TaskView, WorkerView
from dtq.model.states import FINAL, Outcome, State

#: About how many bytes of results one answer carries.
ANSWER_BYTES: Final = 4 << 20
#: How many tasks are looked up at a time while results are gathered: few at first, as each may be of megabytes.
_FIRST_WINDOW: Final = 16
_WINDOW: Final = 8 * pages.PAGE_BLOBS
#: How often something is looked for that moves between memory and store meanwhile.
_LOOKS: Final = 5
#: Most running tasks that are named for one worker.
_NAMED: Final = 100


def batch(c: Coordinator, number: int) -> BatchView:
    """A batch.

    Raises:
        UnknownId: it was never accepted, or it was purged.
        StoreError: it cannot be told at the moment, as the store cannot be written.
    """
    for _ in range(_LOOKS):
        with c.lock:
            live = c.machine.register.batches.get(number)
            view = views.batch_view(live) if live is not None else None
            ticket = c.committer.ticket()
        written = _settled(c, ticket)
        if view is not None:
            return view
        stored = next(iter(c.engine.batches([number])), None)
        if stored is not None and stored.row.finished_at is not None:
            return views.finished_batch_view(stored.row, stored.spec)
        if stored is None or not written:
            break
        # It was put back in between: look again.
    c.committer.refuse_if_stuck()
    raise UnknownId(str(number))


def task(c: Coordinator, number: int, index: int) -> TaskView:
    """A task with its history.

    Raises:
        UnknownId: it was never accepted, or it was purged.
        StoreError: it cannot be told at the moment, as the store cannot be written.
    """
    for _ in range(_LOOKS):
        with c.lock:
            view = _live_task(c, number, index)
            ticket = c.committer.ticket()
        _settled(c, ticket)
        history = tuple(c.engine.attempts(number, index))
        if view is not None:
            return replace(view, history=history)
        for run in c.engine.ended(Selection(ids=((number, index),), limit=1), c.clock.now()):
            view = _ended_view(run, index)
            attempt = max(view.attempt, len(history) + (run.state is State.SUCCEEDED))
            return replace(view, count=1, attempt=attempt, history=history)
        if not any(index < stored.row.size for stored in c.engine.batches([number])):
            break  # it is nowhere; else it was put back in between, or purged: look again
    c.committer.refuse_if_stuck()
    raise UnknownId(str(TaskId(number, index)))


def _settled(c: Coordinator, ticket: Generation | None) -> bool:
    """Wait until what an answer says is durable.

    Returns:
        False if it cannot be made so at the moment: then people are told at once what there is.
    """
    try:
        if ticket is not None:
            c.committer.refuse_if_stuck()
            c.committer.complete(ticket)
    except StoreError:
        return False
    return True


def _live_task(c: Coordinator, number: int, index: int) -> TaskView | None:
    live = c.machine.register.batches.get(number)
    view = views.task_view(c.machine, live, index) if live is not None else None
    if view is None:
        return None
    return replace(view, reason=views.why_waiting(c.machine, view, c.clock.now()), progress=_progress(c, number, index))


def _progress(c: Coordinator, number: int, index: int) -> tuple[float, float] | None:
    for state in c.sessions.by_id.values():
        for (token, at), done in state.progress.items():
            lease = c.machine.register.leases.get(token)
            if lease is not None and lease.batch.number == number and at == index:
                return done
    return None


def _ended_view(run: EndedRun, index: int | None = None) -> TaskView:
    row = run.batch.row
    record = run.task
    return TaskView(
        batch=row.batch,
        index=run.lo if index is None else index,
        count=run.hi - run.lo,
        single=row.complete and row.size == 1,
        state=run.state,
        spec=run.batch.spec,
        attempt=record.attempt if record is not None else int(run.state is State.SUCCEEDED),
        failures=record.failures if record is not None else 0,
        crashes=record.crashes if record is not None else 0,
        submitted_at=row.submitted_at,
        ended_at=run.ended_at,
        worker=run.worker,
    )


def tasks(c: Coordinator, selection: Selection) -> list[TaskView]:
    """Tasks that match, as runs of like ones."""
    specs = wanted_specs(c, selection)
    with c.lock:
        found = [] if selection.state in FINAL else views.live_tasks(c.machine, selection, c.clock.now(), specs)
        ticket = c.committer.ticket()
    _settled(c, ticket)
    room = selection.limit - len(found)
    if (selection.state is None or selection.state in FINAL) and (room > 0 or not selection.limit):
        ended = c.engine.ended(replace(selection, limit=max(0, room)), c.clock.now())
        found += [_ended_view(run) for run in ended]
    return found


def wanted_specs(c: Coordinator, selection: Selection) -> set[SpecEntry]:
    """The specs of live batches that match; a glob is matched outside of the lock."""
    with c.lock:
        specs = list(c.machine.register.specs.values())
    return views.matching(specs, selection)


# -- results ------------------------------------------------------------------------------------------------------


def results(c: Coordinator, number: int, lo: int, hi: int) -> list[Ended]:
    """How tasks ``[lo, hi)`` of a batch ended, a few MiB of it.

    Raises:
        UnknownId: the batch was never accepted, or it was purged.
    """
    lo, hi = max(0, lo), min(hi, batch(c, number).size)
    others = [
        run
        for state in (State.DEAD, State.CANCELLED)
        for run in c.engine.ended(Selection(ids=((number, -1),), state=state, limit=0), c.clock.now())
        if run.lo < hi and run.hi > lo
    ]
    others.sort(key=attrgetter("lo"), reverse=True)
    found: list[Ended] = []
    room, window = ANSWER_BYTES, _FIRST_WINDOW
    while lo < hi and room > 0:
        end = min(hi, lo + window)
        here = _succeeded(c, number, lo, end)
        while others and others[-1].lo < end:
            run = others.pop()
            here += describe_ended(c, number, max(run.lo, lo), min(run.hi, hi), run.state)
            end = max(end, min(run.hi, hi))
        for ended in sorted(here, key=attrgetter("lo")):
            room -= _weight(ended)
            if room < 0 and found:
                break
            found.append(ended)
        lo, window = end, min(2 * window, _WINDOW)
    with c.lock:
        ticket = c.committer.ticket()
    _settled(c, ticket)  # results that have arrived since the batch was looked up are told once they are durable
    return found


def _weight(ended: Ended) -> int:
    """About how many bytes it takes in an answer."""
    return (
        len(ended.results) + (len(ended.failure.traceback) + len(ended.failure.pickled) if ended.failure else 0) + 200
    )


def first_few(described: Iterable[list[Ended]]) -> Iterator[list[Ended]]:
    """As many of them as one answer carries; the first in any case."""
    room = ANSWER_BYTES
    for number, few in enumerate(described):
        room -= sum(map(_weight, few))
        if room < 0 and number:
            return
        yield few


def _succeeded(c: Coordinator, number: int, lo: int, hi: int) -> list[Ended]:
    # What cannot be written is in the cache only; it is not told before it is durable.
    find = c.cache.find if c.committer.stuck is None else c.engine.pages
    return [
        Ended(
            batch=number,
            lo=max(lo, page.lo),
            hi=min(hi, page.hi),
            state=State.SUCCEEDED,
            results=pages.cut(page.data, max(lo, page.lo) - page.lo, min(hi, page.hi) - page.lo),
        )
        for page in find(ResultPage, number, lo, hi)
    ]


def describe_ended(c: Coordinator, number: int, lo: int, hi: int, state: State) -> list[Ended]:
    """Tasks ``[lo, hi)`` that ended alike, with their results or the reason."""
    if state is State.SUCCEEDED:
        return _succeeded(c, number, lo, hi) or [Ended(batch=number, lo=lo, hi=hi, state=state)]
    if state is State.CANCELLED:
        return [Ended(batch=number, lo=lo, hi=hi, state=state)]
    described: list[Ended] = []
    for index in range(lo, hi):
        attempts = c.engine.attempts(number, index)
        last = attempts[-1] if attempts else None
        described.append(
            Ended(
                batch=number,
                lo=index,
                hi=index + 1,
                state=state,
                outcome=last.outcome if last is not None else None,
                failure=last.failure if last is not None else None,
            )
        )
    return described


def ended_ranges(c: Coordinator, number: int) -> tuple[bool, list[EndedRange]] | None:
    """What of a batch has ended so far, in rising order, and whether that is all of it; None where it is not known.

    Of what has ended, that which is no longer kept is among it: dead letters that were purged, and tasks that succeeded
    so long ago that their results have expired. Whoever was away when they ended waits for them like for any other.
    """
    ended: list[EndedRange] = []
    for _ in range(_LOOKS):
        stored = c.engine.batches([number])
        if not stored:
            with c.lock:
                return (False, []) if number in c.machine.register.batches else None
        row, ended = stored[0].row, _ended_of(c, number)
        if row.finished_at is not None:
            gaps = list(_gaps(ended, row.size))
            state = State.DEAD if sum(hi - lo for lo, hi in gaps) == row.purged else State.SUCCEEDED
            return True, ended + [EndedRange(number, lo, hi, state, "") for lo, hi in gaps]
        gone = _not_live(c, number, _gaps(ended, row.size)) if row.purged else set()
        if gone is not None:
            break
    if gone:
        ended = _ended_of(c, number)  # what had just ended when the machine was asked is on disk now, and no gap
        for lo, hi in list(_gaps(ended, row.size)):
            ended += [EndedRange(number, i, i + 1, State.DEAD, "") for i in sorted(gone) if lo <= i < hi]
    return False, ended


def _ended_of(c: Coordinator, number: int) -> list[EndedRange]:
    runs = c.engine.ended(Selection(ids=((number, -1),), limit=0), c.clock.now())
    return [EndedRange(number, run.lo, run.hi, run.state, "") for run in sorted(runs, key=attrgetter("lo"))]


def _gaps(ended: list[EndedRange], size: int) -> Iterator[tuple[int, int]]:
    """What is between the runs that have ended."""
    at = 0
    for run in ended:
        if run.lo > at:
            yield at, run.lo
        at = max(at, run.hi)
    if at < size:
        yield at, size


def _not_live(c: Coordinator, number: int, ranges: Iterable[tuple[int, int]]) -> set[int] | None:
    """Which of a batch's tasks have ended, by the machine's account; returns when that is on disk. None where the whole
    batch has ended meanwhile."""
    with c.lock:
        batch = c.machine.register.batches.get(number)
        if batch is not None:
            waiting = batch.size if batch.cut is not None else batch.next
            begun = (index for lo, hi in ranges for index in range(lo, min(hi, waiting)))
            gone: set[int] | None = {index for index in begun if views.task_view(c.machine, batch, index) is None}
        else:
            gone = None
        ticket = c.committer.ticket()
    _settled(c, ticket)
    return gone


# -- dead letters -------------------------------------------------------------------------------------


def dead_runs(c: Coordinator, selection: Selection) -> list[EndedRun]:
    """The dead letters that match, latest first."""
    return c.engine.ended(replace(selection, state=State.DEAD), c.clock.now())


def dead_letters(c: Coordinator, selection: Selection) -> list[DeadLetter]:
    """The dead letters that match, in one line each."""
    return [
        DeadLetter(
            batch=run.batch.row.batch,
            index=run.lo,
            single=run.batch.row.complete and run.batch.row.size == 1,
            function=run.batch.spec.function.name,
            queue=run.batch.spec.options.queue,
            attempts=run.task.attempt,
            outcome=run.task.outcome or Outcome.FAILED,
            exception=run.task.exception,
            message=run.task.message,
            submitted_at=run.batch.row.submitted_at,
            died_at=run.ended_at,
        )
        for run in dead_runs(c, selection)
        if run.task is not None
    ]


# -- the whole ----------------------------------------------------------------------------------------------------


def stats(c: Coordinator) -> Stats:
    """The coordinator in one look."""
    trouble = c.committer.trouble
    with c.lock:
        now = c.clock.now()
        register = c.machine.register
        workers = [_worker(c, state, now) for state in c.sessions.by_id.values() if state.is_worker]
        return Stats(
            counts=register.tally.counts(),
            submitted=register.submitted,
            retries=register.retries,
            refused=c.machine.refused,
            dead_letters=register.tally[State.DEAD],
            queues=views.queues(c.machine),
            workers=tuple(sorted(workers, key=lambda worker: worker.name)),
            clients=sum(not s.is_worker and s.connections > 0 for s in c.sessions.by_id.values()),
            epoch=c.machine.epoch,
            started_at=c.started_at,
            now=now,
            pid=os.getpid(),
            version=__version__,
            python=platform.python_version(),
            store=c.setup.store,
            durability=c.setup.durability,
            highest_first=c.setup.rules.highest_first,
            losses=c.opened.losses,
            trouble="" if trouble is None else trouble.code,
            trouble_text=str(trouble or ""),
        )


def _worker(c: Coordinator, state: SessionState, now: float) -> WorkerView:
    hello = state.hello
    worker = c.machine.register.workers.get(hello.session)
    leases = list(worker.leases.values()) if worker is not None else []
    return WorkerView(
        # Who knows a session can speak for it.
        session=sha256(hello.session.encode()).hexdigest()[:32],
        name=state.name,
        host=hello.host,
        pid=hello.pid,
        slots=hello.slots,
        busy=len(leases),
        queues=hello.queues,
        seen_s=max(0.0, now - state.seen_at),
        connected_at=state.connected_at,
        running=tuple(str(TaskId(e.batch.number, e.lo, e.batch.single)) for e in leases[:_NAMED]),
        draining=state.draining,
        version=hello.version,
        python=hello.python,
    )
