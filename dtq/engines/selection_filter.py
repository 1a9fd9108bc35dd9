"""Filters ended tasks by a selection: the one interpretation of `Selection` that all engines share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from dtq.engines.base import EndedRun, StoredBatch
from dtq.model.globs import glob
from dtq.model.options import Spec
from dtq.model.snapshots import Selection
from dtq.model.states import FINAL, State, exception_name

#: Above any batch's number, and as large as an engine can store.
_ALL: Final = (1 << 63) - 1


class SelectionFilter:
    """Filters runs by a selection.

    Args:
        selection: the selection.
        now: the time, for ``older_than_s``.

    Attributes:
        states: the selected final states.
        latest: the latest selected end.
        batches: the selected batches with their selected tasks, or all of them; None for all batches.
        limit: most runs; None for all.
    """

    def __init__(self, selection: Selection, now: float) -> None:
        self._selection = selection
        self._function = None if selection.function is None else glob(selection.function)
        self._exception = None if selection.exception is None else glob(selection.exception)
        self.now = now
        self.states = FINAL if selection.state is None else FINAL & {selection.state}
        self.latest = math.inf if selection.older_than_s is None else now - selection.older_than_s
        self._behind: tuple[float, int, int] | None = None
        if selection.after is not None and State(selection.after[0]).final:
            self._behind = selection.after[1:]
            self.latest = min(self.latest, self._behind[0])
        self.limit = selection.limit or None
        self.batches: dict[int, set[int] | None] | None = None
        if selection.ids:
            self.batches = {}
            for batch, index in selection.ids:
                wanted = self.batches.setdefault(batch, set())
                if index < 0:
                    self.batches[batch] = None
                elif wanted is not None:
                    wanted.add(index)

    @property
    def below(self) -> tuple[float, int, int]:
        """Only runs before this place match: end, batch and first task."""
        return self._behind if self._behind is not None and self._behind[0] <= self.latest else (self.latest, _ALL, 0)

    @property
    def by_attempt(self) -> bool:
        """Whether only tasks with a row of their own can match."""
        return self._selection.by_attempt

    def wants_spec(self, spec: Spec) -> bool:
        """Whether tasks of this spec can match, whatever its label."""
        queue = self._selection.queue
        if queue is not None and spec.options.queue != queue:
            return False
        return self._function is None or self._function.matches(spec.function.name)

    def wants_label(self, label: str) -> bool:
        """Whether tasks with this label can match."""
        return self._selection.label is None or label == self._selection.label

    def wants(self, run: EndedRun) -> bool:
        """Whether a run matches; its spec and label have been checked."""
        if run.state not in self.states or run.ended_at > self.latest or not self._wants_id(run):
            return False
        if self._behind is not None and latest_first(run)[:3] >= self._behind:
            return False
        return not self.by_attempt or self._wants_attempt(run)

    def _wants_attempt(self, run: EndedRun) -> bool:
        if run.task is None or self._selection.outcome not in (None, run.task.outcome):
            return False
        exception = self._exception
        return exception is None or exception.matches(exception_name(run.task.outcome, run.task.exception))

    def _wants_id(self, run: EndedRun) -> bool:
        if self.batches is None:
            return True
        indexes = self.batches.get(run.batch.row.batch, set())
        if indexes is None:
            return True
        if run.hi - run.lo < len(indexes):
            return any(index in indexes for index in range(run.lo, run.hi))
        return any(run.lo <= index < run.hi for index in indexes)

    def first(self, runs: Iterable[EndedRun]) -> Iterator[EndedRun]:
        """The matching runs, up to the limit."""
        return islice(filter(self.wants, runs), self.limit)


def cut_tail(batch: StoredBatch, now: float) -> EndedRun | None:
    """The tasks that were cancelled with their batch before their first start, as one run.

    A batch does not record when it was cut: its tail counts as cancelled when the batch finished, and until then as
    cancelled just now.
    """
    row = batch.row
    if row.cut is None or row.cut >= row.size:
        return None
    ended_at = now if row.finished_at is None else row.finished_at
    return EndedRun(batch=batch, lo=row.cut, hi=row.size, state=State.CANCELLED, ended_at=ended_at)


def latest_first(run: EndedRun) -> tuple[float, int, int, bool, bool]:
    """The sort key of runs, highest first; no two runs have the same."""
    tail = run.task is None and run.state is State.CANCELLED
    return run.ended_at, run.batch.row.batch, run.lo, run.task is not None, tail
