"""Gathers what a report is made of: a bounded number of calls, whatever the size of the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from dtq.client.paging import whole_stats
from dtq.model.dashboard import Dashboard
from dtq.model.service import Service
from dtq.model.snapshots import Attempt, DeadLetter, Place, Selection, Stats, TaskView
from dtq.model.states import State
from dtq.records import dataclass, replace

#: Most rows of ended tasks that a report looks at; a row is a task, or up to 1,024 that were reported together.
MOST_ROWS: Final = 10_000
#: Most dead letters whose attempts are looked up.
_MOST_HISTORIES: Final = 200
#: Rows that one call asks for.
_PART: Final = 2_000


class _Placed(Protocol):
    @property
    def place(self) -> Place: ...


Row = TypeVar("Row", bound=_Placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a report is made of. Rows are newest first.

    Attributes:
        stats: the coordinator's counts, queues and workers.
        seen: the first screen, with the history.
        succeeded: tasks that succeeded, as runs of like ones.
        letters: dead letters.
        attempts: unsuccessful attempts of the newest dead letters, with their functions.
        since: only what ended after this moment; None for all that is kept.
        cut: whether there were more rows than the bound.
    """

    stats: Stats
    seen: Dashboard
    succeeded: tuple[TaskView, ...]
    letters: tuple[DeadLetter, ...]
    attempts: tuple[tuple[str, Attempt], ...]
    since: float | None
    cut: bool


def gather(service: Service, since_s: float | None = None, limit: int = MOST_ROWS) -> Facts:
    """Ask the coordinator for the facts.

    Args:
        service: the coordinator.
        since_s: only what ended in so many last seconds; None for all that is kept.
        limit: at most so many rows of tasks that succeeded, and as many dead letters.
    """
    stats, seen = whole_stats(service), service.dashboard(0.0)
    since = None if since_s is None else max(0.0, seen.now - since_s)
    succeeded, more = _newest(
        service.tasks, Selection(state=State.SUCCEEDED), limit, lambda row: row.ended_at or 0.0, since
    )
    letters, more_letters = _newest(service.dead_letters, Selection(), limit, lambda row: row.died_at, since)
    attempts = [
        (letter.function, attempt)
        for letter in letters[:_MOST_HISTORIES]
        for attempt in service.attempts(letter.batch, letter.index, 0)
    ]
    return Facts(
        stats=stats,
        seen=seen,
        succeeded=tuple(succeeded),
        letters=tuple(letters),
        attempts=tuple(attempts),
        since=since,
        cut=more or more_letters,
    )


def _newest(
    ask: Callable[[Selection], Sequence[Row]],
    selection: Selection,
    limit: int,
    ended_at: Callable[[Row], float],
    since: float | None,
) -> tuple[list[Row], bool]:
    """The newest rows, and whether there are more."""
    found: list[Row] = []
    while len(found) <= limit:
        part = ask(replace(selection, limit=min(_PART, limit + 1 - len(found))))
        if not part:
            break
        found += [row for row in part if since is None or ended_at(row) >= since]
        if since is not None and ended_at(part[-1]) < since:
            break
        selection = replace(selection, after=part[-1].place)
    return found[:limit], len(found) > limit
