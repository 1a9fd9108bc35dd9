"""Frames: a board in a given width and height, as lines of text. The one function that every face draws with. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dtq.dashboard import board as boards
from dtq.dashboard import overview, rows, task_page, wording
from dtq.dashboard.board import REFRESHES, SORTS, TABS, TITLES, Board, Page
from dtq.dashboard.charts import PERIODS
from dtq.dashboard.lines import Line, Look, Span, at_cursor, ends, filled, fitted, foreign, in_ascii, line, plain
from dtq.dashboard.tables import Column, Row, padded, table
from dtq.model.dashboard import Dashboard
from dtq.model.states import State

#: Smallest width and height that a frame is laid out for; a smaller terminal shows a part of it.
LEAST: Final = (40, 10)
#: Height of a frame that is not bounded by a terminal.
_WHOLE: Final = 1_000
#: Seconds beyond the refresh after which an answer is said to be missing.
SILENT_S: Final = 3.0
_HELP: Final = (
    ("1 2 3 4 5", "overview, queues, workers, tasks, dead letters"),
    ("↑ ↓ PgUp PgDn Home End", "move"),
    ("Enter", "open the task of the line: attempts, traceback, output"),
    ("Esc", "back; forget the filter and the marks"),
    ("/", "filter; of tasks: queue:NAME label:TEXT function:GLOB error:GLOB, an id, or a part of a function's name"),
    ("Space", "mark the line for r and x"),
    ("s", "another order of queues or workers"),
    ("← →", "tasks in another state; on the overview another period of the chart"),
    ("p", "pause the queue of the line, or resume it"),
    ("d", "have the worker of the line finish its tasks, and end"),
    ("r", "put dead letters back (after a question)"),
    ("x", "cancel tasks; remove dead letters for good (after a question)"),
    ("+ - f", "refresh more often, less often, not at all"),
    ("q", "quit"),
)


def frame(board: Board, columns: int, height: int) -> list[Line]:
    """A frame: exactly so many lines, none wider than that.

    Args:
        board: the state.
        columns: the width.
        height: the number of lines.
    """
    wide, high = max(columns, LEAST[0]), max(height, LEAST[1])
    lines = [_header(board, wide), _tabs(board, wide)]
    lines += padded(_body(board, wide, high - 3), high - 3)
    lines.append(_footer(board, wide))
    return _shown(board, [fitted(each, columns) for each in lines[: max(1, height)]])


def _shown(board: Board, lines: list[Line]) -> list[Line]:
    """The lines with characters that the terminal has."""
    return [in_ascii(each) for each in lines] if board.blocks.isascii() else lines


def text(board: Board, columns: int) -> str:
    """The first screen as plain text, of the height that it needs."""
    if board.seen is None:
        return ""
    found = [_header(board, columns)]
    body = overview.body(board, board.seen, columns, _WHOLE, rows_each=1)
    lines = _shown(board, [fitted(each, columns) for each in [*found, *body]])
    return "\n".join(map(plain, lines)) + "\n"


# -- header and footer ----------------------------------------------------------------------------------------------


def _header(board: Board, columns: int) -> Line:
    seen = board.seen
    left = line(Span(" dtq ", Look.STRONG), foreign(board.link.address))
    if seen is not None:
        left = (*left, Span(f"  up {wording.age(seen.now - seen.started_at)}  dtq {foreign(seen.version)}", Look.DIM))
    return ends(left, line(_link(board), Span("  "), Span(_pace(board), Look.DIM), Span(" ")), columns)


def _link(board: Board) -> Span:
    silent_s = board.monotonic - board.link.heard_at
    if board.link.lost_at is not None:
        lost_s = max(0.0, board.monotonic - board.link.lost_at)
        return Span(f"● reconnecting, away for {wording.age(lost_s)}", Look.DEAD)
    if board.seen is not None and not board.frozen and silent_s > REFRESHES[board.refresh] + SILENT_S:
        return Span(f"● no answer for {wording.age(silent_s)}", Look.DEAD)
    return Span("● live", Look.SUCCEEDED) if board.seen is not None else Span("● connecting", Look.CANCELLED)


def _pace(board: Board) -> str:
    if board.frozen:
        return "frozen"
    return f"every {REFRESHES[board.refresh]:g} s"


def _tabs(board: Board, columns: int) -> Line:
    found: list[Span] = [Span(" ")]
    for page in Page:
        here = page is board.page
        found += [
            Span(f"{page.value} {TITLES[page]}", Look.STRONG if here else Look.DIM),
            Span("   "),
        ]
    order = SORTS.get(board.page)
    right = "" if order is None else f"by {order[board.sorts.get(board.page, 0)]} "
    if board.page is Page.OVERVIEW:
        right = f"last {PERIODS[board.period][0]} "
    if board.filter:
        right = f"filter: {foreign(board.filter)} "
    return ends(tuple(found), line(Span(right, Look.DIM)), columns)


def _footer(board: Board, columns: int) -> Line:
    if board.asked is not None:
        return filled((Span(f" {foreign(board.asked.what)}?  y yes   n no", Look.BAR),), columns, Look.BAR)
    if board.typing is not None:
        return filled((Span(f" /{foreign(board.typing)}▏", Look.BAR),), columns, Look.BAR)
    if board.said:
        return filled((Span(f" {foreign(board.said)}", Look.BAR),), columns, Look.BAR)
    return filled((Span(f" {_keys(board)}", Look.BAR),), columns, Look.BAR)


def _keys(board: Board) -> str:
    if board.wanted is not None:
        return "Esc back  r retry  x cancel  ↑↓ scroll  q quit"
    usual = "? help  q quit"
    return {
        Page.OVERVIEW: f"1-5 pages  ←→ period  {usual}",
        Page.QUEUES: f"p pause/resume  s sort  / filter  {usual}",
        Page.WORKERS: f"d drain  s sort  / filter  {usual}",
        Page.TASKS: f"←→ state  Enter open  Space mark  x cancel  / filter  {usual}",
        Page.DEAD: f"Enter open  Space mark  r retry  x purge  / filter  {usual}",
    }[board.page]


# -- pages ---------------------------------------------------------------------------------------------------------


def _body(board: Board, columns: int, height: int) -> list[Line]:
    if board.help:
        return [line(Span(f" {keys:<24}", Look.STRONG), f"{meaning}") for keys, meaning in _HELP]
    if board.seen is None:
        return _nothing_yet(board)
    if board.wanted is not None:
        return task_page.body(board, board.seen.now, columns, height)
    if board.page is Page.OVERVIEW:
        return overview.body(board, board.seen, columns, height)
    if board.page is Page.QUEUES:
        return _queues(board, columns, height)
    if board.page is Page.WORKERS:
        return _workers(board, board.seen, columns, height)
    if board.page is Page.TASKS:
        return _tasks(board, board.seen, columns, height)
    return _letters(board, board.seen, columns, height)


def _nothing_yet(board: Board) -> list[Line]:
    if board.link.lost_at is None:
        return [line(), line(f" waiting for the coordinator at {foreign(board.link.address)} ...")]
    return [line(), line(f" {foreign(board.link.why)}"), line(), line(Span(" trying again", Look.DIM))]


def _listed(
    titles: Sequence[Column], rows: Sequence[Callable[[], Row]], cursor: int, columns: int, height: int, empty: str
) -> list[Line]:
    """The titles of a table, and the part of its rows with the cursor; no other row is made."""
    if not rows:
        return [line(), line(Span(f" {empty}", Look.DIM))]
    room = height - 1
    at = min(cursor, len(rows) - 1)
    first = max(0, min(at - room // 2, len(rows) - room))
    head, *found = table(titles, [row() for row in rows[first : first + room]], columns)
    return [head, *(at_cursor(each, columns) if first + nth == at else each for nth, each in enumerate(found))]


def _queues(board: Board, columns: int, height: int) -> list[Line]:
    found = [partial(rows.queue_row, queue) for queue in boards.queues(board)]
    empty = "no queue matches the filter" if board.filter else "no task waits or runs: dtq submit"
    return _listed(rows.QUEUES, found, board.cursor, columns, height, empty)


def _workers(board: Board, seen: Dashboard, columns: int, height: int) -> list[Line]:
    """Each worker, and its slots below it as far as there is room: those around the cursor."""
    found = boards.workers(board)
    if not found:
        empty = "no worker matches the filter" if board.filter else "no worker is connected: dtq worker"
        return [line(), line(Span(f" {empty}", Look.DIM))]
    (titles, _), *parts = rows.worker_lines(found, seen.now, columns, board.blocks, slots=True)
    at = min(board.cursor, len(found) - 1)
    lines: list[Line] = []
    start = end = 0
    for nth, (head, slots) in enumerate(parts):
        if nth == at:
            start = len(lines)
        lines += [at_cursor(head, columns) if nth == at else head, *slots]
        end = len(lines) if nth == at else end
    room = height - 1
    first = max(0, min(max(end - room, start - room // 3), start, len(lines) - room))
    return [titles, *lines[first : first + room]]


def _tasks(board: Board, seen: Dashboard, columns: int, height: int) -> list[Line]:
    counts = {state: getattr(seen.counts, state.value) for state in TABS}
    shown: list[Span] = [Span(" ")]
    for place, state in enumerate(TABS):
        look = Look.STRONG if place == board.tab else Look.DIM
        shown += [Span(f"{state.value} {wording.few(counts[state])}", look), Span("  ")]
    head: list[Line] = [tuple(shown)]
    if board.tasks is None:
        return [*head, line(), line(Span(" asking ...", Look.DIM))]
    found = [
        partial(rows.task_row, task, seen.now, marked=f"{task.batch}.{task.index}" in board.marked)
        for task in board.tasks
    ]
    return head + _listed(rows.TASKS, found, board.cursor, columns, height - 1, _no_task(board, TABS[board.tab]))


def _no_task(board: Board, state: State) -> str:
    return "no such task matches the filter" if board.filter else f"no task is {state.value}"


def _letters(board: Board, seen: Dashboard, columns: int, height: int) -> list[Line]:
    if board.letters is None:
        return [line(), line(Span(" asking ...", Look.DIM))]
    found = [
        partial(rows.letter_row, letter, seen.now, marked=f"{letter.batch}.{letter.index}" in board.marked)
        for letter in board.letters
    ]
    empty = "no dead letter matches the filter" if board.filter else "no dead letters: nothing has used up its retries"
    return _listed(rows.DEAD, found, board.cursor, columns, height, empty)
