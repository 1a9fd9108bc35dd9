"""Batches that are due at a moment of the wall clock (`BatchFlow.at`), even if that clock is set meanwhile.

Until then they are kept like delayed batches (`Batch.due_at`), but in a heap of their own: `QueueState.on_wall` instead
of `QueueState.waiting`. Later waits of their tasks, retries for one, use the steady clock like all others. The machine
calls this module at few places, and only while such batches exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtq.core.batches import Batch
from dtq.core.changes import BatchFlow
from dtq.core.heap import DueHeap
from dtq.model.messages import Conditions
from dtq.records import replace

if TYPE_CHECKING:
    from dtq.core.queue_state import QueueState


def note(queue_state: QueueState, batch: Batch, conditions: Conditions, now: float) -> None:
    """Note a new batch's moment of the wall clock, if it has one."""
    if conditions.at is None:
        return
    batch.flow = replace(batch.flow or BatchFlow(), at=conditions.at)
    batch.due_at = conditions.at if conditions.at > now + queue_state.wall_ahead_s else None


def waits_for_wall(batch: Batch) -> bool:
    """Whether a batch that is not due yet waits for the wall clock."""
    return batch.flow is not None and batch.flow.at is not None


def heap_of(queue_state: QueueState, batch: Batch) -> DueHeap:
    """The heap in which fresh tasks of a batch wait for their time."""
    return queue_state.on_wall if waits_for_wall(batch) else queue_state.waiting


def left_s(queue_state: QueueState, batch: Batch, now: float) -> float:
    """Seconds that the fresh tasks of a batch that is not due yet still have to wait, by the batch's clock."""
    assert batch.due_at is not None
    return batch.due_at - (now + queue_state.wall_ahead_s if waits_for_wall(batch) else now)
