"""Restores a machine from its rows, at the start of a coordinator.

The property suite compares the restored state with the live one at every step, so both are the same: rows are the whole
state.

Time goes on between two runs: tasks that became due meanwhile are due. An exception: if the clock was set back, or
stood ahead when the store was used last, then the store's times are ahead of the clock, and waiting tasks wait for as
long as they had to at that time. A clock that stands ahead now cannot be told from a long downtime: to give users time
to notice, results that are overdue by such a clock are not removed at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dtq.core import chains, limits, queues, schedules, start_by, uniqueness, wall_moments
from dtq.core.batches import Batch, Task
from dtq.core.changes import BatchRow, DefinitionRow, ExpiryRow, HoldRow, LeaseRow, Row, SpecRow, TaskRow, Totals
from dtq.core.elements import WAITING
from dtq.core.leases import Lease, Worker
from dtq.core.machine import Machine
from dtq.core.queue_state import QueueState, Rules
from dtq.core.recurrences import Calendar
from dtq.model.states import State
from dtq.records import replace

#: Time for which results are kept after a start whose clock makes all of them overdue, in seconds.
SECOND_LOOK_S: Final = 3600.0


def would_expire_all(rules: Rules, totals: Totals, now: float) -> bool:
    """Whether all batches that had finished by the store's last use have expired by this time."""
    return totals.clock > 0 and now - totals.clock > rules.keep_results_s


def restore(
    epoch: int, rules: Rules, totals: Totals, rows: Iterable[Row], now: float, calendar: Calendar | None = None
) -> Machine:
    """The machine that the rows describe.

    Workers that held leases get one lease time to come back and claim them.

    Args:
        epoch: number of this run of the coordinator.
        rules: settings.
        totals: the store's counts.
        rows: as `Engine.restore` gives them: specs before batches before tasks before leases before expiries.
        now: the time.
        calendar: reads the cron expressions of schedules.
    """
    machine = Machine(epoch, rules, totals, calendar)
    queue_state = machine.queue_state
    if would_expire_all(rules, totals, now):
        machine.put_off_expiry(now + min(SECOND_LOOK_S, rules.keep_results_s))
    ahead_s = max(0.0, queue_state.clock - now)
    queue_state.clock -= ahead_s
    for row in rows:
        if isinstance(row, DefinitionRow):
            _define(machine, row, now)
        else:
            _take(queue_state, row, ahead_s, now)
    queue_state.limits.recount(queue_state.leases.values(), now)
    waiting: dict[tuple[str, State], int] = {}
    _wait(queue_state, now)
    for batch in list(queue_state.batches.values()):
        _place(machine, batch, waiting, now)
    for (queue, state), count in waiting.items():
        queue_state.tally.recall(queue, state, count)
    for batch in [batch for batch in queue_state.batches.values() if batch.frontier is not None]:
        queue_state.dependencies.look(batch, now)
    for batch in list(queue_state.batches.values()):
        if batch.flow is not None and batch.flow.replaces is not None:
            uniqueness.replace_earlier(machine, batch, now)
    return machine


def _wait(queue_state: QueueState, now: float) -> None:
    """Let blocked batches and tasks wait for their unfinished parents; nothing else of them needs restoring."""
    flowing = [batch for batch in queue_state.batches.values() if batch.flow is not None]
    if not any(batch.blocked or batch.frontier or (batch.flow and batch.flow.given) for batch in flowing):
        return
    leases: dict[int, list[Lease]] = {}
    for lease in queue_state.leases.values():
        leases.setdefault(lease.batch.number, []).append(lease)
    for batch in flowing:
        if batch.blocked:
            queue_state.dependencies.wait(batch, leases)
            if batch.running and batch.flow is not None:
                chains.restored(leases[batch.number][0], batch.flow.after, leases)
        if batch.frontier is not None:
            queue_state.dependencies.elements.begin(batch, leases)
        for index, task in (batch.tasks or {}).items():
            if task.state is State.BLOCKED and task.after:
                queue_state.dependencies.wait_item(batch, index, task, leases)


def _take(queue_state: QueueState, row: Row, ahead_s: float, now: float) -> None:
    if isinstance(row, BatchRow):
        _batch(queue_state, row, ahead_s)
    elif isinstance(row, SpecRow):
        queue_state.add_spec(row.number, row.spec)
    elif isinstance(row, TaskRow):
        _task(queue_state, row, ahead_s)
    elif isinstance(row, LeaseRow):
        _lease(queue_state, row, now)
    elif isinstance(row, ExpiryRow):
        queue_state.expiries.add(row.at)
    elif isinstance(row, HoldRow):
        _hold(queue_state, row, ahead_s, now)


def _define(machine: Machine, row: DefinitionRow, now: float) -> None:
    if row.kind == schedules.KIND:
        machine.schedules.restore(row)
    elif row.kind == limits.KIND:
        machine.queue_state.limits.restore(row, now)
    elif row.kind == queues.KIND:
        queues.restore(machine.queue_state, row)


def _batch(queue_state: QueueState, row: BatchRow, ahead_s: float) -> None:
    batch = Batch.from_row(row, queue_state.specs_by_number[row.spec])
    queue_state.add_batch(batch)
    if ahead_s and batch.due_at is not None and not wall_moments.waits_for_wall(batch):
        batch.due_at -= ahead_s
        queue_state.ledger.batch(batch)
    if batch.flow is not None:
        start_by.restored(queue_state, batch, ahead_s)


def _task(queue_state: QueueState, row: TaskRow, ahead_s: float) -> None:
    batch = queue_state.batches[row.batch]
    if row.state.final and row.index < batch.next:
        return
    task = Task.from_row(row)
    batch.keep(row.index, task)
    if not row.state.final:
        queue_state.dependencies.item_added(task)
    if ahead_s and task.due_at is not None:
        task.due_at -= ahead_s
        queue_state.ledger.task(task.row(row.batch, row.index))


def _lease(queue_state: QueueState, row: LeaseRow, now: float) -> None:
    batch = queue_state.batches[row.batch]
    worker = queue_state.workers.get(row.session)
    if worker is None:
        worker = queue_state.workers[row.session] = Worker(row.session, row.worker, now + queue_state.rules.lease_s)
    lease = Lease(row.token, worker, batch, row.lo, row.hi, row.attempt, row.granted_at, row.call)
    lease.started = True
    lease.units = row.units
    need = batch.entry.need
    worker.spread += 0 if need is None or row.units is None else need.slots - 1
    queue_state.leases[lease.token] = worker.leases[lease.token] = lease
    batch.running += row.hi - row.lo
    queue_state.tally.recall(batch.queue, State.RUNNING, row.hi - row.lo)


def _hold(queue_state: QueueState, row: HoldRow, ahead_s: float, now: float) -> None:
    """Restore a hold: its client may come back; until then it counts as departed."""
    until = now + row.ttl_s if row.until is None else row.until - ahead_s
    queue_state.holds.add(replace(row, until=until))


def _place(machine: Machine, batch: Batch, waiting: dict[tuple[str, State], int], now: float) -> None:
    """Put a batch's waiting tasks into the heaps, and count them. A million batches come through here at a restart."""
    queue_state = machine.queue_state
    if batch.tasks is not None:
        for index, task in batch.tasks.items():
            if task.state in WAITING:
                _count(waiting, batch, task.state, 1)
            if index >= batch.next:
                continue  # a fresh task: cancelled alone, or one that waits by itself
            if task.state is State.PENDING:
                queue_state.push(batch, index, index + 1)
            elif task.state is State.SCHEDULED and task.due_at is not None:
                queue_state.waiting.push(task.due_at, batch.number, index, index + 1)
    for state, count in batch.fresh_counts():
        _count(waiting, batch, state, count)
    if batch.fresh and not batch.blocked:
        queue_state.push_fresh(batch, batch.next, batch.size)
    queue_state.finish_if_done(batch, now)


def _count(waiting: dict[tuple[str, State], int], batch: Batch, state: State, count: int) -> None:
    at = (batch.queue, state)
    waiting[at] = waiting.get(at, 0) + count
