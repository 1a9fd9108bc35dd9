"""Looks up the parents of submissions: whether they exist, and how those that have ended did.

The machine knows live tasks; ended tasks are in the store, and are looked up there outside of the lock. So the accepter
of a submission takes the lock and checks whether all parents are known; if not, it releases the lock, looks the others
up, and tries again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from dtq.coordinator.service import Coordinator
from dtq.core.batches import Batch
from dtq.core.changes import Parent
from dtq.core.dependencies import CAUSE, After, cause
from dtq.engines.base import EndedRun, StoredBatch
from dtq.errors import DtqError, ParentUnknown
from dtq.model.ids import TaskId
from dtq.model.messages import Conditions, Receipt
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.records import dataclass, replace

#: Look-ups of a task that keeps changing, before the last answer counts.
_LOOKS: Final = 8
#: Up to this many tasks of a batch are looked up one by one.
_FEW: Final = 1024
#: Numbers of a live batch's ended tasks, by state.
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The store's answer about tasks.

    Attributes:
        error: why no batch can wait for them, if that is so.
        lost: tasks that have ended without a result, by their indexes, and the reason for the batches that wait.
        ended: number of the ended tasks among them, as far as they are kept.
        stamp: stamp of their batch at that time; None if it was not live.
        size: number of the batch's tasks.
    """

    error: DtqError | None = None
    lost: tuple[tuple[int, str], ...] = ()
    ended: int = 0
    stamp: _Stamp | None = None
    size: int = 1


class Parents:
    """Findings about the parents of batches.

    Args:
        c: the coordinator.
        back: tasks that are put back: they had ended without a result, and are to run again. Index -1 is a whole batch.
    """

    def __init__(self, c: Coordinator, back: Collection[tuple[int, int]] = ()) -> None:
        self._c = c
        self.back = set(back)
        self._found: dict[tuple[int, int, int], _Found] = {}
        self._looks = 0

    @contextmanager
    def locked(self, wanted: Sequence[Parent]) -> Iterator[None]:
        """Hold the coordinator's lock, once all facts about some tasks are known."""
        c = self._c
        c.lock.acquire()
        try:
            while missing := [parent for parent in wanted if self._is_missing(parent)]:
                c.lock.release()
                try:
                    self._look_up(missing)
                finally:
                    c.lock.acquire()
                self._looks += 1
            yield
        finally:
            c.lock.release()

    # -- under the lock -------------------------------------------------------------------------------------------

    def standing(self, parents: Iterable[Parent]) -> str:
        """Why a batch that waits for these tasks never starts; "" if it may.

        Raises:
            ParentUnknown: one of them does not exist, or is no longer kept.
        """
        lost = ""
        for parent in parents:
            lost = lost or self._standing(parent)
        return lost

    def _standing(self, parent: Parent) -> str:
        number, lo, hi, _ = parent
        batch = self._c.machine.register.batches.get(number)
        if batch is not None and not hi:
            return _lost_of(batch)
        left = self._left(batch, lo, hi)
        if batch is not None and left == hi - lo:
            return ""
        found = self._found.get((number, lo, hi))
        if found is None:  # of the same call, and submitted before
            size = 1 if batch is None else batch.size
            raise ParentUnknown(_named(number, lo, hi, size), "it has ended meanwhile")
        if found.error is not None:
            raise type(found.error)(*found.error.args)  # the one that is kept would hold whatever holds it
        if hi and found.ended + left < hi - lo and self._looks < _LOOKS:
            raise ParentUnknown(_named(number, lo, hi, found.size), "it is no longer kept")
        left_out = (number, -1) in self.back
        return next((why for at, why in found.lost if not left_out and (number, at) not in self.back), "")

    def _left(self, batch: Batch | None, lo: int, hi: int) -> int:
        return 0 if batch is None else self._c.machine.register.dependencies.unended(batch, lo, hi)

    def _is_missing(self, parent: Parent) -> bool:
        number, lo, hi, _ = parent
        batch = self._c.machine.register.batches.get(number)
        if batch is not None and (not hi or self._left(batch, lo, hi) == hi - lo):
            return False
        found = self._found.get((number, lo, hi))
        if found is None:
            return True
        return self._looks < _LOOKS and batch is not None and found.stamp != _stamp(batch)

    # -- outside the lock -----------------------------------------------------------------------------------------

    def _look_up(self, missing: Iterable[Parent]) -> None:
        c = self._c
        with c.lock:
            stamps = {
                parent[0]: _stamp(batch)
                for parent in missing
                if (batch := c.machine.register.batches.get(parent[0])) is not None
            }
        c.flush()
        for number, lo, hi, value in missing:
            stored = next(iter(c.engine.batches([number])), None)
            if stored is None:
                with c.lock:
                    accepted = 0 < number <= c.machine.register.last_batch
                why = "it is no longer kept" if accepted else "it was never accepted"
                found = _Found(error=ParentUnknown(_named(number, lo, hi), why))
            elif hi > stored.row.size:
                found = _Found(error=ParentUnknown(str(TaskId(number, hi - 1, False)), "it was never accepted"))
            else:
                found = self._ended(stored, lo, hi, value=value)
            size = 1 if stored is None else stored.row.size
            self._found[number, lo, hi] = replace(found, stamp=stamps.get(number), size=size)

    def _ended(self, stored: StoredBatch, lo: int, hi: int, *, value: bool) -> _Found:
        row = stored.row
        if not hi and not value and not (row.dead or row.cancelled or row.purged):
            return _Found(ended=row.size)
        ids = [(row.batch, index) for index in range(lo, hi)] if 0 < hi - lo <= _FEW else [(row.batch, -1)]
        runs = self._c.engine.ended(Selection(ids=tuple(ids), limit=0), self._c.clock.now())
        end = hi or row.size
        lost: list[tuple[int, str]] = []
        ended, results = 0, 0
        for run in sorted(runs, key=_by_place):
            first, last = max(lo, run.lo), min(end, run.hi)
            if first < last:
                ended += last - first
                if run.state is State.SUCCEEDED:
                    results += last - first
                else:
                    lost.append((first, _lost(run, first)))
        if not hi:
            if row.purged and not lost:
                lost.append((0, cause(row.batch, -1, State.DEAD.value, single=row.size == 1)))
            if value and not lost and results < row.succeeded:
                return _Found(error=ParentUnknown(str(row.batch), "its results are no longer kept"))
        return _Found(lost=tuple(lost), ended=ended)


def _lost(run: EndedRun, index: int) -> str:
    row = run.batch.row
    whole = run.task is None and run.hi - run.lo == row.size > 1
    return cause(row.batch, -1 if whole else index, run.state.value, single=row.complete and row.size == 1)


def _by_place(run: EndedRun) -> tuple[bool, int]:
    return run.state is State.CANCELLED, run.lo  # a death is a better reason than the cancellations that it caused


def _stamp(batch: Batch) -> _Stamp:
    return batch.succeeded, batch.dead, batch.cancelled, batch.purged


def _lost_of(batch: Batch) -> str:
    """Why a batch that waits for all of a live batch never starts, if a task of that has ended without a result."""
    if batch.dead or batch.purged:
        return cause(batch.number, -1, State.DEAD.value, single=batch.single)
    return cause(batch.number, -1, State.CANCELLED.value, single=batch.single) if batch.cancelled else ""


def _named(number: int, lo: int, hi: int, size: int = 1) -> str:
    """The id of the first of some tasks, as lists show it, or of the whole batch.

    Args:
        number: the batch.
        lo, hi: the tasks.
        size: size of the batch; if unknown, the first one's id is that of the batch.
    """
    return str(number) if not hi else str(TaskId(number, lo, size == 1 and not lo))


# -- for submissions --------------------------------------------------------------------------------------------------


def of_call(place: int, conditions: Conditions, receipts: Sequence[Receipt]) -> list[Parent]:
    """The parents of a submission, with the numbers of those that were submitted in the same call.

    Args:
        place: of the submission in its call.
        conditions: its conditions.
        receipts: of the submissions before it.

    Raises:
        ParentUnknown: one of those was refused.
    """
    parents: list[Parent] = []
    for number, lo, hi, value in conditions.after:
        if number < 0:
            receipt = receipts[place + number] if place + number >= 0 else None
            if receipt is None or receipt.code:
                raise ParentUnknown("a task of the same call", "it was refused")
            number = receipt.batch
        parents.append((number, lo, hi, value))
    return parents


def same_parents(c: Coordinator, some: Iterable[Parent], others: Iterable[Parent]) -> bool:
    """Whether two submissions have the same parents, and are given the same results in the same order. A batch's only
    task may be named as the batch. Under the lock.
    """
    return _named_alike(c, some) == _named_alike(c, others)


def _named_alike(c: Coordinator, parents: Iterable[Parent]) -> tuple[list[Parent], set[Parent]]:
    batches = c.machine.register.batches
    given: list[Parent] = []
    others: set[Parent] = set()
    for number, lo, hi, is_value in parents:
        if is_value:
            given.append((number, lo, hi, is_value))
            continue
        batch = batches.get(number)
        only = (lo, hi) == (0, 1) and (
            batch is None or batch.size == 1
        )  # an ended batch may have more tasks: their number is unknown
        others.add((number, 0, 0, False) if only else (number, lo, hi, False))
    return given, others


def after_of(
    parents: Parents, place: int, conditions: Conditions, receipts: Sequence[Receipt], made: Mapping[int, Batch]
) -> After:
    """The dependencies of a new batch; under the lock.

    Args:
        parents: the findings.
        place: of the submission in its call.
        conditions: its conditions.
        receipts: of the submissions before it.
        made: batches that were made in the same call, by number.

    Raises:
        ParentUnknown: one of the tasks does not exist, or is no longer kept.
    """
    wanted = of_call(place, conditions, receipts)
    for number, lo, hi, _ in wanted:
        if (hi and hi <= lo) or (number in made and hi > made[number].size):
            size = made[number].size if number in made else 1
            raise ParentUnknown(_named(number, max(lo, hi - 1), hi, size), "there is no such task")
    lost = parents.standing([parent for parent in wanted if parent[0] not in made])
    lost = lost or next(filter(None, [_lost_of(made[parent[0]]) for parent in wanted if parent[0] in made]), "")
    return After(
        parents=tuple(wanted),
        run_anyway=conditions.run_anyway,
        lost="" if conditions.run_anyway else lost,
    )


# -- for revived dead letters -----------------------------------------------------------------------------------------


def family(c: Coordinator, numbers: Iterable[int]) -> dict[int, StoredBatch]:
    """The batches that the end of tasks of some batches had cancelled, and those that the end of these had, and so on;
    in rising order, so each comes behind its parents. And the batches that wait for them and go on waiting.
    """
    found: dict[int, StoredBatch] = {}
    level = list(numbers)
    while level:
        children = [number for number in c.engine.children(level) if number not in found]
        level = []
        for stored in c.engine.batches(children):
            found[stored.row.batch] = stored
            if was_lost(stored):
                level.append(stored.row.batch)
    return dict(sorted(found.items()))


def was_lost(stored: StoredBatch) -> bool:
    """Whether a parent's end had cancelled a batch."""
    flow = stored.row.flow
    return flow is not None and stored.row.finished_at is not None and flow.why.startswith(CAUSE)


def after_of_row(stored: StoredBatch) -> tuple[Parent, ...]:
    """A batch's parents."""
    return () if stored.row.flow is None else stored.row.flow.after
