"""``dtq demo``: a cluster of its own at work, with failures, retries and priorities; then what was measured."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dtq.cli.click_classes import Command
from dtq.cli.failures import TaskTrouble, complain
from dtq.cli.output import say, write
from dtq.wording import counted

if TYPE_CHECKING:
    from dtq.model.dashboard import Dashboard

#: How many seeds are drawn from where none is given: few enough to type.
_SEEDS: Final = 1_000_000
#: Pause between two lines of progress without a live view, in seconds.
_LINES_S: Final = 2.0
#: Lines of a terminal that stay free for what is said above the live view.
_SAID: Final = 3
#: Styles of the looks of a frame: the colours of states are those of `dtq top`.
_STYLES: Final = {
    "DIM": "dim",
    "STRONG": "bold",
    "BAR": "reverse",
    "BLOCKED": "cyan",
    "SCHEDULED": "cyan",
    "PENDING": "cyan",
    "RUNNING": "blue",
    "SUCCEEDED": "green",
    "DEAD": "red",
    "CANCELLED": "yellow",
}


class _Plain:
    """Shows the demo as lines of text on standard error."""

    def __init__(self) -> None:
        self._next = 0.0

    def say(self, text: str) -> None:
        """See `View.say`."""
        say(f"- {text}")
        self._next = time.monotonic() + _LINES_S

    def show(self, title: str, ended: int, total: int, seen: Dashboard) -> None:
        """See `View.show`."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINES_S
            counts = seen.counts
            waiting = f"{counts.pending:,} pending, {counts.running:,} running, {counts.scheduled:,} backing off"
            say(f"  {title}: {ended:,} of {total:,}; {waiting}, {counts.dead:,} dead")


class _Live:
    """Shows the demo as a dashboard that is drawn anew several times a second.

    Args:
        live: the place on the terminal, of rich.
    """

    def __init__(self, live: Any) -> None:
        from dtq.demo.frame import Frames

        self._live = live
        self._frames = Frames(unicode="utf" in (sys.stderr.encoding or "").lower())

    def say(self, text: str) -> None:
        """See `View.say`."""
        self._live.console.print(f"- {text}", markup=False, highlight=False)

    def show(self, title: str, ended: int, total: int, seen: Dashboard) -> None:
        """See `View.show`."""
        from rich.text import Text

        width, height = self._live.console.size
        shown = Text(no_wrap=True, overflow="crop")
        for spans in self._frames.draw(title, ended, total, seen, width, height - _SAID):
            for span in spans:
                shown.append(span.text, _STYLES.get(span.look.name, ""))
            shown.append("\n")
        self._live.update(shown)


@contextmanager
def _view(live: bool) -> Iterator[_Plain | _Live]:
    if not live or not sys.stderr.isatty():
        yield _Plain()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=8, redirect_stdout=False) as shown:
        yield _Live(shown)


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Have a signal interrupt the block once: what follows ends the cluster, and takes a few seconds at most.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        TaskTrouble: after another request to end, with its exit code.
    """

    def interrupt(number: int, _: object) -> None:
        for ending in before:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else TaskTrouble(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # `nohup` ignores SIGHUP
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_settings(directory: Path) -> Iterator[None]:
    """Find no settings of the user's own coordinator: variables, files here, files of the user."""
    for name in [name for name in os.environ if name.startswith("DTQ_") and name != "DTQ_DEBUG"]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(directory / "config")
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@click.command(
    cls=Command,
    examples=(
        ("dtq demo", "four workers, 10,000 requests, a minute"),
        ("dtq demo --tasks 1000 --failure-rate 0.5 --no-live", "fewer, with more failures, as plain text"),
    ),
)
@click.option(
    "--tasks", metavar="N", type=click.IntRange(10, 1_000_000), default=10_000, show_default=True, help="Requests."
)
@click.option("--workers", metavar="N", type=click.IntRange(1, 64), default=4, show_default=True, help="Workers.")
@click.option("--slots", metavar="N", type=click.IntRange(1, 64), default=2, show_default=True, help="Slots of each.")
@click.option(
    "--failure-rate",
    metavar="SHARE",
    type=click.FloatRange(0.0, 1.0),
    default=0.2,
    show_default=True,
    help="Share of attempts that fail.",
)
@click.option("--seed", metavar="N", type=int, help="What chance begins with.  [default: another one each time]")
@click.option("--live/--no-live", default=True, help="Draw a dashboard, if standard error is a terminal.")
def demo(tasks: int, workers: int, slots: int, failure_rate: float, seed: int | None, live: bool) -> None:
    """Start a cluster on this machine, and show it at work: real work, then requests over a network that fails.

    The requests have the priorities 1 to 10, are tried again when they fail, and end as dead letters after the fourth
    attempt. They run twice, once in the order of submission and once by priority, so that the waiting times can be
    compared. Everything is checked. Key, store and processes are the demo's own, and are gone at its end.

    Ends with 1 if something is not as it should be.
    """
    from dtq.demo.cluster import DemoCluster
    from dtq.demo.course import run
    from dtq.demo.load import Load
    from dtq.demo.report import lines

    began = time.monotonic()
    load = Load(tasks=tasks, failure_rate=failure_rate, seed=random.randrange(_SEEDS) if seed is None else seed)
    with _interrupted_once(), _view(live) as view:
        each = " each" if workers > 1 else ""
        view.say(f"starting a coordinator and {counted(workers, 'worker')} of {counted(slots, 'slot')}{each}")
        with DemoCluster(workers, slots) as cluster, _own_settings(cluster.directory):
            view.say(f"they run, at {cluster.address}")
            outcome = run(cluster, load, view)
    for line in lines(outcome):
        write(line)
    broken = [promise for promise, kept in outcome.checks if not kept]
    if broken:
        complain(f"{len(broken)} of {len(outcome.checks)} checks failed: {broken[0]}.")
        raise TaskTrouble
    write(f"\nEverything is as it should be, after {time.monotonic() - began:.0f} s.")
