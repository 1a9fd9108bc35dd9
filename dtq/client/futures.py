"""Futures of the standard library, for tasks.

Client, between the handles and the executor. The executor's completing thread sets a future; a call is made only for
facts that the coordinator alone has (whether the task runs, whether it can still be cancelled).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED, PENDING, _AsCompletedWaiter
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

from dtq.client.client_core import ClientCore
from dtq.client.current import looked, waiting
from dtq.client.following import Wake
from dtq.client.handle import TaskHandle
from dtq.client.outcomes import Known, Raised, state_of
from dtq.client.parents import HandlesMet, as_it_is, is_collecting
from dtq.client.read_ranges import WORTH
from dtq.errors import DtqError
from dtq.model.options import Spec
from dtq.model.service import Service
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.model.values import MARK, weight

log = logging.getLogger("concurrent.futures")

T = TypeVar("T")

#: Longest wait of a cancel for the task's acceptance, in seconds: before that it cannot be cancelled.
ACCEPT_S: Final = 10.0
#: Module of the callbacks with which `asyncio` waits for a future.
_ASYNCIO: Final = "asyncio.futures"


def _in_loop() -> bool:
    """Whether an asyncio loop runs in this thread; never before asyncio is imported."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


#: States of an unstarted task.
_WAITING: Final = (State.BLOCKED, State.PENDING, State.SCHEDULED)


class Latch:
    """The used part of a `threading.Condition`, without its ten objects as long as no thread waits: with twenty
    thousand futures, they would cost most of the time in garbage collection.
    """

    __slots__ = ("_condition", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._condition: threading.Condition | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """See `threading.Condition.acquire`."""
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """See `threading.Condition.release`."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Condition.wait`."""
        if self._condition is None:
            self._condition = threading.Condition(self._lock)
        with waiting():
            notified = self._condition.wait(timeout)
            if not notified:
                looked()
            return notified

    def notify_all(self) -> None:
        """See `threading.Condition.notify_all`."""
        if self._condition is not None:
            self._condition.notify_all()


class Watchers(list[Any]):
    """The standard library's waiters for a future with others: `wait` and `as_completed`. They put themselves into its
    list while they wait.
    """

    __slots__ = ("_waits",)
    _waits: AbstractContextManager[None]

    def append(self, watcher: Any) -> None:
        """See `list.append`."""
        super().append(watcher)
        if len(self) == 1:
            self._waits = waiting()
            self._waits.__enter__()

    def remove(self, watcher: Any) -> None:
        """See `list.remove`."""
        super().remove(watcher)
        if not isinstance(watcher, _AsCompletedWaiter) and not watcher.event.is_set():
            looked()  # its wait is over
        if not self:
            self._waits.__exit__(None, None, None)


class FutureHandle(TaskHandle[T]):
    """The handle of a task that has a future."""

    __slots__ = ("_future", "_kept", "_tell", "pinned", "size")

    _standard = True
    _sole = True

    def __init__(
        self, core: ClientCore, spec: Spec, future: TaskFuture[T], tell: Callable[[TaskFuture[T]], None]
    ) -> None:
        super().__init__(core, spec)
        #: Bytes of its arguments.
        self.size = 0
        self._kept = False
        self._future = future
        self._tell = tell
        #: Whether its result has still to be read from its place.
        self.pinned = False

    def _on_known(self, known: Known, wakes: list[Wake]) -> None:
        first = self._known is None
        super()._on_known(known, wakes)
        if first:
            if isinstance(known, bytes) and known.startswith(MARK):
                self._pin(known)
            self._let_go(known)
            self._tell(self._future)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """As of any handle; but an ended task may be let go at the coordinator, and its result is here: so the result
        itself travels.
        """
        if is_collecting() and not self._keep():
            return as_it_is, (self.result(0),)
        return super().__reduce__()

    def _keep(self) -> bool:
        """See `TaskHandle._keep`."""
        with self._desk.following.lock:
            known = self._known
            self._kept = self._kept or known is None
        return known is None or state_of(known) is not State.SUCCEEDED

    def release(self) -> None:
        """Its dependents are accepted: they keep it now."""
        with self._desk.following.lock:
            kept, self._kept = self._kept, False
            known = self._known
        if kept and known is not None and self._batch and not isinstance(known, Raised):
            index = max(0, self._index)
            self._desk.following.read.add(self._batch, index, index + 1, self.size)

    def _pin(self, known: bytes) -> None:
        """Its result must be read from its place, later."""
        self.pinned = True
        self.size += weight(known) - len(known)
        self._desk.following.read.pin(self._batch)

    def unpin(self) -> None:
        """It has been read."""
        self.pinned = False
        self._desk.following.read.unpin(self._batch)

    def _let_go(self, known: Known) -> None:
        """Let go of the task: only the future has its result now, and nobody will ask for it. A small one that
        travelled with others is let go with the last of them (`Group`).
        """
        size = self.size + (len(known) if isinstance(known, bytes) else 0)
        if self._kept:
            return
        if (size >= WORTH or self._index < 0) and self._batch and not isinstance(known, Raised):
            index = max(0, self._index)
            self._desk.following.read.add(self._batch, index, index + 1, size)


class TaskFuture(Future[T]):
    """The future of a task. Made by `Executor.submit`.

    Args:
        core: the client.
        cancel_soon: cancels a future without waiting.
    """

    def __init__(self, core: ClientCore, cancel_soon: Callable[[TaskFuture[Any]], None]) -> None:
        super().__init__()
        self._condition = Latch()  # type: ignore[assignment]
        self._waiters = Watchers()
        self._core = core
        self._cancel_soon = cancel_soon
        self._task: TaskHandle[T] | None = None

    @property
    def task(self) -> TaskHandle[T] | None:
        """The task's handle: its id, its state, and `TaskHandle.cancel`, which stops it also while it runs.

        None if the call could not be submitted.
        """
        return self._task

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Among the arguments of a call, a future stands for its result."""
        if self._task is None:
            raise HandlesMet("a future", "its call was not submitted, so it never has a result")
        return self._task.__reduce__()

    def cancel(self) -> bool:
        """Cancel the task if it has not been started, by a call to the coordinator.

        In the thread of an event loop, which must not wait, the call is made by another thread: the future is cancelled
        when the answer arrives.

        Returns:
            Whether it will never run; False also if that is not known (yet).
        """
        if self._state == PENDING and self._task is not None:
            if _in_loop():
                self._cancel_soon(self)
                return False
            if not self._revoke(self._task):
                return self.cancelled()
            return self.withdraw()
        return super().cancel()

    def done(self) -> bool:
        """Whether it has a result or an exception, or was cancelled; without a call."""
        over = super().done()
        if not over:
            looked()
        return over

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """See `concurrent.futures.Future.add_done_callback`."""
        if getattr(fn, "__module__", "") == _ASYNCIO and not super().done():
            # A coroutine is about to wait for it, by `asyncio.wrap_future` or `run_in_executor`.
            waits = waiting()
            waits.__enter__()
            super().add_done_callback(lambda _: waits.__exit__(None, None, None))
        super().add_done_callback(fn)

    def running(self) -> bool:
        """Whether a worker has the task now. Asks the coordinator as long as that is unknown."""
        task = self._task
        if not super().done():
            looked()
        if self._state == PENDING and task is not None and task._batch:
            try:
                state = self._core.task(task._batch, max(0, task._index)).state
            except DtqError:
                return False
            if state is State.RUNNING:
                self._begin()
        return super().running()

    def withdraw(self) -> bool:
        """CommitMarker the future as cancelled, as its task will never run, and tell its waiters; whether it is."""
        if not super().cancel():
            return False
        with self._condition:
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()
        return True

    def settle(self, broken: BaseException | None) -> None:
        """Set the result or exception of the ended task, or cancel the future.

        Args:
            broken: the exception if the task's end will never be known; None if the task has its own.
        """
        task = self._task
        assert task is not None
        known = task._decoded(None)
        if isinstance(task, FutureHandle) and task.pinned:
            task.unpin()
        try:
            if not isinstance(known, Raised):
                self.set_result(known.value)
            elif known.state is State.CANCELLED and self.withdraw():
                pass
            elif known.state is None and broken is not None:
                self.set_exception(broken)
            else:
                self.set_exception(known.error)
        except InvalidStateError:
            pass  # it was cancelled a moment ago

    def _invoke_callbacks(self) -> None:
        """Call all of them, even if one calls `sys.exit`: that goes on to the caller after the others."""
        ending: BaseException | None = None
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            try:
                callback(self)
            except Exception:
                log.exception("exception calling callback for %r", self)
            except BaseException as error:  # noqa: BLE001 - raised below
                ending = error
        if ending is not None:
            raise ending

    def _begin(self) -> None:
        with self._condition:
            if self._state == PENDING:
                self.set_running_or_notify_cancel()

    def _revoke(self, task: TaskHandle[T]) -> bool:
        """Cancel the waiting task at the coordinator; whether it was."""
        try:
            if not task.accepted(ACCEPT_S):
                return False
            if revoke(self._core, ((task._batch, max(0, task._index)),)):
                return True
            if not task.done():
                self.running()
        except DtqError:
            pass  # it was refused, or the coordinator cannot be asked
        return False


def revoke(core: ClientCore, ids: tuple[tuple[int, int], ...]) -> int:
    """Cancel waiting tasks, and leave running ones alone.

    Args:
        core: the client.
        ids: ``(batch, index)``; index -1 for the whole batch.

    Returns:
        Their number.
    """
    count = 0
    for state in _WAITING:
        count += core.call(partial(_cancel, Selection(ids=ids, state=state, limit=0)))
        if count and len(ids) == 1 and ids[0][1] >= 0:
            break
    return count


def _cancel(selection: Selection, service: Service) -> int:
    return service.cancel(selection).cancelled
