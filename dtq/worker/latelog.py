"""A log whose lines are written once a lock is free: writing one may wait for the reader of the log.

Worker, below the supervisor.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

#: Most waiting lines; the oldest are dropped.
_MOST: Final = 1_000


class LateLog:
    """Waiting lines.

    Args:
        log: their log.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines: deque[tuple[int, str, tuple[Any, ...], str]] = deque(maxlen=_MOST)

    def __call__(self, level: int, text: str, *args: Any, task: str = "") -> None:
        """Log a line, soon; with the id of its task, if it is about one. Any thread."""
        self._lines.append((level, text, args, task))

    @property
    def waits(self) -> bool:
        """Whether lines wait."""
        return bool(self._lines)

    def write(self) -> None:
        """Write the waiting lines. By one thread, which holds no lock."""
        while self._lines:
            level, text, args, task = self._lines.popleft()
            self._log.log(level, text, *args, extra={"task_id": task})
