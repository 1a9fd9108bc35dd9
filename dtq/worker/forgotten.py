"""Memory of functions that a slot needs no more.

Worker, inside a slot. What Python frees by counting references is free at once. A function that travelled by value is
often part of a cycle, though (it calls itself, or another one that stood beside it), and is only found by a full
collection; Python's own comes late, for it counts objects, and here are few objects of many bytes.
"""

from __future__ import annotations

import gc
from time import monotonic
from typing import Final

#: How many bytes of functions may be forgotten before they are collected.
COLLECT_BYTES: Final = 8 << 20
#: Collecting takes at most one part in so many of the time: a process with many objects needs seconds for it.
SHARE: Final = 20


class Forgotten:
    """Counts what was forgotten, and has it collected."""

    def __init__(self) -> None:
        self._bytes = 0
        #: When the next collection may be made, ``time.monotonic()``.
        self._next_at = 0.0

    def add(self, size: int) -> None:
        """A function was forgotten.

        Args:
            size: bytes that it came in.
        """
        self._bytes += size
        if self._bytes < COLLECT_BYTES or (begun := monotonic()) < self._next_at:
            return
        self._bytes = 0
        gc.collect()
        ended = monotonic()
        self._next_at = ended + SHARE * (ended - begun)
