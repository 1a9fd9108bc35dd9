"""``dtq result`` and ``dtq wait``: print the results of tasks, and wait for their ends."""

from __future__ import annotations

from typing import Any

import click

from dtq.cli import options
from dtq.cli.asking import which
from dtq.cli.awaited import Awaited, count_run, is_task, run_of
from dtq.cli.calling import client
from dtq.cli.click_classes import Command
from dtq.cli.failures import TaskTrouble
from dtq.cli.meanwhile import telling
from dtq.cli.output import say, write, write_json
from dtq.cli.raw import print_raw, raw_pieces, save
from dtq.cli.render_json import counts_json, counts_text
from dtq.cli.waiting import Deadline, interruptible, print_batch, print_each, print_task
from dtq.client.handle import TaskHandle
from dtq.client.sync import Client
from dtq.config.values import format_size
from dtq.errors import NotFinished
from dtq.model.states import State


@click.command(
    cls=Command,
    examples=(
        ("dtq result 17", "what a task returned, or a line for each task of a batch"),
        ("dtq result 17.3 --json", "the same, as JSON"),
        ("dtq result 17 --out thumb.png", "bytes or a text, as they are, to a file"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@click.option("--raw", is_flag=True, help="Print bytes and texts of one task as they are.")
@click.option("--out", metavar="FILE", type=options.FILE, help="Write them to FILE, once all of them are there.")
@options.connecting
@options.as_json
def result(
    task_id: str, raw: bool, out: str | None, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool
) -> None:
    """Print a task's result: as JSON if possible, else its repr. Of a failed task, the remote traceback.

    With --raw or --out, bytes are written as they are, a text in UTF-8, of a command its output, and others as they are
    printed; large ones a piece at a time. Ends with 75 if the task has not ended; see `dtq wait`.
    """
    if as_json and (raw or out is not None):
        raise click.UsageError("use --json, or --raw or --out.", click.get_current_context())
    with client(addresses, authkey_file) as queue:
        run = run_of(queue, task_id)
        if (raw or out is not None) and (run or not is_task(queue, task_id)):
            raise click.UsageError("--raw and --out are for one task, as in 17.0.", click.get_current_context())
        if run:
            counts = count_run(queue, task_id)
            if counts.unfinished:
                raise NotFinished(task_id, f"unfinished ({counts_text(counts)})")
            print_each(run, as_json=as_json)
        elif is_task(queue, task_id):
            seen = queue.status(task_id)
            if not seen.state.final:
                raise NotFinished(str(seen.id), seen.state.value)
            if raw or out is not None:
                _write_raw(queue.get(task_id), out)
            else:
                print_task(queue.get(task_id), as_json=as_json)
        else:
            counts = queue.batch_status(task_id).counts
            if counts.unfinished:
                raise NotFinished(task_id, f"unfinished ({counts_text(counts)})")
            print_batch(queue.get_batch(task_id), as_json=as_json)


def _write_raw(handle: TaskHandle[Any], out: str | None) -> None:
    """Write an ended task's result as it is, to a file or to standard output."""
    handle.wait()
    if handle.failed():
        print_task(handle, as_json=False)
        return
    pieces = raw_pieces(handle)
    if out is None or out == "-":
        print_raw(pieces)
    else:
        say(f"{format_size(save(pieces, out))} written to {out}")


def _unfinished(queue: Client, filters: dict[str, Any]) -> tuple[str, ...]:
    """The ids of the batches with a task that matches and has not ended."""
    states = [state for state in State if not state.final]
    found = {view.batch for state in states for view in queue.tasks(state=state, limit=0, **filters)}
    return tuple(map(str, sorted(found)))


@click.command(
    cls=Command,
    examples=(
        ("dtq wait 17 18", "until both have ended"),
        ("dtq wait 17 --timeout 5m", "five minutes at most; then it ends with 124"),
        ("dtq wait --label nightly", "until all batches of the label have ended that have not yet"),
    ),
)
@click.argument("ids", metavar="[ID]...", type=options.ID, nargs=-1)
@options.queue_filter
@options.function_filter
@options.label_filter
@click.option("--timeout", "timeout_s", metavar="DURATION", type=options.DURATION, help="Wait no longer than this.")
@options.connecting
@options.as_json
@options.quiet
def wait(
    ids: tuple[str, ...],
    timeout_s: float | None,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **filters: str | None,
) -> None:
    """Wait until tasks and batches have ended, and report their ends.

    With filters, for every batch with a task that matches and has not ended. Ends with 1 if one of them has no result,
    with 124 if the time runs out; the tasks go on then.
    """
    deadline = Deadline(timeout_s)
    ended: list[dict[str, Any]] = []
    troubles = 0
    given = {name: text for name, text in filters.items() if text is not None}
    which(ids, everything=False, filtered=bool(given))
    with client(addresses, authkey_file) as queue, interruptible(" ".join(ids)):
        ids = ids or _unfinished(queue, given)
        if not ids:
            say("nothing that matches is unfinished.")
        awaited = [Awaited(queue, text) for text in ids]
        with telling(*awaited, quiet=quiet or as_json):
            for one in awaited:
                counts = one.wait(deadline)
                troubles += counts.dead + counts.cancelled
                ended.append({"id": one.text, "tasks": counts_json(counts)})
                if not as_json and not quiet:
                    write(f"{one.text}  {counts_text(counts)}")
    if as_json:
        write_json({"ended": ended})
    if troubles:
        raise TaskTrouble
