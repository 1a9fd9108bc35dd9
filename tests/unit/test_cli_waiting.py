"""What commands say while they wait, and of what has ended without a result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dtq.cli.failures import TaskTrouble
from dtq.cli.meanwhile import BatchLook, TaskLook
from dtq.cli.waiting import print_batch, print_task
from dtq.client.outcomes import RemoteTraceback
from dtq.errors import TaskCancelled, TaskFailed
from dtq.model.messages import Failure
from dtq.model.snapshots import Attempt, Counts, TaskView
from dtq.model.states import Outcome, State
from tests.unit.cli_scene import SPEC, Captured

MISSING = Failure(exception="FileNotFoundError", message="a.jpg")
PENDING = TaskView(batch=5, index=0, single=True, state=State.PENDING, spec=SPEC, submitted_at=0.0)


def attempt(number: int, failure: Failure = MISSING, outcome: Outcome = Outcome.FAILED) -> Attempt:
    """One that ended ten seconds later than the one before."""
    moment = 10.0 * number
    return Attempt(
        number=number, outcome=outcome, started_at=moment - 1, ended_at=moment, worker="lab", failure=failure
    )


def looked(views: Iterable[TaskView]) -> list[tuple[int, int, str, tuple[str, ...]]]:
    """What is said of a task that goes through these states."""
    left = iter(views)
    look = TaskLook(SimpleNamespace(status=lambda: next(left)))  # type: ignore[arg-type]  # all that it asks of a handle
    return [tuple(look()) for _ in list(views)]  # type: ignore[misc]  # a NamedTuple as the tuple that it is


def test_an_attempt_that_failed_is_told_once_with_the_next_one() -> None:
    # Given a task that failed once, runs again, fails again, and dies
    once = replace(PENDING, state=State.SCHEDULED, attempt=1, history=(attempt(1),), due_at=12.0, reason="backing off")
    again = replace(once, state=State.RUNNING, attempt=2, due_at=None, reason="", progress=(1.0, 4.0))
    killed = Failure(message="its process was killed by SIGKILL", signal=9)
    twice = replace(again, state=State.PENDING, history=(attempt(1), attempt(2, killed, Outcome.CRASHED)))
    dead = replace(twice, state=State.DEAD, history=(*twice.history, attempt(3)))
    said = looked([once, once, again, twice, dead])
    # Then tasks are counted, not attempts
    assert [(ended, total) for ended, total, _, _ in said] == [(0, 1)] * 4 + [(1, 1)]
    assert said[0][2:] == (
        "scheduled, backing off",
        ("attempt 1 of task 5 failed: FileNotFoundError: a.jpg; again in 2 s",),
    )
    assert said[1][3] == ()
    assert said[2][2:] == ("running, attempt 2, 25%", ())
    assert said[3][3] == ("attempt 2 of task 5 crashed: its process was killed by SIGKILL; again at once",)
    assert said[4][2:] == ("", ())  # how it ended is told by who waits


def test_why_a_task_waits_is_told_when_that_changes() -> None:
    ahead = [replace(PENDING, reason=f"{n} tasks are ahead of it, for 2 slots") for n in (9, 8)]
    alone = replace(PENDING, reason="no worker serves the queue 'gpu'")
    told = [news for _, _, _, news in looked([*ahead, alone, alone])]
    assert told == [
        ("task 5 waits: 9 tasks are ahead of it, for 2 slots.",),
        (),
        ("task 5 waits: no worker serves the queue 'gpu'.",),
        (),
    ]


def test_a_batch_tells_how_many_stand_where_and_some_failed_attempts() -> None:
    counts = Counts(scheduled=2, pending=3, running=1, succeeded=5, dead=1, cancelled=2)
    handle: Any = SimpleNamespace(status=lambda: SimpleNamespace(counts=counts))
    view = replace(PENDING, single=False, state=State.SCHEDULED, history=(attempt(1),), due_at=14.0)
    look = BatchLook(handle, lambda state: view if state is State.SCHEDULED else None)
    ended, total, text, news = look()
    assert (ended, total) == (8, 14)
    assert text == "2 scheduled, 3 pending, 1 running, 1 failed, 2 cancelled"
    assert news == ("attempt 1 of task 5.0 failed: FileNotFoundError: a.jpg; again in 4 s",)
    assert look().news == ()


def test_a_batch_that_nobody_serves_says_so_once() -> None:
    handle: Any = SimpleNamespace(status=lambda: SimpleNamespace(counts=Counts(pending=3)))
    view = replace(PENDING, single=False, reason="no worker serves the queue 'gpu'")
    look = BatchLook(handle, lambda state: view)
    assert [look().news for _ in range(2)] == [("batch 5 waits: no worker serves the queue 'gpu'.",), ()]


def _batch(*values: Any) -> Any:
    return SimpleNamespace(id="7", results=lambda return_exceptions: iter(values))


def test_cancelled_tasks_of_a_batch_are_no_failures(capsys: Captured) -> None:
    with pytest.raises(TaskTrouble):
        print_batch(_batch(*[TaskCancelled(f"7.{n}") for n in range(50)]), as_json=False)
    streams = capsys.readouterr()
    assert streams.out == "\n" * 50
    assert streams.err == "dtq: 50 tasks of batch 7 were cancelled.\n"


def test_failed_and_cancelled_tasks_are_counted_apart(capsys: Captured) -> None:
    failures = [ValueError(f"no {n}") for n in range(21)]
    with pytest.raises(TaskTrouble):
        print_batch(_batch(1, TaskCancelled("7.1"), *failures), as_json=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "dtq: task 7.2 failed: ValueError: no 0"
    assert lines[20:] == [
        "dtq: 1 more task of batch 7 failed (dtq dlq list).",
        "dtq: 1 task of batch 7 was cancelled.",
    ]


def test_a_traceback_is_no_data(capsys: Captured) -> None:
    # Given two errors: one with a traceback that shows a place, one without any place to show
    shown = 'Traceback (most recent call last):\n  File "jobs.py", line 1, in work\nValueError: no'
    for text, said in ((shown, f"{shown}\n"), ("ValueError: no\n", "")):
        error = ValueError("no")
        error.__cause__ = RemoteTraceback(text)
        with pytest.raises(TaskTrouble):
            print_task(SimpleNamespace(id="7", exception=lambda error=error: error), as_json=False)  # type: ignore[arg-type]
        streams = capsys.readouterr()
        assert (streams.out, streams.err) == ("", f"{said}dtq: task 7 failed: ValueError: no\n")


def test_an_exception_that_is_not_to_be_had_here_is_named_once(capsys: Captured) -> None:
    # Given what a task raised that must not be raised here (SystemExit), or whose class is not here
    error = TaskFailed("7", "SystemExit", "3")
    error.__cause__ = RemoteTraceback(
        'Traceback (most recent call last):\n  File "jobs.py", line 1, in work\nSystemExit: 3'
    )
    handle: Any = SimpleNamespace(id="7", exception=lambda: error)
    with pytest.raises(TaskTrouble):
        print_task(handle, as_json=False)
    assert capsys.readouterr().err.endswith("\ndtq: task 7 failed: SystemExit: 3\n")
    with pytest.raises(TaskTrouble):
        print_task(handle, as_json=True)
    described = json.loads(capsys.readouterr().out)["error"]
    assert (described["exception"], described["message"]) == ("SystemExit", "3")
