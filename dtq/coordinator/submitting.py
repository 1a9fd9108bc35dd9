"""Accepts submissions; answers repeats from memory or, if the batch has finished, from the store.

The machine knows live batches; finished ones are in the store. So submissions that may have been accepted before are
looked up there first, outside of the lock; the queue's state notes batches that finish during the look-up, so that none
is missed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from dtq.coordinator.awaiting import Parents, after_of, of_call, same_parents, waited_for
from dtq.coordinator.committer import Generation
from dtq.coordinator.sameness import same_arguments
from dtq.coordinator.service import LONGEST_WAIT_S, Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.coordinator.vetting import submissions as vetting_of
from dtq.core import uniqueness
from dtq.core.batches import Batch
from dtq.core.changes import ArgumentPage, BatchFlow
from dtq.core.parents import After
from dtq.core.uniqueness import Holder
from dtq.errors import BadMessage, DtqError, InvalidValue, KeyConflict, QueueFull, StoreDamaged, ValueDamaged, to_wire
from dtq.model import pages, values
from dtq.model.fields import MAX_SUBMISSIONS
from dtq.model.messages import ANSWER_ENVELOPE, Conflict, Receipt, RefusedSubmission, Submission
from dtq.model.options import Spec, same_call
from dtq.model.weight import weight
from dtq.records import replace

#: Least bytes of a message for each submission's receipt. And the characters of a reason that is cut short, and the
#: number of its parts: with these, a receipt fits.
_RECEIPT: Final = 512
_BRIEF: Final = 40
_FEW_DETAILS: Final = 2
#: Most bytes of arguments that are read for a comparison.
_DESCRIBED: Final = 16 << 20
#: A batch that may answer a submission: its number, size and spec.
Found = tuple[int, int, Spec]
#: A repeated submission's batch is looked for among so many batches with its key, the latest.
_LATEST: Final = 1_000


class _Known:
    """Facts about the submissions of one call, gathered before the lock was taken to accept them."""

    def __init__(self, parents: Parents) -> None:
        self.parents = parents
        #: Receipts of the submissions so far.
        self.receipts: list[Receipt] = []
        #: Named live batches, by place in the call: they may finish before the call goes on.
        self.live: dict[int, Batch] = {}
        #: Finished batches in the store, by place.
        self.stored: dict[int, Found] = {}
        #: By place, the batch that has the submission's key, and whether the two were found equal.
        self.same: dict[int, tuple[int, bool]] = {}
        #: Acceptance times of batches in the store that have a key.
        self.submitted_at: dict[int, float] = {}
        #: And their rare fields, by their numbers.
        self.flows: dict[int, BatchFlow | None] = {}
        #: Finished batches that were made of these very submissions, whose call is repeated.
        self.own: dict[int, Found] = {}
        #: By key, batches that have finished since the store was read.
        self.finished: dict[str, Batch] = {}

    def answer(self, place: int, submission: Submission) -> Found | None:
        """The finished batch that answers a submission, if any."""
        batch = self.live.get(place)
        if submission.batch is None and submission.key is not None:
            batch = self.finished.get(submission.key, batch)
        if batch is not None and batch.finished_at is not None:
            return batch.number, batch.size, batch.spec
        return self.stored.get(place)

    def flow(self, number: int) -> BatchFlow | None:
        """A finished batch's rare fields."""
        ended = [batch for batch in (*self.finished.values(), *self.live.values()) if batch.number == number]
        return ended[0].flow if ended else self.flows.get(number)

    def holder(self, place: int, submission: Submission) -> Holder | None:
        """The finished batch that has a submission's key, if any."""
        answer = self.answer(place, submission)
        if answer is None:
            return None
        for batch in (self.finished.get(submission.key or ""), self.live.get(place)):
            if batch is not None and batch.number == answer[0]:
                submitted_at = batch.submitted_at
                break
        else:
            submitted_at = self.submitted_at[place]
        return Holder(number=answer[0], submitted_at=submitted_at, live=False, started=True)


def submit(
    c: Coordinator, state: SessionState, specs: list[Spec], submissions: list[Submission], repeated: bool
) -> list[Receipt]:
    """Accept submissions durably; see `Service.submit`."""
    most = min(MAX_SUBMISSIONS, c.setup.max_message // _RECEIPT)
    if len(submissions) > most:
        raise InvalidValue("submissions", len(submissions), f"a call has at most {most}")
    if submissions and submissions[0].wait_s > 0 and not repeated:
        _await_room(c, submissions[0])
    refused, vetting = vetting_of(c, state, specs, submissions)
    try:
        if vetting is not None:
            vetting.sync()
        receipts = _submit(c, state, specs, submissions, repeated, refused)
    finally:
        if vetting is not None:
            vetting.close()
    return _told_briefly(receipts, c.setup.max_message - ANSWER_ENVELOPE)


def _submit(
    c: Coordinator,
    state: SessionState,
    specs: list[Spec],
    submissions: list[Submission],
    repeated: bool,
    refused: dict[int, DtqError],
) -> list[Receipt]:
    """Accept submissions durably, except those that are refused already."""
    awaited, over = waited_for(s for s in submissions if s.conditions is not None or s.items)
    known = _Known(Parents(c))
    ready = known.parents.locked(awaited, over) if awaited or over else c.lock
    with _looked_up(c, state, submissions, repeated, known), ready:
        c.refuse_if_stopping()
        c.committer.refuse_if_in_trouble()
        now = c.clock.now()
        made: dict[int, Batch] = {}
        receipts = known.receipts
        full: QueueFull | None = None
        for place, submission in enumerate(submissions):
            receipt = _remembered(state, submission, repeated)
            before = refused.get(place, full if submission.wait_s > 0 else None)  # it would overtake those before it
            if receipt is None and before is not None:
                receipt = _refusal(before)
            if receipt is None:
                try:
                    receipt = _accept(c, state, specs, place, submission, known, made, now)
                except DtqError as error:
                    receipt = _refusal(error)
                    if isinstance(error, QueueFull) and submission.wait_s > 0:
                        full = error.with_traceback(None)  # it would keep this frame alive, and with it the error
            receipts.append(replace(receipt, earlier=False) if repeated and receipt.earlier else receipt)
        state.receipts = {s.number: receipt for s, receipt in zip(submissions, receipts, strict=True)}
        if repeated:
            state.repeated = max(state.receipts, default=state.repeated)
        ticket = under_way(c, made, now)
        if any(s.conditions is not None and s.conditions.on_conflict is Conflict.REPLACE for s in submissions):
            c.tell_cancelled()
    c.committer.settle(ticket)
    return receipts


def under_way(c: Coordinator, made: dict[int, Batch], now: float) -> Generation | None:
    """Grant the tasks of new batches, and have the batches committed; returns the generation to wait for. Under the
    lock.
    """
    c.dispatch(now)
    c.ticker.by(c.machine.queue_state.waiting.next_at())
    c.ticker.by(c.machine.queue_state.start_moments.next_at())
    if c.machine.on_wall:
        c.ticker.by(c.next_on_wall())
    ticket = c.committer.ticket()
    if ticket is not None and made and c.committer.waits:
        c.uncommitted.setdefault(ticket, []).extend(made.values())
    return ticket


def _told_briefly(receipts: list[Receipt], room: int) -> list[Receipt]:
    """The receipts, in at most this many bytes: if many are refused, the reasons are cut short."""
    if not any(receipt.code for receipt in receipts) or weight(receipts) <= room:
        return receipts
    return [
        replace(receipt, details=tuple(d[:_BRIEF] if isinstance(d, str) else d for d in receipt.details[:_FEW_DETAILS]))
        for receipt in receipts
    ]


def _await_room(c: Coordinator, submission: Submission) -> None:
    """Wait until a full queue has room for a submission, for as long as the submission allows; outside of the lock."""
    needed = pages.count(submission.arguments) or _size_over(c, submission)
    queue_state = c.machine.queue_state
    if needed <= queue_state.room or needed > queue_state.rules.max_tasks:
        return
    with c.lock:
        if needed <= queue_state.room or c.stopping:
            return
        here = needed, threading.Event()
        c.held.append(here)
    if not here[1].wait(min(LONGEST_WAIT_S, submission.wait_s)):
        with c.lock:
            if here in c.held:
                c.held.remove(here)
                c.let_in()  # those behind it may need less room


def _size_over(c: Coordinator, submission: Submission) -> int:
    """Number of tasks of a map over batches; 0 for another submission."""
    numbers = [] if submission.conditions is None else [number for number, _ in submission.conditions.each]
    return min([stored.row.size for stored in c.engine.batches(numbers)], default=0) if numbers else 0


def _remembered(state: SessionState, submission: Submission, repeated: bool) -> Receipt | None:
    """The earlier answer to a repeated submission."""
    if not repeated and (state.repeated is None or submission.number > state.repeated):
        return None
    receipt = state.receipts.get(submission.number)
    if receipt is None and not repeated:
        # Its call was cut, and was repeated on another connection while this original waited here.
        return _refusal(BadMessage(f"submission {submission.number} was overtaken by its repetition"))
    return receipt


def _refusal(error: DtqError) -> Receipt:
    code, details = to_wire(error)
    return Receipt(batch=0, size=0, code=code, details=details)


def _accept(
    c: Coordinator,
    state: SessionState,
    specs: list[Spec],
    place: int,
    submission: Submission,
    known: _Known,
    made: dict[int, Batch],
    now: float,
) -> Receipt:
    if isinstance(submission, RefusedSubmission):
        raise BadMessage(submission.why)
    if not 0 <= submission.spec < len(specs):
        raise InvalidValue("a spec", submission.spec, f"the call has {len(specs)}")
    spec = specs[submission.spec]
    receipt = None
    after = _after(place, submission, known, made)
    if submission.conditions is not None and submission.conditions.at is not None:
        c.look_at_wall(now)
    if submission.conditions is not None and submission.key is not None and submission.batch is None:
        receipt = _accept_unique(c, state, spec, place, submission, known, made, now, after)
    if receipt is None:
        receipt = _found(c, spec, place, submission, known)
    if receipt is None:
        last = c.machine.queue_state.last_batch
        accepted = c.machine.submit(spec, submission, state.hello.session, now, after=after)
        receipt = _accepted(c, *accepted, made, last)
    return receipt


def _after(place: int, submission: Submission, known: _Known, made: dict[int, Batch]) -> Callable[[], After] | None:
    """A function that returns the dependencies of a submission; None without any."""
    conditions = submission.conditions
    if not submission.items and (conditions is None or not (conditions.after or conditions.each)):
        return None
    if conditions is not None and conditions.each and (submission.offset or pages.count(submission.arguments)):
        raise BadMessage("a map over what others return has no arguments, and is not submitted in pieces")
    if any(at >= pages.count(submission.arguments) for at, _ in submission.items):
        raise BadMessage("a task that waits by itself is not in the page")
    return partial(after_of, known.parents, place, submission, known.receipts, made)


def _found(c: Coordinator, spec: Spec, place: int, submission: Submission, known: _Known) -> Receipt | None:
    """The finished batch's answer; None without such a batch.

    Raises:
        KeyConflict: the submission's key belongs to another batch.
    """
    queue_state = c.machine.queue_state
    if not _is_live(c, submission):
        answer = known.answer(place, submission)
        if answer is not None:
            number, size, its_spec = answer
            named = submission.batch is None and submission.key is not None
            if named and not same_call(its_spec, submission.called(spec), urgency=False):
                raise KeyConflict(submission.key, number)
            _refuse_another(c, known, place, submission, number, size)
            return Receipt(batch=number, size=size, earlier=True)
    elif submission.batch is None and submission.key is not None:
        taken = queue_state.batches[queue_state.keys[submission.key]]
        if same_call(taken.spec, submission.called(spec), urgency=False):
            _refuse_another(c, known, place, submission, taken.number, taken.size)
    return None


def _accepted(c: Coordinator, batch: Batch, page: ArgumentPage | None, made: dict[int, Batch], last: int) -> Receipt:
    if batch.number > last:
        made[batch.number] = batch
    if page is not None:
        c.cache.add([page])
    return Receipt(batch=batch.number, size=batch.size, earlier=batch.number <= last)


def _accept_unique(
    c: Coordinator,
    state: SessionState,
    spec: Spec,
    place: int,
    submission: Submission,
    known: _Known,
    made: dict[int, Batch],
    now: float,
    after: Callable[[], After] | None,
) -> Receipt | None:
    """Accept the first piece of a batch that has a key and conditions (`core.uniqueness`).

    Returns:
        Its receipt; None if the batch that has the key answers it.

    Raises:
        DtqError: it is refused.
    """
    session, queue_state = state.hello.session, c.machine.queue_state
    last = queue_state.last_batch
    if place in known.own:
        number, size, _ = known.own[place]
        if number not in queue_state.batches:
            return Receipt(batch=number, size=size, earlier=True)
        batch, page = c.machine.submit(spec, replace(submission, batch=number), session, now)
        return _accepted(c, batch, page, made, last)
    live = queue_state.keys.get(submission.key or "")
    holder = known.holder(place, submission) if live is None else uniqueness.holder_of(queue_state.batches[live])
    at_once = not c.committer.waits or (holder is not None and holder.number in made)
    accepted = uniqueness.submit(c.machine, spec, submission, session, holder, now, after, at_once=at_once)
    return None if accepted is None else _accepted(c, *accepted, made, last)


def _refuse_another(c: Coordinator, known: _Known, place: int, submission: Submission, number: int, size: int) -> None:
    """Make sure that a submission whose key is taken has the same arguments as the batch that has it.

    Raises:
        KeyConflict: the arguments differ.
    """
    if submission.batch is None and submission.key is not None:
        compared, same = known.same.get(place, (0, False))
        if compared != number:  # it is as new as this call, and its arguments are in memory
            same = _is_same(c, submission, number, size)
        if not same or not _waits_for_same(c, known, place, submission, number):
            raise KeyConflict(submission.key, number)


def _waits_for_same(c: Coordinator, known: _Known, place: int, submission: Submission, number: int) -> bool:
    """Whether a submission and a batch have the same parents."""
    conditions, live = submission.conditions, c.machine.queue_state.batches.get(number)
    flow = live.flow if live is not None else known.flow(number)
    theirs = () if flow is None else flow.after
    ours = () if conditions is None else of_call(place, conditions, known.receipts)
    if not ours and not theirs:
        return True
    run_anyway = conditions is not None and conditions.run_anyway
    return same_parents(c, ours, theirs) and (flow is not None and flow.run_anyway) == run_anyway


def _is_same(c: Coordinator, submission: Submission, number: int, size: int) -> bool:
    """Whether a submission and a batch have the same arguments, as far as both go. Arguments that the store has lost,
    or finds damaged, are not compared.
    """
    lo, count = submission.offset, pages.count(submission.arguments)
    if submission.conditions is not None and submission.conditions.each:
        return _is_over(c, number) == submission.conditions.each
    if submission.complete and (size < lo or (size != count if lo == 0 else size > lo + count)):
        return False
    try:
        for page in c.cache.find(ArgumentPage, number, lo, min(size, lo + count)):
            first, end = max(lo, page.lo), min(size, lo + count, page.hi)
            theirs = pages.unpack(pages.cut(page.data, first - page.lo, end - page.lo))
            ours = pages.unpack(pages.cut(submission.arguments, first - lo, end - lo))
            if not all(map(partial(_are_same, c), theirs, ours)):
                return False
    except (StoreDamaged, ValueDamaged, LookupError):
        pass
    return True


def _is_over(c: Coordinator, number: int) -> tuple[tuple[int, bool], ...]:
    """The batches that one is over."""
    live = c.machine.queue_state.batches.get(number)
    flow = live.flow if live is not None else next((s.row.flow for s in c.engine.batches([number])), None)
    return () if flow is None else tuple([(parent, is_json) for parent, _, is_json in flow.each])


def _are_same(c: Coordinator, one: bytes, other: bytes) -> bool:
    """Whether two blobs hold equal arguments, as far as that can be told."""
    described = values.is_description(one), values.is_description(other)
    if one == other or not any(described) or c.values is None:
        return same_arguments(one, other)
    if not all(described):
        return False
    ours, theirs = values.named(one), values.named(other)
    if len(ours) != len(theirs) or not same_arguments(values.rest(one), values.rest(other)):
        return False
    if all(map(c.values.are_same, ours, theirs)):
        return True
    # They may be pickled differently, as long as no values lie beside the pickles.
    large = max(ours[0].length, theirs[0].length) > _DESCRIBED or ours[0].trailer or theirs[0].trailer
    if large or len(ours) > 1 or values.rest(one):
        return False
    return same_arguments(c.values.content(ours[0]), c.values.content(theirs[0]))


def _is_live(c: Coordinator, submission: Submission) -> bool:
    queue_state = c.machine.queue_state
    if submission.batch is not None:
        return submission.batch in queue_state.batches
    return submission.key is not None and submission.key in queue_state.keys


@contextmanager
def _looked_up(
    c: Coordinator, state: SessionState, submissions: list[Submission], repeated: bool, known: _Known
) -> Iterator[None]:
    """Look up the finished batches that may answer; entered and left outside of the lock."""
    asked = [(place, s) for place, s in enumerate(submissions) if repeated or s.key is not None or s.batch is not None]
    if not asked:
        yield
        return
    queue_state = c.machine.queue_state
    with c.lock:
        # A repeat's batch may be another than the live one that has its key.
        unsure = {at for at, s in asked if repeated and s.conditions is not None}
        missing = [(at, s) for at, s in asked if not _note_live(c, known, at, s) or at in unsure]
        queue_state.key_watchers.append(known.finished)
    try:
        if missing:
            c.flush()
            _note_stored(c, state, known, missing)
            for place, submission in missing:
                if place in unsure:
                    _note_own(c, state, known, place, submission)
        for place, submission in asked:
            _compare(c, known, place, submission)
        yield
    finally:
        with c.lock:
            queue_state.key_watchers = [other for other in queue_state.key_watchers if other is not known.finished]


def _compare(c: Coordinator, known: _Known, place: int, submission: Submission) -> None:
    if submission.key is None or submission.batch is not None or isinstance(submission, RefusedSubmission):
        return
    if submission.conditions is not None and submission.conditions.on_conflict is not Conflict.EXISTING:
        return
    live = known.live.get(place)
    if live is not None:
        known.same[place] = live.number, _is_same(c, submission, live.number, live.size)
    elif place in known.stored:
        number, size, _ = known.stored[place]
        known.same[place] = number, _is_same(c, submission, number, size)


def _note_live(c: Coordinator, known: _Known, place: int, submission: Submission) -> bool:
    queue_state = c.machine.queue_state
    number = submission.batch
    if number is None and submission.key is not None:
        number = queue_state.keys.get(submission.key)
    batch = queue_state.batches.get(number) if number is not None else None
    if batch is not None:
        known.live[place] = batch
    return batch is not None


def _note_stored(c: Coordinator, state: SessionState, known: _Known, missing: list[tuple[int, Submission]]) -> None:
    numbers = [submission.batch for _, submission in missing if submission.batch is not None]
    keys = {place: _key_of(state, submission) for place, submission in missing if submission.batch is None}
    by_number = {stored.row.batch: stored for stored in c.engine.batches(numbers)} if numbers else {}
    by_key = {stored.row.key: stored for stored in c.engine.batches(keys=list(keys.values()))} if keys else {}
    for place, submission in missing:
        if submission.batch is not None:
            stored = by_number.get(submission.batch)
        else:
            stored = by_key.get(keys[place])
            if stored is not None and stored.row.user_key is (submission.key is None):
                stored = None
        if stored is not None:
            known.stored[place] = stored.row.batch, stored.row.size, stored.spec
            known.submitted_at[place] = stored.row.submitted_at
            known.flows[stored.row.batch] = stored.row.flow


def _key_of(state: SessionState, submission: Submission) -> str:
    """The key that a batch of a submission has in the store."""
    return submission.key if submission.key is not None else f"{state.hello.session}/{submission.number}"


def _note_own(c: Coordinator, state: SessionState, known: _Known, place: int, submission: Submission) -> None:
    """Note the batch that was made of a submission whose call is repeated, if its key alone does not identify it."""
    for stored in c.engine.batches(keys=[submission.key], most=_LATEST) if submission.key is not None else ():
        row = stored.row
        if row.session == state.hello.session and row.flow is not None and row.flow.submission == submission.number:
            known.own[place] = row.batch, row.size, stored.spec
