"""Submitting: a new batch comes in, or the next piece of one; and a batch that was not made durable is withdrawn.

Rules:

1. A piece continues its batch. Of a piece that overlaps with what the batch has, only the rest is added; so a repeated
   piece does no harm.
2. Tasks are added once every bound has been asked: a refused piece adds none.
3. Only the submitter of a batch, or the holder of its key, adds to it.
4. A batch that is withdrawn was never acknowledged, and leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable

from dtq.core import start_by, wall_moments
from dtq.core.batches import Batch, Frontier, shared_flow
from dtq.core.changes import ArgumentPage, BatchFlow
from dtq.core.elements import WAITING
from dtq.core.parents import After
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.errors import BadMessage, EdgesFull, KeyConflict, NotPermitted, QueueDraining, TooLarge, UnknownId
from dtq.model import pages
from dtq.model.fields import MAX_NAME
from dtq.model.messages import Submission
from dtq.model.options import Spec, check_delay, same_call
from dtq.model.states import State
from dtq.records import replace


def submit(
    queue_state: QueueState,
    spec: Spec,
    submission: Submission,
    session: str,
    now: float,
    *,
    anew: bool = False,
    after: Callable[[], After] | None = None,
) -> tuple[Batch, ArgumentPage | None]:
    """Accept a new batch, or the next piece of one.

    Tasks that the batch already has are not added again, so a repeated piece does no harm; neither does a piece for
    a batch that was sealed meanwhile (cancelled): it is left out.

    Args:
        queue_state: the state of the queue.
        spec: its spec.
        submission: the submission.
        session: the submitter's.
        now: the time.
        anew: whether it makes a new batch even if its key is taken (`core.uniqueness`).
        after: returns the dependencies of a new batch; called if one is made.

    Returns:
        The batch, and the page that was added to it, if any.

    Raises:
        QueueFull: the number of unfinished tasks has reached its bound.
        EdgesFull: the number of dependencies has reached its bound.
        BatchTooLarge: the batch would have more tasks than a batch may.
        TooLarge: an argument is larger than its bound.
        KeyConflict: the key belongs to a live batch of another function or other options.
        FunctionsFull: the functions of unfinished tasks have reached the bound of their memory.
        UnknownId: there is no such live batch to append to.
        QueueDraining: the queue takes no new batches.
        NotPermitted: another session submits it.
        BadMessage: the page is malformed, or does not continue the batch.
    """
    count = _check_page(queue_state, submission.arguments)
    batch = None if anew else _known(queue_state, spec, submission, session)
    size = 0 if batch is None else batch.size
    new = submission.offset + count - size
    if new > count or submission.offset < 0:
        raise BadMessage(f"the piece begins at {submission.offset}, the batch has {size} tasks")
    adds = batch is None or (new > 0 and not batch.complete)
    asked = after() if after is not None and adds and (batch is None or submission.items) else None
    whole = None if asked is None else asked.size
    if adds and (new > 0 or whole):
        queue_state.room_for(size, whole or new)
    if asked is not None:
        _room_for_edges(queue_state, asked, new=batch is None)  # before anything is changed
    if batch is None:
        batch = _new_batch(queue_state, spec, submission, session, now, asked)
        if whole is not None and asked is not None:
            queue_state.dependencies.elements.fill(batch, whole, asked.gone, now)
    page = None
    if new > 0 and not batch.complete:
        page = _append(queue_state, batch, pages.cut(submission.arguments, count - new, count), new, now, asked)
    if submission.complete and not batch.complete:
        queue_state.seal(batch, now)
    if asked is not None and asked.parents:
        queue_state.dependencies.look_again(batch, now)
    return batch, page


def _check_page(queue_state: QueueState, page: bytes) -> int:
    """How many blobs a page of arguments has that may be added to a batch."""
    count = pages.check(page)
    if count > pages.PAGE_BLOBS:
        raise BadMessage(f"a page holds at most {pages.PAGE_BLOBS} blobs, not {count}")
    if len(page) > queue_state.rules.max_blob:
        largest = pages.largest(page)
        if largest > queue_state.rules.max_blob:
            raise TooLarge("a task's call", largest, queue_state.rules.max_blob)
    return count


def _known(queue_state: QueueState, spec: Spec, submission: Submission, session: str) -> Batch | None:
    if submission.batch is not None:
        batch = queue_state.batches.get(submission.batch)
        if batch is None:
            raise UnknownId(str(submission.batch))
        # The holder of the batch's own key may go on with it; a number can be guessed.
        if batch.session != session and (batch.key is None or batch.key != submission.key):
            raise NotPermitted(f"a piece for batch {batch.number}, which another session submits")
        return batch
    if submission.key is None:
        return None
    if not 0 < len(submission.key) <= MAX_NAME:
        raise BadMessage(f"a key has 1 to {MAX_NAME} characters")
    number = queue_state.keys.get(submission.key)
    if number is None:
        return None
    if not same_call(queue_state.batches[number].spec, submission.called(spec), urgency=False):
        raise KeyConflict(submission.key, number)
    return queue_state.batches[number]


def _new_batch(
    queue_state: QueueState, spec: Spec, submission: Submission, session: str, now: float, after: After | None
) -> Batch:
    if queue_state.draining and spec.options.queue in queue_state.draining:
        raise QueueDraining(spec.options.queue)
    delay_s = check_delay(submission.delay_s)
    entry = queue_state.intern(spec)
    queue_state.last_batch += 1
    batch = Batch(queue_state.last_batch, entry, now)
    options = spec.options
    if submission.limits or submission.label or options.limits or options.label:
        batch.flow = shared_flow(submission.limits or options.limits, submission.label or options.label)
    batch.session = session
    batch.submission = submission.number
    batch.followed = submission.follow
    if submission.key is not None:
        batch.key = submission.key
    if delay_s > 0:
        batch.due_at = now + delay_s
    if after is not None:
        batch.flow = replace(
            batch.flow or BatchFlow(),
            after=after.parents,
            each=after.each,
            run_anyway=after.run_anyway,
            blocked=bool(after.parents),
            why=after.lost,
        )
        batch.frontier = Frontier() if after.each else None
    queue_state.add_batch(batch)
    if submission.conditions is not None:
        wall_moments.note(queue_state, batch, submission.conditions, now)
        start_by.note(queue_state, batch, submission.conditions, now)
    if after is not None:
        queue_state.dependencies.begin(batch)
    queue_state.ledger.batch(batch)  # also if its first piece is empty: its number is about to be told
    return batch


def _room_for_edges(queue_state: QueueState, after: After, *, new: bool) -> None:
    """Check that there is room for the dependencies of a page, and of its batch, if that is new."""
    edges, most = queue_state.dependencies.edges, queue_state.rules.max_edges
    count = sum([len(parents) for _, parents in after.items])
    if new:
        count += len(after.parents) + len(after.each)
    if edges + count > most:
        raise EdgesFull(edges, most)


def _append(
    queue_state: QueueState, batch: Batch, data: bytes, count: int, now: float, after: After | None
) -> ArgumentPage:
    lo, hi = batch.size, batch.size + count
    own = 0
    if after is not None and after.items:
        own = queue_state.dependencies.append(batch, lo, hi, after)
        queue_state.tally.move(batch.queue, None, Move.BLOCKED, own)
        count -= own
    if lo == 0 and batch.due_at is not None and wall_moments.left_s(queue_state, batch, now) <= 0:
        batch.due_at = None  # the due time came before the first task
    batch.size = hi
    queue_state.submitted += hi - lo
    if batch.blocked:
        queue_state.tally.move(batch.queue, None, Move.BLOCKED, count)
    elif batch.due_at is None:
        queue_state.tally.move(batch.queue, None, Move.ACCEPTED, count)
        queue_state.push(batch, lo, hi)
    else:
        queue_state.tally.move(batch.queue, None, Move.DELAYED, count)
        wall_moments.heap_of(queue_state, batch).push(batch.due_at, batch.number, lo, hi)
    page = ArgumentPage(batch=batch.number, lo=lo, hi=hi, data=data)
    queue_state.ledger.page(page)
    queue_state.ledger.batch(batch)
    if own and after is not None:
        queue_state.dependencies.look_at_items(batch, lo, hi, after, now)
    return page


def withdraw(queue_state: QueueState, batch: Batch, now: float) -> None:
    """Remove a batch that could not be made durable, and was never acknowledged: it leaves no trace, even if a
    quick worker has run some of it.
    """
    for lease in [lease for lease in queue_state.leases.values() if lease.batch is batch]:
        queue_state.tally.move(batch.queue, State.RUNNING, Move.WITHDRAWN, lease.hi - lease.lo)
        queue_state.end_lease(lease)
    for task in list((batch.tasks or {}).values()):
        if task.state in WAITING:
            queue_state.tally.move(batch.queue, task.state, Move.WITHDRAWN)
    for state, count in batch.fresh_counts():
        queue_state.tally.move(batch.queue, state, Move.WITHDRAWN, count)
    queue_state.tally.move(batch.queue, State.SUCCEEDED, Move.WITHDRAWN, batch.succeeded)
    queue_state.tally.move(batch.queue, State.DEAD, Move.WITHDRAWN, batch.dead)
    queue_state.tally.move(batch.queue, State.CANCELLED, Move.WITHDRAWN, batch.cancelled)
    queue_state.submitted -= batch.size
    if batch.entry.need is not None:
        queue_state.lines.left += 1
    if batch.finished_at is None:
        queue_state.forget(batch)
    batch.finished_at = None  # for readers that have seen it finish
    queue_state.ledger.withdrawn(batch.number)
    if queue_state.dependencies.awaited:
        queue_state.dependencies.withdrawn(batch, now)
