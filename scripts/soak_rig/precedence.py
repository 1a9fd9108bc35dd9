"""Check of priorities: no task starts while a more urgent one of its queue has waited for more than a second.

Only first executions are looked at, and only quiet moments: a lease that a stopped worker has not begun makes a task
look as if it waited, and no record says whose lease that was.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from soak_rig.ends import name
from soak_rig.explain import GRANT_S, Faults, Outages, place
from soak_rig.records import Execution, Records
from soak_rig.verdict import Violation

#: How long a more urgent task may wait, in seconds.
ALLOWED_S = 1.0
#: How many of those that wait are looked at for each start.
_LOOKED_AT = 20


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A task that waits: from when, until when at least; it may have been leased before it started."""

    priority: int
    since: float
    until: float
    id: tuple[int, int]
    tag: str


def check_precedence(records: Records, faults: Faults) -> Iterator[Violation]:
    """No inversions."""
    quiet = {name: Outages([*spans, *faults.coordinator_away]) for name, spans in faults.disturbed.items()}
    waiting: dict[str, list[_Waiting]] = defaultdict(list)
    starts: dict[str, list[tuple[float, int, Execution, str]]] = defaultdict(list)
    for submitted, _, tag in records.tasks():
        executions = records.executions.get(tag)
        if not executions:
            continue
        first = executions[0]
        for execution in executions:
            starts[submitted.queue].append((execution.start, submitted.priority, execution, tag))
        held_back = submitted.order.after or submitted.order.options.get("limits")
        if submitted.acked_at is not None and first.attempt == 1 and not submitted.cancels and not held_back:
            since = submitted.acked_at + submitted.order.delay_s
            until = first.start - GRANT_S
            if until - since > ALLOWED_S:
                waits = _Waiting(submitted.priority, since, until, first.id, tag)
                waiting[submitted.queue].append(waits)
    for queue, started in starts.items():
        yield from _sweep(sorted(started, key=lambda start: start[0]), waiting[queue], quiet)


def _sweep(
    starts: list[tuple[float, int, Execution, str]], waiting: list[_Waiting], quiet: dict[str, Outages]
) -> Iterator[Violation]:
    """Go through the starts of one queue in their order, with a heap of those that have waited for too long."""
    arriving = sorted(waiting, key=lambda task: task.since, reverse=True)
    heap: list[_Waiting] = []
    for at, priority, execution, tag in starts:
        while arriving and arriving[-1].since + ALLOWED_S < at:
            heapq.heappush(heap, arriving.pop())
        while heap and heap[0].until <= at:
            heapq.heappop(heap)
        if not heap or heap[0].priority >= priority or quiet[place(execution.worker)].touch(at - ALLOWED_S, at):
            continue
        for urgent in heap[:_LOOKED_AT]:
            waits = urgent.priority < priority and urgent.until > at
            if not waits or any(outages.touch(urgent.since, urgent.until + GRANT_S) for outages in quiet.values()):
                continue
            what = (
                f"{name(execution.id)} ({tag}, priority {priority}) started on {execution.worker} at {at:.3f}, while"
                f" {name(urgent.id)} ({urgent.tag}, priority {urgent.priority}) waited from {urgent.since:.3f}"
                f" to {urgent.until:.3f}"
            )
            yield Violation("inversion", at, what)
            break
