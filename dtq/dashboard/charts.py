"""Plots of a history in lines of text: a row of bars for each series, and their scale. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Final, NamedTuple

from dtq.dashboard.lines import EMPTY, Line, Look, Span
from dtq.dashboard.wording import age
from dtq.model.dashboard import History

#: Bars of eight heights; and without other characters than ASCII's.
BLOCKS: Final = " ▁▂▃▄▅▆▇█"
ASCII: Final = " .:-=+*%#"
#: The periods that a chart shows: name, length in seconds, and the step of the history that it is made of.
PERIODS: Final = (("5 min", 300, 1), ("15 min", 900, 1), ("1 h", 3_600, 60), ("24 h", 86_400, 60))
#: Columns of the terminal beside the bars: a series' name, its present value and its highest.
_BESIDE: Final = 34


def number(value: float) -> str:
    """A number in few characters: ``0``, ``0.3``, ``12``, ``12,345``, ``1.2M``."""
    if value >= 10_000_000:
        return f"{value / 1e6:,.0f}M"
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.05 else "<0.1"


class Series(NamedTuple):
    """A series of the chart.

    Attributes:
        name: its name.
        take: its values in a history.
        rate: whether the values are counts of intervals, shown a second; else levels, shown as they are.
        shown: a value in few characters.
    """

    name: str
    take: Callable[[History], Sequence[int]]
    rate: bool = True
    shown: Callable[[float], str] = number


SERIES: Final = (
    Series("done/s", lambda history: history.done),
    Series("failed/s", lambda history: history.failed),
    Series("submitted/s", lambda history: history.submitted),
    Series("backlog", lambda history: history.backlog, rate=False),
    Series("oldest", lambda history: history.oldest_ms, rate=False, shown=lambda value: age(value / 1_000)),
)


def merged(known: tuple[History, ...], news: tuple[History, ...]) -> tuple[History, ...]:
    """A history with its latest intervals added, and its oldest ones dropped.

    Args:
        known: the history so far; empty for none.
        news: what came since then, in the same steps.
    """
    if not known:
        return news
    return tuple(_joined(old, new) for old, new in zip(known, news, strict=True))


def _joined(old: History, new: History) -> History:
    fresh = min(len(new.done), max(0, round((new.end - old.end) / new.step_s))) if new.step_s else 0
    most = 900 if new.step_s == 1 else 1_440
    if not fresh:
        return old if new.end <= old.end else new

    def joined(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
        return (*before, *after[len(after) - fresh :])[-most:]

    return History(
        step_s=new.step_s,
        end=new.end,
        submitted=joined(old.submitted, new.submitted),
        done=joined(old.done, new.done),
        failed=joined(old.failed, new.failed),
        backlog=joined(old.backlog, new.backlog),
        lost=joined(old.lost, new.lost),
        oldest_ms=joined(old.oldest_ms, new.oldest_ms),
    )


def marks(history: History, now: float, period_s: int, columns: int) -> str:
    """A mark where workers were lost, in so many columns; empty if none were."""
    lost = Series("lost", lambda history: history.lost)
    found = values(history, lost, now, period_s, columns)
    return "".join("▲" if value else " " for value in found) if any(found) else ""


def values(history: History, series: Series, now: float, period_s: int, columns: int) -> list[float]:
    """The values of a series over the last period, in so many equal parts; 0 where nothing is known."""
    taken = series.take(history)
    part_s = period_s / max(1, columns)
    begin = history.end - len(taken) * history.step_s
    return [
        _value(taken, series, history.step_s, now - period_s + place * part_s - begin, part_s)
        for place in range(columns)
    ]


def _value(taken: Sequence[int], series: Series, step_s: float, after_s: float, part_s: float) -> float:
    """The value of one part, which begins so long after the first interval."""
    lo, hi = ceil(after_s / step_s), ceil((after_s + part_s) / step_s)
    if lo == hi:  # the part is narrower than an interval
        lo -= 1
    known = taken[max(0, lo) : max(0, hi)]
    if not known:  # before the history, or after the last time at which something happened
        return float(taken[-1]) if taken and lo > 0 and not series.rate else 0.0
    return sum(known) / (len(known) * step_s) if series.rate else float(known[-1])


def bars(heights: Sequence[float], most: float, rows: int, blocks: str = BLOCKS) -> list[str]:
    """Bars of the heights in so many rows of text, the top one first."""
    steps = len(blocks) - 1
    scaled = [0 if most <= 0 or height <= 0 else max(1, round(height / most * steps * rows)) for height in heights]
    return [
        "".join(blocks[max(0, min(steps, level - steps * row))] for level in scaled) for row in reversed(range(rows))
    ]


def chart(
    history: Sequence[History], now: float, present: dict[str, float], period: int, columns: int, rows: int, blocks: str
) -> list[Line]:
    """The chart: each series in rows of its own.

    Args:
        history: by the second, and by the minute.
        now: the end of the period.
        present: each series' present value.
        period: which of `PERIODS`.
        columns: the width.
        rows: how many rows a series has.
        blocks: the characters of bars.
    """
    _, period_s, step_s = PERIODS[period]
    source = next((one for one in history if one.step_s == step_s), None)
    if source is None:
        return [EMPTY]
    wide = max(10, columns - _BESIDE)
    found: list[Line] = []
    for series in SERIES:
        heights = values(source, series, now, period_s, wide)
        most = max(heights)
        drawn = bars(heights, most, rows, blocks)
        now_is = present.get(series.name, 0.0)
        look = Look.STRONG if now_is else Look.DIM
        for nth, text in enumerate(drawn):
            last = nth == rows - 1
            label = f"{series.name:<11} " if last else " " * 12
            value = Span(f" {series.shown(now_is):>9}" if last else " " * 10, look)
            top = Span(f"  max {series.shown(most)}" if last and most else "", Look.DIM)
            found.append((Span(label), Span(text, Look.PLAIN), value, top))
    marked = marks(source, now, period_s, wide)
    if marked:
        found.append((Span(f"{'lost':<11} "), Span(marked, Look.DEAD), Span("  workers", Look.DIM)))
    return found
