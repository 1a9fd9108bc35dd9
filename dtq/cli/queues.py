"""``dtq queue``: list, pause, drain and weigh queues."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Group
from dtq.cli.output import say, write, write_json
from dtq.cli.render_json import queue_json
from dtq.cli.render_text import show_queues
from dtq.client.paging import all_queues
from dtq.client.steering import purge_queue
from dtq.model.fields import MAX_WEIGHT
from dtq.model.queues import SteeringChange
from dtq.wording import counted


@click.group(
    cls=Group,
    examples=(
        ("dtq queue pause mail", "start nothing of it for now"),
        ("dtq queue list", "what waits and runs, and what is paused"),
    ),
)
def queue() -> None:
    """Queues: their waiting tasks, and their settings."""


@queue.command(
    "list",
    examples=(
        ("dtq queue list", "all of them"),
        ("dtq queue list --json", "the same, as JSON"),
    ),
)
@options.connecting
@options.as_json
@options.quiet
def list_queues(addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """List the queues that have tasks or workers, or settings of their own. With --quiet, names alone."""
    with service(addresses, authkey_file) as coordinator:
        found = all_queues(coordinator)
    if as_json:
        write_json({"queues": [queue_json(each) for each in found]})
    elif quiet:
        for each in found:
            write(each.name)
    elif found:
        show_queues(found)
    else:
        say("no queues.")


def _steer(
    names: tuple[str, ...],
    change: SteeringChange,
    done: str,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    quiet: bool,
) -> None:
    with service(addresses, authkey_file) as coordinator:
        for name in names:
            coordinator.steer_queue(name, change)
            if not quiet:
                write(f"{name}: {done}")


def _verb(name: str, change: SteeringChange, done: str, summary: str, example: str) -> None:
    """Make one of the verbs that differ in their settings and texts only."""

    def steer(names: tuple[str, ...], addresses: tuple[str, ...], authkey_file: str | None, quiet: bool) -> None:
        _steer(names, change, done, addresses, authkey_file, quiet)

    steer.__doc__ = summary
    made: Callable[..., Any] = options.stacked(
        click.argument("names", metavar="NAME...", type=options.QUEUE, nargs=-1, required=True),
        options.connecting,
        options.quiet,
    )(steer)
    queue.command(name, examples=((f"dtq queue {name} mail", example), (f"dtq queue {name} mail other", "several")))(
        made
    )


_verb(
    "pause",
    SteeringChange(paused=True),
    "paused",
    "Start no tasks of queues until they are resumed. They take tasks as before; running tasks go on.",
    "start none of its tasks",
)
_verb(
    "resume",
    SteeringChange(paused=False, draining=False),
    "starts tasks, and takes new ones",
    "Start waiting tasks of queues again, and take new tasks again.",
    "end a pause, or a drain",
)
_verb(
    "drain",
    SteeringChange(draining=True),
    "takes no new tasks",
    "Take no new tasks into queues until they are resumed, and work off those they have.",
    "have it run empty",
)


@queue.command(
    "weight",
    examples=(
        ("dtq queue weight reports 3", "three of it for each one of a queue of weight 1"),
        ("dtq queue weight reports 1", "as all others"),
    ),
)
@click.argument("name", metavar="NAME", type=options.QUEUE)
@click.argument("weight", metavar="N", type=click.IntRange(1, MAX_WEIGHT))
@options.connecting
@options.quiet
def weigh(name: str, weight: int, addresses: tuple[str, ...], authkey_file: str | None, quiet: bool) -> None:
    """Set how many tasks of a queue start for each one of a queue of weight 1.

    Weights count among tasks of one priority; more urgent tasks come first, whatever their queue.
    """
    _steer((name,), SteeringChange(weight=weight), f"weight {weight}", addresses, authkey_file, quiet)


@queue.command(
    "purge",
    examples=(
        ("dtq queue purge mail", "asks first, on a terminal"),
        ("dtq queue purge mail --yes", "asks nothing: for scripts"),
    ),
)
@click.argument("name", metavar="NAME", type=options.QUEUE)
@options.asking
@options.connecting
@options.as_json
@options.quiet
def purge(
    name: str,
    yes: bool,
    no_input: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Cancel all waiting tasks of a queue. Running tasks go on."""
    with service(addresses, authkey_file) as coordinator:
        waiting = sum(
            each.pending + each.scheduled + each.blocked for each in all_queues(coordinator) if each.name == name
        )
        if waiting and not yes and not _may_purge(counted(waiting, "task"), name, no_input):
            say("nothing was cancelled.")
            return
        done = purge_queue(coordinator, name)
    if as_json:
        write_json({"cancelled": done})
    elif not quiet:
        write(f"{counted(done, 'task')} cancelled")


def _may_purge(count: str, name: str, no_input: bool) -> bool:
    if no_input or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"this would cancel {count} of {name}; add --yes.", click.get_current_context())
    return click.confirm(f"Cancel {count} of {name}?", err=True)
