"""The queue's state: the place of every live task, and the moves that keep it true.

A task's place follows from few facts: its record if it left the common path, else its position relative to its batch's
frontier ``next``, else whether a lease covers it; there is no object per task. Heap entries may be stale (cancelled,
taken twice): they are checked when they come up, never searched for. The machine decides the moves; the methods here
carry each out completely: state, counts, heap and ledger together.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter
from typing import Final
from weakref import WeakValueDictionary

from dtq.core import wall_moments
from dtq.core.batches import Batch, Learned, SpecEntry, Task
from dtq.core.changes import AttemptRow, BatchFlow, Totals
from dtq.core.dependencies import Dependencies
from dtq.core.expiry import Expiries
from dtq.core.failing import LatestFailures
from dtq.core.heap import DueHeap, Moments, Run, RunHeap
from dtq.core.holds import Holds
from dtq.core.leases import Lease, Worker
from dtq.core.ledger import Ledger
from dtq.core.limits import Limits
from dtq.core.lines import Lines
from dtq.core.retry import Verdict, judge
from dtq.core.states import Move, Tally
from dtq.errors import BatchTooLarge, FunctionsFull, QueueFull
from dtq.model import pages
from dtq.model.latest import LatestByKey
from dtq.model.lru import SizedLru
from dtq.model.messages import Failure
from dtq.model.options import FunctionKind, Spec, bare
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome, State
from dtq.records import dataclass, replace

#: Most remembered specs without a live batch, for their number and estimate: of functions by name, and of functions by
#: value; and most bytes of the latter.
IDLE_SPECS: Final = 1_000
IDLE_BYTES: Final = 8 << 20
#: Bytes of arguments that one answer gathers, if messages may be so large.
GRANT_BYTES: Final = 2 << 20
#: Longest message of a dead letter's last exception that its row repeats, in characters.
_MESSAGE: Final = 500


#: The failure of tasks that go back before they have started.
_NOT_BEGUN: Final = Failure()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Settings of the machine.

    Attributes:
        lease_s: longest silence of a worker, in seconds.
        keep_results_s: how long finished batches without a time of their own are kept, in seconds.
        max_tasks: most unfinished tasks.
        max_batch: most tasks in one batch.
        max_blob: largest argument in bytes.
        max_spec_bytes: approximate bound of the memory of live batches' functions and options, in bytes.
        max_edges: most parents of all live batches together.
        max_holds: most values that clients hold together.
        grant_bytes: bytes of arguments that one answer gathers; a task with more travels alone.
        highest_first: whether a higher priority number is served first.
        heed_needs: whether needs of tasks count; else every worker is assumed to meet all of them.
    """

    lease_s: float = 15.0
    keep_results_s: float = 86_400.0
    max_tasks: int = 20_000_000
    max_batch: int = 10_000_000
    max_blob: int = 1 << 40
    max_spec_bytes: int = 2 << 30
    max_edges: int = 2_000_000
    max_holds: int = 100_000
    grant_bytes: int = GRANT_BYTES
    highest_first: bool = False
    heed_needs: bool = True


class QueueState:
    """The state of the queue.

    Args:
        rules: settings.
        totals: the store's counts.
    """

    def __init__(self, rules: Rules, totals: Totals) -> None:
        self.rules = rules
        self.tally = Tally()
        self.batches: dict[int, Batch] = {}
        #: The batches that their submitters have not completed.
        self.open: dict[int, Batch] = {}
        self.workers: dict[str, Worker] = {}
        #: The slots of all workers.
        self.slots = 0
        self.leases: dict[int, Lease] = {}
        self.specs: dict[Spec, SpecEntry] = {}
        self.specs_by_number: dict[int, SpecEntry] = {}
        #: Approximate bytes of the specs of live batches.
        self.spec_bytes = 0
        #: Specs without a live batch, by whether their function travelled by value: closures may come in any number,
        #: and must not push out the estimates of functions that will come again.
        self._idle: dict[bool, SizedLru[int, SpecEntry]] = {
            by_value: SizedLru(IDLE_BYTES, IDLE_SPECS) for by_value in (False, True)
        }
        self._latest: tuple[Spec, SpecEntry] | None = None
        #: By function, for as long as specs have it.
        self._learned: WeakValueDictionary[tuple[FunctionKind, str, int], Learned] = WeakValueDictionary()
        self.keys = LatestByKey()
        #: One dict per key look-up in progress: keyed batches that finished since it began.
        self.key_watchers: list[dict[str, Batch]] = []
        #: By line and limits, tasks that must not be granted yet (`hold`).
        self.held_back: dict[tuple[str, tuple[str, ...]], tuple[SpecEntry, RunHeap]] = {}
        #: Runs that a defect keeps from being granted (`operators.set_aside`).
        self.aside: list[Run] = []
        self.waiting = DueHeap()
        #: Runs that wait for the wall clock (`core.wall_moments`), and how many seconds that is ahead of the steady
        #: one.
        self.on_wall = DueHeap()
        self.wall_ahead_s = 0.0
        #: Moments at which unstarted tasks are cancelled (`core.start_by`).
        self.start_moments = Moments()
        #: When a worker that was kept from tasks it failed to run may be asked again; None for never.
        self.probe_at: float | None = None
        #: Moments at which finished batches with a time of their own expire; some batches may be gone before.
        self.expiries = Expiries()
        self.ledger = Ledger()
        self.limits = Limits(self.ledger)
        #: Tasks that wait for a grant.
        self.lines = Lines(self._true_top, self.limits)
        #: Sessions of workers with resources kept for a task that does not fit there now (`core.placing`).
        self.keeping: set[str] = set()
        #: Queues that take no new tasks.
        self.draining: set[str] = set()
        self.holds = Holds(self.ledger, rules.max_holds)
        self.dependencies = Dependencies(self)
        self.submitted = totals.submitted
        self.retries = totals.retries
        #: Since this start, attempts that did not succeed, and tasks that became dead letters; and the latest of those.
        self.failed = self.died = 0
        self.latest_failures = LatestFailures()
        self.last_batch = totals.last_batch
        self.last_spec = totals.last_spec
        self.clock = totals.clock
        for state, count in (
            (State.SUCCEEDED, totals.succeeded),
            (State.DEAD, totals.dead),
            (State.CANCELLED, totals.cancelled),
        ):
            self.tally.recall("", state, count)

    @property
    def room(self) -> int:
        """Number of further tasks that may be accepted."""
        return self.rules.max_tasks - self.tally.unfinished

    def room_for(self, size: int, count: int) -> None:
        """Make sure that this many further tasks may be accepted.

        Args:
            size: tasks that their batch already has.
            count: further tasks.

        Raises:
            QueueFull: the tasks may not be accepted now.
            BatchTooLarge: the batch may never have this many.
        """
        if size + count > self.rules.max_batch:
            raise BatchTooLarge(size + count, self.rules.max_batch)
        if count > max(self.rules.max_tasks, pages.PAGE_BLOBS):  # of a map over batches, which is not in pieces
            raise BatchTooLarge(count, self.rules.max_tasks)
        if count > self.room:
            raise QueueFull(self.tally.unfinished, self.rules.max_tasks)

    def intern(self, spec: Spec) -> SpecEntry:
        """The entry of a spec, made if it is new. Specs that differ in limits and label only have one entry.

        Raises:
            FunctionsFull: specs of live batches have reached the bound of their memory.
        """
        if self._latest is not None and self._latest[0] is spec:
            return self._latest[1]  # the submissions of one call share the object: no need to hash it for each
        shared = bare(spec) if spec.options.limits or spec.options.label else spec
        entry = self.specs.get(shared)
        if entry is None:
            if self.spec_bytes > self.rules.max_spec_bytes:
                raise FunctionsFull(self.spec_bytes, self.rules.max_spec_bytes)
            self.last_spec += 1
            entry = self.add_spec(self.last_spec, shared)
        self._latest = spec, entry
        return entry

    def add_spec(self, number: int, spec: Spec) -> SpecEntry:
        """Add a spec under its number."""
        rank = spec.options.priority
        entry = SpecEntry(number, spec, -rank if self.rules.highest_first else rank)
        if not self.rules.heed_needs:
            entry.overlook_needs()
        function = spec.function
        at = function.kind, function.name, hash(function.body)
        entry.learned = self._learned.get(at)
        if entry.learned is None:
            entry.learned = self._learned[at] = Learned()
        self.specs[spec] = self.specs_by_number[number] = entry
        return entry

    def _released(self, entry: SpecEntry) -> None:
        """Handle a spec that no live batch uses any more: it is remembered for as long as there is room."""
        body = entry.spec.function.body
        for number, idle in self._idle[bool(body)].put(entry.number, entry, len(body)):
            del self.specs_by_number[number]
            if self.specs.get(idle.spec) is idle:
                del self.specs[idle.spec]
            if self._latest is not None and idle is self._latest[1]:
                self._latest = None

    def add_batch(self, batch: Batch) -> None:
        """Add a live batch."""
        self.batches[batch.number] = batch
        if not batch.complete:
            self.open[batch.number] = batch
        self._use(batch.entry)
        if batch.key is not None:
            self.keys.add(batch.key, batch.number)
        if batch.flow is not None:
            self.dependencies.added(batch)

    def change_priority(self, batch: Batch, priority: int) -> None:
        """Give a live batch another priority from now on, through a spec of its own. Its waiting tasks are not moved.

        Raises:
            FunctionsFull: specs of live batches have reached the bound of their memory.
        """
        before = batch.entry
        entry = self.intern(replace(before.spec, options=replace(before.spec.options, priority=priority)))
        entry.learn_from(before)
        self._use(entry)
        batch.entry = entry
        self._use_no_more(before)
        self.ledger.batch(batch)

    def _use(self, entry: SpecEntry) -> None:
        """Count a live batch's use of a spec."""
        if entry.batches == 0:
            self._idle[bool(entry.spec.function.body)].pop(entry.number)
            self.ledger.spec(entry)  # new, or unused for so long that the engine may have removed it
            self.spec_bytes += entry.size
        entry.batches += 1

    def _use_no_more(self, entry: SpecEntry) -> None:
        """Count a batch's use of a spec as over."""
        entry.batches -= 1
        if entry.batches == 0:
            self.spec_bytes -= entry.size
            self._released(entry)

    def push(self, batch: Batch, lo: int, hi: int) -> None:
        """Add tasks that wait for a grant."""
        entry = batch.entry
        flow = batch.flow
        self.lines.push(entry, Run(entry.urgency, batch.number, lo, hi), () if flow is None else flow.limits)

    def push_fresh(self, batch: Batch, lo: int, hi: int) -> None:
        """Have fresh tasks wait to be handed out, or for their time; those that wait one by one as far as they are
        ready."""
        if batch.due_at is not None:
            wall_moments.heap_of(self, batch).push(batch.due_at, batch.number, lo, hi)
        elif batch.frontier is None:
            self.push(batch, lo, hi)

    def restand(self, batches: Collection[Batch]) -> None:
        """Have what waits in some batches stand where it belongs now, and nowhere else."""
        queues = {batch.queue for batch in batches}
        self.lines.remove({batch.number for batch in batches}, queues)
        for batch in batches:
            for index, task in (batch.tasks or {}).items():
                if index < batch.next and task.state is State.PENDING:
                    self.push(batch, index, index + 1)
            stands = batch.next < batch.listed(batch.size) and not batch.blocked and batch.due_at is None
            if batch.frontier is not None:
                batch.frontier.unlisted = None if stands else batch.next
            if stands:
                self.push(batch, batch.next, batch.size)
        for queue in queues:
            self.lines.refresh(queue)

    def hold(self, batch: Batch, lo: int, hi: int) -> None:
        """Keep waiting tasks from being granted until `let_go`: tasks that are put back together come back at once, in
        their order. A restart lets them go too.
        """
        entry = batch.entry
        _, heap = self.held_back.setdefault((entry.line, batch.limits), (entry, RunHeap()))
        heap.push(Run(entry.urgency, batch.number, lo, hi))

    def let_go(self) -> None:
        """Let the held-back tasks wait for grants."""
        for (_, limits), (entry, heap) in self.held_back.items():
            self.lines.absorb(entry, heap, limits)
        self.held_back = {}

    def _true_top(self, heap: RunHeap) -> Run | None:
        """The first true run of a heap; stale ones before it are thrown away."""
        while (run := heap.top()) is not None:
            batch = self.batches.get(run.batch)
            if batch is not None:
                task = batch.task(run.lo)
                if run.lo < batch.next:
                    if task is not None and task.state is State.PENDING:
                        return run
                    if batch.frontier is not None and batch.next < run.hi:
                        heap.put_back(batch.next)  # the frontier has gone past what was held up
                        continue
                elif run.lo < batch.limit:
                    if run.lo >= batch.listed(run.hi):
                        assert batch.frontier is not None
                        batch.frontier.unlisted = run.lo  # all from here on still waits for others
                        heap.advance(run.hi)
                        continue
                    if task is None or task.state is State.PENDING:
                        return run
                    # A fresh task that was cancelled alone, or waits by itself: the frontier passes it.
                    if task.state.final:
                        batch.release(run.lo)
                    batch.next = run.lo + 1
                    self.ledger.batch(batch)
                    heap.advance(run.lo + 1)
                    continue
            heap.advance(run.hi)
        return None

    def waiting_in(self, run: Run) -> int:
        """Number of tasks of a heap's run that still wait; the others were cancelled, or taken twice."""
        batch = self.batches.get(run.batch)
        if batch is None:
            return 0
        lo, hi = max(run.lo, batch.next), batch.listed(run.hi)
        count = max(0, hi - lo)
        if batch.tasks is not None:
            count -= len(batch.records_in(lo, hi)) if count else 0
            own = batch.records_in(run.lo, max(hi, min(run.hi, batch.next)))
            count += sum(batch.tasks[index].state is State.PENDING for index in own)
        return count

    def take_fresh(self, heap: RunHeap, batch: Batch, lo: int, most: int) -> int:
        """Take fresh tasks off the first run of a heap, or such that waited by themselves and do not any more.

        Returns:
            Index after the last one taken.
        """
        run = heap.top()
        assert run is not None
        hi = min(batch.listed(run.hi), lo + most)
        task = batch.task(lo)
        if task is None:
            hi = min([hi, *batch.records_in(lo, hi)])
        else:
            end, hi = hi, lo
            while task is not None and task.state is State.PENDING and hi < end:
                task.state = State.RUNNING
                task.attempt = 1
                self.ledger.task(task.row(batch.number, hi))
                hi += 1
                task = batch.task(hi)
        batch.next = hi
        heap.advance(hi)
        return hi

    def take_returned(self, heap: RunHeap, batch: Batch, lo: int, most: int) -> tuple[int, int]:
        """Pop the next returned task, with adjacent returned tasks of the same attempt. A task that failed or crashed
        goes alone.

        Returns:
            Index after the last task taken, and the number of their attempt.
        """
        task = batch.task(lo)
        attempt = task.attempt + 1 if task is not None else 1
        hi = lo
        while task is not None:
            task.state = State.RUNNING
            task.attempt = attempt
            self.ledger.task(task.row(batch.number, hi))
            hi += 1
            heap.advance(hi)
            after = heap.top()
            if task.failures or task.crashes or hi - lo >= most or after is None:
                break
            if after.batch != batch.number or after.lo != hi or hi >= batch.next:
                break
            task = batch.task(hi)
            if task is None or task.state is not State.PENDING or task.attempt + 1 != attempt:
                break
            if task.failures or task.crashes:
                break
        return hi, attempt

    def attempt_ended(
        self, lease: Lease, index: int, outcome: Outcome, failure: Failure, started_at: float, now: float
    ) -> None:
        """Handle an unsuccessful attempt: decide on the next step, and do it."""
        batch = lease.batch
        task = batch.task(index) or Task(State.RUNNING, lease.attempt)
        verdict = judge(
            batch.entry.spec.options,
            outcome,
            failure,
            failures=task.failures,
            crashes=task.crashes,
            cancelling=task.cancelling,
            salt=batch.number * 1_000_003 + index,
        )
        self._note_attempt(lease, index, outcome, failure, started_at, now)
        if failure.unable:
            task.failed_on = (*task.failed_on, lease.worker.session)
        if not (task.cancelling and task.outcome is None and task.message):  # else it is the reason of the cancellation
            task.outcome = outcome
            task.exception = failure.exception
            task.message = failure.message[:_MESSAGE]
        batch.running -= 1
        if outcome is not Outcome.CANCELLED:
            dead = verdict.move is Move.DIED
            self.failed += 1
            self.died += dead
            lease.worker.failed += 1
            self.latest_failures.add(lease, index, outcome, failure, now, dead)
        self._apply(batch, index, task, verdict, now)

    def _note_attempt(
        self, lease: Lease, index: int, outcome: Outcome, failure: Failure, started_at: float, now: float
    ) -> None:
        attempt = Attempt(
            number=lease.attempt,
            outcome=outcome,
            started_at=started_at,
            ended_at=now,
            worker=lease.worker.name,
            failure=failure,
        )
        self.ledger.attempt(AttemptRow(batch=lease.batch.number, index=index, attempt=attempt))

    def _apply(self, batch: Batch, index: int, task: Task, verdict: Verdict, now: float) -> None:
        task.failures = verdict.failures
        task.crashes = verdict.crashes
        task.cancelling = False
        state = self.tally.move(batch.queue, State.RUNNING, verdict.move)
        assert state is not None
        task.state = state
        if state.final:
            self.end_task(batch, index, task, now)
            return
        self.retries += 1
        batch.keep(index, task)  # first, because the push looks at the task's record
        if self.dependencies.awaited:
            self.dependencies.changed(batch)
        if state is State.SCHEDULED:
            task.due_at = now + verdict.delay_s
            self.waiting.push(task.due_at, batch.number, index, index + 1)
        else:
            self.push(batch, index, index + 1)
        self.ledger.task(task.row(batch.number, index))
        self.ledger.batch(batch)
        if self.dependencies.todo:
            self.dependencies.settle(now)

    def drop(self, batch: Batch, index: int, *, history: bool) -> None:
        """The record of a task is needed no more: it has succeeded, or is one of many from now on."""
        task = batch.task(index)
        if task is not None and task.after and not task.state.final:
            self.dependencies.item_over(batch, index, task)
        batch.release(index)
        self.ledger.task_forgotten(batch.number, index, history=history)

    def end_task(self, batch: Batch, index: int, task: Task, now: float) -> None:
        """Make a task off the common path dead or cancelled: its row keeps it, memory forgets it."""
        task.ended_at = now
        task.due_at = None
        self.ledger.task(task.row(batch.number, index))
        if batch.entry.need is not None:
            self.lines.left += 1
        why = task.message if task.state is State.CANCELLED and task.outcome is None else ""
        self.ledger.ended(batch, index, index + 1, task.state, why)
        if task.after:
            self.dependencies.item_over(batch, index, task)
        if self.dependencies.awaited:
            self.dependencies.ended(batch, index, index + 1, task.state)
        if batch.frontier is not None:
            self.dependencies.changed(batch)
        if task.state is State.DEAD:
            batch.dead += 1
        else:
            batch.cancelled += 1
        if index < batch.next:
            batch.release(index)
        else:
            batch.keep(index, task)  # a fresh task, cancelled alone: kept until the frontier has passed it
        self.ledger.batch(batch)
        self.finish_if_done(batch, now)

    def cut(self, batch: Batch, why: str = "", at: int | None = None) -> None:
        """All fresh tasks of a batch are cancelled as a whole.

        Args:
            batch: the batch.
            why: the reason, where nobody has asked for it.
            at: only those from here on, which is not before the frontier; None for all.
        """
        lo, hi = batch.next if at is None else at, batch.limit
        self._count_as_cut(batch, lo, hi)
        if why or batch.cut is not None:
            batch.flow = replace(batch.flow or BatchFlow(), why=why)
        batch.cut = lo
        if batch.entry.need is not None:
            self.lines.left += 1
        if batch.blocked and batch.flow is not None and not batch.fresh:
            batch.flow = replace(batch.flow, blocked=False)
        for gap in [*batch.records_in(lo, hi), hi]:
            if gap > lo:
                self.ledger.ended(batch, lo, gap, State.CANCELLED, why)
                if self.dependencies.awaited:
                    self.dependencies.ended(batch, lo, gap, State.CANCELLED)
            if gap < hi:  # cancelled alone before; one of the many from now on
                batch.release(gap)
                self.ledger.task_forgotten(batch.number, gap, history=True)
            lo = gap + 1
        self.ledger.batch(batch)

    def _count_as_cut(self, batch: Batch, lo: int, hi: int) -> None:
        """Fresh tasks ``[lo, hi)`` of a batch are cancelled as a whole, those that wait by themselves too."""
        for index in batch.records_in(lo, hi):
            task = batch.task(index)
            if task is not None and not task.state.final:
                self.tally.move(batch.queue, task.state, Move.CANCELLED)
                batch.cancelled += 1
                self.drop(batch, index, history=True)
        for state, first, end in list(batch.fresh_parts()):
            begin = max(first, lo)
            count = end - begin - len(batch.records_in(begin, end))
            if begin < end and count:
                self.tally.move(batch.queue, state, Move.CANCELLED, count)
                batch.cancelled += count

    def give_back(self, lease: Lease, lo: int, hi: int, now: float, ran: int = 0, why: Failure = _NOT_BEGUN) -> None:
        """Return tasks ``[lo, hi)``, the front or the end of a lease, to their place in the heap, unblamed.

        Args:
            lease: the lease.
            lo: index of the first.
            hi: index after the last.
            now: the time.
            ran: number of the first tasks that had started: an attempt is a start, so these have had one.
            why: the failure to record for those.
        """
        batch = lease.batch
        if batch.blocked:
            if lease.before is not None:
                lease.before.alone = True
            self._wait_again(lease)
            return
        late = "" if batch.flow is None else batch.flow.too_late(now)
        for index in range(lo, hi):
            task = batch.task(index) or Task(State.RUNNING, lease.attempt)
            task.attempt = lease.attempt
            if index < lo + ran:
                self._note_attempt(lease, index, Outcome.CANCELLED, why, lease.granted_at, now)
            else:
                task.attempt -= 1
            batch.running -= 1
            too_late = bool(late) and task.attempt == 0
            if task.cancelling or too_late:
                task.message = task.message if task.cancelling else late
                task.cancelling = False
                task.state = State.CANCELLED
                self.tally.move(batch.queue, State.RUNNING, Move.CANCELLED)
                self.end_task(batch, index, task, now)
                continue
            task.state = State.PENDING
            self.tally.move(batch.queue, State.RUNNING, Move.RETURNED)
            batch.keep(index, task)
            self.ledger.task(task.row(batch.number, index))
            self.push(batch, index, index + 1)
        self.ledger.batch(batch)
        if lo == lease.lo:
            self.shorten(lease, hi)
        else:
            self._cut_end(lease, lo)
        if self.dependencies.awaited:
            self.dependencies.look(batch, now)

    def _wait_again(self, lease: Lease) -> None:
        """Undo the grant of a task behind its parent, and of the tasks behind it (`core.chains`)."""
        undone = [lease]
        while (behind := undone[-1].successor) is not None:
            undone.append(behind)
        for lease in reversed(undone):
            batch = lease.batch
            batch.running = batch.next = 0
            self.tally.move(batch.queue, State.RUNNING, Move.WAITS_AGAIN)
            self.ledger.batch(batch)
            self.end_lease(lease)
            lease.hi = lease.lo

    def call_back(self, batch: Batch) -> None:
        """End the lease of a blocked batch's task, if it has one (`core.chains`): the batch is about to be cancelled.
        The worker hears of that when it mentions the lease.
        """
        if batch.running:
            for lease in [lease for lease in self.leases.values() if lease.batch is batch]:
                self._wait_again(lease)

    def untake(self, lease: Lease, lo: int, now: float) -> None:
        """Undo the grant of a lease's end from ``lo`` on, of which its worker has not been told.

        Fresh tasks go back as the run that they were, if nothing behind them was taken meanwhile.
        """
        batch, hi = lease.batch, lease.hi
        usual = batch.cut is None and (batch.flow is None or batch.frontier is not None) and lease.attempt == 1
        if hi != batch.next or not usual or any(batch.records_in(lo, hi)):
            self.give_back(lease, lo, hi, now)
            return
        batch.running -= hi - lo
        batch.next = lo
        self.tally.move(batch.queue, State.RUNNING, Move.RETURNED, hi - lo)
        self.push(batch, lo, hi)
        self.ledger.batch(batch)
        self._cut_end(lease, lo)

    def _cut_end(self, lease: Lease, hi: int) -> None:
        """Cut a lease off at ``hi``."""
        flow = lease.batch.flow
        if flow is not None and flow.limits:
            self.lines.gave_back(flow.limits, lease.hi - hi)
        lease.hi = hi
        if lease.lo >= hi:
            self.end_lease(lease)
        else:
            self.ledger.lease(lease)

    def shorten(self, lease: Lease, lo: int) -> None:
        """Move the front of a lease, settled so far, to ``lo``."""
        flow = lease.batch.flow
        if flow is not None and flow.limits:
            self.lines.gave_back(flow.limits, lo - lease.lo)
        lease.lo = lo
        if lease.lo >= lease.hi:
            self.end_lease(lease)
        else:
            self.ledger.lease(lease)

    def end_lease(self, lease: Lease) -> None:
        """End a lease, with all its remaining tasks."""
        flow = lease.batch.flow
        if flow is not None and flow.limits and lease.lo < lease.hi:
            self.lines.gave_back(flow.limits, lease.hi - lease.lo)
        if lease.successor is not None:
            self._wait_again(lease.successor)
        del self.leases[lease.token]
        del lease.worker.leases[lease.token]
        if lease.before is not None:
            lease.before.let_go()
        if lease.units is not None:
            self._free(lease)
        self.ledger.lease_ended(lease.token)

    @staticmethod
    def _free(lease: Lease) -> None:
        """Free a lease's resources at its worker."""
        worker, need = lease.worker, lease.batch.entry.need
        if lease.units and worker.room is not None:
            worker.room.give(lease.units)
        if need is not None:
            worker.spread -= need.slots - 1

    def seal(self, batch: Batch, now: float) -> None:
        """Record that a batch's last piece has come."""
        batch.complete = True
        self.open.pop(batch.number, None)
        self.ledger.batch(batch)
        if batch.blocked:
            self.dependencies.sealed(batch, now)
        self.finish_if_done(batch, now)

    def finish_if_done(self, batch: Batch, now: float) -> None:
        """Remove a batch from memory if all of its tasks have ended."""
        if batch.complete and batch.ended >= batch.size and batch.finished_at is None:
            batch.finished_at = now
            # Fresh tasks that were cancelled alone are no frontier's business any more.
            batch.next = max(batch.next, batch.limit)
            self.ledger.batch(batch)
            expires_at = batch.expires_at
            if expires_at is not None:
                self.expiries.add(expires_at)
            if batch.purged:
                self.ledger.purged(batch.number)
            self.forget(batch)
            if batch.key is not None:
                for finished in self.key_watchers:
                    known = finished.setdefault(batch.key, batch)
                    finished[batch.key] = max(known, batch, key=attrgetter("number"))
            if self.dependencies.awaited:
                self.dependencies.finished(batch)
        if self.dependencies.todo:
            self.dependencies.settle(now)

    def forget(self, batch: Batch) -> None:
        """Remove a batch from memory."""
        del self.batches[batch.number]
        self.open.pop(batch.number, None)
        self._use_no_more(batch.entry)
        if batch.key is not None:
            self.keys.discard(batch.key, batch.number)
        if batch.flow is not None:
            self.dependencies.forget(batch)

    def totals(self) -> Totals:
        """The totals row."""
        return Totals(
            last_batch=self.last_batch,
            last_spec=self.last_spec,
            clock=self.clock,
            submitted=self.submitted,
            succeeded=self.tally[State.SUCCEEDED],
            dead=self.tally[State.DEAD],
            cancelled=self.tally[State.CANCELLED],
            retries=self.retries,
        )
