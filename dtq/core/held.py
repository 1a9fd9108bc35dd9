"""Tells which leased tasks run, and which are held by a worker that has not started them.

For the machine each leased task is RUNNING: no other worker gets it. For people it runs only if it has started; a held
task is shown as pending, or as blocked if it was granted behind the task that it waits for (`core.chains`).

A worker says with each of its messages which leases have started. Between two messages its oldest other leases are
taken for started as far as it has free slots: a slot begins the next lease as soon as it has ended one.

Everything here is found out when somebody asks; nothing is kept, so it costs nothing else.
"""

from __future__ import annotations

from dtq.core.batches import Batch
from dtq.core.leases import Lease, Worker
from dtq.core.queue_state import QueueState
from dtq.model.states import State


def running(worker: Worker) -> set[int]:
    """The tokens of a worker's leases whose first task runs."""
    begun: set[int] = set()
    free = worker.capacity
    others: list[Lease] = []
    for lease in worker.leases.values():
        if lease.batch.blocked or lease.before is not None:
            continue
        if lease.started:
            begun.add(lease.token)
            free -= slots_of(lease)
        else:
            others.append(lease)
    for lease in others:
        if free <= 0:
            break
        begun.add(lease.token)
        free -= slots_of(lease)
    return begun


def slots_of(lease: Lease) -> int:
    """The number of slots that a lease takes."""
    need = lease.batch.entry.need
    return 1 if need is None else need.slots


def held(queue_state: QueueState) -> dict[int, int]:
    """The number of held tasks by batch; batches without any are left out."""
    found: dict[int, int] = {}
    for worker in queue_state.workers.values():
        begun = running(worker)
        for lease in worker.leases.values():
            count = lease.hi - lease.lo - (lease.token in begun)
            if count:
                found[lease.batch.number] = found.get(lease.batch.number, 0) + count
    return found


def held_in(queue_state: QueueState, batch: Batch) -> int:
    """The number of held tasks of a batch."""
    return held(queue_state).get(batch.number, 0) if batch.running else 0


def held_of(worker: Worker) -> int:
    """The number of tasks that a worker holds and has not started."""
    return sum([lease.hi - lease.lo for lease in worker.leases.values()]) - len(running(worker))


def held_state(batch: Batch) -> State:
    """The state as which held tasks of a batch are shown."""
    return State.BLOCKED if batch.blocked else State.PENDING


def held_from(lease: Lease) -> int:
    """Index of the first task of a lease that is held; that after its last task if none is."""
    return lease.lo + (lease.token in running(lease.worker))


def running_since(lease: Lease) -> float:
    """Since when the first task of a lease runs, as far as that is known."""
    return lease.since if lease.started else max(lease.since, lease.worker.settled_at)


def ahead_of(lease: Lease, index: int) -> int:
    """The number of tasks that a worker has before a held one."""
    count = index - lease.lo
    for other in lease.worker.leases.values():
        if other is lease:
            break
        count += other.hi - other.lo
    return count
