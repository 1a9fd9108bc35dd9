"""Renders clients and handles as HTML for notebooks: a small static table, escaped, without script.

Client, below the faces. Pure: known facts go in, HTML comes out.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from dtq.model.text import printable


def escape(text: str) -> str:
    """The text as HTML; the escaping module is imported in notebooks only."""
    escaped: str = import_module("html").escape(text)
    return escaped


#: A row: label and value.
Row = tuple[str, object]


def card(title: str, rows: Iterable[Row], *, done: float | None = None) -> str:
    """A table.

    Args:
        title: its title.
        rows: the known facts; a value of None is left out.
        done: the finished part, from 0 to 1, for a bar; None for no bar.
    """
    cells = "".join(
        f'<tr><td style="text-align:left"><b>{escape(printable(name))}</b></td>'
        f'<td style="text-align:left">{escape(printable(str(value)))}</td></tr>'
        for name, value in rows
        if value is not None
    )
    bar = ""
    if done is not None:
        percent = 100 * min(1.0, max(0.0, done))
        bar = (
            '<div style="width:16em;height:0.6em;border:1px solid #888">'
            f'<div style="width:{percent:.1f}%;height:100%;background:#4a8"></div></div>'
        )
    return f"<div><b>{escape(printable(title))}</b>{bar}<table>{cells}</table></div>"
