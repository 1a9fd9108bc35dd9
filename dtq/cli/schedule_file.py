"""Reads schedules from a TOML file, for ``dtq schedule sync``: the whole file is checked before anything changes."""

from __future__ import annotations

import tomllib
from datetime import date, datetime
from typing import Any, Final, NamedTuple, cast

from dtq.cli.calls import function_name, parse_moment
from dtq.client.defining import Timing, schedule_of
from dtq.client.terms import is_span
from dtq.config.values import parse_duration
from dtq.errors import BadFile, DtqError
from dtq.model.schedules import Schedule

#: Keys of a schedule in a file.
_KEYS: Final = ("call", "args", "kwargs", "options", *Timing.__annotations__)


class Planned(NamedTuple):
    """Changes that `dtq schedule sync` made, or would make: names of schedules."""

    added: list[str]
    changed: list[str]
    unchanged: list[str]
    removed: list[str]


def read_schedules(path: str) -> list[Schedule]:
    """The schedules of a file.

    Raises:
        BadFile: the file is malformed; names the schedule and its fault.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(path, f"it is no TOML: {error}") from None
    except OSError as error:
        raise BadFile(path, error.strerror or str(error)) from None
    others = [name for name in tables if name != "schedules"]
    if others:
        raise BadFile(path, f"it has {others[0]!r}; schedules are tables like [schedules.NAME]")
    return [_read(path, name, given) for name, given in tables.get("schedules", {}).items()]


def _read(path: str, name: str, given: Any) -> Schedule:
    where = f"schedule {name!r}"
    if not isinstance(given, dict):
        raise BadFile(path, f"{where} is no table")
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise BadFile(path, f"{where} has {unknown[0]!r}; it may have {', '.join(_KEYS)}")
    if not isinstance(given.get("call"), str):
        raise BadFile(path, f'{where} has no call; write call = "module:function"')
    args, kwargs, options = given.get("args", []), given.get("kwargs", {}), given.get("options", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(options, dict):
        raise BadFile(path, f"{where}: args is an array, kwargs and options are tables")
    try:
        timing = cast(Timing, {key: _timed(key, given[key]) for key in Timing.__annotations__ if key in given})
        terms = {key: parse_duration(value) if _is_text_span(key, value) else value for key, value in options.items()}
        return schedule_of(name, function_name(given["call"]), tuple(args), kwargs, timing, terms)
    except (DtqError, TypeError) as error:
        raise BadFile(path, f"{where}: {error}") from None


def _is_text_span(key: str, value: Any) -> bool:
    return isinstance(value, str) and is_span(key)


def _timed(key: str, value: Any) -> Any:
    if key in ("every", "jitter") and isinstance(value, str):
        return parse_duration(value)
    if key in ("at", "until"):
        if isinstance(value, str):
            return parse_moment(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day)
    return value
