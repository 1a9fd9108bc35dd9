"""Quarantine: which specs each worker has failed to run, which tasks it is refused for that, and when it is broken.

An attempt may fail before the task's own code starts, because the worker lacks a module or a task type. Such a failure
blames either the worker or the task, and only other workers can tell which.

Rules:

1. The task is tried again soon, by workers that have not failed to run it, as long as one exists; the attempt counts as
   a crash, so that a task that nobody can run becomes a dead letter.
2. Until `PROBE_S` has passed, the worker is given no task of that spec while another worker may be able to run it;
   after that, one lease of the spec at a time, until one has reached its own code. A held-back task also blocks the
   tasks behind it for that worker.
3. A worker is broken, and is told to leave, if `MOST_ERRORS` attempts in a row end so, at least `PROVEN` of them with
   functions that have run somewhere. A function that never ran anywhere breaks no worker; nor does a fault of one
   call's arguments, or of a function by value from another Python (`Failure.particular`).
"""

from __future__ import annotations

from dtq.core.batches import Batch
from dtq.core.lacking import PROBE_S, Lacking
from dtq.core.leases import Worker
from dtq.core.placing import could_run
from dtq.core.register import Register
from dtq.model.messages import Failed
from dtq.model.states import Outcome


def note(worker: Worker, batch: Batch, failed: Failed, now: float) -> None:
    """Record a failed attempt of a worker, before it is judged: the worker may have been unable to make it."""
    if not failed.failure.unable:
        if worker.lacking is not None and failed.outcome is Outcome.FAILED:
            worker.lacking.ran(batch.entry)
        return
    if worker.lacking is None:
        worker.lacking = Lacking(worker.name)
    why = "" if failed.failure.particular else failed.failure.message.rstrip(".")
    worker.lacking.failed(batch.entry, why, now)


def held_back(register: Register, worker: Worker, batch: Batch, index: int, now: float) -> bool:
    """Whether a worker with failures to run is offered nothing now, because other workers may run the next task.

    Args:
        register: the state of the queue.
        worker: the worker; its `Worker.lacking` is set.
        batch: the batch of the most urgent task.
        index: that task.
        now: the time.
    """
    lacking = worker.lacking
    assert lacking is not None
    if lacking.verdict() is not None:
        return True
    entry = batch.entry
    if entry.number in lacking.specs and any(lease.batch.entry is entry for lease in worker.leases.values()):
        return True
    task = batch.task(index) if index < batch.next else None
    kept = lacking.kept_from(entry) > now
    if not kept and (task is None or worker.session not in task.shunned):
        return False
    if not any(_able(other, batch) for other in register.workers.values() if other is not worker):
        return False
    if register.probe_at is None:
        register.probe_at = now + PROBE_S
    return True


def _able(worker: Worker, batch: Batch) -> bool:
    """Whether a worker serves a batch's queue and has not failed to run its spec."""
    if not could_run(worker, batch):
        return False
    if worker.capacity == 0 or (worker.queues and batch.queue not in worker.queues):
        return False
    return worker.lacking is None or batch.entry.number not in worker.lacking.specs


def probe(register: Register, now: float) -> None:
    """Offer tasks again to the workers that were held back, when their time has come."""
    if register.probe_at is not None and register.probe_at <= now:
        register.probe_at = None
        register.lines.pushed += 1  # wakes the fetching calls, as new tasks do
