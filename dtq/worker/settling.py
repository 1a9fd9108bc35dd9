"""How the tasks that slots run have ended: from what slots say, and from what they leave.

Worker, below the supervisor, which calls everything here under its lock. What a slot says has been read (`reports`) and
is held here against what is known of its leases: a report that cannot be true is a *breach*, for which the slot is
killed and the task that it ran is blamed.

Of a slot that has ended, the results that it had made and not sent are taken from its `arena`. The first task of its
leases that has no result then is the one that ran, if it had started.

Of a slot that was killed for a breach, another task of the same lease may run by the time, and results that were sent
after the breach are lost. So where a lease has several tasks nobody is blamed for the first one: they go back, and each
result of that function is sent by itself from then on. The first task without one is to blame then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from dtq.errors import BadMessage
from dtq.model import pages
from dtq.model.lru import SizedLru
from dtq.model.messages import Failed, Failure, Progress, Released, Succeeded
from dtq.model.states import Outcome
from dtq.model.values import Value, is_description, named
from dtq.records import replace
from dtq.worker.child import Child
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.latelog import LateLog
from dtq.worker.remains import Remains, last_words, refusal, verdict
from dtq.worker.reports import Advanced, Changed, NoRoom, Raised, Report, Returned, Stopped

if TYPE_CHECKING:
    from dtq.worker.transfers import Transfers

#: How many tasks are remembered that a slot which died was about to begin with.
MOST_SUSPECTS: Final = 1_000


class Settling:
    """Turns the ends of tasks into what the coordinator is told.

    Args:
        holdings: the worker's leases, and what it owes the coordinator.
        gone_on: called when tasks of a lease have ended that goes on.
        news: called when there is more to tell.
        log: what is to be logged once the lock is free.
    """

    def __init__(self, holdings: Holdings, gone_on: Callable[[], None], news: Callable[[], None], log: LateLog) -> None:
        self._holdings = holdings
        self._gone_on = gone_on
        self._news = news
        self._log = log
        #: What sends results that are values to a coordinator on another machine; None where there is no need.
        self.transfers: Transfers | None = None
        #: Tasks that a slot which died was about to begin with.
        self._suspects: SizedLru[tuple[int, int], bool] = SizedLru(MOST_SUSPECTS, MOST_SUSPECTS)

    # -- what slots say -------------------------------------------------------------------------------------------

    def take(self, child: Child, report: Report, now: float) -> None:
        """A slot has said something of its tasks.

        Args:
            child: the slot.
            report: what.
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
                self.release(chunk, chunk.next, chunk.end, hi - chunk.next)  # with their coordinator, values are gone
                child.ended(chunk, 0)
                return
            child.settled([value.segment for value in values])
        self._succeed(child, chunk, report.results, hi, _took(report.seconds, chunk, now))

    def _hold(self, chunk: Chunk, values: Sequence[Value]) -> None:
        """Hold values that a slot says are results; raises BadMessage where they cannot be."""
        if chunk.token in self._holdings.chunks:
            self._holdings.segments.hold(chunk.token, values, chunk.place)

    def _succeed(self, child: Child, chunk: Chunk, results: bytes, hi: int, seconds: float) -> None:
        lo = chunk.next
        child.ended(chunk, hi)
        self._owe(Succeeded(token=chunk.token, lo=lo, results=results, seconds=seconds))

    def _raised(self, child: Child, report: Raised, now: float) -> None:
        chunk = child.holding(report.token)
        index = report.index
        if chunk is None or index != chunk.next or index >= chunk.end:
            raise BadMessage(f"an exception of task {index}, which it does not run")
        chunk.stoppable |= report.failure.unable
        failure = replace(report.failure, output=child.last_lines(report.token, index))
        child.ended(chunk, index + 1)
        self._fail(chunk, index, Outcome.FAILED, failure, _took(report.seconds, chunk, now))

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

    # -- what slots leave -----------------------------------------------------------------------------------------

    def bury(self, child: Child, remains: Remains, slots: int, now: float) -> None:
        """A slot has ended: report what it leaves behind, and give the rest of its leases back.

        Args:
            child: the slot.
            remains: how it ended.
            slots: how many slots there were.
            now: ``time.monotonic()``.
        """
        self._inherit(child, now)
        blamed = child.unfinished() or self._suspect(child)
        for chunk in list(child.chunks):
            outcome = verdict(child.condemned, chunk.token, chunk.next) if blamed is chunk else None
            started = int(blamed is chunk and outcome is None)
            if outcome is Outcome.CRASHED and child.breach and not self._is_certain(chunk):
                outcome, started = None, child.begun(chunk)
            if outcome is not None:
                index = chunk.next
                if outcome is Outcome.FAILED:
                    failure = refusal(slots, child.terms.worker, remains)
                else:
                    failure = last_words(outcome, remains, chunk.spec.options.timeout_s)
                chunk.next = index + 1
                self._fail(chunk, index, outcome, failure, _took(now - child.started_at(chunk), chunk, now))
            self.release(chunk, chunk.next, chunk.end, started)
        child.chunks.clear()

    def _suspect(self, child: Child) -> Chunk | None:
        """The lease to blame of a slot that has died, and is said not to have begun with it.

        A task can put that back before it ends its process. So nobody is blamed the first time, for the slot may have
        been killed between two tasks; but the task that it was about to begin with is, where that happens to it again.
        """
        chunk = child.chunks[0] if child.chunks else None
        if chunk is None or chunk.ended or child.condemned is not None or child.leaving or child.preparing:
            return None
        task = (chunk.grant.batch, chunk.next)
        if self._suspects.used(task):
            return chunk
        self._suspects.put(task, True, 1)
        return None

    def _is_certain(self, chunk: Chunk) -> bool:
        """Whether it is known which task of a lease broke the protocol; if not, it will be the next time."""
        if chunk.careful or chunk.grant.hi - chunk.grant.lo == 1:
            return True
        name = chunk.spec.function.name
        self._holdings.careful.put(name, True, len(name))
        return False

    def _inherit(self, child: Child, now: float) -> None:
        """Take what it had made and not sent."""
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
        """Index of the first result that cannot be one, as a task has written over it."""
        for index, result in enumerate(results):
            if len(result) > child.terms.max_result:
                return index
            if is_description(result):
                try:
                    self._hold(chunk, named(result))
                except BadMessage:
                    return index
        return len(results)

    # -- what is owed ---------------------------------------------------------------------------------------------

    def _owe(self, outcome: Succeeded | Failed | Released) -> None:
        if outcome.token in self._holdings.chunks:
            if self.transfers is not None and self.transfers.takes(outcome):
                return
            self._holdings.outbox.add(outcome)
            if type(outcome) is Succeeded and not self._holdings.chunks[outcome.token].ended:
                self._gone_on()
            else:
                self._news()

    def _fail(self, chunk: Chunk, index: int, outcome: Outcome, failure: Failure, seconds: float) -> None:
        self._owe(Failed(token=chunk.token, index=index, outcome=outcome, failure=failure, seconds=seconds))

    def release(self, chunk: Chunk, lo: int, hi: int, started: int = 0) -> None:
        """Tasks ``[lo, hi)``, the end of a lease, go back unblamed; so many of them, the first ones, had started."""
        chunk.end = lo
        if lo < hi:
            self._owe(Released(token=chunk.token, lo=lo, hi=hi, started=started))


def _took(seconds: float, chunk: Chunk, now: float) -> float:
    """How long tasks of a lease took: what is said of it, as far as that is possible."""
    most = max(0.0, now - chunk.sent_at)
    return seconds if math.isfinite(seconds) and 0 <= seconds <= most else most
