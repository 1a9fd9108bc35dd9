"""What workers have shown themselves unable to run: it is tried elsewhere, and who lacks what others have leaves.

An attempt that failed before it came to the task's own code, because a module or a task type is missing at the worker,
says something of the worker, or of the task, and it takes other workers to tell which.

Rules:

1. The task is tried again soon, by workers that were not unable to run it, as long as there are such; it counts as a
   crash, so that one that nobody can run becomes a dead letter.
2. Until `PROBE_S` has passed, the worker is given no task of that spec while another may be able to run it; and then
   one lease of it at a time, until one has come to its own code. Nor is it given what lies behind that in the heap.
3. A worker whose attempts end so `MOST_ERRORS` times in a row, at least `PROVEN` of them with functions that have run
   somewhere, is broken, and is told to leave. A function that never ran anywhere breaks no worker; nor does what is
   particular to a call's arguments, or to a function by value from another Python (`Failure.particular`).
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
    """An attempt of a worker has failed, and is about to be judged: was the worker unable to make it?"""
    if not failed.failure.unable:
        if worker.lacking is not None and failed.outcome is Outcome.FAILED:
            worker.lacking.ran(batch.entry)
        return
    if worker.lacking is None:
        worker.lacking = Lacking(worker.name)
    why = "" if failed.failure.particular else failed.failure.message.rstrip(".")
    worker.lacking.failed(batch.entry, why, now)


def held_back(register: Register, worker: Worker, batch: Batch, index: int, now: float) -> bool:
    """Whether a worker that was unable to run something is to be given nothing now, for others may run what is next.

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
    """Whether a worker takes tasks of a batch's queue and was not unable to run its spec."""
    if not could_run(worker, batch):
        return False
    if worker.capacity == 0 or (worker.queues and batch.queue not in worker.queues):
        return False
    return worker.lacking is None or batch.entry.number not in worker.lacking.specs


def probe(register: Register, now: float) -> None:
    """Have the workers that were held back asked again, where it is time."""
    if register.probe_at is not None and register.probe_at <= now:
        register.probe_at = None
        register.lines.pushed += 1  # as if there were news
