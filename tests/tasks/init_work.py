"""What slots begin with: a function that fails until something is there."""

from __future__ import annotations

import os
from pathlib import Path

model = ""
calls = 0


def begin() -> None:
    """Load the model, once in each slot."""
    global model, calls
    calls += 1
    model = Path(os.environ["MODEL_OF_TESTS"]).read_text()


def use(_: int) -> tuple[int, str, int]:
    """Process, model, and how often it was loaded there."""
    return os.getpid(), model, calls
