"""Which fault explains what: windows of time, as tight as the promises of the queue allow.

A graceful restart explains nothing, a stopped coordinator explains nothing, and a worker that was stopped or out of
reach explains something only where that lasted so long that its lease may have run out. An execution needs a fault of
its own worker, its own slot, or a coordinator that was killed in the very moment of its lease.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from soak_rig.director import Done
from soak_rig.plan import LEASE_S, MODES, WORKERS
from soak_rig.records import Execution, Records

#: How long the report of an ended task takes to become durable while everybody is well, in seconds, on a busy machine.
REPORT_S: Final = 0.5
#: How long after an outage a worker is back: its longest pause between two attempts, and the attempt.
BACK_S: Final = 2.5
#: How long a lease may be on the way: granted, but not on disk, or not in the slot.
GRANT_S: Final = 0.5
#: What takes longer may cost a worker its leases: a lease less the time since its last report.
SILENCE_S: Final = LEASE_S * 2 / 3 - 0.3
#: A worker whose connection ended has so long to come back, less what it may need to notice.
GRACE_S: Final = 0.3
#: Clocks and the order of writes, in seconds.
EPSILON_S: Final = 0.05

Span = tuple[float, float]

#: Wire faults that end connections.
_ENDING: Final = ("cut wire", "drop wire up", "drop wire down")


def merged(spans: Iterable[Span], gap_s: float = 0.0) -> list[Span]:
    """Spans as few as possible; those less than a gap apart are one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1] + gap_s:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def overlaps(spans: list[Span], begin: float, end: float) -> bool:
    """Whether any of the spans touches ``[begin, end]``."""
    return any(a <= end and b >= begin for a, b in spans)


class Faults:
    """What was done, by whom it hit."""

    def __init__(self, records: Records) -> None:
        self.all = sorted(records.chronicle.faults, key=lambda done: done.begin)
        self._records = records
        by_kind: dict[str, list[Done]] = defaultdict(list)
        for done in self.all:
            by_kind[done.kind].append(done)
        self.coordinator_kills = [done.begin for done in by_kind["kill coordinator"]]
        #: When the coordinator could not answer.
        self.coordinator_away = merged(
            (done.begin, (done.back or done.end) + BACK_S)
            for kind in ("kill coordinator", "restart coordinator", "stop coordinator")
            for done in by_kind[kind]
        )
        self.worker_kills = {done.who: done.begin for done in by_kind["kill worker"]}
        self.worker_ends = {done.who: (done.begin, done.end) for done in by_kind["end worker"]}
        self.slot_kills = {(done.who, done.pid): done.begin for done in by_kind["kill slot"]}
        #: When the way between a worker (by its plan's name) and the coordinator was disturbed at all.
        self.disturbed: dict[str, list[Span]] = {name: [] for name in WORKERS}
        #: When it was so long that the worker may have been given up.
        self.given_up: dict[str, list[Span]] = {name: [] for name in WORKERS}
        for name in WORKERS:
            self._look_at(name)
        #: Per slot, the starts of executions that never ended.
        self.unended: dict[tuple[str, int], list[Execution]] = defaultdict(list)
        for executions in records.executions.values():
            for execution in executions:
                if execution.end is None:
                    self.unended[execution.worker, execution.pid].append(execution)

    def _look_at(self, name: str) -> None:
        own = [done for done in self.all if done.target == name]
        silent = [(d.begin, d.end) for d in own if d.kind in ("stop worker", "stop slot", *MODES)]
        self.disturbed[name] = merged([(begin, end + BACK_S) for begin, end in silent])
        quiet = merged([(d.begin, d.end) for d in own if d.kind in MODES or d.kind == "stop worker"], BACK_S)
        ended = [(d.begin, d.end) for d in own if d.kind in _ENDING and d.end - d.begin > GRACE_S]
        long = [(begin, end) for begin, end in quiet if end - begin > SILENCE_S]
        self.given_up[name] = merged([(begin, end + BACK_S) for begin, end in [*ended, *long]])

    def settled_by(self, execution: Execution, latest: float) -> float:
        """When the outcome of an execution is on disk at the latest."""
        if execution.end is None:
            return latest
        at = execution.end + REPORT_S
        away = merged([*self.coordinator_away, *self.disturbed[place(execution.worker)]])
        for begin, end in away:
            if begin <= at <= end + REPORT_S:
                at = end + REPORT_S
        return min(at, latest)

    def why_again(self, execution: Execution, again: Execution) -> str:
        """Why a task was executed once more after an execution that did not fail by itself; "" where nothing tells."""
        settled = self.settled_by(execution, again.start)
        worker = place(execution.worker)
        killed = self.worker_kills.get(execution.worker)
        if killed is not None and execution.start - EPSILON_S <= killed <= settled:
            return "worker killed"
        if overlaps(self.given_up[worker], execution.start, settled):
            return "worker silent for longer than a lease"
        ended = self.worker_ends.get(execution.worker)
        if ended is not None and ended[0] <= settled and execution.start <= ended[1]:
            return "worker ended at once"
        if self._slot_died(execution):
            return "slot died"
        if self.was_unwritten(execution):
            return "coordinator killed at the lease"
        # An older lease: it was taken back meanwhile, but its worker could not be told. It counts no more. Where it was
        # thought not to have started, its successor is the same attempt.
        if again.attempt <= execution.attempt and overlaps(
            self.given_up[place(again.worker)], again.start - BACK_S, again.start
        ):
            return "old lease of a silent worker"
        return ""

    def was_unwritten(self, execution: Execution) -> bool:
        """Whether a task may have been granted that was not on disk when its coordinator was killed."""
        return any(kill - GRANT_S <= execution.start <= kill + GRANT_S for kill in self.coordinator_kills)

    def _slot_died(self, execution: Execution) -> bool:
        """Whether the slot died in this execution, or in a later task of the same chunk before the results left it."""
        slot = (execution.worker, execution.pid)
        end = execution.end
        if end is None:
            killed = self.slot_kills.get(slot)
            return killed is not None and execution.start <= killed + EPSILON_S
        kill = self.slot_kills.get(slot)
        if kill is not None and execution.start <= kill <= end + EPSILON_S:
            return True
        return any(
            other.id[0] == execution.id[0] and execution.id[1] < other.id[1] and other.start - end < EPSILON_S
            for other in self.unended[slot]
            if other.start >= end
        )

    def near(self, at: float, margin_s: float = 3.0) -> list[Done]:
        """The faults around a moment."""
        return [d for d in self.all if d.begin - margin_s <= at <= max(d.end, d.back) + margin_s]


def place(worker: str) -> str:
    """The plan's name of a worker's start."""
    return worker.rpartition("-")[0]


class Outages:
    """Looks up quickly whether a moment's neighbourhood was quiet."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = merged(spans)
        self._begins = [begin for begin, _ in self._spans]

    def touch(self, begin: float, end: float) -> bool:
        """Whether an outage overlaps ``[begin, end]``."""
        at = bisect_right(self._begins, end)
        return at > 0 and self._spans[at - 1][1] >= begin
