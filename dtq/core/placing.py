"""Choice of a worker's next task when tasks have needs: applies the rules of `core.needs`.

Used only while a task with a need waits; otherwise `core.lines` chooses.
"""

from __future__ import annotations

from dtq.core.batches import Batch
from dtq.core.heap import RunHeap
from dtq.core.leases import Lease, Worker
from dtq.core.needs import Need, Room
from dtq.core.queue_state import QueueState
from dtq.model.resources import Offers


def first(queue_state: QueueState, worker: Worker, now: float) -> RunHeap | None:
    """The heap with the next run for a worker, which is true; None if there is none.

    Args:
        queue_state: the state of the queue.
        worker: the worker.
        now: the time.
    """
    lines = queue_state.lines
    kinds: list[Need | None] = [None]
    if worker.room is not None:
        kinds += [need for need in lines.needs() if worker.room.could(need)]
    kept: Need | None = None
    heap: RunHeap | None = None
    while kinds:
        found = lines.first_of(worker.queues, kinds, now)
        if found is None:
            break
        need = found[0]
        if _fits(worker, need, kept):
            heap = found[1]
            break
        kept = kept or need
        kinds.remove(need)
    if kept is None:
        queue_state.keeping.discard(worker.session)
    else:
        queue_state.keeping.add(worker.session)
    return heap


def _fits(worker: Worker, need: Need | None, kept: Need | None) -> bool:
    """Whether a worker has room for a need, beside the resources kept for a more urgent one."""
    room = worker.room
    if kept is not None and room is not None and room.fits(kept):
        return False  # the kept need lacks slots only
    if need is None:
        return True  # the machine decides how many of these a worker gets
    return room is not None and need.slots <= free_slots(worker) and room.fits(need, kept)


def free_slots(worker: Worker) -> int:
    """Number of a worker's slots without a grant."""
    return worker.capacity - worker.held - worker.spread


def offer(worker: Worker, slots: int, offers: Offers | None) -> None:
    """Record a worker's offer."""
    if worker.room is not None and (worker.room.slots, worker.room.offers) == (slots, offers):
        return
    worker.room = Room(slots, offers)
    for lease in worker.leases.values():
        if lease.units:
            worker.room.took(lease.units)


def take(lease: Lease, need: Need) -> None:
    """Take the resources for a new lease; they are free."""
    assert lease.worker.room is not None
    lease.units = lease.worker.room.take(need)
    lease.worker.spread += need.slots - 1


def could_run(worker: Worker, batch: Batch) -> bool:
    """Whether an idle worker could meet the needs of a batch's tasks."""
    need = batch.entry.need
    return need is None or (worker.room is not None and worker.room.could(need))
