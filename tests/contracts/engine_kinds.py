"""The engines that keep the contract, and what they declare to differ in. A new engine is one more line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dtq.engines.base import Engine
from dtq.engines.memory import MemoryEngine
from dtq.engines.sqlite import SqliteEngine
from dtq.testing import FailingEngine


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
    Kind(name="sqlite", make=lambda place: SqliteEngine(place / "store" / "dtq.db", durability="fsync")),
    Kind(name="sqlite-os", make=lambda place: SqliteEngine(place / "dtq.db", durability="os")),
]
