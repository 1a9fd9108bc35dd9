"""Dependencies between batches: which batch waits for which tasks, and how the end of a task releases or cancels it.

A batch may wait for tasks of other batches, its *parents* (`BatchFlow.after`); then all of its tasks are BLOCKED until
those have ended. A parent that ends without a result cancels the batch, and with it every batch that waits for it in
turn, unless the batch runs anyway. Parents exist before their children, so no batch waits for itself.

Rules:

1. A batch's row lists its parents, and says whether the batch still waits. The number of unfinished parents follows
   from their own state; it is counted here only to save the search.
2. Ends are gathered as they happen (`ended`, `finished`) and processed one after the other (`settle`): a chain of any
   length needs no recursion.
3. Results that a live batch's function takes as arguments are kept, even if they are read or expire meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from dtq.core import wall_moments
from dtq.core.batches import Batch
from dtq.core.changes import BatchRow, Parent
from dtq.core.leases import Lease
from dtq.core.states import Move
from dtq.model.coverage import Coverage
from dtq.model.ids import TaskId
from dtq.model.options import Spec
from dtq.model.states import State
from dtq.records import dataclass, replace
from dtq.wording import counted

if TYPE_CHECKING:
    from dtq.core.register import Register

#: Begins the reason of a batch that a parent's end has cancelled.
CAUSE: Final = "parent "
#: Most parents that the reason of a waiting task names.
_NAMED: Final = 3


def cause(batch: int, index: int, state: str, *, single: bool) -> str:
    """The reason of tasks that were cancelled because a parent ended without a result.

    Args:
        batch: the parent's batch.
        index: the parent's index; negative for the whole batch.
        state: the parent's final state.
        single: whether it is the only task of its batch.
    """
    named = str(batch) if index < 0 else str(TaskId(batch, index, single))
    return f"{CAUSE}{named} is {state}"


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
    """

    parents: tuple[Parent, ...]
    run_anyway: bool = False
    lost: str = ""


class _Span:
    """Several tasks of one batch that another batch waits for.

    Attributes:
        child: the waiting batch.
        lo: index of the first.
        hi: index after the last.
        left: number of these tasks that have not ended.
    """

    __slots__ = ("child", "hi", "left", "lo")

    def __init__(self, child: Batch, lo: int, hi: int, left: int) -> None:
        self.child = child
        self.lo = lo
        self.hi = hi
        self.left = left


class _Awaited:
    """The batches that wait for tasks of one batch; some may have been cancelled since."""

    __slots__ = ("by_index", "spans", "whole")

    def __init__(self) -> None:
        self.by_index: dict[int, list[Batch]] = {}
        self.spans: list[_Span] = []
        #: Batches that wait until all of the batch has ended.
        self.whole: list[Batch] = []

    @property
    def empty(self) -> bool:
        return not (self.by_index or self.spans or self.whole)

    def indexes(self, lo: int, hi: int) -> list[int]:
        """The single tasks of a range that batches wait for."""
        by_index = self.by_index
        if not by_index:
            return []
        if hi - lo <= len(by_index):
            return [index for index in range(lo, hi) if index in by_index]
        return sorted(index for index in by_index if lo <= index < hi)


#: Tasks ``[lo, hi)`` of a batch that came into a final state; None if the batch has finished.
_End = tuple[Batch, int, int, State | None]


class Dependencies:
    """Which batches wait for which tasks.

    Args:
        register: the state of the queue.
    """

    def __init__(self, register: Register) -> None:
        self._register = register
        #: By batch, the batches that wait for tasks of it.
        self.awaited: dict[int, _Awaited] = {}
        #: By blocked batch, the number of its parents that have not ended.
        self.waits: dict[int, int] = {}
        #: By batch, the number of live batches whose functions are given results of it.
        self.needed: dict[int, int] = {}
        #: Number of parents of all live batches together.
        self.edges = 0
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
        after = batch.flow.after if batch.flow is not None else ()
        if not after:
            return
        self.edges += len(after)
        for number in {parent[0] for parent in after if parent[3]}:
            self.needed[number] = self.needed.get(number, 0) + 1

    def begin(self, batch: Batch) -> None:
        """Let a new batch begin to wait."""
        if batch.flow is not None:
            parents = dict.fromkeys(parent[0] for parent in batch.flow.after)
            self._register.ledger.edges(batch.number, parents)
            self.wait(batch)

    def look_again(self, batch: Batch, now: float) -> None:
        """Release a batch whose parents may all have ended before."""
        if self._waiting(batch) and not self._doomed(batch) and batch.number not in self.waits:
            self.release(batch, now)

    def forget(self, batch: Batch) -> None:
        """Forget a batch with parents that is no longer live."""
        after = batch.flow.after if batch.flow is not None else ()
        if not after:
            return
        self.edges -= len(after)
        if any([parent[3] and not parent[2] for parent in after]):
            self._register.holds.release_all(holder_of(batch.number))
        self.waits.pop(batch.number, None)
        for number in {parent[0] for parent in after if parent[3]}:
            self.needed[number] -= 1
            if not self.needed[number]:
                del self.needed[number]
                self._let_go(number)

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
                waits += self._await(batch, parent, lo, hi, leases)
        if waits:
            self.waits[batch.number] = waits
        return waits > 0

    def _await(
        self, child: Batch, parent: Batch, lo: int, hi: int, leases: dict[int, list[Lease]] | None = None
    ) -> bool:
        left = self.unended(parent, lo, hi, leases) if hi else 1
        if not left:
            return False
        awaited = self.awaited.get(parent.number)
        if awaited is None:
            awaited = self.awaited[parent.number] = _Awaited()
        if not hi:
            awaited.whole.append(child)
        elif hi == lo + 1:
            awaited.by_index.setdefault(lo, []).append(child)
        else:
            awaited.spans.append(_Span(child, lo, hi, left))
        return True

    def unended(self, batch: Batch, lo: int, hi: int, leases: dict[int, list[Lease]] | None = None) -> int:
        """Number of tasks in ``[lo, hi)`` of a live batch that have not ended."""
        hi = min(hi, batch.size)
        count = 0
        fresh = max(lo, batch.next)
        if batch.cut is None and fresh < hi:
            count += hi - fresh - len(batch.records_in(fresh, hi))
        if lo < batch.next:
            hi = min(hi, batch.next)
            tasks = batch.tasks or {}
            waiting = (State.PENDING, State.SCHEDULED)
            count += sum(tasks[index].state in waiting for index in batch.records_in(lo, hi))
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

    def settle(self, now: float) -> None:
        """Release, or cancel, the batches that waited for tasks that have ended."""
        if self._settling:
            return
        self._settling = True
        try:
            while self.todo:
                batch, lo, hi, state = self.todo.popleft()
                awaited = self.awaited.get(batch.number)
                if awaited is not None:
                    if state is None:
                        self._met(awaited.whole, now)
                        awaited.whole = []
                    else:
                        self._on_ended(awaited, batch, lo, hi, state, now)
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

    def _met(self, children: Iterable[Batch], now: float) -> None:
        """Count one parent of these batches as ended."""
        for child in children:
            if self._waiting(child) and not self._doomed(child):
                self.waits[child.number] -= 1
                if not self.waits[child.number]:
                    self.release(child, now)

    def _lost(self, children: list[Batch], why: str, now: float) -> list[Batch]:
        """Handle the end of a parent without a result; the children that run anyway."""
        runs = []
        for child in children:
            if self._waiting(child) and not self._doomed(child):
                if child.flow is not None and child.flow.run_anyway:
                    runs.append(child)
                else:
                    self.cancel(child, why, now)
        return runs

    def release(self, batch: Batch, now: float) -> None:
        """Let a batch run that has nothing left to wait for."""
        register = self._register
        self.waits.pop(batch.number, None)
        assert batch.flow is not None
        batch.flow = replace(batch.flow, blocked=False)
        if batch.due_at is not None and wall_moments.left_s(register, batch, now) <= 0:
            batch.due_at = None
        lo, hi = batch.next, batch.size
        move = Move.RELEASED if batch.due_at is None else Move.DELAYED
        register.tally.move(batch.queue, State.BLOCKED, move, batch.fresh - batch.cancelled_ahead())
        if batch.fresh:
            if batch.due_at is None:
                register.push(batch, lo, hi)
            else:
                wall_moments.heap_of(register, batch).push(batch.due_at, batch.number, lo, hi)
        register.ledger.batch(batch)

    def cancel(self, batch: Batch, why: str, now: float) -> None:
        """Doom a blocked batch: it never starts. While pieces of it still come, it is not cancelled: the last piece
        does that, so that all of it can be brought back.
        """
        register = self._register
        assert batch.flow is not None
        register.call_back(batch)
        self.waits.pop(batch.number, None)
        if batch.complete:
            register.cut(batch, why)
            register.finish_if_done(batch, now)
        else:
            batch.flow = replace(batch.flow, why=why)
            register.ledger.batch(batch)

    def sealed(self, batch: Batch, now: float) -> None:
        """Handle the last piece of a batch: a doomed batch ends now."""
        flow = batch.flow
        if flow is not None and self._doomed(batch):
            self._register.cut(batch, flow.why)
            self._register.finish_if_done(batch, now)

    @staticmethod
    def _doomed(batch: Batch) -> bool:
        """Whether a batch never starts, and is cancelled as soon as it is complete."""
        return batch.blocked and batch.flow is not None and batch.flow.why != ""

    def withdrawn(self, batch: Batch, now: float) -> None:
        """Cancel the batches that waited for a batch that was withdrawn."""
        awaited = self.awaited.pop(batch.number, None)
        if awaited is None:
            return
        children = [child for some in awaited.by_index.values() for child in some]
        children += [span.child for span in awaited.spans] + awaited.whole
        for child in children:
            if self._waiting(child):
                self.cancel(child, cause(batch.number, -1, "not accepted", single=False), now)

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
            if child is None or child.flow is None or not child.blocked or self._doomed(child):
                continue
            for parent, lo, hi, _ in child.flow.after:
                count = sum(lo <= index < (hi or batch.size) for index in wanted) if parent == batch.number else 0
                if count:
                    self._await_again(child, batch, lo, hi, count)

    def _await_again(self, child: Batch, batch: Batch, lo: int, hi: int, count: int) -> None:
        awaited = self.awaited.get(batch.number)
        if awaited is not None:
            if not hi and any(each is child for each in awaited.whole):
                return  # the batch has not finished since
            for span in awaited.spans:
                if span.child is child and (span.lo, span.hi) == (lo, hi):
                    span.left += count
                    return
        if self._await(child, batch, lo, hi):
            self.waits[child.number] = self.waits.get(child.number, 0) + 1

    def bring_back(self, row: BatchRow, spec: Spec, lost: str, now: float) -> Batch | None:
        """Restore a batch that a parent's end had cancelled, because the parent has been put back: the batch waits
        again.

        Args:
            row: the batch, as the engine has it.
            spec: its spec.
            lost: if another parent has ended without a result, the reason why the batch stays cancelled; else "".
            now: the time.

        Returns:
            The batch; None if it was not cancelled so, or stays as it is.
        """
        register = self._register
        flow = row.flow
        if row.batch in register.batches or flow is None or not flow.why.startswith(CAUSE):
            return None
        if row.cut is None or row.cut >= row.size:
            return None  # no task of the batch was cancelled so
        if lost:
            if lost != flow.why:
                register.ledger.finished_batch(replace(row, flow=replace(flow, why=lost)))
            return None
        batch = Batch.from_row(row, register.intern(spec))
        batch.flow = replace(flow, blocked=True, why="")
        batch.cut = None
        count = row.size - batch.next
        batch.cancelled -= count
        register.add_batch(batch)
        register.ledger.revived(batch.number)
        if flow.start_by is not None and not flow.lapsed:
            register.start_moments.add(flow.start_by, batch.number, register.batches)
        register.tally.move(batch.queue, State.CANCELLED, Move.BROUGHT_BACK, count)
        register.ledger.batch(batch)
        if not self.wait(batch):
            self.release(batch, now)
        return batch

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
        register = self._register
        read = self._read.pop(number, Coverage())
        if read is None:
            register.ledger.batches_read((number,))
        else:
            for lo, hi in read:
                register.ledger.read(number, lo, hi)
        for index in self._purged.pop(number, ()):
            register.ledger.task_forgotten(number, index, history=True)
        at = self._over.pop(number, None)
        if at is not None:
            register.expiries.add(at)

    # -- reasons --------------------------------------------------------------------------------------------------

    def reason(self, batch: Batch) -> str:
        """The reason why a batch is blocked: the parents that it waits for."""
        if self._doomed(batch) and batch.flow is not None:
            return batch.flow.why
        named: list[str] = []
        more = 0
        for number, lo, hi, _ in batch.flow.after if batch.flow is not None else ():
            parent = self._register.batches.get(number)
            if parent is None or (hi and not self.unended(parent, lo, hi)):
                continue
            if len(named) == _NAMED:
                more = self.waits.get(batch.number, 0) - _NAMED
                break
            if not hi:
                named.append(str(number) if parent.single else f"all of {number}")
            elif hi == lo + 1:
                named.append(str(TaskId(number, lo, parent.single)))
            else:
                named.append(f"{number}.{lo}-{hi - 1}")
        others = f" and {counted(more, 'other')}" if more > 0 else ""
        return f"waits for {', '.join(named)}{others}"
