"""The worker's fork server, forked before the rest of the worker is imported or its coordinator is known.

Daemon, below `serving`. It imports as long as the worker does; so it begins first, and this imports little.
"""

from __future__ import annotations

import contextlib
import sys

from dtq.client.handover import own
from dtq.client.inheritance import Inheritance
from dtq.config import WorkerSettings
from dtq.worker.forking import ForkServer
from dtq.worker.program import Program
from dtq.worker.terms import SlotTerms

#: The fork server that was started before it was known where the coordinator is, and what it was started with.
_ahead: list[tuple[ForkServer, SlotTerms]] = []


def begin(settings: WorkerSettings) -> None:
    """Start what the worker will need, in the same thread, though it is not known yet where the coordinator is.

    To be called by the only thread of a process that has no key yet: it is forked. It returns in this process only.

    Args:
        settings: what it will run with, but for the addresses.
    """
    terms = slot_terms(settings, own())
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # `run` tries again, and says so
            _ahead.append((ForkServer(terms, fork=True), terms))


def take_fork_server(settings: WorkerSettings) -> ForkServer | None:
    """The fork server for slots: the one that was begun ahead, if it was begun with the same, else one begun now.

    Args:
        settings: what the worker runs with.

    Returns:
        None where this system has none.

    Raises:
        OSError: it cannot be started.
    """
    terms = slot_terms(settings, own())
    while _ahead:
        forks, begun_with = _ahead.pop()
        if begun_with == terms:
            return forks
        forks.close()
    return ForkServer(terms) if sys.platform == "linux" else None


def slot_terms(settings: WorkerSettings, inherited: Inheritance, program: Program | None = None) -> SlotTerms:
    """What slots are started with, as far as it is known before the coordinator has answered.

    Args:
        settings: the worker's.
        inherited: what slots take over from the program that this process was started by.
        program: what they take over from the program that the worker is part of.
    """
    return SlotTerms(
        worker=settings.name,
        paths=tuple(map(str, settings.paths)),
        imports=settings.imports,
        preload=settings.preload,
        init=settings.init,
        max_tasks=settings.max_tasks_per_slot,
        max_memory=settings.max_memory_per_slot,
        keep_processes=settings.keep_processes,
        only_registered=settings.only_registered,
        reload=settings.reload == "auto",
        program=program or Program(),
        inherited=inherited,
    )
