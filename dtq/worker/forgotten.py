"""Frees the memory of functions that a slot no longer needs.

Worker, inside a slot. Python frees an object at once when its last reference goes. A function that travelled by value
is often part of a cycle, though (it calls itself, or another one that was defined beside it), and only a full
collection finds it; Python's own comes late, for it counts objects, and these are few objects of many bytes.
"""

from __future__ import annotations

import gc
from time import monotonic
from typing import Final

#: Bytes of forgotten functions before a collection.
COLLECT_BYTES: Final = 8 << 20
#: Collecting takes at most one part in this many of the time: a process with many objects needs seconds for it.
SHARE: Final = 20


class Forgotten:
    """Counts forgotten bytes, and runs collections."""

    def __init__(self) -> None:
        self._bytes = 0
        #: When the next collection may be made, ``time.monotonic()``.
        self._next_at = 0.0

    def add(self, size: int) -> None:
        """Note a forgotten function.

        Args:
            size: its bytes when it travelled.
        """
        self._bytes += size
        if self._bytes < COLLECT_BYTES or (begun := monotonic()) < self._next_at:
            return
        self._bytes = 0
        gc.collect()
        ended = monotonic()
        self._next_at = ended + SHARE * (ended - begun)
