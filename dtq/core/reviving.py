"""Reviving: parents that have ended without a result are put back, and their children wait once more.

Rules:

1. A child that would have run without the result, and has not started, waits for it again.
2. A child that was cancelled by its parent's end is brought back, and with it those that its own end had cancelled;
   unless another parent has ended without a result, whose end is the reason then.
3. A task waits for a thing as often as its row names that; no wait of an earlier life counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from dtq.core.awaited import ALL, is_doomed
from dtq.core.batches import Batch, Task
from dtq.core.changes import BatchRow, Parent, TaskRow
from dtq.core.elements import CAUSE
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.model.options import Spec
from dtq.model.states import State
from dtq.records import replace


def revived(queue_state: QueueState, batch: Batch, indexes: Iterable[int], children: Iterable[int]) -> None:
    """Handle revived dead letters of a batch: children that would have run without their results, and still wait
    for others, wait for them again.

    Args:
        queue_state: the state of the queue.
        batch: the batch, which is live.
        indexes: of the tasks.
        children: the batches that have parents in it.
    """
    wanted = set(indexes)
    for number in children:
        child = queue_state.batches.get(number)
        if child is None or child.flow is None or is_doomed(child):
            continue
        if child.blocked:
            _wait_again(queue_state, child, ALL, child.flow.after, batch, wanted)
        if child.flow.given:
            for index, task in list((child.tasks or {}).items()):
                if task.after and not task.state.final and not task.attempt:
                    _wait_again(queue_state, child, index, task.after, batch, wanted)
        if child.frontier is not None:
            queue_state.dependencies.elements.revived(child, batch, wanted)


def _wait_again(
    queue_state: QueueState, child: Batch, index: int, after: Iterable[Parent], batch: Batch, wanted: Collection[int]
) -> None:
    """As `revived`, for one batch, or a task by itself. What it waits for it may name more than once."""
    dependencies = queue_state.dependencies
    awaited = dependencies.awaited_of(batch)
    spans = [span for span in awaited.spans if span.child[0] is child and span.child[1] == index]
    whole = sum([waiter[0] is child and waiter[1] == index for waiter in awaited.whole])
    waits = 0
    for parent, lo, hi, _ in after:
        count = sum(lo <= each < (hi or batch.size) for each in wanted) if parent == batch.number else 0
        span = next((span for span in spans if (span.lo, span.hi) == (lo, hi)), None)
        if not count:
            continue
        if span is not None:
            span.left += count
            spans.remove(span)
        elif not hi and whole:
            whole -= 1  # it has not finished since
        else:
            waits += dependencies.wait_for((child, index), batch, lo, hi)
    if awaited.empty:
        del dependencies.awaited[batch.number]
    if waits and index < 0:
        dependencies.waits[child.number] = dependencies.waits.get(child.number, 0) + waits
    elif waits:
        dependencies.item_waits[child.number, index] = dependencies.item_waits.get((child.number, index), 0) + waits
        dependencies.block_again(child, index)


def bring_back(
    queue_state: QueueState,
    row: BatchRow,
    spec: Spec,
    lost: str,
    now: float,
    gone: Iterable[tuple[int, int, str]] = (),
    children: Collection[int] = (),
) -> Batch | None:
    """Restore a batch that a parent's end had cancelled, because the parent has been put back: the batch waits
    again.

    Args:
        queue_state: the state of the queue.
        row: the batch, as the engine has it.
        spec: its spec.
        lost: if another parent has ended without a result, the reason why the batch stays cancelled; else "".
        now: the time.
        gone: see `core.parents.After`.
        children: the batches that have parents in it.

    Returns:
        The batch; None if it was not cancelled so, or stays as it is.
    """
    dependencies = queue_state.dependencies
    flow = row.flow
    if row.batch in queue_state.batches or flow is None or not flow.why.startswith(CAUSE):
        return None
    if row.cut is None or row.cut >= row.size:
        return None  # no task of the batch was cancelled so
    if lost:
        if lost != flow.why:
            queue_state.ledger.finished_batch(replace(row, flow=replace(flow, why=lost)))
        return None
    batch = Batch.from_row(row, queue_state.intern(spec))
    batch.flow = replace(flow, blocked=bool(flow.after), why="")
    batch.cut = None
    count = row.size - row.cut
    batch.cancelled -= count
    _live_again(queue_state, batch)
    queue_state.tally.move(batch.queue, State.CANCELLED, Move.BROUGHT_BACK, count)
    queue_state.ledger.batch(batch)
    revived(queue_state, batch, range(row.cut, row.size), children)
    if batch.blocked and not dependencies.wait(batch):
        dependencies.release(batch, now)
    dependencies.elements.lose(batch, gone, now)
    dependencies.settle(now)
    return batch


def bring_back_items(
    queue_state: QueueState,
    row: BatchRow,
    spec: Spec,
    tasks: Iterable[TaskRow],
    lost: Mapping[int, str],
    now: float,
    children: Collection[int] = (),
) -> list[int]:
    """Tasks that had been cancelled as one that they waited for by themselves had ended wait again, as that is put
    back.

    Args:
        queue_state: the state of the queue.
        row: their batch, as the engine has it; only looked at where it is not live.
        spec: its spec.
        tasks: their rows.
        lost: why some of them stay cancelled, by their indexes.
        now: the time.
        children: the batches that have parents in theirs.

    Returns:
        The indexes of those that wait again.
    """
    dependencies = queue_state.dependencies
    back = [task for task in tasks if task.state is State.CANCELLED and task.why.startswith(CAUSE)]
    back = [task for task in back if task.index not in lost]
    batch = queue_state.batches.get(row.batch)
    flow = row.flow if batch is None else batch.flow
    if not back or flow is None or flow.too_late(now):
        return []
    if batch is None:
        batch = Batch.from_row(row, queue_state.intern(spec))
        _live_again(queue_state, batch)
    _wait_no_more(queue_state, batch, back)
    done = []
    for old in back:
        known = batch.task(old.index)
        if known is not None and not known.state.final:
            continue
        task = Task.from_row(old)
        task.state, task.message, task.ended_at = State.BLOCKED, "", None
        queue_state.tally.move(batch.queue, State.CANCELLED, Move.BROUGHT_BACK)
        batch.cancelled -= 1
        batch.keep(old.index, task)
        dependencies.item_added(task)
        queue_state.ledger.task(task.row(batch.number, old.index))
        done.append(old.index)
    queue_state.ledger.batch(batch)
    revived(queue_state, batch, done, children)
    for index in done:
        brought = batch.task(index)
        if (
            brought is not None
            and not dependencies.wait_item(batch, index, brought)
            and dependencies.elements.is_free(batch, index)
        ):
            dependencies.free_item(batch, index, now)
    if batch.blocked and batch.number not in dependencies.waits and not dependencies.wait(batch):
        dependencies.release(batch, now)  # it had ended before what all of it waited for
    dependencies.look(batch, now)
    return done


def _wait_no_more(queue_state: QueueState, batch: Batch, tasks: Sequence[TaskRow]) -> None:
    """Forget what is left of the waits of tasks that have ended: an end would count twice once they wait again."""
    dependencies = queue_state.dependencies
    indexes = {task.index for task in tasks}
    for number in {parent[0] for task in tasks for parent in task.after}:
        awaited = dependencies.awaited.get(number)
        if awaited is not None:
            awaited.forget(batch, indexes)
            if awaited.empty:
                del dependencies.awaited[number]


def _live_again(queue_state: QueueState, batch: Batch) -> None:
    """A batch that had finished is not any more."""
    flow = batch.flow
    queue_state.add_batch(batch)
    queue_state.ledger.revived(batch.number)
    if flow is not None and flow.start_by is not None and not flow.lapsed:
        queue_state.start_moments.add(flow.start_by, batch.number, queue_state.batches)
    queue_state.dependencies.elements.begin(batch)
