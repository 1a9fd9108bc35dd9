"""Pictures of a report, as SVG within a page. Pure; every foreign text is escaped here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from time import gmtime, strftime
from typing import Final

from dtq.model.text import printable_line
from dtq.report.lanes import Bar, Lane
from dtq.report.measures import Series
from dtq.wording import counted, duration, rate

#: Width of a picture, of its left margin and its right one, and heights, in units of the picture.
_WIDTH: Final = 1_000
_LEFT, _RIGHT = 120, 10
_CHART: Final = 160
_LANE: Final = 16
_AXIS: Final = 22
#: Colours of functions; the last one is that of all others. Classes of the page's style.
_HUES: Final = 8
#: Narrowest bar, in units.
_NARROWEST: Final = 0.6


def text(value: str, most: int = 200) -> str:
    """A foreign text for a page: invisible characters escaped, cut, and without a meaning in HTML."""
    shown = printable_line(value)
    return escape(shown if len(shown) <= most else f"{shown[: most - 1]}…", quote=True)


def throughput(series: Series) -> Iterator[str]:
    """A chart of submitted, done and failed tasks per second."""
    highest = max(*series.done, *series.submitted, *series.failed, 0.0) or 1.0
    yield _begin(_CHART + _AXIS, "throughput over time")
    for share in (0.0, 0.5, 1.0):
        y = _CHART - share * (_CHART - 10)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        label = text(rate(share * highest))
        yield f'<text class="label" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    for name, values in (("submitted", series.submitted), ("done", series.done), ("failed", series.failed)):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _points(values, highest))
        yield f'<polyline class="line {name}" points="{points}"><title>{name}</title></polyline>'
    yield from _axis(series.begin, series.end, _CHART)
    yield "</svg>"


def _points(values: Sequence[float], highest: float) -> Iterator[tuple[float, float]]:
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    for place, value in enumerate(values):
        yield _LEFT + (place + 0.5) * step, _CHART - value / highest * (_CHART - 10)


def stream(lanes: Sequence[Lane], hues: dict[str, int]) -> Iterator[str]:
    """A picture of lanes over time."""
    every = [bar for lane in lanes for bar in lane.bars]
    begin, end = min(bar.begin for bar in every), max(bar.end for bar in every)
    span = max(end - begin, 1e-3)
    height = _LANE * len(lanes)
    yield _begin(height + _AXIS, "what ran when, a lane for each slot that was busy")
    for row, lane in enumerate(lanes):
        y = row * _LANE
        label = text(f"{lane.worker} {lane.number}", 18)
        yield f'<text class="label" x="{_LEFT - 8}" y="{y + _LANE - 4}" text-anchor="end">{label}</text>'
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y + _LANE}" y2="{y + _LANE}"/>'
        for bar in lane.bars:
            x = _LEFT + (bar.begin - begin) / span * (_WIDTH - _LEFT - _RIGHT)
            width = max(_NARROWEST, (bar.end - bar.begin) / span * (_WIDTH - _LEFT - _RIGHT))
            kind = "bad" if bar.failed else f"hue{hues.get(bar.function, _HUES)}"
            yield (
                f'<rect class="{kind}" x="{x:.2f}" y="{y + 2}" width="{width:.2f}" height="{_LANE - 4}">'
                f"<title>{_told(bar)}</title></rect>"
            )
    yield from _axis(begin, end, height)
    yield "</svg>"


def _told(bar: Bar) -> str:
    what = "a failed attempt" if bar.failed else f"{counted(bar.count, 'task')} from {bar.task}"
    return text(f"{bar.function}: {what}, {duration(bar.end - bar.begin)}, {_clock(bar.begin)}")


def hues(lanes: Sequence[Lane]) -> dict[str, int]:
    """The colours of functions: those with most bars have their own."""
    counts: dict[str, int] = {}
    for lane in lanes:
        for bar in lane.bars:
            if not bar.failed:
                counts[bar.function] = counts.get(bar.function, 0) + 1
    frequent = sorted(counts, key=lambda name: -counts[name])[:_HUES]
    return {name: place for place, name in enumerate(frequent)}


def _begin(height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{label}">'


def _axis(begin: float, end: float, y: float) -> Iterator[str]:
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        moment = _clock(begin + share * (end - begin))
        yield f'<text class="label" x="{x:.1f}" y="{y + 16:.1f}" text-anchor="{anchor}">{moment}</text>'


def _clock(moment: float) -> str:
    return strftime("%H:%M:%S", gmtime(moment))
