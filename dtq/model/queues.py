"""Steering of queues: an operator's settings."""

from __future__ import annotations

from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """An operator's settings for a queue.

    Attributes:
        paused: whether it takes tasks and starts none.
        draining: whether it takes no new tasks, and works off those it has.
        weight: how many of its tasks start for each one of a queue of weight 1, both of equal priority.
    """

    paused: bool = False
    draining: bool = False
    weight: fields.Weight = 1

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= fields.MAX_WEIGHT:
            why = f"it is a whole number from 1 to {fields.MAX_WEIGHT}"
            raise InvalidValue("a weight", self.weight, why)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringChange:
    """A change of a queue's settings; None leaves one unchanged.

    Attributes:
        paused: see `Steering.paused`.
        draining: see `Steering.draining`.
        weight: see `Steering.weight`.
    """

    paused: bool | None = None
    draining: bool | None = None
    weight: fields.Weight | None = None
