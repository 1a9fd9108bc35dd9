"""The dashboard's feed: it asks for what is shown, carries out orders, and survives a coordinator that is away."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dtq.dashboard.board import Board, Link, Order, Page
from dtq.dashboard.feed import Feed, News
from dtq.errors import DtqError, RoleMissing, UnknownId, Unreachable
from dtq.model.explanations import Explanation
from dtq.model.messages import WorkerOrder
from dtq.model.queues import SteeringChange
from dtq.model.snapshots import CancelReport, OrderedWorker, OutputPart, Selection, TaskArguments
from dtq.model.states import State
from tests.unit.dashboard_scene import NOW, history, letter, seen, task

DEADLINE_S = 30.0


class Fake:
    """A coordinator that answers as it is told, and a board that takes its news."""

    def __init__(self) -> None:
        self.error: DtqError | None = None
        self.snapshot = seen()
        self.calls: list[tuple[Any, ...]] = []
        self.board = Board(link=Link(address="lab:1"), refresh=3)
        self._moved = threading.Condition()
        self.feed = Feed(self, lambda: "lab:1", self._take)  # type: ignore[arg-type]
        self.feed.start(self.board)

    def _take(self, news: News) -> None:
        with self._moved:
            self.board = news(self.board)
            self._moved.notify_all()
            board = self.board
        self.feed.watch(board)

    def show(self, order: Order | None = None, **parts: Any) -> None:
        with self._moved:
            self.board = replace(self.board, **parts)
            board = self.board
        self.feed.watch(board, order)

    def until(self, look: Callable[[Board], object], what: str) -> Board:
        with self._moved:
            assert self._moved.wait_for(lambda: look(self.board), DEADLINE_S), f"waited for {what}: {self.board}"
            return self.board

    def _answer(self, *call: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(call)

    def dashboard(self, since: float) -> Any:
        self._answer("dashboard", since)
        return self.snapshot

    def tasks(self, selection: Selection) -> Any:
        self._answer("tasks", selection)
        return [task(7)]

    def dead_letters(self, selection: Selection) -> Any:
        self._answer("dead_letters", selection)
        return [letter(8)]

    def task(self, batch: int, index: int) -> Any:
        self._answer("task", batch, index)
        if batch == 404:
            raise UnknownId("404")
        return task(batch, attempt=1)

    def explain(self, batch: int, index: int) -> Any:
        self._answer("explain", batch, index)
        return [Explanation(task=task(batch), reasons=("it runs",))]

    def arguments(self, tasks: Any, most: int) -> Any:
        self._answer("arguments", tasks, most)
        blob = pickle.dumps(((), {}))
        return [TaskArguments(batch=8, index=0, kept=True, blob=blob, size=len(blob))]

    def output(self, batch: int, index: int, attempt: int, offset: int, wait_s: float) -> OutputPart:
        self._answer("output", batch, index, attempt, offset, wait_s)
        printed = b"begun\nmore\n"
        data = printed[offset : offset + 6]
        return OutputPart(attempt=1, offset=offset, data=data, state=State.RUNNING)

    def steer_queue(self, name: str, how: SteeringChange) -> None:
        self._answer("steer_queue", name, how)

    def order_workers(self, names: list[str], order: WorkerOrder) -> Any:
        self._answer("order_workers", names, order)
        return [OrderedWorker(name="lab-1", session="s-1", order=order, busy=1)]

    def cancel(self, selection: Selection) -> CancelReport:
        self._answer("cancel", selection)
        return CancelReport(cancelled=1, stopping=2, finished=0)

    def retry_dead(self, selection: Selection) -> int:
        self._answer("retry_dead", selection)
        return 1


def test_feed_brings_snapshots_and_asks_for_news_only() -> None:
    fake = Fake()
    fake.until(lambda board: board.seen, "the first snapshot")
    assert fake.calls[0] == ("dashboard", 0.0)
    fake.until(lambda board: ("dashboard", NOW) in fake.calls, "a call for what is new")
    assert fake.board.history[0].done == (1, 2, 3)
    fake.feed.stop()


def test_feed_brings_the_rows_of_the_page_and_the_open_task() -> None:
    fake = Fake()
    fake.show(page=Page.TASKS, tab=1, filters={Page.TASKS: "queue:mail"})
    fake.until(lambda board: board.tasks, "tasks")
    assert ("tasks", Selection(state=State.PENDING, queue="mail", limit=500)) in fake.calls
    fake.show(page=Page.DEAD)
    fake.until(lambda board: board.letters, "dead letters")
    fake.show(wanted=(8, 0))
    opened = fake.until(lambda board: board.opened and "more" in board.opened.printed, "the task").opened
    assert opened is not None
    assert (opened.task, opened.arguments, opened.printed) == (task(8, attempt=1), "(), {}", "begun\nmore\n")
    assert opened.explained is not None
    assert opened.explained.reasons == ("it runs",)
    fake.show(wanted=(404, 0))
    assert "404" in fake.until(lambda board: board.wanted is None, "the page to close").said
    fake.feed.stop()


def test_feed_carries_out_orders_and_says_what_came_of_them() -> None:
    fake = Fake()
    fake.show(Order(verb="pause", names=("mail",)))
    fake.until(lambda board: board.said == "mail: paused", "the pause")
    fake.show(Order(verb="drain", names=("s-1",)))
    fake.until(lambda board: board.said == "lab-1: draining", "the drain")
    fake.show(Order(verb="cancel", runs=((7, 2, 3),)))
    fake.until(lambda board: board.said == "1 task cancelled, 2 being stopped", "the cancel")
    fake.show(Order(verb="retry", runs=((8, 0, 1),)))
    fake.until(lambda board: board.said == "1 dead letter put back", "the retry")
    assert ("order_workers", ["s-1"], WorkerOrder.DRAIN) in fake.calls
    assert ("cancel", Selection(ids=((7, 2), (7, 3), (7, 4)), limit=0)) in fake.calls
    fake.feed.stop()


def test_feed_survives_a_coordinator_that_is_away_and_one_that_is_new() -> None:
    # Given a board
    fake = Fake()
    fake.until(lambda board: board.history and board.history[0].done, "the first snapshot")
    # When the coordinator is away, it says so and keeps what it has seen
    fake.error = Unreachable("lab:1", "connection refused")
    gone = fake.until(lambda board: board.link.lost_at is not None, "the loss")
    assert gone.seen is not None
    assert "connection refused" in gone.link.why
    # When it comes back as another process, the history begins anew
    fake.snapshot = seen(epoch=2, history=(history(done=(9,)), history(60)))
    fake.error = None
    back = fake.until(lambda board: board.link.lost_at is None, "the return")
    assert back.history[0].done == (9,)
    fake.feed.stop()


def test_defect_is_said_and_does_not_end_the_feed(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    fake.until(lambda board: board.seen, "the first snapshot")
    fake.snapshot = None  # type: ignore[assignment]
    fake.until(lambda board: "AttributeError" in board.said, "the defect")
    fake.snapshot = seen(pid=77)
    fake.until(lambda board: board.seen and board.seen.pid == 77, "the next snapshot")
    fake.feed.stop()
    assert "a look at the coordinator failed" in caplog.text


def test_refusal_is_said_and_does_not_end_the_feed() -> None:
    fake = Fake()
    fake.error = RoleMissing("'ci'", "dashboard takes the role admin")
    said = fake.until(lambda board: board.said, "the refusal")
    assert "role admin" in said.said
    fake.error = None
    fake.until(lambda board: board.seen, "a snapshot")
    fake.feed.stop()
