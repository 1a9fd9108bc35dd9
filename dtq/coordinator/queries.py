"""Calls that only read: unfinished tasks from the machine, ended tasks from the engine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import Final

from dtq import __version__
from dtq.coordinator.attempt_output import with_output
from dtq.coordinator.committer import Generation
from dtq.coordinator.last_attempts import LastAttempts
from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.core import views
from dtq.core.batches import Batch, SpecEntry
from dtq.core.changes import TaskRow
from dtq.core.held import held_in, held_of, running, slots_of
from dtq.core.ledger import EndedRange
from dtq.engines.base import EndedRun
from dtq.errors import DtqError, ResultExpired, StoreError, UnknownId
from dtq.model.ids import TaskId
from dtq.model.messages import ANSWER_ENVELOPE
from dtq.model.options import Spec
from dtq.model.snapshots import (
    Attempt,
    BatchView,
    DeadGroup,
    DeadLetter,
    DeadSummary,
    GroupBy,
    QueueView,
    Selection,
    Stats,
    TaskView,
    WorkerView,
)
from dtq.model.states import FINAL, Outcome, State, exception_name
from dtq.model.weight import first_within, slim, weight
from dtq.records import replace
from dtq.wording import PYTHON_VERSION

#: Tries to find a task that moves between memory and store meanwhile.
_LOOKS: Final = 5
#: Most tasks or dead letters in one answer; and most dead letters that one call sums up.
MOST: Final = 5_000
_SUMMED: Final = 10_000
#: Most characters of a message in a summary.
_SHORT: Final = 200
#: Most running tasks that are listed for one worker.
_NAMED: Final = 100


def batch(c: Coordinator, number: int) -> BatchView:
    """A batch.

    Raises:
        UnknownId: it was never accepted.
        ResultExpired: it was, and is no longer kept, or was purged.
        StoreError: the answer is unknown at the moment, because the store cannot be written.
    """
    for _ in range(_LOOKS):
        with c.lock:
            live = c.machine.queue_state.batches.get(number)
            view = live_batch(c, live) if live is not None else None
            ticket = c.committer.ticket()
        written = _settled(c, ticket)
        if view is not None:
            return lean(view)
        stored = next(iter(c.engine.batches([number])), None)
        if stored is not None and stored.row.finished_at is not None:
            return lean(views.finished_batch_view(stored.row, stored.spec))
        if stored is None or not written:
            break
        # The batch was put back between the two reads: try again.
    c.committer.refuse_if_stuck()
    raise nowhere(c, number)


def live_batch(c: Coordinator, batch: Batch) -> BatchView:
    """A live batch. Under the lock."""
    return views.batch_view(batch, c.clock.now(), held_in(c.machine.queue_state, batch))


def task(c: Coordinator, number: int, index: int) -> TaskView:
    """A task with its history.

    Raises:
        UnknownId: it was never accepted.
        ResultExpired: it was, and is no longer kept, or was purged.
        StoreError: the answer is unknown at the moment, because the store cannot be written.
    """
    for _ in range(_LOOKS):
        with c.lock:
            view = _live_task(c, number, index)
            ticket = c.committer.ticket()
        _settled(c, ticket)
        history, more = attempts(c, number, index)
        if view is not None:
            return replace(view, spec=_lean(view.spec), history=tuple(history), more=more)
        for run in c.engine.ended(Selection(ids=((number, index),), limit=1), c.clock.now()):
            view = _ended_view(LastAttempts(c.engine), run, index)
            attempt = max(view.attempt, len(history) + (run.state is State.SUCCEEDED))
            return replace(view, spec=_lean(view.spec), count=1, attempt=attempt, history=tuple(history), more=more)
        sizes = [stored.row.size for stored in c.engine.batches([number])]
        if not any(index < size for size in sizes):
            break  # it does not exist; else it was put back between the two reads, or purged: try again
    c.committer.refuse_if_stuck()
    raise nowhere(c, number, index, known=bool(sizes) and index >= sizes[0])


def nowhere(c: Coordinator, number: int, index: int = -1, *, known: bool = False) -> DtqError:
    """The error for a task or batch that is not found: never accepted, or no longer kept.

    Args:
        c: the coordinator.
        number: the batch.
        index: the task; -1 for the whole batch.
        known: whether the batch is kept, so that it never had such a task.
    """
    named = str(number) if index < 0 else task_name(c, number, index)
    with c.lock:
        accepted = 0 < number <= c.machine.queue_state.last_batch
    return ResultExpired(named) if accepted and not known else UnknownId(named)


def task_name(c: Coordinator, number: int, index: int) -> str:
    """The id of a task, as lists show it; if its batch is unknown, the first one's is that of the batch. Not under the
    lock.
    """
    with c.lock:
        live = c.machine.queue_state.batches.get(number)
        single = live.single if live is not None else None
    if single is None:
        single = all([stored.row.size == 1 for stored in c.engine.batches([number])])
    return str(TaskId(number, index, single and not index))


def attempts(c: Coordinator, number: int, index: int, first: int = 0) -> tuple[list[Attempt], bool]:
    """The unsuccessful attempts of a task, from a number on: as many as an answer carries, and whether more follow."""
    room, largest = c.setup.answer_bytes, c.setup.max_message - ANSWER_ENVELOPE
    found = c.engine.attempts(number, index, first=first, room=room)
    if not found:
        return [], False
    last = c.engine.attempts(number, index, first=-1)
    told = with_output(c.engine, number, index, found)
    few = [replace(attempt, failure=slim(attempt.failure, largest)) for attempt in told]
    return few, bool(last) and last[0].number > found[-1].number


def settle(c: Coordinator) -> None:
    """Wait until everything so far is durable, if it can be made so at the moment."""
    with c.lock:
        ticket = c.committer.ticket()
    _settled(c, ticket)


def _settled(c: Coordinator, ticket: Generation | None) -> bool:
    """Wait until the facts of an answer are durable.

    Returns:
        False if that is impossible at the moment: then people are told the present state at once.
    """
    try:
        if ticket is not None:
            c.committer.refuse_if_stuck()
            c.committer.complete(ticket)
    except StoreError:
        return False
    return True


def _live_task(c: Coordinator, number: int, index: int) -> TaskView | None:
    live = c.machine.queue_state.batches.get(number)
    view = views.task_view(c.machine, live, index) if live is not None else None
    if view is None:
        return None
    return replace(view, reason=views.why_waiting(c.machine, view, c.clock.now()), progress=_progress(c, number, index))


def _progress(c: Coordinator, number: int, index: int) -> tuple[float, float] | None:
    for state in c.sessions.by_id.values():
        for (token, at), done in state.progress.items():
            lease = c.machine.queue_state.leases.get(token)
            if lease is not None and lease.batch.number == number and at == index:
                return done
    return None


def _ended_view(attempts: LastAttempts, run: EndedRun, index: int | None = None) -> TaskView:
    row = run.batch.row
    record = run.task
    view = TaskView(
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
        reason=run.why,
        key=row.key if row.user_key else None,
    )
    if run.state is State.SUCCEEDED:
        return _with_run(view, run)
    return view if record is None else replace(view, **attempts.how_it_ran(record))


def _with_run(view: TaskView, run: EndedRun) -> TaskView:
    """A succeeded task, or a run of some, with how it ran."""
    if run.seconds is None:
        return view
    count = run.hi - run.lo
    return replace(
        view,
        started_at=max(view.submitted_at, run.ended_at - run.seconds),
        run_s=run.seconds / count,
        about=count > 1,
        peak_memory=run.peak_memory,
    )


def tasks(c: Coordinator, selection: Selection) -> list[TaskView]:
    """Tasks that match, as runs of like ones."""
    selection = replace(selection, limit=min(selection.limit or MOST, MOST))
    behind_live = selection.after is not None and State(selection.after[0]).final
    specs = wanted_specs(c, selection)
    with c.lock:
        found = []
        if selection.state not in FINAL and not behind_live:
            found = views.live_tasks(c.machine, selection, c.clock.now(), specs)
        ticket = c.committer.ticket()
    _settled(c, ticket)
    room = selection.limit - len(found)
    ended: Iterator[TaskView] = iter(())
    if (selection.state is None or selection.state in FINAL) and room > 0:
        attempts = LastAttempts(c.engine)
        runs = c.engine.ended(replace(selection, limit=room), c.clock.now())
        ended = attempts.within(_ended_view(attempts, run) for run in runs)
    listed = chain(found, ended)
    return list(first_within((replace(v, spec=_lean(v.spec)) for v in listed), c.setup.answer_bytes))


def lean(view: BatchView) -> BatchView:
    """A batch without its function's body."""
    return replace(view, spec=_lean(view.spec)) if view.spec.function.body else view


def _lean(spec: Spec) -> Spec:
    """A function without its body, which may be large and which only slots need."""
    return spec if not spec.function.body else replace(spec, function=replace(spec.function, body=b""))


def wanted_specs(c: Coordinator, selection: Selection) -> set[SpecEntry]:
    """The matching specs of live batches; a glob is matched outside of the lock."""
    with c.lock:
        specs = list(c.machine.queue_state.specs.values())
    return views.matching(specs, selection)


# -- ended tasks ------------------------------------------------------------------------------------------------------


def ended_ranges(c: Coordinator, number: int) -> tuple[bool, list[EndedRange]] | None:
    """The ended tasks of a batch so far, in rising order, and whether that is all of it; None for an unknown batch.

    They include ended tasks that are no longer kept: purged dead letters, and tasks that succeeded so long ago that
    their results have expired. A client that was away at their end waits for them like for any other.
    """
    ended: list[EndedRange] = []
    for _ in range(_LOOKS):
        stored = c.engine.batches([number])
        if not stored:
            with c.lock:
                return (False, []) if number in c.machine.queue_state.batches else None
        row, ended = stored[0].row, _ended_of(c, number)
        if row.finished_at is not None:
            gaps = list(_gaps(ended, row.size))
            state = State.DEAD if sum(hi - lo for lo, hi in gaps) == row.purged else State.SUCCEEDED
            return True, ended + [EndedRange(number, lo, hi, state, "") for lo, hi in gaps]
        gone = _not_live(c, number, _gaps(ended, row.size)) if row.purged else set()
        if gone is not None:
            break
    if gone:
        ended = _ended_of(c, number)  # tasks that had just ended in the machine are on disk now, and are no gaps
        for lo, hi in list(_gaps(ended, row.size)):
            ended += [EndedRange(number, i, i + 1, State.DEAD, "") for i in sorted(gone) if lo <= i < hi]
    return False, ended


def _ended_of(c: Coordinator, number: int) -> list[EndedRange]:
    runs = c.engine.ended(Selection(ids=((number, -1),), limit=0), c.clock.now())
    return [EndedRange(number, run.lo, run.hi, run.state, "", run.why) for run in sorted(runs, key=attrgetter("lo"))]


def _gaps(ended: list[EndedRange], size: int) -> Iterator[tuple[int, int]]:
    """The gaps between the ended runs."""
    at = 0
    for run in ended:
        if run.lo > at:
            yield at, run.lo
        at = max(at, run.hi)
    if at < size:
        yield at, size


def _not_live(c: Coordinator, number: int, ranges: Iterable[tuple[int, int]]) -> set[int] | None:
    """A batch's ended tasks by the machine's account; returns when that is on disk. None if the whole batch has ended
    meanwhile.
    """
    with c.lock:
        batch = c.machine.queue_state.batches.get(number)
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
    """The matching dead letters, latest first."""
    return c.engine.ended(replace(selection, state=State.DEAD), c.clock.now())


def dead_letters(c: Coordinator, selection: Selection) -> list[DeadLetter]:
    """The matching dead letters, each in one line."""
    few = dead_runs(c, replace(selection, limit=min(selection.limit or MOST, MOST)))
    attempts = LastAttempts(c.engine)
    letters = attempts.within(_letter(attempts, run, run.task) for run in few if run.task is not None)
    return list(first_within(letters, c.setup.answer_bytes))


def _letter(attempts: LastAttempts, run: EndedRun, task: TaskRow) -> DeadLetter:
    return DeadLetter(
        batch=run.batch.row.batch,
        index=run.lo,
        single=run.batch.row.complete and run.batch.row.size == 1,
        function=run.batch.spec.function.name,
        queue=run.batch.spec.options.queue,
        attempts=task.attempt,
        outcome=task.outcome or Outcome.FAILED,
        exception=exception_name(task.outcome, task.exception),
        message=task.message,
        submitted_at=run.batch.row.submitted_at,
        died_at=run.ended_at,
        **attempts.how_it_ran(task),
    )


def dead_summary(c: Coordinator, selection: Selection, by: GroupBy) -> DeadSummary:
    """Some matching dead letters in groups, the latest first; see `Service.dead_summary`. None of it is under the lock,
    and one call looks at a bounded number of them.
    """
    groups: dict[str, DeadGroup] = {}
    room = c.setup.answer_bytes
    last = None
    runs = dead_runs(c, replace(selection, limit=_SUMMED))
    for run in runs:
        if run.task is None:
            continue
        name = run.batch.spec.function.name
        if by is GroupBy.EXCEPTION:
            name = exception_name(run.task.outcome, run.task.exception) or "(none)"
        known = groups.get(name)
        if known is None:
            known = DeadGroup(
                name=name,
                count=0,
                newest_at=run.ended_at,
                batch=run.batch.row.batch,
                index=run.lo,
                single=run.batch.row.complete and run.batch.row.size == 1,
                message=run.task.message[:_SHORT],
            )
            room -= weight(known)
            if room < 0 and groups:
                break
        groups[name] = replace(known, count=known.count + 1)
        last = run
    more = last is not None and (room < 0 or len(runs) == _SUMMED)
    after = (State.DEAD.value, last.ended_at, last.batch.row.batch, last.lo) if more and last is not None else None
    return DeadSummary(groups=tuple(sorted(groups.values(), key=attrgetter("count"), reverse=True)), after=after)


# -- overview -----------------------------------------------------------------------------------------------------


def stats(c: Coordinator) -> Stats:
    """An overview of the coordinator."""
    trouble = c.committer.trouble
    with c.lock:
        now = c.clock.now()
        queue_state = c.machine.queue_state
        all_queues, all_workers = views.queues(c.machine), _workers(c, now)
        queues = list(first_within(all_queues, c.setup.answer_bytes // 2))
        workers = list(first_within(all_workers, c.setup.answer_bytes // 2))
        return Stats(
            counts=views.counts(c.machine),
            submitted=queue_state.submitted,
            retries=queue_state.retries,
            refused=c.machine.refused,
            dead_letters=queue_state.tally[State.DEAD],
            queues=tuple(queues),
            workers=tuple(workers),
            more_queues=len(queues) < len(all_queues),
            more_workers=len(workers) < len(all_workers),
            schedules=len(c.machine.schedules),
            clients=sum(not s.is_worker and s.connections > 0 for s in c.sessions.by_id.values()),
            epoch=c.machine.epoch,
            started_at=c.started_at,
            now=now,
            pid=os.getpid(),
            version=__version__,
            python=PYTHON_VERSION,
            store=c.setup.store,
            durability=c.setup.durability,
            highest_first=c.setup.rules.highest_first,
            losses=c.opened.losses,
            trouble="" if trouble is None else trouble.code,
            trouble_text=str(trouble or ""),
        )


def queues(c: Coordinator, after: str) -> list[QueueView]:
    """See `Service.queues`."""
    with c.lock:
        found = views.queues(c.machine)
    return list(first_within((queue for queue in found if queue.name > after), c.setup.answer_bytes))


def workers(c: Coordinator, after: str, session: str) -> list[WorkerView]:
    """See `Service.workers`."""
    with c.lock:
        found = _workers(c, c.clock.now())
    behind = (worker for worker in found if (worker.name, worker.session) > (after, session))
    return list(first_within(behind, c.setup.answer_bytes))


def _workers(c: Coordinator, now: float) -> list[WorkerView]:
    found = [_worker(c, state, now) for state in c.sessions.by_id.values() if state.is_worker]
    return sorted(found, key=attrgetter("name", "session"))


def session_name(session: str) -> str:
    """A session's name for others: a peer that knows its own name can act as that session."""
    return sha256(session.encode()).hexdigest()[:32]


def _worker(c: Coordinator, state: SessionState, now: float) -> WorkerView:
    hello = state.hello
    worker = c.machine.queue_state.workers.get(hello.session)
    leases = [] if worker is None else [worker.leases[token] for token in sorted(running(worker))]
    return WorkerView(
        session=session_name(hello.session),
        name=state.name,
        host=hello.host,
        pid=hello.pid,
        slots=hello.slots,
        busy=sum(map(slots_of, leases)),
        held=0 if worker is None else held_of(worker),
        queues=hello.queues,
        seen_s=max(0.0, now - state.seen_at),
        connected_at=state.connected_at,
        running=tuple(str(TaskId(e.batch.number, e.lo, e.batch.single)) for e in leases[:_NAMED]),
        draining=state.draining,
        order=c.sessions.order_of(state),
        trouble=state.trouble,
        resources=() if worker is None else views.resources(worker),
        tags=() if hello.offers is None else hello.offers.tags,
        version=hello.version,
        python=hello.python,
    )
