"""The page of one task: its facts, its attempts, and of the last one the traceback and the output. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dtq.dashboard import wording
from dtq.dashboard.board import Board
from dtq.dashboard.lines import EMPTY, Line, Look, Span, foreign, line
from dtq.dashboard.tables import Column, table
from dtq.model.snapshots import Attempt, TaskView
from dtq.model.text import cells, printable
from dtq.wording import counted, duration

#: Most lines of a traceback or an output that are shown: the last ones.
_LINES = 400
_ATTEMPTS = (
    Column("ATTEMPT", right=True, least=3),
    Column("OUTCOME", least=7),
    Column("AFTER", right=True, least=5),
    Column("MEMORY", right=True, least=5, rank=2),
    Column("WORKER", least=8, rank=1),
    Column("WHY", least=16, wide=True),
)


def body(board: Board, now: float, columns: int, height: int) -> list[Line]:
    """The page of the open task, scrolled."""
    if board.task is None:
        return [EMPTY, line(Span(" asking ...", Look.DIM))]
    found = lines(board.task, now, columns)
    first = max(0, min(board.scroll, len(found) - height))
    return found[first : first + height]


def lines(task: TaskView, now: float, columns: int) -> list[Line]:
    """The whole page of a task."""
    found = [_fact(name, value, columns) for name, value in _facts(task, now) if value.text]
    if task.history:
        rows = [_attempt(attempt) for attempt in task.history]
        found += [EMPTY, *table(_ATTEMPTS, rows, columns)]
        last = task.history[-1]
        found += _words(f"traceback of attempt {last.number}", last.failure.traceback, columns)
        found += _words(f"attempt {last.number} printed at last", last.failure.output, columns)
    return found


def _fact(name: str, value: Span, columns: int) -> Line:
    return line(Span(f" {name:<10} ", Look.DIM), value)


def _facts(task: TaskView, now: float) -> Iterator[tuple[str, Span]]:
    options = task.spec.options
    yield "task", Span(str(task.id), Look.STRONG)
    yield "state", wording.state(task.state, "running, being stopped" if task.cancelling else "")
    yield "reason", Span(foreign(task.reason))
    yield "function", Span(foreign(task.spec.function.name))
    limit = "" if options.timeout_s is None else f", at most {duration(options.timeout_s)} an attempt"
    retries = counted(options.max_retries, "retry", "retries")
    yield "terms", Span(f"priority {options.priority}, queue {foreign(options.queue)}, {retries}{limit}")
    yield "label", Span(foreign(options.label))
    yield "key", Span(foreign(task.key or ""))
    yield "attempt", Span(str(task.attempt) if task.attempt else "")
    yield "worker", Span(foreign(task.worker))
    yield "progress", Span(wording.progress(task.progress))
    for name, moment in (("submitted", task.submitted_at), ("started", task.started_at), ("ended", task.ended_at)):
        yield name, Span("" if moment is None else f"{wording.age(max(0.0, now - moment))} ago")
    due = task.due_at
    yield "due", Span("" if due is None else f"in {wording.age(max(0.0, due - now))}")
    yield "shell", Span(f"dtq status {task.id}", Look.DIM)


def _attempt(attempt: Attempt) -> tuple[Span | Line, ...]:
    failure = attempt.failure
    name = failure.exception or attempt.outcome.value
    return (
        Span(str(attempt.number)),
        Span(attempt.outcome.value),
        Span(wording.age(max(0.0, attempt.ended_at - attempt.started_at))),
        Span(wording.size(failure.peak_memory)),
        Span(foreign(attempt.worker), Look.DIM),
        line(foreign(name), Span(f": {foreign(failure.message)}" if failure.message else "", Look.DIM)),
    )


def _words(title: str, text: str, columns: int) -> Iterator[Line]:
    """A text of several lines, escaped and folded to the width."""
    if not text.strip():
        return
    yield EMPTY
    yield line(Span(f" {title}", Look.STRONG))
    for each in printable(text.rstrip()).replace("\t", "    ").split("\n")[-_LINES:]:
        for part in _folded(each, columns - 2):
            yield line(f"  {part}")


def _folded(text: str, columns: int) -> Iterator[str]:
    while cells(text) > columns:
        at = columns if text.isascii() else max(1, columns // 2)
        yield text[:at]
        text = text[at:]
    yield text
