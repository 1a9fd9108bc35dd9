"""Which task a worker is given next where tasks need more of it than a slot: the rules of `core.needs`.

Asked only where something with a need waits; else `core.lines` says what is next.
"""

from __future__ import annotations

from dtq.core.batches import Batch
from dtq.core.heap import RunHeap
from dtq.core.leases import Lease, Worker
from dtq.core.needs import Need, Room
from dtq.core.register import Register
from dtq.model.resources import Offers


def first(register: Register, worker: Worker, now: float) -> RunHeap | None:
    """The heap with the run that a worker is to be given next; None where there is none. Its first run is true.

    Args:
        register: the state of the queue.
        worker: the worker.
        now: the time.
    """
    lines = register.lines
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
        register.keeping.discard(worker.session)
    else:
        register.keeping.add(worker.session)
    return heap


def _fits(worker: Worker, need: Need | None, kept: Need | None) -> bool:
    """Whether a worker has room for what needs that, beside what is kept for something more urgent."""
    room = worker.room
    if kept is not None and room is not None and room.fits(kept):
        return False  # it lacks nothing but slots
    if need is None:
        return True  # how many of these a worker gets is for the machine to say
    return room is not None and need.slots <= free_slots(worker) and room.fits(need, kept)


def free_slots(worker: Worker) -> int:
    """How many slots of a worker nothing is granted for."""
    return worker.capacity - len(worker.leases) - worker.spread


def offer(worker: Worker, slots: int, offers: Offers | None) -> None:
    """A worker says what it has."""
    if worker.room is not None and (worker.room.slots, worker.room.offers) == (slots, offers):
        return
    worker.room = Room(slots, offers)
    for lease in worker.leases.values():
        if lease.units:
            worker.room.took(lease.units)


def take(lease: Lease, need: Need) -> None:
    """A lease was made for a task with a need, for which there is room."""
    assert lease.worker.room is not None
    lease.units = lease.worker.room.take(need)
    lease.worker.spread += need.slots - 1


def could_run(worker: Worker, batch: Batch) -> bool:
    """Whether a worker could meet the needs of a batch's tasks."""
    need = batch.entry.need
    return need is None or (worker.room is not None and worker.room.could(need))
