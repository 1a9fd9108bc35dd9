"""The submitting verbs of the client for threads: a task, a map, a batch, and the same under options.

Client, below `sync`. For type checkers, a handle has the type of its function's result, which for a coroutine function
is the result of its coroutine.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from dtq.client.batch_handle import BatchHandle, Mapped
from dtq.client.client_core import ClientCore
from dtq.client.conditions import After, Expires, OnConflict, OnFailed, UniqueFor
from dtq.client.defaults import TTL_S
from dtq.client.handle import TaskHandle
from dtq.client.maps import READ_AHEAD
from dtq.client.progress import expected, shown
from dtq.client.references import Reference
from dtq.client.sharing import ttl_seconds
from dtq.client.source_bundles import SourceBundle, of_path, put
from dtq.client.submitting import OPTIONS, PLAIN, Order, SubmitOptions, divided, order, read_map, submit, submit_map
from dtq.client.terms import UNSET, ExceptionLike, Resources, Span, Unset
from dtq.model.options import Function

P = ParamSpec("P")
T = TypeVar("T")


class Submitter:
    """Submits to a client core."""

    #: Its first core; see `ClientCore.now`.
    _first: ClientCore

    @property
    def _core(self) -> ClientCore:
        return self._first.now

    @property
    def _new(self) -> ClientCore:
        return self._first.looked()

    @overload
    def submit(
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
    ) -> TaskHandle[T]: ...

    @overload
    def submit(
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
    ) -> TaskHandle[T]: ...

    @overload
    def submit(
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
    ) -> TaskHandle[Any]: ...

    def submit(self, fn: Callable[..., Any] | str | Function, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Submit a call of a function. Returns at once; the handle tells when the task is accepted durably.

        The keywords named here are dtq's own; for a function with a keyword of the same name, use `options`.

        Args:
            fn: the function; or ``"module:function"`` or a registered name, for a function that need not exist here.
            args: its arguments.
            priority, max_retries, max_crashes, timeout, soft_timeout, queue, retry_delay, jitter, never_retry,
                keep_results, limits, resources, slots, tags, label: see `TaskOptions`.
            delay: time before the task is due, in seconds or as a timedelta.
            at: the moment at which it is due, by the coordinator's wall clock; one without a time zone is local time.
            key: while a batch with this key is remembered, a second submission returns a handle of that batch.
            expires, unique, on_conflict, after, on_failed: see `ConditionOptions`.
            kwargs: its keyword arguments.

        Raises:
            NotImportable: the function can travel neither by name nor by value.
            CannotPickle: an argument cannot be pickled.
            TooLarge: the call is larger than a value may be (``--max-value``).
            InvalidValue: an option is invalid.
            Unreachable, WrongKey, ProtocolMismatch: the first connection does not work.
            ClientClosed: the client was closed.
        """
        if not kwargs or OPTIONS.isdisjoint(kwargs):
            return submit(self._first.looked(), fn, PLAIN, args, kwargs)
        how, kwargs = divided(kwargs)
        return submit(self._new, fn, how, args, kwargs)

    def _typed_submit(
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
    ) -> TaskHandle[Any]:
        raise NotImplementedError

    #: The signature of `submit` for readers. Its own takes a call without options in a third of the time.
    submit.__wrapped__ = _typed_submit  # type: ignore[attr-defined]  # read by `inspect`

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
    ) -> Generator[T, None, None]: ...

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
    ) -> Generator[T, None, None]: ...

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
    ) -> Generator[Any, None, None]: ...

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
    ) -> Generator[Any, None, None]:
        """Call a function for each item (or tuple of items, of several iterables); the results as they come.

        All of it is one batch, submitted from now on, while the results are read. Items are pulled by a thread of their
        own, at most ``read_ahead`` before the reader. If the reader stops early (an exception, ``break``), unfinished
        tasks are cancelled.

        Args:
            fn: as for `submit`.
            iterables: of the arguments; the shortest ends the map. The handle of a batch stands for its results: each
                task of the map waits for the one of its own index, and is given its result. A handle among the items
                stands for its result.
            ordered: whether the results come in the order of the items; else as they end.
            return_exceptions: yield the exception of a task without a result in its place, instead of raising it.
            read_ahead: how many tasks may be ahead of the reader.
            progress: whether to show a bar, in a terminal or a notebook.
            options: see `SubmitOptions`; no ``key``.

        Returns:
            The results, once.

        Raises:
            As `submit`; and while reading as `TaskHandle.result` and the iterables.
        """
        results = read_map(
            self._new,
            fn,
            order(**options),
            iterables,
            ordered=ordered,
            return_exceptions=return_exceptions,
            read_ahead=read_ahead,
        )
        return shown(results, expected(iterables)) if progress else results

    @overload
    def submit_map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> BatchHandle[T]: ...

    @overload
    def submit_map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> BatchHandle[T]: ...

    @overload
    def submit_map(
        self,
        fn: str | Function,
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> BatchHandle[Any]: ...

    def submit_map(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *iterables: Mapped,
        **options: Unpack[SubmitOptions],
    ) -> BatchHandle[Any]:
        """As `map`, without reading: returns a handle of the batch when all items were pulled.

        Memory stays small whatever their number; results stay with the coordinator until the handle asks for them. Over
        nothing but handles of batches it is submitted at once, and nothing of the results comes here.

        Raises:
            As `submit`; ParentUnknown: results of a batch are no longer kept; and the iterables' exceptions, after the
            sent part has been cancelled.
        """
        core = self._new
        spec, batch = submit_map(core, fn, order(**options), iterables)
        return BatchHandle(core, spec, batch)

    def put(self, value: object, *, ttl: Span = TTL_S) -> Reference:
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
        return self._new.put(value, ttl_seconds(ttl))

    def bundle(
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
        return put(self._new, of_path(path, include, exclude), ttl_seconds(ttl))

    def options(self, **options: Unpack[SubmitOptions]) -> Preset:
        """This client with options set: all keywords of its `submit` go to the function.

        Args:
            options: see `SubmitOptions`.
        """
        return Preset(self._core, order(**options))


class Preset:
    """A client with preset options. Made by `Client.options`."""

    def __init__(self, core: ClientCore, order: Order) -> None:
        self._first = core
        self._order = order

    @property
    def _core(self) -> ClientCore:
        return self._first.now

    @property
    def _new(self) -> ClientCore:
        return self._first.looked()

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[T]: ...

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...

    @overload
    def submit(self, fn: str | Function, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...

    def submit(self, fn: Callable[..., Any] | str | Function, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """As `Client.submit`; all keywords go to the function."""
        return submit(self._new, fn, self._order, args, kwargs)

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
    ) -> Generator[T, None, None]: ...

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
    ) -> Generator[T, None, None]: ...

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
    ) -> Generator[Any, None, None]: ...

    def map(
        self,
        fn: Callable[..., Any] | str | Function,
        /,
        *iterables: Mapped,
        ordered: bool = True,
        return_exceptions: bool = False,
        read_ahead: int = READ_AHEAD,
        progress: bool = False,
    ) -> Generator[Any, None, None]:
        """As `Client.map`."""
        results = read_map(
            self._new,
            fn,
            self._order,
            iterables,
            ordered=ordered,
            return_exceptions=return_exceptions,
            read_ahead=read_ahead,
        )
        return shown(results, expected(iterables)) if progress else results

    @overload
    def submit_map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Mapped,
    ) -> BatchHandle[T]: ...

    @overload
    def submit_map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Mapped,
    ) -> BatchHandle[T]: ...

    @overload
    def submit_map(
        self,
        fn: str | Function,
        /,
        *iterables: Mapped,
    ) -> BatchHandle[Any]: ...

    def submit_map(self, fn: Callable[..., Any] | str | Function, /, *iterables: Mapped) -> BatchHandle[Any]:
        """As `Client.submit_map`."""
        core = self._new
        spec, batch = submit_map(core, fn, self._order, iterables)
        return BatchHandle(core, spec, batch)

    def options(self, **options: Unpack[SubmitOptions]) -> Preset:
        """These options, with others that override them."""
        return Preset(self._core, order(**options).over(self._order))
