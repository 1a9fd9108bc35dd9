"""Batches whose tasks wait one by one for those of others: a map over what another map returns, without a barrier.

Rules:

1. Task i of such a batch (`BatchFlow.each`) waits for task i of each of the batches that it is over, and is given their
   results. Its size is that of the smallest of them, whose tasks have all been accepted before: so it has no pieces,
   and no arguments but what it is given.
2. It keeps a frontier like any other batch, and beside it how far its fresh tasks are *ready* (`Frontier`): those below
   wait for nothing any more. Both go forward only. What a batch waits for ends nearly in its order, so that costs
   nothing for each task: what has ended of a batch is known here as few ranges (`Watched`).
3. A task that is held up, where later ones are not, is passed over: it gets a record, is BLOCKED by itself, and the
   frontier goes on behind it. That is done only where nothing else of the batch is left to start, and only past tasks
   whose parents have left the common path or are leased alone: those that are leased together end together, within
   moments. So there are about as many records as there are stragglers.
4. A parent that ends without a result cancels the task, unless it runs anyway; one of many that were cancelled as a
   whole has those of its children cancelled as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from dtq.core.batches import Batch, Task
from dtq.core.leases import Lease
from dtq.core.states import Move
from dtq.model.coverage import Coverage
from dtq.model.ids import TaskId
from dtq.model.states import State

if TYPE_CHECKING:
    from dtq.core.dependencies import Dependencies
    from dtq.core.queue_state import QueueState

#: The states of what has not been handed out.
WAITING: Final = (State.PENDING, State.SCHEDULED, State.BLOCKED)
#: What the reason begins with where a parent's end has cancelled something.
CAUSE: Final = "parent "


def cause(batch: int, index: int, state: str, *, single: bool) -> str:
    """The reason of what was cancelled as a task had ended without a result.

    Args:
        batch: the task's batch.
        index: its index; negative for the whole batch.
        state: what has become of it.
        single: whether it is the only task of its batch.
    """
    named = str(batch) if index < 0 else str(TaskId(batch, index, single))
    return f"{CAUSE}{named} is {state}"


class Watched:
    """What waits task by task for those of one batch, and which of these have ended."""

    __slots__ = ("children", "ended")

    def __init__(self) -> None:
        self.children: list[Batch] = []
        #: None until it was found out.
        self.ended: Coverage | None = None

    def __bool__(self) -> bool:
        return bool(self.children)


def ended_of(batch: Batch, leases: Iterable[Lease]) -> Coverage:
    """Which tasks of a live batch have ended.

    Args:
        batch: the batch.
        leases: all that may be of it.
    """
    open_ranges = [(lease.lo, lease.hi) for lease in leases if lease.batch is batch]
    at = batch.next
    for index in batch.records_in(0, batch.size):
        task = batch.task(index)
        if index >= batch.next:
            open_ranges.append((at, min(index, batch.limit)))
            at = index + 1
        if task is not None and task.state in WAITING:
            open_ranges.append((index, index + 1))
    open_ranges.append((at, batch.limit))
    ended = Coverage()
    at = 0
    for lo, hi in sorted(each for each in open_ranges if each[0] < each[1]):
        if at < lo:
            ended.add(at, lo)
        at = max(at, hi)
    if at < batch.size:
        ended.add(at, batch.size)
    return ended


class Elements:
    """The batches whose tasks wait one by one.

    Args:
        queue_state: where all of them stand.
        dependencies: what waits otherwise.
    """

    def __init__(self, queue_state: QueueState, dependencies: Dependencies) -> None:
        self._register = queue_state
        self._dependencies = dependencies

    # -- what begins to wait --------------------------------------------------------------------------------------

    def begin(self, batch: Batch, leases: dict[int, list[Lease]] | None = None) -> None:
        """A batch waits for those of its parents that are live; the others have ended.

        Args:
            batch: the batch.
            leases: the leases of batches, where they have been gathered already.
        """
        queue_state = self._register
        for number in _parents(batch):
            parent = queue_state.batches.get(number)
            if parent is None:
                continue
            watched = self._dependencies.watched(parent)
            if not any(child is batch for child in watched.children):
                watched.children.append(batch)
            if watched.ended is None:
                own = queue_state.leases.values() if leases is None else leases.get(number, ())
                watched.ended = ended_of(parent, own)

    def fill(self, batch: Batch, size: int, gone: Iterable[tuple[int, int, str]], now: float) -> None:
        """A batch is new: it has so many tasks, some of which never start.

        Args:
            batch: the batch.
            size: how many.
            gone: those that never start, and why.
            now: the time.
        """
        queue_state = self._register
        batch.size = size
        queue_state.submitted += size
        queue_state.tally.move(batch.queue, None, Move.BLOCKED, size)
        self.begin(batch)
        if batch.due_at is not None and not batch.blocked and size:
            queue_state.push_fresh(batch, 0, size)
        self.lose(batch, gone, now)

    def lose(self, batch: Batch, gone: Iterable[tuple[int, int, str]], now: float) -> None:
        """Some tasks of a batch never start, each for a reason; others may now."""
        doomed = batch.blocked and batch.flow is not None and batch.flow.why != ""
        for lo, hi, why in () if doomed else gone:
            self._lose(batch, lo, hi, why, now)
        self.advance(batch, now)

    def is_free(self, batch: Batch, index: int) -> bool:
        """Whether what a task waits for by its index has ended."""
        return all([each.end(index) is not None for each in self._ended_of_parents(batch)])

    # -- how far it may go ----------------------------------------------------------------------------------------

    def advance(self, batch: Batch, now: float) -> None:
        """Let those tasks go that have nothing left to wait for."""
        frontier = batch.frontier
        if frontier is None or self._register.batches.get(batch.number) is not batch:
            return
        ended = self._ended_of_parents(batch)
        while True:
            self._skip(batch)
            self._extend(batch, ended)
            if batch.next < frontier.ready or not self._pass_over(batch, ended):
                break
            self._dependencies.changed(batch)
        self._list(batch)

    def _ended_of_parents(self, batch: Batch) -> list[Coverage]:
        """What has ended of those of its parents that are live."""
        found = []
        for number in _parents(batch):
            awaited = self._dependencies.awaited.get(number)
            live = number in self._register.batches
            if live and awaited is not None and awaited.each is not None and awaited.each.ended is not None:
                found.append(awaited.each.ended)
        return found

    def _skip(self, batch: Batch) -> None:
        """The frontier goes past fresh tasks that were cancelled alone."""
        if batch.blocked or batch.due_at is not None:
            return
        while batch.tasks is not None and batch.next < batch.limit:
            task = batch.task(batch.next)
            if task is None or not task.state.final:
                break
            batch.release(batch.next)
            batch.next += 1
            self._register.ledger.batch(batch)

    def _extend(self, batch: Batch, ended: list[Coverage]) -> None:
        frontier = batch.frontier
        assert frontier is not None
        first = at = max(frontier.ready, batch.next)
        while at < batch.limit:
            end = batch.limit if not ended else min([each.end(at) or at for each in ended])
            if end > at:
                at = min(end, batch.limit)
            elif batch.task(at) is not None:
                at += 1  # cancelled alone, or waits by itself
            else:
                break
        frontier.ready = at
        count = at - first - len(batch.records_in(first, at))
        if count and not batch.blocked:
            move = Move.RELEASED if batch.due_at is None else Move.DELAYED
            self._register.tally.move(batch.queue, State.BLOCKED, move, count)

    def _list(self, batch: Batch) -> None:
        """Have what is ready stand in a heap: as one run, however far it is ready."""
        frontier = batch.frontier
        assert frontier is not None
        if frontier.unlisted is None or batch.blocked or batch.due_at is not None:
            return
        lo = max(frontier.unlisted, batch.next)
        if lo < min(frontier.ready, batch.limit):
            frontier.unlisted = None
            self._register.push(batch, lo, batch.size)

    def _pass_over(self, batch: Batch, ended: list[Coverage]) -> bool:
        """Have the frontier go past tasks that are held up, where others behind them are not; whether it did."""
        if batch.blocked or batch.due_at is not None or batch.next >= batch.limit or not ended:
            return False
        if not all([each.goes_beyond(batch.next) for each in ended]):
            return False
        held_up: list[int] = []
        alone = None
        at = batch.next
        while at < batch.limit and (batch.task(at) is not None or any([each.end(at) is None for each in ended])):
            if batch.task(at) is None:
                alone = self._leased_alone(batch) if alone is None else alone
                if not self._is_straggler(batch, at, alone):
                    return False
                held_up.append(at)
            at += 1
        if at >= batch.limit:
            return False
        queue_state = self._register
        for index in held_up:
            task = Task(State.BLOCKED, 0)
            batch.keep(index, task)
            queue_state.ledger.task(task.row(batch.number, index))
        while batch.next < at:
            task_there = batch.task(batch.next)
            if task_there is not None and task_there.state.final:
                batch.release(batch.next)
            batch.next += 1
        queue_state.ledger.batch(batch)
        return True

    def _leased_alone(self, batch: Batch) -> set[tuple[int, int]]:
        """The tasks of its parents that are leased each by itself."""
        parents = set(_parents(batch))
        return {
            (lease.batch.number, lease.lo)
            for lease in self._register.leases.values()
            if lease.hi - lease.lo == 1 and lease.batch.number in parents
        }

    def _is_straggler(self, batch: Batch, index: int, alone: set[tuple[int, int]]) -> bool:
        """Whether each task that one waits for has left the common path, or is leased alone."""
        for number in _parents(batch):
            awaited = self._dependencies.awaited.get(number)
            parent = self._register.batches.get(number)
            if parent is None or awaited is None or awaited.each is None or awaited.each.ended is None:
                continue
            if awaited.each.ended.end(index) is None and parent.task(index) is None and (number, index) not in alone:
                return False
        return True

    # -- what ends ------------------------------------------------------------------------------------------------

    def ended(self, watched: Watched | None, batch: Batch, lo: int, hi: int, state: State, now: float) -> None:
        """Tasks ``[lo, hi)`` of a batch came into a final state; where these are none, something else has changed."""
        if watched is None:
            return
        watched.children = [c for c in watched.children if self._register.batches.get(c.number) is c]
        if lo < hi and watched.ended is not None:
            watched.ended.add(lo, hi)
        for child in list(watched.children):
            if lo < hi and state is not State.SUCCEEDED and not (child.flow is not None and child.flow.run_anyway):
                if hi - lo > 1 and batch.cut is not None:
                    why = cause(batch.number, -1, state.value, single=False)
                    self._lose(child, min(lo, batch.cut), batch.size, why, now)
                else:
                    for index in range(lo, min(hi, child.size)):
                        why = cause(batch.number, index, state.value, single=batch.single)
                        self._dependencies.cancel_item(child, index, why, now)
            elif lo < hi and child.tasks is not None:
                self._free(child, lo, hi, now)
            self.advance(child, now)

    def finished(self, watched: Watched | None, now: float) -> None:
        """All tasks of a batch have ended."""
        for child in () if watched is None else watched.children:
            if self._register.batches.get(child.number) is child:
                if child.tasks is not None:
                    self._free(child, 0, child.size, now)
                self.advance(child, now)

    def _free(self, batch: Batch, lo: int, hi: int, now: float) -> None:
        """Let those of the tasks ``[lo, hi)`` go that were passed over, and have nothing left to wait for."""
        for index in batch.records_in(lo, hi):
            if self.is_free(batch, index):
                self._dependencies.free_item(batch, index, now)

    def _lose(self, batch: Batch, lo: int, hi: int, why: str, now: float) -> None:
        """Tasks ``[lo, hi)`` never start: as a whole, where they are all that comes from there on."""
        queue_state = self._register
        if hi >= batch.limit and hi - lo > 1:
            for index in batch.records_in(lo, min(batch.next, hi)):
                self._dependencies.cancel_item(batch, index, why, now)
            at = max(lo, batch.next)
            if at < batch.limit and queue_state.batches.get(batch.number) is batch:
                queue_state.cut(batch, why, at)
                queue_state.finish_if_done(batch, now)
            return
        for index in range(lo, min(hi, batch.size)):
            self._dependencies.cancel_item(batch, index, why, now)

    def withdrawn(self, watched: Watched | None, batch: Batch, why: str, now: float) -> None:
        """A batch never was: neither is what is over it."""
        for child in () if watched is None else list(watched.children):
            if self._register.batches.get(child.number) is child:
                self._lose(child, 0, child.size, why, now)

    # -- what is put back -----------------------------------------------------------------------------------------

    def revived(self, batch: Batch, parent: Batch, indexes: Collection[int]) -> None:
        """Tasks of a parent that had ended without a result are put back: what runs anyway waits for them again, as far
        as it has not started."""
        if parent.number not in _parents(batch):
            return
        self.begin(batch)
        watched = self._dependencies.watched(parent)
        for index in indexes:
            if watched.ended is not None:
                watched.ended.remove(index, index + 1)
            if index < batch.size:
                self._dependencies.block_again(batch, index)


def _parents(batch: Batch) -> Iterable[int]:
    return () if batch.flow is None else dict.fromkeys([number for number, _, _ in batch.flow.each])
