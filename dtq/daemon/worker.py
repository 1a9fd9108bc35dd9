"""The worker's process: its log, its signals, its readiness line."""

from __future__ import annotations

import sys

from dtq.client.handover import own
from dtq.config import WorkerSettings
from dtq.daemon.logs import dump_stacks_on_request, log_to_stderr
from dtq.daemon.serving import Serving
from dtq.daemon.signals import Signals, ignore_from_now_on


def run(settings: WorkerSettings) -> int:
    """Run a worker until it is drained by SIGTERM or SIGINT.

    The first signal lets running tasks finish, the second gives them back at once, the third ends the process. While no
    coordinator answers it keeps trying.

    Args:
        settings: what it runs with.

    Returns:
        The exit code.

    Raises:
        DtqError: it cannot run; see `Serving.run`.
    """
    log_to_stderr()
    dump_stacks_on_request()
    serving = Serving(settings, inherited=own())
    Signals(serving)
    serving.run(_say)
    ignore_from_now_on()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
