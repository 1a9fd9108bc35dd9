"""``dtq rerun``: submit ended tasks once more."""

from __future__ import annotations

from typing import Any

import click

from dtq.cli import options
from dtq.cli.asking import agreed, how_many, which
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import say, write, write_json
from dtq.cli.tasks import NO_FILTERS, filtered, selected
from dtq.client.paging import rerun_all
from dtq.model.snapshots import Selection
from dtq.wording import counted


@click.command(
    cls=Command,
    examples=(
        ("dtq rerun 17", "a task, or all of a batch that has ended"),
        ("dtq rerun 17.3 17.4-9", "some tasks of a batch"),
        ("dtq rerun --state succeeded --label nightly", "all that match"),
    ),
)
@click.argument("ids", metavar="[ID]...", type=options.ID, nargs=-1)
@options.everything
@options.task_filters
@options.asking
@options.connecting
@options.as_json
@options.quiet
def rerun(
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
    """Submit tasks once more that have ended: succeeded, dead or cancelled ones.

    The same functions, arguments and terms make new tasks; the ended tasks of a batch make one batch, whose id is
    printed. The earlier tasks stay as they are; `dtq dlq retry` puts dead letters back instead. Arguments are kept as
    long as results.
    """
    selection = filtered(**filters)
    which(ids, everything, selection != NO_FILTERS)
    selection = Selection(ids=selected(ids), limit=0) if ids else selection
    with service(addresses, authkey_file) as queue:
        if not ids and not agreed(
            "Submit {} once more", lambda: how_many(queue, selection, ended=True), yes=yes, no_input=no_input
        ):
            say("nothing was submitted.")
            return
        report = rerun_all(queue, selection)
    if as_json:
        batches = [{"earlier": each.earlier, "batch": each.batch, "tasks": each.tasks} for each in report.batches]
        write_json({"tasks": report.tasks, "batches": batches, "more": report.more})
        return
    for each in report.batches:
        write(str(each.batch))
    if report.more:
        say("these are the first of the new batches; `dtq batches` lists all.")
    if not quiet:
        say(f"{counted(report.tasks, 'ended task')} submitted once more.")
