"""Limits that orders count against, and the check that they were kept: never more at once than one allows, and never
more starts in any time.

Only what is certain counts: an execution whose end nobody wrote ends when its process was killed, or at its start where
nobody knows; one on a worker that was given up is not looked at, for its lease had been taken back.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from dtq.model.limits import Limit
from dtq.model.service import Service
from soak_rig.explain import GRANT_S, Faults, Outages, overlaps, place
from soak_rig.orders import BOUNDS
from soak_rig.records import Execution, Records
from soak_rig.verdict import Violation


def set_bounds(service: Service) -> None:
    """Set the limits; those of tenants by one rule."""
    for name, bound in BOUNDS.items():
        name = "tenant-*" if name.startswith("tenant-") else name
        if isinstance(bound, int):
            service.set_limit(Limit(name=name, concurrency=bound))
        else:
            service.set_limit(Limit(name=name, starts=int(bound[0]), per_s=1.0, burst=bound[1]))


def check_bounds(records: Records, faults: Faults) -> Iterator[Violation]:
    """No limit was exceeded."""
    by_name: dict[str, list[tuple[Execution, str]]] = defaultdict(list)
    for submitted, _, tag in records.tasks():
        for name in submitted.order.options.get("limits", ()):
            by_name[name] += [(execution, tag) for execution in records.executions.get(tag, ())]
    for name, runs in by_name.items():
        runs.sort(key=lambda run: run[0].start)
        bound = BOUNDS[name]
        if isinstance(bound, int):
            yield from _check_concurrency(name, bound, runs, faults)
        else:
            yield from _check_rate(name, *bound, runs, faults)


def _end_of(run: Execution, faults: Faults) -> float:
    """When an execution was over at the earliest."""
    if run.end is not None:
        return run.end
    killed = [faults.worker_kills.get(run.worker), faults.slot_kills.get((run.worker, run.pid))]
    return min([at for at in killed if at is not None and at > run.start], default=run.start)


def _check_concurrency(name: str, most: int, runs: list[tuple[Execution, str]], faults: Faults) -> Iterator[Violation]:
    running: list[tuple[float, str]] = []
    for run, tag in runs:
        end = _end_of(run, faults)
        if overlaps(faults.given_up[place(run.worker)], run.start, end):
            continue
        while running and running[0][0] <= run.start:
            heapq.heappop(running)
        heapq.heappush(running, (end, tag))
        if len(running) > most:
            beside = ", ".join(other for _, other in running)
            yield Violation("limits", run.start, f"{len(running)} ran under {name!r} at {run.start:.3f}: {beside}")


def _check_rate(
    name: str, rate: float, burst: int, runs: list[tuple[Execution, str]], faults: Faults
) -> Iterator[Violation]:
    """A start is the moment of the lease: executions may follow it by as much as a lease is on the way."""
    busy = [(done.begin, done.end) for done in faults.all if done.kind.startswith("busy")]
    spans = [span for spans in faults.disturbed.values() for span in spans]
    quiet = Outages([*spans, *busy, *faults.coordinator_away])
    least = before = float("inf")
    for number, (run, tag) in enumerate(runs):
        if quiet.touch(run.start - GRANT_S, run.start + GRANT_S):
            least = float("inf")
            continue
        least = min(least, number - rate * run.start)
        if number + 1 - rate * (run.start + GRANT_S) - least > burst + 1e-6 and before != least:
            before = least  # once for each beginning
            yield Violation("limits", run.start, f"{tag} was one start too many under {name!r} by {run.start:.3f}")
