"""Start deadlines: cancels tasks that have not started by a moment.

A batch may have such a moment (`BatchFlow.start_by`). When it has come, the batch's unstarted tasks are cancelled with
that reason, fresh ones as a whole, and no more pieces are accepted. A task counts as started for good once an attempt
has started: its retries, after failures and crashes, go on. A task that was granted and came back unstarted does not
count as started; if it comes back after the moment, it is cancelled then. The machine calls this module at few places,
and only for batches with such a moment.
"""

from __future__ import annotations

from dtq.core.batches import Batch
from dtq.core.changes import BatchFlow
from dtq.core.elements import WAITING
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.model.messages import Conditions
from dtq.model.states import State
from dtq.records import replace


def note(queue_state: QueueState, batch: Batch, conditions: Conditions, now: float) -> None:
    """Note a new batch's start deadline, if it has one."""
    moments = [] if conditions.start_by is None else [conditions.start_by]
    moments += [] if conditions.expires_s is None else [now + conditions.expires_s]
    if moments:
        batch.flow = replace(batch.flow or BatchFlow(), start_by=min(moments))
        queue_state.start_moments.add(max(now, min(moments)), batch.number, queue_state.batches)


def restored(queue_state: QueueState, batch: Batch, ahead_s: float) -> None:
    """Note a restored batch's start deadline; the store's times are this many seconds ahead."""
    flow = batch.flow
    if flow is None or flow.start_by is None or flow.lapsed:
        return
    if ahead_s:
        batch.flow = flow = replace(flow, start_by=flow.start_by - ahead_s)
        queue_state.ledger.batch(batch)
    assert flow.start_by is not None
    queue_state.start_moments.add(flow.start_by, batch.number, queue_state.batches)


def tick(queue_state: QueueState, now: float) -> None:
    """Cancel tasks that should have started by now."""
    while (number := queue_state.start_moments.pop_due(now)) is not None:
        batch = queue_state.batches.get(number)
        if batch is not None:
            lapse(queue_state, batch, now)


def lapse(queue_state: QueueState, batch: Batch, now: float) -> bool:
    """Cancel a batch's unstarted tasks, if its moment has come and this was not done yet.

    Returns:
        Whether it was done.
    """
    flow = batch.flow
    if flow is None or flow.lapsed or not (why := flow.too_late(now)):
        return False
    batch.flow = replace(flow, lapsed=True)
    for index in sorted(batch.tasks or ()):
        task = batch.task(index)
        if task is not None and task.attempt == 0 and task.state in WAITING:
            queue_state.tally.move(batch.queue, task.state, Move.CANCELLED)
            task.state = State.CANCELLED
            task.message = why
            queue_state.end_task(batch, index, task, now)
    if batch.fresh:
        queue_state.cut(batch, why)
    if queue_state.batches.get(batch.number) is batch:
        queue_state.seal(batch, now)
    return True
