"""The table of authenticated connections: their number, its bound, and the key of each.

Unauthenticated connections are not here: they wait in `pending_connections`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

from dtq.config.keys import Key
from dtq.transport.connection import Connection


class ConnectionTable:
    """The table of connections.

    Args:
        most: bound of their number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in: dict[Connection, Key] = {}
        self._lock = Lock()

    @property
    def full(self) -> bool:
        """Whether the number of connections has reached its bound."""
        return len(self._in) >= self._most

    def admit(self, connection: Connection, key: Key) -> None:
        """Add a connection; only the reception's thread does, after a check of `full`."""
        with self._lock:
            self._in[connection] = key

    def leave(self, connection: Connection) -> None:
        """Remove a connection; calling it twice does no harm."""
        with self._lock:
            self._in.pop(connection, None)

    def everybody(self, where: Callable[[Key], bool] = lambda key: True) -> list[Connection]:
        """The connections whose keys match."""
        with self._lock:
            return [connection for connection, key in self._in.items() if where(key)]


class RateLimitedLog:
    """Logs warnings about strangers at a bounded rate: a port scan must not fill a disk.

    Args:
        log: the log.
        most: lines in a period; further ones are counted, and their number is logged with the next period's first line.
        period_s: the period in seconds.
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
        """Log the number of lines that were only counted."""
        with self._lock:
            self._say_unsaid()

    def _say_unsaid(self) -> None:
        if self._unsaid:
            self._log.warning("%d more refused connections were not logged one by one", self._unsaid)
            self._unsaid = 0
