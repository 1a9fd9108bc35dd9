"""Log lines that are written once a lock is free: writing one may wait for whoever reads the log.

Worker, below the supervisor.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

#: How many lines wait at most; the oldest go.
_MOST: Final = 1_000


class LateLog:
    """Lines that wait.

    Args:
        log: where they go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines: deque[tuple[int, str, tuple[Any, ...]]] = deque(maxlen=_MOST)

    def __call__(self, level: int, text: str, *args: Any) -> None:
        """Log a line, soon. Any thread."""
        self._lines.append((level, text, args))

    @property
    def waits(self) -> bool:
        """Whether there is something to be written."""
        return bool(self._lines)

    def write(self) -> None:
        """Write what waits. By one thread, which holds no lock."""
        while self._lines:
            level, text, args = self._lines.popleft()
            self._log.log(level, text, *args)
