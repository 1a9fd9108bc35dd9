"""The worker's fork server, forked before the rest of the worker is imported or its coordinator is known.

Daemon, below `serving`. Its imports take as long as the worker's; so it begins first, and this module imports little.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dtq.client.handover import own
from dtq.client.inheritance import Inheritance
from dtq.config import WorkerSettings
from dtq.worker.forking import ForkServer
from dtq.worker.program import Program
from dtq.worker.terms import SlotTerms

if TYPE_CHECKING:
    from dtq.worker.child import Child

#: The fork server that was started in advance, with its settings.
_ahead: list[tuple[ForkServer, SlotTerms]] = []
#: The slots that it has forked.
_slots: list[Child] = []


def begin(settings: WorkerSettings) -> None:
    """Start the fork server in advance, before the coordinator's address is known.

    Called by the only thread of a process that has no key yet: the process is forked. It returns in this process only.

    Args:
        settings: the worker's, without the addresses.
    """
    terms = slot_terms(settings, own())
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # `run` tries again, and reports it
            _ahead.append((ForkServer(terms, fork=True), terms))


def fork_slots(settings: WorkerSettings) -> None:
    """Make the fork server that was begun fork the slots, up to the steps that depend on the coordinator.

    To be called when the rest of the worker has been imported, by the thread that is to supervise the slots.

    Args:
        settings: as for `begin`.
    """
    from dtq.worker.child import Child  # imported by now

    for forks, terms in _ahead:
        if forks.forked and not terms.preload and terms.inherited.tracker >= 0:
            with contextlib.suppress(OSError):  # the supervisor tries again
                for number in range(1, settings.slots + 1):
                    _slots.append(Child(number, terms, forks=forks, early=True))


def take_slots(forks: ForkServer | None) -> list[Child]:
    """The slots that were forked ahead by a fork server; others are ended."""
    slots, _slots[:] = [*_slots], []
    end_slots([slot for slot in slots if slot.origin is not forks])
    return [slot for slot in slots if slot.origin is forks]


def end_slots(slots: Iterable[Child]) -> None:
    """End the slots that nobody has taken."""
    left = [slot for slot in slots if slot.process.returncode is None]
    for slot in left:
        slot.kill()
    for slot in left:
        slot.collect()
        slot.let_go()


def take_fork_server(settings: WorkerSettings) -> ForkServer | None:
    """The fork server for slots: the one that was started in advance, if it has the same settings, else a new one.

    Args:
        settings: the worker's.

    Returns:
        None if this system has none.

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
    """The slots' settings that are known before the coordinator has answered.

    Args:
        settings: the worker's.
        inherited: the slots' inheritance from the program that started this process.
        program: the program that the worker is part of, if any.
    """
    return SlotTerms(
        worker=settings.name,
        paths=tuple(map(str, settings.paths)),
        imports=settings.imports,
        preload=settings.preload,
        init=settings.init,
        max_tasks=settings.max_tasks_per_slot,
        max_memory=settings.max_memory_per_slot,
        keep_output=settings.keep_output,
        keep_processes=settings.keep_processes,
        only_registered=settings.only_registered,
        reload=settings.reload == "auto",
        program=program or Program(),
        inherited=inherited,
    )
