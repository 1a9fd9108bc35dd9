"""Operators' steering of queues: paused, draining, and weights.

A definition outlives its queue: a queue comes and goes with its tasks, and is still paused when it comes back. A queue
without a definition runs, takes tasks, and has weight 1.
"""

from __future__ import annotations

import json
from typing import Final

from dtq.core.changes import DefinitionRow
from dtq.core.register import Register
from dtq.model.queues import Steering
from dtq.records import asdict, replace

#: The kind of their definitions.
KIND: Final = "queue"
#: The steering of a queue without a definition.
DEFAULT: Final = Steering()


def steering(register: Register, queue: str) -> Steering:
    """The steering of a queue."""
    lines = register.lines
    return Steering(
        paused=queue in lines.paused, draining=queue in register.draining, weight=lines.weights.get(queue, 1)
    )


def steered(register: Register) -> set[str]:
    """The queues with a definition."""
    return register.lines.paused | register.draining | register.lines.weights.keys()


def steer(
    register: Register,
    queue: str,
    *,
    paused: bool | None = None,
    draining: bool | None = None,
    weight: int | None = None,
) -> Steering:
    """Change the steering of a queue; None leaves a setting unchanged.

    Args:
        register: the state of the queues.
        queue: the queue.
        paused: whether none of its tasks are granted.
        draining: whether it takes no new tasks.
        weight: its share of grants, beside other queues of equal urgency.

    Returns:
        Its steering now.
    """
    before = steering(register, queue)
    after = replace(
        before,
        paused=before.paused if paused is None else paused,
        draining=before.draining if draining is None else draining,
        weight=before.weight if weight is None else weight,
    )
    if after != before:
        _apply(register, queue, after)
        if after == DEFAULT:
            register.ledger.definition_ended(KIND, queue)
        else:
            register.ledger.definition(DefinitionRow(kind=KIND, name=queue, body=json.dumps(asdict(after))))
    return after


def restore(register: Register, row: DefinitionRow) -> None:
    """Restore the steering of a queue from an earlier run of the coordinator."""
    _apply(register, row.name, Steering(**json.loads(row.body)))


def _apply(register: Register, queue: str, after: Steering) -> None:
    lines = register.lines
    if after.paused:
        lines.pause(queue)
    else:
        lines.resume(queue)
    if after.draining:
        register.draining.add(queue)
    else:
        register.draining.discard(queue)
    if after.weight == DEFAULT.weight:
        lines.weights.pop(queue, None)
    else:
        lines.weights[queue] = after.weight
