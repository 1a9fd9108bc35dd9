"""Handles of tasks and batches for coroutines: they can be awaited.

Client, beside `handle` and `batch_handle`: a second view of the same state. A coroutine that awaits a handle may be
cancelled at any time; the task goes on, and only `cancel` stops it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any, ClassVar, Generic, cast

from dtq.client.async_reading import read
from dtq.client.batch_handle import SIZE_EVERY_S, BatchHandle
from dtq.client.following import ACCEPTED, ENDED, Wake
from dtq.client.handle import T_co, TaskHandle
from dtq.client.loops import LoopCore
from dtq.client.output import follow_in_loop
from dtq.errors import WaitTimeout
from dtq.model.options import Function
from dtq.model.snapshots import BatchView, CancelReport, TaskView
from dtq.model.states import State


class AsyncTaskHandle(Generic[T_co]):
    """One task that was submitted, or that was found by its id. Awaiting it returns the result."""

    __slots__ = ("__weakref__", "_core", "_handle")

    #: Whether it is a handle among arguments; see `parents.ResultOf`.
    stands_for_result: ClassVar[bool] = True

    def __init__(self, core: LoopCore, handle: TaskHandle[T_co]) -> None:
        self._core = core
        self._handle = handle

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Among the arguments of a call, a handle stands for its task's result."""
        return self._handle.__reduce__()

    @property
    def id(self) -> str:
        """Its id.

        Raises:
            InvalidStateError: it is not accepted yet (possible only after `AsyncClient.submit_nowait`).
            DtqError: why it was refused.
        """
        if not self._handle._reached(ACCEPTED):
            raise asyncio.InvalidStateError("the task is not accepted yet, and has no id: await handle.accepted()")
        return self._handle.id

    async def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the coordinator has the task durably.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.

        Raises:
            DtqError: why the coordinator refused it, or will never be asked (`ClientClosed`, `WrongKey`).
        """
        handle = self._handle
        return await self._core.reach(handle, ACCEPTED, timeout) and handle.accepted()

    def done(self) -> bool:
        """Whether it is known to have ended; without a call."""
        return self._handle.done()

    def failed(self) -> bool:
        """Whether it is known to have ended without a result, or never to have been accepted; without a call."""
        return self._handle.failed()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, with or without a result.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.
        """
        return self._handle.done() or await self._core.reach(self._handle, ENDED, timeout)

    async def then(self, fn: Callable[..., Any] | str | Function, /, *args: Any, **kwargs: Any) -> AsyncTaskHandle[Any]:
        """Submit a call with this task's result as its argument, for when that exists; see `TaskHandle.then`. Returns
        when the call is accepted.

        Raises:
            As `AsyncClient.submit`.
        """
        from dtq.client.async_submitting import submit  # makes handles, and so is imported late
        from dtq.client.submitting import divided

        order, rest = divided(kwargs)
        return await submit(self._core, fn, order, (self, *args), rest)

    async def result(self, timeout: float | None = None) -> T_co:
        """Wait for the task's result; the same as to await the handle.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Raises:
            Exception: as `TaskHandle.result`: the function's own, `TaskCancelled`, `WaitTimeout`, ...
        """
        await self._end(timeout)
        return self._handle.result(0)

    async def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task, and return the exception that `result` would raise; None for none.

        Raises:
            WaitTimeout: it has not ended in time; it goes on.
        """
        await self._end(timeout)
        return self._handle.exception(0)

    async def _end(self, timeout: float | None) -> None:
        """Wait until it has ended, and have a thread read a result that takes long.

        Raises:
            WaitTimeout: it has not ended in time.
        """
        if not await self.wait(timeout):
            accepted = self._handle._reached(ACCEPTED)
            raise WaitTimeout(f"task {self._handle.id}" if accepted else "a task not accepted yet", timeout)
        blob, values = self._handle._undecoded, self._core.shared.values
        if blob is not None and values is not None and values.slow(blob):
            await self._core.in_thread(partial(self._handle.exception, 0), "dtq-reader")

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    async def status(self) -> TaskView:
        """The task's state, attempts with their history, progress, and the reason why it waits, if it does.

        Raises:
            UnknownId: it was purged.
            DtqError: as `accepted`.
        """
        await self.accepted()
        return await self._core.call(self._handle.status)

    async def state(self) -> State:
        """The task's state; makes a call only as long as the task is not known to have ended."""
        if not self._handle.done():
            return (await self.status()).state
        return await self._core.call(lambda: self._handle.state)

    async def output(self, attempt: int | None = None) -> str:
        """What it has printed so far; as `TaskHandle.output`."""
        await self.accepted()
        return await self._core.call(partial(self._handle.output, attempt))

    async def follow_output(self, attempt: int | None = None) -> AsyncIterator[str]:
        """What it prints, as it arrives, until the task has ended; as `TaskHandle.follow_output`."""
        await self.accepted()
        handle = self._handle
        async for text in follow_in_loop(self._core, handle._batch, max(0, handle._index), attempt):
            yield text

    async def cancel(self) -> bool:
        """Stop it: a waiting task never starts, a running one's process is killed.

        Returns:
            Whether it was stopped; False if it had ended already.
        """
        await self.accepted()
        return await self._core.call(self._handle.cancel)

    async def on_end(self, wake: Wake) -> bool:
        """Call a function, in a thread of the client's, when the task has ended; False if it has already."""
        return self._handle.on_end(wake)

    def forget(self, wake: Wake) -> None:
        """Cancel such a call; it may just have happened."""
        self._handle.forget(wake)

    def __repr__(self) -> str:
        return repr(self._handle).replace("<", "<Async", 1)

    def _repr_html_(self) -> str:
        return self._handle._repr_html_()


class AsyncBatchHandle(Generic[T_co]):
    """A batch that was submitted, or that was found by its id.

    ``async for`` yields its results in order, as they come; awaiting it returns all of them in a list. Until then they
    stay with the coordinator.
    """

    __slots__ = ("__weakref__", "_core", "_handle")

    #: Whether it is a handle among arguments; see `parents.ResultOf`.
    stands_for_result: ClassVar[bool] = True

    def __init__(self, core: LoopCore, handle: BatchHandle[T_co]) -> None:
        self._core = core
        self._handle = handle

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Among the arguments of a call, a handle stands for all of its results."""
        return self._handle.__reduce__()

    @property
    def id(self) -> str:
        """Its number, which is the id of the whole batch.

        Raises:
            InvalidValue: it has no tasks, and so was never submitted.
            DtqError: why it was refused.
        """
        return self._handle.id  # `AsyncClient` returns accepted ones only

    @property
    def size(self) -> int:
        """Number of its tasks that the coordinator has accepted so far."""
        return self._handle.size

    def done(self) -> bool:
        """Whether all of it is known to have ended; without a call. Known only once a caller waits or reads."""
        return self._handle.done()

    def failed(self) -> bool:
        """Whether the client will learn no more about it; failed tasks are no such failure."""
        return self._handle.failed()

    async def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the coordinator has some of the batch durably; as `BatchHandle.accepted`."""
        return await self._core.reach(self._handle._target, ACCEPTED, timeout) and self._handle.accepted()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until all of its tasks have ended, with or without results.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether they have.

        Raises:
            DtqError: the batch was refused, or the client will learn no more about it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        batch = self._handle._target
        if not await self.accepted(timeout):
            return False
        await self._follow()
        while not batch.finished:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            foreign = not batch.complete and batch.foreign
            pause = SIZE_EVERY_S if left is None else min(SIZE_EVERY_S, left)
            if await self._core.reach(batch, ENDED, pause if foreign else left):
                break
            if left == 0:
                return False
            if foreign:
                await self._core.call(self._handle.ask_size)
        if batch.error is not None:
            raise batch.error
        return True

    async def _follow(self) -> None:
        batch = self._handle._target
        if batch.number and not batch.followed:
            await self._core.call(partial(self._core.shared.follow, batch))

    async def results(self, *, return_exceptions: bool = False) -> AsyncIterator[T_co]:
        """The results, in order, each as soon as it and those before it have arrived. May be called again.

        Args:
            return_exceptions: yield the exception of a task without a result in its place, instead of raising it.

        Raises:
            Exception: as `AsyncTaskHandle.result`, at the turn of that task.
        """
        batch = self._handle._target
        await self.accepted()
        if not batch.number:
            return
        if not batch.complete and batch.foreign:
            await self.wait()
        with self._core.shared.following.lock:
            batch.keep_results(ordered=True)
        await self._follow()
        async for values in read(self._core, batch, self._handle._spec, return_exceptions=return_exceptions):
            for value in values:
                yield cast(T_co, value)

    def __aiter__(self) -> AsyncIterator[T_co]:
        return self.results()

    def __await__(self) -> Generator[Any, None, list[T_co]]:
        return self._all().__await__()

    async def _all(self) -> list[T_co]:
        return [value async for value in self.results()]

    async def task(self, index: int) -> AsyncTaskHandle[T_co]:
        """A handle of one of its tasks.

        Raises:
            InvalidValue: the batch has no task of that index (so far).
        """
        await self.accepted()
        return AsyncTaskHandle(self._core, await self._core.call(partial(self._handle.task, index)))

    async def status(self) -> BatchView:
        """The batch's state: the number of its tasks in each state.

        Raises:
            UnknownId: it is no longer kept.
        """
        await self.accepted()
        return await self._core.call(self._handle.status)

    async def cancel(self) -> CancelReport:
        """Stop all of it: waiting tasks never start, running tasks are killed.

        Returns:
            The numbers of tasks that were cancelled, are being stopped, and had ended before.
        """
        await self.accepted()
        return await self._core.call(self._handle.cancel)

    async def on_end(self, wake: Wake) -> bool:
        """Call a function, in a thread of the client's, when all of it has ended; False if it has already."""
        await self.accepted()
        await self._follow()
        return self._core.shared.following.subscribe(self._handle._target, ENDED, wake)

    def forget(self, wake: Wake) -> None:
        """Cancel such a call; it may just have happened."""
        self._handle.forget(wake)

    def __repr__(self) -> str:
        return repr(self._handle).replace("<", "<Async", 1)

    def _repr_html_(self) -> str:
        return self._handle._repr_html_()
