"""Lanes: what ran when, one lane for each slot of a worker that was busy. Pure.

The coordinator keeps the worker of a task and its times, not the slot: tasks of one worker that overlap lie in
different lanes, so there are as many lanes as slots were busy at once. Times of short tasks, which are reported
together, overlap even in one slot; a worker never has more lanes than slots, where their number is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from dtq.records import dataclass
from dtq.report.gathering import Facts

#: Most bars, and most lanes: a page is to be read.
MOST_BARS: Final = 2_000
MOST_LANES: Final = 64
#: An overlap that may be due to the time that a report takes, in seconds: at most this, and this share of a bar.
_LATE_S: Final = 0.05
_LATE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Tasks that ran one after the other in a slot.

    Attributes:
        worker: the worker's name.
        begin: when the first one started.
        end: when the last one ended.
        function: their function.
        task: id of the first one; empty if unknown.
        count: how many.
        failed: whether it is an attempt that did not succeed.
    """

    worker: str
    begin: float
    end: float
    function: str
    task: str = ""
    count: int = 1
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane.

    Attributes:
        worker: the worker's name.
        number: which of its lanes, from 1.
        bars: in the order of their beginnings.
    """

    worker: str
    number: int
    bars: tuple[Bar, ...]


def bars(facts: Facts) -> list[Bar]:
    """The newest bars."""
    found = [
        Bar(
            worker=row.worker,
            begin=row.ended_at - row.run_s * row.count,
            end=row.ended_at,
            function=row.spec.function.name,
            task=str(row.id),
            count=row.count,
        )
        for row in facts.succeeded
        if row.run_s is not None and row.ended_at is not None
    ]
    found += [
        Bar(
            worker=attempt.worker,
            begin=attempt.started_at,
            end=max(attempt.started_at, attempt.ended_at),
            function=function,
            failed=True,
        )
        for function, attempt in facts.attempts
    ]
    return sorted(found, key=lambda bar: -bar.end)[:MOST_BARS]


def slots(facts: Facts) -> dict[str, int]:
    """The slots of the connected workers, by name."""
    found: dict[str, int] = {}
    for worker in facts.stats.workers:
        found[worker.name] = found.get(worker.name, 0) + worker.slots
    return found


def lanes(found: Iterable[Bar], most: Mapping[str, int] = MappingProxyType({})) -> list[Lane]:
    """The lanes of some bars, by worker; at most `MOST_LANES`.

    Args:
        found: the bars.
        most: most lanes of a worker, by its name, where that is known.
    """
    by_worker: dict[str, list[Bar]] = {}
    for bar in sorted(found, key=lambda bar: (bar.begin, bar.end)):
        by_worker.setdefault(bar.worker, []).append(bar)
    all_of_them = [
        lane for worker in sorted(by_worker) for lane in _laid(worker, by_worker[worker], most.get(worker, 0))
    ]
    return all_of_them[:MOST_LANES]


def _laid(worker: str, found: Iterable[Bar], most: int) -> Iterator[Lane]:
    laid: list[list[Bar]] = []
    for bar in found:
        late_s = min(_LATE_S, _LATE * (bar.end - bar.begin))
        # Of the lanes that are free, the one that was busy last: so idle ones stay idle.
        free = [lane for lane in laid if lane[-1].end <= bar.begin + late_s]
        if free:
            max(free, key=lambda lane: lane[-1].end).append(bar)
        elif most and len(laid) >= most:
            min(laid, key=lambda lane: lane[-1].end).append(bar)
        else:
            laid.append([bar])
    for number, lane in enumerate(laid, 1):
        yield Lane(worker=worker, number=number, bars=tuple(lane))
