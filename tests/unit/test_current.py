"""The running task, as its own code sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dtq.client import current
from dtq.client.current import current_task
from dtq.errors import InvalidValue, NotInTask


@pytest.fixture
def reports() -> Iterator[list[tuple[float, float]]]:
    said: list[tuple[float, float]] = []
    current.serve("w1", lambda done, total: said.append((done, total)))
    yield said
    current.end()
    current.serve("", lambda done, total: None)


class Clock:
    """Time stands still until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def waits() -> Iterator[list[tuple[float, bool]]]:
    """What a running task says of its waiting: for how long, and whether it is blocked."""
    said: list[tuple[float, bool]] = []
    current.serve("w1", lambda done, total: None, lambda seconds, blocked: said.append((seconds, blocked)))
    current.begin(17, 3, False, 1)
    yield said
    current.end()
    current.serve("", lambda done, total: None)


def test_task_waits_while_any_of_its_threads_is_blocked(waits: list[tuple[float, bool]]) -> None:
    with current.waiting(), current.waiting():
        assert waits == [(current.FOR_EVER, True)]
    assert waits[1:] == [(0.0, False)]


def test_task_that_looks_again_and_again_waits(
    waits: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a task that looks whether another has ended
    clock = Clock(monkeypatch)
    current.looked()
    assert waits == [(current.LOOKED_S, False)]
    # When it looks all the time; Then it says so before what it has said runs out, and not each time
    for _ in range(1000):
        clock.now += 0.01
        current.looked()
    assert len(waits) in (9, 10, 11)  # in ten seconds
    # When it looks now and then; Then it waits in between as well, for a while
    clock.now += 4.0
    current.looked()
    assert waits[-1] == (8.0, False)
    clock.now += 3600.0
    current.looked()
    assert waits[-1] == (current.LONGEST_LOOKED_S, False)


def test_wait_that_was_over_too_soon_counts_as_a_look(
    waits: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with current.waiting():
        clock.now += 0.01
        current.looked()
    assert waits == [(current.FOR_EVER, True), (current.LOOKED_S, False)]


def test_looking_outside_of_a_task_says_nothing(waits: list[tuple[float, bool]]) -> None:
    current.end()
    current.looked()
    with current.waiting():
        pass
    assert waits == []


def test_outside_of_a_task_there_is_none() -> None:
    # Given no task; When code asks for it; Then it learns so
    with pytest.raises(NotInTask, match="only known while a task runs"):
        current_task()


def test_task_knows_its_id_attempt_and_worker(reports: list[tuple[float, float]]) -> None:
    # Given a running task of a batch, then the only one of another
    current.begin(17, 3, False, 2)
    first = current_task()
    current.begin(18, 0, True, 1)
    # When they ask; Then each sees itself
    assert (first.id, first.attempt, first.worker) == ("17.3", 2, "w1")
    assert current_task().id == "18"


def test_threads_of_a_task_see_it(reports: list[tuple[float, float]]) -> None:
    # Given a running task
    current.begin(17, 3, False, 1)
    seen: list[str] = []
    # When a thread of it asks
    thread = threading.Thread(target=lambda: seen.append(current_task().id))
    thread.start()
    thread.join()
    # Then it sees the same
    assert seen == ["17.3"]


def test_progress_is_limited_and_the_last_report_is_sent(reports: list[tuple[float, float]]) -> None:
    # Given a task that reports as often as it can
    current.begin(17, 3, False, 1)
    # When it counts to a thousand
    for done in range(1, 1001):
        current_task().progress(done, 1000)
    # Then few reports leave: the first and the last among them
    assert reports[0] == (1.0, 1000.0)
    assert reports[-1] == (1000.0, 1000.0)
    assert len(reports) <= 4


def test_thread_that_outlives_its_task_reports_nothing_for_the_next(reports: list[tuple[float, float]]) -> None:
    # Given a task that is over, and another that runs
    current.begin(17, 3, False, 1)
    before = current_task()
    current.begin(17, 4, False, 1)
    # When the first still reports
    before.progress(1, 1)
    # Then nothing is said in the name of the second
    assert reports == []
    assert current_task() is not before


@pytest.mark.parametrize(("done", "total"), [("a", 1), (float("nan"), 1), (1, float("inf")), (None, 1)])
def test_progress_takes_finite_numbers_only(reports: list[tuple[float, float]], done: float, total: float) -> None:
    # Given nonsense; When it is reported; Then it is refused
    current.begin(17, 3, False, 1)
    with pytest.raises(InvalidValue, match="progress"):
        current_task().progress(done, total)
