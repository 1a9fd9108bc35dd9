"""Looks at awaited tasks: how many have ended, and what the waiting user should know.

A look asks the coordinator and describes a step; `meanwhile` shows it. Every text comes from the coordinator.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from dtq.cli.render_json import counts_text, failure_text
from dtq.client.batch_handle import BatchHandle
from dtq.client.client_core import ClientCore
from dtq.client.handle import TaskHandle
from dtq.model.snapshots import Attempt, BatchView, Counts, Selection, TaskView
from dtq.model.states import State
from dtq.wording import counted, duration, rate

#: Failed attempts of a batch that are reported, and dead letters of it.
_TOLD: Final = 3
#: Pause between two searches for a task of a batch to report on, in seconds: a search costs more than a look.
_SEARCH_S: Final = 2.0
#: Searches for failed tasks of one batch, at most.
_SEARCHES: Final = 30
#: Reasons of a task that is in line: it waits for its turn, and for nothing that a user could change.
_IN_LINE: Final = re.compile(r"\d|more than \d|next in line|it needs ")


class Step(NamedTuple):
    """The progress at one look.

    Attributes:
        ended: number of ended tasks.
        total: number of all tasks; 0 if unknown yet.
        text: further facts about them.
        news: sentences that were not written before.
        begun: share of an unfinished task that is done, as the task itself reports it.
    """

    ended: int
    total: int
    text: str
    news: tuple[str, ...] = ()
    begun: float = 0.0

    @property
    def over(self) -> bool:
        """Whether all have ended."""
        return 0 < self.total <= self.ended

    @property
    def line(self) -> str:
        """The progress as a text."""
        counts = "" if self.total == 1 else f"{self.ended:,} of {counted(self.total, 'task')} ended"
        return "; ".join(filter(None, [counts, self.text]))


class TaskLook:
    """Looks at a task.

    Args:
        handle: the task.
    """

    def __init__(self, handle: TaskHandle[Any]) -> None:
        self._handle = handle
        self._told = 0
        self._reason = ""
        self.name = f"task {handle.id}"

    def __call__(self) -> Step:
        """Its progress."""
        view = self._handle.status()
        news = [attempt_text(view, attempt) for attempt in view.history if attempt.number > self._told]
        self._told = max((attempt.number for attempt in view.history), default=self._told)
        reason = re.sub(r"\d+", "", view.reason)  # a change in the number of tasks ahead is no news
        if view.state in (State.PENDING, State.BLOCKED) and reason != self._reason:
            self._reason = reason
            news.append(f"task {view.id} waits: {view.reason}.")
        if view.state.final:
            return Step(1, 1, "")
        done, total = view.progress or (0.0, 0.0)
        return Step(0, 1, _standing(view), tuple(news), min(1.0, max(0.0, done / total)) if total > 0 else 0.0)


class BatchLook:
    """Looks at a batch.

    Args:
        handle: the batch.
        find: returns a task of it in a state, with its history, if there is one.
        deaths: whether to report dead letters, too.
        clock: the time, in seconds.
    """

    def __init__(
        self,
        handle: BatchHandle[Any],
        find: Callable[[State], TaskView | None],
        *,
        deaths: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._find = find
        self._deaths = deaths
        self._clock = clock
        self._told: dict[State, set[str]] = {State.SCHEDULED: set(), State.DEAD: set()}
        self._reason = ""
        self._searches = 0
        self._next_search = 0.0
        self.name = f"batch {handle.id}"

    def __call__(self) -> Step:
        """Its progress."""
        view = self._handle.status()
        counts = view.counts
        news = tuple(self._news(counts)) if counts.unfinished else ()
        return Step(counts.total - counts.unfinished, counts.total, _of_batch(view), news)

    def _news(self, counts: Counts) -> Iterator[str]:
        now = self._clock()
        if now < self._next_search:
            return
        self._next_search = now + _SEARCH_S
        if counts.scheduled:
            yield from self._about(State.SCHEDULED)
        if counts.dead and self._deaths:
            yield from self._about(State.DEAD)
        if counts.pending and not counts.running:
            yield from self._held_back()

    def _about(self, state: State) -> Iterator[str]:
        told = self._told[state]
        if len(told) >= _TOLD or self._searches >= _SEARCHES:
            return
        self._searches += 1
        view = self._find(state)
        if view is not None and view.history:
            sentence = attempt_text(view, view.history[-1])
            if sentence not in told:
                told.add(sentence)
                yield sentence

    def _held_back(self) -> Iterator[str]:
        view = self._find(State.PENDING)
        reason = "" if view is None else re.sub(r"\d+", "", view.reason)
        if view is not None and reason != self._reason and not _IN_LINE.match(view.reason):
            self._reason = reason
            yield f"batch {view.batch} waits: {view.reason}."


class RunLook:
    """Looks at some tasks of a batch.

    Args:
        name: their noun and id.
        count: counts them by state.
    """

    def __init__(self, name: str, count: Callable[[], Counts]) -> None:
        self.name = name
        self._count = count

    def __call__(self) -> Step:
        """Their progress."""
        counts = self._count()
        return Step(counts.total - counts.unfinished, counts.total, _standing_of(counts))


def finder(queue: ClientCore, batch: int) -> Callable[[State], TaskView | None]:
    """Finds a task of a batch in a state, with its history."""

    def find(state: State) -> TaskView | None:
        selection = Selection(ids=((batch, -1),), state=state, limit=1)
        found = queue.call(lambda service: service.tasks(selection))
        return queue.task(found[0].batch, found[0].index) if found else None

    return find


class Look(Protocol):
    """Looks at awaited tasks."""

    @property
    def name(self) -> str:
        """Their noun and id."""
        ...

    def __call__(self) -> Step:
        """Their progress."""
        ...


def attempt_text(view: TaskView, attempt: Attempt) -> str:
    """A sentence about a failed attempt: its reason, and the time of the next one."""
    again = ""
    if view.state is State.SCHEDULED and view.due_at is not None:
        again = f"; again in {duration(max(0.0, view.due_at - attempt.ended_at))}"
    elif view.state is State.DEAD:
        again = "; it is a dead letter now"
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


def _of_batch(view: BatchView) -> str:
    pace = "" if view.rate is None else f"{rate(view.rate)}, {duration(view.left_s or 0.0)} left"
    return "; ".join(filter(None, [pace if view.counts.unfinished else "", _standing_of(view.counts)]))


def _standing_of(counts: Counts) -> str:
    left = Counts(blocked=counts.blocked, scheduled=counts.scheduled, pending=counts.pending, running=counts.running)
    parts = [counts_text(left)] if counts.unfinished else []
    parts += [f"{counts.dead:,} failed"] if counts.dead else []
    parts += [f"{counts.cancelled:,} cancelled"] if counts.cancelled else []
    return ", ".join(parts)
