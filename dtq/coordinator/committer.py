"""Group commit: a caller that needs a change durable commits it together with all other changes so far.

Callers change the machine under the coordinator's lock, take the ticket of the generation that their change belongs to,
and settle it outside the lock. If no commit is under way at that moment, the caller commits itself, which saves two
threads from waking each other; else it waits, and a thread of the committer writes the next generation for all callers
that came meanwhile. However many callers there are, the disk is written once a generation. Changes that no caller waits
for (a new lease) are written with the next generation, or soon by the thread.

A failed commit (full disk) is tried again with everything that came after it, for ever: the machine's decisions stay
decided. Meanwhile `trouble` has the error, new submissions are refused, and waiting callers get the error.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from dtq.core.changes import Change, Stored
from dtq.core.ledger import EndedRange
from dtq.engines.base import Engine
from dtq.errors import DtqError, ShuttingDown, StoreError

log = logging.getLogger("dtq.coordinator")

#: Pause before a failed commit is tried again, in seconds.
RETRY_S: Final = 0.5
#: Longest wait of changes without a waiting caller for a commit, in seconds: after a kill of the coordinator, leases
#: granted within this time are unknown, and their tasks run again.
SOON_S: Final = 0.02
_DIED: Final = "a commit failed of a defect; nothing can be made durable any more"


class Generation:
    """The changes of one commit. A caller waits for it outside of every lock."""

    __slots__ = ("_gate", "error", "over", "wanted")

    def __init__(self) -> None:
        # One is made for each commit, and an event would be three more objects.
        self._gate = threading.Lock()
        self._gate.acquire()
        self.error: DtqError | None = None
        #: Whether the commit is over.
        self.over = False
        #: Whether a caller waits for it.
        self.wanted = False

    def finish(self, error: DtqError | None) -> None:
        """Note that the commit is over. One thread at a time."""
        if not self.over:
            self.error = error
            self.over = True
            self._gate.release()

    def wait(self) -> None:
        """Wait until it is durable.

        Raises:
            StoreError: it is not; it is kept in memory and tried again.
            ShuttingDown: it is not, and will not be: the coordinator has stopped.
        """
        with self._gate:
            pass
        if self.error is not None:
            raise _anew(self.error)


def _anew(error: DtqError) -> DtqError:
    """A copy of the error: a raised error grows a traceback, which keeps everything in it alive."""
    return type(error)(*error.args)


class Committer:
    """Makes the machine's changes durable.

    Args:
        engine: stores them.
        lock: the coordinator's lock.
        drain: hands over the changes; called under the lock.
        dirty: whether anything has changed; called under the lock.
        committed: told of durable changes; called under the lock.
        failed: told of generations that could not be made durable, before their waiters are; returns the batches that
            it has withdrawn. Called under the lock.
        wait: whether `settle` waits for the disk (not with durability "none").
    """

    def __init__(
        self,
        engine: Engine,
        lock: threading.Lock,
        *,
        drain: Callable[[], tuple[list[Change], list[EndedRange]]],
        dirty: Callable[[], bool],
        committed: Callable[[Generation, list[Change], list[EndedRange]], None],
        failed: Callable[[list[Generation]], set[int]],
        wait: bool,
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._drain = drain
        self._dirty = dirty
        self._committed = committed
        self._failed = failed
        #: Whether `settle` waits for the disk, so that nothing is acknowledged before.
        self.waits = wait
        self._ended = False
        self._gathering = Generation()
        self._writing: Generation | None = None
        self._backlog: list[Change] = []
        self._backlog_ended: list[EndedRange] = []
        #: Held by the committing thread.
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        #: Why the last commit failed; None if it did not, or the failure has passed.
        self.stuck: StoreError | None = None
        #: Why new work is refused at the moment; None if it is not.
        self.trouble: StoreError | None = None
        #: Whether the engine has freed room to give back, and when it may have some even without a commit.
        self._unfinished = False
        self._again_at = math.inf
        #: Until when the thread waits unless it is woken.
        self._waits_until = math.inf
        self._thread = threading.Thread(target=self._run, name="dtq-committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ticket(self) -> Generation | None:
        """The generation after which all changes so far are durable; None if they are.

        Called under the lock, after the change or before an answer that depends on earlier ones.
        """
        if self._ended or self._dirty():
            return self._gathering
        if self._writing is not None:
            return self._writing
        return self._gathering if self._backlog else None  # failed changes are tried again with the next generation

    def soon(self) -> None:
        """Order a commit of changes although no caller waits for them. Called under the lock, after the change."""
        if not self._wake.is_set() and self._dirty():
            self._wake.set()

    def settle(self, ticket: Generation | None) -> None:
        """Order the commit of a ticket, outside of the lock, and wait for it unless durability is "none"."""
        if ticket is not None:
            self._have(ticket)
            if self.waits:
                ticket.wait()

    def complete(self, ticket: Generation | None) -> None:
        """Order the commit of a ticket, outside of the lock, and wait for it whatever the durability."""
        if ticket is not None:
            self._have(ticket)
            ticket.wait()

    def _have(self, ticket: Generation) -> None:
        """Commit a ticket, unless another thread commits now; that thread will find that it is wanted."""
        ticket.wanted = True
        if ticket.over or self.stuck is not None or not self._turn.acquire(blocking=False):
            return
        try:
            if not ticket.over:
                self._commit()
        except Exception:
            log.exception(_DIED)
            self._die()
        finally:
            self._turn.release()
        self._look_behind()

    def _look_behind(self) -> None:
        """After releasing the turn, check again: a waiter may have arrived meanwhile."""
        if self._gathering.wanted:
            self._hurry.set()
            self._wake.set()

    def refuse_if_in_trouble(self) -> None:
        """Raise the store's error while new work is refused."""
        trouble = self.trouble
        if trouble is not None:
            raise _anew(trouble)

    def refuse_if_stuck(self) -> None:
        """Raise the store's error while nothing at all can be written."""
        stuck = self.stuck
        if stuck is not None:
            raise _anew(stuck)

    def stop(self, timeout_s: float) -> bool:
        """Commit the rest and end the thread.

        Returns:
            Whether everything is durable.
        """
        self._stopping.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._backlog

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._await_need()
                with self._turn:
                    self._wake.clear()
                    self._hurry.clear()
                    self._commit()
                self._look_behind()
            with self._turn:
                if not self._ended:
                    self._commit()
                self._end(ShuttingDown(f"pid {os.getpid()}"))
        except Exception:
            log.exception(_DIED)
            with self._turn:
                self._die()

    def _await_need(self) -> None:
        if self.stuck is not None:
            self._stopping.wait(RETRY_S)
        elif self._wake.wait(self._patience()):
            self._hurry.wait(SOON_S)

    def _patience(self) -> float | None:
        """Longest wait of the thread unless it is woken; None for ever."""
        if self.trouble is not None:
            return RETRY_S
        self._waits_until = self._again_at
        return None if self._again_at == math.inf else max(0.0, self._again_at - time.monotonic())

    def _die(self) -> None:
        """After a defect, wake all waiters with the error. With the turn."""
        self.trouble = self.stuck = StoreError("(memory)", "the committer died, see the log")
        self._end(self.trouble)

    def _end(self, error: DtqError) -> None:
        """Nothing will be made durable any more: wake all present and future waiters with the error. With the turn."""
        with self._lock:
            self._ended = True
            for generation in (self._writing, self._gathering):
                if generation is not None:
                    generation.finish(error)

    def _commit(self) -> None:
        """Write the gathered changes. With the turn."""
        with self._lock:
            changes, ended = self._drain()
            self._backlog += changes
            self._backlog_ended += ended
            generation, self._gathering = self._gathering, Generation()
            self._writing = generation
        error, trouble = self._write()
        done = [generation]
        with self._lock:
            self._writing = None
            self.stuck = error
            self.trouble = trouble
            if error is None:
                changes, self._backlog = self._backlog, []
                ended, self._backlog_ended = self._backlog_ended, []
                self._committed(generation, changes, ended)
            else:
                # Later changes may build on the failed ones, and would only wait for the same error.
                done.append(self._gathering)
                self._gathering = Generation()
                self._leave_out(self._failed(done))
        for generation in done:
            generation.finish(error)
        if error is not None:
            self._hurry.set()
            self._wake.set()  # the thread tries again
        elif self._unfinished:
            self._wake.set()  # the thread goes on giving back, one step each `SOON_S`
        elif self._again_at < self._waits_until:
            self._wake.set()  # the thread waits for a shorter time

    def _leave_out(self, batches: set[int]) -> None:
        """Drop withdrawn batches from the backlog: they may be the ones without room."""
        if batches:
            self._backlog = [change for change in self._backlog if _batch_of(change) not in batches]
            self._backlog_ended = [ended for ended in self._backlog_ended if ended.batch not in batches]

    def _write(self) -> tuple[StoreError | None, StoreError | None]:
        """Write the backlog; the error if that failed, and the reason to refuse new work."""
        due = self._unfinished or (self._again_at < math.inf and time.monotonic() >= self._again_at)
        if not self._backlog and self.trouble is None and not due:
            return None, None
        error: StoreError | None = None
        trouble: StoreError | None
        try:
            # Changes that were not withdrawn after their first failure must be written eventually.
            done = self._engine.commit(self._backlog, insist=self.stuck is not None)
            trouble, self._unfinished = done.shortage, done.unfinished
            self._again_at = math.inf if done.again_s is None else time.monotonic() + done.again_s
        except StoreError as raised:
            error = trouble = raised
        if trouble is not None and self.trouble is None:
            log.error("%s", trouble)
        elif trouble is None and self.trouble is not None:
            log.warning("the store can be written again; new work is accepted")
        return error, trouble


def _batch_of(change: Change) -> int | None:
    number: int | None = getattr(change.row if isinstance(change, Stored) else change, "batch", None)
    return number
