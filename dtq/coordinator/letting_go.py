"""Removes results that their only reader has read.

A client that submits and reads the results itself, an executor for one, reports the results it has read: nobody can ask
for them again, so they need not take memory and disk until they expire.
"""

from __future__ import annotations

from collections.abc import Sequence

from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.core.changes import BatchRow
from dtq.model.messages import TaskRange


def let_go(c: Coordinator, state: SessionState, read: Sequence[TaskRange]) -> None:
    """See `Service.let_go`. The results are removed with the next commit, which the call does not wait for."""
    kept = c.engine.batches(list({tasks.batch for tasks in read}))
    own = {batch.row.batch: batch.row for batch in kept if _is_own(batch.row, state)}
    with c.lock:
        whole = [tasks.batch for tasks in read if tasks.batch in own and _read(c, state, own[tasks.batch], tasks)]
        c.machine.batches_read(whole)
        c.committer.soon()


def _is_own(row: BatchRow, state: SessionState) -> bool:
    return row.session == state.hello.session and not row.user_key


def _read(c: Coordinator, state: SessionState, row: BatchRow, tasks: TaskRange) -> bool:
    """Remove tasks; whether they were the last of a finished batch."""
    lo, hi = tasks.lo, min(tasks.hi, row.size)
    if lo >= hi or not c.machine.has_ended(row.batch, lo, hi):
        return False
    covered = state.read_of(row.batch)
    covered.add(lo, hi)
    if row.finished_at is not None and covered.count >= row.size:
        state.read_whole(row.batch)
        return True
    interval = covered.interval(lo)
    assert interval is not None  # just added
    c.machine.read(row.batch, *interval)
    return False
