"""``dtq batches``: list batches with their progress."""

from __future__ import annotations

import time

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import say, write, write_json
from dtq.cli.render_json import batch_json
from dtq.cli.render_text import show_batches
from dtq.client.paging import all_batches
from dtq.model.snapshots import BatchSelection
from dtq.model.states import State


@click.command(
    cls=Command,
    examples=(
        ("dtq batches", "the newest submissions, and how far they are"),
        ("dtq batches --label nightly --state running", "those of a label with a task that runs"),
        ("dtq batches --before 17", "older ones: the list goes on before batch 17"),
    ),
)
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only with a task in this state.")
@options.queue_filter
@options.function_filter
@options.label_filter
@click.option(
    "--older-than", metavar="DURATION", type=options.DURATION, help="Only those submitted at least so long ago."
)
@click.option("--before", metavar="N", type=click.IntRange(1, 10**15 - 1), help="Only batches before this one.")
@options.limit
@options.connecting
@options.as_json
@options.quiet
def batches(
    state: str | None,
    queue: str | None,
    function: str | None,
    label: str | None,
    older_than: float | None,
    before: int | None,
    limit: int,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """List batches, the newest first: a line a submission, with the share of ended tasks, the pace, and the time left.

    SIZE ends with + while the submitter sends more. With --quiet, ids alone.
    """
    selection = BatchSelection(
        queue=queue,
        function=function,
        label=label,
        state=None if state is None else State(state),
        older_than_s=older_than,
        before=before or 0,
        limit=limit + 1,
    )
    with service(addresses, authkey_file) as coordinator:
        found = all_batches(coordinator, selection)
    more, found = len(found) > limit, found[:limit]
    next_before = found[-1].batch if more else None
    if as_json:
        write_json({"batches": [batch_json(batch) for batch in found], "more": more, "before": next_before})
    elif quiet:
        for batch in found:
            write(str(batch.batch))
    elif found:
        show_batches(found, time.time())
    else:
        say("no batches.")
    if more and not as_json:
        say(f"the newest {limit} batches; there are more (--limit, or --before {next_before}).")
