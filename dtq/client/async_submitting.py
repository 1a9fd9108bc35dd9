"""Submits from an event loop: a function, its arguments and terms become an entry of the outbox.

Client, between the faces and the client core; beside `submitting`, for which this module does the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, TypeVar

from dtq.client import current
from dtq.client.after import few
from dtq.client.async_handle import AsyncBatchHandle, AsyncTaskHandle
from dtq.client.async_reading import Encoding, encoded, read_map, submit_all
from dtq.client.batch_handle import BatchHandle
from dtq.client.batch_uploads import BatchUpload, WholeFeed
from dtq.client.batches import Batch
from dtq.client.functions import Callee, callee
from dtq.client.handle import TaskHandle
from dtq.client.loops import LoopCore
from dtq.client.parents import HandlesMet
from dtq.client.progress import bar, expected
from dtq.client.submitting import Callable_, Order, checked, elements, item_of, limited, over, prepare, with_parents
from dtq.client.terms import UNSET
from dtq.errors import InvalidValue
from dtq.model.messages import Conditions
from dtq.model.options import Spec
from dtq.model.values import MIN_VALUE

T = TypeVar("T")


async def submit(
    core: LoopCore, function: Callable_, order: Order, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncTaskHandle[Any]:
    """Submit one task; returns when it is accepted.

    Raises:
        DtqError: as `submitting.submit`, and the coordinator's refusal.
    """
    await core.start()
    target = callee(function)
    delay_s, key, conditions = order.delay_s, order.own_key, order.conditions
    parents = order.parents(core.shared)
    try:
        blob = await encoded(core, target, args, kwargs, keyed=key is not None)
    except HandlesMet:
        blob, given = with_parents(core.shared, target, args, kwargs, keyed=key is not None)
        parents = few((*given, *parents))
    spec, attribution = target.called(order.terms, current.depth_of_submissions())
    if len(spec.function.body) >= MIN_VALUE:
        spec = await core.in_thread(partial(core.shared.shared.function, function, spec), "dtq-writer")
    item = item_of(core.shared, TaskHandle(core.shared, spec), blob, delay_s, key, conditions, parents, attribution)
    try:
        await core.put(item)
    except BaseException:  # a cancelled coroutine's too
        core.shared.drop(item)
        raise
    handle = AsyncTaskHandle(core, item.handle)
    await handle.accepted()
    return handle


def submit_nowait(
    core: LoopCore, function: Callable_, order: Order, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncTaskHandle[Any]:
    """Submit one task, without waiting for anything.

    Raises:
        asyncio.QueueFull: too many submissions wait.
        RuntimeError: the client is not connected.
        DtqError: as `submitting.submit`.
    """
    _ = core.bridge  # checks the loop
    outbox = core.shared.outbox
    if not core.shared.started and outbox.closed is None:
        raise RuntimeError(
            f"{core.owner!r} is not connected yet: await its connect(), or use it in an async with block"
        )
    item = prepare(core.shared, function, order, args, kwargs)
    if not outbox.offer(item):
        core.shared.drop(item)
        raise asyncio.QueueFull
    return AsyncTaskHandle(core, item.handle)


async def _settled(core: LoopCore, order: Order) -> Conditions | None:
    """See `Order.settled`."""
    if order.asked.after in (UNSET, None):
        return order.conditions
    return await core.in_thread(partial(order.settled, core.shared), "dtq-waiter")


async def _elements(
    core: LoopCore, order: Order, iterables: tuple[Any, ...]
) -> tuple[Conditions | None, tuple[Any, ...]]:
    """See `elements`."""
    conditions = await _settled(core, order)
    if any(over(iterables)):
        return await core.in_thread(partial(elements, core.shared, conditions, iterables), "dtq-waiter")
    return conditions, iterables


def mapped(
    core: LoopCore,
    function: Callable_,
    order: Order,
    iterables: tuple[Any, ...],
    *,
    ordered: bool,
    return_exceptions: bool,
    read_ahead: int,
    progress: bool,
) -> AsyncGenerator[Any, None]:
    """A map that begins when its results are read.

    Raises:
        While reading: as `submit`, the iterables and the tasks.
    """
    results = _mapped(core, function, order, iterables, ordered, return_exceptions, read_ahead)
    return _shown(results, expected(iterables)) if progress else results


async def _mapped(
    core: LoopCore,
    function: Callable_,
    order: Order,
    iterables: tuple[Any, ...],
    ordered: bool,
    return_exceptions: bool,
    read_ahead: int,
) -> AsyncGenerator[Any, None]:
    if order.own_key is not None:
        raise InvalidValue("key", order.key, "a map that is read cannot have one; use submit_map")
    await core.start()
    target, spec = await _checked(core, function, order, iterables)
    batch = Batch()
    batch.keep_results(ordered)
    window = max(1, read_ahead)
    conditions, iterables = await _elements(core, order, iterables)
    kind = WholeFeed if conditions is not None and conditions.each else BatchUpload
    feed = kind(batch, spec, delay_s=order.delay_s, conditions=conditions, follow=True, window=window)
    encoding = Encoding(limited(core.shared, target, spec, feed.met), target, keyed=False)
    async for value in read_map(core, feed, iterables, encoding, return_exceptions=return_exceptions):
        yield value


async def _checked(
    core: LoopCore, function: Callable_, order: Order, iterables: tuple[Any, ...]
) -> tuple[Callee, Spec]:
    """As `checked`; a large function is written by a thread."""
    job = partial(checked, core.shared, function, order, iterables)
    return await core.in_thread(job, "dtq-writer") if len(callee(function).function.body) >= MIN_VALUE else job()


async def _shown(results: AsyncGenerator[T, None], total: int | None) -> AsyncGenerator[T, None]:
    """Results, with a bar while they are read."""
    with bar(total) as drawn:
        try:
            async for result in results:
                drawn.advance(1)
                yield result
        finally:
            await results.aclose()


async def submit_map(
    core: LoopCore, function: Callable_, order: Order, iterables: tuple[Any, ...]
) -> AsyncBatchHandle[Any]:
    """Submit a task for each item, as one batch; returns when all items were pulled and accepted.

    Raises:
        As `submit` and the iterables; the sent part is cancelled.
    """
    await core.start()
    target, spec = await _checked(core, function, order, iterables)
    delay_s, key = order.delay_s, order.own_key
    conditions, iterables = await _elements(core, order, iterables)
    kind = WholeFeed if conditions is not None and conditions.each else BatchUpload
    feed = kind(Batch(), spec, delay_s=delay_s, key=key, conditions=conditions, follow=False)
    keyed = key is not None
    encoding = Encoding(limited(core.shared, target, spec, feed.met, keyed=keyed), target, keyed)
    await submit_all(core, feed, iterables, encoding)
    return AsyncBatchHandle(core, BatchHandle(core.shared, spec, feed.batch))
