"""Unmet parents: why a blocked task does not start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dtq.core.awaited import is_doomed
from dtq.core.batches import Batch
from dtq.core.queue_state import QueueState
from dtq.model.ids import TaskId
from dtq.wording import counted

#: Most parents that the reason of a waiting task names.
_NAMED: Final = 3


def parents(queue_state: QueueState, batch: Batch, index: int) -> Iterator[tuple[int, int, int]]:
    """The tasks ``[lo, hi)`` of batches that a blocked task waits for, and that have not ended; hi is 0 for all."""
    task = batch.task(index)
    own = task.after if task is not None else ()
    if batch.flow is not None and not batch.blocked and batch.flow.each:
        own = tuple([(number, index, index + 1, True) for number, _, _ in batch.flow.each])
    elif batch.flow is not None:
        own = (*batch.flow.after, *own) if batch.blocked else own
    for number, lo, hi, _ in own:
        parent = queue_state.batches.get(number)
        if parent is not None and (not hi or queue_state.dependencies.unended(parent, lo, hi)):
            yield number, lo, hi


def reason(queue_state: QueueState, batch: Batch, index: int) -> str:
    """The reason why a task is blocked: the parents that it waits for."""
    dependencies = queue_state.dependencies
    if is_doomed(batch) and batch.flow is not None:
        return batch.flow.why
    waits = dependencies.waits.get(batch.number, 0) + dependencies.item_waits.get((batch.number, index), 0)
    named: list[str] = []
    more = 0
    for number, lo, hi in parents(queue_state, batch, index):
        if len(named) == _NAMED:
            more = waits - _NAMED
            break
        parent = queue_state.batches[number]
        if not hi:
            named.append(str(number) if parent.single else f"all of {number}")
        elif hi == lo + 1:
            named.append(str(TaskId(number, lo, parent.single)))
        else:
            named.append(f"{number}.{lo}-{hi - 1}")
    if not named and batch.flow is not None and batch.flow.each:
        return "waits for a moment: what is ahead of it in its batch waits for tasks that are about to end"
    others = f" and {counted(more, 'other')}" if more > 0 else ""
    return f"waits for {', '.join(named)}{others}"
