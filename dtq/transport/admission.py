"""The door: how many connections there may be, and which stranger has to leave when it is crowded.

Whoever holds the key is let in up to a total; those who have proved nothing yet share a small waiting room, where the
oldest makes room for the next, so that silent connections by the thousand cost sixty-four threads and delay nobody.
Only the accept loop admits; connections leave from their own threads.
"""

from __future__ import annotations

import logging
import time
from threading import Condition, Lock
from typing import Final

from dtq.transport.connection import Connection

#: Seconds that a newcomer is given before it may be sent away for another: an honest client on a busy machine needs a
#: millisecond or few, and a burst of them must not push itself out.
GRACE_S: Final = 0.02


class Refused(Exception):
    """There is no room; the text says of what."""


class Admission:
    """Keeps the list of connections.

    Args:
        most: connections in all.
        most_pending: connections that have proved nothing yet.
    """

    def __init__(self, most: int, most_pending: int) -> None:
        self._most = most
        self._most_pending = most_pending
        self._pending: dict[Connection, float] = {}  # since when; oldest first
        self._proved: set[Connection] = set()
        self._changed = Condition(Lock())

    def admit(self, connection: Connection) -> None:
        """Let a newcomer into the waiting room, sending away the oldest there if it is full.

        Raises:
            Refused: there are as many connections as there may be.
        """
        with self._changed:
            if len(self._proved) + len(self._pending) >= self._most:
                raise Refused(f"there are {self._most} connections already")
            while len(self._pending) >= self._most_pending:
                oldest, since = next(iter(self._pending.items()))
                left_s = since + GRACE_S - time.monotonic()
                if left_s <= 0:
                    del self._pending[oldest]
                    oldest.interrupt()  # its thread wakes up and lets it go
                else:
                    self._changed.wait(left_s)
            self._pending[connection] = time.monotonic()

    def prove(self, connection: Connection) -> bool:
        """A connection has proved itself; whether it was still in the waiting room."""
        with self._changed:
            if self._pending.pop(connection, None) is None:
                return False
            self._proved.add(connection)
            self._changed.notify()
            return True

    def leave(self, connection: Connection) -> None:
        """A connection is gone; calling it twice does no harm."""
        with self._changed:
            self._pending.pop(connection, None)
            self._proved.discard(connection)
            self._changed.notify()

    def everybody(self) -> list[Connection]:
        """All connections there are."""
        with self._changed:
            return [*self._pending, *self._proved]


class StrangersLog:
    """Says what strangers do, at most so often: a port scan must not fill a disk.

    Args:
        log: where to.
        most: lines in a period; what is above is counted, and the count said with the next period's first line.
        period_s: its length in seconds.
    """

    def __init__(self, log: logging.Logger, *, most: int = 20, period_s: float = 60.0) -> None:
        self._log = log
        self._most = most
        self._period_s = period_s
        self._until = 0.0
        self._said = 0
        self._unsaid = 0
        self._lock = Lock()

    def warning(self, text: str, *args: object) -> None:
        """Log a line, or count it."""
        with self._lock:
            now = time.monotonic()
            if now >= self._until:
                self._until = now + self._period_s
                self._said = 0
                self._say_unsaid()
            if self._said >= self._most:
                self._unsaid += 1
                return
            self._said += 1
        self._log.warning(text, *args)

    def close(self) -> None:
        """Say what was only counted so far."""
        with self._lock:
            self._say_unsaid()

    def _say_unsaid(self) -> None:
        if self._unsaid:
            self._log.warning("%d more refused connections were not logged one by one", self._unsaid)
            self._unsaid = 0
