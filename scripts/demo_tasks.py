"""What the demo's workers run. They find this module through `dtq worker --path scripts`."""

from __future__ import annotations

import hashlib
import lzma
import random
import time

from dtq import current_task

#: How often a request fails, and what the failures are drawn from: the same ones in every run.
FAILURE_RATE = 0.45
SEED = 3870


def pack(path: str) -> tuple[str, int]:
    """SHA-256 of a file, and its size under LZMA."""
    with open(path, "rb") as file:
        source = file.read()
    return hashlib.sha256(source).hexdigest(), len(lzma.compress(source))


def gets_through(number: int, attempt: int) -> bool:
    """Whether the given attempt at a request succeeds."""
    return random.Random(f"{SEED}/{number}/{attempt}").random() >= FAILURE_RATE


def request(number: int) -> str:
    """Ask a service that fails at random, as one behind a flaky network does."""
    attempt = current_task().attempt
    time.sleep(0.02)
    if not gets_through(number, attempt):
        raise ConnectionError(f"request {number}: connection reset (attempt {attempt})")
    return f"answer {number}"
