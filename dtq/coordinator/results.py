"""Ends of tasks: their results, or the reasons why they have none, as many as one answer carries.

Everything here is made piece by piece, and no more than goes into the answer: neither a message nor the coordinator's
memory ever holds all the gathered results.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from dtq.coordinator import queries
from dtq.coordinator.attempt_output import with_output
from dtq.coordinator.service import Coordinator
from dtq.core.changes import ResultPage
from dtq.core.ledger import EndedRange
from dtq.errors import TooLarge
from dtq.model import pages
from dtq.model.messages import ANSWER_ENVELOPE, Ended, Failure, Watched
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from dtq.model.weight import slim, weight
from dtq.records import replace

#: Approximate bytes of an end in an answer beside its results.
_OVERHEAD = 200
#: End of a dead letter of which nothing else is known.
_PURGED = Failure(message="it was a dead letter, which was thrown away")


def results(c: Coordinator, number: int, lo: int, hi: int, inline: int = 0) -> list[Ended]:
    """See `Service.results`.

    Args:
        c: the coordinator.
        number: the batch.
        lo: index of the first task.
        hi: index after the last.
        inline: see `Hello.inline`.
    """
    lo, hi = max(0, lo), min(hi, queries.batch(c, number).size)
    found: list[Ended] = []
    room = c.setup.answer_bytes
    for ended in how_ended(c, number, lo, hi):
        if inline:
            ended = _with_values(c, ended, inline, room)
        room -= _weight(ended)
        if room < 0 and found:
            break
        found.append(ended)
    queries.settle(c)  # results that have arrived since the batch was looked up are answered once they are durable
    return found


def watched(c: Coordinator, cursor: int, ended: list[tuple[int, EndedRange]], inline: int = 0) -> Watched:
    """The answer for ended ranges, and the cursor behind it.

    Args:
        c: the coordinator; not under its lock.
        cursor: the client's cursor.
        ended: the ranges, each with the cursor behind it.
        inline: see `Hello.inline`.
    """
    told: list[Ended] = []
    room = c.setup.answer_bytes
    for upto, run in ended:
        for piece in _at_once(c, run) or _described(c, run):
            if inline:
                piece = _with_values(c, piece, inline, room)
            room -= _weight(piece)
            if room < 0 and told:
                return Watched(cursor=cursor, ended=tuple(told))
            told.append(piece)
            cursor = upto - (run.hi - piece.hi)
    return Watched(cursor=cursor, ended=tuple(told))


def _at_once(c: Coordinator, run: EndedRange) -> tuple[Ended, ...]:
    """A range whose results arrived as one page that is still cached, as nearly all are; else nothing."""
    if run.state is not State.SUCCEEDED or c.committer.stuck is not None:
        return ()
    page = c.cache.held(ResultPage, run.batch, run.lo)
    if page is None or page.lo != run.lo or page.hi != run.hi or len(page.data) > c.setup.answer_bytes:
        return ()
    return (Ended(batch=run.batch, lo=run.lo, hi=run.hi, state=State.SUCCEEDED, results=page.data),)


def _with_values(c: Coordinator, ended: Ended, most: int, room: int) -> Ended:
    """Results with the smaller ones of their values inline, as far as an answer has room for them."""
    if c.values is None or not pages.has_descriptions(ended.results):
        return ended
    return replace(ended, results=c.values.put_in(ended.results, most, room))


def _weight(ended: Ended) -> int:
    return len(ended.results) + (weight(ended.failure) if ended.failure is not None else 0) + _OVERHEAD


def how_ended(c: Coordinator, number: int, lo: int, hi: int) -> Iterator[Ended]:
    """The ends of tasks ``[lo, hi)``, in rising order; unfinished tasks are left out."""
    while lo < hi:
        end = min(hi, lo + pages.PAGE_BLOBS)
        for run in _without_result(c, number, lo, end):
            yield from succeeded(c, number, lo, run.lo)
            lo = max(lo, run.lo)
            yield from _described(c, EndedRange(number, lo, min(run.hi, hi), run.state, "", run.why))
            lo = min(run.hi, hi)
        if lo < end:
            yield from succeeded(c, number, lo, end)
            lo = end


def _without_result(c: Coordinator, number: int, lo: int, hi: int) -> list[EndedRange]:
    """The tasks in a range that ended without a result, or more: a run that overlaps the range is returned whole."""
    ids = tuple((number, index) for index in range(lo, hi))
    return sorted(
        (
            EndedRange(number, run.lo, run.hi, run.state, "", run.why)
            for state in (State.DEAD, State.CANCELLED)
            for run in c.engine.ended(Selection(ids=ids, state=state, limit=0), c.clock.now())
        ),
        key=attrgetter("lo"),
    )


def _described(c: Coordinator, run: EndedRange) -> Iterator[Ended]:
    """The ends of tasks that ended alike, all of them in rising order, with their results or the reason."""
    if run.state is State.SUCCEEDED:
        at = run.lo
        for ended in succeeded(c, run.batch, run.lo, run.hi):
            if ended.lo > at:
                yield Ended(batch=run.batch, lo=at, hi=ended.lo, state=run.state)  # no longer kept
            yield ended
            at = ended.hi
        if at < run.hi:
            yield Ended(batch=run.batch, lo=at, hi=run.hi, state=run.state)
    elif run.state is State.CANCELLED:
        failure = Failure(message=run.why) if run.why else None
        yield Ended(batch=run.batch, lo=run.lo, hi=run.hi, state=run.state, failure=failure)
    else:
        for index in range(run.lo, run.hi):
            yield _dead(c, run.batch, index)


def purged(c: Coordinator, number: int, index: int) -> Ended | None:
    """The end of a task that is in no final state any more because its dead letter was purged; None if its batch had
    none.
    """
    batch = next(iter(c.engine.batches([number])), None)
    if batch is None or not batch.row.purged:
        return None
    ended = _dead(c, number, index)
    return ended if ended.failure is not None else replace(ended, outcome=Outcome.FAILED, failure=_PURGED)


def _dead(c: Coordinator, number: int, index: int) -> Ended:
    found = with_output(c.engine, number, index, c.engine.attempts(number, index, first=-1))
    last = found[0] if found else None
    return Ended(
        batch=number,
        lo=index,
        hi=index + 1,
        state=State.DEAD,
        outcome=last.outcome if last is not None else None,
        failure=slim(last.failure, c.setup.max_message - ANSWER_ENVELOPE) if last is not None else None,
    )


def succeeded(c: Coordinator, number: int, lo: int, hi: int) -> Iterator[Ended]:
    """The results of tasks ``[lo, hi)`` that have one, in rising order."""
    room = c.setup.answer_bytes
    while lo < hi:
        # Unwritable results are in the cache only; they are not answered before they are durable.
        find = c.cache.find if c.committer.stuck is None else c.engine.pages
        found = find(ResultPage, number, lo, hi, room)
        if not found:
            return
        for page in found:
            yield from _pieces(c, page, max(lo, page.lo), min(hi, page.hi))
        lo = found[-1].hi


def _pieces(c: Coordinator, page: ResultPage, lo: int, hi: int) -> Iterator[Ended]:
    """The results ``[lo, hi)`` of a page, in pieces that fit into answers."""
    room, largest = c.setup.answer_bytes, c.setup.max_message - ANSWER_ENVELOPE
    while lo < hi:
        fit = pages.fitting(page.data, lo - page.lo, hi - page.lo, room) + page.lo
        end = max(lo + 1, fit)
        data = pages.cut(page.data, lo - page.lo, end - page.lo)
        if len(data) <= largest:
            yield Ended(batch=page.batch, lo=lo, hi=end, state=State.SUCCEEDED, results=data)
        else:  # stored when messages could be larger
            error = TooLarge("the result", len(data), largest)
            failure = Failure(exception=f"{TooLarge.__module__}.TooLarge", message=str(error))
            yield Ended(batch=page.batch, lo=lo, hi=end, state=State.SUCCEEDED, failure=failure)
        lo = end
