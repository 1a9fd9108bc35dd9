"""What a benchmark takes from its command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: How many rounds a comparison has.
ROUNDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line.

    Attributes:
        quick: one small iteration.
        as_json: print JSON.
        rounds: how many rounds a comparison has.
        patience_s: for how long in all to wait for other programs to leave the machine alone.
        directory: where stores are put; None for the directory of temporary files.
        only: words, one of which the name of a part must have in it; empty for all parts.
    """

    quick: bool
    as_json: bool
    rounds: int
    patience_s: float
    directory: Path | None
    only: tuple[str, ...] = ()

    def wants(self, part: str) -> bool:
        """Whether a part of the benchmark is to be run."""
        return not self.only or any(word in part for word in self.only)

    def pick(self, usual: int, quick: int) -> int:
        """How much to do."""
        return quick if self.quick else usual


def command_line(text: str | None, arguments: Sequence[str] | None = None, *, parts: Sequence[str] = ()) -> Options:
    """Read a benchmark's command line.

    Args:
        text: what ``--help`` says.
        arguments: the words, instead of the process's own.
        parts: of a benchmark that can be run in parts, their names.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small iteration: shows that it runs")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of a comparison (default {ROUNDS})")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="do turns again that other programs disturbed, until so much time was lost in all (default 0)",
    )
    parser.add_argument("--directory", type=Path, help="where to put stores (default: a temporary directory)")
    if parts:
        parser.add_argument(
            "--only",
            nargs="+",
            default=[],
            metavar="WORD",
            help=f"parts with that in their name, of: {', '.join(parts)}",
        )
    given = parser.parse_args(arguments)
    _end_in_order()
    return Options(
        quick=given.quick,
        as_json=given.json,
        rounds=1 if given.quick else given.rounds,
        patience_s=given.patience,
        directory=given.directory,
        only=tuple(given.only) if parts else (),
    )


def _end_in_order() -> None:
    """Have SIGTERM end this process as Ctrl-C does: with what it started.

    The children of the pools that are measured are ended by SIGTERM too, and must not inherit that: Python forgets a
    signal that arrives between a fork and the first step of the child, and the pool would wait for it for ever. So the
    signal is held back over a fork, until the child has the default again.
    """

    def end(*_: object) -> None:
        sys.exit(143)

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def begin() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    signal.signal(signal.SIGTERM, end)
    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=begin)
