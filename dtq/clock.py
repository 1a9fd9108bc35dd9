"""The clock port: the only source of time in dtq.

Ground floor. The core never reads a clock: its caller reads one here, once, and passes the value on. Two kinds of time
are kept apart. A *steady* time counts seconds of the Unix epoch but never jumps: it starts at the wall clock and then
follows the monotonic clock. Leases, delays and backoffs live on it, so setting the machine's clock neither hastens nor
starves a task. Moments by the time of day (schedules, `at`) are compared with the *wall* time, which jumps when the
clock is set. In-process waits use ``time.monotonic`` as everywhere in Python.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the steady time, and the wall time."""

    def now(self) -> float:
        """Seconds since the Unix epoch, never going back, never jumping with the wall clock."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch as the machine's clock shows them, which may be set at any time."""
        ...


class SteadyClock:
    """The real clock: anchored to the wall clock once, then monotonic."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """The steady time in seconds."""
        return time.monotonic() + self._offset

    def wall(self) -> float:
        """The wall time in seconds."""
        return time.time()
