"""One frame of the demo's live view: how far it is, what waits by priority, and the first screen of `dtq top`. Pure."""

from __future__ import annotations

import time
from typing import Final

from dtq.dashboard import overview
from dtq.dashboard.board import Board, Link
from dtq.dashboard.charts import ASCII, BLOCKS, merged
from dtq.dashboard.lines import Line, Look, Span, fitted, line
from dtq.model.dashboard import Dashboard, History
from dtq.model.fields import PRIORITIES

#: Width of the bar, in characters.
_BAR: Final = 30


class Frames:
    """Draws frames, each of what is seen then and of the history so far.

    Args:
        unicode: whether the terminal shows block characters.
    """

    def __init__(self, *, unicode: bool) -> None:
        self._blocks = BLOCKS if unicode else ASCII
        self._history: tuple[History, ...] = ()

    def draw(self, title: str, ended: int, total: int, seen: Dashboard, columns: int, height: int) -> list[Line]:
        """A frame.

        Args:
            title: what runs.
            ended: how many of its tasks have ended.
            total: how many it has.
            seen: the cluster.
            columns: the width of the terminal.
            height: its height.
        """
        self._history = merged(self._history, seen.history)
        now = time.monotonic()
        board = Board(
            link=Link(address="", heard_at=now), seen=seen, history=self._history, blocks=self._blocks, monotonic=now
        )
        lines = [_title(title, ended, total), _depths(seen)]
        lines += overview.body(board, seen, columns, height - len(lines))
        return [fitted(one, columns) for one in lines[:height]]


def _title(title: str, ended: int, total: int) -> Line:
    full = min(_BAR, _BAR * ended // total) if total > 0 else 0
    bar = "#" * full + "." * (_BAR - full)
    return line(Span(f" {title}", Look.STRONG), f"  {bar}  {ended:,}/{total:,}")


def _depths(seen: Dashboard) -> Line:
    """The waiting tasks by priority, of all queues."""
    depths: dict[int, int] = {}
    for queue in seen.queues:
        for depth in queue.depths:
            depths[depth.priority] = depths.get(depth.priority, 0) + depth.count
    parts: list[Span] = [Span(" waiting:", Look.DIM)]
    for priority in range(PRIORITIES[0], PRIORITIES[1] + 1):
        count = depths.get(priority, 0)
        parts.append(Span(f"  P{priority} {count:,}", Look.PENDING if count else Look.DIM))
    return tuple(parts)
