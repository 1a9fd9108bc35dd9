"""Recurrences: rules for due times, periodic, once, or by a cron expression.

Due times are moments of the wall clock. A `Calendar`, which the machine's maker provides, reads cron expressions and
time zones: the core has neither a library for them nor a database of zones.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor
from typing import Protocol

from dtq.errors import CronMissing


class Recurrence(Protocol):
    """A rule for recurring due times."""

    def later(self, moment: float) -> Iterator[float]:
        """The due times after a moment, rising, each once."""
        ...


class Calendar(Protocol):
    """Reads cron expressions."""

    def recurrence(self, cron: str, zone: str) -> Recurrence:
        """The recurrence of an expression in a time zone.

        Raises:
            InvalidValue: the expression or the zone is invalid.
            CronMissing: this process cannot read expressions.
        """
        ...


class NoCalendar:
    """The calendar of a machine without one."""

    def recurrence(self, cron: str, zone: str) -> Recurrence:
        """See `Calendar`.

        Raises:
            CronMissing: always.
        """
        raise CronMissing(cron)


class Periodic:
    """Every this many seconds."""

    def __init__(self, anchor: float, every_s: float) -> None:
        self._anchor = anchor
        self._every_s = every_s

    def later(self, moment: float) -> Iterator[float]:
        """See `Recurrence`."""
        count = max(1, floor((moment - self._anchor) / self._every_s))
        while True:
            at = round(self._anchor + count * self._every_s, 3)  # a due time has milliseconds, as its key shows
            count += 1
            if at > moment:
                yield at


class Once:
    """At one moment."""

    def __init__(self, at: float) -> None:
        self._at = at

    def later(self, moment: float) -> Iterator[float]:
        """See `Recurrence`."""
        if self._at > moment:
            yield self._at
