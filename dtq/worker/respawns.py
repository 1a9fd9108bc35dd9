"""When a slot that has died is started again, and when there is no point in that any more.

Worker, below the supervisor. Pure.
"""

from __future__ import annotations

import logging
from typing import Final

from dtq.errors import WorkerBroken
from dtq.wording import counted, duration
from dtq.worker.latelog import LateLog

#: Pause before a slot that died at its start is started again, in seconds: first, and longest.
RESPAWN_S: Final = (0.1, 5.0)
#: Longest pause before a slot is tried again whose start failed with an exception that may pass, in seconds.
LONGEST_RETRY_S: Final = 60.0
#: How many slots in a row may die at their start before the worker gives up.
MOST_STILLBORN: Final = 10


class Respawns:
    """What is to be started, and when.

    Args:
        worker: the worker's name.
        late: takes what is to be logged.
    """

    def __init__(self, worker: str, late: LateLog) -> None:
        self._worker = worker
        self._late = late
        self._at: dict[int, float] = {}
        self._pause: dict[int, float] = {}
        self._stillborn = 0

    def began(self, number: int) -> None:
        """A slot is ready for work."""
        self._pause.pop(number, None)
        self._stillborn = 0

    def plan(self, number: int, now: float, *, stillborn: bool = False, why: str = "") -> None:
        """A slot has died.

        Args:
            number: which.
            now: ``time.monotonic()``.
            stillborn: whether it was never ready: then it is not started again in a tight loop.
            why: why not, where that may pass: then it is tried again for ever, ever later.
        """
        first, longest = RESPAWN_S
        if why:
            pause = self._pause[number] = min(LONGEST_RETRY_S, max(first, 2 * self._pause.get(number, 0.0)))
            self._late(
                logging.ERROR, "slot %d does not start: %s; it is tried again in %s", number, why, duration(pause)
            )
            self._at[number] = now + pause
            return
        pause = 0.0
        if stillborn:
            self._stillborn += 1
            pause = self._pause[number] = min(longest, max(first, 2 * self._pause.get(number, 0.0)))
            self._late(logging.ERROR, "slot %d died at its start; it is started again in %s", number, duration(pause))
        self._at[number] = now + pause

    def verdict(self) -> WorkerBroken | None:
        """That the worker is broken, where it is."""
        if self._stillborn < MOST_STILLBORN:
            return None
        why = f"{counted(self._stillborn, 'slot')} in a row died at their start; its log has what they said"
        return WorkerBroken(self._worker, why)

    def planned(self) -> list[int]:
        """The slots that are going to be started."""
        return list(self._at)

    def moments(self) -> list[float]:
        """When something is to be started."""
        return list(self._at.values())

    def due(self, now: float) -> list[int]:
        """The slots to start now; they are not named again."""
        numbers = [number for number, at in self._at.items() if at <= now]
        for number in numbers:
            del self._at[number]
        return numbers
