"""How numbers stand in sentences: one way for durations, one for counts with their nouns, one for Python's version.

Ground floor: imports nothing of dtq. Errors, logs, reasons, tables and the command line all write them so.
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
        number: how many.
        noun: the word for one.
        nouns: the word for several, where it is not the one for one with an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"
