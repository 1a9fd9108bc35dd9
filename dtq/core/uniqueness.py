"""Uniqueness of keys: the result of a submission whose key has been used.

Rules:

1. A key stands for the latest batch that was accepted with it and is kept. A submission says for how long that counts
   (`Conditions.unique`): as long as the batch is kept, which is the default; while it has not ended; while none of its
   tasks has started; or for some seconds from its acceptance on. After that the key is free.
2. If the key is taken, the submission chooses its result (`Conditions.on_conflict`): the batch that has the key, if
   that is of the same call; an error; or its own batch, for which the earlier one is cancelled: waiting tasks never
   start, running tasks are stopped, ended tasks stay as they are.
3. The earlier batch is cancelled as soon as its successor is on disk, not before: if the successor cannot be written,
   nothing has happened. The successor's row says so until it is done (`BatchFlow.replaces`), and a restart goes on with
   it.
4. A submission that is repeated because its answer was lost finds its own batch, whatever has become of that: so the
   batch remembers the number of the submission (`BatchFlow.submission`), if the key alone does not identify it.
5. Once a batch has ended and another was accepted with its key, the other has taken its place: tasks that are put back
   do not begin beside it. Tasks that were cancelled because a parent died stay cancelled; a dead letter stays dead as
   long as the other batch has not ended.

The coordinator, which has the arguments, compares whether two submissions are of the same call.
"""

from __future__ import annotations

from collections.abc import Callable

from dtq.core import operators
from dtq.core.batches import Batch
from dtq.core.changes import ArgumentPage, BatchFlow, BatchRow
from dtq.core.machine import Machine
from dtq.core.parents import After
from dtq.errors import KeyTaken
from dtq.model.messages import Conditions, Conflict, Submission, Unique
from dtq.model.options import Spec
from dtq.records import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The latest batch that was accepted with a key.

    Attributes:
        number: its number.
        submitted_at: when it was accepted.
        live: whether it has not ended.
        started: whether any of its tasks has started.
    """

    number: int
    submitted_at: float
    live: bool
    started: bool


def holder_of(batch: Batch) -> Holder:
    """A live batch as the holder of its key."""
    return Holder(number=batch.number, submitted_at=batch.submitted_at, live=True, started=has_started(batch))


def has_started(batch: Batch) -> bool:
    """Whether any task of a live batch has started, apart from those stopped since."""
    if batch.running or batch.succeeded or batch.dead or batch.purged:
        return True
    return any(task.attempt for task in (batch.tasks or {}).values())


def succeeded_by(row: BatchRow, later: Holder | None) -> int | None:
    """The batch that has taken the place of an ended one: it has the same key and was accepted after the end.

    Args:
        row: the batch that has ended.
        later: the latest that has its key.
    """
    if later is None or later.number <= row.batch or row.finished_at is None:
        return None
    return later.number if later.submitted_at >= row.finished_at else None


def is_taken(conditions: Conditions, holder: Holder, now: float) -> bool:
    """Whether a key is taken by its holder, for a submission with these conditions."""
    if conditions.unique_s is not None:
        return now < holder.submitted_at + conditions.unique_s
    if conditions.unique is Unique.PENDING:
        return holder.live and not holder.started
    return conditions.unique is not Unique.UNFINISHED or holder.live


def submit(
    machine: Machine,
    spec: Spec,
    submission: Submission,
    session: str,
    holder: Holder | None,
    now: float,
    after: Callable[[], After] | None = None,
    *,
    at_once: bool = True,
) -> tuple[Batch, ArgumentPage | None] | None:
    """Accept a submission with a key and conditions if the key is free for it, or replace the earlier batch.

    Args:
        machine: the machine.
        spec: its spec.
        submission: the first piece of a batch.
        session: the submitter's.
        holder: the batch that has the key, live or not; None if no such batch is kept.
        now: the time.
        after: returns its dependencies.
        at_once: whether the earlier batch is cancelled now, because both changes are in one commit; else
            `replace_earlier` does it.

    Returns:
        As `submitting.submit`; None if the submission stands for the batch that has the key.

    Raises:
        KeyTaken: the conditions make a taken key an error.
        DtqError: as `submitting.submit`; then nothing has changed.
    """
    conditions = submission.conditions
    assert conditions is not None
    taken = holder is not None and is_taken(conditions, holder, now)
    if taken and holder is not None:
        if conditions.on_conflict is Conflict.ERROR:
            raise KeyTaken(submission.key, holder.number)
        if conditions.on_conflict is Conflict.EXISTING:
            return None
    accepted = machine.submit(spec, submission, session, now, anew=True, after=after)
    batch = accepted[0]
    if conditions.of_key:
        batch.flow = replace(batch.flow or BatchFlow(), submission=submission.number)
    if taken and holder is not None:
        batch.flow = replace(batch.flow or BatchFlow(), replaces=holder.number)
        if at_once or not holder.live:
            earlier = machine.queue_state.batches.get(holder.number)
            inherited = None if earlier is None or earlier.flow is None else earlier.flow.replaces
            replace_earlier(machine, batch, now)
            batch.flow = replace(batch.flow, replaces=inherited)
    return accepted


def replace_earlier(machine: Machine, batch: Batch, now: float) -> bool:
    """Cancel the batch that a batch on disk replaces; whether there was anything to cancel."""
    if batch.flow is None or batch.flow.replaces is None:
        return False
    earlier = machine.queue_state.batches.get(batch.flow.replaces)
    batch.flow = replace(batch.flow, replaces=None)
    if machine.queue_state.batches.get(batch.number) is batch:
        machine.queue_state.ledger.batch(batch)
    if earlier is None:
        return False
    operators.cancel_batch(machine, earlier, now, why=f"it was replaced by {batch.number}")
    return True
