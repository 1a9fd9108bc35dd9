"""The ticker: a thread that wakes at the next deadline and calls `tick`. It does not poll: without a deadline it
sleeps.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from dtq.clock import Clock

log = logging.getLogger("dtq.coordinator")

#: Shortest pause between two ticks in seconds: everything due meanwhile is done together.
_SHORTEST_S: Final = 0.005
#: Longest sleep in seconds: bounds how late a deadline is noticed if a call to `by` was forgotten somewhere.
_LONGEST_S: Final = 5.0


class Ticker:
    """Calls a function when a deadline has come.

    Args:
        clock: tells the time.
        tick: does everything that is due, and returns the next deadline.
    """

    def __init__(self, clock: Clock, tick: Callable[[], float]) -> None:
        self._clock = clock
        self._tick = tick
        self._changed = threading.Condition()
        self._deadline = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dtq-ticker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def by(self, deadline: float | None) -> None:
        """Set a deadline; wakes the thread only if it is earlier than the known one."""
        if deadline is not None and deadline < self._deadline:
            with self._changed:
                self._deadline = min(self._deadline, deadline)
                self._changed.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(5.0)

    def _run(self) -> None:
        earliest = 0.0
        while True:
            with self._changed:
                while not self._stopping and (left := max(earliest, self._deadline) - self._clock.now()) > 0:
                    self._changed.wait(min(left, _LONGEST_S))
                if self._stopping:
                    return
                # Deadlines set from here on count; the tick sees earlier ones.
                self._deadline = float("inf")
            try:
                deadline = self._tick()
            except Exception:
                log.exception("a tick failed; the next one comes in a second")
                deadline = self._clock.now() + 1.0
            earliest = self._clock.now() + _SHORTEST_S
            self.by(deadline)
