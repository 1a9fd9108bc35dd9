"""How this process asks the C library for memory, and gives it back."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

#: glibc's number for it, from its malloc.h.
_M_ARENA_MAX: Final = -8


def share_one_arena() -> None:
    """Have all threads that are still to come take memory from one arena of the C library's. Does nothing but on Linux
    with glibc.

    By default glibc gives up to eight arenas a core to threads, so that these need not wait for one another. Ours wait
    for the interpreter anyway, and what the thread of one connection asked for and that of another gives back makes
    holes in all of them: a coordinator that had 71 MB in use took 170 MB after a hundred clients had come and gone.
    """
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """Give memory that is free back to the system. Does nothing but on Linux with glibc.

    What is free in the middle of its heap the C library keeps for itself: a thousand strangers who left a TLS handshake
    half done cost a coordinator 20 MB for ever.
    """
    _call("malloc_trim", 0)


def _call(name: str, *numbers: int) -> None:
    """Call a function of the C library, if it has it."""
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*numbers)
