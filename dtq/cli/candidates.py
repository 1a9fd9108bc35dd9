"""The names that the shell completes, asked of the coordinator: queues, tasks, limits, schedules, workers.

A shell waits for the answer at each press of the key, so the coordinator has little time for it. No answer is no
completion: errors are for the command itself to report.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

from dtq.cli.calling import service
from dtq.errors import DtqError
from dtq.model.snapshots import Selection
from dtq.model.states import State

if TYPE_CHECKING:
    from dtq.transport import Proxy

#: Most tasks that are offered, the first ones that `dtq list` shows.
_MOST_TASKS: Final = 50
#: Longest time for the connection and for each call, in seconds.
_PATIENCE_S: Final = 1.0

#: A name, and a few words about it.
Candidate = tuple[str, str]


def _queues(service: Proxy, command: str) -> list[Candidate]:
    return [(queue.name, f"{queue.pending + queue.running} tasks") for queue in service.queues("")]


def _ids(service: Proxy, command: str) -> list[Candidate]:
    dead = State.DEAD if " dlq " in f" {command} " else None
    views = service.tasks(Selection(limit=_MOST_TASKS, state=dead))
    return [(str(view.id), f"{view.spec.function.name}, {view.state.value}") for view in views]


def _limits(service: Proxy, command: str) -> list[Candidate]:
    return [(view.limit.name, "") for view in service.limits("")]


def _schedules(service: Proxy, command: str) -> list[Candidate]:
    return [(view.schedule.name, view.schedule.spec.function.name) for view in service.schedules("")]


def _workers(service: Proxy, command: str) -> list[Candidate]:
    return [(worker.name, f"{worker.slots} slots") for worker in service.workers("", "")]


_KINDS: Final[dict[str, Callable[[Proxy, str], list[Candidate]]]] = {
    "queue": _queues,
    "id": _ids,
    "limit": _limits,
    "schedule": _schedules,
    "worker": _workers,
}


def candidates(kind: str, context: click.Context, incomplete: str) -> list[Candidate]:
    """The names that begin with what has been typed; none if the coordinator does not answer.

    Args:
        kind: ``queue``, ``id``, ``limit``, ``schedule`` or ``worker``.
        context: of the command, with the options that were typed before.
        incomplete: the beginning of the name.
    """
    found: list[Candidate] = []
    given = context.params
    with (
        suppress(DtqError),
        service(given.get("addresses") or (), given.get("authkey_file"), patience_s=_PATIENCE_S) as asked,
    ):
        found = _KINDS[kind](asked, context.command_path)
    return [(name, about) for name, about in found if name.startswith(incomplete)]
