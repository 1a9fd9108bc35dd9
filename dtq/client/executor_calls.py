"""The submission of an executor's calls: each call is a task of its own, each map is one batch.

Client, below `executor`, which imports this when it has a coordinator to connect to: the processes of a cluster of its
own start meanwhile.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar, Unpack

from dtq.client.bundles import run_chunk
from dtq.client.completing import Completer
from dtq.client.executor_map import MapResults, as_calls, chunks
from dtq.client.functions import callee
from dtq.client.futures import TaskFuture
from dtq.client.local import LocalCluster
from dtq.client.submitting import Order, SubmitOptions, elements, limited, order, over, prepare
from dtq.client.sync import Client
from dtq.client.tasks import note_of
from dtq.client.terms import UNSET, Terms
from dtq.errors import DtqError
from dtq.model.messages import Conditions
from dtq.records import replace

T = TypeVar("T")

#: Defaults below the executor's and the function's terms: the holder of a future expects the first exception.
_ONCE: Final = Terms(max_retries=0)


def checked(**options: Unpack[SubmitOptions]) -> Order:
    """A checked order: a wrong value is reported at the call that gives it.

    Args:
        options: see `SubmitOptions`.

    Raises:
        InvalidValue: one of them is invalid.
    """
    return _checked(order(**options))


def _checked(order: Order) -> Order:
    order.terms.options()
    _ = order.delay_s, order.own_key, order.conditions, order.parents(None)
    return order


def opened(client: Client, cluster: LocalCluster | None, order: Order) -> ExecutorCalls:
    """The runner of an executor's calls.

    Args:
        client: the connection; closed on failure.
        cluster: the executor's own cluster, if it has one.
        order: the terms.

    Raises:
        Unreachable, WrongKey, ProtocolMismatch: the connection does not work.
    """
    try:
        client._core.start()
        completer = Completer(client, cluster)
    except BaseException:  # no thread can be started, for one: the program ends, or has too many
        client.close()
        raise
    return ExecutorCalls.under(order, client, completer)


class ExecutorCalls(NamedTuple):
    """Runs calls under some terms.

    Attributes:
        client: the connection.
        completer: completes futures.
        order: the terms.
        plain: the same, for functions without terms of their own.
    """

    client: Client
    completer: Completer
    order: Order
    plain: Order

    @classmethod
    def under(cls, order: Order, client: Client, completer: Completer) -> ExecutorCalls:
        """The runner of calls under these terms."""
        return cls(client, completer, order, order._replace(terms=order.terms.over(_ONCE)))

    def with_options(self, options: SubmitOptions) -> ExecutorCalls:
        """The same with terms that override these.

        Raises:
            InvalidValue: one of them is invalid.
        """
        return ExecutorCalls.under(_checked(order(**options).over(self.order)), self.client, self.completer)

    def submit(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture[T]:
        """See `Executor.submit`."""
        completer = self.completer
        completer.check()
        future: TaskFuture[T] = TaskFuture(completer.core, completer.cancel_soon)
        try:
            item = prepare(completer.core, fn, self._order_of(fn), args, kwargs, partial(completer.handle, future))
        except (DtqError, TypeError) as error:
            completer.check()
            future.set_exception(error)
            return future
        completer.submit(future, item)
        return future

    def map(
        self,
        root: weakref.ref[object],
        fn: Callable[..., T],
        iterables: tuple[Any, ...],
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
    ) -> Iterator[T]:
        """See `Executor.map`.

        Args:
            root: the executor: once it is garbage-collected, no further items of unread maps are submitted.
        """
        self.completer.check()
        conditions = None
        if iterables and any(over(iterables)):
            alone = chunksize == 1 and buffersize is None
            conditions, iterables = elements(self.completer.core, None, iterables, together=alone)
        calls = as_calls(iterables)
        if chunksize > 1:
            calls = ((chunk,) for chunk in chunks(calls, chunksize))
        target = fn if chunksize == 1 else partial(run_chunk, fn)
        how = self._order_of(fn, noted=chunksize > 1)
        if buffersize is not None:
            return self._buffered(root, how, target, calls, timeout, buffersize, chunked=chunksize > 1)
        return self._sent(how, target, calls, timeout, conditions, chunked=chunksize > 1)

    def _sent(
        self,
        how: Order,
        target: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        timeout: float | None,
        each: Conditions | None,
        *,
        chunked: bool,
    ) -> Iterator[Any]:
        try:
            known = callee(target)
        except (DtqError, TypeError) as error:
            return _failing(error, calls)
        core = self.completer.core
        try:
            spec = core.shared.function(target, known.spec(how.terms))
        except DtqError as error:
            return _failing(error, calls)
        results: MapResults[Any] = MapResults(self.completer, spec, timeout, chunked=chunked)
        conditions = how.settled(core)
        if each is not None:
            conditions = replace(conditions or Conditions(), each=each.each)
        encode = partial(limited, core, known, spec)
        results.send(calls, encode, delay_s=how.delay_s, key=how.own_key, conditions=conditions)
        return results

    def _buffered(
        self,
        root: weakref.ref[object],
        how: Order,
        target: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        timeout: float | None,
        size: int,
        *,
        chunked: bool,
    ) -> Iterator[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        view = ExecutorCalls.under(how, self.client, self.completer)
        futures: deque[TaskFuture[Any]] = deque([view.submit(target, args, {}) for args in islice(calls, size)])
        return _read_buffered(root, view, target, futures, calls, deadline, chunked=chunked)

    def _order_of(self, fn: object, *, noted: bool = False) -> Order:
        """The terms of a function's calls.

        Args:
            fn: the function.
            noted: whether the terms of its ``@task`` must be included, because another function carries it.
        """
        note = note_of(fn)
        if note is None:
            return self.plain
        terms = self.order.terms
        if terms.max_retries is UNSET and note.terms.max_retries is UNSET:
            terms = terms.over(_ONCE)
        return self.order._replace(terms=terms.over(note.terms) if noted else terms)


def _failing(error: Exception, calls: Iterator[object]) -> Iterator[Any]:
    """The results of a map whose function cannot travel: as with futures, the first read raises the error."""
    if next(calls, None) is not None:
        yield from ()
        raise error


def _read_buffered(
    root: weakref.ref[object],
    view: ExecutorCalls,
    target: Callable[..., Any],
    futures: deque[TaskFuture[Any]],
    calls: Iterator[tuple[Any, ...]],
    deadline: float | None,
    *,
    chunked: bool,
) -> Iterator[Any]:
    try:
        while futures:
            args = None if root() is None else next(calls, None)
            if args is not None:
                futures.append(view.submit(target, args, {}))
            result = _result_or_cancel(view.completer, futures.popleft(), deadline)
            if chunked:
                yield from result
            else:
                yield result
            del result
    except KeyboardInterrupt:
        for future in futures:
            view.completer.cancel_soon(future)
        futures.clear()
        raise
    finally:
        view.completer.cancel(futures)


def _result_or_cancel(completer: Completer, future: TaskFuture[Any], deadline: float | None) -> Any:
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    except KeyboardInterrupt:
        completer.cancel_soon(future)
        raise
    except BaseException:
        future.cancel()
        raise
    finally:
        del future  # or the exception's traceback would keep the future, which keeps the exception
