"""Calls that define, show and steer schedules."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final, NamedTuple

from dtq.coordinator import queries
from dtq.coordinator.cron import CronCalendar
from dtq.coordinator.sameness import same_arguments
from dtq.coordinator.service import Coordinator
from dtq.core import views
from dtq.core.schedules import Entry, without_function
from dtq.core.scheduling import run_now
from dtq.errors import InvalidValue, ScheduleExists
from dtq.model import values
from dtq.model.options import same_call
from dtq.model.schedules import Schedule, ScheduleView
from dtq.model.snapshots import BatchView
from dtq.model.weight import first_within
from dtq.records import replace

log = logging.getLogger("dtq.coordinator")

#: Results of a definition.
ADDED: Final = "added"
CHANGED: Final = "changed"
UNCHANGED: Final = "unchanged"
#: Schedules that one answer looks through.
_PAGE: Final = 1_000


def define(c: Coordinator, schedule: Schedule, *, change: bool, dry_run: bool) -> str:
    """Define a schedule, durably; see `Service.set_schedule`."""
    if values.is_description(schedule.arguments) or values.is_description(schedule.spec.function.body):
        why = "it refers to values, which are kept for a time only; have the function read the data"
        raise InvalidValue("a schedule's call", schedule.spec.function.name, why)
    rule = schedule.rule
    if rule.cron:
        CronCalendar().recurrence(rule.cron, rule.tz)  # outside of the lock, and before any answer
    c.committer.refuse_if_in_trouble()
    with c.lock:
        c.refuse_if_stopping()
        schedules = c.machine.schedules
        known = schedules.find(schedule.name)
        outcome = ADDED if known is None else UNCHANGED if _same(known.schedule, schedule) else CHANGED
        if outcome == CHANGED and not change:
            raise ScheduleExists(schedule.name)
        if outcome != UNCHANGED and not dry_run:
            entry = schedules.define(schedule, c.clock.wall())
            if entry.last_batch == 0 and outcome == ADDED:
                log.info("schedule %s is defined: %s", schedule.name, rule)
            c.ticker.by(c.next_deadline())
        ticket = c.committer.ticket()
    c.committer.settle(ticket)
    return outcome


def _same(one: Schedule, other: Schedule) -> bool:
    return (
        replace(one, arguments=b"", spec=other.spec) == replace(other, arguments=b"")
        and same_call(one.spec, other.spec)
        and same_arguments(one.arguments, other.arguments, in_doubt=False)
    )


def show(c: Coordinator, name: str) -> ScheduleView:
    """A schedule; see `Service.schedule`."""
    with c.lock:
        looks = [_look(c, c.machine.schedules.get(name))]
    return next(iter(_views(c, looks)))


def listed(c: Coordinator, after: str) -> list[ScheduleView]:
    """The schedules behind a name; see `Service.schedules`."""
    with c.lock:
        looks = [_look(c, entry) for entry in c.machine.schedules.behind(after, _PAGE)]
    return list(first_within(_views(c, looks), c.setup.answer_bytes))


class _Look(NamedTuple):
    """A schedule's state as read under the lock: all but its due times after the next, and an ended last run."""

    entry: Entry
    view: ScheduleView


def _look(c: Coordinator, entry: Entry) -> _Look:
    live = c.machine.queue_state.batches.get(entry.last_batch)
    due = None if entry.paused else entry.next_at
    view = ScheduleView(
        schedule=without_function(entry.schedule),
        added_at=entry.added_at,
        paused=entry.paused,
        upcoming=() if due is None else (due,),
        last_due=entry.last_due,
        last_batch=entry.last_batch,
        last=None if live is None else _lean(queries.live_batch(c, live)),
        made=entry.made,
        skipped=entry.skipped,
        trouble=entry.trouble,
    )
    return _Look(entry, view)


def _views(c: Coordinator, looks: list[_Look]) -> Iterator[ScheduleView]:
    """The views with their slow parts: outside of the lock, and no more than requested."""
    queries.settle(c)
    numbers = [view.last_batch for _, view in looks if view.last_batch and view.last is None]
    ended = {stored.row.batch: stored for stored in c.engine.batches(numbers)} if numbers else {}
    for entry, view in looks:
        if view.upcoming:
            view = replace(view, upcoming=c.machine.schedules.upcoming_from(entry, view.upcoming[0]))
        stored = ended.get(view.last_batch) if view.last is None else None
        if stored is not None and stored.row.finished_at is not None:
            view = replace(view, last=_lean(views.finished_batch_view(stored.row, stored.spec)))
        yield view


def _lean(view: BatchView) -> BatchView:
    spec = view.spec
    if not spec.function.body:
        return view
    return replace(view, spec=replace(spec, function=replace(spec.function, body=b"")))


def pause(c: Coordinator, name: str, *, paused: bool) -> None:
    """Let due times of a schedule go by, or stop that; see `Service.pause_schedule`."""
    with c.lock:
        entry = c.machine.schedules.get(name)
        c.machine.schedules.pause(entry, c.clock.wall(), paused=paused)
        c.ticker.by(c.next_deadline())
        ticket = c.committer.ticket()
    c.committer.settle(ticket)


def run(c: Coordinator, name: str) -> int:
    """Make a submission of a schedule now; see `Service.run_schedule`."""
    c.committer.refuse_if_in_trouble()
    with c.lock:
        c.refuse_if_stopping()
        now = c.clock.now()
        number, made = run_now(c.machine, c.machine.schedules.get(name), now, c.clock.wall())
        c.take_made(made)
        c.dispatch(now)
        ticket = c.committer.ticket()
    c.committer.settle(ticket)
    return number


def remove(c: Coordinator, name: str) -> None:
    """Remove a schedule; see `Service.remove_schedule`."""
    with c.lock:
        c.machine.schedules.remove(c.machine.schedules.get(name))
        ticket = c.committer.ticket()
    c.committer.settle(ticket)
