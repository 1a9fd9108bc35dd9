"""``dtq schedule``: define, list and steer functions that the coordinator submits at due times."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable
from typing import Any, cast

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.calls import function_name, parse_call
from dtq.cli.click_classes import Group
from dtq.cli.output import ago, local_time, say, write, write_fields, write_json, write_table
from dtq.cli.render_json import schedule_json
from dtq.cli.schedule_file import Planned, read_schedules
from dtq.cli.submit import submit
from dtq.client.defining import INSTEAD, Timing, all_schedules, schedule_of
from dtq.client.import_path import find_modules
from dtq.client.terms import Terms
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule, ScheduleView
from dtq.model.service import Service
from dtq.model.states import State
from dtq.model.text import printable
from dtq.wording import counted, duration


@click.group(
    cls=Group,
    examples=(
        ("dtq schedule add nightly '0 3 * * *' reports:build --tz Europe/Prague", "at three in the morning"),
        ("dtq schedule list", "next times, last run and how it ended"),
    ),
)
def schedule() -> None:
    """Schedules: functions that the coordinator submits at due times."""


# -- for people ---------------------------------------------------------------------------------------------------


def _when(rule: Rule) -> str:
    if rule.every_s is not None:
        text = f"every {duration(rule.every_s)}"
    elif rule.at is not None:
        text = f"at {_clock(rule.at)}"
    else:
        text = f"{rule.cron} ({rule.tz})"
    return text


def _clock(moment: float, after: float | None = None) -> str:
    """A moment on this machine's clock; without the day, if that is the same as another one's."""
    day, clock = (time.strftime(form, time.localtime(moment)) for form in ("%Y-%m-%d", "%H:%M:%S"))
    same = after is not None and time.strftime("%Y-%m-%d", time.localtime(after)) == day
    return clock if same else f"{day} {clock}"


def _upcoming(view: ScheduleView) -> str:
    if view.paused:
        return "paused"
    before: list[float | None] = [None, *view.upcoming]
    return ", ".join(map(_clock, view.upcoming, before)) or "never again"


def _ended(view: ScheduleView) -> str:
    """The end of the last run."""
    if view.last is None:
        return "no longer kept" if view.last_batch else ""
    found = [state.value for state in State if getattr(view.last.counts, state.value)]
    return ", ".join(found) or "purged"


def _last(view: ScheduleView, now: float) -> str:
    return f"{ago(view.last_due, now)}: {_ended(view)} ({view.last_batch})" if view.last_due is not None else ""


def _show(view: ScheduleView, now: float) -> None:
    given = view.schedule
    terms = given.spec.options
    write_fields(
        [
            ("schedule", given.name),
            ("when", printable(_when(given.rule))),
            ("until", local_time(given.rule.until, now)),
            ("jitter", duration(given.rule.jitter_s) if given.rule.jitter_s else ""),
            ("overlap", given.overlap.value),
            ("catch-up", given.catch_up.value),
            ("function", printable(given.spec.function.name)),
            ("arguments", counted(len(given.arguments), "byte")),
            ("terms", f"priority {terms.priority}, queue {terms.queue}"),
            ("next", _upcoming(view)),
            ("trouble", printable(view.trouble)),
            ("last due", local_time(view.last_due, now)),
            ("last run", f"{view.last_batch}, {_ended(view)}" if view.last_batch else ""),
            ("runs", f"{view.made:,}" + (f", {view.skipped:,} skipped" if view.skipped else "")),
            ("since", local_time(view.added_at, now)),
        ]
    )


# -- commands -----------------------------------------------------------------------------------------------------


def _given(names: Iterable[str], values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if values.get(name) not in (None, ())}


def _timing(cron: str | None, values: dict[str, Any]) -> Timing:
    given = _given(set(Timing.__annotations__) - {"cron"}, values)
    return cast(Timing, {"cron": cron, **given})


@schedule.command(
    "add",
    examples=(
        ("dtq schedule add nightly '0 3 * * *' reports:build --tz Europe/Prague", "at three in the morning there"),
        ("dtq schedule add sweep --every 90s store:sweep depth=2 --overlap skip", "never two at once"),
        ("dtq schedule add launch --at 2026-12-01T08:00 shop:open --queue web", "once"),
    ),
    instead={f"--{name.replace('_', '-')}": instead for name, instead in INSTEAD.items() if name != "at"},
)
@click.argument("name", metavar="NAME")
@click.argument("words", metavar="[RULE] MODULE:FUNCTION [ARG]... [KEY=VALUE]...", nargs=-1, type=options.TEXT)
@click.option("--every", metavar="DURATION", type=options.DURATION, help="Instead of RULE: repeat at this interval.")
@click.option("--at", metavar="MOMENT", type=options.MOMENT, help="Instead of RULE: once, at this moment.")
@click.option("--tz", metavar="ZONE", help="Zone of RULE [UTC], and of moments without one [this machine's].")
@click.option(
    "--overlap",
    type=click.Choice([one.value for one in Overlap]),
    help="Effect of a due time while the run before has not ended.  [default: queue]",
)
@click.option(
    "--catch-up",
    type=click.Choice([one.value for one in CatchUp]),
    help="Which missed due times to make up for.  [default: last]",
)
@click.option("--jitter", metavar="DURATION", type=options.DURATION, help="Submit up to so much later.")
@click.option("--until", metavar="MOMENT", type=options.MOMENT, help="No due time after this moment.")
@click.option("--replace", is_flag=True, help="Change the schedule of this name if its definition differs.")
@click.option(
    "--path",
    "paths",
    metavar="DIR",
    type=options.DIRECTORY,
    multiple=True,
    help="Look here too for the module's @task; repeatable. The current directory always is.",
)
@options.connecting
@options.as_json
@options.quiet
def add(
    name: str,
    words: tuple[str, ...],
    replace: bool,
    paths: tuple[str, ...],
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Submit MODULE:FUNCTION at due times, once for each.

    RULE is a cron expression: minute, hour, day of the month, month, day of the week; or six fields with seconds in
    front; or @hourly, @daily, @weekly, @monthly, @yearly. The coordinator needs dtq[cron] for it. Arguments are written
    as for `dtq submit`, whose options also set the terms here.
    """
    ctx = click.get_current_context()
    by_rule = values["every"] is None and values["at"] is None
    if len(words) < 1 + by_rule:
        raise click.UsageError(
            "give a RULE (or --every or --at) and MODULE:FUNCTION." if by_rule else "give MODULE:FUNCTION.", ctx
        )
    if by_rule and ":" in words[0] and " " not in words[0]:
        raise click.UsageError("RULE comes before MODULE:FUNCTION.", ctx)
    if not by_rule and (" " in words[0] or words[0].startswith("@")):
        raise click.UsageError("give a RULE, --every or --at, only one of them.", ctx)
    cron, words = (words[0], words[1:]) if by_rule else (None, words)
    function, call = function_name(words[0]), parse_call(words[1:])
    find_modules(tuple(map(os.path.abspath, paths)))
    terms = _given([term for term in Terms._fields if term != "jitter"], values)
    wanted = schedule_of(name, function, call.args, call.kwargs, _timing(cron, values), terms)
    with service(addresses, authkey_file) as coordinator:
        outcome = coordinator.set_schedule(wanted, replace, False)
        view = coordinator.schedule(name)
    if as_json:
        write_json({"outcome": outcome, "schedule": schedule_json(view)})
    elif not quiet:
        write(f"{name} {outcome}; due {_upcoming(view)}")
    if not view.upcoming and not view.paused:
        say("dtq: it has no due time to come.")


#: The options of `dtq submit` for a task's terms; its --jitter is another one.
_TERMS = [copy.copy(option) for option in submit.params if option.name in Terms._fields and option.name != "jitter"]
_own = [option.name for option in add.params].index("paths")
add.params[_own:_own] = _TERMS


@schedule.command(
    "list",
    examples=(
        ("dtq schedule list", "all, by name"),
        ("dtq schedule list --json", "with every detail"),
    ),
)
@options.connecting
@options.as_json
@options.quiet
def list_schedules(addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """List schedules: next due times, last runs and their ends. With --quiet, names alone."""
    with service(addresses, authkey_file) as coordinator:
        found = all_schedules(coordinator)
    now = time.time()
    if as_json:
        write_json({"schedules": [schedule_json(view) for view in found]})
    elif quiet:
        for view in found:
            write(view.schedule.name)
    elif found:
        rows = [
            (
                view.schedule.name,
                _when(view.schedule.rule),
                view.schedule.spec.function.name,
                f"{_upcoming(view)}{'; ' + view.trouble if view.trouble else ''}",
                _last(view, now),
            )
            for view in found
        ]
        write_table(("SCHEDULE", "WHEN", "FUNCTION", "NEXT", "LAST"), rows)
    else:
        say("no schedules.")


@schedule.command(
    "show",
    examples=(
        ("dtq schedule show nightly", "definition, next times, last run"),
        ("dtq schedule show nightly --json", "the same, as JSON"),
    ),
)
@click.argument("name", metavar="NAME", type=options.SCHEDULE)
@options.connecting
@options.as_json
def show(name: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Show a schedule: its definition, next due times, last run and that run's end."""
    with service(addresses, authkey_file) as coordinator:
        view = coordinator.schedule(name)
    if as_json:
        write_json({"schedule": schedule_json(view)})
    else:
        _show(view, time.time())


def _steered(
    name: str, verb: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool
) -> None:
    with service(addresses, authkey_file) as coordinator:
        coordinator.pause_schedule(name, verb == "paused")
        view = coordinator.schedule(name)
    if as_json:
        write_json({"schedule": schedule_json(view)})
    elif not quiet:
        write(f"{name} {verb}" + (f"; due {_upcoming(view)}" if not view.paused else ""))


@schedule.command(
    "pause",
    examples=(
        ("dtq schedule pause nightly", "until it is resumed"),
        ("dtq schedule pause nightly --json", "and show it, as JSON"),
    ),
)
@click.argument("name", metavar="NAME", type=options.SCHEDULE)
@options.connecting
@options.as_json
@options.quiet
def pause(name: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """Let due times go by. They are not made up for."""
    _steered(name, "paused", addresses, authkey_file, as_json, quiet)


@schedule.command(
    "resume",
    examples=(
        ("dtq schedule resume nightly", "from the next due time on"),
        ("dtq schedule resume nightly --json", "and show it, as JSON"),
    ),
)
@click.argument("name", metavar="NAME", type=options.SCHEDULE)
@options.connecting
@options.as_json
@options.quiet
def resume(name: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """Go on with the first due time from now on."""
    _steered(name, "resumed", addresses, authkey_file, as_json, quiet)


@schedule.command(
    "run",
    examples=(
        ("dtq schedule run nightly", "now, and print the id"),
        ("dtq schedule run nightly --json", "the same, as JSON"),
    ),
)
@click.argument("name", metavar="NAME", type=options.SCHEDULE)
@options.connecting
@options.as_json
def run(name: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Make a submission now, beside the due times, and print its id. A paused schedule's too."""
    with service(addresses, authkey_file) as coordinator:
        number = coordinator.run_schedule(name)
    if as_json:
        write_json({"id": str(number), "tasks": 1})
    else:
        write(str(number))


@schedule.command(
    "remove",
    examples=(
        ("dtq schedule remove nightly", "what it has submitted stays"),
        ("dtq schedule remove nightly sweep", "several"),
    ),
)
@click.argument("names", metavar="NAME...", type=options.SCHEDULE, nargs=-1, required=True)
@options.connecting
@options.as_json
@options.quiet
def remove(
    names: tuple[str, ...], addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool
) -> None:
    """Remove schedules. Their submissions stay."""
    with service(addresses, authkey_file) as coordinator:
        for name in names:
            coordinator.remove_schedule(name)
    if as_json:
        write_json({"removed": list(names)})
    elif not quiet:
        write(f"{counted(len(names), 'schedule')} removed")


def _sync(coordinator: Service, wanted: list[Schedule], keep: bool, dry_run: bool) -> Planned:
    """Make the coordinator's schedules equal to these; invalid ones are found before anything changes."""
    planned = Planned([], [], [], [])
    for each in wanted:
        getattr(planned, coordinator.set_schedule(each, True, True)).append(each.name)
    for each in () if dry_run else wanted:
        if each.name not in planned.unchanged:
            coordinator.set_schedule(each, True, False)
    names = {each.name for each in wanted}
    if not keep:
        planned.removed.extend(
            view.schedule.name for view in all_schedules(coordinator) if view.schedule.name not in names
        )
    for name in () if dry_run else planned.removed:
        coordinator.remove_schedule(name)
    return planned


@schedule.command(
    "sync",
    examples=(
        ("dtq schedule sync schedules.toml --dry-run", "what would be done"),
        ("dtq schedule sync schedules.toml", "add, change and remove, so that there are these and no others"),
    ),
)
@click.argument("path", metavar="FILE", type=options.FILE)
@click.option("--keep", is_flag=True, help="Keep schedules that are not in FILE.")
@click.option("--dry-run", is_flag=True, help="Print the changes, and make none.")
@click.option(
    "--path",
    "paths",
    metavar="DIR",
    type=options.DIRECTORY,
    multiple=True,
    help="Look here too for the modules' @task; repeatable. The current directory always is.",
)
@options.connecting
@options.as_json
@options.quiet
def sync(
    path: str,
    keep: bool,
    dry_run: bool,
    paths: tuple[str, ...],
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the schedules those of a TOML file, and print the changes.

    Schedules that are not in FILE are removed. Each is a table [schedules.NAME] with cron, every or at; call =
    "module:function"; and, as needed, args, kwargs, tz, overlap, catch_up, jitter, until, and a table options with the
    terms of its calls.
    """
    find_modules(tuple(map(os.path.abspath, paths)))
    wanted = read_schedules(path)
    with service(addresses, authkey_file) as coordinator:
        planned = _sync(coordinator, wanted, keep, dry_run)
    if as_json:
        write_json({**planned._asdict(), "dry_run": dry_run})
        return
    done = {"added": planned.added, "changed": planned.changed, "removed": planned.removed}
    for verb, names in done.items():
        for name in () if quiet else names:
            write(f"{'would be ' if dry_run else ''}{verb}: {name}")
    if not quiet and not any(done.values()):
        say(f"{counted(len(planned.unchanged), 'schedule')} as in the file; nothing to do.")
