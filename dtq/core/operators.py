"""Operators' commands on the machine: cancel tasks, put dead letters back, purge them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from dtq.core import placing, reviving
from dtq.core.batches import Batch, Task
from dtq.core.changes import BatchRow, TaskRow
from dtq.core.elements import WAITING
from dtq.core.held import held_from, held_state
from dtq.core.leases import Lease
from dtq.core.machine import Machine
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.model.limits import Limit
from dtq.model.options import Spec
from dtq.model.states import State
from dtq.records import replace

#: Why a batch never starts of which not all pieces could be submitted.
CUT_SHORT: Final = "not all of it could be submitted"


def cancel_batch(
    machine: Machine, batch: Batch, now: float, only: State | None = None, why: str = ""
) -> tuple[int, int]:
    """Stop a whole live batch; pieces that its submitter still sends are left out.

    Args:
        machine: the machine.
        batch: the batch.
        now: the time.
        only: only the tasks in this state; None for all.
        why: the reason, if no user asked for it.

    Returns:
        The number of tasks that will never start, and of running tasks that are being stopped.
    """
    queue_state = machine.queue_state
    stopping = 0
    _call_back(queue_state, batch, only)
    for lease in [lease for lease in queue_state.leases.values() if lease.batch is batch] if batch.running else []:
        stopping += sum([_stop(queue_state, lease, index, why) for index in _leased(lease, only)])
    before = batch.cancelled
    for index in sorted(batch.tasks or ()):
        _cancel_waiting(queue_state, batch, index, now, only, why)
    _cancel_fresh(queue_state, batch, now, only, why)
    cancelled = batch.cancelled - before
    if queue_state.batches.get(batch.number) is batch:
        machine.seal(batch, now)
    return cancelled, stopping


def cancel_cut_short(machine: Machine, now: float) -> int:
    """Cancel the batches that this coordinator was making itself, piece by piece, when it ended; returns their number.
    Whoever asked for them was never told of them, and nobody goes on with them.
    """
    cut_short = [batch for batch in machine.queue_state.open.values() if not batch.session]
    for batch in cut_short:
        cancel_batch(machine, batch, now, why=CUT_SHORT)
    return len(cut_short)


def cancel_task(machine: Machine, batch: Batch, index: int, now: float, only: State | None = None) -> State | None:
    """Stop one task of a live batch.

    Args:
        machine: the machine.
        batch: its batch.
        index: the task.
        now: the time.
        only: only if it is in this state; None for any.

    Returns:
        CANCELLED; RUNNING if it is being stopped; None if it has ended already, or is in another state.
    """
    queue_state = machine.queue_state
    _call_back(queue_state, batch, only)
    if batch.is_fresh(index):
        state = batch.state_of_fresh(index)
        if not _is(state, only):
            return None
        task = Task(State.CANCELLED, 0)
        queue_state.tally.move(batch.queue, state, Move.CANCELLED)
        queue_state.end_task(batch, index, task, now)
        return State.CANCELLED
    if _cancel_waiting(queue_state, batch, index, now, only):
        return State.CANCELLED
    for lease in queue_state.leases.values() if batch.running else ():
        if lease.batch is batch and index in _leased(lease, only):
            _stop(queue_state, lease, index)
            return State.RUNNING
    return None


def _cancel_fresh(queue_state: QueueState, batch: Batch, now: float, only: State | None, why: str) -> None:
    """Cancel the fresh tasks of a batch: as a whole those that are all from somewhere on, and alone what is before
    others that stay."""
    parts = list(batch.fresh_parts())
    stays = [index for index in batch.records_in(batch.next, batch.limit) if not _is_final(batch, index)]
    end = batch.limit
    while parts and _is(parts[-1][0], only) and not (stays and stays[-1] >= parts[-1][1]):
        end = parts.pop()[1]
    if end < batch.limit:
        queue_state.cut(batch, why, end)
    for state, lo, hi in parts if only is not None else ():
        for index in range(lo, hi) if state is only else ():
            if batch.is_fresh(index):
                task = Task(State.CANCELLED, 0)
                task.message = why
                queue_state.tally.move(batch.queue, state, Move.CANCELLED)
                queue_state.end_task(batch, index, task, now)


def _is_final(batch: Batch, index: int) -> bool:
    task = batch.task(index)
    return task is not None and task.state.final


def _is(state: State, only: State | None) -> bool:
    return only is None or state is only


def _leased(lease: Lease, only: State | None) -> range:
    """The tasks of a lease that are to be cancelled: all, the running one, or the held ones."""
    if only is None:
        return range(lease.lo, lease.hi)
    if only is State.RUNNING:
        return range(lease.lo, held_from(lease))
    return range(held_from(lease), lease.hi) if only is held_state(lease.batch) else range(0)


def _call_back(queue_state: QueueState, batch: Batch, only: State | None) -> None:
    """Call a blocked batch's task back from its worker, if it is to be cancelled."""
    if batch.blocked and batch.running and _is(State.BLOCKED, only):
        queue_state.call_back(batch)


def _cancel_waiting(
    queue_state: QueueState, batch: Batch, index: int, now: float, only: State | None, why: str = ""
) -> bool:
    task = batch.task(index)
    if task is None or task.state not in WAITING or not _is(task.state, only):
        return False
    queue_state.tally.move(batch.queue, task.state, Move.CANCELLED)
    task.state = State.CANCELLED
    if why:
        task.give_reason(why)
    queue_state.end_task(batch, index, task, now)
    return True


def _stop(queue_state: QueueState, lease: Lease, index: int, why: str = "") -> bool:
    """CommitMarker a running task: its worker is told to kill it, and no attempt follows, whatever its outcome."""
    task = lease.batch.task(index)
    if task is None:
        task = Task(State.RUNNING, lease.attempt)
        lease.batch.keep(index, task)
    if task.cancelling:
        return False
    task.cancelling = True
    if why:
        task.give_reason(why)
    queue_state.ledger.task(task.row(lease.batch.number, index))
    return True


def set_aside(machine: Machine, session: str, now: float) -> None:
    """Take the next run off its heap: a defect keeps it, and all runs behind it, from being granted. It waits until a
    restart builds the heaps anew.
    """
    queue_state = machine.queue_state
    worker = queue_state.workers.get(session)
    heap = None
    if worker is not None:
        needy = bool(queue_state.lines.needed)
        heap = placing.first(queue_state, worker, now) if needy else queue_state.lines.first(worker.queues, now)
    run = heap.top() if heap is not None else None
    if heap is not None and run is not None:
        queue_state.aside.append(run)
        queue_state.lines.left += 1
        heap.advance(run.hi)


def reprioritize(machine: Machine, batches: Sequence[Batch], priority: int) -> int:
    """Change the priority of live batches: their waiting tasks move to their new places, and returned tasks will come
    back there.

    Args:
        machine: the machine.
        batches: the batches; they are live.
        priority: the priority.

    Returns:
        Number of their waiting tasks.

    Raises:
        FunctionsFull: specs have reached the bound of their memory; some of the batches may have been changed.
    """
    queue_state = machine.queue_state
    moved = [batch for batch in batches if batch.entry.spec.options.priority != priority]
    for batch in moved:
        queue_state.change_priority(batch, priority)
    queue_state.restand(moved)
    return sum(waiting_in(batch) for batch in batches)


def waiting_in(batch: Batch) -> int:
    """Number of a live batch's tasks that wait, for a grant or for a time."""
    back = [task for task in (batch.tasks or {}).values() if task.state in WAITING]
    return len(back) + sum([count for _, count in batch.fresh_counts()])


def set_limit(machine: Machine, limit: Limit, now: float) -> None:
    """Set a limit, or change it.

    Raises:
        LimitsFull: there are as many limits as there may be.
    """
    queue_state = machine.queue_state
    queue_state.limits.define(limit, queue_state.leases.values(), now)
    queue_state.lines.limits_changed()


def remove_limit(machine: Machine, name: str, now: float) -> bool:
    """Remove a limit; whether it existed."""
    queue_state = machine.queue_state
    known = queue_state.limits.remove(name, queue_state.leases.values(), now)
    queue_state.lines.limits_changed()
    return known


def revive(
    machine: Machine,
    row: BatchRow,
    spec: Spec,
    tasks: Sequence[TaskRow],
    now: float,
    *,
    held: bool = False,
    children: Collection[int] = (),
) -> int:
    """Put dead letters of one batch back, with fresh counters and at their old place.

    Args:
        machine: the machine.
        row: the batch as the engine has it; used only if the batch is not live.
        spec: its spec.
        tasks: their rows.
        now: the time.
        children: the batches that have parents in this one.
        held: whether they wait for `QueueState.let_go`, because others are about to be put back with them.

    Returns:
        The number put back; tasks that are no longer dead are left alone.
    """
    queue_state = machine.queue_state
    place = queue_state.hold if held else queue_state.push
    dead = [t for t in tasks if t.state is State.DEAD]
    batch = queue_state.batches.get(row.batch)
    if not dead:
        return 0
    if batch is None:
        batch = Batch.from_row(row, queue_state.intern(spec))
        queue_state.add_batch(batch)
        queue_state.ledger.revived(batch.number)
    put_back = [t for t in dead if batch.task(t.index) is None]
    state = queue_state.tally.move(batch.queue, State.DEAD, Move.REVIVED, len(put_back))
    assert state is not None
    batch.dead -= len(put_back)
    for old in put_back:
        task = Task.from_row(old)
        task.state = state
        task.failures = task.crashes = 0
        task.ended_at = None
        batch.keep(old.index, task)
        queue_state.dependencies.item_added(task)
        place(batch, old.index, old.index + 1)
        queue_state.ledger.task(task.row(batch.number, old.index))
    queue_state.ledger.batch(batch)
    if children:
        reviving.revived(queue_state, batch, [task.index for task in put_back], children)
    queue_state.finish_if_done(batch, now)
    return len(put_back)


def purge(machine: Machine, row: BatchRow, tasks: Sequence[TaskRow]) -> int:
    """Purge dead letters of one batch, with their history, which stays as long as a task that is given their exceptions
    has still to run.

    Args:
        machine: the machine.
        row: the batch as the engine has it; used only if the batch is not live.
        tasks: their rows.

    Returns:
        The number purged; tasks that are no longer dead are left alone.
    """
    queue_state = machine.queue_state
    batch = queue_state.batches.get(row.batch)
    dead = [t for t in tasks if t.state is State.DEAD and (batch is None or batch.task(t.index) is None)]
    for task in dead:
        queue_state.tally.move("", State.DEAD, Move.PURGED)
        needed = queue_state.dependencies.kept.spare_history(row.batch, task.index)
        queue_state.ledger.task_forgotten(row.batch, task.index, history=not needed)
    if batch is None:
        queue_state.ledger.finished_batch(replace(row, dead=row.dead - len(dead), purged=row.purged + len(dead)))
        if dead:
            queue_state.ledger.purged(row.batch)
            if row.expires_at is not None:  # the batch may now expire: it was kept for its dead letters
                queue_state.expiries.add(row.expires_at)
    else:
        batch.dead -= len(dead)
        batch.purged += len(dead)
        queue_state.ledger.batch(batch)
    return len(dead)
