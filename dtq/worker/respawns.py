"""Restarts of slots that have died: when each is due, and when to give up.

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
#: Longest pause before the next try of a slot whose start failed with an exception that may pass, in seconds.
LONGEST_RETRY_S: Final = 60.0
#: Slots in a row that may die at their start before the worker gives up.
MOST_STILLBORN: Final = 10


class Respawns:
    """The planned starts of slots.

    Args:
        worker: the worker's name.
        late: takes lines for the log.
    """

    def __init__(self, worker: str, late: LateLog) -> None:
        self._worker = worker
        self._late = late
        self._at: dict[int, float] = {}
        self._pause: dict[int, float] = {}
        self._stillborn = 0

    def began(self, number: int) -> None:
        """Note that a slot is ready for work."""
        self._pause.pop(number, None)
        self._stillborn = 0

    def plan(self, number: int, now: float, *, stillborn: bool = False, why: str = "") -> None:
        """Plan the restart of a slot that has died.

        Args:
            number: the slot.
            now: ``time.monotonic()``.
            stillborn: whether it was never ready: then it is not restarted in a tight loop.
            why: why it was not ready, if the reason may pass: then it is tried again for ever, with growing pauses.
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
        """The error of a broken worker; None for a sound one."""
        if self._stillborn < MOST_STILLBORN:
            return None
        why = f"{counted(self._stillborn, 'slot')} in a row died at their start; its log has what they said"
        return WorkerBroken(self._worker, why)

    def planned(self) -> list[int]:
        """The slots with planned starts."""
        return list(self._at)

    def moments(self) -> list[float]:
        """The moments of planned starts."""
        return list(self._at.values())

    def due(self, now: float) -> list[int]:
        """The slots to start now, removed from the plan."""
        numbers = [number for number, at in self._at.items() if at <= now]
        for number in numbers:
            del self._at[number]
        return numbers
