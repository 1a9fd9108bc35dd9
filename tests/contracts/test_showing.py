"""What clients, handles and long work look like: in a notebook, in a terminal, and in neither."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import pytest

from dtq import BatchHandle, TaskHandle, progress
from dtq.client import progress as bars
from dtq.client.html_repr import card
from dtq.testing import InProcessQueue
from tests.client_scene import DEADLINE_S, Queue
from tests.looping import looped
from tests.tasks import numbers_work as work


@pytest.fixture
def near() -> Iterator[Queue]:
    with Queue() as made:
        yield made


class Terminal(io.StringIO):
    """Standard error, as a terminal."""

    def isatty(self) -> bool:
        return True


def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From now on this is a terminal, without tqdm. (Not in a fixture: pytest sets its own stream for each phase.)"""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    return made


class Tags(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


# -- in a notebook ------------------------------------------------------------------------------------------------


def test_card_is_escaped_and_has_no_script() -> None:
    # Given text that would be code
    evil = "<script>alert(1)</script>&"
    # When it is shown
    shown = Tags(card(evil, [(evil, evil), ("nothing", None)], done=2.0))
    # Then it is text, what is not known is left out, and a bar is never wider than it is
    assert set(shown.tags) == {"div", "b", "table", "tr", "td"}
    assert shown.text == evil * 3
    assert "width:100.0%" in card("t", [], done=2.0)


def test_client_and_handles_show_what_is_known(near: Queue) -> None:
    # Given a client that has not asked anything
    client = near.client()
    assert "not connected yet" in client._repr_html_()
    # When tasks are submitted; Then their handles say where they stand
    task, batch = client.submit(work.add, 1), client.submit_map(work.square, range(4))
    task.accepted(DEADLINE_S)
    batch.accepted(DEADLINE_S)
    shown = Tags(task._repr_html_()).text
    assert f"task{task.id}" in shown
    assert "tests.tasks.numbers_work:add" in shown
    assert "accepted" in shown
    assert "tasks4" in Tags(batch._repr_html_()).text
    with near.working():
        assert task.result(DEADLINE_S) == 1
        assert batch.wait(DEADLINE_S)
        assert "succeeded" in task._repr_html_()
        assert "width:100.0%" in batch._repr_html_()
        # And the client says what the coordinator says
        shown = Tags(client._repr_html_()).text
        assert "1, 1 slot" in shown
        assert "succeeded5" in shown
    near.stop()
    assert "succeeded" not in client._repr_html_()
    client.close(DEADLINE_S)
    assert "closed" in client._repr_html_()


@looped
async def test_awaitable_handles_show_the_same(dtq_queue: InProcessQueue) -> None:
    async with dtq_queue.async_client() as client:
        task, batch = await client.submit(work.add, 1), await client.submit_map(work.square, range(4))
        assert f"{task.id}" in task._repr_html_()
        assert "tasks4" in Tags(batch._repr_html_()).text
        assert dtq_queue.place in client._repr_html_()


# -- in a terminal ------------------------------------------------------------------------------------------------


def test_nothing_is_written_where_nobody_looks(dtq_queue: InProcessQueue, capsys: pytest.CaptureFixture[str]) -> None:
    # Given no terminal; When a map is read, and handles are waited for, with progress
    client = dtq_queue.client
    with dtq_queue.working():
        assert list(client.map(work.square, range(10), progress=True)) == [n * n for n in range(10)]
        handles = [client.submit(work.add, n) for n in range(5)]
        # Then all is as without, and nothing is written
        assert progress(handles) == (set(handles), set())
    assert capsys.readouterr() == ("", "")


def test_map_shows_a_bar_of_its_items(dtq_queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    # Given a terminal; When a map of known length is read
    client = dtq_queue.client
    with dtq_queue.working():
        assert len(list(client.map(work.square, range(10), progress=True))) == 10
        # Then its bar ends full, on one line
        assert terminal.getvalue().startswith("\r[....")
        assert f"[{'#' * 30}] 10/10" in terminal.getvalue().rsplit("\r", 1)[1]
        assert terminal.getvalue().count("\n") == 1
        # And one of unknown length counts
        assert len(list(client.options(priority=1).map(work.square, iter(range(7)), progress=True))) == 7
        assert "\r7 done" in terminal.getvalue()


@looped
async def test_map_of_coroutines_shows_a_bar_too(dtq_queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    async with dtq_queue.async_client() as client:
        with dtq_queue.working():
            assert len([v async for v in client.map(work.square, range(10), progress=True)]) == 10
            assert "10/10" in terminal.getvalue()
            preset = client.options(priority=1)
            assert len([v async for v in preset.map(work.square, range(3), progress=True)]) == 3
            assert "3/3" in terminal.getvalue()


def test_map_with_a_bar_is_cancelled_when_it_is_left(
    dtq_queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = in_terminal(monkeypatch)
    # Given a map with a bar; When its reader stops
    client = dtq_queue.client
    with dtq_queue.working():
        for value in client.map(work.square, iter(range(10**9)), progress=True):
            if value == 4:
                break
    # Then it is ended like any other
    assert terminal.getvalue().endswith("\n")


def test_progress_counts_a_batch_as_its_tasks(dtq_queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    # Given a batch and a task
    client = dtq_queue.client
    batch, task = client.submit_map(work.square, range(100)), client.submit(work.add, 1)
    handles: list[BatchHandle[int] | TaskHandle[int]] = [batch, task]
    # When time runs out before anything has ended; Then that is what it says
    assert progress(handles, timeout=0.01) == (set(), {batch, task})
    assert "0/101" in terminal.getvalue()
    # When all has ended; Then all is counted
    with dtq_queue.working():
        assert progress(handles).not_done == set()
        assert "101/101" in terminal.getvalue()
        assert progress(batch).done == {batch}
        assert "100/100" in terminal.getvalue()


def test_bar_says_how_fast_and_how_long() -> None:
    # Given a bar of a hundred, a quarter done after one second
    bar = bars.LineBar(100, None)
    bar.advance(25)
    bar._began -= 1.0
    # When it is asked; Then it says the rate, and the time that is left
    assert bar.line().startswith(f"[{'#' * 7}{'.' * 23}] 25/100 2")
    assert bar.line().endswith("3 s left")


class Tqdm:
    """What dtq uses of tqdm."""

    made: list[Tqdm] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.count = 0
        self.closed = False
        Tqdm.made.append(self)

    def update(self, steps: int) -> None:
        self.count += steps

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("where", ["terminal", "notebook"])
def test_tqdm_is_used_where_it_is_installed(
    dtq_queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    terminal = in_terminal(monkeypatch)
    # Given tqdm, in a terminal, or in a notebook without one
    Tqdm.made.clear()
    module: Any = ModuleType("tqdm")
    module.tqdm = Tqdm
    module.__path__ = []
    monkeypatch.setitem(sys.modules, "tqdm", module)
    if where == "notebook":
        in_notebook(monkeypatch)
        monkeypatch.setitem(sys.modules, "tqdm.auto", module)
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    # When a map is read; Then the bar is tqdm's
    with dtq_queue.working():
        assert len(list(dtq_queue.client.map(work.square, range(10), progress=True))) == 10
    (made,) = Tqdm.made
    assert (made.total, made.count, made.closed) == (10, 10, True)
    assert terminal.getvalue() == ""


def test_notebook_without_tqdm_has_a_line(
    dtq_queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a notebook without tqdm; When a map is read; Then its output has the line
    in_notebook(monkeypatch)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with dtq_queue.working():
        assert len(list(dtq_queue.client.map(work.square, range(10), progress=True))) == 10
    assert "10/10" in capsys.readouterr().out


def in_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython: Any = ModuleType("IPython")
    shell: Any = ModuleType("shell")
    shell.kernel = object()
    ipython.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", ipython)
