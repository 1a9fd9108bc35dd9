"""``dtq worker`` and ``dtq up``: run tasks on this machine."""

from __future__ import annotations

import os
import signal
from typing import Any

import click

from dtq.cli import options
from dtq.cli.click_classes import Command, given_words
from dtq.cli.coordinator import coordinating, start, store_flag
from dtq.config import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    RELOADS,
    coordinator_settings,
    format_address,
    load_authkey,
    worker_settings,
)
from dtq.daemon.signals import ENDING, SignalPipe, Signals

#: The worker's options; `up` has all of them, too.
working = options.stacked(
    click.option(
        "--slots", metavar="N", type=click.IntRange(1, 4096), help="Tasks at once.  [DTQ_SLOTS; default: usable cores]"
    ),
    click.option(
        "--queue",
        "queues",
        metavar="NAME",
        type=options.QUEUE,
        multiple=True,
        help="Serve only this queue; repeatable.",
    ),
    click.option(
        "--resource",
        "resources",
        metavar="NAME=...",
        multiple=True,
        help="Offer units (gpu=0,1) or a sum (memory=32GB) to tasks; repeatable.  [DTQ_RESOURCES]",
    ),
    click.option(
        "--tag", "tags", metavar="TAG", multiple=True, help="Run tasks that need this tag, too; repeatable.  [DTQ_TAGS]"
    ),
    click.option("--import", "imports", metavar="MODULE", multiple=True, help="Import it in every slot; repeatable."),
    click.option(
        "--preload",
        "preload",
        metavar="MODULE",
        multiple=True,
        help="Import it once, in the process that slots are forked from; repeatable.",
    ),
    click.option(
        "--init",
        metavar="MODULE:FUNCTION",
        help="Call it in every slot at its start; if it fails, the slot is tried again later.  [DTQ_INIT]",
    ),
    click.option(
        "--path",
        "paths",
        metavar="DIR",
        type=options.DIRECTORY,
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
        "--keep-output",
        metavar="SIZE",
        type=options.SIZE,
        help="Most bytes to keep of what each attempt of a task prints, 0 for none.  [DTQ_KEEP_OUTPUT; default: 64KiB]",
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
        help="Run registered task types only: no function by its name, no sent code.",
    ),
    click.option(
        "--reload",
        metavar="auto|off",
        type=click.Choice(RELOADS),
        help="Replace slots whose code has changed on disk, or keep the old code.  [DTQ_RELOAD; default: auto]",
    ),
    click.option(
        "--tasks-may-submit",
        is_flag=True,
        default=None,
        help="Give clients in tasks the worker's coordinator and key.",
    ),
    click.option(
        "--max-waiting",
        metavar="N",
        type=click.IntRange(0, 4096),
        help="Most further slots while tasks wait for other tasks.  [default: 8 a slot]",
    ),
    click.option(
        "--grace",
        metavar="DURATION",
        type=options.DURATION,
        help="How long a stopping worker lets tasks run before it gives them back.  [as long as they need]",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        default=None,
        help="Log the begin and the end of each task, and tracebacks of failed ones.  [DTQ_VERBOSE]",
    ),
    click.option(
        "--value-cache",
        metavar="SIZE",
        type=options.SIZE,
        help="Most bytes of large arguments to keep for further tasks, if the coordinator is on another machine."
        "  [DTQ_VALUE_CACHE; default: 4GiB, or a tenth of what is free]",
    ),
)


@click.command(
    cls=Command,
    examples=(
        ("dtq worker --connect lab:3870", "one slot a core, every queue"),
        ("dtq worker --slots 2 --queue slow --path ~/tasks", "two slots for one queue, with modules from ~/tasks"),
    ),
)
@working
@options.by_reference
@options.logging_options
@options.connecting
def worker(addresses: tuple[str, ...], **flags: Any) -> None:
    """Run tasks on this machine until SIGTERM or Ctrl-C.

    The first signal lets running tasks finish, the second gives them back at once.
    """
    signals = Signals()
    settings = worker_settings({**flags, "connect": addresses})
    from dtq.daemon.worker import run

    raise click.exceptions.Exit(run(settings, signals))


@click.command(
    cls=Command,
    examples=(
        ("dtq up", "everything on this machine, one slot a core"),
        ("dtq up --slots 2 --memory", "two slots, nothing kept"),
    ),
)
@working
@coordinating
@options.logging_options
@options.authkey_file
@options.tls
def up(**flags: Any) -> None:
    """Run a coordinator and a worker on this machine, in the foreground, until SIGTERM or Ctrl-C.

    The first signal lets running tasks finish, the second gives them back at once. When one of the two ends, or this
    command is killed, the other ends, too.
    """
    signals = SignalPipe((*ENDING, signal.SIGCHLD))
    context = click.get_current_context()
    coordinator_words, worker_words = given_words(context, start), given_words(context, worker)
    settings = coordinator_settings(store_flag(flags))  # both are checked here, so that no process starts in vain
    worker_settings({**flags, "connect": (format_address((DEFAULT_HOST, DEFAULT_PORT)),)})
    environment = dict(os.environ)
    if flags["authkey_file"] == "-":  # it can be read once, and both processes need it
        key, _ = load_authkey("-")
        environment = {**environment, "DTQ_AUTHKEY": os.fsdecode(key)}
        environment.pop("DTQ_AUTHKEY_FILE", None)
    from dtq.daemon.up import Parts, run

    parts = Parts(
        host=settings.host,
        coordinator=("coordinator", "start", *coordinator_words),
        worker=("worker", *worker_words),
        environment=environment,
    )
    raise click.exceptions.Exit(run(parts, signals))
