"""What a dtq process says while it runs: one line an event, on standard error."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys


def dump_stacks_on_request() -> None:
    """SIGUSR1 writes what every thread is doing to standard error: for a process that seems to hang."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def log_to_stderr(level: str | None = None) -> None:
    """Send dtq's log to standard error. Only processes of our own do this; a library never does.

    Args:
        level: name of the lowest level to show; None for ``DTQ_LOG_LEVEL``, else INFO.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("dtq")
    logger.addHandler(handler)
    wanted = (level or os.environ.get("DTQ_LOG_LEVEL") or "INFO").upper()
    logger.setLevel(wanted if wanted in logging.getLevelNamesMapping() else "INFO")
    logger.propagate = False
    # Who changed what is on record whatever else is asked to be silent.
    logging.getLogger("dtq.audit").setLevel(logging.INFO)
