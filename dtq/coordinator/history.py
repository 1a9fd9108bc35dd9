"""The history of the queue: submitted, done and failed tasks of each of the last seconds and minutes, the backlog, and
the age of the oldest ready task.

A fixed number of intervals, in arrays: memory does not grow, and nothing is done for a task. The ticker takes a sample
of the machine's totals at the end of each second in which a commit was made, and of the one after. A queue in which
nothing happens takes none; its seconds are filled in later. Pure: the time is a value.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from dtq.model.dashboard import History, Rates

#: Lengths of the intervals in seconds, and how many of each are kept: 15 minutes by the second, 24 hours by the minute.
SERIES: Final = ((1, 900), (60, 1_440))
#: Seconds over which the present rates are taken.
RATE_S: Final = 10


class Totals(NamedTuple):
    """Totals at one moment, since whenever; all but the last two never fall.

    Attributes:
        submitted: accepted tasks.
        done: succeeded tasks.
        failed: attempts that did not succeed.
        died: tasks that became dead letters.
        lost: lost workers.
        backlog: waiting tasks.
        oldest_ms: age of the oldest ready task in milliseconds; 0 if none waits.
    """

    submitted: int = 0
    done: int = 0
    failed: int = 0
    died: int = 0
    lost: int = 0
    backlog: int = 0
    oldest_ms: int = 0


class _Ring:
    """The latest intervals of one length.

    Args:
        step_s: their length, in seconds.
        size: how many of them are kept.
    """

    def __init__(self, step_s: int, size: int) -> None:
        self.step_s = step_s
        self.size = size
        self.columns = [array("Q", bytes(8 * size)) for _ in Totals._fields]
        #: Number of the next interval, counted from the epoch; and of the first one that is known.
        self.next = self.first = 0

    def begin(self, now: float) -> None:
        """The history begins now."""
        self.next = self.first = int(now // self.step_s)

    def close(self, upto: int, before: Totals, after: Totals) -> None:
        """End all intervals below a number: all that happened since the last sample happened in the last of them."""
        missed = range(max(self.next, upto - self.size), upto - 1)
        for number in missed:
            # What waits at the end was there before, too, if it is old enough.
            oldest_ms = max(0, after.oldest_ms - 1_000 * self.step_s * (upto - 1 - number))
            self._set(number, Totals(backlog=before.backlog, oldest_ms=oldest_ms))
        happened = [max(0, new - old) for new, old in zip(after, before, strict=True)]
        self._set(upto - 1, Totals(*happened)._replace(backlog=after.backlog, oldest_ms=after.oldest_ms))
        self.next = upto

    def _set(self, number: int, values: Sequence[int]) -> None:
        at = number % self.size
        for column, value in zip(self.columns, values, strict=True):
            column[at] = value

    def last(self, count: int) -> list[list[int]]:
        """The last intervals, oldest first, column by column."""
        lo = max(self.first, self.next - min(count, self.size))
        places = [number % self.size for number in range(lo, self.next)]
        return [[column[at] for at in places] for column in self.columns]

    def since(self, moment: float) -> History:
        """The ended intervals that end behind a moment."""
        count = self.next - int(moment // self.step_s) if moment > 0 else self.size
        submitted, done, failed, _, lost, backlog, oldest_ms = map(tuple, self.last(max(0, count)))
        return History(
            step_s=self.step_s,
            end=float(self.next * self.step_s),
            submitted=submitted,
            done=done,
            failed=failed,
            lost=lost,
            backlog=backlog,
            oldest_ms=oldest_ms,
        )


class Recorder:
    """Records the history.

    Args:
        now: when it begins.
        totals: the totals then.
    """

    def __init__(self, now: float, totals: Totals) -> None:
        self._rings = [_Ring(step_s, size) for step_s, size in SERIES]
        for ring in self._rings:
            ring.begin(now)
        self._before = [totals for _ in SERIES]
        #: When the next sample is due; None while nothing happens.
        self.due_at: float | None = None

    def wake(self, now: float) -> float:
        """Something is happening: a sample is due at the end of this second.

        Returns:
            When it is due.
        """
        self.due_at = float(int(now) + 1)
        return self.due_at

    def sample(self, now: float, totals: Totals) -> None:
        """End the intervals that are over. Of a pause in the samples all that happened counts for its last interval.

        Args:
            now: the time.
            totals: the present totals.
        """
        for place, ring in enumerate(self._rings):
            upto = int(now // ring.step_s)
            if upto > ring.next:
                ring.close(upto, self._before[place], totals)
                if place == 0:  # one second in which nothing happened ends the plot; the next commit begins it again
                    is_same = totals._replace(oldest_ms=0) == self._before[0]._replace(oldest_ms=0)
                    self.due_at = None if is_same else float(int(now) + 1)
                self._before[place] = totals

    def rates(self, now: float, totals: Totals) -> Rates:
        """Tasks a second over the last seconds; the second that is under way counts as far as it has come."""
        seconds = self._rings[0]
        if now - seconds.next * seconds.step_s > RATE_S:
            return Rates()  # nothing has happened for so long
        known = [sum(column) for column in seconds.last(RATE_S)]
        so_far = [new - old for new, old in zip(totals, self._before[0], strict=True)]
        over_s = min(RATE_S, seconds.next - seconds.first) + now - seconds.next * seconds.step_s
        submitted, done, failed = (max(0, known[n] + so_far[n]) / max(1.0, over_s) for n in range(3))
        return Rates(submitted=submitted, done=done, failed=failed)

    def last_hour(self, totals: Totals) -> tuple[float, int, int]:
        """Seconds of the last hour that are known; succeeded tasks and failed attempts in them."""
        minutes = self._rings[1]
        _, done, failed, *_ = minutes.last(60)
        before = self._before[1]
        done_now, failed_now = max(0, totals.done - before.done), max(0, totals.failed - before.failed)
        return 60.0 * (len(done) + 1), sum(done) + done_now, sum(failed) + failed_now

    def died_of_late(self, totals: Totals, minutes: int) -> int:
        """How many tasks became dead letters in the last minutes."""
        _, _, _, died, *_ = self._rings[1].last(minutes)
        return sum(died) + totals.died - self._before[1].died

    def since(self, moment: float) -> tuple[History, ...]:
        """The intervals that end behind a moment; 0 for all."""
        return tuple(ring.since(moment) for ring in self._rings)
