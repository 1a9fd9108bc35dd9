"""Wording of numbers in sentences: durations, counts with their nouns, moments, Python's version.

Ground floor: imports nothing of dtq. Errors, logs, reasons, tables and the command line all use it.
"""

from __future__ import annotations

import sys
from typing import Final

#: The version of this Python, as `platform.python_version` has it; that takes 5 ms to import.
PYTHON_VERSION: Final = sys.version.split()[0]


def duration(seconds: float) -> str:
    """A duration for people, in its two largest units: ``35 ms``, ``4.2 s``, ``2m 14s``, ``3d 4h``; no zeros."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "less than 1 ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds == float("inf"):
        return "for ever"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = (
        ((days, "d"), (hour, "h"))
        if days
        else ((hour, "h"), (minute, "m"))
        if hours
        else ((minute, "m"), (second, "s"))
    )
    return " ".join(f"{number}{unit}" for number, unit in parts if number)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """``1 task``, ``2,000 tasks``.

    Args:
        number: the count.
        noun: the word for one.
        nouns: the word for several, unless that is the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def rate(per_s: float) -> str:
    """A number of tasks per time, in a unit that leaves digits before the point: ``1,234/s``, ``3.2/s``, ``12/min``."""
    for unit, seconds in (("s", 1.0), ("min", 60.0)):
        if (number := per_s * seconds) >= 1:
            return f"{number:,.0f}/{unit}" if number >= 99.95 else f"{number:.1f}".removesuffix(".0") + f"/{unit}"
    return f"{per_s * 3600:.1f}".removesuffix(".0") + "/h" if per_s else "0/s"


def percent(part: int, whole: int) -> str:
    """A part in percent, rounded down: ``100%`` is all of it. Empty for a part of nothing."""
    return f"{100 * part // whole}%" if whole else ""


def utc(seconds: float) -> str:
    """A moment, in seconds of the Unix epoch: ``2026-11-30 15:41:48 UTC``. Imports nothing, as the core may not."""
    days, second = divmod(int(seconds // 1), 86_400)
    # Years here begin in March, so that leap days come last: days of eras of 400 years.
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    hours, rest = divmod(second, 3_600)
    date = f"{year + 400 * era + (month <= 2):04}-{month:02}-{day:02}"
    return f"{date} {hours:02}:{rest // 60:02}:{rest % 60:02} UTC"
