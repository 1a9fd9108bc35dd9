"""``dtq limit``: set, show and remove the limits that tasks count against."""

from __future__ import annotations

import time

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Group
from dtq.cli.output import say, write, write_json
from dtq.cli.render_json import limit_json
from dtq.cli.render_text import show_limits
from dtq.client.paging import all_limits
from dtq.client.steering import limit_of
from dtq.wording import counted


@click.group(
    cls=Group,
    examples=(
        ("dtq limit set api --concurrency 10 --rate 100/m", "for tasks submitted with --limit api"),
        ("dtq limit set 'tenant-*' --concurrency 2", "for each name that matches"),
    ),
)
def limit() -> None:
    """Limits by name: how many tasks of a name run at once, or start per time."""


@limit.command(
    "set",
    examples=(
        ("dtq limit set printer --concurrency 1", "one at a time"),
        ("dtq limit set api --rate 100/m --burst 10", "a hundred a minute, ten of them at once"),
    ),
)
@click.argument("name", metavar="NAME", type=options.LIMIT)
@click.option("--concurrency", metavar="N", type=click.IntRange(0), help="How many run at once; 0 for none.")
@click.option("--rate", metavar="N/TIME", help="How many start per time: 100/m, 5/s, 10/90s.")
@click.option(
    "--burst",
    metavar="N",
    type=click.IntRange(1),
    help="How many may start together; without it 1, or 50 ms' worth of the rate.",
)
@options.connecting
@options.quiet
def set_limit(
    name: str,
    concurrency: int | None,
    rate: str | None,
    burst: int | None,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    quiet: bool,
) -> None:
    """Set a limit, or change it. NAME may be a glob: each name that it matches has the whole limit.

    The limit of exactly a task's name counts; else the longest glob that matches it; else the name has no limit.
    """
    wanted = limit_of(name, concurrency, rate, burst)
    with service(addresses, authkey_file) as coordinator:
        coordinator.set_limit(wanted)
    if not quiet:
        write(f"{name}: set")


@limit.command(
    "list",
    examples=(
        ("dtq limit list", "what is used, and how many tasks wait"),
        ("dtq limit list --json", "the same, as JSON"),
    ),
)
@options.connecting
@options.as_json
@options.quiet
def list_limits(addresses: tuple[str, ...], authkey_file: str | None, as_json: bool, quiet: bool) -> None:
    """List the limits, with their use. With --quiet, names alone."""
    with service(addresses, authkey_file) as coordinator:
        found = all_limits(coordinator)
    if as_json:
        write_json({"limits": [limit_json(view) for view in found]})
    elif quiet:
        for view in found:
            write(view.limit.name)
    elif found:
        show_limits(found, time.time())
    else:
        say("no limits.")


@limit.command(
    "remove",
    examples=(
        ("dtq limit remove api", "what waited for it may start"),
        ("dtq limit remove api 'tenant-*'", "several"),
    ),
)
@click.argument("names", metavar="NAME...", type=options.LIMIT, nargs=-1, required=True)
@options.connecting
@options.quiet
def remove(names: tuple[str, ...], addresses: tuple[str, ...], authkey_file: str | None, quiet: bool) -> None:
    """Remove limits: tasks that waited for them may start."""
    with service(addresses, authkey_file) as coordinator:
        for name in names:
            coordinator.remove_limit(name)
    if not quiet:
        write(f"{counted(len(names), 'limit')} removed")
