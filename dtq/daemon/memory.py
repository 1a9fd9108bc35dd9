"""Memory settings of dtq's processes: the C library's arenas, the return of free memory, the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

#: glibc's number for it, from its malloc.h.
_M_ARENA_MAX: Final = -8
#: The collector's oldest generation: a collection of it is a full one.
_OLDEST: Final = 2


def share_one_arena() -> None:
    """Make all future threads take memory from one arena of the C library's. No effect except on Linux with glibc.

    By default glibc gives up to eight arenas a core to threads, so that these need not wait for one another. Ours wait
    for the interpreter anyway, and memory that the thread of one connection allocates and that of another frees makes
    holes in all arenas: a coordinator that had 71 MB in use took 170 MB after a hundred clients had come and gone.
    """
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """Give free memory back to the system. No effect except on Linux with glibc.

    The C library keeps free memory in the middle of its heap for itself: a thousand strangers who left a TLS handshake
    half done cost a coordinator 20 MB for ever.
    """
    _call("malloc_trim", 0)


def keep_collections_short() -> None:
    """Make the collector of cyclic garbage visit surviving objects once only.

    Every full collection visits all objects while every thread waits: with 200,000 tasks put back at once that was a
    quarter of a second of processor time, again and again while they grew. Objects that survive a full collection are
    no garbage; they are set aside, so that the next one visits newer objects only. If they become cyclic garbage later,
    that is not found any more: batches, tasks, sessions and connections are in no cycles, and are freed as always.
    """
    gc.callbacks.append(_set_aside)


def set_aside_what_lives() -> None:
    """Make the collector skip all present objects: they have just been restored, and are no garbage."""
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
