"""How many tasks of a queue wait at each priority, and how long the oldest one has waited: without a look at each.

A million tasks may wait as a million runs, so the looks are bounded. Runs are counted from the most urgent on; what is
left over when the looks are used up is counted as one.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

from dtq.core.batches import Batch
from dtq.core.heap import Run, RunHeap
from dtq.core.needs import Need
from dtq.core.queue_state import QueueState
from dtq.model.dashboard import Depth
from dtq.model.fields import MAX_DEPTH
from dtq.model.options import Options
from dtq.model.states import State

#: Most runs that are looked at for all queues together, and most batches to find the oldest tasks.
LOOKS: Final = 400
#: Most records of one batch that are looked at.
_RECORDS: Final = 20


class Depths:
    """Looks at the waiting tasks, with a bounded number of looks.

    Args:
        queue_state: the state of the queue.
        queues: the queues that will be asked for.
        looks: how many runs may be looked at, and how many batches.
    """

    def __init__(self, queue_state: QueueState, queues: Collection[str], looks: int = LOOKS) -> None:
        self._state = queue_state
        self._looks = looks
        needs = queue_state.lines.needs()
        self._heaps = {queue: self._heaps_of(queue, needs) for queue in queues}
        self._oldest = self._oldest_by_queue(queues, looks)

    def _heaps_of(self, queue: str, needs: list[Need]) -> list[RunHeap]:
        lines = [self._state.lines.get(name) for name in (queue, *(need.line(queue) for need in needs))]
        return [heap for line in lines if line is not None for heap in line.heaps()]

    def of(self, queue: str, ready: int) -> tuple[Depth, ...]:
        """The ready tasks of a queue by priority, the most urgent first.

        Args:
            queue: the queue.
            ready: how many they are.
        """
        counts: dict[int, int] = {}
        for heap in self._heaps.get(queue, ()):
            looks = min(self._looks, len(heap))
            self._looks -= looks
            for run in heap.first(looks):
                priority = self._priority(run)
                counts[priority] = counts.get(priority, 0) + self._state.waiting_in(run)
        found = [(priority, count) for priority, count in counts.items() if count]
        found.sort(reverse=self._state.rules.highest_first)
        left = ready - sum(count for _, count in found)
        if left > 0:  # the last of the counted priorities may have more, and less urgent ones any number
            priority, count = found.pop() if found else (self._top_priority(queue), 0)
            found.append((priority, count + left))
        return tuple(
            Depth(priority=priority, count=count, rest=left > 0 and place == len(found) - 1)
            for place, (priority, count) in enumerate(found)
        )

    @staticmethod
    def _priority(run: Run) -> int:
        return abs(-(-run.rank // (MAX_DEPTH + 1)))

    def _top_priority(self, queue: str) -> int:
        tops = [run for heap in self._heaps.get(queue, ()) if (run := heap.top()) is not None]
        return self._priority(min(tops)) if tops else Options().priority

    def oldest_at(self, queue: str) -> float | None:
        """When the oldest ready task of a queue was submitted; None if none waits."""
        batches = self._state.batches
        tops = [heap.top() for heap in self._heaps.get(queue, ())]
        first = [batches[top.batch].submitted_at for top in tops if top is not None and top.batch in batches]
        known = self._oldest.get(queue)
        return min([*first, *([] if known is None else [known])], default=None)

    def _oldest_by_queue(self, queues: Collection[str], looks: int) -> dict[str, float]:
        """By queue, the submission of the first batch with a ready task: batches stand in the order of acceptance."""
        oldest: dict[str, float] = {}
        tally = self._state.tally.queues()
        wanted = {queue for queue in queues if queue in tally and tally[queue][State.PENDING]}
        for batch in self._state.batches.values():
            looks -= 1
            if looks < 0 or not wanted:
                break
            if batch.queue in wanted and _has_ready(batch):
                wanted.discard(batch.queue)
                oldest[batch.queue] = batch.submitted_at
        return oldest


def oldest_ready_s(queue_state: QueueState, now: float, looks: int = 100) -> float:
    """The age of the oldest ready task of all queues, in seconds; 0 if none waits, or none is among the first looks.

    Args:
        queue_state: the state of the queue.
        now: the time.
        looks: how many lines and batches are looked at.
    """
    if not queue_state.tally[State.PENDING]:
        return 0.0
    first = next((b for b in islice(queue_state.batches.values(), looks) if _has_ready(b)), None)
    since = now if first is None else first.submitted_at
    for line in islice(queue_state.lines, looks):
        top = line.plain.top()
        batch = None if top is None else queue_state.batches.get(top.batch)
        if batch is not None:
            since = min(since, batch.submitted_at)
    return max(0.0, now - since)


def _has_ready(batch: Batch) -> bool:
    if batch.due_at is None and not batch.blocked and batch.next < batch.listed(batch.size):
        return True
    return batch.tasks is not None and any(
        task.state is State.PENDING for task in islice(batch.tasks.values(), _RECORDS)
    )
