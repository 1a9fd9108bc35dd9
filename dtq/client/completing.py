"""The part of an executor behind its futures: its client, its cluster if any, and the thread that completes futures.

Client, between the futures and the executor. News of tasks arrive on the client's own thread, which only passes them
on; the completing thread unpickles results and runs callbacks, so that slow callbacks hold up nothing but each other.
The thread has no reference to the executor, which may be garbage-collected: then the thread ends everything after the
last future.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Protocol

from dtq.client.batches import Batch
from dtq.client.client_core import ClientCore
from dtq.client.current import waiting
from dtq.client.following import ACCEPTED, ENDED, add_waiter
from dtq.client.futures import ACCEPT_S, FutureHandle, TaskFuture, revoke
from dtq.client.local import LocalCluster
from dtq.client.outbox import Item
from dtq.client.sync import Client
from dtq.errors import DtqError, InitializerFailed, TaskCancelled
from dtq.model.options import Spec
from dtq.wording import counted, duration

log = logging.getLogger("dtq.client")

#: Tasks named in one cancelling call.
_NAMED: Final = 1024


class ExecutorBroken(DtqError, BrokenExecutor):
    """The executor is unusable, and its unfinished tasks will never be known to end."""

    code = "executor-broken"
    exit_code = 69
    text = "the executor is broken: {0}"


class Reader(Protocol):
    """A reader of a map's results."""

    def gather(self) -> None:
        """Fetch unread results; all of them exist."""
        ...


class Completer:
    """The part of an executor behind its futures.

    Args:
        client: the connection; closed with this.
        cluster: the executor's own cluster, if it has one; closed with this.

    Attributes:
        core: the client.
        cluster: the cluster.
        stopping: no more calls are submitted.
        broken: why this is unusable; None while it is usable.
        inherited: whether this process is a child made by `os.fork`, and this belongs to its parent.
        readers: of maps, which may outlive the cluster.
    """

    def __init__(self, client: Client, cluster: LocalCluster | None) -> None:
        self.core = client._core
        self.cluster = cluster
        self.stopping = False
        self.broken: ExecutorBroken | None = None
        self.readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._client = client
        self._owner = os.getpid()
        self.inherited = False
        #: Whether this ends after the last future.
        self._ending = False
        #: Unreferenced futures to be cancelled.
        self._unwanted: deque[TaskFuture[Any]] = deque()
        self._inbox: SimpleQueue[TaskFuture[Any] | Callable[[], None]] = SimpleQueue()
        self._pending: set[TaskFuture[Any]] = set()
        self._maps: set[Batch] = set()
        self._thread = threading.Thread(target=self._run, name="dtq-executor", daemon=True)
        self._thread.start()
        _completers.add(self)
        if cluster is not None:
            cluster.on_end(self._on_cluster_end)

    # -- by the executor ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise the error that a submission would raise now.

        Raises:
            ExecutorBroken: it is broken.
            RuntimeError: it was shut down, or belongs to another process.
        """
        if self.broken is not None:
            raise ExecutorBroken(*self.broken.args)
        if self.stopping:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self.inherited:
            raise RuntimeError(f"this executor belongs to process {self._owner}: make another one after a fork")
        if self.core.outbox.closed is not None:
            raise self.failure(self.core.outbox.closed)

    def failure(self, error: DtqError) -> ExecutorBroken:
        """Handle an unexpected end of the client."""
        if self.broken is None:
            self.broken = ExecutorBroken(str(error))
        return self.broken

    def handle(self, future: TaskFuture[Any], core: ClientCore, spec: Spec) -> FutureHandle[Any]:
        """A handle that sets the future when its task has ended."""
        future._task = handle = FutureHandle(core, spec, future, self._inbox.put)
        return handle

    def submit(self, future: TaskFuture[Any], item: Item) -> None:
        """Send the task of a future.

        Raises:
            ExecutorBroken, RuntimeError: as `check`; it was not sent.
        """
        self._pending.add(future)
        if isinstance(item.handle, FutureHandle):
            item.handle.size = item.weight
        try:
            self.core.outbox.put(item)
        except DtqError as error:
            self._pending.discard(future)
            self.core.drop(item)
            self.check()
            raise self.failure(error) from error
        except BaseException:  # Ctrl-C: the caller will never get this future
            self._pending.discard(future)
            self.core.drop(item)
            raise

    def follow(self, batch: Batch) -> None:
        """Count a map as unfinished work; before it is sent."""
        self._maps.add(batch)
        add_waiter(batch, ENDED, partial(self._inbox.put, partial(self._maps.discard, batch)))

    def forget(self, batch: Batch) -> None:
        """Do not count a map any more: it was never sent."""
        self._maps.discard(batch)

    def abandon_map(self, batch: Batch) -> None:
        """Give up a map whose reader has stopped: cancel its unstarted tasks, and let go of the rest, some time; from
        anywhere, also in the middle of garbage collection.
        """
        self._inbox.put(partial(self.abandon_map_now, batch))

    def disown_map(self, batch: Batch) -> None:
        """Let go of a map without a reader when it has ended; the map goes on; from anywhere, as `abandon_map`."""
        self._inbox.put(partial(self.core.following.disown, batch))

    def translated(self, error: BaseException) -> BaseException:
        """The reader's view of an error."""
        if isinstance(error, TaskCancelled):
            return CancelledError()
        if isinstance(error, DtqError) and error is self.core.outbox.closed:
            return ExecutorBroken(*self.failure(error).args)
        return error

    def cancel_all(self) -> None:
        """Cancel all unstarted tasks; returns when that is done."""
        deadline = time.monotonic() + ACCEPT_S
        self.cancel(list(self._pending), deadline)
        for batch in list(self._maps):
            self.revoke_map_now(batch, deadline)

    def cancel(self, futures: Iterable[Future[Any]], deadline: float | None = None) -> None:
        """Cancel the unstarted ones; returns after the calls to the coordinator, which are few.

        Args:
            futures: of this executor.
            deadline: how long to wait for those that are still being submitted, ``time.monotonic()``.
        """
        ids = self._accepted(futures, time.monotonic() + ACCEPT_S if deadline is None else deadline)
        for start in range(0, len(ids), _NAMED):
            self._try_to_revoke(tuple(ids[start : start + _NAMED]))

    def cancel_soon(self, future: TaskFuture[Any]) -> None:
        """Cancel a future if its task has not been started, without waiting: it is cancelled on the coordinator's
        answer.
        """
        self._unwanted.append(future)
        self._inbox.put(self._cancel_unwanted)

    def _cancel_unwanted(self) -> None:
        futures = []
        while self._unwanted:
            futures.append(self._unwanted.popleft())
        self.cancel(futures)

    @staticmethod
    def _accepted(futures: Iterable[Future[Any]], deadline: float) -> list[tuple[int, int]]:
        """The tasks of unfinished futures, by batch and index."""
        ids: list[tuple[int, int]] = []
        for future in futures:
            task = future.task if isinstance(future, TaskFuture) else None
            try:
                if task is not None and not future.done() and task.accepted(max(0.0, deadline - time.monotonic())):
                    ids.append((task._batch, max(0, task._index)))
            except DtqError:
                pass  # it was refused, and its future has the error
        return ids

    # -- Ctrl-C ---------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Stop everything, running tasks too, and end; returns soon, even without an answer of the coordinator.

        As with the standard library, whose processes get Ctrl-C from the terminal themselves.
        """
        self.stopping = True
        self._inbox.put(self._stop_all)
        self.stop()
        if threading.current_thread() is self._thread or self.inherited:
            return
        self._thread.join(INTERRUPT_S)
        if self._thread.is_alive():
            self.core.fail(self.failure(DtqError("it was interrupted")))
            self._thread.join(INTERRUPT_S)

    def interrupt_map(self, batch: Batch) -> None:
        """Stop a map whose reader has stopped, running tasks too, some time."""
        self._inbox.put(partial(self._stop_ids, batch))
        self.disown_map(batch)

    def _stop_all(self) -> None:
        ids = self._accepted(list(self._pending), time.monotonic() + INTERRUPT_S)
        self._stop_tasks(ids + [(batch.number, -1) for batch in list(self._maps) if batch.number])

    def _stop_ids(self, batch: Batch) -> None:
        if not batch.finished and self.core.following.wait(batch, ACCEPTED, INTERRUPT_S) and batch.number:
            self._stop_tasks([(batch.number, -1)])

    def _stop_tasks(self, ids: list[tuple[int, int]]) -> None:
        try:
            for start in range(0, len(ids), _NAMED):
                self.core.cancel(ids[start : start + _NAMED])
        except DtqError as error:
            self._complain(error, len(ids))

    def stop(self) -> None:
        """Submit nothing more, and end after the last task; from anywhere, also in the middle of garbage collection."""
        self.stopping = self._ending = True
        self._inbox.put(_nothing)

    def join(self) -> None:
        """Wait for the end, if possible: not from a callback, and not in another process."""
        if threading.current_thread() is not self._thread and not self.inherited:
            with waiting():
                self._thread.join()

    def finish(self) -> None:
        """Wait for the end at the program's exit; the wait for a coordinator that is away is bounded."""
        away_s = 0.0
        while self._thread.is_alive() and not self.inherited:
            self._thread.join(_LOOK_S)
            away_s = away_s + _LOOK_S if self.core.session.away else 0.0
            if away_s > AWAY_AT_EXIT_S:
                log.warning(
                    "the program ends before its futures: the coordinator has been away for %s", duration(away_s)
                )
                return

    def after_fork(self) -> None:
        """In a child made by `os.fork`: there is no thread here, and the submissions are the parent's."""
        self.inherited = True

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._ending and not self._pending and not self._maps):
                item = self._inbox.get()
                if isinstance(item, TaskFuture):
                    self._settle(item)
                else:
                    item()
                del item  # the loop must not keep a result alive
        except Exception as error:
            log.exception("the thread that completes an executor's futures failed")
            self.core.fail(self.failure(DtqError(f"it failed at something of its own ({error!r})")))
            for future in list(self._pending):
                self._settle(future)
        finally:
            self._close()

    def _settle(self, future: TaskFuture[Any]) -> None:
        closed = self.core.outbox.closed
        try:
            future.settle(None if closed is None else ExecutorBroken(*self.failure(closed).args))
        except BaseException:  # a callback of the user's that calls sys.exit, for one: the others go on
            log.exception("a callback of %r raised an exception that must not end this thread", future)
        finally:
            self._pending.discard(future)

    def _close(self) -> None:
        self.stopping = True
        _completers.discard(self)
        try:
            for reader in list(self.readers):
                reader.gather()
            self._client.close()
        except DtqError as error:
            log.warning("the executor's client did not end well: %s", error)
        finally:
            if self.cluster is not None:
                self.cluster.close(drain=self.broken is None)

    def abandon_map_now(self, batch: Batch) -> None:
        """As `abandon_map`; returns after the cancelling call."""
        self.revoke_map_now(batch)
        self.core.following.disown(batch)

    def revoke_map_now(self, batch: Batch, deadline: float | None = None) -> None:
        """Cancel a map's unstarted tasks; returns when that is done."""
        wait_s = ACCEPT_S if deadline is None else max(0.0, deadline - time.monotonic())
        if not batch.finished and self.core.following.wait(batch, ACCEPTED, wait_s) and batch.number:
            self._try_to_revoke(((batch.number, -1),))

    def _try_to_revoke(self, ids: tuple[tuple[int, int], ...]) -> None:
        try:
            revoke(self.core, ids)
        except DtqError as error:
            self._complain(error, len(ids))

    def _complain(self, error: DtqError, count: int) -> None:
        if self.core.outbox.closed is None:  # else there is nothing left to cancel
            log.warning("%s could not be cancelled: %s", counted(count, "task or map", "tasks or maps"), error)

    def _on_cluster_end(self, error: DtqError) -> None:
        if InitializerFailed.text.partition("{")[0] in str(error):  # the pools of the standard library use this class
            logging.getLogger("concurrent.futures").critical("Exception in initializer: %s", error)
        self.core.fail(self.failure(error))


def _nothing() -> None:
    """Only wakes the thread."""


#: Longest wait of Ctrl-C for an orderly end, in seconds; then as long again for a forced one.
INTERRUPT_S: Final = 0.9
#: Longest wait of an ending program for futures while the coordinator is away, in seconds; and the pause between two
#: looks.
AWAY_AT_EXIT_S: Final = 10.0
_LOOK_S: Final = 0.2

#: All unfinished ones.
_completers: Final[weakref.WeakSet[Completer]] = weakref.WeakSet()


@atexit.register
def _finish_all() -> None:
    """As with the executors of the standard library: the program ends when all of its futures are done."""
    completers = list(_completers)
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    for completer in completers:
        if interrupted:  # it ends because of Ctrl-C
            completer.interrupt()
        completer.stop()
    for completer in completers:
        completer.finish()


def _after_fork() -> None:
    for completer in list(_completers):
        completer.after_fork()


os.register_at_fork(after_in_child=_after_fork)
