"""Derives the outcomes of tasks: from slots' reports, and from the state that ended slots leave.

Worker, below the supervisor, which calls everything here under its lock. A slot's report has been decoded (`reports`)
and is compared here with its leases: a report that cannot be true is a *breach*, for which the slot is killed and its
running task is blamed.

The unsent results of an ended slot are taken from its `arena`. The first task of its leases without a result is then
the one that ran, if it had started.

After a breach, another task of the same lease may run by the time the slot is killed, and results sent after the breach
are lost. So if a lease has several tasks, none is blamed the first time: they go back, and each result of that function
is sent by itself from then on. The first task without a result is then to blame.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from dtq.errors import BadMessage
from dtq.model import pages
from dtq.model.lru import SizedLru
from dtq.model.messages import Failed, Failure, Progress, Released, Succeeded
from dtq.model.printed import Printed
from dtq.model.states import Outcome
from dtq.model.values import Value, is_description, named
from dtq.records import replace
from dtq.worker.child import Child
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.latelog import LateLog
from dtq.worker.memory_shortage import MemoryShortage
from dtq.worker.reports import Advanced, Changed, NoRoom, Raised, Report, Returned, Stopped
from dtq.worker.slot_exit import SlotExit, crash_failure, refusal, verdict
from dtq.worker.task_log import TaskLog
from dtq.worker.task_output import OutputBudget

if TYPE_CHECKING:
    from dtq.worker.transfers import Transfers

#: Most remembered tasks that a dying slot was about to begin.
MOST_SUSPECTS: Final = 1_000


class Settling:
    """Turns the ends of tasks into outcomes for the coordinator.

    Args:
        holdings: the worker's leases, and the outcomes it owes the coordinator.
        gone_on: called when tasks of an unfinished lease have ended.
        news: called when further outcomes wait for a report.
        log: takes lines to be logged once the lock is free.
        tasks: logs ends of tasks.
    """

    def __init__(
        self,
        holdings: Holdings,
        gone_on: Callable[[], None],
        news: Callable[[], None],
        log: LateLog,
        tasks: TaskLog,
    ) -> None:
        self._holdings = holdings
        self._gone_on = gone_on
        self._news = news
        self._log = log
        self._tasks = tasks
        self._budget = OutputBudget()
        #: Sends results that are values to a coordinator on another machine; None if they need not be sent.
        self.transfers: Transfers | None = None
        #: Tells whether slots are killed for lack of memory.
        self.shortage = MemoryShortage()
        #: Tasks that a dying slot was about to begin.
        self._suspects: SizedLru[tuple[int, int], bool] = SizedLru(MOST_SUSPECTS, MOST_SUSPECTS)

    # -- reports of slots -----------------------------------------------------------------------------------------

    def take(self, child: Child, report: Report, now: float) -> None:
        """Apply a slot's report on its tasks.

        Args:
            child: the slot.
            report: the report.
            now: ``time.monotonic()``.

        Raises:
            BadMessage: it cannot be true.
        """
        if isinstance(report, Returned):
            self._returned(child, report, now)
        elif isinstance(report, Raised):
            self._raised(child, report, now)
        elif isinstance(report, Stopped):
            self._stopped(child, report)
        elif isinstance(report, Advanced):
            self._advanced(child, report)
        elif isinstance(report, NoRoom):
            chunk = child.known(report.token)
            if chunk is not None:
                chunk.no_room = chunk.next, report.why
                name = chunk.spec.function.name
                text = "slot %d: the result of a task of %s waits for room: %s"
                self._log(logging.WARNING, text, child.number, name, report.why)
        elif isinstance(report, Changed):
            chunk = child.known(report.token)
            if chunk is not None and child.tell_once(chunk.grant.spec):
                name = chunk.spec.function.name
                self._log(
                    logging.WARNING,
                    "slot %d: a task of %s changed %s; it was put back",
                    child.number,
                    name,
                    report.what,
                )

    def _returned(self, child: Child, report: Returned, now: float) -> None:
        chunk = child.holding(report.token)
        hi = report.lo + report.count
        if chunk is None or report.lo != chunk.next or hi > chunk.end:
            raise BadMessage(f"results of tasks {report.lo} to {hi - 1}, which it does not run")
        largest = pages.largest(report.results)
        if largest > child.terms.max_result:
            raise BadMessage(f"a result of {largest} bytes, where the largest has {child.terms.max_result}")
        if pages.has_descriptions(report.results):
            values = pages.named(report.results)
            try:
                self._hold(chunk, values)
            except BadMessage:
                if chunk.place is child.place:
                    raise
                self.release(chunk, chunk.next, chunk.end, hi - chunk.next)  # values go with their coordinator
                child.ended(chunk, 0)
                return
            child.settled([value.segment for value in values])
        self._succeed(child, chunk, report.results, hi, _took(report.seconds, chunk, now), report.peak_memory)

    def _hold(self, chunk: Chunk, values: Sequence[Value]) -> None:
        """Hold values that a slot claims are results; raises BadMessage if they cannot be."""
        if chunk.token in self._holdings.chunks:
            self._holdings.segments.hold(chunk.token, values, chunk.place)

    def _succeed(self, child: Child, chunk: Chunk, results: bytes, hi: int, seconds: float, peak: int = 0) -> None:
        lo = chunk.next
        child.ended(chunk, hi)
        self._tasks.succeeded(chunk, lo, hi, seconds)
        printed = self._printed(child, chunk, lo, hi)
        self._owe(
            Succeeded(token=chunk.token, lo=lo, results=results, seconds=seconds, peak_memory=peak, printed=printed)
        )

    def _raised(self, child: Child, report: Raised, now: float) -> None:
        chunk = child.holding(report.token)
        index = report.index
        if chunk is None or index != chunk.next or index >= chunk.end:
            raise BadMessage(f"an exception of task {index}, which it does not run")
        chunk.stoppable |= report.failure.unable
        child.ended(chunk, index + 1)
        self._fail(child, chunk, index, Outcome.FAILED, report.failure, _took(report.seconds, chunk, now))

    def _stopped(self, child: Child, report: Stopped) -> None:
        chunk = child.holding(report.token)
        asked = report.token in child.recalled or (chunk is not None and (chunk.stoppable or chunk.grant.behind > 0))
        if (chunk is not None and report.index < chunk.next) or not (asked or child.limit_was_overwritten()):
            raise BadMessage(f"it stopped before task {report.index}, which was not taken back")
        child.stopped(report.token)
        if chunk is not None:
            if chunk.next <= report.index < chunk.end:
                self.release(chunk, report.index, chunk.end)
            child.ended(chunk, 0)

    def _advanced(self, child: Child, report: Advanced) -> None:
        chunk = child.holding(report.token)
        if chunk is None or chunk.token not in self._holdings.chunks or not chunk.next <= report.index < chunk.end:
            return  # the task has ended meanwhile
        progress = Progress(token=report.token, index=report.index, done=report.done, total=report.total)
        self._holdings.outbox.progress[report.token] = progress
        self._news()

    # -- ended slots ----------------------------------------------------------------------------------------------

    def bury(self, child: Child, remains: SlotExit, slots: int, now: float) -> None:
        """Settle the leases of an ended slot: report its results, and give the rest back.

        Args:
            child: the slot.
            remains: its end.
            slots: number of slots before.
            now: ``time.monotonic()``.
        """
        self._inherit(child, now)
        if remains.code == -signal.SIGKILL and child.kill_reason is None:
            remains = replace(remains, shortage=self.shortage.sentence(remains.peak_memory))
        blamed = child.unfinished() or self._suspect(child)
        for chunk in list(child.chunks):
            outcome = verdict(child.kill_reason, chunk.token, chunk.next) if blamed is chunk else None
            started = int(blamed is chunk and outcome is None)
            if outcome is Outcome.CRASHED and child.breach and not self._is_certain(chunk):
                outcome, started = None, child.begun(chunk)
            if outcome is not None:
                index = chunk.next
                if outcome is Outcome.FAILED:
                    failure = refusal(slots, child.terms.worker, remains)
                else:
                    failure = crash_failure(outcome, remains, chunk.spec.options.timeout_s)
                chunk.next = index + 1
                self._fail(child, chunk, index, outcome, failure, _took(now - child.started_at(chunk), chunk, now))
            self.release(chunk, chunk.next, chunk.end, started)
        child.chunks.clear()

    def _suspect(self, child: Child) -> Chunk | None:
        """The lease to blame for a slot that has died, and claims not to have begun it.

        A task can reset the position before it ends its process. So the task that the slot was about to begin is not
        blamed the first time, for the slot may have been killed between two tasks; but it is blamed the second time.
        """
        chunk = child.chunks[0] if child.chunks else None
        if chunk is None or chunk.ended or child.kill_reason is not None or child.leaving or child.preparing:
            return None
        task = (chunk.grant.batch, chunk.next)
        if self._suspects.used(task):
            return chunk
        self._suspects.put(task, True, 1)
        return None

    def _is_certain(self, chunk: Chunk) -> bool:
        """Whether the task that broke the protocol is known; if not, it will be the next time."""
        if chunk.careful or chunk.grant.hi - chunk.grant.lo == 1:
            return True
        name = chunk.spec.function.name
        self._holdings.careful.put(name, True, len(name))
        return False

    def _inherit(self, child: Child, now: float) -> None:
        """Take a slot's unsent results."""
        token, lo, results, since = child.left()
        chunk = child.holding(token)
        if chunk is None or not results or not lo <= chunk.next < lo + len(results) <= chunk.end:
            return
        results = results[chunk.next - lo :]
        sound = results[: self._first_unsound(child, chunk, results)]
        if sound:
            seconds = _took(child.started_at(chunk) - since, chunk, now)
            self._succeed(child, chunk, pages.pack(sound, described=True), chunk.next + len(sound), seconds)

    def _first_unsound(self, child: Child, chunk: Chunk, results: list[bytes]) -> int:
        """Index of the first impossible result, which a task has written over."""
        for index, result in enumerate(results):
            if len(result) > child.terms.max_result:
                return index
            if is_description(result):
                try:
                    self._hold(chunk, named(result))
                except BadMessage:
                    return index
        return len(results)

    # -- owed outcomes --------------------------------------------------------------------------------------------

    def _owe(self, outcome: Succeeded | Failed | Released) -> None:
        if outcome.token in self._holdings.chunks:
            if self.transfers is not None and self.transfers.takes(outcome):
                return
            self._holdings.outbox.add(outcome)
            if type(outcome) is Succeeded and not self._holdings.chunks[outcome.token].ended:
                self._gone_on()
            else:
                self._news()

    def _fail(self, child: Child, chunk: Chunk, index: int, outcome: Outcome, failure: Failure, seconds: float) -> None:
        self._tasks.failed(chunk, index, outcome, failure, seconds)
        printed = self._printed(child, chunk, index, index + 1)
        self._owe(
            Failed(token=chunk.token, index=index, outcome=outcome, failure=failure, seconds=seconds, printed=printed)
        )

    def _printed(self, child: Child, chunk: Chunk, lo: int, hi: int) -> tuple[Printed, ...]:
        """The output of tasks that have ended, as much of it as the worker may report."""
        printed = child.printed(chunk, lo, hi)
        return tuple([self._budget.within(each) for each in printed]) if printed else ()

    def release(self, chunk: Chunk, lo: int, hi: int, started: int = 0) -> None:
        """Return tasks ``[lo, hi)``, the end of a lease, unblamed; this many of the first ones had started."""
        chunk.end = lo
        if lo < hi:
            self._owe(Released(token=chunk.token, lo=lo, hi=hi, started=started))


def _took(seconds: float, chunk: Chunk, now: float) -> float:
    """Duration of a lease's tasks: the reported one, as far as it is possible."""
    most = max(0.0, now - chunk.sent_at)
    return seconds if math.isfinite(seconds) and 0 <= seconds <= most else most
