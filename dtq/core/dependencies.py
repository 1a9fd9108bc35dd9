"""Dependencies between batches: which batch waits for which tasks, and how the end of a task releases or cancels it.

A batch may wait for tasks of other batches, its *parents* (`BatchFlow.after`); then all of its tasks are BLOCKED until
those have ended. So may a single task of a batch by itself (`TaskRow.after`). A parent that ends without a result
cancels its children, and with them every task that waits for these in turn, unless the child runs anyway. Parents exist
before their children, so no task waits for itself. Batches whose tasks wait one by one for those of another batch are
the business of `core.elements`, which is told here of the ends. The results that batches are given are that of
`core.kept_results`, the way back after a parent's end that of `core.reviving`, the reasons that of `core.unmet`.

Rules:

1. A batch's row lists its parents, and says whether the batch still waits. The number of unfinished parents follows
   from their own state; it is counted here only to save the search.
2. Ends are gathered as they happen (`ended`, `finished`) and processed one after the other (`settle`): a chain of any
   length needs no recursion.
3. A task that waits by itself has a record from its acceptance on. It is BLOCKED, and the frontier passes it; if it is
   free before that, it takes its turn when the frontier comes to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from dtq.core import wall_moments
from dtq.core.awaited import ALL, Awaited, Span, Waiter, is_doomed
from dtq.core.batches import Batch, Task
from dtq.core.changes import BatchFlow
from dtq.core.elements import WAITING, Elements, Watched, cause
from dtq.core.kept_results import KeptResults
from dtq.core.leases import Lease
from dtq.core.parents import After, given_to, holder_of
from dtq.core.states import Move
from dtq.model.states import State
from dtq.records import replace

if TYPE_CHECKING:
    from dtq.core.queue_state import QueueState

#: Most batches that a row names whose tasks single tasks of its batch wait for.
_GIVEN: Final = 100
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
        self.awaited: dict[int, Awaited] = {}
        #: By blocked batch, the number of its parents that have not ended.
        self.waits: dict[int, int] = {}
        #: The same of tasks that wait by themselves, by place.
        self.item_waits: dict[tuple[int, int], int] = {}
        #: Number of parents of all live batches together, and of their unfinished tasks by themselves.
        self.edges = 0
        self.kept = KeptResults(queue_state)
        #: Batches whose tasks wait one by one.
        self.elements = Elements(queue_state, self)
        #: Ends that `settle` has not processed yet.
        self.todo: deque[_End] = deque()
        self._settling = False

    # -- beginning and ceasing to wait ----------------------------------------------------------------------------

    def added(self, batch: Batch) -> None:
        """Count the parents of a batch that becomes live."""
        flow = batch.flow
        if flow is not None and flow.has_parents:
            self.edges += len(flow.after) + len(flow.each)
            self.kept.need(given_to(flow))

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
        if self._waiting(batch) and not is_doomed(batch) and batch.number not in self.waits:
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
        self.kept.need({parent[0] for parent in task.after if parent[3]})

    def item_over(self, batch: Batch, index: int, task: Task) -> None:
        """A task that has parents of its own is live no more."""
        self.edges -= len(task.after)
        self.item_waits.pop((batch.number, index), None)
        self.kept.need_no_more({parent[0] for parent in task.after if parent[3]})

    def wait_item(self, batch: Batch, index: int, task: Task, leases: dict[int, list[Lease]] | None = None) -> bool:
        """Have a task wait for those of its own parents that have not ended; whether there are any."""
        waits = 0
        for number, lo, hi, _ in task.after:
            parent = self._register.batches.get(number)
            if parent is not None and parent is not batch:
                waits += self.wait_for((batch, index), parent, lo, hi, leases)
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
        self.kept.need_no_more(given_to(flow))

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
        if is_doomed(batch):
            return True
        waits = 0
        for number, lo, hi, _ in flow.after if flow is not None else ():
            parent = self._register.batches.get(number)
            if parent is not None and parent is not batch:
                waits += self.wait_for((batch, ALL), parent, lo, hi, leases)
        if waits:
            self.waits[batch.number] = waits
        return waits > 0

    def wait_for(
        self, child: Waiter, parent: Batch, lo: int, hi: int, leases: dict[int, list[Lease]] | None = None
    ) -> bool:
        """Have a batch, or a task by itself, wait for tasks ``[lo, hi)`` of a parent (hi is 0 for all of it); whether
        there is anything to wait for."""
        left = self.unended(parent, lo, hi, leases) if hi else 1
        if not left:
            return False
        awaited = self.awaited_of(parent)
        if not hi:
            awaited.whole.append(child)
        elif hi == lo + 1:
            awaited.by_index.setdefault(lo, []).append(child)
        else:
            awaited.spans.append(Span(child, lo, hi, left))
        return True

    def awaited_of(self, parent: Batch) -> Awaited:
        """What waits for tasks of a live batch."""
        awaited = self.awaited.get(parent.number)
        if awaited is None:
            awaited = self.awaited[parent.number] = Awaited()
        return awaited

    def watched(self, parent: Batch) -> Watched:
        """What waits task by task for those of a live batch."""
        awaited = self.awaited_of(parent)
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

    def _on_ended(self, awaited: Awaited, batch: Batch, lo: int, hi: int, state: State, now: float) -> None:
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
            elif self._waiting(child) and not is_doomed(child):
                self.waits[child.number] -= 1
                if not self.waits[child.number]:
                    self.release(child, now)

    def _lost(self, children: list[Waiter], why: str, now: float) -> list[Waiter]:
        """One thing that these have waited for has ended without a result; those that run anyway."""
        runs = []
        for child, index in children:
            if self._item_waits(child, index) if index >= 0 else self._waiting(child) and not is_doomed(child):
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
        if flow is not None and is_doomed(batch):
            self._register.cut(batch, flow.why)
            self._register.finish_if_done(batch, now)

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
