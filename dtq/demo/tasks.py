"""The functions that the demo's workers run, and how their calls behave: the same in every run of one seed."""

from __future__ import annotations

import hashlib
import random
import time
import zlib
from typing import Final

from dtq import current_task

#: Shortest and longest time of a request, in seconds.
_TAKES_S: Final = (0.001, 0.007)
#: What is tried for each file: level and memory of the compression.
_SETTINGS: Final = tuple((level, memory) for level in (6, 7, 8, 9) for memory in (8, 9))


def gets_through(number: int, attempt: int, seed: int, failure_rate: float) -> bool:
    """Whether an attempt at a request gets through the simulated network."""
    return random.Random(f"{seed}/{number}/{attempt}").random() >= failure_rate


def request(number: int, seed: int, failure_rate: float) -> float:
    """Make a request over a network that loses some at random.

    Args:
        number: the request.
        seed: what chance begins with.
        failure_rate: the share of attempts that fail.

    Returns:
        When it began, in seconds of the Unix epoch.

    Raises:
        ConnectionResetError: this attempt was lost.
    """
    began = time.time()
    attempt = current_task().attempt
    time.sleep(random.Random(f"{seed}/{number}").uniform(*_TAKES_S))
    if not gets_through(number, attempt, seed, failure_rate):
        raise ConnectionResetError(f"request {number}: connection reset by peer (simulated)")
    return began


def pack(path: str) -> tuple[str, int]:
    """SHA-256 of a file, and its size under the best of some compressions."""
    with open(path, "rb") as file:
        source = file.read()
    return hashlib.sha256(source).hexdigest(), min(_packed(source, *setting) for setting in _SETTINGS)


def _packed(source: bytes, level: int, memory: int) -> int:
    packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, memory)
    return len(packer.compress(source)) + len(packer.flush())
