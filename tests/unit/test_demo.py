"""The demo's load and report: what the seed determines, and how measurements are shown."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dtq.dashboard.lines import plain
from dtq.demo.course import Outcome, Work
from dtq.demo.frame import Frames
from dtq.demo.load import RETRIES, Load, Round, mean_wait, reduction
from dtq.demo.report import lines
from dtq.demo.tasks import gets_through
from dtq.model.dashboard import Dashboard, Depth, LatestFailure, QueueLine, Rates, SlotLine, WorkerLine, WorkerState
from dtq.model.snapshots import Counts
from dtq.model.states import Outcome as Ending
from tests.unit.cli_scene import LETTER, STATS

LOAD = Load(tasks=1_000, failure_rate=0.2, seed=1)
FIFO = Round(seconds=10.0, held=1_000, answered=999, retries=250, dead=1, waits={1: [4.0, 6.0], 10: [5.0]})
RANKED = replace(FIFO, seconds=12.5, waits={1: [1.0, 1.0], 10: [9.0]})


def test_load_is_the_same_for_one_seed_and_another_for_the_next() -> None:
    assert LOAD.priorities() == Load(tasks=1_000, failure_rate=0.5, seed=1).priorities()
    assert LOAD.priorities() != replace(LOAD, seed=2).priorities()
    # and each priority is equally often in it, in no order
    assert {LOAD.priorities().count(priority) for priority in range(1, 11)} == {100}
    assert len(set(LOAD.priorities()[:400])) > 5


def test_attempts_are_those_that_the_seed_lets_through() -> None:
    for number in range(200):
        attempts, through = LOAD.attempts(number)
        tries = [gets_through(number, attempt, 1, 0.2) for attempt in range(1, attempts + 1)]
        assert tries[:-1] == [False] * (attempts - 1)
        assert tries[-1] is through
        assert through or attempts == RETRIES + 1
    assert replace(LOAD, failure_rate=0.0).attempts(7) == (1, True)
    assert replace(LOAD, failure_rate=1.0).attempts(7) == (RETRIES + 1, False)


def test_reduction_is_that_of_the_mean_wait() -> None:
    assert mean_wait(FIFO, [1]) == 5.0
    assert reduction(FIFO, RANKED, [1]) == pytest.approx(0.8)
    assert reduction(FIFO, RANKED, [10]) == pytest.approx(-0.8)
    assert reduction(replace(FIFO, waits={}), RANKED) == 0.0


def test_report_shows_what_was_measured_and_what_does_not_hold() -> None:
    letter = replace(LETTER, exception="ConnectionResetError", message="lost\x1b[2J \u202e" + "x" * 500)
    outcome = Outcome(
        load=LOAD,
        slots=8,
        work=Work(files=11, size=2_500_000, serial_s=4.0, cluster_s=1.0),
        fifo=FIFO,
        ranked=RANKED,
        letters=(letter,),
        stats=STATS,
        checks=(("no task is lost", True), ("retries as many as that takes", False)),
    )
    text = "\n".join(lines(outcome))
    assert "11 files (2.5 MB) packed: serially in 4 s\nby 8 slots in 1 s, 4.0 times as fast" in text
    assert "1,000 requests, 20% of attempts fail, seed 1" in text
    assert re.search(r"^throughput +100/s +80/s$", text, re.MULTILINE)
    assert re.search(r"^P1 +5 s +1 s +-80%  ###$", text, re.MULTILINE)
    assert "urgent tasks (P1) wait 1 s instead of 5 s: 80% less than in the order of submission" in text
    assert "ok     no task is lost\nNOT OK retries" in text
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= 110


def test_frame_shows_workers_depths_and_failures_and_nothing_that_a_terminal_obeys() -> None:
    slot = SlotLine(number=1, batch=7, index=3, function="dtq.demo.tasks:request", attempt=1, seconds=0.25)
    worker = WorkerLine(
        name="w\x1b[31m", host="lab", pid=1, state=WorkerState.WORKING, size=2, busy=1, done=12, failed=3, slots=(slot,)
    )
    queue = QueueLine(
        name="q", ready=30, running=1, scheduled=0, blocked=0, oldest_s=1.0, workers=1,
        depths=(Depth(priority=1, count=10), Depth(priority=9, count=20)),
    )  # fmt: skip
    failure = LatestFailure(
        at=1.0, batch=7, index=2, single=False, function="f", queue="q", attempt=4, most=4, outcome=Ending.FAILED,
        message="lost\x1b]0;title\x07", dead=True,
    )  # fmt: skip
    seen = Dashboard(
        now=2.0, epoch=1, started_at=1.0, pid=1, version="1", python="3", store="s", hour_s=1.0, hour_done=1,
        hour_failed=1, counts=Counts(pending=30, running=1, succeeded=12, dead=1), rates=Rates(done=40.0, failed=2.0),
        queues=(queue,), workers=(worker,), failures=(failure,),
    )  # fmt: skip
    frames = Frames(unicode=False)
    for columns, height in ((80, 21), (200, 47)):
        shown = [plain(one) for one in frames.draw("requests", 13, 44, seen, columns, height)]
        assert len(shown) <= height
        assert max(map(len, shown)) <= columns
        text = "\n".join(shown)
        assert shown[0] == " requests  ########......................  13/44"
        assert shown[1] == " waiting:  P1 10  P2 0  P3 0  P4 0  P5 0  P6 0  P7 0  P8 0  P9 20  P10 0"
        assert "7.2" in text
        assert "lost" in text
        assert all(one.isprintable() for one in shown)
