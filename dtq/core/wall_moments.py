"""Batches that are due at a moment of the wall clock (`BatchFlow.at`), also where somebody sets that clock meanwhile.

Until then they stand as those with a delay do (`Batch.due_at`), but wait in a heap of their own: `Register.on_wall`
instead of `Register.waiting`. What comes of their tasks later, retries for one, goes by the steady clock like all else.
The machine asks here at few places, and only where there are such batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dtq.core.batches import Batch
from dtq.core.changes import BatchFlow
from dtq.core.heap import DueHeap
from dtq.model.messages import Conditions

if TYPE_CHECKING:
    from dtq.core.register import Register


def note(register: Register, batch: Batch, conditions: Conditions, now: float) -> None:
    """A new batch is accepted: it waits for a moment if it was asked for."""
    if conditions.at is None:
        return
    batch.flow = replace(batch.flow or BatchFlow(), at=conditions.at)
    batch.due_at = conditions.at if conditions.at > now + register.wall_ahead_s else None


def waits_for_wall(batch: Batch) -> bool:
    """Whether a batch that is not due yet waits for the wall clock."""
    return batch.flow is not None and batch.flow.at is not None


def heap_of(register: Register, batch: Batch) -> DueHeap:
    """Where fresh tasks of a batch wait for their time."""
    return register.on_wall if waits_for_wall(batch) else register.waiting


def left_s(register: Register, batch: Batch, now: float) -> float:
    """How many seconds the fresh tasks of a batch that is not due yet still have to wait, by its own clock."""
    assert batch.due_at is not None
    return batch.due_at - (now + register.wall_ahead_s if waits_for_wall(batch) else now)
