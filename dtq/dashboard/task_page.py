"""The page of one task: its facts, its attempts, and of the last one the traceback and the output. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dtq.dashboard import wording
from dtq.dashboard.board import Board, Opened
from dtq.dashboard.lines import EMPTY, Line, Look, Span, foreign, line
from dtq.dashboard.tables import Column, table
from dtq.model.snapshots import Attempt
from dtq.model.text import cells, printable
from dtq.wording import counted, duration

#: Most lines of a traceback or an output that are shown: the last ones.
_LINES: Final = 400
#: Most lines of one fact.
_FOLDED: Final = 6
_ATTEMPTS: Final = (
    Column("ATTEMPT", right=True, least=3),
    Column("OUTCOME", least=7),
    Column("AFTER", right=True, least=5),
    Column("MEMORY", right=True, least=5, rank=2),
    Column("WORKER", least=8, rank=1),
    Column("WHY", least=16, wide=True),
)


def body(board: Board, now: float, columns: int, height: int) -> list[Line]:
    """The page of the open task, scrolled."""
    if board.opened is None:
        return [EMPTY, line(Span(" asking ...", Look.DIM))]
    found = lines(board.opened, now, columns)
    first = max(0, min(board.scroll, len(found) - height))
    return found[first : first + height]


def lines(opened: Opened, now: float, columns: int) -> list[Line]:
    """The whole page of a task."""
    task = opened.task
    found = [each for name, value in _facts(opened, now) if value.text for each in _fact(name, value, columns)]
    found += _explained(opened, columns)
    if task.history:
        rows = [_attempt(attempt) for attempt in task.history]
        found += [EMPTY, *table(_ATTEMPTS, rows, columns)]
        last = task.history[-1]
        found += _words(f"traceback of attempt {last.number}", last.failure.traceback, columns)
    found += _words("printed by the latest attempt", opened.printed, columns)
    return found


def _fact(name: str, value: Span, columns: int) -> Iterator[Line]:
    """A name and its value, in several lines if it is long."""
    parts = list(_folded(value.text, max(10, columns - 12)))
    for nth, part in enumerate(parts[:_FOLDED]):
        yield line(Span(f" {name if not nth else '':<10} ", Look.DIM), Span(part, value.look))


def _explained(opened: Opened, columns: int) -> Iterator[Line]:
    """Why it is in its state, when it goes on, and what helps."""
    told = opened.explained
    if told is None:
        return
    for nth, reason in enumerate(told.reasons):
        yield from _fact("" if nth else "why", Span(foreign(reason)), columns)
    if told.outlook:
        yield from _fact("when", Span(foreign(told.outlook)), columns)
    for nth, remedy in enumerate(told.remedies):
        text = f"{foreign(remedy.command)}   {foreign(remedy.purpose)}"
        yield from _fact("" if nth else "try", Span(text, Look.DIM), columns)


def _facts(opened: Opened, now: float) -> Iterator[tuple[str, Span]]:
    task = opened.task
    options = task.spec.options
    yield "task", Span(str(task.id), Look.STRONG)
    yield "state", wording.state(task.state, "running, being stopped" if task.cancelling else "")
    if opened.explained is None:
        yield "reason", Span(foreign(task.reason))
    yield "function", Span(foreign(task.spec.function.name))
    yield "arguments", Span(foreign(opened.arguments))
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
    if opened.explained is None:
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
