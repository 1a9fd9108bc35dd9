"""Logging of dtq's processes: one line an event, on standard error."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from typing import Final

from dtq.model.text import printable, printable_line

#: Prefix of every further line of a record: none of them can pass for a record.
_INDENT: Final = "    "


def dump_stacks_on_request() -> None:
    """SIGUSR1 writes the stacks of all threads to standard error: for a process that seems to hang."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


class SafeFormatter(logging.Formatter):
    """Formats a record so that no part of it can pass for another record, or drive the reader's terminal.

    Values in a record (names, messages, peers' data) have their line breaks and invisible characters escaped. Line
    breaks of dtq itself and of tracebacks are followed by an indent.

    Args:
        form: the format of a record.
    """

    def __init__(self, form: str = "%(asctime)s %(levelname)s %(name)s: %(message)s") -> None:
        super().__init__(form)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return printable(super().format(record)).replace("\n", f"\n{_INDENT}")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Its first part: all but tracebacks."""
        if "\n" not in str(record.msg):
            record.message = printable_line(record.message)
        return super().formatMessage(record)


def log_to_stderr(level: str | None = None) -> None:
    """Send dtq's log to standard error. Only processes of our own do this; a library never does.

    Args:
        level: name of the lowest level to show; None for ``DTQ_LOG_LEVEL``, else INFO.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter())
    logger = logging.getLogger("dtq")
    logger.addHandler(handler)
    wanted = (level or os.environ.get("DTQ_LOG_LEVEL") or "INFO").upper()
    logger.setLevel(wanted if wanted in logging.getLevelNamesMapping() else "INFO")
    logger.propagate = False
    # Changes by peers are audited even if all other logging is off.
    logging.getLogger("dtq.audit").setLevel(logging.INFO)
