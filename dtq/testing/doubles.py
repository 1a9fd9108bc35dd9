"""Test doubles: a manual clock, and a store that fails on demand.

Testing, used by itself and by the in-process queue.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from dtq.core.changes import Change, Row
from dtq.engines.base import Committed, EndedRun, Engine, Opened, Page, StoredBatch
from dtq.errors import StoreError, StoreFull
from dtq.model.snapshots import Attempt, Selection
from dtq.model.values import Value
from dtq.values.place import Place


class ManualClock:
    """A clock that moves only on demand. Satisfies `dtq.clock.Clock`.

    Args:
        now: its first time, in seconds of the Unix epoch.
    """

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._ahead = 0.0

    def now(self) -> float:
        """The time in seconds."""
        return self._now

    def wall(self) -> float:
        """The wall time in seconds: the same, unless `set_wall` has changed it."""
        return self._now + self._ahead

    def set_wall(self, moment: float) -> None:
        """Set the wall clock, as an operator sets that of a machine; it goes on from there.

        Args:
            moment: its new time, in seconds of the Unix epoch.
        """
        self._ahead = moment - self._now

    def advance(self, seconds: float) -> float:
        """Let this many seconds pass.

        Returns:
            The time now.

        Raises:
            ValueError: time does not go back.
        """
        if not seconds >= 0:
            raise ValueError(f"a steady clock does not advance by {seconds} s")
        self._now += seconds
        return self._now


class FailingEngine:
    """An engine whose commits fail on demand. Satisfies `dtq.engines.base.Engine`.

    Args:
        engine: does everything else.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._to_fail = 0
        self._error: StoreError = StoreFull("(failing)", "told to fail")
        #: Number of failed commits.
        self.failed = 0

    def fail(self, commits: int, error: StoreError | None = None) -> None:
        """Let the next commits fail; 0 ends it.

        Args:
            commits: their number.
            error: their error; StoreFull by default.
        """
        with self._lock:
            self._to_fail = commits
            if error is not None:
                self._error = error

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        """See `Engine.commit`; a failing commit applies nothing."""
        with self._lock:
            failing = self._to_fail > 0
            if failing:
                self._to_fail -= 1
                self.failed += 1
        if failing:
            raise type(self._error)(*self._error.args)
        return self._engine.commit(changes, insist=insist)

    @property
    def place(self) -> Place | None:
        """See `Engine.place`."""
        return self._engine.place

    def open(self) -> Opened:
        """See `Engine.open`."""
        return self._engine.open()

    def restore(self) -> Iterable[Row]:
        """See `Engine.restore`."""
        return self._engine.restore()

    def sync(self, values: Sequence[Value]) -> None:
        """See `Engine.sync`."""
        self._engine.sync(values)

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """See `Engine.pages`."""
        return self._engine.pages(kind, batch, lo, hi, room)

    def batches(self, numbers: Sequence[int] = (), keys: Sequence[str] = (), most: int = 1) -> list[StoredBatch]:
        """See `Engine.batches`."""
        return self._engine.batches(numbers, keys, most)

    def newest(self, before: int, most: int) -> list[StoredBatch]:
        """See `Engine.newest`."""
        return self._engine.newest(before, most)

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        """See `Engine.ended`."""
        return self._engine.ended(selection, now)

    def children(self, parents: Sequence[int]) -> list[int]:
        """See `Engine.children`."""
        return self._engine.children(parents)

    def holds(self, values: Sequence[Value]) -> bool:
        """See `Engine.holds`."""
        return self._engine.holds(values)

    def attempts(self, batch: int, index: int, *, first: int = 0, room: int | None = None) -> list[Attempt]:
        """See `Engine.attempts`."""
        return self._engine.attempts(batch, index, first=first, room=room)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()
