"""The pace of a batch: how many of its tasks end per second, as far as that is known.

A batch of several tasks notes the number of its ended tasks at some of its leases, so the pace costs nothing per task.
It is forgotten at a restart, and known again a few seconds later.
"""

from __future__ import annotations

from typing import Final

#: Seconds between two notes. The pace is that of the time since the last note but one: at least so long, once it is
#: known at all for longer, and twice as long while tasks start all the time.
_NOTE_S: Final = 5.0


class Pace:
    """Two moments of a batch, and the numbers of its ended tasks then.

    Args:
        now: the moment of its first lease.
        ended: number of ended tasks.
    """

    __slots__ = ("_ended", "_ended_before", "_noted_at", "_since")

    def __init__(self, now: float, ended: int) -> None:
        self._since = self._noted_at = now
        self._ended_before = self._ended = ended

    def note(self, now: float, ended: int) -> None:
        """Note the number of ended tasks, if the last note is old enough."""
        if now - self._noted_at >= _NOTE_S:
            self._since, self._ended_before = self._noted_at, self._ended
            self._noted_at, self._ended = now, ended

    def rate(self, now: float, ended: int) -> float | None:
        """Ends of tasks per second; None if it is unknown, or nothing has ended for long."""
        span_s, count = now - self._since, ended - self._ended_before
        return count / span_s if span_s > 0 and count > 0 else None
