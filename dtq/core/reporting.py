"""Reporting: the words of a worker about the tasks that it holds, and their effect.

Rules:

1. A report counts only if its lease is still the reporter's, and continues where the last report ended; any other
   report is refused and counted.
2. Statements about one lease count in the order of its tasks.
3. A lease that the worker does not name has never arrived, and is taken back; but not on the word of a message whose
   sender could not know of the lease yet.
4. A malformed message is refused before its first effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

from dtq.core import quarantining, workers
from dtq.core.changes import OutputPage, ResultPage
from dtq.core.leases import Lease, Worker, is_over
from dtq.core.queue_state import QueueState
from dtq.core.states import Move
from dtq.model import pages, printed
from dtq.model.messages import Cancellation, Exchange, Failed, Failure, Released, Succeeded
from dtq.model.printed import Printed
from dtq.model.states import Outcome, State
from dtq.records import dataclass, field

#: Recorded in the histories of tasks that had started and go back unblamed.
_RESULT_LOST: Final = Failure(message="its result was lost with its slot, in which a later task ended; it runs again")
_STOPPED: Final = Failure(message="it was stopped as its slot ended; it runs again")


@dataclass(slots=True)
class Answer:
    """The effects of an exchange.

    Attributes:
        cancel: tasks to stop.
        drop: leases that are not the worker's.
        pages: the accepted results, as they will be stored.
        overtaken: whether the worker has sent a newer message before: this one's statements about the present do not
            count.
        over: whether the worker has said that this call is over: nobody reads the answer.
    """

    cancel: list[Cancellation] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    pages: list[ResultPage] = field(default_factory=list)
    overtaken: bool = False
    over: bool = False


def _place(outcome: Succeeded | Failed) -> tuple[int, int]:
    return outcome.token, outcome.lo if isinstance(outcome, Succeeded) else outcome.index


def _from_the_end(released: Sequence[Released]) -> Iterable[Released]:
    """Returned tasks in the order in which they can be given back: leases that wait for others before those, and the
    parts of one lease from its end on, for each is the end of what is left.
    """
    if len(released) < 2:
        return released
    parts: dict[int, list[Released]] = {}
    for back in reversed(released):
        parts.setdefault(back.token, []).append(back)
    return [back for of_one in parts.values() for back in sorted(of_one, key=attrgetter("lo"), reverse=True)]


class Reporting:
    """Applies the reports of workers.

    Args:
        queue_state: the state of the queue.
    """

    def __init__(self, queue_state: QueueState) -> None:
        self._queue_state = queue_state
        #: Outcomes refused since this start.
        self.refused = 0

    def exchange(self, session: str, message: Exchange, now: float) -> Answer:
        """Apply a worker's report: outcomes, returned tasks, and the leases it holds.

        Raises:
            SessionUnknown: the worker is not known (any more): its leases are gone.
            BadMessage: a page of results is malformed.
        """
        worker = workers.of_session(self._queue_state, session)
        for success in message.succeeded:
            pages.check(success.results)  # all of them first: a refused message has no effect
        worker.renew(now + self._queue_state.rules.lease_s)
        answer = Answer(overtaken=message.call < worker.call, over=worker.is_over(message.call))
        if not answer.overtaken:
            worker.call, worker.beside = message.call, message.beside
            self._queue_state.slots += message.capacity - worker.capacity
            worker.capacity = message.capacity
        outcomes: Sequence[Succeeded | Failed] = message.succeeded
        released = message.released
        if message.failed:
            released = self._give_back_successors(worker, released, now)
            # Statements about one lease count in the order of its tasks, whatever their kind.
            outcomes = sorted((*message.succeeded, *message.failed), key=_place)
        for outcome in outcomes:
            if isinstance(outcome, Succeeded):
                self._succeeded(worker, outcome, answer, now)
            else:
                self._failed(worker, outcome, now)
        for back in _from_the_end(released):
            self._released(worker, back, now)
        if outcomes:
            worker.settled_at = now
        self._reconcile(worker, message, answer, now)
        return answer

    def _give_back_successors(self, worker: Worker, released: tuple[Released, ...], now: float) -> tuple[Released, ...]:
        """Take back the successors of failed tasks that did not start, before the failures are judged: the end of a
        task may be the end of its successors.

        Returns:
            The other tasks that are given back.
        """
        left = []
        for back in reversed(released):
            lease = worker.leases.get(back.token)
            if lease is not None and lease.batch.blocked and not back.started:
                self._released(worker, back, now)
            else:
                left.append(back)
        return tuple(reversed(left))

    def _reconcile(self, worker: Worker, message: Exchange, answer: Answer, now: float) -> None:
        for held in message.holding:
            lease = worker.leases.get(held.token)
            if lease is None:
                if not held.done:
                    answer.drop.append(held.token)
                continue
            if not lease.started and held.started >= lease.lo:
                lease.started = True
                lease.since = max(lease.since, worker.settled_at)
            answer.cancel += workers.cancellations(lease)
        unsaid = worker.leases.keys() - {held.token for held in message.holding}
        for lease in [worker.leases[token] for token in sorted(unsaid)]:
            if is_over(lease.call, message.call, message.beside) and lease.token in worker.leases:
                self._queue_state.give_back(lease, lease.lo, lease.hi, now)

    def _reported(self, worker: Worker, token: int, lo: int, hi: int) -> Lease | None:
        """The worker's lease, if a report for ``[lo, hi)`` of it counts; else None."""
        lease = worker.leases.get(token)
        if lease is not None and lease.lo <= lo < hi <= lease.hi:
            return lease
        self.refused += 1
        return None

    def _succeeded(self, worker: Worker, success: Succeeded, answer: Answer, now: float) -> None:
        queue_state = self._queue_state
        count = pages.count(success.results)
        lo, hi = success.lo, success.lo + count
        lease = self._reported(worker, success.token, lo, hi)
        if lease is None or lo != lease.lo or lease.batch.blocked:
            self.refused += lease is not None
            return
        batch = lease.batch
        queue_state.tally.move(batch.queue, State.RUNNING, Move.SUCCEEDED, count)
        batch.running -= count
        batch.succeeded += count
        worker.succeeded += count
        for index in batch.records_in(lo, hi):
            queue_state.drop(batch, index, history=False)
        batch.entry.observe(success.seconds, count)
        batch.entry.weigh_results(len(success.results), count)
        if worker.quarantine is not None:
            worker.quarantine.ran(batch.entry)
        page = ResultPage(
            batch=batch.number,
            lo=lo,
            hi=hi,
            data=success.results,
            worker=worker.name,
            ended_at=now,
            seconds=success.seconds,
            peak_memory=success.peak_memory or None,
        )
        queue_state.ledger.page(page)
        answer.pages.append(page)
        if success.printed:
            self._printed(lease, lo, hi, success.printed)
        queue_state.ledger.ended(batch, lo, hi, State.SUCCEEDED)
        if queue_state.dependencies.awaited:
            queue_state.dependencies.ended(batch, lo, hi, State.SUCCEEDED)
        lease.started = True  # its slot goes on with the next task
        lease.since = now
        lease.let_go()
        queue_state.shorten(lease, hi)
        queue_state.ledger.batch(batch)
        queue_state.finish_if_done(batch, now)

    def _failed(self, worker: Worker, failed: Failed, now: float) -> None:
        lease = self._reported(worker, failed.token, failed.index, failed.index + 1)
        if lease is None or failed.outcome is Outcome.SUCCEEDED or lease.batch.blocked:
            self.refused += lease is not None
            return
        if failed.index > lease.lo:
            self._queue_state.give_back(lease, lease.lo, failed.index, now, failed.index - lease.lo, _RESULT_LOST)
        # After an exception the slot goes on with the next task; any other outcome is the end of the slot.
        lease.started = failed.outcome is Outcome.FAILED
        lease.since = now
        if lease.started and not failed.failure.unable:
            lease.batch.entry.observe(failed.seconds, 1)
        quarantining.note(worker, lease.batch, failed, now)
        self._queue_state.shorten(lease, failed.index + 1)
        if failed.printed:
            self._printed(lease, failed.index, failed.index + 1, failed.printed)
        started_at = now - failed.seconds if 0 <= failed.seconds <= now else now
        self._queue_state.attempt_ended(lease, failed.index, failed.outcome, failed.failure, started_at, now)

    def _printed(self, lease: Lease, lo: int, hi: int, told: Sequence[Printed]) -> None:
        """Keep the output of tasks ``[lo, hi)`` of a lease that have ended."""
        number = lease.batch.number
        page = printed.pack(printed.within(told, lo, hi), lo)
        self._queue_state.ledger.output(OutputPage(batch=number, lo=lo, hi=hi, attempt=lease.attempt, data=page))

    def _released(self, worker: Worker, released: Released, now: float) -> None:
        lease = self._reported(worker, released.token, released.lo, released.hi)
        if lease is not None and released.hi == lease.hi:
            self._queue_state.give_back(lease, released.lo, released.hi, now, released.started, _STOPPED)
        else:
            self.refused += lease is not None
