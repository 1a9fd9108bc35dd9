"""Maps: one batch made of iterables, fed while its results are read.

Client, between the client core and the faces. Items are pulled only as far as the sender allows and, if the results are
read, the reader: ten million items pass through a few MiB. A thread of its own feeds a map that is read, so that a slow
iterable holds up no result and a slow reader no worker.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextvars import copy_context
from itertools import islice
from typing import Any, Final

from dtq.client.batch_uploads import MAX_FED_BYTES, BatchUpload, Own, WholeFeed
from dtq.client.batches import Batch
from dtq.client.client_core import ClientCore
from dtq.client.payloads import Encode
from dtq.client.reading import read
from dtq.model import pages
from dtq.model.messages import Conditions
from dtq.model.options import Spec
from dtq.model.values import is_description, weight

#: How the calls of a map are encoded, whose handles are noted there.
Limited = Callable[[list[Own]], Encode]

log = logging.getLogger("dtq.client")

#: Default of how many tasks a map may be ahead of the reader of its results.
READ_AHEAD: Final = 100_000
#: Items, and bytes of them, after which the feeding thread checks whether it may go on.
_STRIDE: Final = 64
_STRIDE_BYTES: Final = 256 << 10


def begin(core: ClientCore, feed: BatchUpload, iterables: tuple[Iterable[Any], ...], encode: Encode) -> None:
    """BatchUpload a map whose results will be read: at once if its items are few and ready, else in a thread.

    Raises:
        CannotPickle: an item of a short and small one cannot be pickled; nothing was submitted.
    """
    sizes = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
    calls = zip(*iterables, strict=False)
    if len(sizes) == len(iterables) and min(sizes) <= min(pages.PAGE_BLOBS, feed.window or 0):
        feed.over = _put_in(feed, calls, encode)
    core.outbox.add(feed)
    if feed.over:
        return
    run = copy_context().run
    feeder = threading.Thread(
        target=run, args=(_feed_in_thread, core, feed, calls, encode), name="dtq-feeder", daemon=True
    )
    try:
        feeder.start()
    except RuntimeError:  # no thread can be started
        feed.stopped = feed.over = True
        raise


def _put_in(feed: BatchUpload, calls: Iterator[tuple[Any, ...]], encode: Encode) -> bool:
    """Put calls in before any of them is sent, as long as they are small; whether these are all."""
    for args in calls:
        blob = encode(args, None)
        if feed.met:
            feed.note(feed.put)
        feed.described = feed.described or is_description(blob)
        feed.blobs.append(blob)
        feed.count(1, weight(blob))
        if feed.put_bytes >= MAX_FED_BYTES:
            return False
    return True


def _feed_in_thread(core: ClientCore, feed: BatchUpload, calls: Iterator[tuple[Any, ...]], encode: Encode) -> None:
    try:
        _feed(core, feed, calls, encode)
    except BaseException as error:  # noqa: BLE001 - the user's iterable may raise anything; the reader gets it
        feed.failure = error
    finally:
        feed.over = True
        core.outbox.hurry()


def feed_all(core: ClientCore, feed: BatchUpload, iterables: tuple[Iterable[Any], ...], encode: Encode) -> None:
    """Put all items into a feed; waits while it is full. The caller marks the feed as over.

    Raises:
        Exception: of the iterables, and of pickling their items.
        DtqError: the client has ended.
    """
    _feed(core, feed, zip(*iterables, strict=False), encode)


def _feed(core: ClientCore, feed: BatchUpload, calls: Iterator[tuple[Any, ...]], encode: Encode) -> None:
    put, outbox = feed.blobs.append, core.outbox
    while not feed.stopped:
        if outbox.closed is not None:
            raise outbox.closed
        if feed.full:
            outbox.hurry()  # the sender may wait for more
            feed.room.wait()
            continue
        count = size = 0
        for args in islice(calls, _STRIDE):
            blob = encode(args, None)
            if feed.met:
                size += feed.note(feed.put + count)
            if not blob[0]:  # as `is_description`, without the call
                feed.described = True  # before it can be taken out
                size += weight(blob)
            else:
                size += len(blob)
            put(blob)
            count += 1
            if outbox.awaits_items:
                outbox.hurry()
            if size > _STRIDE_BYTES:
                break
        else:
            if count < _STRIDE:
                feed.count(count, size)
                return
        feed.count(count, size)


def results(core: ClientCore, feed: BatchUpload, return_exceptions: bool) -> Generator[Any, None, None]:
    """The results of a map that is being fed. When their reader stops, unfinished tasks are cancelled, and all results
    let go.
    """
    abandon = abandoning(core, feed)
    reading = _read(read(core, feed.batch, feed.spec, feed, return_exceptions=return_exceptions), feed.batch, abandon)
    weakref.finalize(reading, abandon).atexit = False  # also if no read ever began
    return reading


def abandoning(core: ClientCore, feed: BatchUpload) -> Callable[[], None]:
    """The function to call when the reader of a map's results stops: it cancels unfinished tasks, and lets go of
    results; no effect after the last result.
    """
    batch, sender = feed.batch, core.sender

    def abandon() -> None:
        # Runs in garbage collection too: no locks here.
        if batch.kept:
            batch.kept = False
            feed.stopped = True
            feed.room.ring()
            sender.abandon(batch)

    return abandon


def _read(inner: Iterator[Any], batch: Batch, abandon: Callable[[], None]) -> Generator[Any, None, None]:
    try:
        yield from inner
        batch.kept = False  # it was read to its end
    finally:
        abandon()


def start_reading(
    core: ClientCore,
    spec: Spec,
    iterables: tuple[Iterable[Any], ...],
    limited: Limited,
    *,
    delay_s: float,
    conditions: Conditions | None,
    read_ahead: int,
    ordered: bool,
    return_exceptions: bool,
) -> Generator[Any, None, None]:
    """Submit a map and read its results.

    Args:
        core: the client.
        spec: function and options.
        iterables: of the arguments.
        limited: makes the encoder of calls.
        delay_s: the tasks' delay, in seconds.
        conditions: rare terms.
        read_ahead: how many tasks may be ahead of the reader.
        ordered: whether the results come in the order of the items; else as they end.
        return_exceptions: whether an exception is yielded instead of raised.

    Returns:
        The results.
    """
    batch = Batch()
    batch.keep_results(ordered)
    kind = WholeFeed if conditions is not None and conditions.each else BatchUpload
    feed = kind(batch, spec, delay_s=delay_s, conditions=conditions, follow=True, window=max(1, read_ahead))
    begin(core, feed, iterables, limited(feed.met))
    return results(core, feed, return_exceptions)


def submit_whole(
    core: ClientCore,
    spec: Spec,
    iterables: tuple[Iterable[Any], ...],
    limited: Limited,
    *,
    delay_s: float,
    key: str | None,
    conditions: Conditions | None = None,
) -> Batch:
    """Submit a map without reading its results; returns when all of its items were pulled.

    Raises:
        Exception: of the iterables, and of pickling their items; the sent part of the map is cancelled.
    """
    batch = Batch()
    kind = WholeFeed if conditions is not None and conditions.each else BatchUpload
    feed = kind(batch, spec, delay_s=delay_s, key=key, conditions=conditions, follow=False)
    core.outbox.add(feed)
    try:
        feed_all(core, feed, iterables, limited(feed.met))
    except BaseException:
        feed.stopped = True
        core.sender.abandon(batch)
        raise
    finally:
        feed.over = True
        core.outbox.hurry()
    return batch
