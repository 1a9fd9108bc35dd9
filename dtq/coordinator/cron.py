"""Cron expressions and time zones, read by `cronsim` (extra ``cron``) and `zoneinfo`.

Rules, which are those of Debian's cron:

1. An expression is read in its time zone's local time. An expression that names minutes and hours (neither begins with
   ``*``) comes once a day, whatever the clocks do: a time in an hour that is left out comes at the first minute after
   it; a time in an hour that comes twice comes in the first of the two.
2. Any other expression, and any of six fields, follows elapsed time: it does not come in an hour that is left out, and
   comes in both if an hour comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from dtq.core.recurrences import Recurrence
from dtq.errors import CronMissing, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable

#: Words that stand for expressions.
_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FORM: Final = (
    "write minute, hour, day of the month, month and day of the week (*/5 * * * *), or six fields with seconds in front"
)


class CronCalendar:
    """Reads cron expressions. Satisfies `dtq.core.recurrences.Calendar`."""

    def recurrence(self, cron: str, zone: str) -> Recurrence:
        """See `Calendar`.

        Raises:
            CronMissing: `cronsim` is not installed here.
            InvalidValue: the expression is invalid, or never comes; or the zone is unknown.
        """
        try:
            from cronsim import CronSim, CronSimError
        except ImportError:
            raise CronMissing(cron) from None
        expression = _NICKNAMES.get(cron.strip().lower(), cron)
        where = _zone(zone)
        try:
            CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise InvalidValue(
                "a cron expression", cron, f"{str(error)[:1].lower()}{str(error)[1:]}; {_FORM}"
            ) from None
        return _Recurrence(CronSim, expression, where)


@cache
def _zone(name: str) -> tzinfo:
    """A time zone.

    Raises:
        InvalidValue: no zone has this name.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # a coordinator without such schedules does not import it

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        why = "the coordinator knows no such zone; write one like Europe/Prague, or install tzdata there"
        raise InvalidValue("a time zone", name, why) from None


class _Recurrence:
    """The due times of one expression."""

    def __init__(self, step: Callable[[str, datetime], Any], expression: str, zone: tzinfo) -> None:
        self._step = step
        self._expression = expression
        self._zone = zone

    def later(self, moment: float) -> Iterator[float]:
        """See `Recurrence`."""
        try:
            for found in self._step(self._expression, datetime.fromtimestamp(moment, self._zone)):
                due = found.timestamp()
                # In the second of two like hours the first one's due times are over; and two due times of an hour that
                # is left out are one.
                if due > moment:
                    moment = due
                    yield due
        except (OverflowError, ValueError):  # beyond the year 9999
            return
