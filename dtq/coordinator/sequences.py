"""All results of a batch as one input of a function: in the call if they are few, else as one value.

They are read a page at a time, and written to the value as they are read; so the coordinator never holds all of them.
The value is made once, and held in the name of the batches that take it until these have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.results import how_ended, purged, succeeded
from dtq.coordinator.service import Coordinator
from dtq.core.batches import Batch
from dtq.core.parents import holder_of
from dtq.errors import ResultExpired, TooLarge
from dtq.model import pages
from dtq.model.fields import MAX_SECONDS
from dtq.model.ids import TaskId
from dtq.model.inputs import (
    INPUTS,
    RESULT,
    SEQUENCE_MARK,
    SEQUENCE_PAGE,
    failure_input,
    offsets_in,
    sequence_input,
)
from dtq.model.messages import Ended
from dtq.model.states import State
from dtq.model.values import MAX_VALUES, MIN_VALUE, Value, describe, named
from dtq.values.base import Draft

#: Most bytes of results in a call, if the coordinator keeps no values.
_MOST_INLINE: Final = 1 << 20


class _Body:
    """The body of a sequence: kept in memory as long as it is small, then written into a value.

    Args:
        c: the coordinator.
    """

    def __init__(self, c: Coordinator) -> None:
        self._values = c.values
        self._parts: list[bytes] = []
        self.length = 0
        self.draft: Draft | None = None

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            TooLarge: the body is too large for a call, and cannot be a value.
            DtqError: it cannot be written.
        """
        self.length += len(data)
        if self.draft is None and self.length >= MIN_VALUE and self._values is not None:
            self.draft = self._values.draft()
            for part in self._parts:
                self.draft.write(part)
            self._parts = []
        if self.draft is not None:
            self.draft.write(data)
            return
        if self.length > _MOST_INLINE:
            raise TooLarge("what a batch has returned", self.length, _MOST_INLINE)
        self._parts.append(data)

    def joined(self) -> bytes:
        """The whole body, if it is no value."""
        return b"".join(self._parts)


def sequence(c: Coordinator, batch: Batch, number: int) -> bytes:
    """The input that is all results of a batch.

    Args:
        c: the coordinator; not under its lock.
        batch: the batch that takes them.
        number: their batch; it has finished.

    Raises:
        ResultExpired: one of them is no longer kept.
        TooLarge: they are too large.
        DtqError: they cannot be read, or written.
    """
    view = queries.batch(c, number)
    size, digest = view.size, b"all results of a batch, which finished then: %d %r" % (number, view.finished_at)
    held = _hold(c, batch, digest)
    if held:
        return sequence_input(size, _table(size, held), held, is_value=True)
    body = _Body(c)
    try:
        offsets, inner = _write(c, number, size, body)
        table = body.length
        body.write(offsets_in(offsets))
        if body.draft is None:
            return sequence_input(size, table, body.joined(), is_value=False)
        value = body.draft.finish()
    except BaseException:
        if body.draft is not None:
            body.draft.abandon()
        raise
    description = describe([value, *inner[: MAX_VALUES - 1]])
    held = _hold(c, batch, digest, description)  # another thread may just have been faster
    assert c.values is not None
    c.values.settled([value])
    return sequence_input(size, table, held or description, is_value=True)


def _table(size: int, description: bytes) -> int:
    """The offset of the table in a value: the table is the end of it."""
    return named(description)[0].length - 8 * (-(-size // SEQUENCE_PAGE) + 1)


def _hold(c: Coordinator, batch: Batch, digest: bytes, description: bytes = b"") -> bytes:
    """Hold a value as long as the batch that takes it is live; the description of the held value, if any."""
    with c.lock:
        held, ticket = b"", None
        if c.machine.queue_state.batches.get(batch.number) is batch:
            held = c.machine.queue_state.holds.hold(holder_of(batch.number), digest, description, MAX_SECONDS)
            ticket = c.committer.ticket() if description else None
    c.committer.settle(ticket)
    return held


class _Page:
    """A page of a sequence that is being filled."""

    def __init__(self) -> None:
        self._parts: list[tuple[bytes, bool]] = []
        self.count = 0

    def add(self, part: bytes, *, is_results: bool) -> None:
        """Append a page, of results as they are, or of inputs."""
        self._parts.append((part, is_results))
        self.count += pages.count(part)

    def taken(self) -> bytes:
        """The page as it is written; nothing is left in it. Results alone are never taken apart."""
        parts, self._parts, self.count = self._parts, [], 0
        if all([is_results for _, is_results in parts]):
            return RESULT + pages.join([part for part, _ in parts])
        prefixed = [(RESULT if is_results else b"", pages.unpack(part)) for part, is_results in parts]
        return INPUTS + pages.pack([prefix + blob for prefix, blobs in prefixed for blob in blobs])


def _write(c: Coordinator, number: int, size: int, body: _Body) -> tuple[list[int], list[Value]]:
    """Write all results, page by page; the offsets of the pages and the end of the last one, and the values that they
    name.
    """
    body.write(SEQUENCE_MARK)
    offsets = [body.length]
    inner: list[Value] = []
    page = _Page()
    count = 0
    for part, is_results in _ends(c, number, size):
        inner += pages.named(part) if is_results else ()
        lo, hi = 0, pages.count(part)
        while lo < hi:
            end = min(hi, lo + SEQUENCE_PAGE - page.count)
            page.add(pages.cut(part, lo, end), is_results=is_results)
            count += end - lo
            lo = end
            if page.count == SEQUENCE_PAGE or count == size:
                body.write(page.taken())
                offsets.append(body.length)
    if count < size:
        raise ResultExpired(str(TaskId(number, count, size == 1)))
    return offsets, list(dict.fromkeys(inner))


def _ends(c: Coordinator, number: int, size: int) -> Iterator[tuple[bytes, bool]]:
    """The ends of all tasks, in order: pages of results as they are, and pages of inputs for tasks without a result;
    and which of both each is.
    """
    at = 0
    c.flush()
    for ended in _all_ended(c, number, size):
        if ended.lo > at or (ended.state is State.SUCCEEDED and not ended.results):
            return  # no longer kept
        if ended.state is State.SUCCEEDED:
            yield ended.results, True
        else:
            failures = [
                failure_input(ended, str(TaskId(number, index, size == 1))) for index in range(ended.lo, ended.hi)
            ]
            for lo in range(0, len(failures), SEQUENCE_PAGE):
                yield pages.pack(failures[lo : lo + SEQUENCE_PAGE]), False
        at = ended.hi


def _all_ended(c: Coordinator, number: int, size: int) -> Iterator[Ended]:
    """As `how_ended`, with the purged dead letters."""
    if queries.batch(c, number).counts.succeeded == size:
        yield from succeeded(c, number, 0, size)
        return
    at = 0
    for ended in how_ended(c, number, 0, size):
        yield from _purged(c, number, at, ended.lo)
        yield ended
        at = ended.hi
    yield from _purged(c, number, at, size)


def _purged(c: Coordinator, number: int, lo: int, hi: int) -> Iterator[Ended]:
    for index in range(lo, hi):
        if (ended := purged(c, number, index)) is None:
            return
        yield ended
