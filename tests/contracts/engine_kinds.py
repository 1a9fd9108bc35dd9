"""The engines that keep the contract, and what they declare to differ in. A new engine is one more line here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dtq.core.changes import Change, Row
from dtq.engines.base import Committed, EndedRun, Engine, Opened, Page, StoredBatch
from dtq.engines.memory import MemoryEngine
from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreError
from dtq.model.snapshots import Attempt, Selection
from dtq.testing import FailingEngine

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An engine under test.

    Attributes:
        name: shown by pytest.
        make: one that keeps its rows at that place.
        survives_reopen: whether another engine at the same place finds the rows.
    """

    name: str
    make: Callable[[Path], Engine]
    survives_reopen: bool = True


KINDS = [
    Kind(name="memory", make=lambda _: MemoryEngine(), survives_reopen=False),
    Kind(name="failing", make=lambda _: FailingEngine(MemoryEngine()), survives_reopen=False),
    Kind(name="sqlite", make=lambda place: SqliteEngine(place / "store" / "dtq.db", durability="os")),
]


class Insisting(SqliteEngine):
    """For a disk that fails now and then (``tests/faults/shim.c``): whatever failed is done again, and works then."""

    def _insist(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        for _ in range(10):
            try:
                return call(*arguments, **named)
            except StoreError:
                continue
        return call(*arguments, **named)

    def open(self) -> Opened:
        return self._insist(super().open)

    def restore(self) -> Iterable[Row]:
        restore = super().restore
        return self._insist(lambda: list(restore()))

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        return self._insist(super().commit, changes, insist=insist)

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        return self._insist(super().pages, kind, batch, lo, hi, room)

    def batches(self, numbers: Sequence[int] = (), keys: Sequence[str] = (), most: int = 1) -> list[StoredBatch]:
        return self._insist(super().batches, numbers, keys, most)

    def newest(self, before: int, most: int) -> list[StoredBatch]:
        return self._insist(super().newest, before, most)

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        return self._insist(super().ended, selection, now)

    def attempts(self, batch: int, index: int, *, first: int = 0, room: int | None = None) -> list[Attempt]:
        return self._insist(super().attempts, batch, index, first=first, room=room)


if "DTQ_SHIM_EVERY" in os.environ:
    KINDS = [Kind(name="sqlite-on-a-failing-disk", make=lambda place: Insisting(place / "dtq.db"))]
