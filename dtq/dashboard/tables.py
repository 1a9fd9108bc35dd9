"""Tables in a given width: the columns that matter least are left out first, then the widest ones are cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from dtq.dashboard.lines import EMPTY, Line, Look, Span, fitted, width

#: Columns of the terminal between two columns of a table.
_GAP: Final = 2


class Column(NamedTuple):
    """A column.

    Attributes:
        title: its title.
        right: whether its texts stand at the right.
        least: least width to which it is cut.
        rank: columns of higher ranks are left out first where the width does not suffice; 0 for never.
        wide: whether it takes the width that is left over.
    """

    title: str
    right: bool = False
    least: int = 6
    rank: int = 0
    wide: bool = False


#: The cells of a row: one span a column, or several.
Row = Sequence[Span | Line]


def _spans(cell: Span | Line) -> Line:
    return (cell,) if isinstance(cell, Span) else cell


def table(columns: Sequence[Column], rows: Sequence[Row], columns_wide: int) -> list[Line]:
    """The lines of a table, its titles first; without columns that are empty in all rows.

    Args:
        columns: its columns.
        rows: its rows.
        columns_wide: the width.
    """
    sizes = [[width(_spans(row[place])) for row in rows] for place in range(len(columns))]
    natural = [max([len(column.title), *sizes[place]]) for place, column in enumerate(columns)]
    used = [place for place in range(len(columns)) if any(sizes[place]) or not rows]
    places = _kept(columns, natural, _without_zeros(columns, natural, used, rows, columns_wide), columns_wide)
    widths = _widths(columns, natural, places, columns_wide)
    titles = [Span(column.title, Look.DIM) for column in columns]
    return [_row(columns, each, places, widths) for each in (titles, *rows)]


def _without_zeros(
    columns: Sequence[Column], natural: Sequence[int], places: list[int], rows: Sequence[Row], columns_wide: int
) -> list[int]:
    """The columns, without ones that have zeros only if the width does not suffice."""
    zeros = [place for place in places if columns[place].rank and all(_is_zero(row[place]) for row in rows)]
    for gone in sorted(zeros, key=lambda place: -columns[place].rank):
        if sum(natural[place] for place in places) + _GAP * (len(places) - 1) <= columns_wide:
            break
        places = [place for place in places if place != gone]
    return places


def _is_zero(cell: Span | Line) -> bool:
    return "".join(span.text for span in _spans(cell)) in ("", "0")


def _least(column: Column, natural: int) -> int:
    """The least width of a column; numbers, and their titles, are not cut."""
    return min(natural, max(column.least, len(column.title)) if column.right else column.least)


def _kept(columns: Sequence[Column], natural: Sequence[int], places: list[int], columns_wide: int) -> list[int]:
    """The columns that have room, at their least width if need be."""
    while True:
        least = sum(_least(columns[place], natural[place]) for place in places) + _GAP * (len(places) - 1)
        spare = [place for place in places if columns[place].rank]
        if least <= columns_wide or not spare:
            return places
        gone = max(spare, key=lambda place: columns[place].rank)
        places = [place for place in places if place != gone]


def _widths(
    columns: Sequence[Column], natural: Sequence[int], places: Sequence[int], columns_wide: int
) -> dict[int, int]:
    widths = {place: natural[place] for place in places}
    over = sum(widths.values()) + _GAP * (len(places) - 1) - columns_wide
    while over > 0:
        spare = [place for place in places if widths[place] > _least(columns[place], natural[place])]
        if not spare:
            break
        widest = max(spare, key=widths.__getitem__)
        widths[widest] -= 1
        over -= 1
    wide = next((place for place in places if columns[place].wide), None)
    if over < 0 and wide is not None:
        widths[wide] -= over
    return widths


def _row(columns: Sequence[Column], row: Row, places: Sequence[int], widths: dict[int, int]) -> Line:
    spans: list[Span] = []
    for nth, place in enumerate(places):
        cell = fitted(_spans(row[place]), widths[place])
        blanks = Span(" " * (widths[place] - width(cell)))
        spans += [Span(" " * _GAP)] if nth else []
        spans += [blanks, *cell] if columns[place].right else [*cell, blanks]
    return tuple(span for span in spans if span.text)


def shares(room: int, wanted: Sequence[int]) -> list[int]:
    """Divide rows among parts of a screen: each gets what it wants, or an equal share of what is left."""
    given = [0] * len(wanted)
    left = room
    open_parts = [place for place, want in enumerate(wanted) if want > 0]
    while left > 0 and open_parts:
        for place in list(open_parts):
            if left <= 0:
                break
            given[place] += 1
            left -= 1
            if given[place] >= wanted[place]:
                open_parts.remove(place)
    return given


def section(title: Line, body: Sequence[Line], rows: int, more: int = 0, empty: str = "") -> list[Line]:
    """A part of a screen: its title, and as much of its table as has room; the last line says how much is left out.

    Args:
        title: its title.
        body: its lines; the first is the one with the titles of columns.
        rows: how many lines it may have.
        more: how many further rows there are that the snapshot does not have.
        empty: why it is empty.
    """
    if rows <= 0:
        return []
    if len(body) <= 1:
        note = (Span(f"  {empty}", Look.DIM),)
        return [(*title, *note)]
    room = rows - 1
    shown = list(body[:room])
    hidden = len(body) - len(shown) + more
    if hidden and shown:
        missed = hidden + 1 if len(shown) == room and len(shown) > 1 else hidden
        if missed > hidden:
            shown.pop()
        shown.append((Span(f"… {missed:,} more", Look.DIM),))
    return [title, *shown]


def padded(lines: Sequence[Line], rows: int) -> list[Line]:
    """Exactly so many lines."""
    return [*lines[:rows], *([EMPTY] * (rows - len(lines)))]
