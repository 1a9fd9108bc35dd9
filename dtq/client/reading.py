"""Reads the results of a batch, in order or as they end.

Client, between the batches and their handles. Arrived results are here, results dropped for want of room are fetched
again from the coordinator, and for the others the reader waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from dtq.client.batch_uploads import BatchUpload
from dtq.client.batches import Batch, Part
from dtq.client.current import waiting
from dtq.client.following import NEWS, Following, Wake, add_waiter
from dtq.client.outcomes import error_of
from dtq.client.payloads import result_decoder
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import DtqError, ResultExpired, ValueGone
from dtq.model import pages
from dtq.model.ids import TaskId
from dtq.model.messages import Ended
from dtq.model.options import FunctionKind, Spec
from dtq.model.states import State
from dtq.model.values import weight
from dtq.values.base import Values

#: Bytes of large results that are read at a time.
PIECE_BYTES: Final = 1 << 20


class Source(Protocol):
    """A reader's view of its client."""

    following: Following

    @property
    def values(self) -> Values | None:
        """Reads large results."""
        ...

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """Fetch ended tasks."""
        ...


def read(
    source: Source, batch: Batch, spec: Spec, feed: BatchUpload | None = None, *, return_exceptions: bool
) -> Iterator[Any]:
    """The results of a batch.

    Args:
        source: the client.
        batch: the batch, which keeps its results (`Batch.keep_results`) and is followed.
        spec: its function.
        feed: the feed of its further items, if any: told the reader's position.
        return_exceptions: whether an exception is yielded instead of raised.

    Raises:
        Exception: of a task without a result, at its turn; or the one that ended the making of items, last.
        DtqError: the submission was refused, or the client has ended.
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


def read_numbered(source: Source, batch: Batch, spec: Spec) -> Iterator[tuple[int, Any]]:
    """The results of a batch with their tasks' indices; exceptions in the place of missing ones.

    Args:
        source, batch, spec: as for `read`.

    Raises:
        DtqError: as `read`.
    """
    at = 0
    while parts := _next(source, batch, at):
        for part in chain.from_iterable(map(pieces, parts)):
            single = batch.complete and batch.size == 1
            values, _ = values_of(part, single, spec.function.kind, source.values, True)
            yield from zip(range(part.lo, part.hi), values, strict=True)
            at = part.hi


def pieces(part: Part) -> Iterator[Part]:
    """A part in pieces that take little memory when read from their places, or hold one large result."""
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
    """The results of a part, up to the first that raises; and its exception.

    Args:
        part: the part.
        single: whether it is all of its batch, and just one task.
        kind: the function's kind.
        where: reads large ones.
        return_exceptions: whether exceptions are returned instead of raised.
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
    """The next part; None at the end."""
    while True:
        wakeup = ThreadWakeup()
        found = look(source.following, batch, at, wakeup.ring)
        if found.far is not None:
            return fetch(source, batch, *found.far)
        if found.part is not None:
            return [found.part]
        if found.over:
            return []
        with waiting():
            wakeup.wait()


class Found(NamedTuple):
    """The next thing to read: a part that is here, a range to be fetched, or the end; or none of these, yet."""

    part: Part | None = None
    far: tuple[int, int] | None = None
    over: bool = False


def look(following: Following, batch: Batch, at: int, wake: Wake) -> Found:
    """The next part of a batch that is being read.

    Args:
        following: has the lock.
        batch: the batch.
        at: the reader's position, if it reads in order.
        wake: callback for when there may be a part, if there is none yet.

    Raises:
        DtqError: the client will learn no more about it.
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
    """Dropped results, as many as the coordinator returns at once; at least the first of them."""
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
