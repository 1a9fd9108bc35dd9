"""``dtq dlq``: list, show, requeue and purge dead letters."""

from __future__ import annotations

import time
from typing import Any

import click

from dtq.cli import options
from dtq.cli.arguments import FULL, FULL_JSON, LIST, LIST_JSON, Arguments, fetch_arguments
from dtq.cli.asking import COUNTED, agreed, which
from dtq.cli.calling import service
from dtq.cli.click_classes import Group
from dtq.cli.output import one_line, say, write, write_json
from dtq.cli.render_json import group_json, letter_json, task_json
from dtq.cli.render_text import show_groups, show_letters, show_task
from dtq.cli.tasks import NO_FILTERS, filtered, look_up, selected
from dtq.client.paging import all_dead_letters, whole_summary
from dtq.errors import NotDead
from dtq.model.ids import parse_named
from dtq.model.service import Service
from dtq.model.snapshots import DeadGroup, GroupBy, Selection, TaskView
from dtq.model.states import State
from dtq.records import replace
from dtq.wording import counted


@click.group(
    cls=Group,
    examples=(
        ("dtq dlq list --exception '*TimeoutError'", "what died of a time-out"),
        ("dtq dlq retry --function 'mymodule:*'", "put back what a bug fix can cure"),
    ),
)
def dlq() -> None:
    """Dead letters: tasks that used up their retries or crashes, with the history of every attempt."""


def _selection(ids: tuple[str, ...], filters: dict[str, Any], limit: int = 0) -> Selection:
    found = replace(filtered(**filters), limit=limit)
    return replace(found, ids=selected(ids)) if ids else found


def _which(ids: tuple[str, ...], everything: bool, filters: dict[str, Any]) -> None:
    which(ids, everything, filtered(**filters) != NO_FILTERS)


def _count(coordinator: Service, selection: Selection) -> str:
    limited = replace(selection, limit=COUNTED)
    found = len(all_dead_letters(coordinator, limited))
    return f"{'at least ' if found == COUNTED else ''}{counted(found, 'dead letter')}"


@dlq.command(
    "list",
    examples=(
        ("dtq dlq list", "the latest first"),
        ("dtq dlq list --queue mail --older-than 1d --json", "those of a queue that died before yesterday"),
        ("dtq dlq list --by exception", "how many died of which exception"),
    ),
)
@options.dead_letter_filters
@click.option("--by", type=click.Choice(["exception", "function"]), help="Count them by exception or by function.")
@options.limit
@options.arguments
@options.connecting
@options.as_json
@options.quiet
def list_letters(
    by: str | None,
    limit: int,
    arguments: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: Any,
) -> None:
    """List dead letters, the latest first. With --quiet, ids alone.

    With --by, a line for each exception or function: the number of dead letters, the latest one, and its message.
    """
    shown: Arguments | None = None
    with service(addresses, authkey_file) as coordinator:
        if by is not None:
            _show_groups(whole_summary(coordinator, _selection((), filters), GroupBy(by)), by, limit, as_json, quiet)
            return
        found = all_dead_letters(coordinator, _selection((), filters, limit + 1))
        more, found = len(found) > limit, found[:limit]
        if arguments and not quiet:
            shown = fetch_arguments(coordinator, found, LIST_JSON if as_json else LIST)
    if as_json:
        known = shown or {}
        letters = [letter_json(letter, known.get((letter.batch, letter.index))) for letter in found]
        write_json({"dead_letters": letters, "more": more})
    elif quiet:
        for letter in found:
            write(str(letter.id))
    elif found:
        show_letters(found, time.time(), shown)
    else:
        say("no dead letters.")
    if more and not as_json:
        say(f"the first {limit}; there are more (--limit).")


def _show_groups(found: list[DeadGroup], by: str, limit: int, as_json: bool, quiet: bool) -> None:
    few = found[:limit]
    if as_json:
        write_json({"groups": [group_json(group, by) for group in few], "more": len(few) < len(found)})
    elif quiet:
        for group in few:
            write(one_line(group.name))
    elif few:
        show_groups(few, by, time.time())
    else:
        say("no dead letters.")
    if len(few) < len(found) and not as_json:
        say(f"the first {limit} of {len(found):,} (--limit).")


@dlq.command(
    "show",
    examples=(
        ("dtq dlq show 17.3", "every attempt with its traceback"),
        ("dtq dlq show 17.3 --json", "the same, as JSON"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@options.arguments
@options.connecting
@options.as_json
def show(task_id: str, arguments: bool, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Show a dead letter with its arguments and its history.

    When and where each attempt ran, how it ended, and its traceback.
    """
    shown: Arguments = {}
    with service(addresses, authkey_file) as coordinator:
        found = look_up(coordinator, task_id)
        if arguments and isinstance(found, TaskView) and found.state is State.DEAD:
            shown = fetch_arguments(coordinator, [found], FULL_JSON if as_json else FULL)
    if not isinstance(found, TaskView):
        size = sum(task.count for task in found) if isinstance(found, list) else found.size
        one = parse_named(task_id)
        raise click.UsageError(
            f"{task_id} names {counted(size, 'task')}; name one of them, as in {one.batch}.{one.lo or 0}.",
            click.get_current_context(),
        )
    if found.state is not State.DEAD:
        raise NotDead(str(found.id), found.state.value)
    text = shown.get((found.batch, found.index))
    if as_json:
        write_json({"task": task_json(found, text)})
    else:
        show_task(found, time.time(), text, tracebacks=True)


@dlq.command(
    "retry",
    examples=(
        ("dtq dlq retry 17.3 21", "these"),
        ("dtq dlq retry --exception 'ConnectionError'", "all that match"),
    ),
)
@click.argument("ids", metavar="[ID]...", type=options.ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter that matches the filters.")
@options.dead_letter_filters
@click.option("--dry-run", is_flag=True, help="Print their number, and put none back.")
@options.asking
@options.connecting
@options.as_json
@options.quiet
def retry(
    ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    no_input: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: Any,
) -> None:
    """Put dead letters back into the queue.

    They get fresh counters and keep their history.
    """
    selection = _selection(ids, filters)
    _which(ids, everything, filters)
    with service(addresses, authkey_file) as coordinator:
        if dry_run:
            write(f"{_count(coordinator, selection)} would be put back")
            return
        if not ids and not agreed("Put {} back", lambda: _count(coordinator, selection), yes=yes, no_input=no_input):
            say("nothing was put back.")
            return
        done = coordinator.retry_dead(selection)
    if as_json:
        write_json({"retried": done})
    elif not quiet:
        write(f"{counted(done, 'dead letter')} put back")


@dlq.command(
    "purge",
    examples=(
        ("dtq dlq purge 17.3", "asks first, on a terminal"),
        ("dtq dlq purge --older-than 30d --yes", "asks nothing: for scripts"),
    ),
)
@click.argument("ids", metavar="[ID]...", type=options.ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter that matches the filters.")
@options.dead_letter_filters
@click.option("--dry-run", is_flag=True, help="Print their number, and purge none.")
@options.asking
@options.connecting
@options.as_json
@options.quiet
def purge(
    ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    no_input: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: Any,
) -> None:
    """Remove dead letters for good."""
    selection = _selection(ids, filters)
    _which(ids, everything, filters)
    with service(addresses, authkey_file) as coordinator:
        if dry_run:
            write(f"{_count(coordinator, selection)} would be purged")
            return
        if not agreed(
            "Purge {} for good", lambda: _count(coordinator, selection), yes=yes, no_input=no_input, final=True
        ):
            say("nothing was purged.")
            return
        done = coordinator.purge_dead(selection)
    if as_json:
        write_json({"purged": done})
    elif not quiet:
        write(f"{counted(done, 'dead letter')} purged")
