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
from dtq.core.changes import Element, Parent, TaskRow
from dtq.core.elements import CAUSE, cause
from dtq.core.parents import After
from dtq.engines.base import EndedRun, StoredBatch
from dtq.errors import DtqError, ParentUnknown
from dtq.model.ids import TaskId
from dtq.model.messages import Conditions, Receipt, Submission
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Over:
    """What the store says of a batch that a map is over.

    Attributes:
        error: why none can be, where none can.
        size: how many tasks it has.
        gone: those that have ended without a result, and why what waits for each never starts.
        stamp: how many of them had ended so, where the batch was live; else None.
    """

    error: DtqError | None = None
    size: int = 0
    gone: tuple[tuple[int, int, str], ...] = ()
    stamp: tuple[int, int, int] | None = None


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
        self._over: dict[int, _Over] = {}
        self._looks = 0

    @contextmanager
    def locked(self, wanted: Sequence[Parent], over: Sequence[int] = ()) -> Iterator[None]:
        """Hold the coordinator's lock, once all facts about some tasks, and batches that maps are over, are known."""
        c = self._c
        c.lock.acquire()
        try:
            while True:
                missing = [parent for parent in wanted if self._is_missing(parent)]
                unseen = [number for number in over if self._is_unseen(number)]
                if not missing and not unseen:
                    break
                c.lock.release()
                try:
                    self._look_up(missing)
                    self._look_over(unseen)
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
        batch = self._c.machine.queue_state.batches.get(number)
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

    def over(self, number: int) -> tuple[int, tuple[tuple[int, int, str], ...]]:
        """How many tasks a batch has that a map is over, and those that have ended without a result, with the reason.

        Raises:
            ParentUnknown: none can be over it.
        """
        batch = self._c.machine.queue_state.batches.get(number)
        if batch is not None and not batch.complete:
            raise ParentUnknown(str(number), "not all of its tasks have been accepted yet")
        found = self._over.get(number)
        if batch is not None and (found is None or not batch.ended):
            return batch.size, ()
        if found is None:  # of the same call, and had been submitted before
            raise ParentUnknown(str(number), "it has ended meanwhile")
        if found.error is not None:
            raise found.error
        gone = found.gone if (number, -1) not in self.back else ()
        return found.size, tuple([each for each in gone if (number, each[0]) not in self.back])

    def _is_unseen(self, number: int) -> bool:
        batch = self._c.machine.queue_state.batches.get(number)
        if batch is not None and not batch.ended:
            return False
        found = self._over.get(number)
        return found is None or (self._looks < _LOOKS and batch is not None and found.stamp != _losses(batch))

    def _left(self, batch: Batch | None, lo: int, hi: int) -> int:
        return 0 if batch is None else self._c.machine.queue_state.dependencies.unended(batch, lo, hi)

    def _is_missing(self, parent: Parent) -> bool:
        number, lo, hi, _ = parent
        batch = self._c.machine.queue_state.batches.get(number)
        if batch is not None and (not hi or self._left(batch, lo, hi) == hi - lo):
            return False
        found = self._found.get((number, lo, hi))
        if found is None:
            return True
        return self._looks < _LOOKS and batch is not None and found.stamp != _stamp(batch)

    # -- outside the lock -----------------------------------------------------------------------------------------

    def _look_over(self, numbers: Sequence[int]) -> None:
        c = self._c
        if not numbers:
            return
        with c.lock:
            live = {number: c.machine.queue_state.batches.get(number) for number in numbers}
            stamps = {number: _losses(batch) for number, batch in live.items() if batch is not None}
        c.flush()
        for number in numbers:
            stored = next(iter(c.engine.batches([number])), None)
            found = _Over(error=self._unknown(number, 0, 0)) if stored is None else self._over_of(stored)
            self._over[number] = replace(found, stamp=stamps.get(number))

    def _over_of(self, stored: StoredBatch) -> _Over:
        row = stored.row
        gone: list[tuple[int, int, str]] = []
        results = 0
        for run in self._c.engine.ended(Selection(ids=((row.batch, -1),), limit=0), self._c.clock.now()):
            if run.state is State.SUCCEEDED:
                results += run.hi - run.lo
            else:
                gone.append((run.lo, run.hi, _lost(run, run.lo)))
        if row.purged or results < row.succeeded:
            why = "dead letters of it were purged" if row.purged else "its results are no longer kept"
            return _Over(error=ParentUnknown(str(row.batch), why))
        return _Over(size=row.size, gone=tuple(sorted(gone)))

    def _unknown(self, number: int, lo: int, hi: int) -> ParentUnknown:
        with self._c.lock:
            accepted = 0 < number <= self._c.machine.queue_state.last_batch
        return ParentUnknown(_named(number, lo, hi), "it is no longer kept" if accepted else "it was never accepted")

    def _look_up(self, missing: Sequence[Parent]) -> None:
        c = self._c
        if not missing:
            return
        with c.lock:
            stamps = {
                parent[0]: _stamp(batch)
                for parent in missing
                if (batch := c.machine.queue_state.batches.get(parent[0])) is not None
            }
        c.flush()
        for number, lo, hi, value in missing:
            stored = next(iter(c.engine.batches([number])), None)
            if stored is None:
                found = _Found(error=self._unknown(number, lo, hi))
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


def _losses(batch: Batch) -> tuple[int, int, int]:
    return batch.dead, batch.cancelled, batch.purged


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
    batches = c.machine.queue_state.batches
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


def waited_for(submissions: Iterable[Submission]) -> tuple[list[Parent], list[int]]:
    """The tasks that submissions wait for, and the batches that they are over; none of the same call."""
    wanted: list[Parent] = []
    over: list[int] = []
    for submission in submissions:
        if submission.conditions is not None:
            wanted += [parent for parent in submission.conditions.after if parent[0] >= 0]
            over += [number for number, _ in submission.conditions.each]
        for _, own in submission.items:
            wanted += own
    return list(dict.fromkeys(wanted)), list(dict.fromkeys(over))


def after_of(
    parents: Parents, place: int, submission: Submission, receipts: Sequence[Receipt], made: Mapping[int, Batch]
) -> After:
    """The dependencies of a new batch, or of a piece of one; under the lock.

    Args:
        parents: the findings.
        place: of the submission in its call.
        submission: the submission.
        receipts: of the submissions before it.
        made: batches that were made in the same call, by number.

    Raises:
        ParentUnknown: one of the tasks does not exist, or is no longer kept.
    """
    conditions = submission.conditions or Conditions()
    wanted = [] if submission.batch is not None else of_call(place, conditions, receipts)
    for number, lo, hi, _ in wanted:
        if (hi and hi <= lo) or (number in made and hi > made[number].size):
            size = made[number].size if number in made else 1
            raise ParentUnknown(_named(number, max(lo, hi - 1), hi, size), "there is no such task")
    lost = parents.standing([parent for parent in wanted if parent[0] not in made])
    lost = lost or next(filter(None, [_lost_of(made[parent[0]]) for parent in wanted if parent[0] in made]), "")
    each: list[Element] = []
    gone: list[tuple[int, int, str]] = []
    for number, is_json in conditions.each if submission.batch is None else ():
        size, lost_ones = parents.over(number)
        each.append((number, size, is_json))
        gone += lost_ones
    items = [(submission.offset + at, own) for at, own in submission.items]
    for number, lo, hi, _ in [parent for _, own in items for parent in own]:
        if not number or (hi and hi <= lo):
            raise ParentUnknown(_named(number, lo, hi), "there is no such task")
    lost_items = [(index, why) for index, own in items if (why := parents.standing(own))]
    run_anyway = conditions.run_anyway
    return After(
        parents=tuple(wanted),
        run_anyway=run_anyway,
        lost="" if run_anyway else lost,
        each=tuple(each),
        gone=() if run_anyway else tuple(sorted(gone)),
        items=tuple(sorted(items)),
        lost_items=() if run_anyway else tuple(lost_items),
    )


# -- for revived dead letters -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """A batch that waits for others, or has.

    Attributes:
        stored: the batch.
        tasks: those of it that the end of one that they waited for by themselves had cancelled.
        children: the batches that wait for it, or have.
    """

    stored: StoredBatch
    tasks: tuple[TaskRow, ...] = ()
    children: tuple[int, ...] = ()

    @property
    def over(self) -> tuple[int, ...]:
        """The batches that it is over."""
        flow = self.stored.row.flow
        return () if flow is None else tuple([number for number, _, _ in flow.each])

    def parents_of(self, task: TaskRow) -> tuple[Parent, ...]:
        """What a task waited for by itself; and with its batch, if that had ended before it had waited to the end."""
        flow = self.stored.row.flow
        with_batch = flow.after if flow is not None and flow.blocked else ()
        return (*task.after, *((number, task.index, task.index + 1, True) for number in self.over), *with_batch)


def family(c: Coordinator, back: Mapping[int, Collection[int]]) -> dict[int, Kin]:
    """The batches of which the end of some tasks had cancelled all or some, and those of which the end of these had,
    and so on; in rising order, in which each comes behind what it waits for. And those that wait for them and go on
    doing so.

    Args:
        c: the coordinator.
        back: the tasks, by their batches, which are in it too.
    """
    found: dict[int, Kin] = {}
    todo: dict[int, set[int] | None] = {number: set(indexes) for number, indexes in back.items()}
    while todo:
        number = min(todo)
        indexes = todo.pop(number)
        stored = next(iter(c.engine.batches([number])), None)
        if stored is None:
            continue
        tasks = () if number in back else _lost_tasks(c, stored, found, indexes)
        children = tuple(c.engine.children([number]))
        found[number] = Kin(stored=stored, tasks=tasks, children=children)
        ended = None if was_lost(stored) else {task.index for task in tasks} | set(back.get(number, ()))
        for child in children if ended is None or ended else ():
            known = todo.setdefault(child, set())
            todo[child] = None if known is None or ended is None else known | ended
    return found


def _lost_tasks(
    c: Coordinator, stored: StoredBatch, kin: Mapping[int, Kin], indexes: Collection[int] | None
) -> tuple[TaskRow, ...]:
    """The tasks of a batch that the end of those of some others had cancelled."""
    flow, number = stored.row.flow, stored.row.batch
    if flow is None or was_lost(stored) or not (flow.each or flow.given):
        return ()
    all_of_it = flow.given or indexes is None or len(indexes) > _FEW
    ids = [(number, -1)] if all_of_it else [(number, index) for index in indexes or ()]
    if not ids:
        return ()
    runs = c.engine.ended(Selection(ids=tuple(ids), state=State.CANCELLED, limit=0), c.clock.now())
    own = Kin(stored=stored)
    rows = [run.task for run in runs if run.task is not None and run.task.why.startswith(CAUSE)]
    return tuple([row for row in rows if any(parent[0] in kin for parent in own.parents_of(row))])


def was_lost(stored: StoredBatch) -> bool:
    """Whether a parent's end had cancelled a batch."""
    flow = stored.row.flow
    return flow is not None and stored.row.finished_at is not None and flow.why.startswith(CAUSE)


def after_of_row(stored: StoredBatch) -> tuple[Parent, ...]:
    """A batch's parents."""
    return () if stored.row.flow is None else stored.row.flow.after
