"""``dtq result`` and ``dtq wait``: what tasks returned, and waiting until they have."""

from __future__ import annotations

from typing import Any

import click

from dtq.cli import options
from dtq.cli.calling import client
from dtq.cli.failures import TaskTrouble
from dtq.cli.grammar import Command
from dtq.cli.output import write, write_json
from dtq.cli.pictures import counts_text
from dtq.cli.records import counts_json
from dtq.cli.waiting import Tally, interruptible, print_batch, print_task, wait_for
from dtq.client.sync import Client
from dtq.errors import NotFinished
from dtq.model.ids import parse_id
from dtq.model.snapshots import Counts, TaskView


def task_tally(view: TaskView) -> Tally:
    """How far a task says it is."""
    done, total = view.progress or (0.0, 0.0)
    return done, total, view.failures + view.crashes


def batch_tally(counts: Counts) -> Tally:
    """How far a batch is."""
    return counts.total - counts.unfinished, counts.total, counts.dead + counts.cancelled


def _is_task(queue: Client, text: str) -> bool:
    """Whether an id names one task: by its index, or because its batch has no other."""
    number, index = parse_id(text)
    if index is not None:
        return True
    view = queue.batch_status(number)
    return view.complete and view.size == 1


@click.command(
    cls=Command,
    examples=(
        ("dtq result 17", "what a task returned, or a line for each task of a batch"),
        ("dtq result 17.3 --json", "the same, as JSON"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@options.connecting
@options.as_json
def result(task_id: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Print what a task returned: as JSON if it can be, else its repr. Of one that failed, the remote traceback.

    Ends with 75 if the task has not ended; see `dtq wait`.
    """
    with client(addresses, authkey_file) as queue:
        if _is_task(queue, task_id):
            seen = queue.status(task_id)
            if not seen.state.final:
                raise NotFinished(str(seen.id), seen.state.value)
            print_task(queue.get(task_id), as_json=as_json)
        else:
            counts = queue.batch_status(task_id).counts
            if counts.unfinished:
                raise NotFinished(task_id, f"unfinished ({counts_text(counts)})")
            print_batch(queue.get_batch(task_id), as_json=as_json)


def _wait_for_id(queue: Client, text: str, timeout_s: float | None, quiet: bool) -> Counts:
    """Wait for what an id names; how its tasks ended."""
    what = f"task {text}"
    if not _is_task(queue, text):
        batch = queue.get_batch(text)
        wait_for(batch, timeout_s, what=what, look=lambda: batch_tally(batch.status().counts), quiet=quiet)
        return batch.status().counts
    task = queue.get(text)
    wait_for(task, timeout_s, what=what, look=lambda: task_tally(task.status()), quiet=quiet)
    return Counts(**{task.state.value: 1})


@click.command(
    cls=Command,
    examples=(
        ("dtq wait 17 18", "until both have ended"),
        ("dtq wait 17 --timeout 5m", "five minutes at most; then it ends with 124"),
    ),
)
@click.argument("ids", metavar="ID...", type=options.ID, nargs=-1, required=True)
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
) -> None:
    """Wait until tasks and batches have ended, and say how.

    Ends with 1 if one of them has no result, with 124 if the time runs out; the tasks go on then.
    """
    import time

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    ended: list[dict[str, Any]] = []
    troubles = 0
    with client(addresses, authkey_file) as queue, interruptible(" ".join(ids)):
        for text in ids:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            counts = _wait_for_id(queue, text, left, quiet)
            troubles += counts.dead + counts.cancelled
            ended.append({"id": text, "tasks": counts_json(counts)})
            if not as_json and not quiet:
                write(f"{text}  {counts_text(counts)}")
    if as_json:
        write_json({"ended": ended})
    if troubles:
        raise TaskTrouble
