"""Looks up the latest batches that were accepted with some keys, ended or not.

Live batches are in the queue's state, ended ones in the store, which is read outside of the lock; batches that end
meanwhile are noted by the queue's state (`QueueState.key_watchers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dtq.coordinator.service import Coordinator
from dtq.core.batches import Batch
from dtq.core.changes import BatchRow
from dtq.core.uniqueness import Holder, holder_of
from dtq.engines.base import StoredBatch


@contextmanager
def holders(c: Coordinator, keyed: Sequence[StoredBatch]) -> Iterator[Callable[[BatchRow], Holder | None]]:
    """Look the keys of some batches up; entered and left outside of the lock.

    Args:
        c: the coordinator.
        keyed: the batches; they have keys of users.

    Yields:
        A function that returns the holder of a batch's key, under the lock.
    """
    finished: dict[str, Batch] = {}
    queue_state = c.machine.queue_state
    with c.lock:
        queue_state.key_watchers.append(finished)
    try:
        stored = {batch.row.key: batch for batch in c.engine.batches(keys=[batch.row.key for batch in keyed])}

        def latest(row: BatchRow) -> Holder | None:
            live = queue_state.keys.get(row.key)
            if live is not None:
                return holder_of(queue_state.batches[live])
            batch, known = finished.get(row.key), stored.get(row.key)
            if batch is not None:
                return Holder(number=batch.number, submitted_at=batch.submitted_at, live=False, started=True)
            if known is not None:
                return Holder(number=known.row.batch, submitted_at=known.row.submitted_at, live=False, started=True)
            return None

        yield latest
    finally:
        with c.lock:
            queue_state.key_watchers = [other for other in queue_state.key_watchers if other is not finished]
