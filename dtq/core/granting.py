"""Granting: which tasks a worker gets, how many of them, and when.

Rules:

1. The most urgent task that a worker may run is granted first. The order is that of `core.lines`; `core.placing`
   applies the needs of tasks, `core.quarantining` keeps a worker from tasks that it failed to run.
2. A worker gets a lease a slot. It gets more only of tasks that are known to be tiny: then its slots need not wait for
   a round trip, and no urgent task has to wait long.
3. All leases of one call fit into its answer with their arguments.
4. A token is never used twice: it begins with the number of this run of the coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence

from dtq.core import chains, placing, quarantining, start_by, workers
from dtq.core.batches import Batch, SpecEntry
from dtq.core.heap import Run, RunHeap
from dtq.core.leases import CHUNK_S, MAX_SMALL, MAX_TURN, Lease, Worker, chunk
from dtq.core.lines import Group
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.model.states import State


class Granting:
    """Grants tasks to workers.

    Args:
        queue_state: the state of the queue.
        epoch: number of this run of the coordinator; part of every lease token.
    """

    def __init__(self, queue_state: QueueState, epoch: int) -> None:
        self._queue_state = queue_state
        self._last_token = epoch << 32

    def lease(self, session: str, now: float, call: int = 0, *, by_report: bool = False) -> list[Lease]:
        """Grant as much as a worker has room for, most urgent first.

        A worker gets one lease a slot; and up to one more a slot while the next tasks are known to be tiny, so that its
        slots need not wait for a round trip. Where batches are smaller than a lease may be, a slot gets as many more
        leases as make up one; and behind a lease it gets the tasks that wait for it (`core.chains`). All leases of one
        call are expected to fit into its answer with their arguments; `cut` takes back the excess. Large arguments are
        for fetching calls: a report's answer must not take long.

        Args:
            session: the worker's.
            now: the time.
            call: number of the worker's call whose answer brings the leases.
            by_report: whether that is a report, else it is a fetching call.
        """
        worker = workers.of_session(self._queue_state, session)
        passed: list[tuple[Batch, Run]] = []
        try:
            granted = self._grant(worker, now, call, passed, by_report=by_report)
        finally:
            if passed:
                self._put_back(passed)
        return granted + self._successors(worker, now, call) if self._queue_state.dependencies.awaited else granted

    def _put_back(self, passed: Sequence[tuple[Batch, Run]]) -> None:
        """Put the runs back that a worker was passed over for. Nothing of them is new to other workers."""
        lines = self._queue_state.lines
        pushed = lines.pushed
        for batch, run in passed:
            lines.push(batch.entry, run, batch.limits)
        lines.pushed = pushed

    def _grant(
        self, worker: Worker, now: float, call: int, passed: list[tuple[Batch, Run]], *, by_report: bool
    ) -> list[Lease]:
        """As `lease`; `passed` gathers the runs that are held back from this worker, and were taken off their heaps."""
        granted: list[Lease] = []
        room = self._queue_state.rules.grant_bytes // 4 if by_report else self._queue_state.rules.grant_bytes
        tasks = sum([lease.hi - lease.lo for lease in worker.leases.values() if lease.before is None])
        lines = self._queue_state.lines
        while len(passed) <= quarantining.MOST_PASSED:
            held = worker.slots_held
            if held >= 2 * worker.capacity and not self._has_small(worker, held):
                break
            needy = bool(lines.needed)
            heap = placing.first(self._queue_state, worker, now) if needy else lines.first(worker.queues, now)
            run = heap.top() if heap is not None else None
            if heap is None or run is None:
                break
            batch = self._queue_state.batches[run.batch]
            if batch.starts_by is not None and start_by.lapse(self._queue_state, batch, now):
                continue
            if worker.quarantine is not None and quarantining.held_back(self._queue_state, worker, batch, run.lo, now):
                passed.append((batch, run))
                heap.advance(run.hi)
                continue
            ahead = held >= worker.capacity
            estimate_s = batch.entry.expected_s()
            if ahead and (estimate_s is None or estimate_s > CHUNK_S):
                break
            if ahead and isinstance(heap, Group) and heap.paced:
                break  # its lease is its start
            if held >= 2 * worker.capacity and not self._has_room(worker, held, tasks, heap, batch.entry):
                break
            if batch.entry.argument_bytes > room and (granted or by_report):
                break
            lease = self._take(heap, run, batch, worker, now, room)
            lease.call = call
            room -= int(batch.entry.argument_bytes * (lease.hi - lease.lo))
            lease.started = not ahead
            tasks += lease.hi - lease.lo
            granted.append(lease)
        return granted

    @staticmethod
    def _has_small(worker: Worker, held: int) -> bool:
        """Whether a worker with two leases a slot may be given another: the latest one is small."""
        if held >= MAX_SMALL * worker.capacity or not worker.leases:
            return False
        latest = next(reversed(worker.leases.values()))
        return latest.hi - latest.lo < MAX_SMALL

    def _has_room(self, worker: Worker, held: int, tasks: int, heap: RunHeap, entry: SpecEntry) -> bool:
        """Whether a worker with two leases a slot, of so many tasks, is given another, of tiny tasks."""
        queue_state = self._queue_state
        most = min(chunk(entry.expected_s(), queue_state.tally[State.PENDING], queue_state.slots), MAX_SMALL)
        most = worker.capacity * min(most, entry.most_within(self._queue_state.rules.grant_bytes))
        if held >= most or tasks >= 2 * most:
            return False
        # No worker gets so many tasks of a limit ahead that others must wait for the limit.
        return not isinstance(heap, Group) or heap.has_plenty

    def may_have_successors(self, session: str) -> bool:
        """Whether tasks wait for those that a worker has, and may be granted behind them (`core.chains`)."""
        worker = self._queue_state.workers.get(session)
        return worker is not None and bool(
            self._queue_state.dependencies.awaited and chains.ends(self._queue_state, worker)
        )

    def _successors(self, worker: Worker, now: float, call: int) -> list[Lease]:
        """Grant successors of a worker's leases (`core.chains`)."""
        queue_state = self._queue_state
        ends = chains.ends(queue_state, worker)
        if not ends or queue_state.lines.needed:
            return []
        first = self._first(worker, now)
        granted: list[Lease] = []
        for before in ends:
            while (batch := chains.successor_of(queue_state, before, first)) is not None:
                before = self._take_behind(before, batch, now, call)
                granted.append(before)
                if queue_state.lines.several:  # then it may be another queue's turn
                    first = self._first(worker, now)
        return granted

    def _first(self, worker: Worker, now: float) -> tuple[Run, str] | None:
        """The run that a worker would be given next, and its queue; for lines without needs."""
        heap = self._queue_state.lines.first(worker.queues, now)
        run = heap.top() if heap is not None else None
        return None if run is None else (run, self._queue_state.batches[run.batch].queue)

    def _take_behind(self, before: Lease, batch: Batch, now: float, call: int) -> Lease:
        queue_state, worker = self._queue_state, before.worker
        queue_state.tally.move(batch.queue, State.BLOCKED, Move.LEASED)
        batch.next = batch.running = 1
        if queue_state.lines.several:
            queue_state.lines.charge(batch.entry, worker.queues, 1)
        lease = self._lease(worker, batch, 0, 1, 1, now)
        lease.call = call
        lease.put_behind(before)
        return lease

    def _lease(self, worker: Worker, batch: Batch, lo: int, hi: int, attempt: int, now: float) -> Lease:
        queue_state = self._queue_state
        self._last_token += 1
        lease = Lease(self._last_token, worker, batch, lo, hi, attempt, now)
        queue_state.leases[lease.token] = worker.leases[lease.token] = lease
        queue_state.ledger.lease(lease)
        queue_state.ledger.batch(batch)
        return lease

    def cut(self, lease: Lease, hi: int, now: float) -> None:
        """Shorten a new lease that is too large for one answer: tasks from ``hi`` on go back before its worker is told
        of them.
        """
        if lease.token in self._queue_state.leases and lease.lo <= hi < lease.hi:
            self._queue_state.untake(lease, hi, now)

    def _take(self, heap: RunHeap, run: Run, batch: Batch, worker: Worker, now: float, room: int) -> Lease:
        queue_state = self._queue_state
        lo = run.lo
        waiting = len(heap) if lo < batch.next else batch.listed(run.hi) - lo
        most = chunk(batch.entry.estimate_s, waiting, queue_state.slots)
        if most > 1:
            most = min(most, batch.entry.most_within(room))
            if queue_state.lines.several:
                most = min(most, MAX_TURN)
        need = batch.entry.need
        if need is not None:
            most = 1
        if isinstance(heap, Group):
            most = heap.most(most)
        if lo < batch.next:
            hi, attempt = queue_state.take_returned(heap, batch, lo, most)
        else:
            hi, attempt = queue_state.take_fresh(heap, batch, lo, most), 1
        if heap.limits or queue_state.lines.several:
            queue_state.lines.took(heap, batch.entry, worker.queues, hi - lo, now)
        queue_state.tally.move(batch.queue, State.PENDING, Move.LEASED, hi - lo)
        batch.running += hi - lo
        if batch.size > 1:
            batch.note_pace(now)
        lease = self._lease(worker, batch, lo, hi, attempt, now)
        if need is not None:
            placing.take(lease, need)
        frontier = batch.frontier
        at_its_end = frontier is not None and (batch.next >= frontier.ready or batch.tasks is not None)
        if at_its_end or (hi - lo == 1 and queue_state.dependencies.awaited):
            queue_state.dependencies.look(batch, now)
        return lease
