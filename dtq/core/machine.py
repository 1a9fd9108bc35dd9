"""The machine: the state machine that makes every decision about the queue.

Rules:

1. Commands come in with the time as a value; nothing here reads a clock, waits, or does I/O.
2. The state is the rows of `core.changes`, plus parts that only a running coordinator needs (heaps, workers' deadlines,
   estimates), which `core.restoring` builds anew. `drain` hands over the rows that changed; its caller makes them
   durable.
3. All parts work on one `QueueState`, and share nothing else: `core.submitting`, `core.workers`, `core.granting`,
   `core.reporting` and `core.timing` have the rules of their subjects. So have `core.operators` and
   `core.scheduling`, whose commands work on a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dtq.core import submitting, workers
from dtq.core.batches import Batch
from dtq.core.changes import ArgumentPage, Change, Totals
from dtq.core.granting import Granting
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.core.parents import After
from dtq.core.queue_state import QueueState, Rules
from dtq.core.recurrences import Calendar, NoCalendar
from dtq.core.reporting import Reporting
from dtq.core.schedules import Schedules
from dtq.core.timing import Timing
from dtq.errors import WorkerBroken
from dtq.model.messages import Cancellation, Submission, Succeeded
from dtq.model.options import Spec
from dtq.model.resources import Offers


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
        #: Grants tasks to workers.
        self.granting = Granting(self.queue_state, epoch)
        #: Applies the reports of workers.
        self.reporting = Reporting(self.queue_state)
        self._timing = Timing(self.queue_state)

    # -- submitting ---------------------------------------------------------------------------------------------------

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
        """Accept a new batch, or the next piece of one (`core.submitting`)."""
        return submitting.submit(self.queue_state, spec, submission, session, now, anew=anew, after=after)

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
        """Remove a batch that could not be made durable, and was never acknowledged (`core.submitting`)."""
        submitting.withdraw(self.queue_state, batch, now)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, number: int, lo: int, hi: int) -> None:
        """Drop the results and arguments of tasks ``[lo, hi)`` of a batch: nobody will ask for them again. Dead letters
        keep their arguments.

        Args:
            number: the batch.
            lo: index of the first task.
            hi: index after the last; all of them have ended (`has_ended`).
        """
        if not self.queue_state.dependencies.kept.spare(number, lo, hi):
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
        batches, spare = self.queue_state.batches, self.queue_state.dependencies.kept.spare_whole
        numbers = tuple(number for number in numbers if number not in batches and not spare(number))
        if numbers:
            self.queue_state.ledger.batches_read(numbers)

    # -- workers ------------------------------------------------------------------------------------------------------

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
        """Register a worker that said hello; whether it was known, with its leases still in place."""
        return workers.attach(self.queue_state, session, name, queues, now, slots=slots, offers=offers, chains=chains)

    def lose(self, session: str, now: float) -> bool:
        """Handle the loss of a worker; whether it was known."""
        return workers.lose(self.queue_state, session, now)

    def excuse(self, session: str, now: float) -> None:
        """Excuse the silence of a worker that waits for an answer of the coordinator's."""
        workers.excuse(self.queue_state, session, now)

    def broken(self, session: str) -> WorkerBroken | None:
        """Why a worker must leave; None for a sound worker."""
        return workers.broken(self.queue_state, session)

    def is_over(self, session: str, call: int) -> bool:
        """Whether one of a worker's calls is over, as far as the worker has said."""
        return workers.is_over(self.queue_state, session, call)

    def leases_of(self, session: str) -> dict[int, Lease]:
        """The leases of a worker, by token."""
        return workers.leases_of(self.queue_state, session)

    def cancelling(self, session: str) -> list[Cancellation]:
        """The running tasks of a worker that must be stopped."""
        return workers.cancelling(self.queue_state, session)

    # -- reports ------------------------------------------------------------------------------------------------------

    @property
    def refused(self) -> int:
        """Outcomes refused since this start."""
        return self.reporting.refused

    def begin_recording(self, session: str, succeeded: Iterable[Succeeded]) -> bool:
        """Note that results of a worker will be applied soon; whether they end leases."""
        return workers.begin_recording(self.queue_state, session, succeeded)

    def end_recording(self, session: str) -> None:
        """Note that these results are applied now, or refused."""
        workers.end_recording(self.queue_state, session)

    # -- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Do everything that is due; the next deadline (`core.timing`)."""
        return self._timing.tick(now)

    def next_deadline(self) -> float:
        """The next deadline."""
        return self._timing.next_deadline()

    def put_off_expiry(self, until: float) -> None:
        """Let nothing expire before a moment."""
        self._timing.put_off_expiry(until)

    @property
    def on_wall(self) -> bool:
        """Whether any task waits for the wall clock."""
        return len(self.schedules) > 0 or len(self.queue_state.on_wall) > 0

    def next_on_wall(self) -> float | None:
        """The next deadline by the wall clock; None for none."""
        moments = [at for at in (self.schedules.next_at(), self.queue_state.on_wall.next_at()) if at is not None]
        return min(moments, default=None)

    # -- to the engine ------------------------------------------------------------------------------------------------

    def drain(self, now: float) -> tuple[list[Change], list[EndedRange]]:
        """The changes since the last drain, as rows, and the tasks that came into a final state."""
        self.queue_state.clock = max(self.queue_state.clock, now)
        return self.queue_state.ledger.drain(self.queue_state.totals())
