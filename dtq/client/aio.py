"""The client for coroutines: submit, map, wait, ask, operate.

Client, a face beside `sync`, whose verbs it has. It needs the same three connections and two threads as that one, and
one more thread for calls, however many coroutines wait. A client belongs to the event loop that uses it first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from dtq.client.async_handle import AsyncBatchHandle, AsyncTaskHandle
from dtq.client.async_reading import Items, read_map, submit_all
from dtq.client.async_waiting import AH, as_completed, wait
from dtq.client.batch_handle import BatchHandle
from dtq.client.batches import Batch
from dtq.client.feeds import Feed
from dtq.client.handle import TaskHandle
from dtq.client.links import Connector
from dtq.client.loops import LoopHub
from dtq.client.maps import READ_AHEAD
from dtq.client.notebook import card
from dtq.client.progress import bar, expected
from dtq.client.selecting import Filters, Named
from dtq.client.submitting import PLAIN, Callable_, Order, SubmitOptions, checked, limited, order, prepare
from dtq.client.sync import CLOSE_S, TIMEOUT_S, Client
from dtq.client.terms import UNSET, ExceptionLike, Span, Terms, Unset
from dtq.client.waiting import ReturnWhen
from dtq.errors import InvalidValue, Unreachable
from dtq.model.options import Function
from dtq.model.snapshots import BatchView, CancelReport, DeadLetter, Stats, TaskView
from dtq.model.states import State

log = logging.getLogger("dtq.client")

P = ParamSpec("P")
T = TypeVar("T")

#: A task or batch, as a coroutine may name it.
AsyncNamed = Named | AsyncTaskHandle[Any] | AsyncBatchHandle[Any]


class AsyncClient:
    """A queue, as coroutines use it.

    It connects with ``async with``, or with its first call. From then on a coordinator that is away is waited for, as
    by `Client`. Cancelling a coroutine that waits leaves its task alone; `AsyncTaskHandle.cancel` stops it.

    Args:
        address: ``"host:port"``, or several for one queue; None for ``DTQ_ADDRESS``, the configuration, or the
            coordinator of this machine.
        authkey_file: the file with the key; None for ``DTQ_AUTHKEY_FILE``, the configuration, or this user's key.
        authkey: the key itself, instead of a file.
        timeout: how long the first connection may take, and any call but waiting while the coordinator is away, in
            seconds.
        connector: makes the connections, instead of all of the above; for tests.

    Raises:
        InvalidAddress: an address is none.
        KeyMissing, KeyUnusable, BadConfig: there is no key, or no usable one.

    Everything else raises what `Client` raises, and RuntimeError where no event loop runs, or another one than before.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        authkey_file: str | Path | None = None,
        authkey: bytes | str | None = None,
        timeout: float = TIMEOUT_S,
        connector: Connector | None = None,
    ) -> None:
        self._client = Client(address, authkey_file=authkey_file, authkey=authkey, timeout=timeout, connector=connector)
        self._loop = LoopHub(self._client._hub, self)

    # -- submitting -----------------------------------------------------------------------------------------------

    async def submit(
        self,
        fn: Callable[..., T] | str | Function,
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        delay: Span | Unset = UNSET,
        key: str | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[T]:
        """Have a function called by a worker. Returns when the task is accepted durably, and so has its id.

        Many at once travel together (``asyncio.gather``, a task group, or `submit_nowait`); for many calls of one
        function there is `map`. If the coroutine is cancelled meanwhile, the task may have been accepted all the same;
        with a ``key`` it can be submitted again without becoming two.

        The keywords named here are dtq's own; for a function that has one of the same name, use `options`.

        Args:
            fn: the function, which may be a coroutine function; or ``"module:function"`` or a registered name.
            args: its arguments.
            priority, max_retries, max_crashes, timeout, queue, retry_delay, jitter, never_retry: see `TaskOptions`.
            delay: time before the task is due, in seconds or as a timedelta.
            key: while a batch with this key is remembered, there is no second one: the handle is of that one.
            kwargs: its keyword arguments.

        Raises:
            As `Client.submit`, and why the coordinator refused it (`QueueFull`, ...).
        """
        options = (priority, max_retries, max_crashes, timeout, queue, retry_delay, jitter, never_retry)
        return await self._submit(fn, _ordered(options, delay, key), args, kwargs)

    def submit_nowait(
        self,
        fn: Callable[..., T] | str | Function,
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        delay: Span | Unset = UNSET,
        key: str | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[T]:
        """As `submit`, without waiting: the handle's `accepted` says when the task is. The client must be connected.

        Raises:
            asyncio.QueueFull: too many submissions wait to be sent; `submit` would wait.
            RuntimeError: the client is not connected yet.
        """
        options = (priority, max_retries, max_crashes, timeout, queue, retry_delay, jitter, never_retry)
        return self._submit_nowait(fn, _ordered(options, delay, key), args, kwargs)

    async def _submit(
        self, fn: Callable_, how: Order, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncTaskHandle[Any]:
        await self._loop.start()
        item = prepare(self._loop.hub, fn, how, args, kwargs)
        await self._loop.put(item)
        handle = AsyncTaskHandle(self._loop, item.handle)
        await handle.accepted()
        return handle

    def _submit_nowait(
        self, fn: Callable_, how: Order, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncTaskHandle[Any]:
        _ = self._loop.bridge  # the right loop
        hub = self._loop.hub
        if not hub.started and hub.outbox.closed is None:
            raise RuntimeError(f"{self!r} is not connected yet: await its connect(), or use it in an async with block")
        item = prepare(hub, fn, how, args, kwargs)
        if not hub.outbox.offer(item):
            raise asyncio.QueueFull
        return AsyncTaskHandle(self._loop, item.handle)

    def map(
        self,
        fn: Callable[..., T] | str | Function,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]:
        """Have a function called for each item (or tuple of items, of several iterables); the results as they come.

        For ``async for``, which begins it: one batch, submitted while the results are read. Asynchronous iterables are
        read in this loop; others are pulled by a thread of their own (unless they are short). At most ``read_ahead``
        items are ahead of the reader. If the reader stops early, what has not ended is cancelled.

        Args:
            fn: as for `submit`.
            iterables: where the arguments come from, of either kind; the shortest ends the map.
            ordered: whether the results come in the order of the items; else as they end.
            return_exceptions: give the exception of a task without a result in its place, instead of raising it.
            read_ahead: how many tasks may be ahead of the reader.
            progress: whether to show a bar, in a terminal or a notebook.
            options: see `SubmitOptions`; no ``key``.

        Returns:
            The results, once.

        Raises:
            While reading: as `submit`, and what `AsyncTaskHandle.result` and the iterables raise.
        """
        results = self._map(fn, order(**options), iterables, ordered, return_exceptions, read_ahead)
        return _shown(results, expected(iterables)) if progress else results

    async def _map(
        self,
        fn: Callable_,
        how: Order,
        iterables: tuple[Items, ...],
        ordered: bool,
        return_exceptions: bool,
        read_ahead: int,
    ) -> AsyncGenerator[Any, None]:
        if how.own_key is not None:
            raise InvalidValue("key", how.key, "a map that is read cannot have one; use submit_map")
        await self._loop.start()
        target, spec = checked(self._loop.hub, fn, how, iterables)
        batch = Batch()
        batch.keep_results(ordered)
        feed = Feed(batch, spec, delay_s=how.delay_s, follow=True, window=max(1, read_ahead))
        encode = limited(self._loop.hub, target)
        async for value in read_map(self._loop, feed, iterables, encode, return_exceptions=return_exceptions):
            yield value

    async def submit_map(
        self,
        fn: Callable[..., T] | str | Function,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[SubmitOptions],
    ) -> AsyncBatchHandle[T]:
        """As `map`, without reading: returns a handle of the batch when all items were pulled and accepted.

        Memory stays small whatever their number; results stay with the coordinator until the handle asks for them.

        Raises:
            As `submit`; and what the iterables raise, when what was sent has been cancelled.
        """
        return await self._submit_map(fn, order(**options), iterables)

    async def _submit_map(self, fn: Callable_, how: Order, iterables: tuple[Items, ...]) -> AsyncBatchHandle[Any]:
        await self._loop.start()
        target, spec = checked(self._loop.hub, fn, how, iterables)
        feed = Feed(Batch(), spec, delay_s=how.delay_s, key=how.own_key, follow=False)
        await submit_all(self._loop, feed, iterables, limited(self._loop.hub, target))
        return AsyncBatchHandle(self._loop, BatchHandle(self._loop.hub, spec, feed.batch))

    def options(self, **options: Unpack[SubmitOptions]) -> AsyncPreset:
        """This client with options set: all keywords of its `submit` go to the function.

        Args:
            options: see `SubmitOptions`.
        """
        return AsyncPreset(self, order(**options))

    # -- waiting --------------------------------------------------------------------------------------------------

    async def wait(
        self, handles: Iterable[AH], timeout: float | None = None, return_when: ReturnWhen = "ALL_COMPLETED"
    ) -> tuple[set[AH], set[AH]]:
        """Wait for handles, of tasks or batches.

        Args:
            handles: the handles.
            timeout: how long at most, in seconds; None for ever.
            return_when: ``"ALL_COMPLETED"``, ``"FIRST_COMPLETED"``, or ``"FIRST_EXCEPTION"``: until one has ended
                without a result (of tasks), or all have ended.

        Returns:
            Those that have ended, and those that have not.
        """
        return await wait(self._loop, handles, timeout, return_when)

    def as_completed(self, handles: Iterable[AH], timeout: float | None = None) -> AsyncGenerator[AH, None]:
        """The handles in the order in which they end, for ``async for``.

        Args:
            handles: of tasks or batches.
            timeout: how long the last may take, in seconds; None for ever.

        Raises:
            WaitTimeout: while reading: some had not ended by then.
        """
        return as_completed(self._loop, handles, timeout)

    async def get(self, id: AsyncNamed) -> AsyncTaskHandle[Any]:
        """A handle of a known task, whoever submitted it; see `Client.get`."""
        named = await self._named(id)
        await self._loop.start()
        return AsyncTaskHandle(self._loop, await self._loop.call(partial(self._client.get, named)))

    async def get_batch(self, id: AsyncNamed) -> AsyncBatchHandle[Any]:
        """A handle of a known batch, whoever submitted it; see `Client.get_batch`."""
        named = await self._named(id)
        await self._loop.start()
        return AsyncBatchHandle(self._loop, await self._loop.call(partial(self._client.get_batch, named)))

    # -- asking ---------------------------------------------------------------------------------------------------

    async def status(self, id: AsyncNamed) -> TaskView:
        """Where a task stands; see `Client.status`."""
        return await self._loop.call(partial(self._client.status, await self._named(id)))

    async def batch_status(self, id: AsyncNamed) -> BatchView:
        """Where a batch stands; see `Client.batch_status`."""
        return await self._loop.call(partial(self._client.batch_status, await self._named(id)))

    async def stats(self) -> Stats:
        """The coordinator in one look."""
        return await self._loop.call(self._client.stats)

    async def tasks(
        self, *ids: AsyncNamed, state: State | str | None = None, limit: int = 100, **filters: Unpack[Filters]
    ) -> list[TaskView]:
        """Tasks that match everything given; see `Client.tasks`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.tasks(*named, state=state, limit=limit, **filters))

    # -- operating ------------------------------------------------------------------------------------------------

    async def cancel(self, *ids: AsyncNamed, **filters: Unpack[Filters]) -> CancelReport:
        """Stop tasks: those that wait never start, those that run are killed; see `Client.cancel`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.cancel(*named, **filters))

    async def dead_letters(self, *ids: AsyncNamed, limit: int = 100, **filters: Unpack[Filters]) -> list[DeadLetter]:
        """Dead letters that match everything given, latest first; see `Client.dead_letters`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.dead_letters(*named, limit=limit, **filters))

    async def retry_dead(self, *ids: AsyncNamed, all: bool = False, **filters: Unpack[Filters]) -> int:
        """Put dead letters back with fresh counters, their history kept; see `Client.retry_dead`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.retry_dead(*named, all=all, **filters))

    async def purge_dead(self, *ids: AsyncNamed, all: bool = False, **filters: Unpack[Filters]) -> int:
        """Forget dead letters for good; everything as for `retry_dead`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.purge_dead(*named, all=all, **filters))

    async def _named(self, id: AsyncNamed) -> Named:
        if isinstance(id, AsyncTaskHandle | AsyncBatchHandle):
            await id.accepted()
            return id._handle
        if isinstance(id, TaskHandle | BatchHandle):
            raise TypeError(f"{id!r} is of another client")
        return id

    async def _all_named(self, ids: tuple[AsyncNamed, ...]) -> list[Named]:
        return [await self._named(id) for id in ids]

    # -- beginning and end ----------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, unless connected: from then on a coordinator that is away is waited for. ``async with`` does this.

        Raises:
            Unreachable, WrongKey, ProtocolMismatch: the first connection does not work.
            ClientClosed: the client was closed.
        """
        await self._loop.start()

    async def close(self, timeout: float | None = CLOSE_S) -> None:
        """Wait until what was submitted is accepted, and disconnect. Tasks go on. Calling it twice does no harm.

        Args:
            timeout: how long to wait at most, in seconds; None for ever.

        Raises:
            Unreachable: the coordinator was away until then; handles of what was not accepted say so.
        """
        await self._loop.close(timeout)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except Unreachable as lost:
            if error is None:
                raise
            log.warning("%s", lost)  # the exception that ended the block says more

    def __repr__(self) -> str:
        return f"<AsyncClient {self._loop.hub.session.place}>"

    def _repr_html_(self) -> str:
        return card("AsyncClient", [("coordinator", self._loop.hub.session.place)])  # a loop is not held up to look


class AsyncPreset:
    """A client with options set. Made by `AsyncClient.options`."""

    def __init__(self, client: AsyncClient, order: Order) -> None:
        self._client = client
        self._order = order

    async def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskHandle[T]:
        """As `AsyncClient.submit`; all keywords go to the function."""
        return await self._client._submit(fn, self._order, args, kwargs)

    def submit_nowait(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskHandle[T]:
        """As `AsyncClient.submit_nowait`; all keywords go to the function."""
        return self._client._submit_nowait(fn, self._order, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
    ) -> AsyncGenerator[T, None]:
        """As `AsyncClient.map`."""
        results = self._client._map(fn, self._order, iterables, ordered, return_exceptions, read_ahead)
        return _shown(results, expected(iterables)) if progress else results

    async def submit_map(
        self, fn: Callable[..., T], /, *iterables: Iterable[Any] | AsyncIterable[Any]
    ) -> AsyncBatchHandle[T]:
        """As `AsyncClient.submit_map`."""
        return await self._client._submit_map(fn, self._order, iterables)

    def options(self, **options: Unpack[SubmitOptions]) -> AsyncPreset:
        """These options, and others over them."""
        return AsyncPreset(self._client, order(**options).over(self._order))


async def _shown(results: AsyncGenerator[T, None], total: int | None) -> AsyncGenerator[T, None]:
    """Results, with a bar while they are read."""
    with bar(total) as drawn:
        try:
            async for result in results:
                drawn.advance(1)
                yield result
        finally:
            await results.aclose()


#: What `submit` compares its options with: UNSET for each of the terms.
_NO_OPTIONS = tuple(Terms())


def _ordered(options: tuple[Any, ...], delay: Span | Unset, key: str | Unset | None) -> Order:
    if options == _NO_OPTIONS and delay is UNSET and key is UNSET:
        return PLAIN
    return Order(Terms(*options).frozen(), delay, key)
