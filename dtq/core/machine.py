"""The machine: the state machine that makes every decision about the queue.

Rules:

1. Commands come in with the time as a value; nothing here reads a clock, waits, or does I/O.
2. The state is the rows of `core.changes`, plus parts that only a running coordinator needs (heaps, workers' deadlines,
   estimates), which `core.restoring` builds anew. `drain` hands over the rows that changed; its caller makes them
   durable.
3. A report counts only if its lease is still the reporter's, and continues where the last report ended; any other
   report is refused and counted.
4. If a worker falls silent, or says that a lease never arrived, its tasks are taken back. Only tasks that it had
   started are blamed. A message is not used to judge facts that its sender could not know of.

Operators' commands are in `core.operators`, which works on the same queue_state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dtq.core import chains, placing, quarantining, start_by, wall_moments
from dtq.core.batches import Batch, Frontier, SpecEntry, shared_flow
from dtq.core.changes import ArgumentPage, BatchFlow, Change, OutputPage, ResultPage, Totals
from dtq.core.dependencies import After
from dtq.core.elements import WAITING
from dtq.core.heap import Run, RunHeap
from dtq.core.leases import CHUNK_S, MAX_SMALL, MAX_TURN, Lease, Worker, chunk, is_over
from dtq.core.ledger import EndedRange
from dtq.core.lines import Group
from dtq.core.queue_state import QueueState, Rules
from dtq.core.recurrences import Calendar, NoCalendar
from dtq.core.schedules import Schedules
from dtq.core.states import Move
from dtq.errors import (
    BadMessage,
    EdgesFull,
    KeyConflict,
    NotPermitted,
    QueueDraining,
    SessionUnknown,
    TooLarge,
    UnknownId,
    WorkerBroken,
)
from dtq.model import pages, printed
from dtq.model.fields import MAX_NAME
from dtq.model.messages import Cancellation, Exchange, Failed, Failure, Released, Submission, Succeeded
from dtq.model.options import Spec, check_delay, same_call
from dtq.model.printed import Printed
from dtq.model.resources import Offers
from dtq.model.states import Outcome, State
from dtq.records import dataclass, field, replace

#: If a tick comes this many seconds after its deadline, this process was stopped meanwhile.
_PAUSE_S: Final = 0.1
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


class Machine:
    """The queue's rules.

    Args:
        epoch: number of this run of the coordinator; part of every lease token.
        rules: settings.
        totals: the store's counts.
        calendar: reads the cron expressions of schedules.
    """

    def __init__(self, epoch: int, rules: Rules, totals: Totals, calendar: Calendar | None = None) -> None:
        self.epoch = epoch
        self.rules = rules
        self.queue_state = QueueState(rules, totals)
        #: The schedules, for which `core.scheduling` makes submissions.
        self.schedules = Schedules(self.queue_state.ledger, calendar or NoCalendar())
        #: Outcomes refused since this start.
        self.refused = 0
        self._last_token = epoch << 32
        self._next_expiry = 0.0
        #: Nothing expires before this moment.
        self._expiry_from = 0.0

    def put_off_expiry(self, until: float) -> None:
        """Let nothing expire before a moment."""
        self._next_expiry = self._expiry_from = until

    # -- submitting -----------------------------------------------------------------------------------------------

    def submit(
        self,
        spec: Spec,
        submission: Submission,
        session: str,
        now: float,
        *,
        anew: bool = False,
        after: Callable[[], After] | None = None,
    ) -> tuple[Batch, ArgumentPage | None]:
        """Accept a new batch, or the next piece of one.

        Tasks that the batch already has are not added again, so a repeated piece does no harm; neither does a piece for
        a batch that was sealed meanwhile (cancelled): it is left out.

        Args:
            spec: its spec.
            submission: the submission.
            session: the submitter's.
            now: the time.
            anew: whether it makes a new batch even if its key is taken (`core.uniqueness`).
            after: returns the dependencies of a new batch; called if one is made.

        Returns:
            The batch, and the page that was added to it, if any.

        Raises:
            QueueFull: the number of unfinished tasks has reached its bound.
            EdgesFull: the number of dependencies has reached its bound.
            BatchTooLarge: the batch would have more tasks than a batch may.
            TooLarge: an argument is larger than its bound.
            KeyConflict: the key belongs to a live batch of another function or other options.
            FunctionsFull: the functions of unfinished tasks have reached the bound of their memory.
            UnknownId: there is no such live batch to append to.
            QueueDraining: the queue takes no new batches.
            NotPermitted: another session submits it.
            BadMessage: the page is malformed, or does not continue the batch.
        """
        count = self._check_page(submission.arguments)
        batch = None if anew else self._known(spec, submission, session)
        size = 0 if batch is None else batch.size
        new = submission.offset + count - size
        if new > count or submission.offset < 0:
            raise BadMessage(f"the piece begins at {submission.offset}, the batch has {size} tasks")
        adds = batch is None or (new > 0 and not batch.complete)
        asked = after() if after is not None and adds and (batch is None or submission.items) else None
        whole = None if asked is None else asked.size
        if adds and (new > 0 or whole):
            self.queue_state.room_for(size, whole or new)
        if batch is None:
            batch = self._new_batch(spec, submission, session, now, asked)
            if whole is not None and asked is not None:
                self.queue_state.dependencies.elements.fill(batch, whole, asked.gone, now)
        page = None
        if new > 0 and not batch.complete:
            page = self._append(batch, pages.cut(submission.arguments, count - new, count), new, now, asked)
        if submission.complete and not batch.complete:
            self.seal(batch, now)
        if asked is not None and asked.parents:
            self.queue_state.dependencies.look_again(batch, now)
        return batch, page

    def _check_page(self, page: bytes) -> int:
        """How many blobs a page of arguments has that may be added to a batch."""
        count = pages.check(page)
        if count > pages.PAGE_BLOBS:
            raise BadMessage(f"a page holds at most {pages.PAGE_BLOBS} blobs, not {count}")
        if len(page) > self.rules.max_blob:
            largest = pages.largest(page)
            if largest > self.rules.max_blob:
                raise TooLarge("a task's call", largest, self.rules.max_blob)
        return count

    def _known(self, spec: Spec, submission: Submission, session: str) -> Batch | None:
        queue_state = self.queue_state
        if submission.batch is not None:
            batch = queue_state.batches.get(submission.batch)
            if batch is None:
                raise UnknownId(str(submission.batch))
            # The holder of the batch's own key may go on with it; a number can be guessed.
            if batch.session != session and (batch.key is None or batch.key != submission.key):
                raise NotPermitted(f"a piece for batch {batch.number}, which another session submits")
            return batch
        if submission.key is None:
            return None
        if not 0 < len(submission.key) <= MAX_NAME:
            raise BadMessage(f"a key has 1 to {MAX_NAME} characters")
        number = queue_state.keys.get(submission.key)
        if number is None:
            return None
        if not same_call(queue_state.batches[number].spec, submission.called(spec), urgency=False):
            raise KeyConflict(submission.key, number)
        return queue_state.batches[number]

    def _new_batch(self, spec: Spec, submission: Submission, session: str, now: float, after: After | None) -> Batch:
        queue_state = self.queue_state
        if queue_state.draining and spec.options.queue in queue_state.draining:
            raise QueueDraining(spec.options.queue)
        delay_s = check_delay(submission.delay_s)
        if after is not None:
            self._room_for_edges(len(after.parents) + len(after.each))
        entry = queue_state.intern(spec)
        queue_state.last_batch += 1
        batch = Batch(queue_state.last_batch, entry, now)
        options = spec.options
        if submission.limits or submission.label or options.limits or options.label:
            batch.flow = shared_flow(submission.limits or options.limits, submission.label or options.label)
        batch.session = session
        batch.submission = submission.number
        batch.followed = submission.follow
        if submission.key is not None:
            batch.key = submission.key
        if delay_s > 0:
            batch.due_at = now + delay_s
        if after is not None:
            batch.flow = replace(
                batch.flow or BatchFlow(),
                after=after.parents,
                each=after.each,
                run_anyway=after.run_anyway,
                blocked=bool(after.parents),
                why=after.lost,
            )
            batch.frontier = Frontier() if after.each else None
        queue_state.add_batch(batch)
        if submission.conditions is not None:
            wall_moments.note(queue_state, batch, submission.conditions, now)
            start_by.note(queue_state, batch, submission.conditions, now)
        if after is not None:
            queue_state.dependencies.begin(batch)
        queue_state.ledger.batch(batch)  # also if its first piece is empty: its number is about to be told
        return batch

    def _room_for_edges(self, count: int) -> None:
        edges, most = self.queue_state.dependencies.edges, self.rules.max_edges
        if edges + count > most:
            raise EdgesFull(edges, most)

    def _append(self, batch: Batch, data: bytes, count: int, now: float, after: After | None) -> ArgumentPage:
        queue_state = self.queue_state
        lo, hi = batch.size, batch.size + count
        own = 0
        if after is not None and after.items:
            self._room_for_edges(sum([len(parents) for _, parents in after.items]))
            own = queue_state.dependencies.append(batch, lo, hi, after)
            queue_state.tally.move(batch.queue, None, Move.BLOCKED, own)
            count -= own
        if lo == 0 and batch.due_at is not None and wall_moments.left_s(queue_state, batch, now) <= 0:
            batch.due_at = None  # the due time came before the first task
        batch.size = hi
        queue_state.submitted += hi - lo
        if batch.blocked:
            queue_state.tally.move(batch.queue, None, Move.BLOCKED, count)
        elif batch.due_at is None:
            queue_state.tally.move(batch.queue, None, Move.ACCEPTED, count)
            queue_state.push(batch, lo, hi)
        else:
            queue_state.tally.move(batch.queue, None, Move.DELAYED, count)
            wall_moments.heap_of(queue_state, batch).push(batch.due_at, batch.number, lo, hi)
        page = ArgumentPage(batch=batch.number, lo=lo, hi=hi, data=data)
        queue_state.ledger.page(page)
        queue_state.ledger.batch(batch)
        if own and after is not None:
            queue_state.dependencies.look_at_items(batch, lo, hi, after, now)
        return page

    def seal(self, batch: Batch, now: float) -> None:
        """Record that a batch's last piece has come."""
        self.queue_state.seal(batch, now)

    def abandon(self, session: str, now: float) -> None:
        """Handle a departed submitter: its incomplete batches end with the tasks they have, and the time to live of its
        holds begins.
        """
        for batch in [b for b in self.queue_state.open.values() if b.session == session]:
            self.seal(batch, now)
        self.queue_state.holds.left(session, now)

    def resume(self, session: str) -> None:
        """Handle a returned client: its holds stay."""
        self.queue_state.holds.back(session)

    def withdraw(self, batch: Batch, now: float) -> None:
        """Remove a batch that could not be made durable, and was never acknowledged: it leaves no trace, even if a
        quick worker has run some of it.
        """
        queue_state = self.queue_state
        for lease in [lease for lease in queue_state.leases.values() if lease.batch is batch]:
            queue_state.tally.move(batch.queue, State.RUNNING, Move.WITHDRAWN, lease.hi - lease.lo)
            queue_state.end_lease(lease)
        for task in list((batch.tasks or {}).values()):
            if task.state in WAITING:
                queue_state.tally.move(batch.queue, task.state, Move.WITHDRAWN)
        for state, count in batch.fresh_counts():
            queue_state.tally.move(batch.queue, state, Move.WITHDRAWN, count)
        queue_state.tally.move(batch.queue, State.SUCCEEDED, Move.WITHDRAWN, batch.succeeded)
        queue_state.tally.move(batch.queue, State.DEAD, Move.WITHDRAWN, batch.dead)
        queue_state.tally.move(batch.queue, State.CANCELLED, Move.WITHDRAWN, batch.cancelled)
        queue_state.submitted -= batch.size
        if batch.entry.need is not None:
            queue_state.lines.left += 1
        if batch.finished_at is None:
            queue_state.forget(batch)
        batch.finished_at = None  # for readers that have seen it finish
        queue_state.ledger.withdrawn(batch.number)
        if queue_state.dependencies.awaited:
            queue_state.dependencies.withdrawn(batch, now)

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, number: int, lo: int, hi: int) -> None:
        """Drop the results and arguments of tasks ``[lo, hi)`` of a batch: nobody will ask for them again. Dead letters
        keep their arguments.

        Args:
            number: the batch.
            lo: index of the first task.
            hi: index after the last; all of them have ended (`has_ended`).
        """
        if not self.queue_state.dependencies.spare(number, lo, hi):
            self.queue_state.ledger.read(number, lo, hi)

    def has_ended(self, number: int, lo: int, hi: int) -> bool:
        """Whether tasks ``[lo, hi)`` of a batch that is kept have all ended."""
        batch = self.queue_state.batches.get(number)
        if batch is None:
            return True
        if hi > batch.next or any(
            lease.batch is batch and lease.lo < hi and lo < lease.hi for lease in self.queue_state.leases.values()
        ):
            return False
        tasks = batch.tasks or {}
        return all(tasks[index].state.final for index in batch.records_in(lo, hi))

    def batches_read(self, numbers: Iterable[int]) -> None:
        """Drop finished batches, except their dead letters: nobody will ask for them again."""
        batches, spare = self.queue_state.batches, self.queue_state.dependencies.spare_whole
        numbers = tuple(number for number in numbers if number not in batches and not spare(number))
        if numbers:
            self.queue_state.ledger.batches_read(numbers)

    # -- workers --------------------------------------------------------------------------------------------------

    def attach(
        self,
        session: str,
        name: str,
        queues: tuple[str, ...],
        now: float,
        *,
        slots: int = 0,
        offers: Offers | None = None,
        chains: bool = False,
    ) -> bool:
        """QueueState a worker that said hello.

        Args:
            session: its session.
            name: its name.
            queues: the queues it serves; empty for all.
            now: the time.
            slots: its configured number of slots.
            offers: its other resources.
            chains: whether it runs successors (`core.chains`).

        Returns:
            Whether the worker was known, with its leases still in place.
        """
        workers = self.queue_state.workers
        known = session in workers
        worker = workers.setdefault(session, Worker(session, name, 0.0))
        worker.name = name
        worker.queues = queues
        worker.chains = chains
        placing.offer(worker, slots, offers)
        worker.renew(now + self.rules.lease_s)
        return known

    def exchange(self, session: str, message: Exchange, now: float) -> Answer:
        """Apply a worker's report: outcomes, returned tasks, and the leases it holds.

        Raises:
            SessionUnknown: the worker is not known (any more): its leases are gone.
            BadMessage: a page of results is malformed.
        """
        worker = self._worker(session)
        for success in message.succeeded:
            pages.check(success.results)  # all of them first: a refused message has no effect
        worker.renew(now + self.rules.lease_s)
        answer = Answer(overtaken=message.call < worker.call, over=worker.is_over(message.call))
        if not answer.overtaken:
            worker.call, worker.beside = message.call, message.beside
            self.queue_state.slots += message.capacity - worker.capacity
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
        for back in reversed(released):  # successors before the task that they wait for
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

    def _worker(self, session: str) -> Worker:
        worker = self.queue_state.workers.get(session)
        if worker is None:
            raise SessionUnknown(session)
        return worker

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
            answer.cancel += self._cancellations(lease)
        unsaid = worker.leases.keys() - {held.token for held in message.holding}
        for lease in [worker.leases[token] for token in sorted(unsaid)]:
            if is_over(lease.call, message.call, message.beside) and lease.token in worker.leases:
                self.queue_state.give_back(lease, lease.lo, lease.hi, now)

    def begin_recording(self, session: str, succeeded: Iterable[Succeeded]) -> bool:
        """Note that results of a worker will be applied soon: meanwhile, the leases that they end keep no slot from
        others. Whether they end any.

        Args:
            session: the worker's.
            succeeded: the results.
        """
        worker = self.queue_state.workers.get(session)
        if worker is None:
            return False
        worker.ending = frozenset(
            done.token
            for done in succeeded
            if (lease := worker.leases.get(done.token)) is not None and done.lo + pages.count(done.results) == lease.hi
        )
        return bool(worker.ending)

    def end_recording(self, session: str) -> None:
        """Note that these results are applied now, or refused."""
        worker = self.queue_state.workers.get(session)
        if worker is not None:
            worker.ending = frozenset()

    def is_over(self, session: str, call: int) -> bool:
        """Whether one of a worker's calls is over, as far as the worker has said."""
        worker = self.queue_state.workers.get(session)
        return worker is not None and worker.is_over(call)

    @staticmethod
    def _cancellations(lease: Lease) -> list[Cancellation]:
        tasks = lease.batch.tasks
        if tasks is None:
            return []
        cancelled = [index for index in lease.batch.records_in(lease.lo, lease.hi) if tasks[index].cancelling]
        return [Cancellation(token=lease.token, index=index) for index in cancelled]

    def broken(self, session: str) -> WorkerBroken | None:
        """Why a worker must leave; None for a sound worker."""
        quarantine = self._worker(session).quarantine
        return None if quarantine is None else quarantine.verdict()

    def leases_of(self, session: str) -> dict[int, Lease]:
        """The leases of a worker, by token."""
        worker = self.queue_state.workers.get(session)
        return {} if worker is None else worker.leases

    def cancelling(self, session: str) -> list[Cancellation]:
        """The running tasks of a worker that must be stopped."""
        worker = self.queue_state.workers.get(session)
        leases = worker.leases.values() if worker is not None else ()
        return [cancellation for lease in leases for cancellation in self._cancellations(lease)]

    def _reported(self, worker: Worker, token: int, lo: int, hi: int) -> Lease | None:
        """The worker's lease, if a report for ``[lo, hi)`` of it counts; else None."""
        lease = worker.leases.get(token)
        if lease is not None and lease.lo <= lo < hi <= lease.hi:
            return lease
        self.refused += 1
        return None

    def _succeeded(self, worker: Worker, success: Succeeded, answer: Answer, now: float) -> None:
        queue_state = self.queue_state
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
            self.queue_state.give_back(lease, lease.lo, failed.index, now, failed.index - lease.lo, _RESULT_LOST)
        # After an exception the slot goes on with the next task; any other outcome is the end of the slot.
        lease.started = failed.outcome is Outcome.FAILED
        lease.since = now
        if lease.started and not failed.failure.unable:
            lease.batch.entry.observe(failed.seconds, 1)
        quarantining.note(worker, lease.batch, failed, now)
        self.queue_state.shorten(lease, failed.index + 1)
        if failed.printed:
            self._printed(lease, failed.index, failed.index + 1, failed.printed)
        started_at = now - failed.seconds if 0 <= failed.seconds <= now else now
        self.queue_state.attempt_ended(lease, failed.index, failed.outcome, failed.failure, started_at, now)

    def _printed(self, lease: Lease, lo: int, hi: int, told: Sequence[Printed]) -> None:
        """Keep the output of tasks ``[lo, hi)`` of a lease that have ended."""
        number = lease.batch.number
        page = printed.pack(printed.within(told, lo, hi), lo)
        self.queue_state.ledger.output(OutputPage(batch=number, lo=lo, hi=hi, attempt=lease.attempt, data=page))

    def _released(self, worker: Worker, released: Released, now: float) -> None:
        lease = self._reported(worker, released.token, released.lo, released.hi)
        if lease is not None and released.hi == lease.hi:
            self.queue_state.give_back(lease, released.lo, released.hi, now, released.started, _STOPPED)
        else:
            self.refused += lease is not None

    def lose(self, session: str, now: float) -> bool:
        """Handle the loss of a worker: it is blamed for the tasks it had started, the rest goes back unblamed.

        Returns:
            Whether it was known.
        """
        queue_state = self.queue_state
        worker = queue_state.workers.pop(session, None)
        if worker is None:
            return False
        queue_state.slots -= worker.capacity
        queue_state.keeping.discard(session)
        failure = Failure(message=f"the worker {worker.name} was lost while it ran the task")
        for lease in list(worker.leases.values()):
            if lease.token not in worker.leases:
                continue  # called back with the task before it
            first = lease.lo
            if lease.started and not lease.batch.blocked:
                queue_state.shorten(lease, first + 1)
                queue_state.attempt_ended(lease, first, Outcome.CRASHED, failure, lease.since, now)
                first += 1
            if first < lease.hi:
                queue_state.give_back(lease, first, lease.hi, now)
        return True

    # -- granting -------------------------------------------------------------------------------------------------

    def lease(self, session: str, now: float, call: int = 0, *, by_report: bool = False) -> list[Lease]:
        """Grant as much as a worker has room for, most urgent first.

        A worker gets one lease a slot; and up to one more a slot while the next tasks are known to be tiny, so that its
        slots need not wait for a round trip. Where batches are smaller than a lease may be, a slot gets as many more
        leases as make up one; and behind a lease it gets the tasks that wait for it (`core.chains`). All leases of one
        call are expected to fit into its answer with their arguments; `cut` takes back the excess. Large arguments are
        for fetching calls: a report's answer must not take long.

        Args:
            session: the worker's.
            now: the time.
            call: number of the worker's call whose answer brings the leases.
            by_report: whether that is a report, else it is a fetching call.
        """
        worker = self._worker(session)
        passed: list[tuple[Batch, Run]] = []
        try:
            granted = self._grant(worker, now, call, passed, by_report=by_report)
        finally:
            if passed:
                self._put_back(passed)
        return granted + self._successors(worker, now, call) if self.queue_state.dependencies.awaited else granted

    def _put_back(self, passed: Sequence[tuple[Batch, Run]]) -> None:
        """Put the runs back that a worker was passed over for. Nothing of them is new to other workers."""
        lines = self.queue_state.lines
        pushed = lines.pushed
        for batch, run in passed:
            lines.push(batch.entry, run, batch.limits)
        lines.pushed = pushed

    def _grant(
        self, worker: Worker, now: float, call: int, passed: list[tuple[Batch, Run]], *, by_report: bool
    ) -> list[Lease]:
        """As `lease`; `passed` gathers the runs that are held back from this worker, and were taken off their heaps."""
        granted: list[Lease] = []
        room = self.rules.grant_bytes // 4 if by_report else self.rules.grant_bytes
        tasks = sum([lease.hi - lease.lo for lease in worker.leases.values() if lease.before is None])
        lines = self.queue_state.lines
        while len(passed) <= quarantining.MOST_PASSED:
            held = worker.slots_held
            if held >= 2 * worker.capacity and not self._has_small(worker, held):
                break
            needy = bool(lines.needed)
            heap = placing.first(self.queue_state, worker, now) if needy else lines.first(worker.queues, now)
            run = heap.top() if heap is not None else None
            if heap is None or run is None:
                break
            batch = self.queue_state.batches[run.batch]
            if batch.starts_by is not None and start_by.lapse(self.queue_state, batch, now):
                continue
            if worker.quarantine is not None and quarantining.held_back(self.queue_state, worker, batch, run.lo, now):
                passed.append((batch, run))
                heap.advance(run.hi)
                continue
            ahead = held >= worker.capacity
            estimate_s = batch.entry.expected_s()
            if ahead and (estimate_s is None or estimate_s > CHUNK_S):
                break
            if ahead and isinstance(heap, Group) and heap.paced:
                break  # its lease is its start
            if held >= 2 * worker.capacity and not self._has_room(worker, held, tasks, heap, batch.entry):
                break
            if batch.entry.argument_bytes > room and (granted or by_report):
                break
            lease = self._take(heap, run, batch, worker, now, room)
            lease.call = call
            room -= int(batch.entry.argument_bytes * (lease.hi - lease.lo))
            lease.started = not ahead
            tasks += lease.hi - lease.lo
            granted.append(lease)
        return granted

    @staticmethod
    def _has_small(worker: Worker, held: int) -> bool:
        """Whether a worker with two leases a slot may be given another: the latest one is small."""
        if held >= MAX_SMALL * worker.capacity or not worker.leases:
            return False
        latest = next(reversed(worker.leases.values()))
        return latest.hi - latest.lo < MAX_SMALL

    def _has_room(self, worker: Worker, held: int, tasks: int, heap: RunHeap, entry: SpecEntry) -> bool:
        """Whether a worker with two leases a slot, of so many tasks, is given another, of tiny tasks."""
        queue_state = self.queue_state
        most = min(chunk(entry.expected_s(), queue_state.tally[State.PENDING], queue_state.slots), MAX_SMALL)
        most = worker.capacity * min(most, entry.most_within(self.rules.grant_bytes))
        if held >= most or tasks >= 2 * most:
            return False
        # No worker gets so many tasks of a limit ahead that others must wait for the limit.
        return not isinstance(heap, Group) or heap.has_plenty

    def may_have_successors(self, session: str) -> bool:
        """Whether tasks wait for those that a worker has, and may be granted behind them (`core.chains`)."""
        worker = self.queue_state.workers.get(session)
        return worker is not None and bool(
            self.queue_state.dependencies.awaited and chains.ends(self.queue_state, worker)
        )

    def _successors(self, worker: Worker, now: float, call: int) -> list[Lease]:
        """Grant successors of a worker's leases (`core.chains`)."""
        queue_state = self.queue_state
        ends = chains.ends(queue_state, worker)
        if not ends or queue_state.lines.needed:
            return []
        first = self._first(worker, now)
        granted: list[Lease] = []
        for before in ends:
            while (batch := chains.successor_of(queue_state, before, first)) is not None:
                before = self._take_behind(before, batch, now, call)
                granted.append(before)
                if queue_state.lines.several:  # then it may be another queue's turn
                    first = self._first(worker, now)
        return granted

    def _first(self, worker: Worker, now: float) -> tuple[Run, str] | None:
        """The run that a worker would be given next, and its queue; for lines without needs."""
        heap = self.queue_state.lines.first(worker.queues, now)
        run = heap.top() if heap is not None else None
        return None if run is None else (run, self.queue_state.batches[run.batch].queue)

    def _take_behind(self, before: Lease, batch: Batch, now: float, call: int) -> Lease:
        queue_state, worker = self.queue_state, before.worker
        queue_state.tally.move(batch.queue, State.BLOCKED, Move.LEASED)
        batch.next = batch.running = 1
        if queue_state.lines.several:
            queue_state.lines.charge(batch.entry, worker.queues, 1)
        lease = self._lease(worker, batch, 0, 1, 1, now)
        lease.call = call
        lease.put_behind(before)
        return lease

    def _lease(self, worker: Worker, batch: Batch, lo: int, hi: int, attempt: int, now: float) -> Lease:
        queue_state = self.queue_state
        self._last_token += 1
        lease = Lease(self._last_token, worker, batch, lo, hi, attempt, now)
        queue_state.leases[lease.token] = worker.leases[lease.token] = lease
        queue_state.ledger.lease(lease)
        queue_state.ledger.batch(batch)
        return lease

    def cut(self, lease: Lease, hi: int, now: float) -> None:
        """Shorten a new lease that is too large for one answer: tasks from ``hi`` on go back before its worker is told
        of them.
        """
        if lease.token in self.queue_state.leases and lease.lo <= hi < lease.hi:
            self.queue_state.untake(lease, hi, now)

    def _take(self, heap: RunHeap, run: Run, batch: Batch, worker: Worker, now: float, room: int) -> Lease:
        queue_state = self.queue_state
        lo = run.lo
        waiting = len(heap) if lo < batch.next else batch.listed(run.hi) - lo
        most = chunk(batch.entry.estimate_s, waiting, queue_state.slots)
        if most > 1:
            most = min(most, batch.entry.most_within(room))
            if queue_state.lines.several:
                most = min(most, MAX_TURN)
        need = batch.entry.need
        if need is not None:
            most = 1
        if isinstance(heap, Group):
            most = heap.most(most)
        if lo < batch.next:
            hi, attempt = queue_state.take_returned(heap, batch, lo, most)
        else:
            hi, attempt = queue_state.take_fresh(heap, batch, lo, most), 1
        if heap.limits or queue_state.lines.several:
            queue_state.lines.took(heap, batch.entry, worker.queues, hi - lo, now)
        queue_state.tally.move(batch.queue, State.PENDING, Move.LEASED, hi - lo)
        batch.running += hi - lo
        if batch.size > 1:
            batch.note_pace(now)
        lease = self._lease(worker, batch, lo, hi, attempt, now)
        if need is not None:
            placing.take(lease, need)
        frontier = batch.frontier
        at_its_end = frontier is not None and (batch.next >= frontier.ready or batch.tasks is not None)
        if at_its_end or (hi - lo == 1 and queue_state.dependencies.awaited):
            queue_state.dependencies.look(batch, now)
        return lease

    # -- time -----------------------------------------------------------------------------------------------------

    def excuse(self, session: str, now: float) -> None:
        """Excuse the silence of a worker that waits for an answer of the coordinator's: it can say nothing
        meanwhile.
        """
        worker = self.queue_state.workers.get(session)
        if worker is not None:
            worker.renew(now + self.rules.lease_s)

    def tick(self, now: float) -> float:
        """Do everything that is due.

        A tick that comes long after its deadline means that this process was stopped. The workers could not report
        meanwhile, and their reports may be read after this tick, so each gets a whole lease time to report; but only
        once, or a coordinator that is always late would keep dead workers.

        Returns:
            The next deadline.
        """
        queue_state = self.queue_state
        if now - self.next_deadline() > _PAUSE_S:
            for worker in [w for w in queue_state.workers.values() if not w.spared]:
                worker.expires_at = now + self.rules.lease_s
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
            self.lose(worker.session, now)
        queue_state.holds.expire(now)
        if now >= self._next_expiry:
            queue_state.ledger.expired(now - self.rules.keep_results_s, queue_state.dependencies.spared())
            self._next_expiry = now + min(3600.0, max(1.0, self.rules.keep_results_s / 8))
        if now >= self._expiry_from and (expired := queue_state.expiries.pop_due(now)) is not None:
            queue_state.ledger.own_expired(expired, queue_state.dependencies.over(expired))
        return self.next_deadline()

    def next_deadline(self) -> float:
        """The next deadline."""
        deadlines = [worker.expires_at for worker in self.queue_state.workers.values()]
        due_at = self.queue_state.waiting.next_at()
        if due_at is not None:
            deadlines.append(due_at)
        if (start_at := self.queue_state.start_moments.next_at()) is not None:
            deadlines.append(start_at)
        if (opens_at := self.queue_state.limits.next_at()) is not None:
            deadlines.append(opens_at)
        if self.queue_state.probe_at is not None:
            deadlines.append(self.queue_state.probe_at)
        expires_at = self.queue_state.expiries.next_at()
        if expires_at is not None:
            deadlines.append(max(self._expiry_from, expires_at))
        if (over_at := self.queue_state.holds.next_at()) is not None:
            deadlines.append(over_at)
        return min([*deadlines, self._next_expiry])

    @property
    def on_wall(self) -> bool:
        """Whether any task waits for the wall clock."""
        return len(self.schedules) > 0 or len(self.queue_state.on_wall) > 0

    def next_on_wall(self) -> float | None:
        """The next deadline by the wall clock; None for none."""
        moments = [at for at in (self.schedules.next_at(), self.queue_state.on_wall.next_at()) if at is not None]
        return min(moments, default=None)

    def _due(self, due_at: float, number: int, lo: int, hi: int, now: float) -> None:
        queue_state = self.queue_state
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
        queue_state = self.queue_state
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

    # -- to the engine --------------------------------------------------------------------------------------------

    def drain(self, now: float) -> tuple[list[Change], list[EndedRange]]:
        """The changes since the last drain, as rows, and the tasks that came into a final state."""
        self.queue_state.clock = max(self.queue_state.clock, now)
        return self.queue_state.ledger.drain(self.queue_state.totals())
