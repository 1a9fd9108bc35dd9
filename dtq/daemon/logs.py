"""Logging of dtq's processes: one line an event, on standard error or in a file."""

from __future__ import annotations

import faulthandler
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from dtq.config import configured_log
from dtq.errors import BadConfig
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


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ``time``, ``level``, ``logger``, ``message``; ``task`` and ``worker`` where
    they are known; and ``exception``, the traceback, if there is one.

    Args:
        worker: the worker's name; "" for no worker.
    """

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; whatever drives a terminal is escaped in it."""
        whole, fraction = divmod(record.created, 1)
        told = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "task": getattr(record, "task_id", ""),
            "worker": self._worker,
            "exception": self.formatException(record.exc_info) if record.exc_info else "",
        }
        always = ("time", "level", "logger", "message")
        return json.dumps({name: value for name, value in told.items() if value or name in always})


def start_log(worker: str = "") -> None:
    """Send dtq's log to standard error, or to the file of ``--log-file``. Only processes of our own do this; a library
    never does.

    Args:
        worker: the worker's name; "" for no worker.

    Raises:
        BadConfig: a setting of the log cannot be used, or the file cannot be written.
    """
    settings = configured_log()
    handler = logging.StreamHandler(sys.stderr) if settings.log_file is None else _to_file(settings.log_file)
    handler.setFormatter(JsonFormatter(worker) if settings.log_format == "json" else SafeFormatter())
    logger = logging.getLogger("dtq")
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False
    # Changes by peers are audited even if all other logging is off.
    logging.getLogger("dtq.audit").setLevel(logging.INFO)


def _to_file(path: Path) -> logging.StreamHandler[Any]:
    """Appends to a file; and to a new one of this name, once the file was moved away or removed. Several processes may
    append to one file.
    """
    from logging.handlers import WatchedFileHandler  # brings much that no other log needs

    try:
        return WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise BadConfig(f"the log file {path} cannot be written: {error.strerror}", "name another one") from error
