"""Dependencies between batches: which batch waits for which tasks, and how the end of a task releases or cancels it.

A batch may wait for tasks of other batches, its *parents* (`BatchFlow.after`); then all of its tasks are BLOCKED until
those have ended. So may a single task of a batch by itself (`TaskRow.after`). A parent that ends without a result
cancels its children, and with them every task that waits for these in turn, unless the child runs anyway. Parents exist
before their children, so no task waits for itself. Batches whose tasks wait one by one for those of another batch are
the business of `core.elements`, which is told here of the ends.

Rules:

1. A batch's row lists its parents, and says whether the batch still waits. The number of unfinished parents follows
   from their own state; it is counted here only to save the search.
2. Ends are gathered as they happen (`ended`, `finished`) and processed one after the other (`settle`): a chain of any
   length needs no recursion.
3. Results that a live batch's function takes as arguments are kept, even if they are read or expire meanwhile; those
   that a single task takes, until that has ended.
4. A task that waits by itself has a record from its acceptance on. It is BLOCKED, and the frontier passes it; if it is
   free before that, it takes its turn when the frontier comes to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from dtq.core import wall_moments
from dtq.core.batches import Batch, Task
from dtq.core.changes import BatchFlow, BatchRow, Element, Parent, TaskRow
from dtq.core.elements import CAUSE, WAITING, Elements, Watched, cause
from dtq.core.leases import Lease
from dtq.core.states import Move
from dtq.model.coverage import Coverage
from dtq.model.ids import TaskId
from dtq.model.options import Spec
from dtq.model.states import State
from dtq.records import dataclass, replace
from dtq.wording import counted

if TYPE_CHECKING:
    from dtq.core.queue_state import QueueState

#: Most parents that the reason of a waiting task names.
_NAMED: Final = 3
#: Most batches that a row names whose tasks single tasks of its batch wait for.
_GIVEN: Final = 100
#: A child: a task that waits by itself, or all of a batch.
Waiter = tuple[Batch, int]
_ALL: Final = -1


def holder_of(batch: int) -> str:
    """The holder's name for a batch's given value: all results of another batch, written as one value."""
    return f"batch-{batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """The dependencies of a new batch.

    Attributes:
        parents: the tasks; all of them were accepted, and are kept.
        run_anyway: whether it runs although a parent ends without a result.
        lost: if a parent has ended so, and the batch does not run anyway, the reason why it never starts; else "".
        each: the batches whose tasks its own wait for one by one.
        gone: its tasks ``[lo, hi)`` that never start because their own parents have ended without a result, and why.
        items: the parents of single tasks, by index.
        lost_items: why some of these tasks never start, by index.
    """

    parents: tuple[Parent, ...] = ()
    run_anyway: bool = False
    lost: str = ""
    each: tuple[Element, ...] = ()
    gone: tuple[tuple[int, int, str], ...] = ()
    items: tuple[tuple[int, tuple[Parent, ...]], ...] = ()
    lost_items: tuple[tuple[int, str], ...] = ()

    @property
    def size(self) -> int | None:
        """How many tasks the batch has, where what they wait for says it."""
        return min([size for _, size, _ in self.each]) if self.each else None


def _given_to(flow: BatchFlow) -> set[int]:
    """The batches whose results the function of a batch is given."""
    return {parent[0] for parent in flow.after if parent[3]} | {element[0] for element in flow.each}


class _Span:
    """Several tasks of one batch that another batch waits for.

    Attributes:
        child: the waiting batch.
        lo: index of the first.
        hi: index after the last.
        left: number of these tasks that have not ended.
    """

    __slots__ = ("child", "hi", "left", "lo")

    def __init__(self, child: Waiter, lo: int, hi: int, left: int) -> None:
        self.child = child
        self.lo = lo
        self.hi = hi
        self.left = left


class _Awaited:
    """The batches that wait for tasks of one batch; some may have been cancelled since."""

    __slots__ = ("by_index", "each", "spans", "whole")

    def __init__(self) -> None:
        self.by_index: dict[int, list[Waiter]] = {}
        self.spans: list[_Span] = []
        #: Children that wait until all of the batch has ended.
        self.whole: list[Waiter] = []
        #: Batches that wait for it task by task.
        self.each: Watched | None = None

    @property
    def empty(self) -> bool:
        return not (self.by_index or self.spans or self.whole or self.each)

    def forget(self, batch: Batch, indexes: Collection[int]) -> None:
        """Remove tasks of a batch that wait by themselves."""

        def stays(waiter: Waiter) -> bool:
            return waiter[0] is not batch or waiter[1] not in indexes

        by_index = {index: [*filter(stays, waiters)] for index, waiters in self.by_index.items()}
        self.by_index = {index: waiters for index, waiters in by_index.items() if waiters}
        self.spans = [span for span in self.spans if stays(span.child)]
        self.whole = [*filter(stays, self.whole)]

    def indexes(self, lo: int, hi: int) -> list[int]:
        """The single tasks of a range that batches wait for."""
        by_index = self.by_index
        if not by_index:
            return []
        if hi - lo <= len(by_index):
            return [index for index in range(lo, hi) if index in by_index]
        return sorted(index for index in by_index if lo <= index < hi)


#: Tasks ``[lo, hi)`` of a batch that came into a final state, none if the batch has changed otherwise; None if the
#: batch has finished.
_End = tuple[Batch, int, int, State | None]


class Dependencies:
    """Which batches wait for which tasks.

    Args:
        queue_state: the state of the queue.
    """

    def __init__(self, queue_state: QueueState) -> None:
        self._register = queue_state
        #: By batch, the batches that wait for tasks of it.
        self.awaited: dict[int, _Awaited] = {}
        #: By blocked batch, the number of its parents that have not ended.
        self.waits: dict[int, int] = {}
        #: The same of tasks that wait by themselves, by place.
        self.item_waits: dict[tuple[int, int], int] = {}
        #: By batch, the number of live batches, and of tasks by themselves, that are given results of it.
        self.needed: dict[int, int] = {}
        #: Number of parents of all live batches together, and of their unfinished tasks by themselves.
        self.edges = 0
        #: Batches whose tasks wait one by one.
        self.elements = Elements(queue_state, self)
        #: Removals put off until no batch needs the results: by batch, the part that was read (None for all of it), and
        #: the time at which its own time was over.
        self._read: dict[int, Coverage | None] = {}
        self._over: dict[int, float] = {}
        #: By batch, the dead letters that were thrown away, but for their last attempts: a restart forgets that these
        #: are only kept as long as their dependents need them, and then they go with the batch.
        self._purged: dict[int, list[int]] = {}
        #: Ends that `settle` has not processed yet.
        self.todo: deque[_End] = deque()
        self._settling = False

    # -- beginning and ceasing to wait ----------------------------------------------------------------------------

    def added(self, batch: Batch) -> None:
        """Count the parents of a batch that becomes live."""
        flow = batch.flow
        if flow is not None and flow.has_parents:
            self.edges += len(flow.after) + len(flow.each)
            self._need(_given_to(flow))

    def _need(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.needed[number] = self.needed.get(number, 0) + 1

    def _need_no_more(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.needed[number] -= 1
            if not self.needed[number]:
                del self.needed[number]
                self._let_go(number)

    def begin(self, batch: Batch) -> None:
        """Let a new batch begin to wait."""
        if batch.flow is not None:
            parents = dict.fromkeys([parent[0] for parent in batch.flow.after])
            parents |= dict.fromkeys([element[0] for element in batch.flow.each])
            self._register.ledger.edges(batch.number, parents)
            if batch.flow.after:
                self.wait(batch)

    def look_again(self, batch: Batch, now: float) -> None:
        """Release a batch whose parents may all have ended before."""
        if self._waiting(batch) and not self._doomed(batch) and batch.number not in self.waits:
            self.release(batch, now)

    # -- tasks that wait by themselves ----------------------------------------------------------------------------

    def append(self, batch: Batch, lo: int, hi: int, after: After) -> int:
        """Tasks ``[lo, hi)`` of a batch are new: some of them wait by themselves; how many."""
        own = [(index, parents) for index, parents in after.items if lo <= index < hi]
        for index, parents in own:
            task = Task(State.BLOCKED, 0)
            task.after = parents
            batch.keep(index, task)
            self.item_added(task)
        if own:
            flow = batch.flow or BatchFlow()
            new = dict.fromkeys([parent[0] for _, parents in own for parent in parents])
            self._register.ledger.edges(batch.number, [number for number in new if number not in flow.given])
            given = tuple(dict.fromkeys([*flow.given, *new]))[:_GIVEN]
            batch.flow = replace(flow, given=given, run_anyway=after.run_anyway)
        return len(own)

    def look_at_items(self, batch: Batch, lo: int, hi: int, after: After, now: float) -> None:
        """Have tasks that have come to wait by themselves wait for what has not ended."""
        lost = dict(after.lost_items)
        for index, _ in after.items:
            task = batch.task(index) if lo <= index < hi else None
            if task is None or task.state is not State.BLOCKED:
                continue
            if index in lost and not after.run_anyway:
                self.cancel_item(batch, index, lost[index], now)
                continue
            self._register.ledger.task(task.row(batch.number, index))
            if not self.wait_item(batch, index, task):
                self.free_item(batch, index, now)

    def item_added(self, task: Task) -> None:
        """A task that has parents of its own is live."""
        self.edges += len(task.after)
        self._need({parent[0] for parent in task.after if parent[3]})

    def item_over(self, batch: Batch, index: int, task: Task) -> None:
        """A task that has parents of its own is live no more."""
        self.edges -= len(task.after)
        self.item_waits.pop((batch.number, index), None)
        self._need_no_more({parent[0] for parent in task.after if parent[3]})

    def wait_item(self, batch: Batch, index: int, task: Task, leases: dict[int, list[Lease]] | None = None) -> bool:
        """Have a task wait for those of its own parents that have not ended; whether there are any."""
        waits = 0
        for number, lo, hi, _ in task.after:
            parent = self._register.batches.get(number)
            if parent is not None and parent is not batch:
                waits += self._await((batch, index), parent, lo, hi, leases)
        if waits:
            self.item_waits[batch.number, index] = waits
        return waits > 0

    def free_item(self, batch: Batch, index: int, now: float) -> None:
        """A task that waited by itself has nothing left to wait for; it still waits with its batch, if that does."""
        queue_state = self._register
        task = batch.task(index)
        if task is None or task.state is not State.BLOCKED or batch.blocked:
            return
        ahead = index >= batch.next
        move = Move.DELAYED if ahead and batch.due_at is not None else Move.RELEASED
        state = queue_state.tally.move(batch.queue, State.BLOCKED, move)
        assert state is not None
        task.state = state
        if ahead and not task.after:  # a fresh one like others
            batch.release(index)
            queue_state.ledger.task_forgotten(batch.number, index, history=True)
        else:
            queue_state.ledger.task(task.row(batch.number, index))
        queue_state.ledger.batch(batch)
        queue_state.lines.pushed += 1
        if not ahead:
            queue_state.push(batch, index, index + 1)

    def cancel_item(self, batch: Batch, index: int, why: str, now: float) -> None:
        """A task that has not started never does; nothing where it has ended."""
        queue_state = self._register
        task = batch.task(index)
        if task is None and not batch.is_fresh(index):
            return
        state = batch.state_of_fresh(index) if task is None else task.state
        if state.final or state is State.RUNNING:
            return
        task = task or Task(state, 0)
        queue_state.tally.move(batch.queue, state, Move.CANCELLED)
        task.state = State.CANCELLED
        task.give_reason(why)
        queue_state.end_task(batch, index, task, now)

    def block_again(self, batch: Batch, index: int) -> None:
        """What a task that has not started was given has been put back: it waits once more."""
        queue_state = self._register
        task = batch.task(index)
        if task is None and not batch.is_fresh(index):
            return
        state = batch.state_of_fresh(index) if task is None else task.state
        with_batch = task is None and batch.blocked and index < batch.listed(batch.size)
        startable = state in (State.PENDING, State.SCHEDULED) and (task is None or not task.attempt)
        if not with_batch and not startable:
            return
        task = task or Task(state, 0)
        if not batch.blocked:
            queue_state.tally.move(batch.queue, state, Move.BLOCKED)
        task.state = State.BLOCKED
        batch.keep(index, task)
        queue_state.ledger.task(task.row(batch.number, index))
        queue_state.ledger.batch(batch)
        queue_state.restand((batch,))

    # -- batches --------------------------------------------------------------------------------------------------

    def forget(self, batch: Batch) -> None:
        """Forget a batch with parents that is no longer live."""
        flow = batch.flow
        if flow is None or not flow.has_parents:
            return
        for index, task in (batch.tasks or {}).items():
            if task.after and not task.state.final:
                self.item_over(batch, index, task)
        self.edges -= len(flow.after) + len(flow.each)
        if flow.given or any([parent[3] and not parent[2] for parent in flow.after]):
            self._register.holds.release_all(holder_of(batch.number))
        self.waits.pop(batch.number, None)
        self._need_no_more(_given_to(flow))

    def wait(self, batch: Batch, leases: dict[int, list[Lease]] | None = None) -> bool:
        """Begin to wait for those of a batch's parents that have not ended. The others have ended with a result, or
        their end does not matter.

        Args:
            batch: the batch.
            leases: the leases of batches, if they have been gathered already.

        Returns:
            Whether the batch has to wait.
        """
        flow = batch.flow
        if self._doomed(batch):
            return True
        waits = 0
        for number, lo, hi, _ in flow.after if flow is not None else ():
            parent = self._register.batches.get(number)
            if parent is not None and parent is not batch:
                waits += self._await((batch, _ALL), parent, lo, hi, leases)
        if waits:
            self.waits[batch.number] = waits
        return waits > 0

    def _await(
        self, child: Waiter, parent: Batch, lo: int, hi: int, leases: dict[int, list[Lease]] | None = None
    ) -> bool:
        left = self.unended(parent, lo, hi, leases) if hi else 1
        if not left:
            return False
        awaited = self._awaited(parent)
        if not hi:
            awaited.whole.append(child)
        elif hi == lo + 1:
            awaited.by_index.setdefault(lo, []).append(child)
        else:
            awaited.spans.append(_Span(child, lo, hi, left))
        return True

    def _awaited(self, parent: Batch) -> _Awaited:
        awaited = self.awaited.get(parent.number)
        if awaited is None:
            awaited = self.awaited[parent.number] = _Awaited()
        return awaited

    def watched(self, parent: Batch) -> Watched:
        """What waits task by task for those of a live batch."""
        awaited = self._awaited(parent)
        if awaited.each is None:
            awaited.each = Watched()
        return awaited.each

    def unended(self, batch: Batch, lo: int, hi: int, leases: dict[int, list[Lease]] | None = None) -> int:
        """Number of tasks in ``[lo, hi)`` of a live batch that have not ended."""
        hi = min(hi, batch.size)
        count = 0
        fresh, end = max(lo, batch.next), min(hi, batch.limit)
        if fresh < end:
            count += end - fresh - len(batch.records_in(fresh, end))
        if batch.tasks is not None:
            count += sum(batch.tasks[index].state in WAITING for index in batch.records_in(lo, hi))
        if lo < batch.next:
            hi = min(hi, batch.next)
            own = self._register.leases.values() if leases is None else leases.get(batch.number, ())
            for lease in own if batch.running else ():
                if lease.batch is batch:
                    count += max(0, min(hi, lease.hi) - max(lo, lease.lo))
        return count

    # -- ends -----------------------------------------------------------------------------------------------------

    def ended(self, batch: Batch, lo: int, hi: int, state: State) -> None:
        """Note that tasks came into a final state."""
        if batch.number in self.awaited:
            self.todo.append((batch, lo, hi, state))

    def finished(self, batch: Batch) -> None:
        """Note that all tasks of a batch have ended."""
        if batch.number in self.awaited:
            self.todo.append((batch, 0, batch.size, None))

    def changed(self, batch: Batch) -> None:
        """Tasks of a batch have left the common path: what waits for it task by task may go past them, and it itself
        further on, where its tasks wait so."""
        awaited = self.awaited.get(batch.number)
        if batch.frontier is not None or (awaited is not None and awaited.each):
            self.todo.append((batch, 0, 0, State.SUCCEEDED))

    def look(self, batch: Batch, now: float) -> None:
        """As `changed`; this is worked off at once."""
        self.changed(batch)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Release, or cancel, the batches that waited for tasks that have ended."""
        if self._settling:
            return
        self._settling = True
        try:
            while self.todo:
                batch, lo, hi, state = self.todo.popleft()
                if lo == hi:
                    self.elements.advance(batch, now)
                awaited = self.awaited.get(batch.number)
                if awaited is not None:
                    if state is None:
                        self._met(awaited.whole, now)
                        awaited.whole = []
                        each, awaited.each = awaited.each, None
                        self.elements.finished(each, now)
                    else:
                        self._on_ended(awaited, batch, lo, hi, state, now)
                        self.elements.ended(awaited.each, batch, lo, hi, state, now)
                        if awaited.each is not None and not awaited.each:
                            awaited.each = None
                    if awaited.empty:
                        self.awaited.pop(batch.number, None)
        finally:
            self._settling = False

    def _on_ended(self, awaited: _Awaited, batch: Batch, lo: int, hi: int, state: State, now: float) -> None:
        lost = "" if state is State.SUCCEEDED else state.value
        for index in awaited.indexes(lo, hi):
            children = awaited.by_index.pop(index)
            if lost:
                children = self._lost(children, cause(batch.number, index, lost, single=batch.single), now)
            self._met(children, now)
        spans = []
        for span in awaited.spans:
            first, end = max(lo, span.lo), min(hi, span.hi)
            if first < end:
                if lost and not self._lost([span.child], cause(batch.number, first, lost, single=batch.single), now):
                    continue
                span.left -= end - first
                if span.left <= 0:
                    self._met([span.child], now)
                    continue
            spans.append(span)
        awaited.spans = spans
        if lost and awaited.whole:
            at = -1 if hi - lo == batch.size > 1 else lo
            awaited.whole = self._lost(awaited.whole, cause(batch.number, at, lost, single=batch.single), now)

    def _waiting(self, batch: Batch) -> bool:
        """Whether this very batch still waits: it may have been cancelled, or even brought back as another object."""
        return batch.blocked and self._register.batches.get(batch.number) is batch

    def _item_waits(self, batch: Batch, index: int) -> bool:
        """Likewise, a task by itself."""
        return (batch.number, index) in self.item_waits and self._register.batches.get(batch.number) is batch

    def _met(self, children: Iterable[Waiter], now: float) -> None:
        """One thing that these have waited for has ended."""
        for child, index in children:
            if index >= 0:
                if self._item_waits(child, index):
                    self.item_waits[child.number, index] -= 1
                    if not self.item_waits[child.number, index]:
                        del self.item_waits[child.number, index]
                        self.free_item(child, index, now)
            elif self._waiting(child) and not self._doomed(child):
                self.waits[child.number] -= 1
                if not self.waits[child.number]:
                    self.release(child, now)

    def _lost(self, children: list[Waiter], why: str, now: float) -> list[Waiter]:
        """One thing that these have waited for has ended without a result; those that run anyway."""
        runs = []
        for child, index in children:
            if self._item_waits(child, index) if index >= 0 else self._waiting(child) and not self._doomed(child):
                if child.flow is not None and child.flow.run_anyway:
                    runs.append((child, index))
                elif index >= 0:
                    self.cancel_item(child, index, why, now)
                else:
                    self.cancel(child, why, now)
        return runs

    def release(self, batch: Batch, now: float) -> None:
        """Let a batch run that has nothing left to wait for."""
        queue_state = self._register
        self.waits.pop(batch.number, None)
        assert batch.flow is not None
        batch.flow = replace(batch.flow, blocked=False)
        if batch.due_at is not None and wall_moments.left_s(queue_state, batch, now) <= 0:
            batch.due_at = None
        lo, hi = batch.next, batch.size
        move = Move.RELEASED if batch.due_at is None else Move.DELAYED
        for state, count in batch.fresh_counts():
            if state is not State.BLOCKED:
                queue_state.tally.move(batch.queue, State.BLOCKED, move, count)
        if batch.fresh:
            if batch.due_at is None:
                queue_state.push_fresh(batch, lo, hi)
            else:
                wall_moments.heap_of(queue_state, batch).push(batch.due_at, batch.number, lo, hi)
        for index in batch.records_in(0, hi):  # those below the frontier have come back
            if (batch.number, index) not in self.item_waits and self.elements.is_free(batch, index):
                self.free_item(batch, index, now)
        queue_state.ledger.batch(batch)
        self.elements.advance(batch, now)

    def cancel(self, batch: Batch, why: str, now: float) -> None:
        """Doom a blocked batch: it never starts. While pieces of it still come, it is not cancelled: the last piece
        does that, so that all of it can be brought back.
        """
        queue_state = self._register
        assert batch.flow is not None
        queue_state.call_back(batch)
        self.waits.pop(batch.number, None)
        if batch.complete:
            queue_state.cut(batch, why)
            queue_state.finish_if_done(batch, now)
        else:
            batch.flow = replace(batch.flow, why=why)
            queue_state.ledger.batch(batch)

    def sealed(self, batch: Batch, now: float) -> None:
        """Handle the last piece of a batch: a doomed batch ends now."""
        flow = batch.flow
        if flow is not None and self._doomed(batch):
            self._register.cut(batch, flow.why)
            self._register.finish_if_done(batch, now)

    @staticmethod
    def _doomed(batch: Batch) -> bool:
        """Whether a batch never starts, and is cancelled as soon as it is complete."""
        return batch.blocked and batch.cut is None and batch.flow is not None and batch.flow.why != ""

    def withdrawn(self, batch: Batch, now: float) -> None:
        """Cancel the batches that waited for a batch that was withdrawn."""
        awaited = self.awaited.pop(batch.number, None)
        if awaited is None:
            return
        children = [child for some in awaited.by_index.values() for child in some]
        children += [span.child for span in awaited.spans] + awaited.whole
        why = cause(batch.number, -1, "not accepted", single=False)
        for child, index in children:
            if index >= 0 and self._item_waits(child, index):
                self.cancel_item(child, index, why, now)
            elif index < 0 and self._waiting(child):
                self.cancel(child, why, now)
        self.elements.withdrawn(awaited.each, batch, why, now)

    # -- dead letters put back ------------------------------------------------------------------------------------

    def revived(self, batch: Batch, indexes: Iterable[int], children: Iterable[int]) -> None:
        """Handle revived dead letters of a batch: children that would have run without their results, and still wait
        for others, wait for them again.

        Args:
            batch: the batch, which is live.
            indexes: of the tasks.
            children: the batches that have parents in it.
        """
        wanted = set(indexes)
        for number in children:
            child = self._register.batches.get(number)
            if child is None or child.flow is None or self._doomed(child):
                continue
            if child.blocked:
                self._revived(child, _ALL, child.flow.after, batch, wanted)
            if child.flow.given:
                for index, task in list((child.tasks or {}).items()):
                    if task.after and not task.state.final and not task.attempt:
                        self._revived(child, index, task.after, batch, wanted)
            if child.frontier is not None:
                self.elements.revived(child, batch, wanted)

    def _revived(
        self, child: Batch, index: int, after: Iterable[Parent], batch: Batch, wanted: Collection[int]
    ) -> None:
        """As `revived`, for one batch, or a task by itself. What it waits for it may name more than once."""
        awaited = self._awaited(batch)
        spans = [span for span in awaited.spans if span.child[0] is child and span.child[1] == index]
        whole = sum([waiter[0] is child and waiter[1] == index for waiter in awaited.whole])
        waits = 0
        for parent, lo, hi, _ in after:
            count = sum(lo <= each < (hi or batch.size) for each in wanted) if parent == batch.number else 0
            span = next((span for span in spans if (span.lo, span.hi) == (lo, hi)), None)
            if not count:
                continue
            if span is not None:
                span.left += count
                spans.remove(span)
            elif not hi and whole:
                whole -= 1  # it has not finished since
            else:
                waits += self._await((child, index), batch, lo, hi)
        if awaited.empty:
            del self.awaited[batch.number]
        if waits and index < 0:
            self.waits[child.number] = self.waits.get(child.number, 0) + waits
        elif waits:
            self.item_waits[child.number, index] = self.item_waits.get((child.number, index), 0) + waits
            self.block_again(child, index)

    def bring_back(
        self,
        row: BatchRow,
        spec: Spec,
        lost: str,
        now: float,
        gone: Iterable[tuple[int, int, str]] = (),
        children: Collection[int] = (),
    ) -> Batch | None:
        """Restore a batch that a parent's end had cancelled, because the parent has been put back: the batch waits
        again.

        Args:
            row: the batch, as the engine has it.
            spec: its spec.
            lost: if another parent has ended without a result, the reason why the batch stays cancelled; else "".
            now: the time.
            gone: see `After`.
            children: the batches that have parents in it.

        Returns:
            The batch; None if it was not cancelled so, or stays as it is.
        """
        queue_state = self._register
        flow = row.flow
        if row.batch in queue_state.batches or flow is None or not flow.why.startswith(CAUSE):
            return None
        if row.cut is None or row.cut >= row.size:
            return None  # no task of the batch was cancelled so
        if lost:
            if lost != flow.why:
                queue_state.ledger.finished_batch(replace(row, flow=replace(flow, why=lost)))
            return None
        batch = Batch.from_row(row, queue_state.intern(spec))
        batch.flow = replace(flow, blocked=bool(flow.after), why="")
        batch.cut = None
        count = row.size - row.cut
        batch.cancelled -= count
        self._live_again(batch)
        queue_state.tally.move(batch.queue, State.CANCELLED, Move.BROUGHT_BACK, count)
        queue_state.ledger.batch(batch)
        self.revived(batch, range(row.cut, row.size), children)
        if batch.blocked and not self.wait(batch):
            self.release(batch, now)
        self.elements.lose(batch, gone, now)
        self.settle(now)
        return batch

    def bring_back_items(
        self,
        row: BatchRow,
        spec: Spec,
        tasks: Iterable[TaskRow],
        lost: Mapping[int, str],
        now: float,
        children: Collection[int] = (),
    ) -> list[int]:
        """Tasks that had been cancelled as one that they waited for by themselves had ended wait again, as that is put
        back.

        Args:
            row: their batch, as the engine has it; only looked at where it is not live.
            spec: its spec.
            tasks: their rows.
            lost: why some of them stay cancelled, by their indexes.
            now: the time.
            children: the batches that have parents in theirs.

        Returns:
            The indexes of those that wait again.
        """
        queue_state = self._register
        back = [task for task in tasks if task.state is State.CANCELLED and task.why.startswith(CAUSE)]
        back = [task for task in back if task.index not in lost]
        batch = queue_state.batches.get(row.batch)
        flow = row.flow if batch is None else batch.flow
        if not back or flow is None or flow.too_late(now):
            return []
        if batch is None:
            batch = Batch.from_row(row, queue_state.intern(spec))
            self._live_again(batch)
        self._wait_no_more(batch, back)
        done = []
        for old in back:
            known = batch.task(old.index)
            if known is not None and not known.state.final:
                continue
            task = Task.from_row(old)
            task.state, task.message, task.ended_at = State.BLOCKED, "", None
            queue_state.tally.move(batch.queue, State.CANCELLED, Move.BROUGHT_BACK)
            batch.cancelled -= 1
            batch.keep(old.index, task)
            self.item_added(task)
            queue_state.ledger.task(task.row(batch.number, old.index))
            done.append(old.index)
        queue_state.ledger.batch(batch)
        self.revived(batch, done, children)
        for index in done:
            brought = batch.task(index)
            if (
                brought is not None
                and not self.wait_item(batch, index, brought)
                and self.elements.is_free(batch, index)
            ):
                self.free_item(batch, index, now)
        if batch.blocked and batch.number not in self.waits and not self.wait(batch):
            self.release(batch, now)  # it had ended before what all of it waited for
        self.look(batch, now)
        return done

    def _wait_no_more(self, batch: Batch, tasks: Sequence[TaskRow]) -> None:
        """Forget what is left of the waits of tasks that have ended: an end would count twice once they wait again."""
        indexes = {task.index for task in tasks}
        for number in {parent[0] for task in tasks for parent in task.after}:
            awaited = self.awaited.get(number)
            if awaited is not None:
                awaited.forget(batch, indexes)
                if awaited.empty:
                    del self.awaited[number]

    def _live_again(self, batch: Batch) -> None:
        """A batch that had finished is not any more."""
        queue_state, flow = self._register, batch.flow
        queue_state.add_batch(batch)
        queue_state.ledger.revived(batch.number)
        if flow is not None and flow.start_by is not None and not flow.lapsed:
            queue_state.start_moments.add(flow.start_by, batch.number, queue_state.batches)
        self.elements.begin(batch)

    # -- kept results ---------------------------------------------------------------------------------------------

    def spare(self, batch: int, lo: int, hi: int) -> bool:
        """Whether live batches still need results that nobody will ask for again; if so, these are removed after those
        batches.
        """
        if batch not in self.needed:
            return False
        read = self._read.setdefault(batch, Coverage())
        if read is not None:
            read.add(lo, hi)
        return True

    def spare_whole(self, batch: int) -> bool:
        """As `spare`, for a finished batch."""
        if batch not in self.needed:
            return False
        self._read[batch] = None
        return True

    def spare_history(self, batch: int, index: int) -> bool:
        """Whether how a dead letter has ended that is thrown away is needed by others: it goes after those."""
        if batch not in self.needed:
            return False
        self._purged.setdefault(batch, []).append(index)
        return True

    def spared(self) -> tuple[int, ...]:
        """The finished batches that must not expire yet."""
        return tuple(sorted(number for number in self.needed if number not in self._register.batches))

    def over(self, at: float) -> tuple[int, ...]:
        """As `spared`, after the own time of some has passed: they are removed as soon as no batch needs them."""
        spared = self.spared()
        for number in spared:
            self._over.setdefault(number, at)
        return spared

    def _let_go(self, number: int) -> None:
        queue_state = self._register
        read = self._read.pop(number, Coverage())
        if read is None:
            queue_state.ledger.batches_read((number,))
        else:
            for lo, hi in read:
                queue_state.ledger.read(number, lo, hi)
        for index in self._purged.pop(number, ()):
            queue_state.ledger.task_forgotten(number, index, history=True)
        at = self._over.pop(number, None)
        if at is not None:
            queue_state.expiries.add(at)

    # -- reasons --------------------------------------------------------------------------------------------------

    def unmet(self, batch: Batch, index: int) -> Iterator[tuple[int, int, int]]:
        """The tasks ``[lo, hi)`` of batches that a blocked task waits for, and that have not ended; hi is 0 for all."""
        task = batch.task(index)
        own = task.after if task is not None else ()
        if batch.flow is not None and not batch.blocked and batch.flow.each:
            own = tuple([(number, index, index + 1, True) for number, _, _ in batch.flow.each])
        elif batch.flow is not None:
            own = (*batch.flow.after, *own) if batch.blocked else own
        for number, lo, hi, _ in own:
            parent = self._register.batches.get(number)
            if parent is not None and (not hi or self.unended(parent, lo, hi)):
                yield number, lo, hi

    def reason(self, batch: Batch, index: int) -> str:
        """The reason why a task is blocked: the parents that it waits for."""
        if self._doomed(batch) and batch.flow is not None:
            return batch.flow.why
        waits = self.waits.get(batch.number, 0) + self.item_waits.get((batch.number, index), 0)
        named: list[str] = []
        more = 0
        for number, lo, hi in self.unmet(batch, index):
            if len(named) == _NAMED:
                more = waits - _NAMED
                break
            parent = self._register.batches[number]
            if not hi:
                named.append(str(number) if parent.single else f"all of {number}")
            elif hi == lo + 1:
                named.append(str(TaskId(number, lo, parent.single)))
            else:
                named.append(f"{number}.{lo}-{hi - 1}")
        if not named and batch.flow is not None and batch.flow.each:
            return "waits for a moment: what is ahead of it in its batch waits for tasks that are about to end"
        others = f" and {counted(more, 'other')}" if more > 0 else ""
        return f"waits for {', '.join(named)}{others}"
