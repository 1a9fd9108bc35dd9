"""Waits between retries, for workers and clients that lost the coordinator. Pure: nothing waits here."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

#: The wait before the second retry, in seconds; doubles from there.
FIRST_S: Final = 0.05
#: The longest wait, in seconds: how late a worker may be after a coordinator that comes back.
LONGEST_S: Final = 2.0

# A generator of our own: a program that seeds Python's shared one must draw the same numbers with and without us.
_OWN: Final = random.Random()


class Backoff:
    """Waits between attempts: none before the first retry, then 0.05 s doubling to 2 s, each drawn from its upper half.

    The draw keeps a thousand workers that lost the same coordinator from coming back in step.

    Args:
        first_s: the second wait, in seconds.
        longest_s: the longest wait, in seconds.
        draw: returns a number from [0, 1).
    """

    def __init__(
        self, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S, draw: Callable[[], float] = _OWN.random
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._whole_s = 0.0

    def next_s(self) -> float:
        """Wait before the next attempt, in seconds; longer each time."""
        whole_s = self._whole_s
        self._whole_s = min(max(2 * whole_s, self._first_s), self._longest_s)
        return whole_s * (1 - self._draw() / 2)

    def reset(self) -> None:
        """Note a success: the next retry is immediate again."""
        self._whole_s = 0.0
