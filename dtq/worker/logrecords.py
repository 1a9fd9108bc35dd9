"""Adds ``task_id`` and ``attempt`` to every log record that is made in a slot.

Worker, in the slot's process. The fields are set where `logging.Logger` makes its records, so that no handler,
formatter, filter or logger class of the user's is touched, a record factory of the user's stays in force, and a caller
with an ``extra={"task_id": ...}`` of its own keeps it (a record factory would make that an error).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from dtq.client import current


def mark_records() -> Callable[[], None]:
    """CommitMarker every log record with its task's id and attempt, from now on; ``""`` and 0 outside of tasks.

    Returns:
        A function that ends it.
    """
    make = logging.Logger.makeRecord

    def make_record(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(self, *args, **kwargs)
        task, attempt = current.running()
        record.__dict__.setdefault("task_id", task)
        record.__dict__.setdefault("attempt", attempt)
        return record

    logging.Logger.makeRecord = make_record  # type: ignore[method-assign]  # the one place that all records pass
    return partial(setattr, logging.Logger, "makeRecord", make)
