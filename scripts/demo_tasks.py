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
#: What is tried for each file: how many bits of the byte before, and of the position, the model looks at. The
#: dictionary is as large as the largest source file there is; the default of 8 MiB would mostly measure how fast the
#: kernel clears memory.
SETTINGS = [
    {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": lc, "pb": pb}
    for lc, pb in ((3, 2), (3, 0), (4, 0), (2, 0), (0, 0))
]


def pack(path: str) -> tuple[str, int]:
    """SHA-256 of a file, and its size under the best of some settings of LZMA."""
    with open(path, "rb") as file:
        source = file.read()
    sizes = [len(lzma.compress(source, lzma.FORMAT_RAW, filters=[setting])) for setting in SETTINGS]
    return hashlib.sha256(source).hexdigest(), min(sizes)


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
