"""What bounds how many tasks run at once, or start per time: limits by name.

A task names what it counts against (`Options.limits`); what a name allows, an operator says. The name of a limit may be
a glob: each name that it matches is then bounded by itself.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.records import dataclass

#: For how many seconds of a rate starts may be made up together, where nobody says otherwise: a coordinator hands out a
#: few milliseconds late now and then, and of a rate whose starts never come closer than they should, that much is lost
#: each time.
_CATCH_UP_S: Final = 0.05


def usual_burst(starts: int | None, per_s: float) -> int:
    """How many may start together where nobody says: one, and of fast rates what a twentieth of a second is for."""
    return 1 if starts is None else max(1, ceil(starts / per_s * _CATCH_UP_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a name allows.

    Attributes:
        name: the name, or a glob of names (``tenant-*``), each of which has the whole of it.
        concurrency: how many tasks may run at once; 0 for none at all, None for any number.
        starts: how many may start in `per_s` seconds; None for any number.
        per_s: that time.
        burst: how many may start together, where none has started for long enough: in any time of T seconds there are
            at most ``starts / per_s * T + burst`` starts.
    """

    name: fields.LimitPattern
    concurrency: fields.Count | None = None
    starts: fields.Starts | None = None
    per_s: fields.Interval = 1.0
    burst: fields.Starts = 1

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 0:
            raise InvalidValue("a concurrency", self.concurrency, "it is a whole number from 0")
        low, high = fields.STARTS
        shortest, longest = fields.INTERVALS
        if self.starts is not None and not (low <= self.starts <= high and shortest <= self.per_s <= longest):
            raise InvalidValue("a rate", f"{self.starts}/{self.per_s}s", "write starts per time: 100/m, 5/s, 10/90s")
        if not low <= self.burst <= high:
            raise InvalidValue("a burst", self.burst, f"it is a whole number from {low} to {high:,}")

    @property
    def bounds_nothing(self) -> bool:
        """Whether it allows everything."""
        return self.concurrency is None and self.starts is None

    @property
    def interval_s(self) -> float | None:
        """How many seconds lie between two starts, in the long run; None where there is no rate."""
        return None if self.starts is None else self.per_s / self.starts

    @property
    def is_glob(self) -> bool:
        """Whether it stands for many names."""
        return any(character in self.name for character in "*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """A limit, and what comes of it.

    Attributes:
        limit: what it allows.
        names: how many names it bounds at the moment.
        running: how many tasks that count against it run.
        waiting: how many tasks wait for it, as far as is known: at the names that are reached now.
        next_at: when the next may start, where the rate holds one back; None where none is.
    """

    limit: Limit
    names: fields.Count
    running: fields.Count
    waiting: fields.Count
    next_at: fields.Moment | None = None
