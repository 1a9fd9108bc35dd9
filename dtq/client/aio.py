"""The client for coroutines: submit, map, wait, ask, operate.

Client, a face beside `sync`, with the same verbs. It uses the same three connections and two threads as `sync`, and one
more thread for calls, however many coroutines wait. A client belongs to the event loop that uses it first.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from dtq.client.async_handle import AsyncBatchHandle, AsyncTaskHandle
from dtq.client.async_submitter import AsyncSubmitter
from dtq.client.async_waiting import AH, as_completed, wait
from dtq.client.batch_handle import BatchHandle
from dtq.client.client_core import FULL_TIMEOUT_S
from dtq.client.defaults import TIMEOUT_S
from dtq.client.handle import TaskHandle
from dtq.client.html_repr import card
from dtq.client.links import Connector
from dtq.client.loops import LoopCore
from dtq.client.schedules import AsyncSchedules
from dtq.client.selecting import BatchFilters, Filters, Named
from dtq.client.steering import AsyncLimits, AsyncQueues
from dtq.client.sync import CLOSE_S, Client, WhenFull
from dtq.client.waiting import ReturnWhen
from dtq.client.workers import AsyncWorkers
from dtq.errors import Unreachable
from dtq.model.explanations import Explanation
from dtq.model.snapshots import BatchView, CancelReport, DeadLetter, RerunReport, Stats, TaskView
from dtq.model.states import State

log = logging.getLogger("dtq.client")

P = ParamSpec("P")
T = TypeVar("T")

#: A task or batch, in the forms that a coroutine may give.
AsyncNamed = Named | AsyncTaskHandle[Any] | AsyncBatchHandle[Any]


class AsyncClient(AsyncSubmitter):
    """A queue, for coroutines.

    It connects with ``async with``, or with its first call. From then on it waits for a coordinator that is away, as
    `Client` does. Cancelling a coroutine that waits leaves its task alone; `AsyncTaskHandle.cancel` stops it.

    Args:
        address: ``"host:port"``, or several for one queue; None for ``DTQ_ADDRESS``, the configuration, or the
            coordinator of this machine.
        authkey_file: the file with the key; None for ``DTQ_AUTHKEY_FILE``, the configuration, or this user's key.
        authkey: the key itself, instead of a file.
        tls: the directory with this side's certificates; see `Client`.
        timeout: longest time of the first connection, and of any call except waits while the coordinator is away, in
            seconds.
        when_full: ``"wait"`` or ``"fail"``; see `Client`. With ``"wait"``, `submit` waits, too.
        full_timeout: how long a full queue may accept nothing before waiting submissions are refused, in seconds.
        connector: makes the connections, instead of all of the above; for tests.

    Raises:
        InvalidAddress: an address is malformed.
        KeyMissing, KeyUnusable, BadConfig: there is no key, or no usable one.

    All methods raise the errors of `Client`'s, and RuntimeError without a running event loop, or in another one than
    before.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        authkey_file: str | Path | None = None,
        authkey: bytes | str | None = None,
        tls: str | Path | None = None,
        timeout: float = TIMEOUT_S,
        when_full: WhenFull = "wait",
        full_timeout: float = FULL_TIMEOUT_S,
        connector: Connector | None = None,
    ) -> None:
        self._client = Client(
            address,
            authkey_file=authkey_file,
            authkey=authkey,
            tls=tls,
            timeout=timeout,
            when_full=when_full,
            full_timeout=full_timeout,
            connector=connector,
        )
        self._first = LoopCore(self._client._core, self)

    # -- waiting --------------------------------------------------------------------------------------------------

    async def wait(
        self, handles: Iterable[AH], timeout: float | None = None, return_when: ReturnWhen = "ALL_COMPLETED"
    ) -> tuple[set[AH], set[AH]]:
        """Wait for handles, of tasks or batches.

        Args:
            handles: the handles.
            timeout: how long at most, in seconds; None for ever.
            return_when: ``"ALL_COMPLETED"``, ``"FIRST_COMPLETED"``, or ``"FIRST_EXCEPTION"``: until one (of tasks) has
                ended without a result, or all have ended.

        Returns:
            The handles that have ended, and those that have not.
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
        """The state of a task; see `Client.status`."""
        return await self._loop.call(partial(self._client.status, await self._named(id)))

    async def batch_status(self, id: AsyncNamed) -> BatchView:
        """The state of a batch; see `Client.batch_status`."""
        return await self._loop.call(partial(self._client.batch_status, await self._named(id)))

    async def stats(self) -> Stats:
        """An overview of the coordinator."""
        return await self._loop.call(self._client.stats)

    async def tasks(
        self, *ids: AsyncNamed, state: State | str | None = None, limit: int = 100, **filters: Unpack[Filters]
    ) -> list[TaskView]:
        """Tasks that match every given argument; see `Client.tasks`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.tasks(*named, state=state, limit=limit, **filters))

    async def batches(self, *, limit: int = 100, **filters: Unpack[BatchFilters]) -> list[BatchView]:
        """Batches that match every given argument, the newest first; see `Client.batches`."""
        return await self._loop.call(lambda: self._client.batches(limit=limit, **filters))

    # -- operating ------------------------------------------------------------------------------------------------

    async def cancel(self, *ids: AsyncNamed, **filters: Unpack[Filters]) -> CancelReport:
        """Stop tasks: waiting tasks never start, running tasks are killed; see `Client.cancel`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.cancel(*named, **filters))

    async def reprioritize(self, *ids: AsyncNamed, priority: int, **filters: Unpack[Filters]) -> int:
        """Change the priority of waiting tasks, in whole batches; see `Client.reprioritize`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.reprioritize(*named, priority=priority, **filters))

    async def dead_letters(self, *ids: AsyncNamed, limit: int = 100, **filters: Unpack[Filters]) -> list[DeadLetter]:
        """Dead letters that match every given argument, latest first; see `Client.dead_letters`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.dead_letters(*named, limit=limit, **filters))

    async def explain(self, id: AsyncNamed) -> list[Explanation]:
        """Why a task is in its state, when it will run, and what helps; see `Client.explain`."""
        named = await self._named(id)
        return await self._loop.call(lambda: self._client.explain(named))

    async def retry_dead(self, *ids: AsyncNamed, all: bool = False, **filters: Unpack[Filters]) -> int:
        """Put dead letters back with fresh counters, their history kept; see `Client.retry_dead`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.retry_dead(*named, all=all, **filters))

    async def purge_dead(self, *ids: AsyncNamed, all: bool = False, **filters: Unpack[Filters]) -> int:
        """Remove dead letters for good; arguments as for `retry_dead`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.purge_dead(*named, all=all, **filters))

    async def rerun(
        self, *ids: AsyncNamed, all: bool = False, state: State | str | None = None, **filters: Unpack[Filters]
    ) -> RerunReport:
        """Submit tasks once more that have ended; see `Client.rerun`."""
        named = await self._all_named(ids)
        return await self._loop.call(lambda: self._client.rerun(*named, all=all, state=state, **filters))

    @property
    def limits(self) -> AsyncLimits:
        """The limits by name."""
        return AsyncLimits(self)

    @property
    def queues(self) -> AsyncQueues:
        """The queues: list and steer them."""
        return AsyncQueues(self)

    @property
    def workers(self) -> AsyncWorkers:
        """The connected workers: list, drain and stop them."""
        return AsyncWorkers(self)

    @property
    def schedules(self) -> AsyncSchedules:
        """The coordinator's schedules: functions that it submits at due times."""
        return AsyncSchedules(self)

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
        """Connect, unless connected: from then on the client waits for a coordinator that is away. ``async with`` does
        this.

        Raises:
            Unreachable, WrongKey, ProtocolMismatch: the first connection does not work.
            ClientClosed: the client was closed.
        """
        await self._loop.start()

    async def close(self, timeout: float | None = CLOSE_S) -> None:
        """Wait until all submissions are accepted, and disconnect. Tasks go on. Calling it twice does no harm.

        Args:
            timeout: how long to wait at most, in seconds; None for ever.

        Raises:
            Unreachable: the coordinator was away until then; the handles of submissions that were not accepted have the
                error.
        """
        await self._loop.close(timeout)

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except RuntimeError as error:  # no thread can be started: no other code will close the open connections
            self._loop.fail(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except Unreachable as lost:
            if error is None:
                raise
            log.warning("%s", lost)  # the exception that ended the block is the more telling one

    def __repr__(self) -> str:
        return f"<AsyncClient {self._loop.shared.session.place}>"

    def _repr_html_(self) -> str:
        return card("AsyncClient", [("coordinator", self._loop.shared.session.place)])  # a property must not block
