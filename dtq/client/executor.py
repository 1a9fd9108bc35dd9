"""``dtq.Executor``: a `concurrent.futures.Executor` whose calls are tasks of a queue.

Client, a face like `sync`: a thin translation. Each call is a task of its own, durable where the queue is; each map is
one batch. docs/executor.md lists where a remote executor differs from the standard library's, and why.
"""

from __future__ import annotations

import concurrent.futures
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, Unpack

from dtq.client.batch_handle import Mapped
from dtq.client.defaults import TIMEOUT_S, TTL_S
from dtq.client.local import LocalCluster
from dtq.errors import DtqError

if TYPE_CHECKING:
    from pathlib import Path

    from dtq.client.executor_calls import ExecutorCalls
    from dtq.client.references import Reference
    from dtq.client.submitting import SubmitOptions
    from dtq.client.sync import Client
    from dtq.client.terms import RunOptions, Span, TaskOptions

P = ParamSpec("P")
T = TypeVar("T")

#: Options of the standard library's pools, and of `Executor.local`; with the advice for a cluster that others run.
_LOCAL: Final = {
    "max_workers": "its workers say how many slots they have (dtq worker --slots N)",
    "initializer": "its workers say what their slots begin with (dtq worker --init module:function)",
    "initargs": "its workers say what their slots begin with (dtq worker --init module:function)",
    "max_tasks_per_child": "its workers say when slots are replaced (dtq worker --max-tasks-per-slot N)",
    "mp_context": "slots are always fresh processes",
}


class Executor(concurrent.futures.Executor):
    """Runs calls on the workers of a cluster.

    Any code that takes a `concurrent.futures.Executor` takes this one. It connects at once; from then on it waits for a
    coordinator that is away. When the program ends, it waits for the futures, as with the standard library.

    Args:
        address: ``"host:port"``, or several for one queue; None for ``DTQ_ADDRESS``, the configuration, or the
            coordinator of this machine.
        authkey_file: the file with the key; None for ``DTQ_AUTHKEY_FILE``, the configuration, or this user's key.
        authkey: the key itself, instead of a file.
        connect_timeout: longest time of the first connection, and of a call while the coordinator is away, in seconds.
        options: terms of all tasks, see `TaskOptions`. ``max_retries`` is 0 unless this or ``@task`` sets it: a future
            has the exception of the first failure.

    Raises:
        Unreachable, WrongKey, ProtocolMismatch: the connection does not work.
        InvalidAddress, KeyMissing, KeyUnusable, BadConfig: the address or key is missing or unusable.
        InvalidValue: an option is invalid.
        TypeError: an option is unknown, or is for executors with a cluster of their own (`local`).
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        authkey_file: str | Path | None = None,
        authkey: bytes | str | None = None,
        connect_timeout: float = TIMEOUT_S,
        **options: Unpack[TaskOptions],
    ) -> None:
        _refuse_local(address, options)
        from dtq.client.executor_calls import checked, opened
        from dtq.client.sync import Client

        order = checked(**options)
        client = Client(address, authkey_file=authkey_file, authkey=authkey, timeout=connect_timeout)
        self._begin(opened(client, None, order))

    @classmethod
    def local(
        cls,
        slots: int | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        db: str | Path | None = None,
        durability: str = "fsync",
        highest_first: bool = False,
        imports: Iterable[str] = (),
        preload: Iterable[str] = (),
        paths: Iterable[str | Path] = (),
        max_message: int | str | None = None,
        max_value: int | str | None = None,
        keep_results: Span | None = None,
        tasks_may_submit: bool = False,
        resources: Iterable[str] = (),
        tags: Iterable[str] = (),
        **options: Unpack[RunOptions],
    ) -> Self:
        """An executor with a cluster of its own on this machine, started now and ended with it.

        Args:
            slots: how many calls run at once; None for one a core.
            max_workers: the same, in the words of the standard library.
            initializer: called in every slot when it starts. If it fails, the executor is broken.
            initargs: its arguments.
            max_tasks_per_child: after how many calls a slot's process is replaced; None for never.
            db: the store's file; None keeps everything in memory.
            durability: with a file, the guarantee behind an acknowledgement: ``"fsync"`` (the disk), ``"os"``,
                ``"none"``.
            highest_first: whether a higher priority number is served first.
            imports: modules that every slot imports when it starts.
            preload: modules that are imported once, in the process that slots are forked from.
            paths: directories for modules, before those of this program.
            max_message: largest message, in bytes or as text (``"64MiB"``); None for 16 MiB. Larger calls and results
                travel beside the messages.
            max_value: largest call, result or put value, in bytes or as text (``"4GiB"``); None: 1 GiB.
            keep_results: how long unfetched results are kept, in seconds or as a timedelta; None for a day. `options`
                sets another time for some calls.
            tasks_may_submit: whether clients in calls (``Client()``, ``Executor()``) are this cluster's.
            resources: its worker's resources, for calls that need them (`options`): ``("gpu=0,1", "memory=32GB")``.
            tags: further properties that calls may ask for.
            options: as for the class.

        Raises:
            ClusterEnded: the cluster does not start; the sentence has the reason.
            ValueError: ``max_workers`` or ``max_tasks_per_child`` is not at least 1.
            TypeError: ``slots`` and ``max_workers`` are given both, ``initializer`` cannot be called, or
                ``max_tasks_per_child`` is no whole number.
            InvalidValue: an option is invalid.
            CannotPickle: the initializer cannot be sent.
        """
        if options:
            from dtq.client.executor_calls import checked  # their faults are reported before anything starts

            checked(**options)
        if slots is not None and max_workers is not None:
            raise TypeError("slots and max_workers are the same: give one of them")
        count = max_workers if slots is None else slots
        if count is not None and operator.index(count) < 1:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child < 1:
                raise ValueError("max_tasks_per_child must be >= 1")
        cluster = LocalCluster(
            count,
            db=db,
            durability=durability,
            highest_first=highest_first,
            imports=imports,
            preload=preload,
            paths=paths,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_slot=max_tasks_per_child,
            max_message=max_message,
            max_value=max_value,
            keep_results=keep_results,
            tasks_may_submit=tasks_may_submit,
            resources=resources,
            tags=tags,
        )
        cluster.launch()
        try:
            # This takes as long as the start of the processes, which goes on meanwhile.
            from dtq.client.executor_calls import checked, opened
            from dtq.client.sync import Client

            order = checked(**options)
            cluster.await_listening()
            client = Client(cluster.address, authkey_file=cluster.authkey_file)
            try:
                client._core.start()  # the worker connects meanwhile
                cluster.start()
            except BaseException:
                client.close()
                raise
            executor = cls.__new__(cls)
            executor._begin(opened(client, cluster, order))
        except BaseException:
            cluster.close(drain=False)
            raise
        return executor

    def _begin(self, calls: ExecutorCalls) -> None:
        self._calls = calls
        self._completer = calls.completer
        self._origin: Executor | None = None
        weakref.finalize(self, self._completer.stop).atexit = False

    # -- running calls --------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call of a function. All keywords are the function's; for options, see `options`.

        Args:
            fn: the function.
            args: its arguments.
            kwargs: its keyword arguments.

        Returns:
            A future; if the call cannot be sent, the future has the error (`CannotPickle`, `NotImportable`,
            `TooLarge`).

        Raises:
            RuntimeError: after `shutdown`.
            ExecutorBroken: the executor is unusable.
        """
        return self._calls.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Mapped,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call a function for each item (or tuple of items, of several iterables). All calls are one batch.

        Args:
            fn: the function.
            iterables: of the arguments, read to their end at once; the shortest ends the map. Handles of batches give
                their results, and futures and handles among the items stand for theirs (`Client.map`).
            timeout: longest time for all of it from now on, in seconds; None for ever.
            chunksize: how many calls make one task. Leases gather small tasks by themselves, so this pays only for
                calls that take microseconds.
            buffersize: most submitted tasks with unread results; the iterables are read as the results are. Each task
                is a submission of its own then.

        Returns:
            The results, in order. A reader that stops early (an exception, ``close``) cancels the unstarted tasks.

        Raises:
            ValueError: ``chunksize`` or ``buffersize`` is below 1.
            TypeError: ``buffersize`` is no whole number.
            TimeoutError: while reading, the time ran out.
            RuntimeError, ExecutorBroken: as `submit`.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        return self._calls.map(weakref.ref(self._origin or self), fn, iterables, timeout, chunksize, buffersize)

    def put(self, value: object, *, ttl: Span = TTL_S) -> Reference:
        """Keep a value, for any number of calls; see `Client.put`."""
        return self._calls.client.put(value, ttl=ttl)

    def options(self, **options: Unpack[SubmitOptions]) -> Executor:
        """This executor with other terms, for some calls: ``executor.options(priority=1).submit(f, x)``.

        Args:
            options: see `SubmitOptions`; they override those of this executor.

        Returns:
            An executor that shares everything with this one: shutting down either is shutting down both.

        Raises:
            InvalidValue: an option is invalid.
        """
        view = Executor.__new__(Executor)
        view._calls = self._calls.with_options(options)
        view._completer = self._completer
        view._origin = self._origin or self  # while a view lives, the executor is in use
        return view

    # -- the rest -------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connection, for everything beyond an executor: status, dead letters, counts."""
        return self._calls.client

    @property
    def _broken(self) -> str | bool:
        """Why it is unusable; False while it is usable. Other libraries read it, as of the standard library's."""
        broken = self._completer.broken
        return False if broken is None else str(broken)

    @property
    def _max_workers(self) -> int:
        """Number of calls that can run at once, at least 1. Dask and others read it, as of the standard library's."""
        try:
            workers = self._calls.client.stats().workers
        except DtqError:
            return 1
        return max(1, sum(worker.slots for worker in workers))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end when all have ended; a cluster of its own ends then, too.

        Args:
            wait: return only then.
            cancel_futures: cancel the unstarted calls.
        """
        completer = self._completer
        completer.stopping = True
        if cancel_futures:
            completer.cancel_all()
        completer.stop()
        if wait:
            completer.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._completer.interrupt()
        else:
            self.shutdown(wait=True)

    def __repr__(self) -> str:
        own = "its own cluster" if self._completer.cluster is not None else self._completer.core.session.place
        state = "broken" if self._completer.broken else "shut down" if self._completer.stopping else "open"
        return f"<Executor {own}, {state}>"


def _refuse_local(address: object, options: Iterable[str]) -> None:
    """Make sure that no option concerns processes that others run.

    Raises:
        TypeError: one does.
    """
    if isinstance(address, int):  # as the standard library's pools are made
        raise TypeError(f"{address} is no address; a cluster of its own with so many slots: Executor.local({address})")
    for name in options:
        if name in _LOCAL:
            own = "" if name == "mp_context" else "; Executor.local, which has a cluster of its own, takes it"
            raise TypeError(f"{name} is not for an executor on a cluster that runs: {_LOCAL[name]}{own}")
