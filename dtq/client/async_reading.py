"""Reads results, and makes items, in an event loop.

Client, beside `reading` and `maps`: this module waits, those two do everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from dtq.client.batch_uploads import BatchUpload
from dtq.client.batches import Batch, Part
from dtq.client.client_values import HubValues
from dtq.client.current import waiting
from dtq.client.following import NEWS, add_waiter
from dtq.client.functions import Callee
from dtq.client.loops import LoopCore, LoopWakeup, settle
from dtq.client.maps import abandoning, begin, feed_all
from dtq.client.parents import HandlesMet
from dtq.client.payloads import Encode
from dtq.client.reading import fetch, look, pieces, values_of
from dtq.client.submitting import encode
from dtq.model.options import Spec
from dtq.model.values import is_description, weight

#: The iterables of a map, of both kinds.
Items = Iterable[Any] | AsyncIterable[Any]


class Encoding(NamedTuple):
    """The encoding of a map's calls.

    Attributes:
        encode: by a thread; may wait.
        target: the function; for `encoded`, by the event loop.
        keyed: see `submitting.encode`.
    """

    encode: Encode
    target: Callee
    keyed: bool


async def encoded(core: LoopCore, target: Callee, args: tuple[Any, ...], kwargs: Any, *, keyed: bool) -> bytes:
    """A call as a blob, as by `submitting.encode`; a large one is written by a thread, and the loop goes on."""
    values = core.shared.values
    if values is not None and target.large:
        return await _in_thread(core, values, partial(encode, core.shared, target, args, kwargs, keyed=keyed))
    blob = target.encode(args, kwargs)
    if values is not None and len(blob) >= values.least and not is_description(blob):
        target.large = True
        return await _in_thread(core, values, partial(encode, core.shared, target, args, kwargs, keyed=keyed))
    return blob


async def _in_thread(core: LoopCore, values: HubValues, write: Callable[[], bytes]) -> bytes:
    """A call that a thread writes. If the coroutine is cancelled meanwhile, the value is dropped."""
    made: list[bytes] = []
    cancelled = False

    def write_it() -> bytes:
        made.append(blob := write())
        if cancelled:
            drop()
        return blob

    def drop() -> None:
        with contextlib.suppress(IndexError):  # the other side was faster
            values.settle_blobs([made.pop()])

    try:
        return await core.in_thread(write_it, "dtq-writer")
    except asyncio.CancelledError:
        cancelled = True
        drop()
        raise


async def read(
    core: LoopCore, batch: Batch, spec: Spec, feed: BatchUpload | None = None, *, return_exceptions: bool
) -> AsyncGenerator[list[Any], None]:
    """The results of a batch, as many at a time as have arrived; see `reading.read`."""
    kind = spec.function.kind
    at = 0
    while parts := await _next(core, batch, at):
        for part in chain.from_iterable(map(pieces, parts)):
            where = core.shared.values
            job = partial(values_of, part, batch.complete and batch.size == 1, kind, where, return_exceptions)
            slow = where is not None and where.page_slow(part.ended.results)
            values, failure = await core.in_thread(job, "dtq-reader") if slow else job()
            if values:
                yield values
            if failure is not None:
                raise failure
            at = part.hi
            if feed is not None:
                feed.taken += part.hi - part.lo
                feed.room.ring()
    if feed is not None and feed.failure is not None:
        raise feed.failure


async def _next(core: LoopCore, batch: Batch, at: int) -> list[Part]:
    """The next part; None at the end."""
    bridge = core.bridge
    while True:
        news: asyncio.Future[None] = bridge.loop.create_future()
        found = look(core.shared.following, batch, at, partial(bridge.post, partial(settle, news, None)))
        if found.far is not None:
            return await core.call(partial(fetch, core.shared, batch, *found.far))
        if found.part is not None:
            return [found.part]
        if found.over:
            return []
        with waiting():
            await news


# -- making items ---------------------------------------------------------------------------------------------------


async def read_map(
    core: LoopCore, feed: BatchUpload, iterables: tuple[Items, ...], encoding: Encoding, *, return_exceptions: bool
) -> AsyncGenerator[Any, None]:
    """Submit a map, and yield its results; when their reader stops, unfinished tasks are cancelled, and all results let
    go.

    Args:
        core: the client's, connected.
        feed: the map.
        iterables: of the arguments. Plain ones are pulled by a thread, unless they are short.
        encoding: how calls are encoded.
        return_exceptions: whether an exception is yielded instead of raised.
    """
    feeding = begin_feeding(core, feed, iterables, encoding)
    try:
        async for values in read(core, feed.batch, feed.spec, feed, return_exceptions=return_exceptions):
            for value in values:
                yield value
        feed.batch.kept = False  # it was read to its end
    finally:
        abandoning(core.shared, feed)()
        if feeding is not None:
            feeding.cancel()


async def submit_all(core: LoopCore, feed: BatchUpload, iterables: tuple[Items, ...], encoding: Encoding) -> None:
    """Submit a map without reading its results; returns when all of its items were pulled, and the first accepted.

    Raises:
        Exception: of the iterables, and of pickling their items; the sent part of the map is cancelled.
    """
    plain = _all_plain(iterables)
    outbox = core.shared.outbox
    wakeup = feed.room = LoopWakeup(core.bridge) if plain is None else feed.room
    outbox.add(feed)
    try:
        if plain is not None:
            await core.in_thread(partial(feed_all, core.shared, feed, plain, encoding.encode), "dtq-feeder")
        elif isinstance(wakeup, LoopWakeup):
            await _feed(core, feed, wakeup, iterables, encoding)
            if feed.failure is not None:
                raise feed.failure
    except BaseException:  # a cancelled coroutine's too: nobody has a handle of the submitted tasks
        feed.stopped = True
        feed.room.ring()
        core.shared.sender.abandon(feed.batch)
        raise
    finally:
        feed.over = True
        outbox.hurry()
    await _accepted(core, feed.batch)


async def _accepted(core: LoopCore, batch: Batch) -> None:
    """Wait until all of a batch is accepted."""
    while True:
        news: asyncio.Future[None] = core.bridge.loop.create_future()
        with core.shared.following.lock:
            if batch.error is not None:
                raise batch.error
            if batch.complete:
                return
            add_waiter(batch, NEWS, partial(core.bridge.post, partial(settle, news, None)))
        await news


def begin_feeding(
    core: LoopCore, feed: BatchUpload, iterables: tuple[Items, ...], encoding: Encoding
) -> asyncio.Task[None] | None:
    """Begin to make items."""
    plain = _all_plain(iterables)
    if plain is not None:
        begin(core.shared, feed, plain, encoding.encode)
        return None
    wakeup = feed.room = LoopWakeup(core.bridge)
    core.shared.outbox.add(feed)
    return asyncio.create_task(_feed(core, feed, wakeup, iterables, encoding), name="dtq-feeder")


def _all_plain(iterables: tuple[Items, ...]) -> tuple[Iterable[Any], ...] | None:
    """The iterables, if none of them is asynchronous."""
    plain = [iterable for iterable in iterables if not isinstance(iterable, AsyncIterable)]
    return tuple(plain) if len(plain) == len(iterables) else None


async def _feed(
    core: LoopCore, feed: BatchUpload, wakeup: LoopWakeup, iterables: tuple[Items, ...], encoding: Encoding
) -> None:
    outbox = core.shared.outbox
    try:
        async with contextlib.aclosing(_zipped(iterables)) as calls:
            async for args in calls:
                try:
                    blob = await encoded(core, encoding.target, args, {}, keyed=encoding.keyed)
                except HandlesMet:
                    blob = await core.in_thread(partial(encoding.encode, args, {}), "dtq-waiter")
                    if feed.met:
                        feed.note(feed.put)
                feed.described = feed.described or is_description(blob)
                feed.blobs.append(blob)
                feed.count(1, weight(blob))
                if outbox.awaits_items:
                    outbox.hurry()
                while feed.full and not feed.stopped:
                    await wakeup.rung()
                if feed.stopped:
                    return
                if outbox.closed is not None:
                    raise outbox.closed
    except Exception as error:  # noqa: BLE001 - the user's iterable may raise anything; the reader gets it
        feed.failure = error
    finally:
        feed.over = True
        outbox.hurry()


async def _zipped(iterables: tuple[Items, ...]) -> AsyncGenerator[tuple[Any, ...], None]:
    """As zip, of both kinds of iterables."""
    sources = [aiter(i) if isinstance(i, AsyncIterable) else _plain(i) for i in iterables]
    with contextlib.suppress(StopAsyncIteration):
        while True:
            yield tuple([await anext(source) for source in sources])


async def _plain(iterable: Iterable[Any]) -> AsyncIterator[Any]:
    for item in iterable:
        yield item
