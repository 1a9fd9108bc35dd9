"""The worker's process: its log, its signals, its readiness line."""

from __future__ import annotations

import contextlib
import logging
import sys

from dtq.client.handover import own
from dtq.config import WorkerSettings
from dtq.daemon.logs import dump_stacks_on_request, log_to_stderr
from dtq.daemon.serving import Serving, slot_terms
from dtq.daemon.signals import Signals, ignore_from_now_on
from dtq.worker.forking import ForkServer
from dtq.worker.terms import SlotTerms

log = logging.getLogger("dtq.daemon")


class _Ending:
    """A worker that signals end, and that says so."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def drain(self) -> None:
        """See `Serving.drain`."""
        log.info("finishing what runs; a second signal gives it back to the queue at once")
        self._serving.drain()

    def end(self) -> None:
        """See `Serving.end`."""
        log.info("giving back what runs")
        self._serving.end()


#: The fork server that was started before it was known where the coordinator is, and what it was started with.
_ahead: list[tuple[ForkServer, SlotTerms]] = []


def begin_ahead(settings: WorkerSettings) -> None:
    """Start what `run` will need, in the same thread, though it is not known yet where the coordinator is.

    Args:
        settings: what it will run with, but for the addresses.
    """
    terms = slot_terms(settings, own())
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # `run` tries again, and says so
            _ahead.append((ForkServer(terms), terms))


def _forks(settings: WorkerSettings) -> ForkServer | None:
    terms = slot_terms(settings, own())
    while _ahead:
        forks, begun_with = _ahead.pop()
        if begun_with == terms:
            return forks
        forks.close()
    return ForkServer(terms) if sys.platform == "linux" else None


def run(settings: WorkerSettings, signals: Signals) -> int:
    """Run a worker until it is drained by SIGTERM or SIGINT.

    The first signal lets running tasks finish, the second gives them back at once, the third ends the process; SIGHUP
    gives them back. While no coordinator answers it keeps trying.

    Args:
        settings: what it runs with.
        signals: what has come so far, and is to come.

    Returns:
        The exit code.

    Raises:
        DtqError: it cannot run; see `Serving.run`.
    """
    log_to_stderr()
    dump_stacks_on_request()
    forks = _forks(settings)
    try:
        serving = Serving(settings, inherited=own(), forks=forks)
        signals.attach(_Ending(serving))
        serving.run(_say)
    finally:
        if forks is not None:  # also where no supervisor came to own it
            forks.close()
    ignore_from_now_on()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
