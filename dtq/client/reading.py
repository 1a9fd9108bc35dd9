"""Reads the results of a batch, in order or as they end.

Client, between the batches and their handles. Arrived results are here, results dropped for want of room are fetched
again from the coordinator, and for the others the reader waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from dtq.client.batches import Batch, Part
from dtq.client.bell import Bell
from dtq.client.current import waiting
from dtq.client.feeds import Feed
from dtq.client.following import NEWS, Following, Wake, add_waiter
from dtq.client.outcomes import error_of
from dtq.client.payloads import result_decoder
from dtq.errors import DtqError, ResultExpired, ValueGone
from dtq.model import pages
from dtq.model.ids import TaskId
from dtq.model.messages import Ended
from dtq.model.options import FunctionKind, Spec
from dtq.model.states import State
from dtq.model.values import weight
from dtq.values.base import Values

#: How many bytes of large results are read at a time.
PIECE_BYTES: Final = 16 << 20


class Source(Protocol):
    """What a reader needs of its client."""

    following: Following

    @property
    def values(self) -> Values | None:
        """Where large results are read."""
        ...

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """Ask for tasks that have ended."""
        ...


def read(
    source: Source, batch: Batch, spec: Spec, feed: Feed | None = None, *, return_exceptions: bool
) -> Iterator[Any]:
    """The results of a batch.

    Args:
        source: the client.
        batch: the batch, which keeps its results (`Batch.keep_results`) and is followed.
        spec: its function.
        feed: where its items still come from, if they do: told how far the reader is.
        return_exceptions: whether an exception is given instead of raised.

    Raises:
        Exception: of a task without a result, when its turn comes; or what ended the making of items, last.
        DtqError: nothing more will be known (the submission was refused, the client has ended).
    """
    kind = spec.function.kind
    at = 0
    while parts := _next(source, batch, at):
        for part in chain.from_iterable(map(pieces, parts)):
            single = batch.complete and batch.size == 1
            values, failure = values_of(part, single, kind, source.values, return_exceptions)
            yield from values
            if failure is not None:
                raise failure
            at = part.hi
            if feed is not None:
                feed.taken += part.hi - part.lo
                feed.room.ring()
    if feed is not None and feed.failure is not None:
        raise feed.failure


def pieces(part: Part) -> Iterator[Part]:
    """A part in pieces whose results, read where they lie, take little memory, or are one that takes much."""
    lo, hi, ended = part
    if not pages.has_descriptions(ended.results):
        yield part
        return
    room = PIECE_BYTES
    for at, blob in enumerate(pages.unpack(pages.cut(ended.results, part.lo - ended.lo, hi - ended.lo)), part.lo):
        room -= weight(blob)
        if room < 0 and at > lo:
            yield part._replace(lo=lo, hi=at)
            lo, room = at, PIECE_BYTES - weight(blob)
    yield part._replace(lo=lo)


def values_of(
    part: Part,
    single: bool,
    kind: FunctionKind,
    where: Values | None,
    return_exceptions: bool,
    standard: bool = False,
) -> tuple[list[Any], BaseException | None]:
    """The results of a part, up to the first that raises; and what it raises.

    Args:
        part: the part.
        single: whether it is all of its batch, and just one task.
        kind: the kind of function whose results they are.
        where: where large ones are read.
        return_exceptions: whether exceptions are given instead of raised.
        standard: see `error_of`.
    """
    lo, hi, ended = part
    values: list[Any] = []
    if not ended.results:
        failures = (error_of(ended, str(TaskId(ended.batch, index, single)), standard) for index in range(lo, hi))
        return ([], next(failures)) if not return_exceptions else (list(failures), None)
    decoder = result_decoder(kind, where if pages.has_descriptions(ended.results) else None)
    for blob in pages.unpack(pages.cut(ended.results, lo - ended.lo, hi - ended.lo)):
        try:
            values.append(decoder(blob))
        except DtqError as raised:
            gone = isinstance(raised, ValueGone)
            error = ResultExpired(str(TaskId(ended.batch, lo + len(values), single))) if gone else raised
            if not return_exceptions:
                return values, error
            values.append(error)
    return values, None


def _next(source: Source, batch: Batch, at: int) -> list[Part]:
    """What comes next; nothing at the end."""
    while True:
        bell = Bell()
        found = look(source.following, batch, at, bell.ring)
        if found.far is not None:
            return fetch(source, batch, *found.far)
        if found.part is not None:
            return [found.part]
        if found.over:
            return []
        with waiting():
            bell.wait()


class Found(NamedTuple):
    """What there is to be read: a part that is here, or a range to be fetched, or the end; or nothing of these, yet."""

    part: Part | None = None
    far: tuple[int, int] | None = None
    over: bool = False


def look(following: Following, batch: Batch, at: int, wake: Wake) -> Found:
    """What comes next of a batch that is being read.

    Args:
        following: has the lock.
        batch: the batch.
        at: where the reader is, if it reads in order.
        wake: called when it is worth another look, where there is nothing yet.

    Raises:
        DtqError: nothing more will be known.
    """
    with following.lock:
        part = batch.take(at) if batch.ordered else batch.take_any()
        if part is not None:
            return Found(part=part)
        far = batch.far_from(at) if batch.ordered else batch.far_any()
        if far is not None:
            return Found(far=far)
        if batch.finished:
            return Found(over=True)
        if batch.error is not None:
            raise batch.error
        add_waiter(batch, NEWS, wake)
    return Found()


def fetch(source: Source, batch: Batch, lo: int, hi: int) -> list[Part]:
    """Results that were let go, as many as the coordinator gives at once; at least the first of them."""
    parts: list[Part] = []
    at = lo
    for ended in source.results(batch.number, lo, hi):
        if ended.lo > at:
            break
        parts.append(Part(max(at, ended.lo), min(hi, ended.hi), ended))
        at = parts[-1].hi
    if not parts:  # they had ended, but are no longer kept
        parts.append(Part(lo, lo + 1, Ended(batch=batch.number, lo=lo, hi=lo + 1, state=State.SUCCEEDED)))
        at = lo + 1
    if not batch.ordered:
        with source.following.lock:
            batch.put_far(at, hi)
    return parts
