"""When something comes again: every so many seconds, once, or as a cron expression says.

Due times are moments of the wall clock. Cron expressions and time zones are read by a `Calendar`, which whoever makes
the machine hands to it: the core has neither a library for them nor a data base of zones.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor
from typing import Protocol

from dtq.errors import CronMissing


class Recurrence(Protocol):
    """A rule that comes again and again."""

    def later(self, moment: float) -> Iterator[float]:
        """The due times after a moment, rising, each once."""
        ...


class Calendar(Protocol):
    """Reads cron expressions."""

    def recurrence(self, cron: str, zone: str) -> Recurrence:
        """What an expression says in a time zone.

        Raises:
            InvalidValue: it is no expression, or there is no such zone.
            CronMissing: expressions cannot be read here.
        """
        ...


class NoCalendar:
    """Stands for a calendar where there is none."""

    def recurrence(self, cron: str, zone: str) -> Recurrence:
        """See `Calendar`.

        Raises:
            CronMissing: always.
        """
        raise CronMissing(cron)


class Periodic:
    """Every so many seconds."""

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
