"""Uses of values by rows: pages of arguments and results, functions that travel by value, and holds.

Engines. A value is in use as long as a row names it; several rows may name the same value. An engine stores a record of
each use beside the row, in the same commit, so that both exist or neither.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from dtq.core.changes import ArgumentPage, HoldRow, ResultPage, SpecRow
from dtq.engines import rowcodec
from dtq.errors import BadMessage
from dtq.model import pages, values
from dtq.model.values import Value

#: A page whose bytes are at or above this has descriptions of values (`model.pages`): its highest bit says so.
DESCRIBED: Final = b"\x80"

#: The columns of a record of a use.
USE_COLUMNS: Final = "kind, owner, lo, segment, start, length, crc"

#: The place of a value: its segment, its offset, and its length.
Place = tuple[int, int, int]


def named_by(row: SpecRow | ArgumentPage | ResultPage | HoldRow) -> Sequence[Value]:
    """The values that a row names. A blob that cannot be read as a description names none."""
    try:
        if type(row) is SpecRow:
            body = row.spec.function.body
            return values.named(body) if values.is_description(body) else ()
        if type(row) is HoldRow:
            return values.named(row.description)
        return pages.named(row.data)  # type: ignore[union-attr]  # both other kinds have it
    except BadMessage:
        return ()


class Uses:
    """Counts of uses by value, for an engine that keeps its rows in memory."""

    def __init__(self) -> None:
        self._of: dict[int, dict[tuple[int, int], int]] = {}
        #: The values named since this list was last emptied, and the segments in which some went out of use.
        self.named: list[Value] = []
        self.freed: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, named: Iterable[Value]) -> None:
        """Count the values of a new row."""
        for value in named:
            uses = self._of.setdefault(value.segment, {})
            at = value.offset, value.length
            uses[at] = uses.get(at, 0) + 1
            self.named.append(value)

    def remove(self, named: Iterable[Value]) -> None:
        """Count the values of a removed row as released."""
        for value in named:
            uses = self._of[value.segment]
            at = value.offset, value.length
            uses[at] -= 1
            if not uses[at]:
                del uses[at]
                self.freed.add(value.segment)
                if not uses:
                    del self._of[value.segment]

    def has(self, value: Value) -> bool:
        """Whether a row names this value."""
        return (value.offset, value.length) in self._of.get(value.segment, ())

    def ranges(self, segment: int) -> list[tuple[int, int]]:
        """The used parts of a segment: beginnings and ends of values, rising."""
        return sorted((start, start + length) for start, length in self._of.get(segment, ()))


def places(named: Iterable[Value]) -> set[Place]:
    """The places of some values, each once."""
    return {(value.segment, value.offset, value.length) for value in named}


def sound_use(*columns: Any) -> bool:
    """Whether the columns of a record are as they were stored."""
    try:
        return bool(rowcodec.use_crc(*columns[:-1]) == columns[-1])
    except struct.error:
        return False
