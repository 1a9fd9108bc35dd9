"""Which values rows name: pages of arguments and results, functions that travel by value, and holds.

Engines. A value is in use as long as a row names it; several may name the same one. Who stores rows keeps a record of
each use beside the row, in the same commit, so that both are there or neither.
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

#: Where a value lies: its segment, where it begins in it, and its length.
Place = tuple[int, int, int]


def named_by(row: SpecRow | ArgumentPage | ResultPage | HoldRow) -> Sequence[Value]:
    """The values that a row names. What cannot be read as a description names none."""
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
    """How often values are named, for an engine that keeps its rows in memory."""

    def __init__(self) -> None:
        self._of: dict[int, dict[tuple[int, int], int]] = {}
        #: The values that were named since this was emptied last, and the segments in which some are no longer.
        self.named: list[Value] = []
        self.freed: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, named: Iterable[Value]) -> None:
        """A row has come that names these."""
        for value in named:
            uses = self._of.setdefault(value.segment, {})
            at = value.offset, value.length
            uses[at] = uses.get(at, 0) + 1
            self.named.append(value)

    def remove(self, named: Iterable[Value]) -> None:
        """A row has gone that named these."""
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
        """Whether a row names this."""
        return (value.offset, value.length) in self._of.get(value.segment, ())

    def ranges(self, segment: int) -> list[tuple[int, int]]:
        """What is in use of a segment: where values begin and end, rising."""
        return sorted((start, start + length) for start, length in self._of.get(segment, ()))


def places(named: Iterable[Value]) -> set[Place]:
    """Where some values lie, each once."""
    return {(value.segment, value.offset, value.length) for value in named}


def sound_use(*columns: Any) -> bool:
    """Whether the columns of a record are what was stored."""
    try:
        return bool(rowcodec.use_crc(*columns[:-1]) == columns[-1])
    except struct.error:
        return False
