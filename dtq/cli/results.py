"""``dtq result`` and ``dtq wait``: print the results of tasks, and wait for their ends."""

from __future__ import annotations

from typing import Any

import click

from dtq.cli import options
from dtq.cli.calling import client
from dtq.cli.click_classes import Command
from dtq.cli.failures import TaskTrouble
from dtq.cli.meanwhile import BatchLook, TaskLook
from dtq.cli.output import write, write_json
from dtq.cli.render_json import counts_json, counts_text
from dtq.cli.tasks import selected
from dtq.cli.waiting import Deadline, interruptible, print_batch, print_each, print_task, wait_for
from dtq.client.handle import TaskHandle
from dtq.client.sync import Client
from dtq.errors import NotFinished
from dtq.model.ids import TaskId, parse_named
from dtq.model.snapshots import Counts
from dtq.model.states import State


def _is_task(queue: Client, text: str) -> bool:
    """Whether an id names one task: by its index, or because its batch has no other."""
    named = parse_named(text)
    if named.lo is not None:
        return named.run is None
    view = queue.batch_status(named.batch)
    return view.complete and view.size == 1


def _run_of(queue: Client, text: str) -> list[TaskHandle[Any]]:
    """The tasks of a run; empty if the id is no run's."""
    named = parse_named(text)
    run = named.run
    if run is None:
        return []
    queue.status(f"{named.batch}.{run[-1]}")  # all of it exists
    return [queue.get(f"{named.batch}.{index}") for index in run]


def _counts(queue: Client, text: str) -> Counts:
    """The tasks of a run by state."""
    views = queue.tasks(*(TaskId(batch, index) for batch, index in selected((text,))), limit=0)
    return Counts(**{state.value: sum(view.count for view in views if view.state is state) for state in State})


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
    """Print a task's result: as JSON if possible, else its repr. Of a failed task, the remote traceback.

    Ends with 75 if the task has not ended; see `dtq wait`.
    """
    with client(addresses, authkey_file) as queue:
        run = _run_of(queue, task_id)
        if run:
            counts = _counts(queue, task_id)
            if counts.unfinished:
                raise NotFinished(task_id, f"unfinished ({counts_text(counts)})")
            print_each(run, as_json=as_json)
        elif _is_task(queue, task_id):
            seen = queue.status(task_id)
            if not seen.state.final:
                raise NotFinished(str(seen.id), seen.state.value)
            print_task(queue.get(task_id), as_json=as_json)
        else:
            counts = queue.batch_status(task_id).counts
            if counts.unfinished:
                raise NotFinished(task_id, f"unfinished ({counts_text(counts)})")
            print_batch(queue.get_batch(task_id), as_json=as_json)


def _wait_for_id(queue: Client, text: str, deadline: Deadline, quiet: bool) -> Counts:
    """Wait for the tasks of an id; returns their ends."""
    run = _run_of(queue, text)
    if run:
        for task in run:
            wait_for(task, deadline, what=f"task {task.id}", look=TaskLook(task), quiet=quiet)
        return _counts(queue, text)
    if not _is_task(queue, text):
        batch = queue.get_batch(text)
        look = BatchLook(batch, lambda state: next(iter(queue.tasks(text, state=state, limit=1)), None))
        wait_for(batch, deadline, what=f"batch {text}", look=look, quiet=quiet)
        return batch.status().counts
    task = queue.get(text)
    wait_for(task, deadline, what=f"task {text}", look=TaskLook(task), quiet=quiet)
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
    """Wait until tasks and batches have ended, and report their ends.

    Ends with 1 if one of them has no result, with 124 if the time runs out; the tasks go on then.
    """
    deadline = Deadline(timeout_s)
    ended: list[dict[str, Any]] = []
    troubles = 0
    with client(addresses, authkey_file) as queue, interruptible(" ".join(ids)):
        for text in ids:
            counts = _wait_for_id(queue, text, deadline, quiet or as_json)
            troubles += counts.dead + counts.cancelled
            ended.append({"id": text, "tasks": counts_json(counts)})
            if not as_json and not quiet:
                write(f"{text}  {counts_text(counts)}")
    if as_json:
        write_json({"ended": ended})
    if troubles:
        raise TaskTrouble
