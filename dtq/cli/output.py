"""Output of commands: tables, JSON, moments, and foreign text made safe for a terminal.

Standard output carries data, standard error carries everything else. Tables are for people and may change; JSON carries
``schema: 1`` and may only grow.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from dtq.model.text import cells, cut_to, printable
from dtq.wording import duration

#: Version of the commands' JSON; changes only if a field is removed or changes its meaning.
SCHEMA: Final = 1
#: Least width of a shortened column, in characters.
_NARROWEST: Final = 8
#: Least width of a terminal for tables with all of their columns.
_WIDE: Final = 130
_COLOURS: Final = {
    "blocked": "36",
    "scheduled": "36",
    "pending": "36",
    "running": "34",
    "succeeded": "32",
    "dead": "31",
    "cancelled": "33",
}


def one_line(text: str, limit: int = 200) -> str:
    """The text in one line of at most ``limit`` characters."""
    flat = printable(" ".join(text.split()))
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"


def write(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    """Write a line or few to standard error; invisible characters in it are escaped, whatever their source."""
    print(printable(text), file=sys.stderr)


# -- colour -------------------------------------------------------------------------------------------------------


def colourful(stream: TextIO) -> bool:
    """Whether a stream gets colours: NO_COLOR, then FORCE_COLOR, then whether it is a terminal that knows them."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(state: str, text: str | None = None) -> str:
    """A state's name (or another text) in its colour, if standard output has colours."""
    shown = state if text is None else text
    colour = _COLOURS.get(state)
    return f"\x1b[{colour}m{shown}\x1b[0m" if colour and colourful(sys.stdout) else shown


# -- JSON ---------------------------------------------------------------------------------------------------------


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object in one line, with the schema's version."""
    write(json.dumps({"schema": SCHEMA, **value}))


def moment(seconds: float | None) -> str | None:
    """A moment (seconds of the Unix epoch) as ISO 8601 in UTC."""
    if seconds is None:
        return None
    whole, fraction = divmod(seconds, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1000):03d}Z"


# -- for people ---------------------------------------------------------------------------------------------------


def ago(seconds: float | None, now: float) -> str:
    """A moment relative to now: ``2m 14s ago``, ``in 4.0 s``."""
    if seconds is None:
        return ""
    distance = now - seconds
    return f"in {duration(-distance)}" if distance < 0 else f"{duration(distance)} ago"


def local_time(seconds: float | None, now: float) -> str:
    """A moment on this machine's clock, and how long ago that is."""
    if seconds is None:
        return ""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))} ({ago(seconds, now)})"


def is_wide() -> bool:
    """Whether there is room for columns that are not needed at a glance."""
    width = _available()
    return width is None or width >= _WIDE


def _available() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _shrunk(widths: list[int], gap: int, available: int | None) -> list[int]:
    """The widths, with the widest ones cut until the whole fits."""
    if available is None:
        return widths
    widths = list(widths)
    while sum(widths) + gap * (len(widths) - 1) > available:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), state: int | None = None
) -> list[str]:
    """The lines of a table without borders, cut to the terminal's width if there is one.

    Args:
        headers: the names of the columns.
        rows: one text for each column.
        right: the columns that are aligned right (numbers).
        state: the column with a state, which is coloured.
    """
    texts = [[one_line(text) for text in row] for row in rows]
    widths = [max(cells(row[n]) for row in [list(headers), *texts]) for n in range(len(headers))]
    widths = _shrunk(widths, 2, _available())
    rightward = set(right)

    def line(row: Sequence[str], heading: bool = False) -> str:
        parts: list[str] = []
        for column, text in enumerate(row):
            text = cut_to(text, widths[column])
            padding = " " * (widths[column] - cells(text))
            shown = paint(text) if column == state and not heading else text
            parts.append(padding + shown if column in rightward else shown + padding)
        return "  ".join(parts).rstrip()

    return [line(headers, heading=True), *(line(row) for row in texts)]


def write_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), state: int | None = None
) -> None:
    """A `table` to standard output."""
    for line in table(headers, rows, right=right, state=state):
        write(line)


def write_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line, without those that have no value."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        write(f"{name:<{width}}  {value}")
