"""The results of an executor's map.

Client, between the completer and the executor. A map is one batch, sent whole before the first result is read, as the
standard library promises; unread results wait at the coordinator, and are fetched when the executor ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

from dtq.client.batch_uploads import BatchUpload, WholeFeed
from dtq.client.batches import Batch, Part
from dtq.client.completing import Completer
from dtq.client.current import waiting
from dtq.client.maps import Limited, feed_all
from dtq.client.payloads import Encode
from dtq.client.reading import fetch, look, pieces, values_of
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import DtqError
from dtq.model import pages
from dtq.model.messages import Conditions
from dtq.model.options import Spec

T = TypeVar("T")


class _Read(NamedTuple):
    """Results that were read, up to the first that raises; and its exception."""

    values: list[Any]
    error: BaseException | None


#: Marks the end.
_END: Final = Part(-1, -1, None)  # type: ignore[arg-type]


def chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Calls in groups of this many."""
    while chunk := list(islice(calls, size)):
        yield chunk


class MapResults(Generic[T]):
    """An iterator over the results of a map, in order.

    Args:
        completer: runs it.
        spec: function and options.
        timeout_s: longest time for all of it from now on, in seconds; None for ever.
        chunked: whether each task returns a list of results.
    """

    def __init__(self, completer: Completer, spec: Spec, timeout_s: float | None, *, chunked: bool) -> None:
        self._begun = self._over = False
        self._completer = completer
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._chunked = chunked
        self._spec = spec
        self._batch = Batch()
        self._batch.keep_results(ordered=True)
        self._lock = threading.Lock()
        self._at = 0
        #: Fetched parts to be returned, as they arrived; and the results that the executor fetched before it ended.
        self._fetched: deque[Part] = deque()
        self._gathered: deque[Part | _Read | DtqError] = deque()
        self._values: deque[T] = deque()
        #: Number of calls made, and bytes of their arguments.
        self._blobs = self._blob_bytes = 0
        #: Raised after the values are read.
        self._error: BaseException | None = None
        #: The exception that ended the making of calls early.
        self._problem: BaseException | None = None

    # -- sending --------------------------------------------------------------------------------------------------

    def send(
        self,
        calls: Iterator[tuple[Any, ...]],
        limited: Limited,
        *,
        delay_s: float,
        key: str | None,
        conditions: Conditions | None = None,
    ) -> None:
        """Send all calls; returns when all were taken, and all but the last few accepted.

        A call that cannot be pickled ends the map: its error comes in its turn, as it would from a future.

        Raises:
            Exception: of the iterator; the sent calls are cancelled then.
            ExecutorBroken, RuntimeError: as `Completer.check`.
        """
        core = self._completer.core
        kind = WholeFeed if conditions is not None and conditions.each else BatchUpload
        feed = kind(self._batch, self._spec, delay_s=delay_s, key=key, conditions=conditions, follow=True)
        added = False
        try:
            self._completer.follow(self._batch)
            core.outbox.add(feed)
            added = True
            feed_all(core, feed, (self._encoded(calls, limited(feed.met)),), _as_it_is)
        except BaseException as error:
            feed.stopped = True
            self._over = True
            if added:
                self._completer.abandon_map(self._batch)
            else:
                self._completer.forget(self._batch)
            if isinstance(error, DtqError) and error is core.outbox.closed:
                self._completer.check()
            raise
        finally:
            feed.over = True
            core.outbox.hurry()
            self._blobs, self._blob_bytes = feed.put, feed.put_bytes
        self._completer.readers.add(self)

    def _encoded(self, calls: Iterator[tuple[Any, ...]], encode: Encode) -> Iterator[bytes]:
        for args in calls:
            try:
                blob = encode(args, None)
            except DtqError as error:
                self._problem = error
                return
            yield blob

    # -- reading --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._lock:
            self._begun = True
            while not self._values:
                if self._over:
                    raise StopIteration
                if self._error is not None:
                    error = self._error
                    self._end()
                    try:
                        raise self._completer.translated(error)
                    finally:
                        del error, self
                try:
                    self._advance()
                except BaseException as interrupt:  # Ctrl-C, for one: nobody reads on
                    self._give_up(interrupt)
                    raise
            return self._values.popleft()

    def gather(self) -> None:
        """See `completing.Reader`."""
        with self._lock:
            while not self._over and self._error is None:
                try:
                    part = self._next_part(None)
                except DtqError as error:
                    self._gathered.append(error)
                    return
                if part is _END or not pages.has_descriptions(part.ended.results):
                    self._gathered.append(part)
                else:  # its place cannot be read any more when the executor has ended
                    self._gathered.append(self._read(part))
                if part is _END:
                    return

    def close(self) -> None:
        """Read no more: unstarted tasks are cancelled, and no result is kept."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        # Runs in garbage collection too: no locks here. As with a generator, a map whose reading never began goes on.
        if self._over:
            return
        if self._begun and not self._batch.finished:
            self._completer.abandon_map(self._batch)
        else:
            self._completer.disown_map(self._batch)

    def _give_up(self, interrupt: BaseException) -> None:
        """Read no more, without any wait."""
        self._over = True
        self._completer.readers.discard(self)
        if isinstance(interrupt, KeyboardInterrupt):
            self._completer.interrupt_map(self._batch)
        else:
            self._completer.abandon_map(self._batch)

    def _end(self) -> None:
        self._over = True
        self._error = None
        self._fetched.clear()
        self._gathered.clear()
        self._values.clear()
        self._completer.readers.discard(self)
        batch = self._batch
        batch.kept = False
        if not batch.finished or self._at < batch.size:
            self._completer.abandon_map_now(batch)

    def _advance(self) -> None:
        """Fetch a few more values, or the error that follows them."""
        try:
            part: Part | _Read | BaseException = (
                self._gathered.popleft() if self._gathered else self._next_part(self._deadline)
            )
        except (DtqError, TimeoutError) as error:
            part = error
        if isinstance(part, BaseException):
            self._error = part
            return
        if part is _END:
            self._error = self._problem
            if self._error is None:
                self._end()
            return
        found = part if isinstance(part, _Read) else self._read(part)
        self._error = found.error
        if self._chunked:
            for chunk in found.values:
                self._values.extend(chunk)
        else:
            self._values.extend(found.values)

    def _read(self, part: Part) -> _Read:
        single = self._batch.complete and self._batch.size == 1
        kind, where = self._spec.function.kind, self._completer.core.values
        try:
            return _Read(*values_of(part, single, kind, where, False, standard=True))
        finally:
            if pages.has_descriptions(part.ended.results):
                self._completer.core.following.read.unpin(self._batch.number)

    def _next_part(self, deadline: float | None) -> Part:
        """The next part, as it arrived.

        Raises:
            TimeoutError: it has not ended in time.
            DtqError: the client will learn no more about it.
        """
        following, batch = self._completer.core.following, self._batch
        while not self._fetched:
            wakeup = ThreadWakeup()
            found = look(following, batch, self._at, wakeup.ring)
            if found.far is not None:
                self._fetched.extend(chain.from_iterable(map(pieces, fetch(self._completer.core, batch, *found.far))))
            elif found.part is not None:
                self._fetched.extend(pieces(found.part))
            elif found.over:
                return _END
            elif not _rung(wakeup, deadline):
                following.unsubscribe(batch, wakeup.ring)
                raise TimeoutError
        part = self._fetched.popleft()
        self._at = part.hi
        count, of = part.hi - part.lo, part.ended.hi - part.ended.lo
        results = pages.weight(part.ended.results) / of
        size = count * (self._blob_bytes / max(1, self._blobs) + results)
        if pages.has_descriptions(part.ended.results):
            following.read.pin(batch.number)
        following.read.add(batch.number, part.lo, part.hi, size)
        return part


def _rung(wakeup: ThreadWakeup, deadline: float | None) -> bool:
    with waiting():
        return wakeup.wait(None if deadline is None else deadline - time.monotonic())


def _as_it_is(args: tuple[Any, ...], _: object) -> bytes:
    blob: bytes = args[0]
    return blob


def as_calls(iterables: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The arguments of each call; the shortest of the iterables ends them."""
    return zip(*iterables, strict=False)
