"""Functions that say what they have of their worker."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from dtq import current_task, task

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_opened: list[mmap.mmap] = []


def have() -> dict[str, Any]:
    """What this task has."""
    now = current_task()
    return {
        "worker": now.worker,
        "resources": now.resources,
        "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": [os.environ.get(name) for name in THREADS],
        "pid": os.getpid(),
    }


@task(resources={"gpu": 1})
def with_card() -> dict[str, Any]:
    return have()


def open_cards() -> dict[str, Any]:
    """Load what looks like CUDA's library."""
    path = Path(tempfile.mkdtemp()) / "libcuda.so.1"
    path.write_bytes(b"\0" * 4096)
    with path.open("rb") as file:
        _opened.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return have()


def span(seconds: float) -> tuple[float, float]:
    """When it began and ended."""
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()
