"""Collects whole answers from calls that answer in pages.

Client, between the faces and the service: a listing may be of any length, one answer may not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, Protocol, TypeVar

from dtq.model.limits import LimitView
from dtq.model.service import Service
from dtq.model.snapshots import (
    BatchSelection,
    BatchView,
    CancelReport,
    DeadGroup,
    DeadLetter,
    GroupBy,
    Place,
    QueueView,
    RerunReport,
    Selection,
    Stats,
    TaskArguments,
    TaskView,
    WorkerView,
)
from dtq.records import replace

#: Most ids in one call: even the largest ids then fit into the smallest message.
MOST_IDS: Final = 2_000


class _Placed(Protocol):
    @property
    def place(self) -> Place: ...


Listed = TypeVar("Listed", bound=_Placed)


def whole_task(service: Service, batch: int, index: int) -> TaskView:
    """A task with its whole history; see `Service.task`."""
    view = service.task(batch, index)
    history = list(view.history)
    more = view.more
    while more:
        found = service.attempts(batch, index, history[-1].number + 1)
        history += found
        more = bool(found)
    return replace(view, history=tuple(history), more=False)


def all_tasks(service: Service, selection: Selection) -> list[TaskView]:
    """All tasks that match, up to the limit; see `Service.tasks`. Of a run of like tasks only those that are named."""
    found = _listed(service.tasks, selection)
    whole = {batch for batch, index in selection.ids if index < 0}
    named: dict[int, list[int]] = {}
    for batch, index in sorted(set(selection.ids)):
        if index >= 0 and batch not in whole:
            named.setdefault(batch, []).append(index)
    return [part for view in found for part in _parts_of(view, named.get(view.batch))]


def _parts_of(view: TaskView, named: Sequence[int] | None) -> Iterator[TaskView]:
    """The parts of a run of tasks that are named, by their indexes in rising order; all of it for None."""
    if named is None:
        yield view
        return
    few = named[bisect_left(named, view.index) : bisect_left(named, view.index + view.count)]
    for _, run in groupby(enumerate(few), key=lambda each: each[1] - each[0]):
        indexes = [index for _, index in run]
        yield replace(view, index=indexes[0], count=len(indexes))


def all_arguments(service: Service, tasks: Sequence[tuple[int, int]], most: int) -> list[TaskArguments]:
    """The arguments of tasks, in their order; see `Service.arguments`.

    Args:
        service: the service.
        tasks: batch and index of each.
        most: how many bytes of each at most.
    """
    found: list[TaskArguments] = []
    while len(found) < len(tasks):
        more = service.arguments(list(tasks[len(found) : len(found) + MOST_IDS]), most)
        if not more:
            break
        found += more
    return found


def all_batches(service: Service, selection: BatchSelection) -> list[BatchView]:
    """All batches that match, newest first, up to the limit; see `Service.batches`."""
    found: list[BatchView] = []
    while True:
        left = selection.limit and selection.limit - len(found)
        part = service.batches(replace(selection, limit=left))
        found += part.batches
        if not part.before or (selection.limit and len(found) >= selection.limit):
            return found
        selection = replace(selection, before=part.before)


def all_dead_letters(service: Service, selection: Selection) -> list[DeadLetter]:
    """All dead letters that match, up to the limit; see `Service.dead_letters`."""
    return list(_listed(service.dead_letters, selection))


def whole_summary(service: Service, selection: Selection, by: GroupBy) -> list[DeadGroup]:
    """All dead letters that match in groups, the largest first; see `Service.dead_summary`."""
    groups: dict[str, DeadGroup] = {}
    while True:
        summary = service.dead_summary(selection, by)
        for group in summary.groups:
            known = groups.get(group.name)  # of later dead letters
            groups[group.name] = group if known is None else replace(known, count=known.count + group.count)
        if summary.after is None:
            return sorted(groups.values(), key=lambda group: (-group.count, -group.newest_at))
        selection = replace(selection, after=summary.after)


def all_limits(service: Service) -> list[LimitView]:
    """All limits; see `Service.limits`."""
    found: list[LimitView] = []
    while more := service.limits(found[-1].limit.name if found else ""):
        found += more
    return found


def all_queues(service: Service) -> list[QueueView]:
    """All queues; see `Service.queues`."""
    found: list[QueueView] = []
    while more := service.queues(found[-1].name if found else ""):
        found += more
    return found


def all_workers(service: Service) -> list[WorkerView]:
    """All workers; see `Service.workers`."""
    found: list[WorkerView] = []
    while more := _workers_behind(service, found):
        found += more
    return found


def _listed(ask: Callable[[Selection], list[Listed]], selection: Selection) -> Iterator[Listed]:
    left = selection.limit
    while found := ask(replace(selection, limit=left)):
        yield from found
        if selection.limit and (left := left - len(found)) <= 0:
            return
        selection = replace(selection, after=found[-1].place)


def cancel_all(service: Service, selection: Selection) -> CancelReport:
    """Stop tasks; see `Service.cancel`. If the ids do not fit into one call, several calls are made, each of which does
    all or nothing.
    """
    return added([service.cancel(part) for part in _parts(selection)])


def added(reports: Sequence[CancelReport]) -> CancelReport:
    """The sum of several cancel reports."""
    return CancelReport(
        cancelled=sum(report.cancelled for report in reports),
        stopping=sum(report.stopping for report in reports),
        finished=sum(report.finished for report in reports),
    )


def retry_all(service: Service, selection: Selection) -> int:
    """Put dead letters back; see `Service.retry_dead` and `cancel_all`."""
    return sum(service.retry_dead(part) for part in _parts(selection))


def purge_all(service: Service, selection: Selection) -> int:
    """Remove dead letters; see `Service.purge_dead` and `cancel_all`."""
    return sum(service.purge_dead(part) for part in _parts(selection))


def rerun_all(service: Service, selection: Selection) -> RerunReport:
    """Submit ended tasks once more; see `Service.rerun` and `cancel_all`."""
    reports = [service.rerun(part) for part in _parts(selection)]
    return RerunReport(
        tasks=sum(report.tasks for report in reports),
        batches=tuple(each for report in reports for each in report.batches),
        more=any(report.more for report in reports),
    )


def _parts(selection: Selection) -> Iterator[Selection]:
    ids = selection.ids
    for at in range(0, max(1, len(ids)), MOST_IDS):
        yield selection if len(ids) <= MOST_IDS else replace(selection, ids=ids[at : at + MOST_IDS])


def whole_stats(service: Service) -> Stats:
    """An overview of the coordinator, with all of its queues and workers; see `Service.stats`."""
    stats = service.stats()
    if not (stats.more_queues or stats.more_workers):
        return stats
    queues, workers = list(stats.queues), list(stats.workers)
    while stats.more_queues and (few := _queues_behind(service, queues)):
        queues += few
    while stats.more_workers and (some := _workers_behind(service, workers)):
        workers += some
    return replace(stats, queues=tuple(queues), workers=tuple(workers), more_queues=False, more_workers=False)


def _queues_behind(service: Service, queues: list[QueueView]) -> list[QueueView]:
    return service.queues(queues[-1].name if queues else "")


def _workers_behind(service: Service, workers: list[WorkerView]) -> list[WorkerView]:
    last = workers[-1] if workers else None
    return service.workers("" if last is None else last.name, "" if last is None else last.session)
