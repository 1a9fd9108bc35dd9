"""Invariants of the machine's state, which hold after every command; tests check them after each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TypeVar

from dtq.core import wall_moments
from dtq.core.batches import Batch
from dtq.core.changes import Parent
from dtq.core.elements import WAITING
from dtq.core.heap import RunHeap, Tops
from dtq.core.limits import Bucket
from dtq.core.lines import Group, Standing
from dtq.core.machine import Machine
from dtq.core.needs import Room
from dtq.core.queue_state import QueueState
from dtq.model.states import State

K = TypeVar("K", bound=Hashable)


def check(machine: Machine) -> None:
    """Raise AssertionError, with the disagreeing values, unless the state is consistent.

    Every count is recomputed from the facts; every waiting task is in a heap; every lease belongs to a live batch and a
    known worker; no two leases overlap; no finished batch or task is in memory. Whatever waits has a waker: the end of
    what it waits for, a moment to come, or a place where the next grant looks.
    """
    queue_state = machine.queue_state
    counted: Counter[tuple[str, State]] = Counter()
    waiting = [heap for line in queue_state.lines for heap in line.heaps()]
    waiting += [heap for _, heap in queue_state.held_back.values()]
    runs = [run for heap in waiting for run in heap.runs()] + queue_state.aside
    in_ready = _covered([(run.batch, run.lo, run.hi) for run in runs])
    for number, batch in queue_state.batches.items():
        assert number == batch.number
        _check_batch(queue_state, batch, counted, in_ready)
    for queue, counts in queue_state.tally.queues().items():
        for state, count in counts.items():
            assert counted[queue, state] == count, f"queue {queue}: {state} is {count}, not {counted[queue, state]}"
    assert queue_state.tally.unfinished == sum(counted.values()), "the total of unfinished tasks is off"
    _check_leases(queue_state)
    assert queue_state.slots == sum(worker.capacity for worker in queue_state.workers.values()), (
        "the slots are miscounted"
    )
    live = {batch.entry for batch in queue_state.batches.values()}
    assert queue_state.spec_bytes == sum(entry.size for entry in live), "the bytes of the specs are miscounted"
    _check_dependencies(queue_state)
    _check_lines(queue_state)
    _check_rooms(queue_state)
    _check_keys(queue_state)
    _check_fronts(queue_state)
    _check_moments(machine)


def _check_keys(queue_state: QueueState) -> None:
    keyed: dict[str, list[int]] = {}
    for number, batch in sorted(queue_state.batches.items(), reverse=True):
        if batch.key is not None:
            keyed.setdefault(batch.key, []).append(number)
    assert {key: queue_state.keys.all(key) for key in queue_state.keys} == keyed, (
        "the keys are not those of live batches"
    )


def _covered(ranges: list[tuple[int, int, int]]) -> dict[int, set[int]]:
    covered: dict[int, set[int]] = {}
    for batch, lo, hi in ranges:
        covered.setdefault(batch, set()).update(range(lo, hi))
    return covered


def _check_batch(
    queue_state: QueueState, batch: Batch, counted: Counter[tuple[str, State]], in_ready: dict[int, set[int]]
) -> None:
    ready = in_ready.get(batch.number, set())
    leases = [lease for lease in queue_state.leases.values() if lease.batch is batch]
    running = [index for lease in leases for index in range(lease.lo, lease.hi)]
    assert len(running) == len(set(running)), f"batch {batch.number}: leases overlap"
    assert batch.running == len(running), f"batch {batch.number}: running is {batch.running}, not {len(running)}"
    assert batch.finished_at is None, f"batch {batch.number}: finished, but in memory"
    assert not batch.complete or batch.ended < batch.size, f"batch {batch.number}: all tasks ended, but in memory"
    assert all(index < batch.next for index in running)
    counted[batch.queue, State.RUNNING] += len(running)
    waiting = 0
    for index, task in (batch.tasks or {}).items():
        if task.state is State.CANCELLED:
            assert index >= batch.next, f"{batch.number}.{index}: cancelled, but in memory"
        elif task.state is State.BLOCKED:
            assert batch.blocked or _waits_by_itself(queue_state, batch, index), (
                f"{batch.number}.{index} waits for nothing"
            )
            counted[batch.queue, task.state] += 1
            waiting += 1
        elif index >= batch.next:
            assert task.after, f"{batch.number}.{index}: {task.state} beyond the frontier"
            assert (task.state is State.SCHEDULED) is (batch.due_at is not None)
            counted[batch.queue, task.state] += 1
            waiting += 1
        elif task.state is State.RUNNING:
            assert index in running, f"{batch.number}.{index}: runs without a lease"
        else:
            assert task.state in (State.PENDING, State.SCHEDULED), f"{batch.number}.{index}: {task.state} in memory"
            assert task.state is State.SCHEDULED or index in ready, f"{batch.number}.{index}: in no heap"
            counted[batch.queue, task.state] += 1
            waiting += 1
    fresh = [i for i in range(batch.next, batch.limit) if batch.task(i) is None]
    for index in fresh:
        state = batch.state_of_fresh(index)
        counted[batch.queue, state] += 1
        assert state is not State.PENDING or index in ready, f"{batch.number}.{index}: fresh, and in no heap"
    everything = batch.ended + len(running) + waiting + len(fresh)
    assert everything == batch.size, f"batch {batch.number}: {everything} tasks accounted for, of {batch.size}"


def _waits_by_itself(queue_state: QueueState, batch: Batch, index: int) -> bool:
    """Whether a task waits for others by itself."""
    task = batch.task(index)
    after = () if task is None else task.after
    if batch.flow is not None:
        after = (*after, *((number, index, index + 1, True) for number, _, _ in batch.flow.each))
    return any(_is_awaited(queue_state, parent) for parent in after)


def _is_awaited(queue_state: QueueState, parent: Parent) -> bool:
    number, lo, hi, _ = parent
    live = queue_state.batches.get(number)
    return live is not None and (hi == 0 or queue_state.dependencies.unended(live, lo, hi) > 0)


def _check_elements(queue_state: QueueState, batch: Batch) -> None:
    """How far a batch whose tasks wait one by one is ready is what follows from where its parents stand."""
    frontier, flow = batch.frontier, batch.flow
    assert (frontier is None) is (flow is None or not flow.each)
    if frontier is None or flow is None:
        return
    for number, size, _ in flow.each:
        live = queue_state.batches.get(number)
        assert batch.size <= size
        if live is None or not batch.fresh:
            continue  # all that may still run of it has left the common path, or has been put back
        awaited = queue_state.dependencies.awaited[number]
        assert awaited.each is not None
        assert any(child is batch for child in awaited.each.children)
        assert awaited.each.ended is not None
        ended = [index for index in range(live.size) if not queue_state.dependencies.unended(live, index, index + 1)]
        known = [index for lo, hi in awaited.each.ended for index in range(lo, hi)]
        assert known == ended, f"of {number}, {known} are thought to have ended, not {ended}"
    for index in range(batch.next, batch.limit):
        waits = _waits_by_itself(queue_state, batch, index)
        if batch.task(index) is None:
            assert not waits or index >= frontier.ready, f"{batch.number}.{index} is ready, and waits"
            if index == frontier.ready:
                assert waits, f"{batch.number}.{index} waits for nothing"


def _check_dependencies(queue_state: QueueState) -> None:
    dependencies = queue_state.dependencies
    assert not dependencies.todo, "ends of what others wait for have not been worked off"
    flows = {n: batch.flow for n, batch in queue_state.batches.items() if batch.flow is not None}
    items = {
        (number, index): task
        for number, batch in queue_state.batches.items()
        for index, task in (batch.tasks or {}).items()
        if task.after and not task.state.final
    }
    edges = sum(len(flow.after) + len(flow.each) for flow in flows.values())
    edges += sum(len(task.after) for task in items.values())
    assert dependencies.edges == edges, "the edges are miscounted"
    waits = {}
    for number, flow in flows.items():
        if flow.blocked and not (flow.why and queue_state.batches[number].cut is None):
            waits[number] = 0
            waits[number] = sum(_is_awaited(queue_state, parent) for parent in flow.after)
            assert waits[number], f"batch {number} waits for nothing"
    assert dependencies.waits == waits, f"{dependencies.waits} are waited for, not {waits}"
    for number in flows:
        _check_elements(queue_state, queue_state.batches[number])
    item_waits = {
        at: count
        for at, task in items.items()
        if task.state is State.BLOCKED and (count := sum(_is_awaited(queue_state, parent) for parent in task.after))
    }
    assert dependencies.item_waits == item_waits, f"{dependencies.item_waits} are waited for, not {item_waits}"
    needed = Counter(parent for flow in flows.values() for parent in {p[0] for p in flow.after if p[3]})
    needed.update(number for flow in flows.values() for number in {each[0] for each in flow.each})
    needed.update(number for task in items.values() for number in {p[0] for p in task.after if p[3]})
    assert dependencies.kept.needed == needed, f"the results of {dependencies.kept.needed} are needed, not of {needed}"
    for number, awaited in dependencies.awaited.items():
        assert number in queue_state.batches, f"batch {number} is waited for, and has ended"
        assert not awaited.empty


def _check_leases(queue_state: QueueState) -> None:
    held = {token: lease for worker in queue_state.workers.values() for token, lease in worker.leases.items()}
    assert held == queue_state.leases, "the workers' leases are not all leases"
    for worker in queue_state.workers.values():
        queued = [lease for lease in worker.leases.values() if lease.before is not None]
        assert worker.queued == len(queued), f"{worker.name}: the leases behind others are miscounted"
        for lease in queued:
            assert lease.before is not None
            assert lease.chain is lease.before.chain, f"lease {lease.token}: it is in another chain"
            assert lease.before.successor is lease, f"lease {lease.token}: it is behind one that does not know it"
            assert queue_state.leases.get(lease.before.token) is lease.before, f"lease {lease.token} is behind none"
            assert lease.batch.blocked, f"lease {lease.token} is behind another, and waits for nothing"
    for token, lease in queue_state.leases.items():
        assert token == lease.token
        assert lease.before is not None or not lease.batch.blocked, f"lease {token}: its task waits for another one"
        assert lease.lo < lease.hi, f"lease {token} is empty"
        assert queue_state.batches.get(lease.batch.number) is lease.batch, f"lease {token}: its batch is gone"
        assert queue_state.workers.get(lease.worker.session) is lease.worker, f"lease {token}: its worker is gone"


def _check_rooms(queue_state: QueueState) -> None:
    for worker in queue_state.workers.values():
        held = [lease for lease in worker.leases.values() if lease.batch.entry.need is not None]
        assert all(lease.hi - lease.lo == 1 and lease.units is not None for lease in held), "a need has no units"
        spread = sum(lease.batch.entry.need.slots - 1 for lease in held if lease.batch.entry.need is not None)
        assert worker.spread == spread, f"{worker.name}: its slots are miscounted"
        if worker.room is None:
            continue
        again = Room(worker.room.slots, worker.room.offers)
        for lease in held:
            for portion in lease.units or ():
                assert set(portion.units) <= set(again.units.get(portion.name, portion.units)), "a unit is given twice"
            again.took(lease.units or ())
        assert (worker.room.units, worker.room.sums) == (again.units, again.sums), f"{worker.name}: its room is off"
        assert all(amount >= 0 for amount in again.sums.values()), f"{worker.name} is given more than it has"
    lines = Counter(line.need.name for line in queue_state.lines if line.need is not None)
    assert lines == {name: kind.lines for name, kind in queue_state.lines.needed.items()}, "the needs are miscounted"


def _check_lines(queue_state: QueueState) -> None:
    used: Counter[str] = Counter()
    for lease in queue_state.leases.values():
        for name in lease.batch.limits:
            used[name] += lease.hi - lease.lo
    buckets = queue_state.limits.buckets
    for name in used.keys() | buckets.keys():
        bucket = buckets.get(name)
        if bucket is None:
            assert queue_state.limits.governing(name) is None, f"limit {name}: {used[name]} run, and are not counted"
        elif bucket.rule is not None:
            assert bucket.used == used[name], f"limit {name}: {bucket.used} counted, {used[name]} run"
    refers: Counter[int] = Counter()
    for line in queue_state.lines:
        assert queue_state.lines.get(line.name) is line
        for limits, group in (line.groups or {}).items():
            assert group.limits == limits
            assert group.line is line
            refers.update(id(bucket) for bucket in group.buckets)
            stands = [bucket for bucket in buckets.values() if _stands(bucket, group)]
            expected = list(group.buckets) if group.parked is None else [group.parked]
            assert {id(bucket) for bucket in stands} == {id(bucket) for bucket in expected}, (
                f"{limits} stands elsewhere"
            )
    for bucket in buckets.values():
        assert bucket.groups == refers[id(bucket)], f"limit {bucket.name}: its groups are miscounted"
        for name, standing in bucket.standings.items():
            assert queue_state.lines.get(name) is not None, f"limit {bucket.name}: the line {name} is gone"
            assert standing.open or standing.parked, f"limit {bucket.name}: nothing of {name} stands there"
            wakes = not standing.parked or bucket.full or bucket.timer_at is not None
            wakes = wakes or _is_behind_another(queue_state, standing, name)
            assert wakes, f"limit {bucket.name}: nothing lets go what waits there in {name}"
        timer = (bucket.timer_at, bucket.name)
        assert bucket.timer_at is None or timer in queue_state.limits.timers(), f"limit {bucket.name}: no timer is set"


def _is_behind_another(queue_state: QueueState, standing: Standing, name: str) -> bool:
    """Whether an open group of a line will come up before all that are parked where it stands, and let them go."""
    line = queue_state.lines.get(name)
    assert line is not None
    parked = [run for limits in standing.parked.names() for run in (line.groups or {})[limits].runs()]
    first = min([run[:2] for run in parked if queue_state.waiting_in(run)], default=None)
    places = [line.open.place_of(group.limits) for group in standing.open]
    return first is None or any(place is not None and place[:2] <= first for place in places)


def _stands(bucket: Bucket, group: Group) -> bool:
    standing = bucket.standings.get(group.line.name)
    if standing is None:
        return False
    if group.parked is None:
        return group in standing.open
    assert group not in standing.open
    return any(limits == group.limits for limits in standing.parked.names())


def _check_fronts(queue_state: QueueState) -> None:
    """Whatever may be handed out comes up where a grant looks for it: at its place, or before."""
    lines = queue_state.lines
    for line in lines:
        assert line.paused is (line.queue in lines.paused), f"the line {line.name}: paused is {line.paused}"
        for limits, group in (line.groups or {}).items():
            front = line.open if group.parked is None else group.parked.standings[line.name].parked
            assert _comes_up(front, limits, group), f"{limits} of the line {line.name} never comes up"
        if not line.paused and (lines.several or line.need is not None):
            for heap in line.open_heaps():
                assert _comes_up(lines.front_of(line), line.name, heap, 1), f"the line {line.name} never comes up"


def _comes_up(front: Tops[K], name: K, heap: RunHeap, parts: int = 3) -> bool:
    """Whether an order knows of a heap's first true run; as far as so many parts of its place tell."""
    waits = next((run for run in heap.runs() if run.hi > run.lo), None)
    place = front.place_of(name)
    return waits is None or (place is not None and place[:parts] <= waits[:parts])


def _is_unstarted(batch: Batch) -> bool:
    """Whether tasks of a batch have not started, and may be cancelled for that."""
    if batch.flow is None or batch.flow.lapsed:
        return False
    return batch.fresh > 0 or any(task.attempt == 0 and task.state in WAITING for task in (batch.tasks or {}).values())


def _check_moments(machine: Machine) -> None:
    """Whatever waits for a time has that time among those to come, and the next deadline is not behind it."""
    queue_state, deadline = machine.queue_state, machine.next_deadline()
    steady, wall = set(queue_state.waiting), set(queue_state.on_wall)
    starts = set(queue_state.start_moments)
    for number, batch in queue_state.batches.items():
        for index, task in (batch.tasks or {}).items():
            if task.state is State.SCHEDULED and index < batch.next:
                assert (task.due_at, number, index, index + 1) in steady, f"{number}.{index} is never due"
        for state, lo, hi in batch.fresh_parts():
            if state is State.SCHEDULED:
                heap = wall if wall_moments.waits_for_wall(batch) else steady
                due = _covered([(each[1], each[2], each[3]) for each in heap if each[:2] == (batch.due_at, number)])
                assert due.get(number, set()) >= set(range(lo, hi)), f"{number}.{lo}: it is never due"
        if batch.starts_by is not None and _is_unstarted(batch):
            assert any(each == number for _, each in starts), f"batch {number} never lapses"
    moments = [due[0] for due in steady] + [at for at, _ in starts]
    moments += [worker.expires_at for worker in queue_state.workers.values()]
    moments += [bucket.timer_at for bucket in queue_state.limits.buckets.values() if bucket.timer_at is not None]
    moments += [] if queue_state.probe_at is None else [queue_state.probe_at]
    assert deadline <= min(moments, default=deadline), f"{deadline} is behind {min(moments)}"
    assert queue_state.keeping <= queue_state.workers.keys(), "resources are kept at workers that are gone"
