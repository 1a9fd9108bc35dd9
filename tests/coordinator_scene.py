"""Coordinators in this process for unit tests, and engines that stop or stumble where a test wants them to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from dtq.core.changes import Change
from dtq.engines.base import EndedRun, StoredBatch
from dtq.engines.memory import MemoryEngine
from dtq.errors import StoreFull
from dtq.model.snapshots import Selection
from dtq.model.values import Value
from dtq.testing import FailingEngine
from tests.contracts.service_scene import DEADLINE_S, House


class HeldEngine(FailingEngine):
    """An engine whose commits wait while it is held, and may fail then."""

    def __init__(self) -> None:
        super().__init__(MemoryEngine())
        self._free = threading.Event()
        self._free.set()
        #: Set when a commit waits.
        self.reached = threading.Event()
        #: How many changes each commit had.
        self.commits: list[int] = []

    def hold(self) -> None:
        """Let the next commit wait."""
        self.reached.clear()
        self._free.clear()

    def go_on(self) -> None:
        self._free.set()

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> StoreFull | None:
        if not self._free.is_set():
            self.reached.set()
            assert self._free.wait(DEADLINE_S), "the engine was held for too long"
        self.commits.append(len(changes))
        return super().commit(changes, insist=insist)


class HookedEngine(MemoryEngine):
    """An engine that lets something else happen when it has been looked into, or is to sync values, once."""

    def __init__(self) -> None:
        super().__init__()
        self.after_batches: Callable[[], object] | None = None
        self.after_ended: Callable[[], object] | None = None
        self.at_sync: Callable[[Sequence[Value]], object] | None = None

    def sync(self, values: Sequence[Value]) -> None:
        hook, self.at_sync = self.at_sync, None
        if hook is not None:
            hook(values)

    def batches(self, numbers: Sequence[int] = (), keys: Sequence[str] = (), most: int = 1) -> list[StoredBatch]:
        found = super().batches(numbers, keys, most)
        hook, self.after_batches = self.after_batches, None
        if hook is not None:
            hook()
        return found

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        found = super().ended(selection, now)
        hook, self.after_ended = self.after_ended, None
        if hook is not None:
            hook()
        return found


def failing_house(place: Path, durability: str = "fsync") -> tuple[House, FailingEngine]:
    """A house over an engine that fails on demand."""
    engine = FailingEngine(MemoryEngine())
    return House("memory", place, engine=lambda: engine, durability=durability), engine
