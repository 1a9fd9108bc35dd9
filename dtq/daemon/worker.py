"""The worker's process: its log, its signals, its readiness line."""

from __future__ import annotations

import logging
import sys

from dtq.client.handover import own
from dtq.config import WorkerSettings
from dtq.daemon.ahead import end_slots, take_fork_server, take_slots
from dtq.daemon.logs import dump_stacks_on_request, start_log
from dtq.daemon.serving import Serving
from dtq.daemon.signals import Signals, ignore_from_now_on

log = logging.getLogger("dtq.daemon")


class _Ending:
    """A worker that signals end, with log lines."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def drain(self) -> None:
        """See `Serving.drain`."""
        log.info("finishing running tasks; a second signal gives them back to the queue at once")
        self._serving.drain()
        for hindrance in self._serving.hindrances():
            log.warning("the worker ends only after this: %s", hindrance)

    def end(self) -> None:
        """See `Serving.end`."""
        log.info("giving running tasks back")
        self._serving.end()


def run(settings: WorkerSettings, signals: Signals) -> int:
    """Run a worker until it is drained by SIGTERM or SIGINT.

    The first signal lets running tasks finish, the second gives them back at once, the third ends the process; SIGHUP
    gives them back. While no coordinator answers it keeps trying.

    Args:
        settings: the worker's.
        signals: the signals, past and future.

    Returns:
        The exit code.

    Raises:
        DtqError: it cannot run; see `Serving.run`.
    """
    start_log(settings.name)
    dump_stacks_on_request()
    forks = take_fork_server(settings)
    early = take_slots(forks)
    try:
        serving = Serving(settings, inherited=own(), forks=forks, early=early)
        signals.attach(_Ending(serving))
        serving.run(_say)
    finally:  # also if no supervisor came to own them
        end_slots(early)
        if forks is not None:
            forks.close()
    ignore_from_now_on()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
