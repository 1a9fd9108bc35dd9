"""The submitting verbs of the client for coroutines: a task, a map, a batch, and the same under options.

Client, below `aio`; beside `submitter`, with the same types.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, ParamSpec, TypeVar, Unpack, overload

from dtq.client.async_handle import AsyncBatchHandle, AsyncTaskHandle
from dtq.client.async_reading import Items
from dtq.client.async_submitting import mapped, submit, submit_map, submit_nowait
from dtq.client.batch_handle import BatchHandle
from dtq.client.conditions import NOTHING_ASKED, After, Expires, OnConflict, OnFailed, UniqueFor, asked_of
from dtq.client.defaults import TTL_S
from dtq.client.loops import LoopCore
from dtq.client.maps import READ_AHEAD
from dtq.client.references import Reference
from dtq.client.sharing import ttl_seconds
from dtq.client.source_bundles import SourceBundle, of_path, put
from dtq.client.submitting import PLAIN, Order, SubmitOptions, order
from dtq.client.terms import UNSET, ExceptionLike, Resources, Span, Terms, Unset
from dtq.model.options import Function

#: Over what a map is: iterables of both kinds, and the handles of batches, whose results it is given one by one.
Mapped = Items | BatchHandle[Any] | AsyncBatchHandle[Any]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncSubmitter:
    """Submits to a client core from its event loop."""

    #: Its first core; see `LoopCore.now`.
    _first: LoopCore

    @property
    def _loop(self) -> LoopCore:
        return self._first.now

    @overload
    async def submit(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[T]: ...

    @overload
    async def submit(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[T]: ...

    @overload
    async def submit(
        self,
        fn: str | Function,
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[Any]: ...

    async def submit(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[Any]:
        """Submit a call of a function. Returns when the task is accepted durably, and so has its id.

        Many at once travel together (``asyncio.gather``, a task group, or `submit_nowait`); for many calls of one
        function use `map`. If the coroutine is cancelled meanwhile, the task may have been accepted all the same; with
        a ``key`` it can be submitted again without becoming two.

        The keywords named here are dtq's own; for a function with a keyword of the same name, use `options`.

        Args:
            fn: the function, which may be a coroutine function; or ``"module:function"`` or a registered name.
            args: its arguments.
            priority, max_retries, max_crashes, timeout, soft_timeout, queue, retry_delay, jitter, never_retry,
                keep_results, limits, resources, slots, tags, label: see `TaskOptions`.
            delay: time before the task is due, in seconds or as a timedelta.
            at: the moment at which it is due, by the coordinator's wall clock; one without a time zone is local time.
            key: while a batch with this key is remembered, a second submission returns a handle of that batch.
            expires, unique, on_conflict, after, on_failed: see `ConditionOptions`.
            kwargs: its keyword arguments.

        Raises:
            As `Client.submit`, and the coordinator's refusal (`QueueFull`, ...).
        """
        options = (
            priority,
            max_retries,
            max_crashes,
            timeout,
            soft_timeout,
            queue,
            retry_delay,
            jitter,
            never_retry,
            keep_results,
            limits,
            resources,
            slots,
            tags,
            label,
        )
        return await submit(
            self._loop,
            fn,
            _ordered(options, delay, key, at, (expires, unique, on_conflict, after, on_failed)),
            args,
            kwargs,
        )

    @overload
    def submit_nowait(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[T]: ...

    @overload
    def submit_nowait(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[T]: ...

    @overload
    def submit_nowait(
        self,
        fn: str | Function,
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[Any]: ...

    def submit_nowait(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *args: Any,
        priority: int | Unset = UNSET,
        max_retries: int | Unset = UNSET,
        max_crashes: int | Unset = UNSET,
        timeout: Span | Unset | None = UNSET,
        soft_timeout: Span | Unset | None = UNSET,
        queue: str | Unset = UNSET,
        retry_delay: Span | Unset | None = UNSET,
        jitter: bool | Unset = UNSET,
        never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET,
        keep_results: Span | Unset | None = UNSET,
        limits: str | Iterable[str] | Unset = UNSET,
        resources: Resources | Unset = UNSET,
        slots: int | Unset = UNSET,
        tags: str | Iterable[str] | Unset = UNSET,
        label: str | Unset = UNSET,
        delay: Span | Unset = UNSET,
        at: datetime | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        expires: Expires | Unset | None = UNSET,
        unique: UniqueFor | Unset | None = UNSET,
        on_conflict: OnConflict | Unset | None = UNSET,
        after: After = UNSET,
        on_failed: OnFailed | Unset | None = UNSET,
        **kwargs: Any,
    ) -> AsyncTaskHandle[Any]:
        """As `submit`, without waiting: the handle's `accepted` tells when the task is. The client must be connected.

        Raises:
            asyncio.QueueFull: too many submissions wait to be sent; `submit` would wait.
            RuntimeError: the client is not connected yet.
        """
        options = (
            priority,
            max_retries,
            max_crashes,
            timeout,
            soft_timeout,
            queue,
            retry_delay,
            jitter,
            never_retry,
            keep_results,
            limits,
            resources,
            slots,
            tags,
            label,
        )
        return submit_nowait(
            self._loop,
            fn,
            _ordered(options, delay, key, at, (expires, unique, on_conflict, after, on_failed)),
            args,
            kwargs,
        )

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: str | Function,
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[Any, None]: ...

    def map(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[Any, None]:
        """Call a function for each item (or tuple of items, of several iterables); the results as they come.

        For ``async for``, which begins it: one batch, submitted while the results are read. Asynchronous iterables are
        read in this loop; others are pulled by a thread of their own (unless they are short). At most ``read_ahead``
        items are ahead of the reader. If the reader stops early, unfinished tasks are cancelled.

        Args:
            fn: as for `submit`.
            iterables: of the arguments, of either kind; the shortest ends the map. Handles of batches, and handles
                among the items, are as for `Client.map`.
            ordered: whether the results come in the order of the items; else as they end.
            return_exceptions: yield the exception of a task without a result in its place, instead of raising it.
            read_ahead: how many tasks may be ahead of the reader.
            progress: whether to show a bar, in a terminal or a notebook.
            options: see `SubmitOptions`; no ``key``.

        Returns:
            The results, once.

        Raises:
            While reading: as `submit`, `AsyncTaskHandle.result` and the iterables.
        """
        return mapped(
            self._loop,
            fn,
            order(**options),
            iterables,
            ordered=ordered,
            return_exceptions=return_exceptions,
            read_ahead=read_ahead,
            progress=progress,
        )

    @overload
    async def submit_map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> AsyncBatchHandle[T]: ...

    @overload
    async def submit_map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> AsyncBatchHandle[T]: ...

    @overload
    async def submit_map(
        self,
        fn: str | Function,
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> AsyncBatchHandle[Any]: ...

    async def submit_map(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> AsyncBatchHandle[Any]:
        """As `map`, without reading: returns a handle of the batch when all items were pulled and accepted.

        Memory stays small whatever their number; results stay with the coordinator until the handle asks for them.

        Raises:
            As `submit`; and the iterables' exceptions, after the sent part has been cancelled.
        """
        return await submit_map(self._loop, fn, order(**options), iterables)

    async def put(self, value: object, *, ttl: Span = TTL_S) -> Reference:
        """Keep a value at the coordinator, for any number of calls: the reference stands for it anywhere in their
        arguments.

        Equal values are kept once, even of several clients. A value is kept while its reference lives here, and with
        each task that has it in its arguments: as long as the task's result.

        Args:
            value: anything that can be pickled.
            ttl: how long it is kept when this client has gone, in seconds or as a timedelta.

        Raises:
            CannotPickle: it cannot be pickled; or the coordinator keeps no values.
            TooLarge: it is larger than values may be.
            HoldsFull: the number of held values has reached its bound.
            StoreError, Unreachable: it cannot be written.
        """
        return await self._loop.in_thread(lambda: self._loop.shared.looked().put(value, ttl_seconds(ttl)), "dtq-writer")

    async def bundle(
        self, path: str = ".", *, include: Sequence[str] = (), exclude: Sequence[str] = (), ttl: Span = TTL_S
    ) -> SourceBundle:
        """Have source files travel with tasks, to workers that do not have them.

        The bundle's functions (`SourceBundle.function`) are submitted like functions; each version of the files runs in
        processes of its own. It is kept as a value that was put: see `put`.

        Args:
            path: a directory: its Python files, and those below it, are the bundle; hidden files, virtual environments
                and directories like ``__pycache__`` are not. Or one file.
            include: patterns of further files, as in ``*.csv`` or ``data/*.json``.
            exclude: patterns of files and directories to leave out.
            ttl: how long it is kept when this client has gone, in seconds or as a timedelta.

        Raises:
            BundleTooLarge: these are more than 2,000 files, or 32 MiB.
            BadFile: there is no Python file.
            OSError: a file cannot be read.
            DtqError: as `put`.
        """

        def put_all() -> SourceBundle:
            return put(self._loop.shared.looked(), of_path(path, include, exclude), ttl_seconds(ttl))

        return await self._loop.in_thread(put_all, "dtq-writer")

    def options(self, **options: Unpack[SubmitOptions]) -> AsyncPreset:
        """This client with options set: all keywords of its `submit` go to the function.

        Args:
            options: see `SubmitOptions`.
        """
        return AsyncPreset(self._loop, order(**options))


class AsyncPreset:
    """A client with preset options. Made by `AsyncClient.options`."""

    def __init__(self, loop: LoopCore, order: Order) -> None:
        self._first = loop
        self._order = order

    @property
    def _loop(self) -> LoopCore:
        return self._first.now

    @overload
    async def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTaskHandle[T]: ...

    @overload
    async def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskHandle[T]: ...

    @overload
    async def submit(self, fn: str | Function, /, *args: Any, **kwargs: Any) -> AsyncTaskHandle[Any]: ...

    async def submit(
        self, fn: Callable[..., Any] | str | Function, /, *args: Any, **kwargs: Any
    ) -> AsyncTaskHandle[Any]:
        """As `AsyncClient.submit`; all keywords go to the function."""
        return await submit(self._loop, fn, self._order, args, kwargs)

    @overload
    def submit_nowait(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTaskHandle[T]: ...

    @overload
    def submit_nowait(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskHandle[T]: ...

    @overload
    def submit_nowait(self, fn: str | Function, /, *args: Any, **kwargs: Any) -> AsyncTaskHandle[Any]: ...

    def submit_nowait(
        self, fn: Callable[..., Any] | str | Function, /, *args: Any, **kwargs: Any
    ) -> AsyncTaskHandle[Any]:
        """As `AsyncClient.submit_nowait`; all keywords go to the function."""
        return submit_nowait(self._loop, fn, self._order, args, kwargs)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self,
        fn: str | Function,
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
    ) -> AsyncGenerator[Any, None]: ...

    def map(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """As `AsyncClient.map`."""
        return mapped(
            self._loop,
            fn,
            self._order,
            iterables,
            ordered=ordered,
            return_exceptions=return_exceptions,
            read_ahead=read_ahead,
            progress=progress,
        )

    @overload
    async def submit_map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Mapped,
    ) -> AsyncBatchHandle[T]: ...

    @overload
    async def submit_map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Mapped,
    ) -> AsyncBatchHandle[T]: ...

    @overload
    async def submit_map(
        self,
        fn: str | Function,
        /,
        *iterables: Mapped,
    ) -> AsyncBatchHandle[Any]: ...

    async def submit_map(self, fn: Callable[..., Any] | str | Function, /, *iterables: Mapped) -> AsyncBatchHandle[Any]:
        """As `AsyncClient.submit_map`."""
        return await submit_map(self._loop, fn, self._order, iterables)

    def options(self, **options: Unpack[SubmitOptions]) -> AsyncPreset:
        """These options, with others that override them."""
        return AsyncPreset(self._loop, order(**options).over(self._order))


#: The options of a bare `submit`, for a comparison: UNSET for each of the terms.
_NO_OPTIONS: Final = tuple(Terms())


def _ordered(
    options: tuple[Any, ...],
    delay: Span | Unset,
    key: str | Unset | None,
    at: datetime | Unset | None,
    asked: tuple[Any, ...],
) -> Order:
    if options == _NO_OPTIONS and delay is UNSET and key is UNSET and at is UNSET and asked == NOTHING_ASKED:
        return PLAIN
    return Order(Terms(*options).frozen(), delay, key, at, asked_of(asked))
