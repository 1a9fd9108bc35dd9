"""`TaskQueue`: an asyncio queue with a cluster of its own, real processes that live as long as the program needs them.

Client, above `aio` and `local`. It speaks the dialect of asyncio queues: a higher priority number is more urgent, a
task is pending, running, completed or failed, and is known by its id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict

from dtq.client.aio import AsyncClient
from dtq.client.async_handle import AsyncTaskHandle
from dtq.client.conditions import After, Expires, OnConflict, OnFailed, UniqueFor
from dtq.client.local import LocalCluster
from dtq.client.schedules import AsyncSchedules
from dtq.client.steering import AsyncLimits
from dtq.client.terms import UNSET, ExceptionLike, Resources, Span, Unset
from dtq.errors import DtqError
from dtq.model.states import State
from dtq.wording import counted

log = logging.getLogger("dtq.client")

#: Longest wait of a stopping queue for submissions on their way to its coordinator, in seconds.
END_S: Final = 5.0
#: Time after its last read in which a result can be read again, in seconds.
READ_KEPT_S: Final = 300.0


class TaskStatus(StrEnum):
    """State of a task; equal to its own word, as in ``status == "completed"``."""

    PENDING = "pending"  #: waits for a slot, for the time of its next attempt, or for other tasks
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"  #: has used up its retries: a dead letter
    CANCELLED = "cancelled"


_STATUS: Final = {
    State.BLOCKED: TaskStatus.PENDING,
    State.SCHEDULED: TaskStatus.PENDING,
    State.PENDING: TaskStatus.PENDING,
    State.RUNNING: TaskStatus.RUNNING,
    State.SUCCEEDED: TaskStatus.COMPLETED,
    State.DEAD: TaskStatus.FAILED,
    State.CANCELLED: TaskStatus.CANCELLED,
}


class QueueStats(TypedDict):
    """The queue in numbers.

    Attributes:
        submitted: tasks that were accepted.
        pending: waiting tasks.
        running: running tasks.
        completed: tasks with a result.
        failed: tasks that have used up their retries.
        cancelled: tasks that were stopped on request.
        retries: attempts that were followed by another.
        success_rate: completed tasks by completed and failed ones, from 0 to 1; 0 before the first end.
        workers: how many tasks can run at once.
    """

    submitted: int
    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int
    retries: int
    success_rate: float
    workers: int


class TaskQueue:
    """A queue whose tasks run in processes of their own, on this machine, while the queue is started.

    For one event loop. Plain functions and coroutine functions run alike; each has a process for itself while it runs.

    Args:
        num_workers: how many tasks run at once; None for one a core.
        highest_first: whether a higher priority number (of 1 to 10) is more urgent.
        db: a file that keeps the queue from one start to the next; None keeps it in memory.
        durability: with a file, the guarantee behind an acknowledgement: ``"fsync"`` (the disk), ``"os"``, ``"none"``.
        imports: modules that every process imports when it starts.
        preload: modules that are imported once, in the process that those are forked from.
        paths: directories for modules, before those of this program.
        keep_results: how long unread results are kept, in seconds or as a timedelta; None for a day. Results are kept
            for five minutes after a call of `result`.
        tasks_may_submit: whether clients in tasks (``AsyncClient()``, ``Client()``) are this queue's.
        resources: resources for tasks that need them: ``("gpu=0,1", "memory=32GB")``.
        tags: further properties that tasks may ask for.

    Raises:
        InvalidValue: ``num_workers`` is not at least 1, or ``keep_results`` is not a time.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        *,
        highest_first: bool = True,
        db: str | Path | None = None,
        durability: str = "fsync",
        imports: Iterable[str] = (),
        preload: Iterable[str] = (),
        paths: Iterable[str | Path] = (),
        keep_results: Span | None = None,
        tasks_may_submit: bool = False,
        resources: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> None:
        self._make = partial(
            LocalCluster,
            num_workers,
            highest_first=highest_first,
            db=db,
            durability=durability,
            imports=tuple(imports),
            preload=tuple(preload),
            paths=tuple(paths),
            keep_results=keep_results,
            tasks_may_submit=tasks_may_submit,
            resources=tuple(resources),
            tags=tuple(tags),
        )
        self._keeps = db is not None
        self._cluster = self._make()
        self._client: AsyncClient | None = None
        self._busy = asyncio.Lock()
        self._open: set[AsyncTaskHandle[Any]] = set()
        self._ended = asyncio.Event()
        #: Results that were read, by batch and index, and their ends; the next one to go first.
        self._read: dict[tuple[int, int], float] = {}
        self._letting_go: asyncio.TimerHandle | None = None

    # -- beginning and end ----------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Start the processes, and wait until they are ready; no effect if they run already.

        Returns:
            This queue.

        Raises:
            ClusterEnded: they do not start; the sentence has their log.
        """
        async with self._busy:
            if self._client is None:
                cluster = self._make()
                # If this is cancelled, the cluster is dropped once it runs, and ends with that.
                await asyncio.to_thread(cluster.start)
                client = AsyncClient(cluster.address, authkey_file=cluster.authkey_file)
                try:
                    await client.connect()
                except BaseException:
                    await asyncio.to_thread(cluster.close, drain=False)
                    raise
                cluster.on_end(client._loop.shared.fail)  # a waiting caller then gets the reason
                self._cluster, self._client = cluster, client
                log.info("a queue of %s has started", counted(cluster.slots, "worker"))
        return self

    async def stop(self, *, finish: bool | None = None, timeout: float | None = None) -> None:
        """End gracefully: accept no more tasks, let tasks end, then the processes. Calling it twice does no harm.

        Args:
            finish: whether to wait for all tasks; False for only the running ones. None means True without a file
                (waiting tasks would be lost), and False with one (waiting tasks are there at the next start).
            timeout: longest time for all of it, in seconds; then running tasks are killed. None for as long as it
                needs.
        """
        async with self._busy:
            client, self._client = self._client, None
            if client is None:
                return
            loop = asyncio.get_running_loop()
            deadline = None if timeout is None else loop.time() + timeout
            drain = client._loop.shared.following.failure is None  # else its processes are unusable
            try:
                if finish is None:
                    finish = not self._keeps
                if finish and self._open:
                    log.info("the queue is stopping; it waits for %s", counted(len(self._open), "task"))
                    drain = await self._all_ended(timeout) and drain
                left = None if deadline is None else max(0.0, deadline - loop.time())
                await self._end(client, drain=drain, timeout_s=left)
            except BaseException:
                self._cluster.close(drain=False)
                raise

    async def _end(self, client: AsyncClient, *, drain: bool, timeout_s: float | None) -> None:
        if not self._keeps and self._open:
            log.warning(
                "the queue is stopped; what had not ended is lost with it: %s", counted(len(self._open), "task")
            )
        self._open.clear()
        self._read.clear()
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None
        try:
            await client.close(END_S)
        except DtqError as error:  # unsent submissions are lost either way
            log.warning("%s", error)
        await asyncio.to_thread(self._cluster.close, drain=drain, timeout_s=timeout_s)
        log.info("the queue has stopped")

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(finish=None if kind is None else False, timeout=None if kind is None else 0)

    # -- tasks ----------------------------------------------------------------------------------------------------

    async def submit(
        self,
        fn: Callable[..., Any] | str,
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
    ) -> str:
        """Submit a call of a function to the processes; returns when the task is accepted.

        Args:
            fn: the function, which may be a coroutine function; or ``"module:function"`` or a registered name.
            args: its arguments.
            priority: 1 to 10; 10 is the most urgent, unless the queue was made otherwise. Default 5.
            max_retries: how often a failed task is tried again, after 2, 4, 8 ... seconds. Default 3.
            max_crashes, timeout, soft_timeout, queue, retry_delay, jitter, never_retry, keep_results, limits,
                resources, slots, tags, label: see `TaskOptions`.
            delay: time before the task is due, in seconds or as a timedelta.
            at: the moment at which it is due, by the coordinator's wall clock; one without a time zone is local time.
            key: while a task with this key is remembered, a second submission returns that task's id.
            expires, unique, on_conflict, after, on_failed: see `ConditionOptions`.
            kwargs: its keyword arguments.

        Returns:
            The task's id.

        Raises:
            RuntimeError: the queue is not started.
            DtqError: as `AsyncClient.submit`.
        """
        client = self._running
        handle: AsyncTaskHandle[Any] = await client.submit(
            fn,
            *args,
            priority=priority,
            max_retries=max_retries,
            max_crashes=max_crashes,
            timeout=timeout,
            soft_timeout=soft_timeout,
            queue=queue,
            retry_delay=retry_delay,
            jitter=jitter,
            never_retry=never_retry,
            keep_results=keep_results,
            limits=limits,
            resources=resources,
            slots=slots,
            tags=tags,
            label=label,
            delay=delay,
            at=at,
            key=key,
            expires=expires,
            unique=unique,
            on_conflict=on_conflict,
            after=after,
            on_failed=on_failed,
            **kwargs,
        )
        self._open.add(handle)
        if not await handle.on_end(partial(client._loop.bridge.post, partial(self._close, handle))):
            self._close(handle)
        return handle.id

    def _close(self, handle: AsyncTaskHandle[Any]) -> None:
        self._open.discard(handle)
        if not self._open:
            self._ended.set()

    def get_task_status(self, task_id: str) -> TaskStatus:
        """A task's state; one short call to the queue's own process, no coroutine.

        Raises:
            UnknownId: the task does not exist.
            ResultExpired: it is no longer kept; see `result`.
            InvalidId: the id is malformed.
            RuntimeError: the queue is not started.
        """
        return _STATUS[self._running._client.status(task_id).state]

    def get_stats(self) -> QueueStats:
        """The queue in numbers; like `get_task_status` no coroutine.

        Raises:
            RuntimeError: the queue is not started.
        """
        stats = self._running._client.stats()
        counts = stats.counts
        ended = counts.succeeded + counts.dead
        return QueueStats(
            submitted=stats.submitted,
            pending=counts.pending + counts.scheduled + counts.blocked,
            running=counts.running,
            completed=counts.succeeded,
            failed=counts.dead,
            cancelled=counts.cancelled,
            retries=stats.retries,
            success_rate=counts.succeeded / ended if ended else 0.0,
            workers=self._cluster.slots,
        )

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task's result.

        It may be read again, by several coroutines too, until five minutes after the last read. Then the task is no
        longer known, unless it was submitted with a key, or by another client (`client`).

        Args:
            task_id: the task.
            timeout: how long at most, in seconds; None for ever.

        Raises:
            Exception: as `AsyncTaskHandle.result`: the function's own, `TaskCancelled`, `WaitTimeout`, ...
            UnknownId: the task does not exist.
            ResultExpired: it is no longer kept.
            RuntimeError: the queue is not started.
        """
        client = self._running
        handle: AsyncTaskHandle[Any] = await client.get(task_id)
        try:
            return await handle.result(timeout)
        finally:
            if handle.done() and self._client is client:
                self._let_go_later(client, handle)

    def _let_go_later(self, client: AsyncClient, handle: AsyncTaskHandle[Any]) -> None:
        """Keep a result that was read a while longer."""
        task = handle._handle
        place = task._batch, max(0, task._index)
        until = asyncio.get_running_loop().time() + READ_KEPT_S
        self._read.pop(place, None)
        self._read[place] = until
        if self._letting_go is None:
            self._letting_go = asyncio.get_running_loop().call_at(until, self._let_go, client)

    def _let_go(self, client: AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        self._letting_go = None
        for (batch, index), until in list(self._read.items()):
            if until > loop.time():
                self._letting_go = loop.call_at(until, self._let_go, client)
                return
            del self._read[batch, index]
            client._loop.shared.following.read.add(batch, index, index + 1, 0.0)

    async def cancel(self, task_id: str) -> bool:
        """Stop a task: a waiting task never starts, a running one's process is killed.

        Returns:
            Whether it was stopped.

        Raises:
            UnknownId: the task does not exist.
            RuntimeError: the queue is not started.
        """
        report = await self._running.cancel(task_id)
        return report.cancelled + report.stopping > 0

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until all tasks that were submitted here since the start have ended.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether they have.

        Raises:
            RuntimeError: the queue is not started.
        """
        _ = self._running
        return await self._all_ended(timeout)

    async def _all_ended(self, timeout: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while self._open:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            return False
        return True

    @property
    def client(self) -> AsyncClient:
        """The client it uses, for everything else: maps, dead letters, handles.

        Raises:
            RuntimeError: the queue is not started.
        """
        return self._running

    @property
    def limits(self) -> AsyncLimits:
        """The limits by name; with a file, they hold after the next start, too.

        Raises:
            RuntimeError: the queue is not started.
        """
        return self._running.limits

    @property
    def schedules(self) -> AsyncSchedules:
        """Functions that are submitted at due times, as long as the queue runs; with a file, they are there after its
        next start.

        Raises:
            RuntimeError: the queue is not started.
        """
        return self._running.schedules

    @property
    def _running(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("the queue is not running: await its start() first, or use it in an async with block")
        return self._client

    def __repr__(self) -> str:
        state = "stopped" if self._client is None else f"running, {counted(len(self._open), 'task')} not ended"
        return f"<TaskQueue of {counted(self._cluster.slots, 'worker')}, {state}>"
