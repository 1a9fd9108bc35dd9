"""Quarantine: which specs each worker has failed to run, which tasks it is refused for that, and when it is broken.

An attempt may fail before the task's own code starts, because the worker lacks a module or a task type. Such a failure
blames either the worker or the task, and only other workers can tell which.

Rules:

1. The task is tried again soon, by workers that have not failed to run it, as long as one exists; the attempt counts as
   a crash, so that a task that nobody can run becomes a dead letter.
2. Until `PROBE_S` has passed, the worker is given no task of that spec while another worker may be able to run it;
   after that, one lease of the spec at a time, until one has reached its own code. The worker is given the tasks
   behind held-back ones meanwhile: a worker that could run those may be busy for long.
3. A worker is broken, and is told to leave, if `MOST_ERRORS` attempts in a row end so, at least `PROVEN` of them with
   functions that have run somewhere. A function that never ran anywhere breaks no worker; nor does a fault of one
   call's arguments, or of a function by value from another Python (`Failure.particular`).
"""

from __future__ import annotations

from typing import Final

from dtq.core.batches import Batch
from dtq.core.leases import Worker
from dtq.core.placing import could_run
from dtq.core.quarantine import PROBE_S, Quarantine
from dtq.core.queue_state import QueueState
from dtq.model.messages import Failed
from dtq.model.states import Outcome

#: Most runs of held-back tasks that a worker is passed over for by one call.
MOST_PASSED: Final = 64


def note(worker: Worker, batch: Batch, failed: Failed, now: float) -> None:
    """Record a failed attempt of a worker, before it is judged: the worker may have been unable to make it."""
    if not failed.failure.unable:
        if worker.quarantine is not None and failed.outcome is Outcome.FAILED:
            worker.quarantine.ran(batch.entry)
        return
    if worker.quarantine is None:
        worker.quarantine = Quarantine(worker.name)
    why = "" if failed.failure.particular else failed.failure.message.rstrip(".")
    worker.quarantine.failed(batch.entry, why, now)


def held_back(queue_state: QueueState, worker: Worker, batch: Batch, index: int, now: float) -> bool:
    """Whether a worker with failures to run is not offered the next task now, because other workers may run it.

    Args:
        queue_state: the state of the queue.
        worker: the worker; its `Worker.quarantine` is set.
        batch: the batch of the most urgent task.
        index: that task.
        now: the time.
    """
    quarantine = worker.quarantine
    assert quarantine is not None
    if quarantine.verdict() is not None:
        return True
    entry = batch.entry
    if entry.number in quarantine.specs and any(lease.batch.entry is entry for lease in worker.leases.values()):
        return True
    task = batch.task(index) if index < batch.next else None
    kept = quarantine.kept_from(entry) > now
    if not kept and (task is None or worker.session not in task.failed_on):
        return False
    if not any(_able(other, batch) for other in queue_state.workers.values() if other is not worker):
        return False
    if queue_state.probe_at is None:
        queue_state.probe_at = now + PROBE_S
    return True


def _able(worker: Worker, batch: Batch) -> bool:
    """Whether a worker serves a batch's queue and has not failed to run its spec."""
    if not could_run(worker, batch):
        return False
    if worker.capacity == 0 or (worker.queues and batch.queue not in worker.queues):
        return False
    return worker.quarantine is None or batch.entry.number not in worker.quarantine.specs


def probe(queue_state: QueueState, now: float) -> None:
    """Offer tasks again to the workers that were held back, when their time has come."""
    if queue_state.probe_at is not None and queue_state.probe_at <= now:
        queue_state.probe_at = None
        queue_state.lines.pushed += 1  # wakes the fetching calls, as new tasks do
