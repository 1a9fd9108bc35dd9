"""The pace of each queue: how many of its tasks succeed in a minute. Pure.

The machine counts them by queue, once a report; copies of these counts are kept for a minute, one in ten seconds, and
only while anything happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

#: Seconds between two copies, and over which a pace is taken.
_STEP_S: Final = 10.0
_OVER_S: Final = 60.0


class Paces:
    """Takes the paces of queues.

    Args:
        now: the time.
        done: succeeded tasks by queue.
    """

    def __init__(self, now: float, done: Mapping[str, int]) -> None:
        self._marks: deque[tuple[float, dict[str, int]]] = deque([(now, dict(done))], maxlen=8)

    def mark(self, now: float, done: Mapping[str, int]) -> None:
        """Copy the counts, if the last copy is old enough."""
        if now - self._marks[-1][0] >= _STEP_S:
            self._marks.append((now, dict(done)))

    def per_minute(self, queue: str, now: float, done: Mapping[str, int]) -> float:
        """Succeeded tasks of a queue in a minute, as in the last one."""
        at, before = self._marks[0]
        for earlier, counts in self._marks:
            if now - earlier < _OVER_S:
                break
            at, before = earlier, counts
        # A copy is older only if nothing has happened for long, up to a short time ago.
        over_s = min(_OVER_S, max(1.0, now - at))
        return max(0, done.get(queue, 0) - before.get(queue, 0)) * 60.0 / over_s
