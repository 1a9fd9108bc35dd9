"""``dtq workers``: list, drain and stop workers."""

from __future__ import annotations

import time
from typing import Final

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Group
from dtq.cli.output import one_line, say, write, write_json
from dtq.cli.render_json import worker_json
from dtq.cli.render_text import show_workers
from dtq.cli.waiting import Deadline
from dtq.client.paging import whole_stats
from dtq.client.workers import chosen
from dtq.errors import WaitTimeout
from dtq.model.messages import WorkerOrder
from dtq.model.snapshots import OrderedWorker
from dtq.wording import counted

#: Pause between two looks whether workers have ended, in seconds.
_LOOK_S: Final = 0.2
#: Effects of the orders, as the commands print them.
_EFFECTS: Final = {
    WorkerOrder.WORK: "takes tasks",
    WorkerOrder.STAY: "takes no tasks until it is resumed",
    WorkerOrder.DRAIN: "takes no more tasks, and ends",
    WorkerOrder.STOP: "ends now",
}

_naming = options.stacked(
    click.argument("names", metavar="[NAME]...", nargs=-1),
    click.option("--all", "everything", is_flag=True, help="Every connected worker."),
    options.connecting,
    options.as_json,
    options.quiet,
)


@click.group(
    cls=Group,
    examples=(
        ("dtq workers list", "who works, and on what"),
        ("dtq workers drain lab-1", "finish what runs, take nothing new, and end"),
    ),
)
def workers() -> None:
    """The connected workers. `dtq worker` starts one."""


@workers.command(
    "list",
    examples=(
        ("dtq workers list", "all of them"),
        ("dtq workers list --json", "the same, as JSON"),
    ),
)
@options.connecting
@options.as_json
@options.quiet
def list_workers(addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """List the connected workers. With --quiet, names alone."""
    with service(addresses, authkey_file) as coordinator:
        stats = whole_stats(coordinator)
    if as_json:
        write_json({"workers": [worker_json(each) for each in stats.workers]})
    elif quiet:
        for each in stats.workers:
            write(one_line(each.name))
    elif stats.workers:
        show_workers(stats.workers, stats.now)
    else:
        say("no workers.")


@workers.command(
    "drain",
    examples=(
        ("dtq workers drain lab-1", "it ends when its running tasks have ended"),
        ("dtq workers drain lab-1 --wait --timeout 10m", "and wait for its end, before its machine goes"),
        ("dtq workers drain --stay 'lab-*'", "all of the lab, until `dtq workers resume 'lab-*'`"),
    ),
)
@_naming
@click.option("--stay", is_flag=True, help="Do not end: wait until it is resumed.")
@click.option("--wait", "waiting", is_flag=True, help="Wait until the workers have ended, or with --stay run nothing.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="DURATION",
    type=options.DURATION,
    help="Wait no longer than this (ends with 124).",
)
def drain(
    names: tuple[str, ...],
    everything: bool,
    stay: bool,
    waiting: bool,
    timeout_s: float | None,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Have workers finish their running tasks and take no others.

    Names may be globs. Unstarted tasks go back to the queue. Without --stay the worker ends then.
    """
    if timeout_s is not None and not waiting:
        raise click.UsageError("--timeout is for --wait.", click.get_current_context())
    order = WorkerOrder.STAY if stay else WorkerOrder.DRAIN
    ordered = _order(names, everything, order, addresses, authkey_file, as_json, quiet)
    if waiting:
        _await_drained({each.session for each in ordered}, Deadline(timeout_s), addresses, authkey_file)


def _await_drained(
    sessions: set[str], deadline: Deadline, addresses: tuple[str, ...], authkey_file: str | None
) -> None:
    """Wait until workers have ended, or are drained and stay.

    Raises:
        WaitTimeout: they run tasks still.
    """
    with service(addresses, authkey_file) as coordinator:
        while True:
            left = [
                each
                for each in whole_stats(coordinator).workers
                if each.session in sessions and each.state != "drained"
            ]
            if not left:
                return
            left_s = deadline.left_s
            if left_s == 0:
                raise WaitTimeout(", ".join(one_line(each.name) for each in left[:3]), deadline.timeout_s)
            time.sleep(_LOOK_S if left_s is None else min(_LOOK_S, left_s))


@workers.command(
    "resume",
    examples=(
        ("dtq workers resume lab-1", "end a `dtq workers drain --stay`"),
        ("dtq workers resume --all", "of all workers"),
    ),
)
@_naming
def resume(
    names: tuple[str, ...],
    everything: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Have workers take tasks again that were drained with --stay. A worker that ends cannot be called back."""
    _order(names, everything, WorkerOrder.WORK, addresses, authkey_file, as_json, quiet)


@workers.command(
    "stop",
    examples=(
        ("dtq workers stop lab-1", "its running tasks go back to the queue"),
        ("dtq workers stop --all", "every worker"),
    ),
)
@_naming
def stop(
    names: tuple[str, ...],
    everything: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Have workers give their running tasks back to the queue, unblamed, and end.

    Names may be globs. Prefer `drain`: it loses no work that was begun.
    """
    _order(names, everything, WorkerOrder.STOP, addresses, authkey_file, as_json, quiet)


def _order(
    names: tuple[str, ...],
    everything: bool,
    order: WorkerOrder,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> list[OrderedWorker]:
    if not names and not everything:
        raise click.UsageError("name workers, or use --all.", click.get_current_context())
    if names and everything:
        raise click.UsageError("name workers, or use --all, not both.", click.get_current_context())
    wanted = chosen(names, everything)
    with service(addresses, authkey_file) as coordinator:
        ordered = coordinator.order_workers(wanted, order)
    if as_json:
        found = [{"name": each.name, "order": each.order.value, "busy": each.busy} for each in ordered]
        write_json({"workers": found})
    elif not ordered:
        say("no workers.")
    elif not quiet:
        for each in ordered:
            write(f"{one_line(each.name)}: {_effect(each, order)}")
    return ordered


def _effect(worker: OrderedWorker, order: WorkerOrder) -> str:
    """The effect of an order, in words."""
    if worker.order is not order and not order.final:
        return "is ending already, and cannot be called back"
    held = f" ({counted(worker.busy, 'task')} of it {'runs' if worker.busy == 1 else 'run'})" if worker.busy else ""
    return f"{_EFFECTS[worker.order]}{held if order is not WorkerOrder.WORK else ''}"
