"""Functions that libraries have called, over an executor."""

from __future__ import annotations

import os
import time
from pathlib import Path


def divide(a: float, b: float) -> float:
    return a / b


def pid_of(_: object = None) -> int:
    return os.getpid()


def mark_and_wait(path: str, seconds: float) -> str:
    Path(path).touch()
    time.sleep(seconds)
    return path


def nested(n: int) -> int:
    """Uses joblib in the slot, as an estimator in a grid search does."""
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(n)))
