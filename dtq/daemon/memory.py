"""How this process asks the C library for memory, gives it back, and looks for garbage."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

#: glibc's number for it, from its malloc.h.
_M_ARENA_MAX: Final = -8
#: The collector's generation of what has lived longest: a collection of it is a full one.
_OLDEST: Final = 2


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


def keep_collections_short() -> None:
    """Have the collector of cyclic garbage look through what lives on once only.

    Every full collection walks through all objects while every thread waits: with 200,000 tasks put back at once that
    was a quarter of a second of processor time, again and again while they grew. What is left after a full collection
    is no garbage; it is set aside, so that the next one looks at what is newer. What becomes cyclic garbage after that
    is not found any more: batches, tasks, sessions and connections are in no cycles, and are freed as always.
    """
    gc.callbacks.append(_set_aside)


def set_aside_what_lives() -> None:
    """Have the collector not look through what there is so far: it has just been restored, and is no garbage."""
    gc.freeze()


def _set_aside(phase: str, about: dict[str, int]) -> None:
    if phase == "stop" and about["generation"] == _OLDEST:
        gc.freeze()


def _call(name: str, *numbers: int) -> None:
    """Call a function of the C library, if it has it."""
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*numbers)
