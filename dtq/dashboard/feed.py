"""The feed: a thread that asks the coordinator for what the board shows, and carries out orders.

It is told of the board (`watch`), and tells of news by functions that turn a board into the next one. It survives a
coordinator that is away: it says so, and asks again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from dtq.client.paging import cancel_all, purge_all, retry_all
from dtq.dashboard import charts, filters
from dtq.dashboard.board import REFRESHES, TABS, Board, Link, Order, Page
from dtq.dashboard.task_reader import TaskReader
from dtq.errors import DtqError, ResultExpired, UnknownId
from dtq.model.messages import WorkerOrder
from dtq.model.queues import SteeringChange
from dtq.model.service import Service
from dtq.model.snapshots import Counts, Selection
from dtq.records import replace
from dtq.wording import counted

log = logging.getLogger("dtq.dashboard")

#: Most rows of tasks and of dead letters.
MOST_ROWS: Final = 500
#: Pause before a coordinator that is away is asked again, in seconds.
_AGAIN_S: Final = 0.5
#: Pause of a board that is frozen, in seconds: as good as for ever.
_FROZEN_S: Final = 86_400.0
#: A list takes at most one part in this many of the time, however long the coordinator needs for one.
_SHARE: Final = 10

#: Makes the next board of one.
News = Callable[[Board], Board]


class Line(Protocol):
    """A connection to the coordinator, as `transport.Proxy` is one."""

    @property
    def address(self) -> str:
        """The address that answered last."""
        ...


class Feed:
    """Asks for what a board shows.

    Args:
        service: the coordinator.
        address: returns its address.
        tell: called with news, from the feed's thread.
    """

    def __init__(self, service: Service, address: Callable[[], str], tell: Callable[[News], None]) -> None:
        self._service = service
        self._address = address
        self._tell = tell
        self._changed = threading.Condition()
        self._board: Board | None = None
        self._orders: list[Order] = []
        self._hurry = False
        self._stopping = False
        #: The end of the known history, the coordinator's epoch that it belongs to.
        self._since, self._epoch = 0.0, -1
        self._lost_at: float | None = None
        self._reader: TaskReader | None = None
        #: When a list may be asked for again, ``time.monotonic()``.
        self._list_at = 0.0
        self._thread = threading.Thread(target=self._run, name="dtq-feed", daemon=True)

    def start(self, board: Board) -> None:
        """Start the thread."""
        self._board = board
        self._thread.start()

    def watch(self, board: Board, order: Order | None = None) -> None:
        """Note the board as it is now, and an order to carry out."""
        with self._changed:
            before = self._board
            self._board = board
            if order is not None:
                self._orders.append(order)
            if before is None or order is not None or _asks(before) != _asks(board):
                self._hurry = True
                self._list_at = 0.0
                self._changed.notify()

    def stop(self) -> None:
        """End the thread; a call that is under way is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            board, orders = taken
            try:
                for order in orders:
                    self._carry_out(order)
                self._look(board)
            except DtqError as error:
                self._on_failure(error)
            except Exception as error:
                log.exception("a look at the coordinator failed; the next one may not")
                self._on_defect(f"{type(error).__name__}: {error}")

    def _on_defect(self, said: str) -> None:
        self._tell(lambda board: replace(board, said=said))

    def _next(self) -> tuple[Board, list[Order]] | None:
        """Wait until something is to be done; None at the end."""
        with self._changed:
            until = time.monotonic() + (_AGAIN_S if self._lost_at is not None else self._pause_s())
            while not self._hurry and not self._stopping and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._stopping or self._board is None:
                return None
            self._hurry = False
            orders, self._orders = self._orders, []
            return self._board, orders

    def _pause_s(self) -> float:
        board = self._board
        if board is None or self._epoch < 0:
            return 0.0
        return _FROZEN_S if board.frozen else REFRESHES[board.refresh]

    def _look(self, board: Board) -> None:
        """Ask for the snapshot, and for what the page shows beside it."""
        seen = self._service.dashboard(self._since)
        anew = seen.epoch != self._epoch
        if anew and self._since:
            seen = self._service.dashboard(0.0)
        self._epoch = seen.epoch
        self._since = max((one.end for one in seen.history if one.step_s == 1), default=self._since)
        address, now = self._address(), time.monotonic()
        self._lost_at = None

        def news(board: Board) -> Board:
            history = charts.merged(() if anew else board.history, seen.history)
            link = Link(address=address, heard_at=now)
            return replace(board, seen=seen, history=history, link=link, monotonic=now)

        self._tell(news)
        if board.wanted is not None:
            self._look_at_task(*board.wanted)
        elif board.page in (Page.TASKS, Page.DEAD) and now >= self._list_at:
            self._look_at_list(board, seen.counts)

    def _look_at_task(self, batch: int, index: int) -> None:
        if self._reader is None or self._reader.at != (batch, index):
            self._reader = TaskReader(self._service, batch, index)
        try:
            opened = self._reader.read()
        except (UnknownId, ResultExpired) as error:
            said = str(error)
            self._tell(lambda board: replace(board, wanted=None, opened=None, said=said))
            return
        self._tell(lambda board: replace(board, opened=opened) if board.wanted == (batch, index) else board)

    def _look_at_list(self, board: Board, counts: Counts) -> None:
        began = time.monotonic()
        dead = board.page is Page.DEAD
        chosen = filters.selection(board.filter, None if dead else TABS[board.tab], MOST_ROWS)
        if isinstance(chosen, str):
            said = chosen
            self._tell(lambda board: replace(board, said=said))
            return
        asked = _asks(board)
        if dead:
            letters = tuple(self._service.dead_letters(chosen))
            self._tell(lambda board: replace(board, letters=letters) if _asks(board) == asked else board)
        else:
            # Where no task is in that state, the coordinator need not look through all that wait.
            found = self._service.tasks(chosen) if getattr(counts, TABS[board.tab].value) else []
            tasks = tuple(found)
            self._tell(lambda board: replace(board, tasks=tasks) if _asks(board) == asked else board)
        took_s = time.monotonic() - began
        self._list_at = began + took_s + took_s * _SHARE

    def _on_failure(self, error: DtqError) -> None:
        if not error.retryable:
            said = str(error)
            self._tell(lambda board: replace(board, said=said))
            if self._epoch < 0:  # nothing was ever seen: it is why nothing is
                self._lost(error)
            return
        self._lost(error)

    def _lost(self, error: DtqError) -> None:
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        lost_at, why = self._lost_at, str(error)
        self._tell(lambda board: replace(board, link=replace(board.link, lost_at=lost_at, why=why), monotonic=now))

    # -- orders -----------------------------------------------------------------------------------------------------

    def _carry_out(self, order: Order) -> None:
        try:
            said = self._done(order)
        except DtqError as error:
            if error.retryable:
                raise
            said = str(error)
        self._tell(lambda board: replace(board, said=said))

    def _done(self, order: Order) -> str:
        if order.verb in ("pause", "resume"):
            for name in order.names:
                self._service.steer_queue(name, SteeringChange(paused=order.verb == "pause"))
            return f"{', '.join(order.names)}: {'paused' if order.verb == 'pause' else 'resumed'}"
        if order.verb == "drain":
            told = self._service.order_workers(list(order.names), WorkerOrder.DRAIN)
            return f"{', '.join(worker.name for worker in told)}: draining"
        ids = tuple((batch, index + nth) for batch, index, count in order.runs for nth in range(count))
        selection = Selection(ids=ids, limit=0)
        if order.verb == "retry":
            return f"{counted(retry_all(self._service, selection), 'dead letter')} put back"
        if order.verb == "purge":
            return f"{counted(purge_all(self._service, selection), 'dead letter')} removed"
        report = cancel_all(self._service, selection)
        return f"{counted(report.cancelled, 'task')} cancelled, {report.stopping:,} being stopped"


def _asks(board: Board) -> tuple[object, ...]:
    """What a board asks for: when this changes, the answer is wanted at once."""
    filtered = board.filters.get(board.page, "")
    return board.page, board.tab, filtered, board.wanted, board.refresh, board.frozen
