"""Whom a key stands for: what becomes of a submission whose key has been used.

Rules:

1. A key stands for the latest batch that was accepted with it and is kept. A submission says for how long that counts
   (`Conditions.unique`): as long as the batch is kept, which is what it is without a word; while it has not ended;
   while none of its tasks has started; or for some seconds from its acceptance on. After that the key is free.
2. Where the key is taken, the submission says what it gets (`Conditions.on_conflict`): the batch that has the key, if
   it is of the same call; an error; or its own batch, for which the earlier one is cancelled: what waits never starts,
   what runs is stopped. What has ended stays as it is.
3. The earlier one is cancelled as soon as its successor is on disk, not before: if that cannot be written, nothing has
   happened. The successor's row says so until it is done (`BatchFlow.replaces`), and a restart goes on with it.
4. A submission that is repeated, as its answer was lost, finds its own batch, whatever has become of that: so the batch
   remembers the number of the submission (`BatchFlow.submission`), where the key alone does not say it.
5. Once a batch has ended and another one was accepted with its key, that has taken its place: what is put back does not
   begin beside it. What was cancelled as a parent had died stays so; a dead letter, as long as the other has not ended.

That two submissions are of the same call, their arguments too, is compared by the coordinator, which has them.
"""

from __future__ import annotations

from collections.abc import Callable

from dtq.core import operators
from dtq.core.batches import Batch
from dtq.core.changes import ArgumentPage, BatchFlow, BatchRow
from dtq.core.dependencies import After
from dtq.core.machine import Machine
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
    """The batch that has taken the place of one that has ended, as it has the same key and was accepted after that.

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
    """Accept a submission with a key and conditions if the key is free for it, or have it replace the earlier one.

    Args:
        machine: the machine.
        spec: its spec.
        submission: the first piece of a batch.
        session: the submitter's.
        holder: the batch that has the key, live or not; None where none is kept.
        now: the time.
        after: says what it is to wait for.
        at_once: whether the earlier batch is cancelled now, as both will be on disk or neither; else `replace_earlier`
            does it.

    Returns:
        As `Machine.submit`; None where the submission stands for the batch that has the key.

    Raises:
        KeyTaken: that is an error.
        DtqError: as `Machine.submit`; then nothing has changed.
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
            earlier = machine.register.batches.get(holder.number)
            inherited = None if earlier is None or earlier.flow is None else earlier.flow.replaces
            replace_earlier(machine, batch, now)
            batch.flow = replace(batch.flow, replaces=inherited)
    return accepted


def replace_earlier(machine: Machine, batch: Batch, now: float) -> bool:
    """Cancel what a batch replaces that is on disk; whether there was anything to cancel."""
    if batch.flow is None or batch.flow.replaces is None:
        return False
    earlier = machine.register.batches.get(batch.flow.replaces)
    batch.flow = replace(batch.flow, replaces=None)
    if machine.register.batches.get(batch.number) is batch:
        machine.register.ledger.batch(batch)
    if earlier is None:
        return False
    operators.cancel_batch(machine, earlier, now, why=f"it was replaced by {batch.number}")
    return True
