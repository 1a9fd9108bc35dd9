"""The terminal: draws frames with textual, and hands it keys. The only module that imports textual.

Frames are lines of spans (`frames`); here each look gets its style, and each line becomes a strip. Textual sends the
terminal what has changed, inside of a synchronised update, so nothing flickers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from dtq.dashboard import frames, keys
from dtq.dashboard.board import Board, Link
from dtq.dashboard.charts import ASCII, BLOCKS
from dtq.dashboard.feed import Feed, News
from dtq.dashboard.lines import Line, Look
from dtq.model.service import Service
from dtq.records import replace

#: The style of each look: the terminal's own colours, so that they fit its background.
STYLES: Final = {
    Look.PLAIN: Style(),
    Look.DIM: Style(dim=True),
    Look.STRONG: Style(bold=True),
    Look.BAR: Style(reverse=True),
    Look.BLOCKED: Style(color="cyan"),
    Look.SCHEDULED: Style(color="cyan"),
    Look.PENDING: Style(color="cyan"),
    Look.RUNNING: Style(color="blue"),
    Look.SUCCEEDED: Style(color="green"),
    Look.DEAD: Style(color="red"),
    Look.CANCELLED: Style(color="yellow"),
}
#: The same in the line of the cursor: nothing is dim there.
_AT_CURSOR: Final = {
    look: Style(reverse=True) if look is Look.DIM else style + Style(reverse=True) for look, style in STYLES.items()
}
#: Pause between two frames when nothing new has come, in seconds: what counts seconds goes on.
_FRAME_S: Final = 1.0


class Canvas(Widget, can_focus=True):
    """The whole screen: draws the board."""

    DEFAULT_CSS = "Canvas { width: 1fr; height: 1fr; background: ansi_default; color: ansi_default; }"

    def __init__(self, board: Callable[[], Board]) -> None:
        super().__init__()
        self._board = board
        self._drawn: list[Line] = []

    def draw(self) -> None:
        """Lay out the board, and draw the lines that have changed."""
        width, height = self.size
        if width <= 0 or height <= 0:
            return
        lines = frames.frame(self._board(), width, height)
        before, self._drawn = self._drawn, lines
        if len(before) != len(lines):
            self.refresh()
            return
        changed = [Region(0, nth, width, 1) for nth, line in enumerate(lines) if line != before[nth]]
        if changed:
            self.refresh(*changed)

    def on_resize(self, event: events.Resize) -> None:
        """Lay out anew."""
        self._drawn = []
        self.draw()

    def render_line(self, y: int) -> Strip:
        """One line of the frame."""
        width = self.size.width
        spans = self._drawn[y] if 0 <= y < len(self._drawn) else ()
        strip = Strip([Segment(span.text, (_AT_CURSOR if span.cursor else STYLES)[span.look]) for span in spans])
        return strip.adjust_cell_length(width, Style())


class Top(App[None]):
    """``dtq top``.

    Args:
        service: the coordinator.
        address: returns its address.
        unicode: whether the terminal shows more than ASCII.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Any]] = [
        Binding("ctrl+q", "quit", show=False),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]
    CSS = "Screen { background: ansi_default; color: ansi_default; }"

    def __init__(self, service: Service, address: Callable[[], str], *, unicode: bool = True) -> None:
        super().__init__(ansi_color=True)
        self.board = Board(
            link=Link(address=address()), blocks=BLOCKS if unicode else ASCII, monotonic=time.monotonic()
        )
        self._feed = Feed(service, address, self._from_feed)
        self._canvas = Canvas(lambda: self.board)

    def compose(self) -> ComposeResult:
        """One widget, which draws everything."""
        yield self._canvas

    def on_mount(self) -> None:
        """Begin."""
        self.title = "dtq top"
        self._canvas.focus()
        self.set_interval(_FRAME_S, self._age)
        self._feed.start(self.board)

    def on_unmount(self) -> None:
        """End the feed."""
        self._feed.stop()

    def on_key(self, event: events.Key) -> None:
        """Hand a key to the board."""
        event.stop()
        event.prevent_default()
        self.board, order = keys.press(self.board, event.key, event.character)
        if order is keys.QUIT:
            self.exit()
            return
        self._feed.watch(self.board, order)
        self._canvas.draw()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Move down."""
        self._press("down")

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Move up."""
        self._press("up")

    def _press(self, key: str) -> None:
        self.board, _ = keys.press(self.board, key)
        self._canvas.draw()

    def _age(self) -> None:
        self.board = replace(self.board, monotonic=time.monotonic())
        self._canvas.draw()

    def _from_feed(self, news: News) -> None:
        self.call_later(self._take, news)

    def _take(self, news: News) -> None:
        self.board = news(self.board)
        self._feed.watch(self.board)
        self._canvas.draw()


def run(service: Service, address: Callable[[], str], *, unicode: bool) -> None:
    """Show the dashboard until the user quits.

    Args:
        service: the coordinator.
        address: returns its address.
        unicode: whether the terminal shows more than ASCII.
    """
    for name in ("COLUMNS", "LINES"):  # textual would believe them rather than the terminal, whatever its size is later
        os.environ.pop(name, None)
    Top(service, address, unicode=unicode).run()
