"""Limits by name: bounds on how many tasks run at once, or start per time.

A task names the limits that it counts against (`Options.limits`); an operator sets their values. The name of a limit
may be a glob: each name that it matches is then bounded by itself.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.records import dataclass

#: Default burst of a rate, in seconds' worth of starts: a coordinator grants a few milliseconds late now and then, and
#: a rate whose starts never come closer than their interval loses that time for good.
_CATCH_UP_S: Final = 0.05


def usual_burst(starts: int | None, per_s: float) -> int:
    """The default burst: one, and for fast rates the starts of a twentieth of a second."""
    return 1 if starts is None else max(1, ceil(starts / per_s * _CATCH_UP_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A named limit.

    Attributes:
        name: the name, or a glob of names (``tenant-*``), each of which has the whole limit.
        concurrency: how many tasks may run at once; 0 for none at all, None for any number.
        starts: how many may start in `per_s` seconds; None for any number.
        per_s: that time.
        burst: how many may start together after a long enough pause: in any time of T seconds at most ``starts / per_s
            * T + burst`` tasks start.
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
        """Seconds between two starts, in the long run; None without a rate."""
        return None if self.starts is None else self.per_s / self.starts

    @property
    def is_glob(self) -> bool:
        """Whether its name is a glob."""
        return any(character in self.name for character in "*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """A limit and its use.

    Attributes:
        limit: the limit.
        names: how many names it bounds at the moment.
        running: how many tasks that count against it run.
        waiting: how many tasks are known to wait for it: at the names that are reached now.
        next_at: when the next task may start, if the rate holds one back; None otherwise.
    """

    limit: Limit
    names: fields.Count
    running: fields.Count
    waiting: fields.Count
    next_at: fields.Moment | None = None
