"""Repeats a report on the terminal in place, until Ctrl-C: with rich, which the base installation has."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable

from dtq.cli.output import colourful
from dtq.errors import DtqError
from dtq.model.text import printable


def watching(show: Callable[[], None], every_s: float, *, apart: str = "\n") -> None:
    """Show a report again and again until Ctrl-C; a coordinator that is away is said to be, and is asked again.

    On a terminal each report takes the place of the one before.

    Args:
        show: writes the report to standard output.
        every_s: pause between two, in seconds.
        apart: stands behind each of them where they do not replace each other.
    """
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty():
            _in_place(show, every_s)
        while True:
            show()
            sys.stdout.write(apart)
            sys.stdout.flush()
            time.sleep(every_s)


def _in_place(show: Callable[[], None], every_s: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not colourful(sys.stdout), highlight=False)
    with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        latest, trouble = Text(), ""
        while True:
            try:
                latest, trouble = Text.from_ansi(_captured(show)), ""
            except DtqError as error:
                if not error.retryable or not latest:
                    raise
                trouble = f"\n\n{printable(str(error))} Trying again."
            live.update(latest + Text(trouble), refresh=True)
            time.sleep(every_s)


def _captured(show: Callable[[], None]) -> str:
    """What a report writes."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        show()
    return written.getvalue()
