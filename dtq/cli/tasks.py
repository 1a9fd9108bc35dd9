"""``dtq status``, ``cancel``, ``list`` and ``stats``: inspect the queue, and cancel tasks."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import Any, Final

import click

from dtq.cli import options
from dtq.cli.arguments import FULL, FULL_JSON, LIST, LIST_JSON, Arguments, fetch_arguments
from dtq.cli.asking import agreed, how_many, which
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import say, write, write_json
from dtq.cli.render_json import batch_json, run_id, stats_json, task_json
from dtq.cli.render_text import show_batch, show_stats, show_task, show_tasks
from dtq.client.paging import all_tasks, cancel_all, whole_stats, whole_task
from dtq.errors import InvalidValue
from dtq.model.fields import PRIORITIES
from dtq.model.ids import parse_named
from dtq.model.service import Service
from dtq.model.snapshots import BatchView, Selection, TaskView
from dtq.model.states import Outcome, State
from dtq.records import replace
from dtq.wording import counted

#: Longest run of tasks whose ids are sent one by one.
MAX_RUN: Final = 100_000


def selected(ids: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Ids in the form of a `Selection`.

    Raises:
        InvalidId: one of them is malformed.
        InvalidValue: one is that of a run of too many tasks.
    """
    found: list[tuple[int, int]] = []
    for named in map(parse_named, ids):
        run = named.run
        if run is not None and len(run) > MAX_RUN:
            raise InvalidValue("a run of tasks", len(run), f"it has at most {MAX_RUN:,}; name the batch")
        found += (
            [(named.batch, -1 if named.lo is None else named.lo)] if run is None else [(named.batch, i) for i in run]
        )
    return tuple(found)


def look_up(queue: Service, text: str) -> TaskView | BatchView | list[TaskView]:
    """Look up an id: a task, a batch of several (or none yet), or a run of tasks as runs of like ones.

    Raises:
        InvalidId: it is malformed.
        UnknownId: the task does not exist.
    """
    named = parse_named(text)
    batch, index = named.batch, named.index
    if index is not None:
        return whole_task(queue, batch, index)
    if named.run is not None:
        queue.task(batch, named.run[-1])  # all of it exists
        return sorted(all_tasks(queue, Selection(ids=selected((text,)), limit=0)), key=attrgetter("index"))
    view = queue.batch(batch)
    return whole_task(queue, batch, 0) if view.size == 1 and view.complete else view


@click.command(
    cls=Command,
    examples=(
        ("dtq status 17", "a task, or a batch of tasks, by the id that submit printed"),
        ("dtq status 17.3 --json", "the fourth task of batch 17, as JSON"),
        ("dtq status 17.0-46", "tasks of a batch, by the id that list printed"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@options.arguments
@options.connecting
@options.as_json
@options.quiet
def status(
    task_id: str,
    arguments: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show a task: its state, its arguments, its attempts, its progress, and while it waits the reason.

    With --quiet, the state alone.
    """
    shown: Arguments | None = None
    with service(addresses, authkey_file) as queue:
        found = look_up(queue, task_id)
        if arguments and not quiet and not isinstance(found, BatchView):
            several = isinstance(found, list)
            most = (LIST_JSON if several else FULL_JSON) if as_json else LIST if several else FULL
            shown = fetch_arguments(queue, found if isinstance(found, list) else [found], most)
    if isinstance(found, list):
        _show_run(found, shown, as_json, quiet)
    elif isinstance(found, TaskView):
        text = (shown or {}).get((found.batch, found.index))
        if as_json:
            write_json({"task": task_json(found, text)})
        elif quiet:
            write(found.state.value)
        else:
            show_task(found, time.time(), text)
    elif as_json:
        write_json({"batch": batch_json(found)})
    elif quiet:
        write("finished" if found.complete and not found.counts.unfinished else "unfinished")
    else:
        show_batch(found, time.time())


def _tasks_json(found: list[TaskView], arguments: Arguments | None) -> list[dict[str, Any]]:
    known = arguments or {}
    return [task_json(task, known.get((task.batch, task.index))) for task in found]


def _show_run(found: list[TaskView], arguments: Arguments | None, as_json: bool, quiet: bool) -> None:
    if as_json:
        write_json({"tasks": _tasks_json(found, arguments)})
    elif quiet:
        for task in found:
            write(f"{run_id(task)} {task.state.value}")
    else:
        show_tasks(found, time.time(), arguments)


def filtered(
    state: str | None = None,
    batch: int | None = None,
    older_than: float | None = None,
    outcome: str | None = None,
    **filters: Any,
) -> Selection:
    """The selection of filters, as options have them; without a limit."""
    return Selection(
        ids=() if batch is None else ((batch, -1),),
        state=None if state is None else State(state),
        older_than_s=older_than,
        outcome=None if outcome is None else Outcome(outcome.replace("-", " ")),
        limit=0,
        **filters,
    )


#: No filter.
NO_FILTERS: Final = filtered()


@click.command(
    cls=Command,
    examples=(
        ("dtq cancel 17", "a task, or every task of a batch"),
        ("dtq cancel 17.3 17.4-9", "some tasks of a batch"),
        ("dtq cancel --queue mail --state pending", "all that match"),
    ),
)
@click.argument("ids", metavar="[ID]...", type=options.ID, nargs=-1)
@options.everything
@options.task_filters
@options.asking
@options.connecting
@options.as_json
@options.quiet
def cancel(
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    no_input: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: Any,
) -> None:
    """Stop tasks: waiting tasks never start, running tasks are killed. Ended tasks stay as they are.

    On a terminal, what filters match is counted, and a question asked.
    """
    selection = filtered(**filters)
    which(ids, everything, selection != NO_FILTERS)
    with service(addresses, authkey_file) as queue:
        if not ids and not agreed("Cancel {}", lambda: how_many(queue, selection), yes=yes, no_input=no_input):
            say("nothing was cancelled.")
            return
        report = cancel_all(queue, Selection(ids=selected(ids), limit=0) if ids else selection)
    if as_json:
        write_json({"cancelled": report.cancelled, "stopping": report.stopping, "finished": report.finished})
    elif not quiet:
        write(
            f"{counted(report.cancelled, 'task')} cancelled, {report.stopping:,} being stopped, "
            f"{report.finished:,} had ended before"
        )


@click.command(
    cls=Command,
    examples=(
        ("dtq reprioritize 17 -p 1", "what waits of a batch"),
        ("dtq reprioritize --label nightly -p 9", "all that match"),
    ),
)
@click.argument("ids", metavar="[ID]...", type=options.ID, nargs=-1)
@click.option("-p", "--priority", metavar="N", type=click.IntRange(*PRIORITIES), required=True, help="1 (first) to 10.")
@options.everything
@options.task_filters
@options.asking
@options.connecting
@options.as_json
@options.quiet
def reprioritize(
    ids: tuple[str, ...],
    priority: int,
    everything: bool,
    yes: bool,
    no_input: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: Any,
) -> None:
    """Change the priority of waiting tasks.

    The tasks of a batch have one priority: all waiting tasks of a batch move, and tasks that come back. On a terminal,
    what filters match is counted, and a question asked.
    """
    selection = filtered(**filters)
    which(ids, everything, selection != NO_FILTERS)
    with service(addresses, authkey_file) as queue:
        if not ids and not agreed(
            f"Give {{}} the priority {priority}", lambda: how_many(queue, selection), yes=yes, no_input=no_input
        ):
            say("nothing was changed.")
            return
        count = queue.reprioritize(Selection(ids=selected(ids), limit=0) if ids else selection, priority)
    if as_json:
        write_json({"reprioritized": count})
    elif not quiet:
        write(f"{counted(count, 'task')} that wait{'s' if count == 1 else ''}: priority {priority}")


@click.command(
    "list",
    cls=Command,
    examples=(
        ("dtq list", "what runs and waits, then what has ended"),
        ("dtq list --state running --queue slow --json", "what runs of one queue, as JSON"),
    ),
)
@options.task_filters
@options.limit
@options.arguments
@options.connecting
@options.as_json
@options.quiet
def list_(
    limit: int,
    arguments: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: Any,
) -> None:
    """List tasks: unfinished ones in the order they will run, then ended ones, the latest first.

    Neighbours of a batch in like states share a line. With --quiet, ids alone.
    """
    selection = replace(filtered(**filters), limit=limit + 1)
    shown: Arguments | None = None
    with service(addresses, authkey_file) as coordinator:
        found = all_tasks(coordinator, selection)
        more, found = len(found) > limit, found[:limit]
        if arguments and not quiet:
            shown = fetch_arguments(coordinator, found, LIST_JSON if as_json else LIST)
    if as_json:
        write_json({"tasks": _tasks_json(found, shown), "more": more})
    elif quiet:
        for task in found:
            write(run_id(task))
    elif found:
        show_tasks(found, time.time(), shown)
    else:
        say("no tasks.")
    if more and not as_json:
        say(f"the first {limit} lines; there are more (--limit).")


@click.command(
    cls=Command,
    examples=(
        ("dtq stats", "counts, queues and workers"),
        ("dtq stats --json", "the same, as JSON"),
        ("dtq stats --watch", "the same, again and again"),
    ),
)
@click.option("--watch", is_flag=True, help="Show them again and again, until Ctrl-C.")
@click.option(
    "--every",
    "every_s",
    metavar="DURATION",
    type=options.DURATION,
    default=2.0,
    show_default="2s",
    help="With --watch: how often.",
)
@options.connecting
@options.as_json
def stats(watch: bool, every_s: float, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Show numbers of tasks by state, the queues, and the workers."""
    with service(addresses, authkey_file) as queue:

        def show() -> None:
            seen = whole_stats(queue)
            if as_json:
                write_json({"stats": stats_json(seen)})
            else:
                show_stats(seen, queue.address)

        if not watch:
            show()
            return
        from dtq.cli.watching import watching

        watching(show, max(0.1, every_s), apart="" if as_json else "\n")
