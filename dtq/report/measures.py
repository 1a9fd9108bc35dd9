"""Measures of a report: percentiles of times, throughput over time, failures by kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dtq.model.dashboard import History
from dtq.model.snapshots import DeadLetter, TaskView
from dtq.records import dataclass
from dtq.report.gathering import Facts
from dtq.wording import duration

#: Most functions, and kinds of failures, that are told apart; and points of a series.
_KINDS: Final = 12
_POINTS: Final = 180
#: Stands for all functions.
ALL: Final = "all functions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How values are spread.

    Attributes:
        count: how many there are.
        mean: their mean.
        p50: half of them are at most this.
        p90: nine of ten.
        p99: ninety-nine of a hundred.
        most: the largest.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    most: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The spread as texts for a table: number, mean, percentiles, longest."""
        return (f"{self.count:,}", *map(duration, (self.mean, self.p50, self.p90, self.p99, self.most)))


def spread(weighted: Iterable[tuple[float, int]]) -> Spread | None:
    """The spread of values, each so many times; None of none."""
    pairs = sorted(pair for pair in weighted if pair[1] > 0)
    total = sum(weight for _, weight in pairs)
    if not total:
        return None

    def percentile(percent: int) -> float:
        rank, seen = -(-total * percent // 100), 0
        for value, weight in pairs:
            seen += weight
            if seen >= rank:
                return value
        return pairs[-1][0]

    mean = sum(value * weight for value, weight in pairs) / total
    p50, p90, p99 = (percentile(percent) for percent in (50, 90, 99))
    return Spread(count=total, mean=mean, p50=p50, p90=p90, p99=p99, most=pairs[-1][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times of a function's tasks.

    Attributes:
        function: the function; `ALL` for all of them.
        waits: from submission to the start of the attempt that succeeded; None if unknown.
        runs: from start to end, of tasks that succeeded; None if unknown.
    """

    function: str
    waits: Spread | None
    runs: Spread | None


def times(succeeded: Sequence[TaskView]) -> list[Times]:
    """The times of all tasks, and then of each function, of those with most tasks."""
    rows: dict[str, list[TaskView]] = {}
    for row in succeeded:
        rows.setdefault(row.spec.function.name, []).append(row)
    largest = sorted(rows, key=lambda name: -sum(row.count for row in rows[name]))[:_KINDS]
    found = [_times(ALL, succeeded)] if succeeded else []
    return found + [_times(name, rows[name]) for name in largest if len(rows) > 1]


def _times(function: str, rows: Sequence[TaskView]) -> Times:
    runs = spread((row.run_s, row.count) for row in rows if row.run_s is not None)
    return Times(function=function, waits=spread(_waits(rows)), runs=runs)


def _waits(rows: Sequence[TaskView]) -> Iterator[tuple[float, int]]:
    for row in rows:
        if row.run_s is not None and row.ended_at is not None:
            # Of tasks that were reported together, the middle one stands for all.
            start = row.ended_at - row.run_s * (row.count + 1) / 2
            yield max(0.0, start - row.submitted_at), row.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Dead letters of one kind.

    Attributes:
        name: the exception, or how the last attempt ended.
        count: how many there are.
        functions: their functions, the most frequent first.
        example: the newest of them.
    """

    name: str
    count: int
    functions: tuple[str, ...]
    example: DeadLetter

    @property
    def told(self) -> str:
        """The newest of them in a line: its id, and the exception's message."""
        return ": ".join(filter(None, [str(self.example.id), self.example.message]))


def kinds(letters: Sequence[DeadLetter]) -> list[Kind]:
    """The kinds of dead letters, the most frequent first; all others are left out."""
    by_name: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_name.setdefault(letter.exception or letter.outcome.value.replace("_", " "), []).append(letter)
    found = [
        Kind(
            name=name, count=len(of_it), functions=_most_frequent(letter.function for letter in of_it), example=of_it[0]
        )
        for name, of_it in by_name.items()
    ]
    return sorted(found, key=lambda kind: -kind.count)[:_KINDS]


def _most_frequent(names: Iterable[str]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts, key=lambda name: -counts[name])[:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Numbers over time.

    Attributes:
        begin: when the first interval began.
        step_s: length of an interval, in seconds.
        submitted: accepted tasks per second, in each interval.
        done: succeeded tasks per second.
        failed: unsuccessful attempts per second.
        backlog: waiting tasks at its end.
    """

    begin: float
    step_s: float
    submitted: tuple[float, ...] = ()
    done: tuple[float, ...] = ()
    failed: tuple[float, ...] = ()
    backlog: tuple[int, ...] = ()

    @property
    def end(self) -> float:
        """When the last interval ended."""
        return self.begin + self.step_s * len(self.done)


def series(facts: Facts) -> Series | None:
    """The throughput over the report's time: by the second as long as that is known, else by the minute."""
    seen = facts.seen
    wanted_s = seen.now - max(facts.since or 0.0, seen.started_at)
    finest = sorted((one for one in seen.history if one.done), key=lambda one: one.step_s)
    if not finest:
        return None
    fitting = [one for one in finest if one.step_s * len(one.done) >= wanted_s - one.step_s]
    return _thinned(fitting[0] if fitting else finest[-1], wanted_s)


def _thinned(history: History, wanted_s: float) -> Series:
    """A history of at most so many last seconds, in few intervals."""
    count = min(len(history.done), max(1, -int(-wanted_s // history.step_s)))
    step_s = history.step_s
    submitted, done, failed = (
        tuple(value / step_s for value in values[-count:])
        for values in (history.submitted, history.done, history.failed)
    )
    whole = Series(
        begin=history.end - count * step_s,
        step_s=step_s,
        submitted=submitted,
        done=done,
        failed=failed,
        backlog=history.backlog[-count:],
    )
    return thinned(whole, _POINTS)


def thinned(whole: Series, most: int) -> Series:
    """The same numbers in at most so many intervals; the first one may begin before anything is known."""
    count = len(whole.done)
    group = max(1, -(-count // most))
    missing = -count % group
    starts = range(0, count + missing, group)

    def means(values: Sequence[float]) -> tuple[float, ...]:
        padded = [0.0] * missing + list(values)
        return tuple(sum(padded[at : at + group]) / group for at in starts)

    return Series(
        begin=whole.begin - missing * whole.step_s,
        step_s=whole.step_s * group,
        submitted=means(whole.submitted),
        done=means(whole.done),
        failed=means(whole.failed),
        backlog=tuple(whole.backlog[at + group - 1 - missing] for at in starts),
    )
