"""The dashboard's keys: what they change, and what they ask before it is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dtq.dashboard import keys
from dtq.dashboard.board import TABS, Board, Opened, Order, Page
from dtq.dashboard.filters import selection
from dtq.model.dashboard import WorkerState
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.unit.dashboard_scene import board, letter, queue, seen, task, worker


def press(of: Board, *names: str) -> tuple[Board, Order | None]:
    """Press keys in turn; what is to be done at last."""
    order: Order | None = None
    for name in names:
        of, order = keys.press(
            of, name, name if len(name) == 1 else {"space": " ", "slash": "/", "colon": ":"}.get(name)
        )
    return of, order


LETTERS = board(page=Page.DEAD, letters=tuple(letter(n) for n in range(1, 6)))
TASKS = board(page=Page.TASKS, tasks=(task(1), task(2, count=40, state=State.PENDING)))


def test_pages_and_quit() -> None:
    assert [press(board(), page.value)[0].page for page in Page] == list(Page)
    assert press(board(), "q")[1] is keys.QUIT
    assert press(board(), "ctrl+c")[1] is keys.QUIT
    assert press(board(), "F11") == (board(), None)


def test_cursor_stays_on_the_rows() -> None:
    assert press(LETTERS, "down", "down")[0].cursor == 2
    assert press(LETTERS, "end")[0].cursor == 4
    assert press(LETTERS, "pagedown", "down")[0].cursor == 4
    assert press(LETTERS, "end", "home", "up")[0].cursor == 0
    shorter = replace(press(LETTERS, "end")[0], letters=LETTERS.letters[:2] if LETTERS.letters else ())
    assert press(shorter, "up")[0].cursor == 0


def test_filter_is_typed_kept_and_forgotten() -> None:
    typing, _ = press(LETTERS, "slash", "q", "1", "backspace", "x")
    assert (typing.typing, typing.filter, typing.page) == ("qx", "qx", Page.DEAD)
    found, _ = press(typing, "enter")
    assert (found.typing, found.filter, found.letters) == (None, "qx", None)  # asked for anew
    assert press(found, "slash", "z", "escape")[0].filter == "qx"
    assert press(found, "escape")[0].filter == ""


def test_dead_letters_are_put_back_after_a_question_with_their_number() -> None:
    asked, order = press(LETTERS, "space", "space", "r")
    assert order is None
    assert asked.asked is not None
    assert asked.asked.what == "put 2 dead letters back into the queue"
    # No other key than y does it
    refused, order = press(asked, "r")
    assert (refused.asked, refused.said, order) == (None, "nothing was done", None)
    done, order = press(asked, "y")
    assert order is not None
    assert (order.verb, order.runs, done.marked) == ("retry", ((1, 0, 1), (2, 0, 1)), frozenset())
    assert press(LETTERS, "down", "x", "y")[1] == Order(
        verb="purge", runs=((2, 0, 1),), what="remove 1 dead letter for good"
    )


def test_tasks_are_cancelled_after_a_question_with_their_number() -> None:
    asked, _ = press(TASKS, "down", "x")
    assert asked.asked is not None
    assert asked.asked.what == "cancel 40 tasks, running ones too"
    assert press(asked, "y")[1] == replace(asked.asked)
    many = replace(TASKS, tasks=(task(1, count=keys.MOST + 1),))
    assert "too many" in press(many, "x")[0].said
    assert press(replace(TASKS, tasks=()), "x")[0].said == "no task is on this line"


def test_open_task_is_retried_or_cancelled_by_what_it_is() -> None:
    dead = replace(LETTERS, wanted=(3, 0), opened=Opened(task=task(3, state=State.DEAD)))
    assert press(dead, "r", "y")[1] == Order(
        verb="retry", runs=((3, 0, 1),), what="put 1 dead letter back into the queue"
    )
    running = replace(dead, opened=Opened(task=task(3)))
    asked, _ = press(running, "x")
    assert asked.asked is not None
    assert asked.asked.verb == "cancel"
    assert "page 5" in press(running, "r")[0].said


def test_queue_is_paused_or_resumed() -> None:
    queues = board(seen(queues=(queue("a"), queue("b", paused=True))), page=Page.QUEUES)
    assert press(queues, "p")[1] == Order(verb="pause", names=("a",), what="pause the queue a")
    assert press(queues, "down", "p")[1] == Order(verb="resume", names=("b",), what="resume the queue b")
    assert press(board(), "p")[0].said == "p pauses the queue of a line: on page 2"


def test_worker_is_drained_after_a_question_by_its_session() -> None:
    lost = worker("gone", busy=0, state=WorkerState.LOST)
    workers = board(seen(workers=(lost, worker("lab-1"))), page=Page.WORKERS)
    assert press(workers, "d") == (replace(workers, said="the worker gone is lost"), None)
    assert press(workers, "down", "d", "y")[1] == Order(
        verb="drain", names=("s-lab-1",), what="have lab-1 finish 1 running task, and end"
    )


def test_rows_are_in_another_order() -> None:
    queues = board(seen(queues=(queue("b", 9), queue("a", 1))), page=Page.QUEUES)
    by_name, _ = press(queues, "s")
    assert press(by_name, "p")[1] == Order(verb="pause", names=("a",), what="pause the queue a")


def test_tab_of_tasks_turns_and_asks_anew() -> None:
    turned, _ = press(TASKS, "right")
    assert (TABS[turned.tab], turned.tasks) == (State.PENDING, None)
    assert TABS[press(TASKS, "left")[0].tab] is State.CANCELLED
    assert press(board(), "right")[0].period == 1


def test_open_and_back() -> None:
    opened, _ = press(LETTERS, "down", "enter")
    assert opened.wanted == (2, 0)
    loaded = replace(opened, opened=Opened(task=task(2), printed="line\n" * 30))
    assert press(loaded, "down", "down")[0].scroll == 2
    assert press(loaded, *["pagedown"] * 9, "up")[0].scroll < 50
    back, _ = press(opened, "escape")
    assert (back.wanted, back.cursor) == (None, 1)
    assert press(board(), "enter")[0].wanted == (1, 0)  # the latest failure


def test_pace_and_freeze() -> None:
    assert press(board(), "plus")[0].refresh == 3
    assert press(board(), "minus", "minus", "minus")[0].refresh == 2
    assert press(board(), "f")[0].frozen
    assert not press(board(), "f", "minus")[0].frozen


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("queue:mail error:*Timeout* label:x", {"queue": "mail", "exception": "*Timeout*", "label": "x"}),
        ("thumb", {"function": "*thumb*"}),
        ("function:mod:*", {"function": "mod:*"}),
        ("17.3 18", {"ids": ((17, 3), (18, -1))}),
        ("queue:", {}),
    ],
)
def test_filter_means_a_selection(text: str, fields: dict[str, object]) -> None:
    assert selection(text, State.DEAD, 9) == Selection(state=State.DEAD, limit=9, **fields)  # type: ignore[arg-type]


def test_filter_that_means_nothing_says_why() -> None:
    assert str(selection("label:" + "x" * 201, None, 9)) == "label has 201 characters, not 0 to 200"
