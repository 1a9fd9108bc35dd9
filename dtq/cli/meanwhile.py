"""Progress of awaited tasks on standard error: a bar, failed attempts, and the reasons for waiting.

A progress bar where standard error is a terminal; there and elsewhere a line for each event that concerns the waiting
user: a failed attempt and the time of the next one, and the reason why nothing runs. Every text comes from the
coordinator.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from dtq.cli.failures import complain
from dtq.cli.render_json import counts_text, failure_text
from dtq.client.batch_handle import BatchHandle
from dtq.client.handle import TaskHandle
from dtq.errors import DtqError
from dtq.model.snapshots import Attempt, Counts, TaskView
from dtq.model.states import State
from dtq.model.text import printable_line
from dtq.wording import duration

#: Pause between two looks of a progress bar, in seconds.
_LOOK_S: Final = 0.25
#: Without a bar: delay of the first look, and the longest pause, in seconds.
_FIRST_S: Final = 1.5
_LAST_S: Final = 2.0
#: Failed attempts of a batch that are reported.
_TOLD: Final = 3

#: Writes a sentence.
Say = Callable[[str], None]


class Step(NamedTuple):
    """The progress at one look.

    Attributes:
        ended: number of ended tasks.
        total: number of all tasks; 0 if unknown yet.
        text: further facts about them.
        news: sentences that were not written before.
    """

    ended: int
    total: int
    text: str
    news: tuple[str, ...] = ()


class TaskLook:
    """Looks at a task.

    Args:
        handle: the task.
    """

    def __init__(self, handle: TaskHandle[Any]) -> None:
        self._handle = handle
        self._told = 0
        self._reason = ""

    def __call__(self) -> Step:
        """Its progress."""
        view = self._handle.status()
        news = [attempt_text(view, attempt) for attempt in view.history if attempt.number > self._told]
        self._told = max((attempt.number for attempt in view.history), default=self._told)
        reason = re.sub(r"\d+", "", view.reason)  # a change in the number of tasks ahead is no news
        if view.state in (State.PENDING, State.BLOCKED) and reason != self._reason:
            self._reason = reason
            news.append(f"task {view.id} waits: {view.reason}.")
        ended = int(view.state.final)
        return Step(ended, 1, "" if ended else _standing(view), () if ended else tuple(news))


class BatchLook:
    """Looks at a batch.

    Args:
        handle: the batch.
        waiting: returns a task of it in a state, if there is one.
    """

    def __init__(self, handle: BatchHandle[Any], waiting: Callable[[State], TaskView | None]) -> None:
        self._handle = handle
        self._waiting = waiting
        self._told: set[str] = set()
        self._stuck = False

    def __call__(self) -> Step:
        """Its progress."""
        counts = self._handle.status().counts
        news = tuple(self._news(counts)) if counts.unfinished else ()
        return Step(counts.total - counts.unfinished, counts.total, _of_batch(counts), news)

    def _news(self, counts: Counts) -> Iterator[str]:
        if counts.scheduled and len(self._told) < _TOLD:
            view = self._waiting(State.SCHEDULED)
            if view is not None and view.history:
                sentence = attempt_text(view, view.history[-1])
                if sentence not in self._told:
                    self._told.add(sentence)
                    yield sentence
        if counts.pending == counts.unfinished and not self._stuck:
            view = self._waiting(State.PENDING)
            if view is not None and view.reason.startswith("no "):
                self._stuck = True
                yield f"batch {view.batch} waits: {view.reason}."


def attempt_text(view: TaskView, attempt: Attempt) -> str:
    """A sentence about a failed attempt: its reason, and the time of the next one."""
    again = ""
    if view.state is State.SCHEDULED and view.due_at is not None:
        again = f"; again in {duration(max(0.0, view.due_at - attempt.ended_at))}"
    elif not view.state.final:
        again = "; again at once"
    why = failure_text(attempt.failure) or attempt.outcome.value
    return f"attempt {attempt.number} of task {view.id} {attempt.outcome.value.replace('_', ' ')}: {why}{again}"


def _standing(view: TaskView) -> str:
    said = [view.state.value] if view.attempt < 2 else [f"{view.state.value}, attempt {view.attempt}"]
    if view.progress is not None:
        done, total = view.progress
        said.append(f"{done / total:.0%}" if total > 0 else f"{done:g}")
    return ", ".join([*said, *filter(None, [view.reason])])


def _of_batch(counts: Counts) -> str:
    left = Counts(blocked=counts.blocked, scheduled=counts.scheduled, pending=counts.pending, running=counts.running)
    parts = [counts_text(left)] if counts.unfinished else []
    parts += [f"{counts.dead:,} failed"] if counts.dead else []
    parts += [f"{counts.cancelled:,} cancelled"] if counts.cancelled else []
    return ", ".join(parts)


@contextmanager
def telling(look: Callable[[], Step], *, quiet: bool) -> Iterator[None]:
    """Report progress while the block runs.

    Args:
        look: takes a look.
        quiet: whether to write nothing.
    """
    if quiet:
        yield
        return
    over = threading.Event()
    with _bar(sys.stderr.isatty()) as (pauses, show):

        def watch() -> None:
            for pause in pauses:
                if over.wait(pause):
                    return
                with suppress(DtqError):  # the waiting code gets the error, and a lost coordinator may come back
                    step = look()
                    if not over.is_set():
                        show(step)

        thread = threading.Thread(target=watch, name="dtq-meanwhile", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()


def _seldom() -> Iterator[float]:
    pause = _FIRST_S
    while True:
        yield pause
        pause = min(_LAST_S, pause * 1.5)


def _often() -> Iterator[float]:
    yield _LOOK_S / 5
    while True:
        yield _LOOK_S


@contextmanager
def _bar(shown: bool) -> Iterator[tuple[Iterator[float], Callable[[Step], None]]]:
    """The time of the next look, and the display of the present one."""
    if not shown:
        yield _seldom(), lambda step: _say_all(step.news, complain)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(
        BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        bar = progress.add_task("", total=None)

        def show(step: Step) -> None:
            _say_all(
                step.news,
                lambda line: progress.console.print(
                    printable_line(line), markup=False, highlight=False, soft_wrap=True
                ),
            )
            progress.update(bar, completed=step.ended, total=step.total or None, description=step.text)

        yield _often(), show


def _say_all(news: tuple[str, ...], say: Say) -> None:
    for sentence in news:
        say(sentence)
