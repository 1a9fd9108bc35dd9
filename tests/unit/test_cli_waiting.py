"""What commands say while they wait, and of what has ended without a result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from dtq.cli import meanwhile
from dtq.cli.awaited import Awaited
from dtq.cli.failures import TaskTrouble
from dtq.cli.looks import BatchLook, RunLook, Step, TaskLook
from dtq.cli.waiting import Deadline, print_batch, print_task
from dtq.client.outcomes import RemoteTraceback
from dtq.errors import TaskCancelled, TaskFailed, UnknownId
from dtq.model.messages import Failure
from dtq.model.snapshots import Attempt, BatchView, Counts, TaskView
from dtq.model.states import Outcome, State
from tests.unit.cli_scene import BATCH, SPEC, Captured

MISSING = Failure(exception="FileNotFoundError", message="a.jpg")
PENDING = TaskView(batch=5, index=0, single=True, state=State.PENDING, spec=SPEC, submitted_at=0.0)


def attempt(number: int, failure: Failure = MISSING, outcome: Outcome = Outcome.FAILED) -> Attempt:
    """One that ended ten seconds later than the one before."""
    moment = 10.0 * number
    return Attempt(
        number=number, outcome=outcome, started_at=moment - 1, ended_at=moment, worker="lab", failure=failure
    )


def looked(views: Iterable[TaskView]) -> list[Step]:
    """What is said of a task that goes through these states."""
    left = iter(views)
    look = TaskLook(SimpleNamespace(id="5", status=lambda: next(left)))  # type: ignore[arg-type]  # all that it asks of it
    return [look() for _ in list(views)]


def test_an_attempt_that_failed_is_told_once_with_the_next_one() -> None:
    # Given a task that failed once, runs again, fails again, and dies
    once = replace(PENDING, state=State.SCHEDULED, attempt=1, history=(attempt(1),), due_at=12.0, reason="backing off")
    again = replace(once, state=State.RUNNING, attempt=2, due_at=None, reason="", progress=(1.0, 4.0))
    killed = Failure(message="its process was killed by SIGKILL", signal=9)
    twice = replace(again, state=State.PENDING, history=(attempt(1), attempt(2, killed, Outcome.CRASHED)))
    dead = replace(twice, state=State.DEAD, history=(*twice.history, attempt(3)))
    said = looked([once, once, again, twice, dead])
    # Then tasks are counted, not attempts
    assert [(step.ended, step.total, step.over) for step in said] == [(0, 1, False)] * 4 + [(1, 1, True)]
    assert said[0][2:4] == (
        "scheduled, backing off",
        ("attempt 1 of task 5 failed: FileNotFoundError: a.jpg; again in 2 s",),
    )
    assert said[1].news == ()
    assert said[2][2:] == ("running, attempt 2, 25%", (), 0.25)
    assert said[3].news == ("attempt 2 of task 5 crashed: its process was killed by SIGKILL; again at once",)
    assert said[4][2:4] == ("", ())  # how it ended is told by who waits


def test_why_a_task_waits_is_told_when_that_changes() -> None:
    ahead = [replace(PENDING, reason=f"{n} tasks are ahead of it, for 2 slots") for n in (9, 8)]
    alone = replace(PENDING, reason="no worker serves the queue 'gpu'")
    told = [step.news for step in looked([*ahead, alone, alone])]
    assert told == [
        ("task 5 waits: 9 tasks are ahead of it, for 2 slots.",),
        (),
        ("task 5 waits: no worker serves the queue 'gpu'.",),
        (),
    ]


def _looking(
    found: dict[State, TaskView], counts: Counts, *, deaths: bool = False, **batch: Any
) -> tuple[BatchLook, list[float]]:
    """A look at a batch with these counts, of which these tasks are found; and its clock, which may be moved."""
    view = replace(BATCH, counts=counts, **batch)
    handle: Any = SimpleNamespace(id="5", status=lambda: view)
    now = [100.0]
    return BatchLook(handle, found.get, deaths=deaths, clock=lambda: now[0]), now


def test_a_batch_tells_how_many_stand_where_and_some_failed_attempts() -> None:
    counts = Counts(scheduled=2, pending=3, running=1, succeeded=5, dead=1, cancelled=2)
    view = replace(PENDING, single=False, state=State.SCHEDULED, history=(attempt(1),), due_at=14.0)
    found = {State.SCHEDULED: view}
    look, now = _looking(found, counts, rate=2.5, left_s=2.4)
    step = look()
    assert (step.ended, step.total) == (8, 14)
    assert step.text == "2.5/s, 2.4 s left; 2 scheduled, 3 pending, 1 running, 1 failed, 2 cancelled"
    assert step.line == f"8 of 14 tasks ended; {step.text}"
    assert step.news == ("attempt 1 of task 5.0 failed: FileNotFoundError: a.jpg; again in 4 s",)
    # and each attempt is told once, and looked for now and then only
    found[State.SCHEDULED] = replace(view, index=1)
    assert look().news == ()
    now[0] += 60.0
    assert look().news == ("attempt 1 of task 5.1 failed: FileNotFoundError: a.jpg; again in 4 s",)
    for _ in range(100):
        now[0] += 60.0
        assert look().news == ()
    # and after so many searches in vain, the reason why nothing runs is still told
    look, now = _looking({State.PENDING: replace(PENDING, reason="the queue 'gpu' is paused")}, Counts(pending=1))
    look._searches = 1_000
    assert look().news == ("batch 5 waits: the queue 'gpu' is paused.",)


def test_dead_letters_of_a_batch_are_told_where_nobody_else_does() -> None:
    counts = Counts(running=1, dead=1)
    view = replace(PENDING, single=False, state=State.DEAD, attempt=4, history=(attempt(4),))
    assert _looking({State.DEAD: view}, counts, deaths=True)[0]().news == (
        "attempt 4 of task 5.0 failed: FileNotFoundError: a.jpg; it is a dead letter now",
    )
    assert _looking({State.DEAD: view}, counts)[0]().news == ()


def test_a_batch_that_nobody_serves_says_so_once() -> None:
    view = replace(PENDING, single=False, reason="no worker serves the queue 'gpu'")
    found = {State.PENDING: view}
    look, now = _looking(found, Counts(pending=3))
    told = []
    for reason in (view.reason, view.reason, "the queue 'gpu' is paused", "next in line for 2 busy slots"):
        found[State.PENDING] = replace(view, reason=reason)
        told.append(look().news)
        now[0] += 60.0
    assert told == [
        ("batch 5 waits: no worker serves the queue 'gpu'.",),
        (),
        ("batch 5 waits: the queue 'gpu' is paused.",),
        (),
    ]


def test_progress_off_a_terminal_is_a_line_every_two_seconds_and_then_less_often(capsys: Captured) -> None:
    # Given a batch that is looked at for ten minutes
    now = 0.0
    lines = meanwhile._Lines(clock=lambda: now)
    look = RunLook("tasks 5.0-9", lambda: Counts(running=3, succeeded=7))
    moments: list[float] = []
    while now < 600.0:
        now += meanwhile._SELDOM_S
        lines.show(look, look())
        if said := capsys.readouterr().err:
            assert said == "dtq: tasks 5.0-9: 7 of 10 tasks ended; 3 running\n"
            moments.append(now)

    # Then nothing is silent for longer than two seconds at first, nor ever for much longer than half a minute
    gaps = [after - before for before, after in pairwise([0.0, *moments])]
    assert max(gaps[:10]) < 2.0
    assert 25.0 < max(gaps) < 35.0
    # and news come in any case
    lines.show(look, Step(7, 10, "", ("attempt 1 of task 5.3 failed: OSError: no",)))
    lines.show(look, Step(10, 10, ""))
    assert capsys.readouterr().err == "dtq: attempt 1 of task 5.3 failed: OSError: no\n"


def test_ids_are_asked_for_at_their_turn() -> None:
    # Given many ids, and a client that counts what it is asked
    asked: list[str] = []

    def batch_status(number: Any) -> BatchView:
        asked.append(str(number))
        return BATCH

    batch = SimpleNamespace(id="17", status=lambda: BATCH, wait=lambda timeout: True)
    queue: Any = SimpleNamespace(batch_status=batch_status, get_batch=lambda text: batch, tasks=lambda *_, **__: [])
    awaited = [Awaited(queue, str(n)) for n in range(17, 1_017)]
    assert asked == []
    # When one is looked at, and waited for
    assert awaited[0].name == "17"
    assert awaited[0]().ended == 10
    assert awaited[0].wait(Deadline(None)).dead == 10
    # Then only that was asked for, once
    assert (asked, awaited[0].name) == (["17"], "batch 17")


class _Shown:
    """A display that takes notes, and ends the watch after some rounds."""

    first_s = pause_s = 0.0

    def __init__(self, over: Event, rounds: int) -> None:
        self._over = over
        self._rounds = rounds
        self.shown: list[str] = []
        self.dropped: list[str] = []
        self.more: list[int] = []

    def show(self, look: Any, step: Step) -> None:
        self.shown.append(look.name)

    def drop(self, look: Any) -> None:
        self.dropped.append(look.name)

    def rest(self, number: int) -> None:
        self.more.append(number)
        if len(self.more) == self._rounds:
            self._over.set()


def test_of_many_awaited_ids_the_first_that_have_not_ended_are_shown() -> None:
    # Given twelve ids, of which one ends, and one of which the coordinator cannot tell at the moment
    counts = {f"task {n}": Counts(running=1) for n in range(12)} | {"task 3": Counts(succeeded=1)}
    del counts["task 5"]

    def count(name: str) -> Counts:
        if name not in counts:
            raise UnknownId(name)
        return counts[name]

    looks = [RunLook(f"task {n}", partial(count, f"task {n}")) for n in range(12)]
    over = Event()
    shown = _Shown(over, rounds=2)

    meanwhile._watch(looks, shown, over)  # type: ignore[arg-type]  # a list of one kind of look

    # Then one more comes in the place of the one that has ended
    first = [n for n in range(10) if n != 5]
    assert shown.shown == [f"task {n}" for n in [*first, *(n for n in range(11) if n not in (3, 5))]]
    assert shown.dropped == ["task 3"]
    assert shown.more == [1, 1]


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
