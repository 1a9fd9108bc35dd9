"""Workers: they say hello, hold leases, fall silent and are lost.

Rules:

1. A worker is known from its hello until it is lost. It is lost if its session ends, or if it says nothing for a lease
   time; while it waits for the coordinator it can say nothing, and is excused.
2. A lost worker is blamed only for tasks that it had started. The rest of its tasks goes back unblamed.
"""

from __future__ import annotations

from collections.abc import Iterable

from dtq.core import placing
from dtq.core.leases import Lease, Worker
from dtq.core.queue_state import QueueState
from dtq.errors import SessionUnknown, WorkerBroken
from dtq.model import pages
from dtq.model.messages import Cancellation, Failure, Succeeded
from dtq.model.resources import Offers
from dtq.model.states import Outcome


def attach(
    queue_state: QueueState,
    session: str,
    name: str,
    queues: tuple[str, ...],
    now: float,
    *,
    slots: int = 0,
    offers: Offers | None = None,
    chains: bool = False,
) -> bool:
    """Register a worker that said hello.

    Args:
        queue_state: the state of the queue.
        session: its session.
        name: its name.
        queues: the queues it serves; empty for all.
        now: the time.
        slots: its configured number of slots.
        offers: its other resources.
        chains: whether it runs successors (`core.chains`).

    Returns:
        Whether the worker was known, with its leases still in place.
    """
    workers = queue_state.workers
    known = session in workers
    worker = workers.setdefault(session, Worker(session, name, 0.0))
    worker.name = name
    worker.queues = queues
    worker.chains = chains
    placing.offer(worker, slots, offers)
    worker.renew(now + queue_state.rules.lease_s)
    return known


def of_session(queue_state: QueueState, session: str) -> Worker:
    """The worker of a session.

    Raises:
        SessionUnknown: the worker is not known (any more): its leases are gone.
    """
    worker = queue_state.workers.get(session)
    if worker is None:
        raise SessionUnknown(session)
    return worker


def begin_recording(queue_state: QueueState, session: str, succeeded: Iterable[Succeeded]) -> bool:
    """Note that results of a worker will be applied soon: meanwhile, the leases that they end keep no slot from
    others. Whether they end any.

    Args:
        queue_state: the state of the queue.
        session: the worker's.
        succeeded: the results.
    """
    worker = queue_state.workers.get(session)
    if worker is None:
        return False
    worker.ending = frozenset(
        done.token
        for done in succeeded
        if (lease := worker.leases.get(done.token)) is not None and done.lo + pages.count(done.results) == lease.hi
    )
    return bool(worker.ending)


def end_recording(queue_state: QueueState, session: str) -> None:
    """Note that these results are applied now, or refused."""
    worker = queue_state.workers.get(session)
    if worker is not None:
        worker.ending = frozenset()


def is_over(queue_state: QueueState, session: str, call: int) -> bool:
    """Whether one of a worker's calls is over, as far as the worker has said."""
    worker = queue_state.workers.get(session)
    return worker is not None and worker.is_over(call)


def broken(queue_state: QueueState, session: str) -> WorkerBroken | None:
    """Why a worker must leave; None for a sound worker."""
    quarantine = of_session(queue_state, session).quarantine
    return None if quarantine is None else quarantine.verdict()


def leases_of(queue_state: QueueState, session: str) -> dict[int, Lease]:
    """The leases of a worker, by token."""
    worker = queue_state.workers.get(session)
    return {} if worker is None else worker.leases


def cancelling(queue_state: QueueState, session: str) -> list[Cancellation]:
    """The running tasks of a worker that must be stopped."""
    worker = queue_state.workers.get(session)
    leases = worker.leases.values() if worker is not None else ()
    return [cancellation for lease in leases for cancellation in cancellations(lease)]


def cancellations(lease: Lease) -> list[Cancellation]:
    """The running tasks of a lease that must be stopped."""
    tasks = lease.batch.tasks
    if tasks is None:
        return []
    cancelled = [index for index in lease.batch.records_in(lease.lo, lease.hi) if tasks[index].cancelling]
    return [Cancellation(token=lease.token, index=index) for index in cancelled]


def excuse(queue_state: QueueState, session: str, now: float) -> None:
    """Excuse the silence of a worker that waits for an answer of the coordinator's: it can say nothing
    meanwhile.
    """
    worker = queue_state.workers.get(session)
    if worker is not None:
        worker.renew(now + queue_state.rules.lease_s)


def lose(queue_state: QueueState, session: str, now: float) -> bool:
    """Handle the loss of a worker: it is blamed for the tasks it had started, the rest goes back unblamed.

    Returns:
        Whether it was known.
    """
    worker = queue_state.workers.pop(session, None)
    if worker is None:
        return False
    queue_state.slots -= worker.capacity
    queue_state.keeping.discard(session)
    failure = Failure(message=f"the worker {worker.name} was lost while it ran the task")
    for lease in list(worker.leases.values()):
        if lease.token not in worker.leases:
            continue  # called back with the task before it
        first = lease.lo
        if lease.started and not lease.batch.blocked:
            queue_state.shorten(lease, first + 1)
            queue_state.attempt_ended(lease, first, Outcome.CRASHED, failure, lease.since, now)
            first += 1
        if first < lease.hi:
            queue_state.give_back(lease, first, lease.hi, now)
    return True
