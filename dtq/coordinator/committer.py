"""Group commit: one thread writes all that has gathered while it wrote the last time.

Callers change the machine under the coordinator's lock, take the ticket of the generation that their change belongs to,
and wait for it outside the lock. However many callers there are, the disk is asked once a generation.

A commit that fails (full disk) is tried again with everything that came after it, for ever: what the machine has
decided stays decided. Meanwhile `trouble` says why, new submissions are refused, and waiting callers hear the error.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from dtq.core.changes import Change
from dtq.core.ledger import EndedRange
from dtq.engines.base import Engine
from dtq.errors import StoreError

log = logging.getLogger("dtq.coordinator")

#: Pause before a failed commit is tried again, in seconds.
RETRY_S: Final = 0.5


class Generation:
    """What is committed together. A caller waits for it outside of every lock."""

    __slots__ = ("_done", "error")

    def __init__(self) -> None:
        self._done = threading.Event()
        self.error: StoreError | None = None

    def finish(self, error: StoreError | None) -> None:
        """The commit is over."""
        self.error = error
        self._done.set()

    def wait(self) -> None:
        """Wait until it is durable.

        Raises:
            StoreError: it is not; it is kept in memory and tried again.
        """
        self._done.wait()
        if self.error is not None:
            raise self.error


class Committer:
    """Makes the machine's changes durable.

    Args:
        engine: where they go.
        lock: the coordinator's lock.
        drain: hands over what has changed; called under the lock.
        dirty: whether anything has changed; called under the lock.
        committed: told what has become durable; called under the lock.
        failed: told that a generation could not be made durable, before its waiters are; called under the lock.
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
        failed: Callable[[Generation], None],
        wait: bool,
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._drain = drain
        self._dirty = dirty
        self._committed = committed
        self._failed = failed
        self._wait = wait
        self._gathering = Generation()
        self._writing: Generation | None = None
        self._backlog: list[Change] = []
        self._backlog_ended: list[EndedRange] = []
        self._wake = threading.Event()
        self._stopping = False
        #: Why the store cannot be written at the moment; None while it can.
        self.trouble: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="dtq-committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ticket(self) -> Generation | None:
        """The generation after which everything that has changed so far is durable; None where it is.

        Called under the lock, after the change or before an answer that depends on earlier ones.
        """
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
        """
        if ticket is not None and self._wait:
            ticket.wait()

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
                self._wake.wait()
                self._commit()
            self._commit()
        except Exception:
            log.exception("the committer thread died; nothing can be made durable any more")
            self.trouble = StoreError("(memory)", "the committer thread died, see the log")
            with self._lock:
                for generation in (self._writing, self._gathering):
                    if generation is not None:
                        generation.finish(self.trouble)
            raise

    def _commit(self) -> None:
        with self._lock:
            self._wake.clear()
            changes, ended = self._drain()
            self._backlog += changes
            self._backlog_ended += ended
            generation, self._gathering = self._gathering, Generation()
            self._writing = generation
        error = self._write()
        with self._lock:
            self._writing = None
            self.trouble = error
            if error is None:
                changes, self._backlog = self._backlog, []
                ended, self._backlog_ended = self._backlog_ended, []
                self._committed(generation, changes, ended)
            else:
                self._failed(generation)
        generation.finish(error)
        if error is not None:
            self._wake.set()
            if not self._stopping:
                threading.Event().wait(RETRY_S)

    def _write(self) -> StoreError | None:
        if not self._backlog:
            return None
        try:
            self._engine.commit(self._backlog)
        except StoreError as error:
            if self.trouble is None:
                log.error("%s New submissions are refused until it can be written again.", error)
            return error
        if self.trouble is not None:
            log.warning("the store can be written again; submissions are accepted")
        return None
