"""Listens to the outputs of slots, without a wake-up for each line.

Worker, below the supervisor, in its loop. After an output had little to read it is not listened to for a moment: its
next lines are read together, or with the result of the task that has printed them, which is an event of its own. An
output with much to read is listened to all the time, so that a flood does not wait.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from contextlib import suppress
from typing import Final

from dtq.worker.output import Output

#: Seconds for which an output is not listened to, and bytes in one read above which it is.
PAUSE_S: Final = 0.01
MUCH: Final = 4 << 10


class OutputListener:
    """Registers outputs with a selector.

    Args:
        selector: the loop's.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        #: Outputs that are not listened to, and until when, ``time.monotonic()``.
        self._paused: deque[tuple[float, Output]] = deque()

    def add(self, output: Output) -> None:
        """Listen to an output."""
        self._selector.register(output, selectors.EVENT_READ, output)

    def remove(self, output: Output) -> None:
        """Listen to an output no more."""
        with suppress(KeyError):
            self._selector.unregister(output)
        self._paused = deque((until, each) for until, each in self._paused if each is not output)

    def took(self, output: Output, size: int) -> None:
        """Note that so many bytes were read at an event of an output."""
        if 0 < size < MUCH:
            self._selector.unregister(output)
            self._paused.append((time.monotonic() + PAUSE_S, output))

    @property
    def next_at(self) -> float | None:
        """When to listen to an output again, ``time.monotonic()``; None if all are listened to."""
        return self._paused[0][0] if self._paused else None

    def go_on(self) -> None:
        """Listen again to the outputs whose pause is over."""
        now = time.monotonic()
        while self._paused and self._paused[0][0] <= now:
            self.add(self._paused.popleft()[1])
