"""``dtq coordinator``: start, inspect and stop this machine's coordinator."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Group
from dtq.cli.output import say, write, write_json
from dtq.cli.render_json import stats_json
from dtq.cli.render_text import show_coordinator
from dtq.config import DURABILITIES, MEMORY, coordinator_settings
from dtq.daemon.signals import Signals
from dtq.errors import ShuttingDown, Unreachable, WaitTimeout

#: Longest wait of `stop` for the end of the coordinator, in seconds.
_STOP_S: Final = 60.0
#: Pause between two checks of `stop`, in seconds.
_LOOK_S: Final = 0.1


@click.group(
    cls=Group,
    examples=(
        ("dtq coordinator start", "listens on 127.0.0.1:3870, keeps its state in your state directory"),
        ("dtq coordinator status", "ends with 69 if none answers"),
    ),
)
def coordinator() -> None:
    """The coordinator: the one process that has the queue."""


#: The coordinator's options; `up` has all of them, too.
coordinating = options.stacked(
    click.option("--host", metavar="HOST", help="Address to listen on.  [DTQ_HOST; default 127.0.0.1]"),
    click.option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="Port.  [DTQ_PORT; default 3870]"),
    click.option(
        "--db",
        metavar="PATH",
        type=options.FILE,
        help="File of the store.  [DTQ_DB; default dtq.db in the state directory]",
    ),
    click.option("--memory", is_flag=True, help="Keep everything in memory: a restart loses it."),
    click.option(
        "--durability",
        type=click.Choice(DURABILITIES),
        help="Acknowledge after the disk, after the kernel, or at once.  [DTQ_DURABILITY; default fsync]",
    ),
    options.keys_file,
    click.option("--highest-first", is_flag=True, default=None, help="Serve higher priority numbers first."),
    click.option("--lease", metavar="DURATION", type=options.DURATION, help="How long a worker may be silent.  [15s]"),
    click.option("--keep-results", metavar="DURATION", type=options.DURATION, help="How long results are kept.  [24h]"),
    click.option("--max-tasks", metavar="N", type=click.IntRange(1), help="Most unfinished tasks.  [20 million]"),
    click.option("--max-batch", metavar="N", type=click.IntRange(1), help="Most tasks in one batch.  [10 million]"),
    click.option(
        "--max-message",
        metavar="SIZE",
        type=options.SIZE,
        help="Largest message; larger values travel in pieces.  [16MiB]",
    ),
    click.option(
        "--max-value",
        metavar="SIZE",
        type=options.SIZE,
        help="Largest argument, result, or value that a client puts.  [1GiB]",
    ),
    options.by_reference,
    click.option("--max-connections", metavar="N", type=click.IntRange(2), help="Most connections.  [4096]"),
    click.option(
        "--max-unread",
        metavar="N",
        type=click.IntRange(1),
        help="Most unread results kept ready for a client.  [1 million]",
    ),
)


def store_flag(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with ``--memory`` translated for the settings: a store without a file.

    Raises:
        click.UsageError: a file is named too.
    """
    if flags.pop("memory"):
        if flags["db"] is not None:
            raise click.UsageError("use --db or --memory, not both.", click.get_current_context())
        flags["db"] = MEMORY
    return flags


@coordinator.command(
    examples=(
        ("dtq coordinator start --db queue.db", "keep the state in a file of your choice"),
        ("dtq coordinator start --host 0.0.0.0 --authkey-file key", "let other machines in that have the key"),
    ),
)
@coordinating
@options.logging_options
@options.authkey_file
@options.tls
def start(**flags: Any) -> None:
    """Start the coordinator, in the foreground.

    It runs until SIGTERM or Ctrl-C. The key is made on the first start; workers and clients of the same user find it by
    themselves.
    """
    signals = Signals()
    settings = coordinator_settings(store_flag(flags))
    from dtq.daemon.coordinator import run

    raise click.exceptions.Exit(run(settings, signals))


@coordinator.command(
    examples=(
        ("dtq coordinator status", "a few lines"),
        ("dtq coordinator status --connect lab:3870 --json", "another machine's, as JSON"),
    ),
)
@options.connecting
@options.as_json
@options.quiet
def status(addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """Show the coordinator in a few lines.

    Ends with 69 if none answers.
    """
    with service(addresses, authkey_file) as queue:
        seen = queue.stats()
    if as_json:
        write_json({"stats": stats_json(seen)})
    elif not quiet:
        show_coordinator(seen, queue.address)


def _await_end(addresses: tuple[str, ...], authkey_file: str | None, pid: int) -> None:
    """Wait until the coordinator with this process id no longer answers.

    Raises:
        WaitTimeout: it still does.
    """
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline:
        try:
            with service(addresses, authkey_file) as queue:
                if queue.stats().pid != pid:
                    return  # another one has been started in its place already
        except Unreachable:
            return
        except ShuttingDown:
            pass
        time.sleep(_LOOK_S)
    raise WaitTimeout("the coordinator", int(_STOP_S))


@coordinator.command(
    examples=(
        ("dtq coordinator stop", "the one on this machine"),
        ("dtq coordinator stop --connect lab:3870", "another machine's"),
    ),
)
@options.connecting
@options.quiet
def stop(addresses: tuple[str, ...], authkey_file: str | None, quiet: bool) -> None:
    """Stop the coordinator, and wait until it has.

    Nothing is lost; workers wait for the next one.
    """
    with service(addresses, authkey_file) as queue:
        pid = queue.stats().pid
        queue.stop()
    if not quiet:
        say(f"waiting for the coordinator (pid {pid}) to stop ...")
    _await_end(addresses, authkey_file, pid)
    if not quiet:
        write("stopped")
