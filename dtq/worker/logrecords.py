"""Which task a log record belongs to: ``task_id`` and ``attempt`` on every record that is made in a slot.

Worker, in the slot's process. The fields are set where `logging.Logger` makes its records, so that no handler,
formatter, filter or logger class of the user's is touched, a record factory of the user's stays in force, and whoever
gives ``extra={"task_id": ...}`` of their own keeps it (a record factory would make that an error).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from dtq.client import current


def mark_records() -> Callable[[], None]:
    """Have every log record say which task it belongs to, from now on: its id and attempt; ``""`` and 0 outside.

    Returns:
        Ends it.
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
