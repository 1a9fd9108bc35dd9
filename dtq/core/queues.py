"""Operators' steering of queues: paused, draining, and weights.

A definition outlives its queue: a queue comes and goes with its tasks, and is still paused when it comes back. A queue
without a definition runs, takes tasks, and has weight 1.
"""

from __future__ import annotations

import json
from typing import Final

from dtq.core.changes import DefinitionRow
from dtq.core.queue_state import QueueState
from dtq.model.queues import Steering
from dtq.records import asdict, replace

#: The kind of their definitions.
KIND: Final = "queue"
#: The steering of a queue without a definition.
DEFAULT: Final = Steering()


def steering(queue_state: QueueState, queue: str) -> Steering:
    """The steering of a queue."""
    lines = queue_state.lines
    return Steering(
        paused=queue in lines.paused, draining=queue in queue_state.draining, weight=lines.weights.get(queue, 1)
    )


def steered(queue_state: QueueState) -> set[str]:
    """The queues with a definition."""
    return queue_state.lines.paused | queue_state.draining | queue_state.lines.weights.keys()


def steer(
    queue_state: QueueState,
    queue: str,
    *,
    paused: bool | None = None,
    draining: bool | None = None,
    weight: int | None = None,
) -> Steering:
    """Change the steering of a queue; None leaves a setting unchanged.

    Args:
        queue_state: the state of the queues.
        queue: the queue.
        paused: whether none of its tasks are granted.
        draining: whether it takes no new tasks.
        weight: its share of grants, beside other queues of equal urgency.

    Returns:
        Its steering now.
    """
    before = steering(queue_state, queue)
    after = replace(
        before,
        paused=before.paused if paused is None else paused,
        draining=before.draining if draining is None else draining,
        weight=before.weight if weight is None else weight,
    )
    if after != before:
        _apply(queue_state, queue, after)
        if after == DEFAULT:
            queue_state.ledger.definition_ended(KIND, queue)
        else:
            queue_state.ledger.definition(DefinitionRow(kind=KIND, name=queue, body=json.dumps(asdict(after))))
    return after


def restore(queue_state: QueueState, row: DefinitionRow) -> None:
    """Restore the steering of a queue from an earlier run of the coordinator."""
    _apply(queue_state, row.name, Steering(**json.loads(row.body)))


def _apply(queue_state: QueueState, queue: str, after: Steering) -> None:
    lines = queue_state.lines
    if after.paused:
        lines.pause(queue)
    else:
        lines.resume(queue)
    if after.draining:
        queue_state.draining.add(queue)
    else:
        queue_state.draining.discard(queue)
    if after.weight == DEFAULT.weight:
        lines.weights.pop(queue, None)
    else:
        lines.weights[queue] = after.weight
