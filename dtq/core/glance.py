"""One look at all queues and workers, for the first screen: cheap with ten thousand queues, too.

What `core.views` tells in full is told here as numbers, each found out once: which leases of each worker run, and the
counts of the queues with held tasks as what people see them as (`core.held`).
"""

from __future__ import annotations

from collections import Counter
from heapq import nsmallest
from typing import NamedTuple

from dtq.core.held import held_state, running
from dtq.core.leases import Lease
from dtq.core.queue_state import QueueState
from dtq.core.queues import steered
from dtq.model.snapshots import Counts
from dtq.model.states import State
from dtq.records import replace


class QueueNumbers(NamedTuple):
    """The unfinished tasks of a queue, and how many workers serve it.

    Attributes:
        waiting: ready tasks that are with no worker.
        ready: those, and the ones that a worker holds and has not started.
    """

    name: str
    waiting: int
    ready: int
    running: int
    scheduled: int
    blocked: int
    workers: int


class Glance:
    """A look.

    Args:
        queue_state: the state of the queue.
    """

    def __init__(self, queue_state: QueueState) -> None:
        self._state = queue_state
        #: By worker's session, the leases whose first task runs, and the number of held tasks.
        self.running: dict[str, list[Lease]] = {}
        self.held: dict[str, int] = {}
        #: The held tasks by queue, and the state as which they are shown.
        self._shown_as: Counter[tuple[str, State]] = Counter()
        for session, worker in queue_state.workers.items():
            begun = running(worker)
            self.running[session] = [worker.leases[token] for token in begun]
            self.held[session] = 0
            for lease in worker.leases.values():
                count = lease.hi - lease.lo - (lease.token in begun)
                if count:
                    self.held[session] += count
                    self._shown_as[lease.batch.queue, held_state(lease.batch)] += count
        self._everywhere = sum(not worker.queues for worker in queue_state.workers.values())
        self._serving = Counter(name for worker in queue_state.workers.values() for name in set(worker.queues))

    def counts(self) -> Counts:
        """The counts of all tasks."""
        every = self._state.tally.counts()
        as_blocked = sum(count for (_, state), count in self._shown_as.items() if state is State.BLOCKED)
        held = self._shown_as.total()
        return replace(
            every,
            running=every.running - held,
            pending=every.pending + held - as_blocked,
            blocked=every.blocked + as_blocked,
        )

    def names(self) -> set[str]:
        """The queues with unfinished tasks, with workers of their own, or with settings."""
        return self._state.tally.queues().keys() | self._serving.keys() | steered(self._state)

    def first(self, most: int) -> list[QueueNumbers]:
        """The queues with the most ready tasks, at most so many."""
        counts = self._state.tally.queues()

        def place(name: str) -> tuple[int, int, str]:
            known = counts.get(name)
            if known is None:
                return 0, 0, name
            return -known[State.PENDING], -sum(known.values()), name

        return [self.numbers(name) for name in nsmallest(most, self.names(), key=place)]

    def numbers(self, name: str) -> QueueNumbers:
        """The numbers of a queue."""
        counts = self._state.tally.queues().get(name, {})
        waiting = counts.get(State.PENDING, 0)
        as_pending, as_blocked = self._shown_as[name, State.PENDING], self._shown_as[name, State.BLOCKED]
        return QueueNumbers(
            name=name,
            waiting=waiting,
            ready=waiting + as_pending,
            running=counts.get(State.RUNNING, 0) - as_pending - as_blocked,
            scheduled=counts.get(State.SCHEDULED, 0),
            blocked=counts.get(State.BLOCKED, 0) + as_blocked,
            workers=self._everywhere + self._serving[name],
        )

    def unserved(self) -> dict[str, int]:
        """The queues with waiting tasks that no worker serves and that are not paused, and how many wait in each."""
        if self._everywhere:
            return {}
        paused = self._state.lines.paused
        return {
            name: counts[State.PENDING]
            for name, counts in self._state.tally.queues().items()
            if counts[State.PENDING] and name not in self._serving and name not in paused
        }

    def paused(self) -> dict[str, int]:
        """The paused queues with waiting tasks, and how many wait in each."""
        counts = self._state.tally.queues()
        found = {name: counts[name][State.PENDING] for name in sorted(self._state.lines.paused) if name in counts}
        return {name: count for name, count in found.items() if count}
