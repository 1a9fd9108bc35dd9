"""`dtq.Executor` as CPython's own tests want it: made with the arguments of a `ProcessPoolExecutor`.

Imported by those tests, by the programs that they start, and by the slots.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import test

from dtq import Executor

#: Where CPython's tests are, if not in this Python.
TESTS = "CONFORMANCE_TESTS"

if TESTS in os.environ:
    test.__path__.append(os.environ[TESTS])


class DtqExecutor(Executor):
    """Makes an executor with a cluster of its own."""

    def __new__(cls, max_workers: int | None = None, mp_context: object = None, **terms: Any) -> Any:
        """As `concurrent.futures.ProcessPoolExecutor`; the context is left out, as slots are always fresh processes."""
        here = Path(__file__).parent
        return Executor.local(max_workers=max_workers, imports=["standard_names"], paths=[here], **terms)
