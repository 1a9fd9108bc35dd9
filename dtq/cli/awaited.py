"""What the ids of a command name, and waits for their ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from dtq.cli.looks import BatchLook, Look, RunLook, Step, TaskLook
from dtq.cli.tasks import selected
from dtq.cli.waiting import Deadline, wait_for
from dtq.client.handle import TaskHandle
from dtq.client.sync import Client
from dtq.model.ids import TaskId, parse_named
from dtq.model.snapshots import Counts, TaskView
from dtq.model.states import State


def is_task(queue: Client, text: str) -> bool:
    """Whether an id names one task: by its index, or because its batch has no other."""
    named = parse_named(text)
    if named.lo is not None:
        return named.run is None
    view = queue.batch_status(named.batch)
    return view.complete and view.size == 1


def run_of(queue: Client, text: str) -> list[TaskHandle[Any]]:
    """The tasks of a run; empty if the id is no run's."""
    named = parse_named(text)
    run = named.run
    if run is None:
        return []
    queue.status(f"{named.batch}.{run[-1]}")  # all of it exists
    return [queue.get(f"{named.batch}.{index}") for index in run]


def count_run(queue: Client, text: str) -> Counts:
    """The tasks of a run by state."""
    ids = selected((text,))
    lo, hi = ids[0][1], ids[-1][1] + 1
    counts: Counter[State] = Counter()
    for view in queue.tasks(*(TaskId(batch, index) for batch, index in ids), limit=0):
        # Like tasks on either side of the run are in its views, too.
        counts[view.state] += max(0, min(view.index + view.count, hi) - max(view.index, lo))
    return Counts(**{state.value: counts[state] for state in State})


class _Named(NamedTuple):
    """What an id names.

    Attributes:
        look: looks at its progress.
        wait: waits for its end until a deadline, and returns the ends of its tasks.
    """

    look: Look
    wait: Callable[[Deadline], Counts]


def _named(queue: Client, text: str) -> _Named:
    """What an id names: a run of tasks, a batch, or a task."""
    run = run_of(queue, text)
    if run:
        return _Named(RunLook(f"tasks {text}", lambda: count_run(queue, text)), _waiting_for_run(queue, text, run))
    if is_task(queue, text):
        task = queue.get(text)

        def wait_for_task(deadline: Deadline) -> Counts:
            wait_for(task, deadline, f"task {text}")
            return Counts(**{task.state.value: 1})

        return _Named(TaskLook(task), wait_for_task)
    batch = queue.get_batch(text)

    def find(state: State) -> TaskView | None:
        found = queue.tasks(text, state=state, limit=1)
        return queue.status(TaskId(found[0].batch, found[0].index)) if found else None

    def wait_for_batch(deadline: Deadline) -> Counts:
        wait_for(batch, deadline, f"batch {text}")
        return batch.status().counts

    return _Named(BatchLook(batch, find, deaths=True), wait_for_batch)


def _waiting_for_run(queue: Client, text: str, run: list[TaskHandle[Any]]) -> Callable[[Deadline], Counts]:
    def wait_for_run(deadline: Deadline) -> Counts:
        for task in run:
            wait_for(task, deadline, f"task {task.id}")
        return count_run(queue, text)

    return wait_for_run


class Awaited:
    """What an id names; the coordinator is asked at the first use, so that many ids cost nothing before their turn.

    Args:
        queue: the client.
        text: the id.
    """

    def __init__(self, queue: Client, text: str) -> None:
        self.text = text
        self._queue = queue
        self._named: _Named | None = None
        #: The command waits in one thread and looks in another.
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Its noun and id, as far as that is known."""
        return self.text if self._named is None else self._named.look.name

    def __call__(self) -> Step:
        """Look at its progress."""
        return self._known().look()

    def wait(self, deadline: Deadline) -> Counts:
        """Wait for the ends of its tasks.

        Returns:
            The ends.

        Raises:
            WaitTimeout: it has not ended in time.
            UnknownId: it does not exist.
        """
        return self._known().wait(deadline)

    def _known(self) -> _Named:
        with self._lock:
            if self._named is None:
                self._named = _named(self._queue, self.text)
            return self._named
