"""What its only reader has read is kept no longer.

A client that submits and reads the results itself, an executor for one, says what it has: nobody can ask for it again,
so it need not take memory and disk until it expires.
"""

from __future__ import annotations

from collections.abc import Sequence

from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.core.changes import BatchRow
from dtq.model.messages import TaskRange


def let_go(c: Coordinator, state: SessionState, read: Sequence[TaskRange]) -> None:
    """See `Service.let_go`. What is let go is forgotten with the next commit; nobody waits for that."""
    kept = c.engine.batches(list({tasks.batch for tasks in read}))
    own = {batch.row.batch: batch.row for batch in kept if _is_own(batch.row, state)}
    with c.lock:
        whole = [tasks.batch for tasks in read if tasks.batch in own and _read(c, state, own[tasks.batch], tasks)]
        c.machine.batches_read(whole)
        c.committer.soon()


def _is_own(row: BatchRow, state: SessionState) -> bool:
    return row.session == state.hello.session and not row.user_key


def _read(c: Coordinator, state: SessionState, row: BatchRow, tasks: TaskRange) -> bool:
    """Let tasks go; whether that were the last of a batch that has finished."""
    lo, hi = tasks.lo, min(tasks.hi, row.size)
    if lo >= hi or not c.machine.has_ended(row.batch, lo, hi):
        return False
    covered = state.read_of(row.batch)
    covered.add(lo, hi)
    if row.finished_at is not None and covered.count >= row.size:
        state.read_whole(row.batch)
        return True
    interval = covered.interval(lo)
    assert interval is not None  # it was just added
    c.machine.read(row.batch, *interval)
    return False
