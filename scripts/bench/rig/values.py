"""Tasks that take and return values of a size. Importable without dtq, so that every contender runs the same.

No two values are alike, so that nobody saves work by noticing that they are.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any


@functools.lru_cache(maxsize=1)
def _filling(size: int) -> bytes:
    return os.urandom(size)


def made(size: int, number: int) -> bytes:
    """The value with a number: arbitrary bytes."""
    head = number.to_bytes(8, "big")
    return head + _filling(size)[8:]


def made_array(size: int, number: int) -> Any:
    """Likewise, as a numpy array of bytes."""
    import numpy as np

    return np.frombuffer(bytearray(made(size, number)), dtype=np.uint8)


def echo(value: Any) -> Any:
    """There and back."""
    return value


def taken(value: Any) -> int:
    """There only."""
    return len(value)


def summed(value: Any, _: object = None) -> tuple[int, int]:
    """The sum of an array, which takes some time to be used by others, too; and the process's number."""
    total = int(value.sum())
    if len(value) > 1_000:
        time.sleep(0.01)
    return total, os.getpid()
