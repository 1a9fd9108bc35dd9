"""Functions that libraries have called, over an executor."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


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


def remember(value: str) -> None:
    """An initializer."""
    _remembered[:] = [value]


def remembered() -> str:
    """What the initializer was given in this process."""
    return _remembered[0]


def kind_and_sum(array: Any) -> tuple[str, float]:
    """How an array arrives."""
    return type(array).__name__, float(array.sum())


def same(array: Any) -> Any:
    """An array, back."""
    return array


_remembered: list[str] = []
