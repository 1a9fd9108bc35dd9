"""Definitions of schedules: a function, its arguments, and its due times.

Client, below `schedules`; the command line uses it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypedDict, TypeVar

from dtq.client.functions import callee
from dtq.client.terms import Span, TaskOptions, Terms, moment, seconds
from dtq.errors import InvalidValue
from dtq.model.fields import MAX_SECONDS, Expression, ScheduleName, Zone
from dtq.model.options import Function
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule, ScheduleView
from dtq.model.service import Service

E = TypeVar("E", bound=Enum)


class Timing(TypedDict, total=False):
    """A schedule's due times, and the handling of missed or overlapping ones: exactly one of ``cron``, ``every`` and
    ``at``, and further options.

    Attributes:
        cron: a cron expression of five fields, or of six with seconds in front; or ``"@daily"`` and the like. The
            coordinator needs the extra ``cron`` for it.
        every: time between two due times, in seconds or as a timedelta; the first is that long from now.
        at: the only due time.
        tz: the time zone of a cron expression, and of an ``at`` or ``until`` that has none: a name like
            ``"Europe/Prague"``. Without it, expressions are in UTC, and moments in local time.
        overlap: the effect of a due time while the run before it has not ended: ``"queue"`` (it is made all the same;
            the default), ``"skip"`` (it is left out) or ``"replace"`` (the run before it is cancelled).
        catch_up: which of the due times that went by without a running coordinator are made up for: ``"none"``,
            ``"last"`` (the default) or ``"all"``.
        jitter: longest delay of a submission after its due time, in seconds or as a timedelta; drawn for each due time.
        until: the last moment that may be a due time.
    """

    cron: str | None
    every: Span | None
    at: datetime | None
    tz: str | None
    overlap: str | Overlap
    catch_up: str | CatchUp
    jitter: Span
    until: datetime | None


def rule_of(timing: Timing) -> Rule:
    """The rule of a schedule.

    Raises:
        InvalidValue: the timing is missing, given twice, or invalid.
    """
    zone = timing.get("tz")
    every, at, until = timing.get("every"), timing.get("at"), timing.get("until")
    return Rule(
        cron=_sound(Expression, timing.get("cron") or "", "a cron expression", "it has at most 200 characters"),
        tz=_sound(Zone, "UTC" if zone is None else zone, "a time zone", "write one like Europe/Prague"),
        every_s=None if every is None else _span(every, "every"),
        at=None if at is None else moment(_in_zone(at, zone), "at"),
        jitter_s=_span(timing.get("jitter", 0.0), "jitter"),
        until=None if until is None else moment(_in_zone(until, zone), "until"),
    )


#: The error for options of submissions that a schedule's calls do not have.
_CHAINED: Final = "its call waits for no other task: let the function submit tasks that wait for others"
_KEYED: Final = "each due time has a key of its own, and --overlap says what becomes of a run that has not ended"
_DUE: Final = "its rule says when it is due"
INSTEAD: Final = {
    "after": _CHAINED,
    "on_failed": _CHAINED,
    "key": _KEYED,
    "unique": _KEYED,
    "on_conflict": _KEYED,
    "delay": _DUE,
    "at": _DUE,
    "expires": "--catch-up says what becomes of due times that went by",
}


def schedule_of(
    name: str,
    function: Callable[..., Any] | str | Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timing: Timing,
    options: TaskOptions | Mapping[str, Any],
) -> Schedule:
    """A schedule.

    Args:
        name: its name.
        function: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        timing: its due times.
        options: the terms of its calls; they override its function's own.

    Raises:
        InvalidValue, NotImportable, CannotPickle: the definition is invalid, or cannot be sent.
        TypeError: there is no such option, or no such part of the timing.
    """
    if not isinstance(timing, Mapping):
        raise TypeError(f"a schedule's timing is a dict like {{'every': 90}}, not {str(timing)[:80]!r}")
    strange = [name for name in timing if name not in Timing.__annotations__]
    if strange:
        known = ", ".join(Timing.__annotations__)
        raise TypeError(f"{strange[0]!r} is no part of a schedule's timing; these are {known}")
    unknown = [option for option in options if option not in Terms._fields]
    if unknown:
        instead = INSTEAD.get(unknown[0], f"they are {', '.join(Terms._fields)}")
        raise TypeError(f"{unknown[0]!r} is no option of a schedule's calls; {instead}")
    target = callee(function)
    return Schedule(
        name=_sound(ScheduleName, name, "a schedule's name", "it has 1 to 100 letters, digits or _ . : / -"),
        rule=rule_of(timing),
        spec=target.spec(Terms(**options).frozen()),
        arguments=target.encode(args, kwargs),
        overlap=_one_of(Overlap, timing.get("overlap", Overlap.QUEUE), "overlap"),
        catch_up=_one_of(CatchUp, timing.get("catch_up", CatchUp.LAST), "catch_up"),
    )


def all_schedules(service: Service) -> list[ScheduleView]:
    """All schedules, in the order of their names; see `Service.schedules`."""
    return list(_all_schedules(service))


def _all_schedules(service: Service) -> Iterator[ScheduleView]:
    after = ""
    while found := service.schedules(after):
        yield from found
        after = found[-1].schedule.name


def _one_of(kind: type[E], value: object, what: str) -> E:
    try:
        return kind(value)
    except ValueError:
        why = f"it is one of {', '.join(one.value for one in kind)}"
        raise InvalidValue(what, repr(value)[:80], why) from None


def _sound(kind: Any, value: object, what: str, why: str) -> str:
    """A text, checked by the rule of its kind (`model.fields`)."""
    if not isinstance(value, str) or not kind.__metadata__[0].sound(value):
        raise InvalidValue(what, repr(value)[:80] if not isinstance(value, str) else value[:80], why)
    return value


def _span(value: Span, what: str) -> float:
    found = seconds(value, what)
    if not 0 <= found <= MAX_SECONDS:
        raise InvalidValue(what, found, "it is a number of seconds from 0 to ten years")
    return found


def _in_zone(value: datetime, zone: str | None) -> datetime:
    """A moment without a zone, in this one."""
    if zone is None or getattr(value, "tzinfo", zone) is not None:
        return value
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # a program without zones does not import it

    try:
        return value.replace(tzinfo=ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidValue("a time zone", zone, "there is none of this name here") from None
