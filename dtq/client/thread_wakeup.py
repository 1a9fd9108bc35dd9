"""A wake-up for one thread that any code may ring.

Client, below everything that waits. Unlike a Condition or an Event it takes no lock to ring, so garbage collection, a
signal handler or a callback may ring it at any point.
"""

from __future__ import annotations

import threading


class ThreadWakeup:
    """A wakeup with one waiter: rings between two waits count as one."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def ring(self) -> None:
        """Wake the present, or the next, waiter."""
        try:  # noqa: SIM105 - this runs once a task, and contextlib.suppress costs five times as much
            self._closed.release()
        except RuntimeError:
            pass  # rung already

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it rings.

        Args:
            timeout_s: how long at most, in seconds; None for ever.

        Returns:
            Whether it rang.
        """
        if timeout_s is None:
            return self._closed.acquire()
        return self._closed.acquire(timeout=min(max(0.0, timeout_s), threading.TIMEOUT_MAX))
