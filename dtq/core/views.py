"""What the machine can tell about tasks that have not ended; the engine tells about those that have."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from dtq.core.batches import Batch, Task
from dtq.core.changes import BatchRow
from dtq.core.leases import Lease
from dtq.core.machine import Machine
from dtq.model.options import Spec
from dtq.model.snapshots import BatchView, Counts, QueueView, Selection, TaskView
from dtq.model.states import State


def batch_view(batch: Batch) -> BatchView:
    """A live batch."""
    waiting = [t.state for i, t in (batch.tasks or {}).items() if i < batch.next]
    fresh = max(0, batch.fresh - batch.cancelled_ahead())
    scheduled = waiting.count(State.SCHEDULED) + (fresh if batch.due_at is not None else 0)
    pending = waiting.count(State.PENDING) + (fresh if batch.due_at is None else 0)
    return BatchView(
        batch=batch.number,
        size=batch.size,
        complete=batch.complete,
        spec=batch.entry.spec,
        counts=Counts(
            scheduled=scheduled,
            pending=pending,
            running=batch.running,
            succeeded=batch.succeeded,
            dead=batch.dead,
            cancelled=batch.cancelled,
        ),
        submitted_at=batch.submitted_at,
        key=batch.key,
    )


def finished_batch_view(row: BatchRow, spec: Spec) -> BatchView:
    """A batch that is not live, from its row."""
    return BatchView(
        batch=row.batch,
        size=row.size,
        complete=row.complete,
        spec=spec,
        counts=Counts(succeeded=row.succeeded, dead=row.dead, cancelled=row.cancelled),
        submitted_at=row.submitted_at,
        finished_at=row.finished_at,
        key=row.key if row.user_key else None,
    )


def task_view(machine: Machine, batch: Batch, index: int) -> TaskView | None:
    """A task of a live batch that has not ended; None if it has."""
    for view in _runs(machine, batch):
        if view.index <= index < view.index + view.count:
            return _narrow(view, index)
    return None


def _narrow(view: TaskView, index: int) -> TaskView:
    values = {name: getattr(view, name) for name in TaskView.__slots__}
    return TaskView(**{**values, "index": index, "count": 1})


def live_tasks(machine: Machine, selection: Selection, now: float) -> list[TaskView]:
    """Unfinished tasks that match, as runs of like ones: running ones first, then in the order they will run."""
    numbers = sorted({number for number, _ in selection.ids}) or sorted(machine.register.batches)
    batches = [machine.register.batches[n] for n in numbers if n in machine.register.batches]
    order = {State.RUNNING: 0, State.PENDING: 1, State.SCHEDULED: 2}
    batches.sort(key=lambda batch: (batch.entry.rank, batch.number))
    found: list[TaskView] = []
    for batch in batches:
        if selection.queue is not None and batch.queue != selection.queue:
            continue
        function = batch.entry.spec.function.name
        if selection.function is not None and not fnmatchcase(function, selection.function):
            continue
        found += [view for view in _runs(machine, batch) if _matches(machine, batch, view, selection, now)]
        if selection.limit and len(found) >= 4 * selection.limit:
            break  # enough to choose the first from, whatever their states
    found.sort(key=lambda view: order[view.state])
    return found[: selection.limit] if selection.limit else found


def _matches(machine: Machine, batch: Batch, view: TaskView, selection: Selection, now: float) -> bool:
    if selection.state is not None and view.state is not selection.state:
        return False
    if selection.older_than_s is not None and (view.started_at or view.submitted_at) > now - selection.older_than_s:
        return False
    if selection.exception is not None:
        task = batch.task(view.index)
        if task is None or not fnmatchcase(task.exception, selection.exception):
            return False
    if not selection.ids:
        return True
    return any(n == view.batch and (i < 0 or view.index <= i < view.index + view.count) for n, i in selection.ids)


def _runs(machine: Machine, batch: Batch) -> Iterator[TaskView]:
    """A live batch's unfinished tasks, as runs of like ones."""
    for lease in [lease for lease in machine.register.leases.values() if lease.batch is batch]:
        yield from _leased(batch, lease)
    for index in sorted(batch.tasks or ()):
        task = batch.task(index)
        if task is not None and task.state in (State.PENDING, State.SCHEDULED):
            yield _view(batch, index, 1, task.state, task)
    if batch.fresh:
        lo = batch.next
        for gap in [*batch.records_in(batch.next, batch.size), batch.size]:
            if gap > lo:
                yield _view(batch, lo, gap - lo, batch.fresh_state(), None)
            lo = gap + 1


def _leased(batch: Batch, lease: Lease) -> Iterator[TaskView]:
    lo = lease.lo
    for index in batch.records_in(lease.lo, lease.hi):
        if index > lo:
            yield _view(batch, lo, index - lo, State.RUNNING, None, lease)
        yield _view(batch, index, 1, State.RUNNING, batch.task(index), lease)
        lo = index + 1
    if lo < lease.hi:
        yield _view(batch, lo, lease.hi - lo, State.RUNNING, None, lease)


def _view(
    batch: Batch, index: int, count: int, state: State, task: Task | None, lease: Lease | None = None
) -> TaskView:
    due_at = batch.due_at if state is State.SCHEDULED else None
    attempt = 0
    if task is not None:
        attempt = task.attempt
        due_at = task.due_at
    elif lease is not None:
        attempt = lease.attempt
    return TaskView(
        batch=batch.number,
        index=index,
        count=count,
        single=batch.single,
        state=state,
        spec=batch.entry.spec,
        attempt=attempt,
        failures=task.failures if task is not None else 0,
        crashes=task.crashes if task is not None else 0,
        submitted_at=batch.submitted_at,
        due_at=due_at,
        started_at=lease.granted_at if lease is not None else None,
        worker=lease.worker.name if lease is not None else "",
        cancelling=task is not None and task.cancelling,
    )


def queues(machine: Machine) -> tuple[QueueView, ...]:
    """The queues with unfinished tasks, or with workers of their own."""
    register = machine.register
    counts = register.tally.queues()
    names = set(counts) | {name for worker in register.workers.values() for name in worker.queues}
    return tuple(
        QueueView(
            name=name,
            pending=counts.get(name, {}).get(State.PENDING, 0),
            scheduled=counts.get(name, {}).get(State.SCHEDULED, 0),
            running=counts.get(name, {}).get(State.RUNNING, 0),
            workers=sum(not w.queues or name in w.queues for w in register.workers.values()),
        )
        for name in sorted(names)
    )


def why_waiting(machine: Machine, view: TaskView, now: float) -> str:
    """Why a task that waits does not run, in one sentence."""
    register = machine.register
    options = view.spec.options
    if view.state is State.SCHEDULED:
        wait_s = max(0.0, (view.due_at or now) - now)
        cause = f"backing off after {view.failures} failed attempts" if view.failures else "submitted with a delay"
        return f"{cause}; due in {wait_s:.1f} s"
    if view.state is not State.PENDING:
        return ""
    serving = [w for w in register.workers.values() if not w.queues or options.queue in w.queues]
    if not serving:
        others = "" if register.workers else " (no worker is connected at all)"
        return f"no worker serves the queue {options.queue!r}{others}"
    capacity = sum(worker.capacity for worker in serving)
    if capacity == 0:
        return f"every worker that serves the queue {options.queue!r} is draining or has no slot ready"
    ahead = _ahead(machine, view)
    return (
        f"{ahead} tasks are ahead of it, for {capacity} slots" if ahead else f"next in line for {capacity} busy slots"
    )


def _ahead(machine: Machine, view: TaskView) -> int:
    """How many waiting tasks of its queue come before a task."""
    heap = machine.register.ready.get(view.spec.options.queue)
    batch = machine.register.batches[view.batch]
    place = (batch.entry.rank, view.batch, view.index)
    runs = heap.runs() if heap is not None else []
    return sum(
        min(run.hi, view.index if run.batch == view.batch else run.hi) - run.lo for run in runs if run[:3] < place
    )
