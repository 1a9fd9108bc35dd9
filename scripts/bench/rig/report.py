"""How a benchmark shows its figures: a table, or JSON."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rig.options import Options
from rig.rounds import Rounds

#: From so many bytes on, a rate of values is shown in MB/s too.
_LARGE: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a figure has to reach.

    Attributes:
        least: at least this; None where it is ``most`` that counts.
        most: at most this.
        where: under which condition it holds, for people.
    """

    least: float | None = None
    most: float | None = None
    where: str = ""

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def show(self, unit: str) -> str:
        bound = f">= {number(self.least)}" if self.least is not None else f"<= {number(self.most or 0.0)}"
        return f"{bound} {unit}".strip() + (f" {self.where}" if self.where else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a table."""

    name: str
    value: float
    unit: str
    rounds: tuple[float, ...] = ()
    bar: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Medians side by side: a line for each piece of work, a column for each contender.

    Attributes:
        title: what the lines are.
        columns: the contenders.
        lines: a name, and what is shown of each contender.
    """

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]] = field(default_factory=list)

    def show(self) -> str:
        rows = [(self.title, *self.columns), *self.lines]
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
        )


class Report:
    """The figures of one benchmark.

    Args:
        question: what is asked.
        name: the benchmark.
        options: the command line.

    Attributes:
        rounds: its rounds.
    """

    def __init__(self, name: str, question: str, options: Options) -> None:
        self._name = name
        self._question = question
        self._options = options
        self._figures: list[Figure] = []
        self._beside: list[Figure] = []
        self._grids: list[Grid] = []
        self._notes: list[str] = []
        self.rounds = Rounds(options)

    def add(self, name: str, values: float | Sequence[float], unit: str, bar: Bar | None = None) -> float:
        """A figure: the median of what several rounds measured. Returns it."""
        rounds = (float(values),) if isinstance(values, int | float) else tuple(values)
        value = statistics.median(rounds)
        shown, met = ("", None) if bar is None else (bar.show(unit), None if self._options.quick else bar.met(value))
        self._figures.append(Figure(name=name, value=value, unit=unit, rounds=rounds, bar=shown, met=met))
        return value

    def grid(self, title: str, columns: Sequence[str]) -> None:
        """Begin a table of medians side by side; `beside` adds its lines."""
        self._grids.append(Grid(title=title, columns=tuple(columns)))

    def beside(
        self, name: str, found: Mapping[str, Sequence[float] | str], unit: str, bytes_each: int = 0
    ) -> dict[str, float]:
        """A line of the last grid; JSON has each of its figures with all rounds.

        Args:
            name: the line.
            found: what the rounds measured by contender, or a word that says why nothing was; "-" where one is missing.
            unit: of all of them.
            bytes_each: for rates of values: how large each is; shown as MB/s too, where it is large.

        Returns:
            The medians.
        """
        grid = self._grids[-1]
        medians: dict[str, float] = {}
        cells = []
        for column in grid.columns:
            values = found.get(column, "-")
            if isinstance(values, str):
                cells.append(values)
                continue
            median = medians[column] = statistics.median(values)
            figure = Figure(name=f"{grid.title}: {name}, {column}", value=median, unit=unit, rounds=tuple(values))
            self._beside.append(figure)
            aside = f" {median * bytes_each / 1e6:,.0f} MB/s" if bytes_each >= _LARGE else ""
            cells.append(f"{number(median)} {unit}".replace(" /s", "/s") + aside)
        grid.lines.append((name, *cells))
        return medians

    def note(self, text: str) -> None:
        """A sentence below the table."""
        self._notes.append(text)

    def print(self) -> None:
        about = machine()
        notes = [*self._notes, *filter(None, [self.rounds.told()])]
        if self._options.as_json:
            figures = [asdict(figure) for figure in [*self._beside, *self._figures]]
            words: dict[str, Any] = {"bench": self._name, "machine": about, "quick": self._options.quick}
            print(json.dumps(words | {"figures": figures, "notes": notes}))
            return
        quick = " (one small iteration: that it runs, not how fast)" if self._options.quick else ""
        print(f"{self._question}{quick}\n{about}\n")
        for grid in filter(lambda grid: grid.lines, self._grids):
            print(grid.show() + "\n")
        if self._figures:
            print(table(self._figures))
        for note in notes:
            print(f"- {note}")


def table(figures: Sequence[Figure]) -> str:
    """Figures in columns."""
    rows = [("", "median", "least to most", "bar", "")]
    for figure in figures:
        spread = ""
        if len(figure.rounds) > 1:
            spread = f"{number(min(figure.rounds))} to {number(max(figure.rounds))}"
        verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
        rows.append((figure.name, f"{number(figure.value)} {figure.unit}".strip(), spread, figure.bar, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for name, value, spread, bar, verdict in rows:
        cells = (name.ljust(widths[0]), value.rjust(widths[1]), spread.rjust(widths[2]), bar.ljust(widths[3]), verdict)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits or more."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3f}"


def machine() -> str:
    """The machine in one line."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    cores = len(os.sched_getaffinity(0))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cores} cores ({model}), Linux {platform.release()}, {python}, SQLite {sqlite3.sqlite_version}"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
