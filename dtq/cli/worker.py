"""``dtq worker`` and ``dtq up``: run tasks on this machine."""

from __future__ import annotations

from typing import Any

import click

from dtq.cli import options
from dtq.cli.coordinator import basics, store_flag
from dtq.cli.grammar import Command
from dtq.config import coordinator_settings, worker_settings

#: What a worker runs; `up` has these too.
_working = options.stacked(
    click.option(
        "--slots", metavar="N", type=click.IntRange(1, 4096), help="Tasks at once.  [DTQ_SLOTS; default: usable cores]"
    ),
    click.option("--queue", "queues", metavar="NAME", multiple=True, help="Serve only this queue; repeatable."),
    click.option("--import", "imports", metavar="MODULE", multiple=True, help="Import it in every slot; repeatable."),
    click.option(
        "--path",
        "paths",
        metavar="DIR",
        multiple=True,
        help="Look for modules here too; repeatable. The current directory always is.",
    ),
    click.option("--name", metavar="NAME", help="The worker's name.  [DTQ_WORKER_NAME; default: host-pid]"),
    click.option(
        "--max-tasks-per-slot", metavar="N", type=click.IntRange(1), help="Replace a slot's process after N tasks."
    ),
    click.option(
        "--max-memory-per-slot", metavar="SIZE", type=options.SIZE, help="Replace a slot's process above this size."
    ),
    click.option(
        "--keep-processes",
        is_flag=True,
        default=None,
        help="Let processes that tasks leave running go on until their slot is replaced.",
    ),
    click.option(
        "--only-registered",
        is_flag=True,
        default=None,
        help="Run registered task types only: no function by its name, no code that was sent.",
    ),
    click.option(
        "--grace",
        metavar="DURATION",
        type=options.DURATION,
        help="How long a stopping worker lets tasks run before it gives them back.  [as long as they need]",
    ),
)


@click.command(
    cls=Command,
    examples=(
        ("dtq worker --connect lab:3870", "one slot a core, every queue"),
        ("dtq worker --slots 2 --queue slow --path ~/tasks", "two slots for one queue, with modules from ~/tasks"),
    ),
)
@_working
@options.connecting
def worker(addresses: tuple[str, ...], **flags: Any) -> None:
    """Run tasks on this machine until SIGTERM or Ctrl-C.

    The first signal lets running tasks finish, the second gives them back at once.
    """
    settings = worker_settings({**flags, "connect": addresses})
    from dtq.daemon.worker import run

    raise click.exceptions.Exit(run(settings))


@click.command(
    cls=Command,
    examples=(
        ("dtq up", "everything on this machine, one slot a core"),
        ("dtq up --slots 2 --memory", "two slots, nothing kept"),
    ),
)
@_working
@basics
@options.authkey_file
@options.tls
def up(**flags: Any) -> None:
    """Run a coordinator and a worker on this machine, in the foreground, until SIGTERM or Ctrl-C."""
    flags = store_flag(flags)
    coordinating = coordinator_settings(flags)
    working = worker_settings(flags)
    from dtq.daemon.up import run

    raise click.exceptions.Exit(run(coordinating, working))
