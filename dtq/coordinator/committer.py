"""Group commit: one thread writes all that has gathered while it wrote the last time.

Callers change the machine under the coordinator's lock, take the ticket of the generation that their change belongs to,
and wait for it outside the lock. However many callers there are, the disk is asked once a generation.

A commit that fails (full disk) is tried again with everything that came after it, for ever: what the machine has
decided stays decided. Meanwhile `trouble` says why, new submissions are refused, and waiting callers hear the error. An
engine whose disk is full may go on with space that it has set aside; then only submissions are refused, until it says
that there is room.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from dtq.core.changes import Change, Stored
from dtq.core.ledger import EndedRange
from dtq.engines.base import Engine
from dtq.errors import DtqError, ShuttingDown, StoreError

log = logging.getLogger("dtq.coordinator")

#: Pause before a failed commit is tried again, in seconds.
RETRY_S: Final = 0.5


class Generation:
    """What is committed together. A caller waits for it outside of every lock."""

    __slots__ = ("_done", "error")

    def __init__(self) -> None:
        self._done = threading.Event()
        self.error: DtqError | None = None

    def finish(self, error: DtqError | None) -> None:
        """The commit is over."""
        self.error = error
        self._done.set()

    def wait(self) -> None:
        """Wait until it is durable.

        Raises:
            StoreError: it is not; it is kept in memory and tried again.
            ShuttingDown: it is not, and will not be: the coordinator has stopped.
        """
        self._done.wait()
        if self.error is not None:
            raise _anew(self.error)


def _anew(error: DtqError) -> DtqError:
    """The same error as an object of its own: what is raised grows a traceback, and holds everything in it."""
    return type(error)(*error.args)


class Committer:
    """Makes the machine's changes durable.

    Args:
        engine: where they go.
        lock: the coordinator's lock.
        drain: hands over what has changed; called under the lock.
        dirty: whether anything has changed; called under the lock.
        committed: told what has become durable; called under the lock.
        failed: told which generations could not be made durable, before their waiters are; names the batches that it
            has taken back. Called under the lock.
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
        self._wake = threading.Event()
        self._stopping = False
        #: Why the last commit failed; None where it did not, or is past.
        self.stuck: StoreError | None = None
        #: Why new work is refused at the moment; None while it is not.
        self.trouble: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="dtq-committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ticket(self) -> Generation | None:
        """The generation after which everything that has changed so far is durable; None where it is.

        Called under the lock, after the change or before an answer that depends on earlier ones.
        """
        if self._ended:
            return self._gathering
        if self._dirty():
            if not self._wake.is_set():
                self._wake.set()
            return self._gathering
        if self._writing is not None:
            return self._writing
        return self._gathering if self._backlog else None  # what failed is tried again with the next generation

    def settle(self, ticket: Generation | None) -> None:
        """Wait for a ticket, outside of the lock.

        Raises:
            StoreError: it could not be made durable.
            ShuttingDown: the coordinator has stopped before it could be.
        """
        if ticket is not None and self.waits:
            ticket.wait()

    def refuse_if_in_trouble(self) -> None:
        """Raise what is wrong with the store while new work is refused."""
        trouble = self.trouble
        if trouble is not None:
            raise _anew(trouble)

    def refuse_if_stuck(self) -> None:
        """Raise what is wrong with the store while nothing at all can be written."""
        stuck = self.stuck
        if stuck is not None:
            raise _anew(stuck)

    def stop(self, timeout_s: float) -> bool:
        """Commit what there is and end the thread.

        Returns:
            Whether everything is durable.
        """
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._backlog

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.wait(None if self.trouble is None else RETRY_S)
                self._commit()
            self._commit()
            self._end(ShuttingDown(f"pid {os.getpid()}"))
        except Exception:
            log.exception("the committer thread died; nothing can be made durable any more")
            self.trouble = self.stuck = StoreError("(memory)", "the committer thread died, see the log")
            self._end(self.trouble)
            raise

    def _end(self, error: DtqError) -> None:
        """Nothing will be made durable any more: whoever waits, or comes to wait, hears so."""
        with self._lock:
            self._ended = True
            for generation in (self._writing, self._gathering):
                if generation is not None:
                    generation.finish(error)

    def _commit(self) -> None:
        with self._lock:
            self._wake.clear()
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
                # What has gathered meanwhile may build on what has failed, and would only wait to hear the same.
                done.append(self._gathering)
                self._gathering = Generation()
                self._leave_out(self._failed(done))
        for generation in done:
            generation.finish(error)
        if error is not None:
            self._wake.set()
            if not self._stopping:
                threading.Event().wait(RETRY_S)

    def _leave_out(self, batches: set[int]) -> None:
        """Do not try again to write batches that were taken back: they may be what there is no room for."""
        if batches:
            self._backlog = [change for change in self._backlog if _batch_of(change) not in batches]
            self._backlog_ended = [ended for ended in self._backlog_ended if ended.batch not in batches]

    def _write(self) -> tuple[StoreError | None, StoreError | None]:
        """Commit the backlog; why that failed, and why new work is to be refused."""
        if not self._backlog and self.trouble is None:
            return None, None
        error: StoreError | None = None
        trouble: StoreError | None
        try:
            # What was not taken back when it failed the first time has to be written some time.
            trouble = self._engine.commit(self._backlog, insist=self.stuck is not None)
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
