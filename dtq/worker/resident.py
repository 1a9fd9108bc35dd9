"""The resident memory of this process. Worker, inside a slot."""

from __future__ import annotations

import sys
from resource import RUSAGE_SELF, getpagesize, getrusage


def peak_memory() -> int:
    """Highest resident memory of this process since its start, in bytes."""
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def resident_memory() -> int:
    """Resident memory of this process, in bytes; if unknown, the highest so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * getpagesize()
    except OSError:
        return peak_memory()
