"""A machine taken apart into plain values, so that two of them, or one and the model, can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dtq.core import queues, views
from dtq.core.machine import Machine
from dtq.core.queue_state import QueueState
from dtq.model.snapshots import Selection
from dtq.model.states import State


def pending_in_order(queue_state: QueueState) -> list[tuple[int, int, int]]:
    """Rank, batch and index of everything that waits to be handed out, in the order of the heaps."""
    found = []
    for heap in [heap for line in queue_state.lines for heap in line.heaps()]:
        for run in heap.runs():
            batch = queue_state.batches.get(run.batch)
            if batch is None:
                continue
            for index in range(run.lo, run.hi):
                task = batch.task(index)
                own = task is not None and task.state is State.PENDING
                fresh = batch.next <= index < batch.listed(run.hi) and (task is None or own)
                if fresh or (index < batch.next and own):
                    found.append((run.rank, run.batch, index))
    assert len(found) == len(set(found)), "a task is in the heaps twice"
    return sorted(found)


def scheduled_in_order(queue_state: QueueState) -> list[tuple[float, int, int]]:
    """Due time, batch and index of everything that waits for a time."""
    found = set()
    for due_at, number, lo, hi in (*queue_state.waiting._due, *queue_state.on_wall._due):
        batch = queue_state.batches.get(number)
        if batch is None:
            continue
        for index in range(lo, hi):
            task = batch.task(index)
            own = task is not None and task.state is State.SCHEDULED
            ahead = batch.next <= index < batch.listed(hi) and batch.due_at == due_at
            if (ahead and (task is None or own)) or (
                task is not None and task.state is State.SCHEDULED and task.due_at == due_at
            ):
                found.add((due_at, number, index))
    return sorted(found)


def state_of(machine: Machine) -> dict[str, Any]:
    """Everything that outlives a restart."""
    queue_state = machine.queue_state
    return {
        "batches": {number: (batch.row(), batch.running) for number, batch in queue_state.batches.items()},
        "tasks": {
            (number, index): task.row(number, index)
            for number, batch in queue_state.batches.items()
            for index, task in (batch.tasks or {}).items()
        },
        "leases": {token: lease.row() for token, lease in queue_state.leases.items()},
        "holders": {
            worker.session: (worker.name, set(worker.leases))
            for worker in queue_state.workers.values()
            if worker.leases
        },
        "holds": sorted((row.session, row.digest, row.description, row.ttl_s) for row in queue_state.holds.rows()),
        "counts": queue_state.tally.counts(),
        "queues": queue_state.tally.queues(),
        "limits": list(queue_state.limits),
        "used": {b.name: b.used for b in queue_state.limits.buckets.values() if b.rule is not None and b.used},
        "steering": {queue: queues.steering(queue_state, queue) for queue in queues.steered(queue_state)},
        "pending": pending_in_order(queue_state),
        "scheduled": scheduled_in_order(queue_state),
        "waits": queue_state.dependencies.waits,
        "waits of tasks": queue_state.dependencies.item_waits,
        "ready": {n: max(b.next, b.listed(b.size)) for n, b in queue_state.batches.items() if b.frontier is not None},
        "needed": queue_state.dependencies.kept.needed,
        "edges": queue_state.dependencies.edges,
        "awaited": sorted(awaited(queue_state)),
        "keys": queue_state.keys,
        "schedules": list(machine.schedules.rows()),
        "due times": machine.schedules.next_at(),
        "open": set(queue_state.open),
        "specs": {number: entry.spec for number, entry in queue_state.specs_by_number.items() if entry.batches},
        "totals": replace(queue_state.totals(), clock=0.0),  # the clock goes on without being written each time
    }


def awaited(queue_state: QueueState) -> Iterator[tuple[int, ...]]:
    """What waits for what: batch, range, how many of it have not ended, and what waits."""
    waits, item_waits = queue_state.dependencies.waits, queue_state.dependencies.item_waits
    for number, found in queue_state.dependencies.awaited.items():
        singles = [(index, index + 1, 1, waiter) for index, some in found.by_index.items() for waiter in some]
        spans = [(span.lo, span.hi, span.left, span.child) for span in found.spans]
        for lo, hi, left, (child, index) in [*singles, *spans, *((0, 0, 0, waiter) for waiter in found.whole)]:
            own = index >= 0 and (child.number, index) in item_waits
            if (own or (index < 0 and child.number in waits)) and queue_state.batches[child.number] is child:
                yield number, lo, hi, left, child.number, index


def states_shown(machine: Machine) -> dict[State, int]:
    """How many tasks people find in each unfinished state, by looking at each of them, and by listing them."""
    seen = dict.fromkeys((State.BLOCKED, State.SCHEDULED, State.PENDING, State.RUNNING), 0)
    for batch in machine.queue_state.batches.values():
        for index in range(batch.size):
            view = views.task_view(machine, batch, index)
            if view is not None:
                seen[view.state] += 1
    listed = dict.fromkeys(seen, 0)
    for view in views.live_tasks(machine, Selection(limit=0), 0.0):
        listed[view.state] += view.count
    assert listed == seen
    return seen


def unfinished(machine: Machine) -> dict[tuple[int, int], tuple[Any, ...]]:
    """State and counters of each task that is not in a final state, one by one.

    For the machine, what a worker holds is running, whether it has started or not.
    """
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    for number, batch in machine.queue_state.batches.items():
        for index in range(batch.size):
            view = views.task_view(machine, batch, index)
            if view is not None:
                found[number, index] = (
                    State.RUNNING if view.held else view.state,
                    view.due_at,
                    view.attempt + view.held,
                    view.failures,
                    view.crashes,
                    view.cancelling,
                )
    return found
