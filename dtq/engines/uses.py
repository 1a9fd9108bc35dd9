"""Which values rows name: pages of arguments and results, and functions that travel by value.

Engines. A value is in use as long as a row names it; several may name the same one. Who stores rows keeps a record of
each use beside the row, in the same commit, so that both are there or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dtq.core.changes import ArgumentPage, ResultPage, SpecRow
from dtq.errors import BadMessage
from dtq.model import pages, values
from dtq.model.values import Value

#: A page whose bytes are at or above this has descriptions of values (`model.pages`): its highest bit says so.
DESCRIBED: Final = b"\x80"

#: Where a value lies: its segment, where it begins in it, and its length.
Place = tuple[int, int, int]


def named_by(row: SpecRow | ArgumentPage | ResultPage) -> Sequence[Value]:
    """The values that a row names. What cannot be read as a description names none."""
    try:
        if type(row) is SpecRow:
            body = row.spec.function.body
            return values.named(body) if values.is_description(body) else ()
        return pages.named(row.data)  # type: ignore[union-attr]  # both other kinds have it
    except BadMessage:
        return ()


def places(named: Iterable[Value]) -> set[Place]:
    """Where some values lie, each once."""
    return {(value.segment, value.offset, value.length) for value in named}
