"""Keys: what a key does to the board, and what is to be done at the coordinator. Pure.

A verb that cannot be taken back is asked first, with the number that it applies to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dtq.dashboard import board as boards
from dtq.dashboard import task_page
from dtq.dashboard.board import REFRESHES, SORTS, TABS, Board, Order, Page
from dtq.dashboard.charts import PERIODS
from dtq.model.dashboard import WorkerState
from dtq.model.states import State
from dtq.records import replace
from dtq.wording import counted

#: Rows of a page for PgUp and PgDn.
_LEAP: Final = 15
#: Width for which the length of a task's page is reckoned.
_COLUMNS: Final = 80
#: Longest filter, in characters.
_FILTER: Final = 200
#: The order to end the dashboard.
QUIT: Final = Order(verb="quit")
#: Most tasks that one order names.
MOST: Final = 100_000

Pressed = tuple[Board, Order | None]


def press(board: Board, key: str, character: str | None = None) -> Pressed:
    """Handle a key.

    Args:
        board: the state.
        key: the key's name, as textual has it: ``a``, ``up``, ``enter``, ``slash``.
        character: the character that it types, if any.

    Returns:
        The state, and what is to be done.
    """
    board = replace(board, said="")
    if key == "ctrl+c":
        return board, QUIT
    if board.asked is not None:
        return _answer(board, board.asked, key)
    if board.typing is not None:
        return _type(board, board.typing, key, character), None
    act = _KEYS.get(key)
    return (board, None) if act is None else act(board)


def _answer(board: Board, asked: Order, key: str) -> Pressed:
    if key in ("y", "Y"):
        return replace(board, asked=None, marked=frozenset()), asked
    return replace(board, asked=None, said="nothing was done"), None


def _type(board: Board, typed: str, key: str, character: str | None) -> Board:
    if key == "enter":
        return _with_filter(board, typed)
    if key == "escape":
        return replace(board, typing=None)
    if key == "backspace":
        return replace(board, typing=typed[:-1])
    if key == "ctrl+u":
        return replace(board, typing="")
    if character is not None and character.isprintable() and len(typed) < _FILTER:
        return replace(board, typing=typed + character)
    return board


def _with_filter(board: Board, text: str) -> Board:
    filters = {**board.filters, board.page: text.strip()}
    cursors = {**board.cursors, board.page: 0}
    return _asking_anew(replace(board, typing=None, filters=filters, cursors=cursors, marked=frozenset()))


def _asking_anew(board: Board) -> Board:
    """The board without the rows of another selection."""
    return replace(board, tasks=None, letters=None)


# -- moving -----------------------------------------------------------------------------------------------------------


def _page(page: Page) -> Callable[[Board], Pressed]:
    return lambda board: (
        replace(_asking_anew(board), page=page, marked=frozenset(), wanted=None, opened=None, help=False),
        None,
    )


def _move(rows: int) -> Callable[[Board], Pressed]:
    def move(board: Board) -> Pressed:
        if board.wanted is not None:
            return replace(board, scroll=max(0, min(_last_line(board), board.scroll + rows))), None
        last = max(0, len(boards.keys_of(board)) - 1)
        at = max(0, min(last, min(board.cursor, last) + rows))
        return replace(board, cursors={**board.cursors, board.page: at}), None

    return move


def _last_line(board: Board) -> int:
    """About how far the page of the open task goes; the frame knows exactly."""
    return 0 if board.opened is None else len(task_page.lines(board.opened, 0.0, _COLUMNS))


def _turn(by: int) -> Callable[[Board], Pressed]:
    def turn(board: Board) -> Pressed:
        if board.wanted is not None:
            return board, None
        if board.page is Page.OVERVIEW:
            return replace(board, period=(board.period + by) % len(PERIODS)), None
        if board.page is Page.TASKS:
            cursors = {**board.cursors, board.page: 0}
            tab = (board.tab + by) % len(TABS)
            return replace(_asking_anew(board), tab=tab, cursors=cursors, marked=frozenset()), None
        return board, None

    return turn


def _sort(board: Board) -> Pressed:
    orders = SORTS.get(board.page)
    if orders is None:
        return board, None
    return replace(board, sorts={**board.sorts, board.page: (board.sorts.get(board.page, 0) + 1) % len(orders)}), None


def _back(board: Board) -> Pressed:
    if board.help:
        return replace(board, help=False), None
    if board.wanted is not None:
        return replace(board, wanted=None, opened=None, scroll=0), None
    if board.marked:
        return replace(board, marked=frozenset()), None
    return (_with_filter(board, ""), None) if board.filter else (board, None)


def _help(board: Board) -> Pressed:
    return replace(board, help=not board.help), None


def _filter(board: Board) -> Pressed:
    if board.page is Page.OVERVIEW or board.wanted is not None:
        return replace(board, said="the pages 2 to 5 have a filter"), None
    return replace(board, typing=board.filters.get(board.page, "")), None


def _mark(board: Board) -> Pressed:
    keys = boards.keys_of(board)
    if board.page not in (Page.TASKS, Page.DEAD) or not keys or board.wanted is not None:
        return board, None
    key = keys[min(board.cursor, len(keys) - 1)]
    return _move(1)(replace(board, marked=board.marked ^ {key}))


def _open(board: Board) -> Pressed:
    keys = boards.keys_of(board)
    if board.wanted is not None or board.page in (Page.QUEUES, Page.WORKERS) or not keys:
        return board, None
    batch, _, index = keys[min(board.cursor, len(keys) - 1)].partition(".")
    return replace(board, wanted=(int(batch), int(index)), opened=None, scroll=0, help=False), None


def _pace(by: int) -> Callable[[Board], Pressed]:
    order = sorted(range(len(REFRESHES)), key=REFRESHES.__getitem__)

    def pace(board: Board) -> Pressed:
        at = max(0, min(len(order) - 1, order.index(board.refresh) + by))
        return replace(board, refresh=order[at], frozen=False), None

    return pace


def _freeze(board: Board) -> Pressed:
    return replace(board, frozen=not board.frozen), None


# -- verbs ------------------------------------------------------------------------------------------------------------


def _pause(board: Board) -> Pressed:
    found = boards.queues(board) if board.page is Page.QUEUES else []
    if not found:
        return replace(board, said="p pauses the queue of a line: on page 2"), None
    queue = found[min(board.cursor, len(found) - 1)]
    verb = "resume" if queue.paused else "pause"
    return board, Order(verb=verb, names=(queue.name,), what=f"{verb} the queue {queue.name}")


def _drain(board: Board) -> Pressed:
    found = boards.workers(board) if board.page is Page.WORKERS else []
    if not found:
        return replace(board, said="d drains the worker of a line: on page 3"), None
    worker = found[min(board.cursor, len(found) - 1)]
    if worker.state is WorkerState.LOST or not worker.session:
        return replace(board, said=f"the worker {worker.name} is lost"), None
    what = f"have {worker.name} finish {counted(worker.busy, 'running task')}, and end"
    return replace(board, asked=Order(verb="drain", names=(worker.session,), what=what)), None


def _runs(board: Board) -> list[tuple[int, int, int]]:
    """The marked tasks of the page, or that of the cursor: batch, first index, and how many."""
    if board.wanted is not None:
        return [(*board.wanted, 1)]
    rows = [(task.batch, task.index, task.count) for task in board.tasks or ()]
    if board.page is Page.DEAD:
        rows = [(letter.batch, letter.index, 1) for letter in board.letters or ()]
    elif board.page is not Page.TASKS:
        return []
    marked = [row for row in rows if f"{row[0]}.{row[1]}" in board.marked]
    return marked or rows[min(board.cursor, max(0, len(rows) - 1)) :][:1]


def _ask(board: Board, verb: str, sentence: str, noun: str, nouns: str = "") -> Pressed:
    runs = _runs(board)
    count = sum(run[2] for run in runs)
    if not runs:
        return replace(board, said=f"no {noun} is on this line"), None
    if count > MOST:
        return replace(board, said=f"these are {count:,} tasks, too many to name: use the command line"), None
    what = sentence.format(counted(count, noun, nouns))
    return replace(board, asked=Order(verb=verb, runs=tuple(runs), what=what)), None


def _is_dead(board: Board) -> bool:
    """Whether the verbs on dead letters apply: on their page, or the open task is one."""
    if board.wanted is not None:
        return board.opened is not None and board.opened.task.state is State.DEAD
    return board.page is Page.DEAD or (board.page is Page.TASKS and TABS[board.tab] is State.DEAD)


def _retry(board: Board) -> Pressed:
    if not _is_dead(board):
        return replace(board, said="r puts dead letters back: on page 5"), None
    return _ask(board, "retry", "put {} back into the queue", "dead letter")


def _stop(board: Board) -> Pressed:
    if _is_dead(board):
        return _ask(board, "purge", "remove {} for good", "dead letter")
    if board.page is not Page.TASKS and board.wanted is None:
        return replace(board, said="x cancels tasks on page 4, and removes dead letters on page 5"), None
    return _ask(board, "cancel", "cancel {}, running ones too", "task")


_KEYS: Final[dict[str, Callable[[Board], Pressed]]] = {
    **{page.value: _page(page) for page in Page},
    "q": lambda board: (board, QUIT),
    "up": _move(-1),
    "k": _move(-1),
    "down": _move(1),
    "j": _move(1),
    "pageup": _move(-_LEAP),
    "pagedown": _move(_LEAP),
    "home": _move(-(10**9)),
    "end": _move(10**9),
    "left": _turn(-1),
    "right": _turn(1),
    "tab": _turn(1),
    "shift+tab": _turn(-1),
    "enter": _open,
    "escape": _back,
    "question_mark": _help,
    "slash": _filter,
    "space": _mark,
    "s": _sort,
    "p": _pause,
    "d": _drain,
    "r": _retry,
    "x": _stop,
    "plus": _pace(-1),
    "minus": _pace(1),
    "f": _freeze,
}
