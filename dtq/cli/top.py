"""``dtq top``: the terminal dashboard; one frame of it as text; its snapshot as JSON."""

from __future__ import annotations

import os
import shutil
import sys
import time
from enum import Enum
from importlib.util import find_spec
from typing import Any, Final

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import moment, write_json
from dtq.model.dashboard import Dashboard
from dtq.model.service import Service

#: Width of a frame as text, if neither COLUMNS nor a terminal has one.
_COLUMNS: Final = 100
#: Fields of the snapshot that are moments.
_MOMENTS: Final = frozenset({"now", "started_at", "at", "since", "end"})
_MISSING: Final = (
    "the dashboard needs textual, which is not installed: pip install 'dtq[top]'. Without it, dtq top --once prints one"
    " frame, and dtq stats --watch refreshes."
)


@click.command(
    cls=Command,
    examples=(
        ("dtq top", "what the queue does, live; ? shows the keys, q quits"),
        ("dtq top --once", "one frame as plain text, for tickets and cron"),
        ("dtq top --json", "the same as JSON"),
    ),
)
@click.option("--once", is_flag=True, help="Print one frame as text, as wide as COLUMNS or the terminal.")
@options.connecting
@options.as_json
def top(once: bool, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Show queues, workers and failures, live in the terminal; one frame of it where no terminal is.

    Needs the extra top (pip install 'dtq[top]'), except for --once and --json.
    """
    if once and as_json:
        raise click.UsageError("choose --once or --json.", click.get_current_context())
    live = not (once or as_json) and _is_terminal()
    if live and find_spec("textual") is None:
        raise click.UsageError(_MISSING, click.get_current_context())
    with service(addresses, authkey_file) as coordinator:
        if as_json:
            write_json({"dashboard": dashboard_json(coordinator.dashboard(0.0))})
        elif live:
            from dtq.dashboard.app import run

            run(coordinator, lambda: coordinator.address, unicode=_unicode())
        else:
            sys.stdout.write(frame_text(coordinator, coordinator.address))


def _is_terminal() -> bool:
    return all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def _unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()


def frame_text(coordinator: Service, address: str) -> str:
    """One frame as plain text."""
    from dtq.dashboard import frames
    from dtq.dashboard.board import Board, Link
    from dtq.dashboard.charts import ASCII, BLOCKS

    seen = coordinator.dashboard(0.0)
    now = time.monotonic()
    board = Board(
        link=Link(address=address, heard_at=now),
        seen=seen,
        history=seen.history,
        blocks=BLOCKS if _unicode() else ASCII,
        monotonic=now,
    )
    return frames.text(board, _columns())


def _columns() -> int:
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and 20 <= int(given) <= 10_000:
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _COLUMNS


def dashboard_json(seen: Dashboard) -> Any:
    """The snapshot as JSON: moments as ISO 8601 in UTC, ids of tasks as texts."""
    return _as_json(seen)


def _as_json(value: Any, name: str = "") -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    if hasattr(value, "__record__"):
        found = {field.name: _as_json(getattr(value, field.name), field.name) for field in value.__record__}
        task = getattr(value, "task", None) or getattr(value, "id", None)
        return {**({"id": str(task)} if task else {}), **found}
    return moment(value) if name in _MOMENTS else value
