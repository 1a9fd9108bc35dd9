"""Timing: everything that happens because a moment has come.

Rules:

1. `tick` does all that is due, and names the next deadline by the steady clock. The machine names that by the wall
   clock.
2. Tasks that wait for the wall clock (`core.wall_moments`) stand beside those that wait for the steady one. The clocks'
   distance is in the state of the queue.
3. Due runs are looked at when their moment comes: the tasks may have gone elsewhere since, and then nothing happens.
4. A pause of this process is nobody's fault: workers get the time to report once more.
"""

from __future__ import annotations

from typing import Final

from dtq.core import quarantining, start_by, workers
from dtq.core.batches import Batch
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.model.states import State

#: If a tick comes this many seconds after its deadline, this process was stopped meanwhile.
_PAUSE_S: Final = 0.1


class Timing:
    """Does what is due.

    Args:
        queue_state: the state of the queue.
    """

    def __init__(self, queue_state: QueueState) -> None:
        self._queue_state = queue_state
        self._next_expiry = 0.0
        #: Nothing expires before this moment.
        self._expiry_from = 0.0

    def put_off_expiry(self, until: float) -> None:
        """Let nothing expire before a moment."""
        self._next_expiry = self._expiry_from = until

    def tick(self, now: float) -> float:
        """Do everything that is due.

        A tick that comes long after its deadline means that this process was stopped. The workers could not report
        meanwhile, and their reports may be read after this tick, so each gets a whole lease time to report; but only
        once, or a coordinator that is always late would keep dead workers.

        Returns:
            The next deadline.
        """
        queue_state = self._queue_state
        if now - self.next_deadline() > _PAUSE_S:
            for worker in [w for w in queue_state.workers.values() if not w.spared]:
                worker.expires_at = now + self._queue_state.rules.lease_s
                worker.spared = True
        queue_state.clock = max(queue_state.clock, now)
        while (due := queue_state.waiting.pop_due(now)) is not None:
            self._due(*due, now)
        while (due := queue_state.on_wall.pop_due(now + queue_state.wall_ahead_s)) is not None:
            self._due(*due, now)
        start_by.tick(queue_state, now)
        quarantining.probe(queue_state, now)
        queue_state.lines.tick(now)
        for worker in [w for w in queue_state.workers.values() if w.expires_at <= now]:
            workers.lose(queue_state, worker.session, now)
        queue_state.holds.expire(now)
        if now >= self._next_expiry:
            queue_state.ledger.expired(
                now - self._queue_state.rules.keep_results_s, queue_state.dependencies.kept.spared()
            )
            self._next_expiry = now + min(3600.0, max(1.0, self._queue_state.rules.keep_results_s / 8))
        if now >= self._expiry_from and (expired := queue_state.expiries.pop_due(now)) is not None:
            queue_state.ledger.own_expired(expired, queue_state.dependencies.kept.over(expired))
        return self.next_deadline()

    def next_deadline(self) -> float:
        """The next deadline."""
        deadlines = [worker.expires_at for worker in self._queue_state.workers.values()]
        due_at = self._queue_state.waiting.next_at()
        if due_at is not None:
            deadlines.append(due_at)
        if (start_at := self._queue_state.start_moments.next_at()) is not None:
            deadlines.append(start_at)
        if (opens_at := self._queue_state.limits.next_at()) is not None:
            deadlines.append(opens_at)
        if self._queue_state.probe_at is not None:
            deadlines.append(self._queue_state.probe_at)
        expires_at = self._queue_state.expiries.next_at()
        if expires_at is not None:
            deadlines.append(max(self._expiry_from, expires_at))
        if (over_at := self._queue_state.holds.next_at()) is not None:
            deadlines.append(over_at)
        return min([*deadlines, self._next_expiry])

    def _due(self, due_at: float, number: int, lo: int, hi: int, now: float) -> None:
        queue_state = self._queue_state
        batch = queue_state.batches.get(number)
        if batch is None:
            return
        if lo < batch.next:
            task = batch.task(lo)
            if task is None or task.state is not State.SCHEDULED or task.due_at != due_at:
                return
            task.state = State.PENDING
            task.due_at = None
            queue_state.tally.move(batch.queue, State.SCHEDULED, Move.DUE)
            queue_state.ledger.task(task.row(number, lo))
            queue_state.push(batch, lo, hi)
        elif lo < batch.limit:
            self._batch_due(batch, lo, min(hi, batch.limit), now)

    def _batch_due(self, batch: Batch, lo: int, hi: int, now: float) -> None:
        """The time of fresh tasks of a batch has come, pieces of it; it is that of all of them."""
        queue_state = self._queue_state
        end = batch.listed(hi)
        queue_state.tally.move(batch.queue, State.SCHEDULED, Move.DUE, end - lo - len(batch.records_in(lo, end)))
        batch.due_at = None
        for index in batch.records_in(lo, hi):
            task = batch.task(index)
            if task is not None and task.state is State.SCHEDULED:
                task.state = queue_state.tally.move(batch.queue, State.SCHEDULED, Move.DUE) or task.state
                queue_state.ledger.task(task.row(batch.number, index))
        queue_state.ledger.batch(batch)
        queue_state.push_fresh(batch, lo, hi)
        queue_state.dependencies.look(batch, now)
