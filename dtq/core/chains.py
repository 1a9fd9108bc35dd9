"""Chains: tasks that are granted behind the task that they wait for.

A chain of tiny tasks would cost a round trip a task. So a worker gets the next tasks of a chain together with the one
that they wait for, as its *successors*, and its slot runs them one after the other, each with the result of the one
before.

Rules:

1. A successor waits for one task only, which has a lease of its own. The successor goes to the same worker, behind that
   lease: only if it is known to be tiny, and if no other task for the worker is ahead of it.
2. A successor has a lease, so it is RUNNING; but its batch stays blocked, and its outcome counts only once the task
   before it has a result. A worker reports outcomes in the order in which they happened, so this refuses no report of a
   sound worker; and restored state is as true as live state: the result of a successor is in the same commit as the
   result before it, or in a later one.
3. A lease that ends without a result ends those behind it: a successor may get no result but the one that counts. A
   successor that comes back while its batch is blocked is as if it had never been leased: it is not known to have
   started. One that is to be cancelled is called back first. Reports of leases that were called back are refused.
4. No task is granted behind a lease again once one has come back from there: its task may take long, or its slot may be
   about to end, and the worker would give it back at once.
5. Successors occupy none of a worker's room as long as it holds the leases that they are behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from dtq.core.batches import Batch
from dtq.core.changes import Parent
from dtq.core.heap import Run
from dtq.core.leases import CHUNK_S, Lease, Worker
from dtq.core.queue_state import QueueState

#: Most successors of a worker, for each of its slots, and in one chain.
MOST: Final = 128
#: Most bytes, roughly, of the arguments and of the result of a task in a chain: arguments wait in a slot's pipe.
SMALL: Final = 4 << 10
#: Number of tasks that wait for the same one that are tried as its successor.
_FEW: Final = 8


def ends(queue_state: QueueState, worker: Worker) -> list[Lease]:
    """The leases of a worker that may get a successor."""
    if not worker.chains or worker.quarantine is not None:
        return []
    awaited = queue_state.dependencies.awaited
    return [
        lease
        for lease in worker.leases.values()
        if lease.successor is None and not lease.alone and lease.batch.number in awaited and lease.hi - lease.lo == 1
    ]


def successor_of(queue_state: QueueState, lease: Lease, first: tuple[Run, str] | None) -> Batch | None:
    """The batch of the task to be granted behind a lease; None if there is none.

    Args:
        queue_state: the state of the queue.
        lease: the lease, of one task.
        first: the run that its worker would be given next otherwise, and the queue of that; None for none.
    """
    awaited = queue_state.dependencies.awaited.get(lease.batch.number)
    if awaited is None or lease.batch.entry.result_bytes > SMALL:
        return None
    for child, index in islice(awaited.by_index.get(lease.lo, ()), _FEW):
        if (
            index < 0
            and _is_waiting(queue_state, child)
            and _suits(queue_state, lease, child)
            and _comes_first(child, first)
        ):
            return child
    return None


def _is_waiting(queue_state: QueueState, child: Batch) -> bool:
    """Whether a batch has one task, and waits for one task and no moment."""
    flow = child.flow
    if flow is None or not flow.blocked or flow.why or flow.run_anyway or flow.start_by is not None:
        return False
    return (
        queue_state.batches.get(child.number) is child
        and child.single
        and child.next == 0
        and child.tasks is None
        and child.due_at is None
        and queue_state.dependencies.waits.get(child.number) == 1
    )


def _suits(queue_state: QueueState, lease: Lease, child: Batch) -> bool:
    """Whether a lease's worker may be given a batch's task behind it."""
    worker, entry = lease.worker, child.entry
    if child.limits or entry.need is not None or entry.estimate_s is None or entry.argument_bytes > SMALL:
        return False
    if entry.queue in queue_state.lines.paused or (worker.queues and entry.queue not in worker.queues):
        return False
    most = min(MOST, int(CHUNK_S / entry.estimate_s))
    return worker.queued < most * worker.capacity and (lease.chain is None or lease.chain.queued < most)


def _comes_first(child: Batch, first: tuple[Run, str] | None) -> bool:
    if first is None:
        return True
    run, queue = first
    mine = Run(child.entry.urgency, child.number, 0, 1)
    return mine < run if queue == child.queue else mine.rank < run.rank


def restored(lease: Lease, parents: Iterable[Parent], leases: dict[int, list[Lease]]) -> None:
    """Put a restored lease behind the one that it was granted behind.

    Args:
        lease: a lease of a blocked batch.
        parents: the tasks that the batch waits for, or has waited for.
        leases: all leases, by batch.
    """
    for number, lo, hi, _ in parents:
        for other in leases.get(number, ()):
            if hi and other.lo <= lo < other.hi and other is not lease:
                lease.put_behind(other)
                return
