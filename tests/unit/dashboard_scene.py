"""Snapshots for tests of the dashboard."""

from __future__ import annotations

from typing import Any

from dtq.dashboard.board import Board, Link
from dtq.model.dashboard import (
    Attention,
    Dashboard,
    Depth,
    History,
    LatestFailure,
    QueueLine,
    Rates,
    SlotLine,
    WorkerLine,
    WorkerState,
)
from dtq.model.options import Function, Options, Spec
from dtq.model.snapshots import Counts, DeadLetter, TaskView
from dtq.model.states import Outcome, State

NOW = 1_700_000_000.0
#: What a stranger may call anything: it drives a terminal, turns lines around, takes no room, is markup, or is wide.
EVIL = "\x1b[2J\x1b[31m[bold red]evil\u202e\u200b\r\n名前" + "x" * 300
SPEC = Spec(function=Function(name="mod:work"), options=Options())


def queue(name: str = "default", ready: int = 3, **parts: Any) -> QueueLine:
    parts = {"running": 1, "scheduled": 0, "blocked": 0, "oldest_s": 61.0, "workers": 1, **parts}
    return QueueLine(name=name, ready=ready, depths=(Depth(priority=5, count=ready),), **parts)


def worker(name: str = "lab-1", *, busy: int = 1, size: int = 2, **parts: Any) -> WorkerLine:
    slots = tuple(
        SlotLine(number=n, batch=17, index=n, function="mod:work", attempt=1, seconds=12.0, cpu=0.97, memory=64 << 20)
        if n <= busy
        else SlotLine(number=n)
        for n in range(1, size + 1)
    )
    parts = {"state": WorkerState.WORKING if busy else WorkerState.IDLE, "since": NOW - 100.0, **parts}
    return WorkerLine(session=f"s-{name}", name=name, host="lab", pid=7, size=size, busy=busy, slots=slots, **parts)


def failure(number: int = 1, **parts: Any) -> LatestFailure:
    parts = {"exception": "mod.Broken", "message": "no", "worker": "lab-1", "attempt": 1, "most": 4, **parts}
    return LatestFailure(
        at=NOW - number,
        batch=number,
        index=0,
        single=True,
        function="mod:work",
        queue="default",
        outcome=Outcome.FAILED,
        **parts,
    )


def letter(number: int, **parts: Any) -> DeadLetter:
    parts = {"exception": "ValueError", "message": "no", **parts}
    return DeadLetter(
        batch=number,
        index=0,
        single=True,
        function="mod:work",
        queue="default",
        attempts=4,
        outcome=Outcome.FAILED,
        submitted_at=NOW - 100,
        died_at=NOW - number,
        **parts,
    )


def task(number: int, count: int = 1, **parts: Any) -> TaskView:
    parts = {"state": State.RUNNING, "started_at": NOW - 5, "worker": "lab-1", **parts}
    return TaskView(batch=number, index=0, count=count, single=count == 1, spec=SPEC, submitted_at=NOW - 9, **parts)


def history(step_s: int = 1, **series: tuple[int, ...]) -> History:
    length = max([len(values) for values in series.values()], default=0)
    empty = (0,) * length
    whole = {
        "submitted": empty,
        "done": empty,
        "failed": empty,
        "backlog": empty,
        "lost": empty,
        "oldest_ms": empty,
        **series,
    }
    return History(step_s=step_s, end=NOW, **whole)


def seen(**parts: Any) -> Dashboard:
    whole: dict[str, Any] = {
        "now": NOW,
        "epoch": 1,
        "started_at": NOW - 134.0,
        "pid": 4242,
        "version": "0.1.0",
        "python": "3.11.7",
        "store": "/var/q.db",
        "counts": Counts(pending=3, running=1, dead=2),
        "rates": Rates(submitted=2.0, done=1.5, failed=0.25),
        "hour_s": 134.0,
        "hour_done": 200,
        "hour_failed": 34,
        "oldest_s": 61.0,
        "alive": 1,
        "slots": 2,
        "busy": 1,
        "history": (history(done=(1, 2, 3)), history(60)),
        "queues": (queue(),),
        "workers": (worker(),),
        "failures": (failure(),),
    }
    return Dashboard(**{**whole, **parts})


def evil() -> Dashboard:
    """A snapshot in which every text is a stranger's."""
    said = tuple(Attention(kind="trouble", text=EVIL, remedy=EVIL) for _ in range(9))
    slots = tuple(SlotLine(number=n, batch=1, index=n, function=EVIL, seconds=1.0) for n in range(1, 9))
    bad = WorkerLine(
        session="s", name=EVIL, host=EVIL, pid=1, state=WorkerState.IN_TROUBLE, size=8, busy=8, trouble=EVIL,
        queues=(EVIL, EVIL), slots=slots, version=EVIL, python=EVIL,
    )  # fmt: skip
    return seen(
        version=EVIL,
        attention=said,
        queues=tuple(queue(EVIL) for _ in range(40)),
        workers=(bad,) * 20,
        failures=tuple(failure(n, exception=EVIL, message=EVIL, worker=EVIL) for n in range(10)),
        more_queues=60,
        more_workers=180,
    )


def board(snapshot: Dashboard | None = None, **parts: Any) -> Board:
    snapshot = seen() if snapshot is None else snapshot
    return Board(link=Link(address="lab:3870"), seen=snapshot, history=snapshot.history, **parts)
