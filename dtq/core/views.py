"""The machine's answers about tasks that have not ended; the engine answers about ended ones."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

from dtq.core import unmet, wall_moments
from dtq.core.batches import Batch, SpecEntry, Task
from dtq.core.changes import BatchRow
from dtq.core.heap import Run, RunHeap, ahead
from dtq.core.held import ahead_of, held, held_from, held_state, running_since
from dtq.core.leases import Lease, Worker
from dtq.core.limits import Bucket
from dtq.core.lines import Line
from dtq.core.machine import Machine
from dtq.core.needs import Need
from dtq.core.placing import could_run, free_slots
from dtq.core.queue_state import QueueState
from dtq.core.queues import steered, steering
from dtq.model.globs import Glob, glob
from dtq.model.limits import Limit, LimitView
from dtq.model.options import Spec
from dtq.model.snapshots import BatchView, Counts, QueueView, ResourceView, Selection, TaskView
from dtq.model.states import State, exception_name
from dtq.records import replace
from dtq.wording import counted, duration, utc

#: The states that are not final, in the order of lists.
_LIVE: Final = (State.RUNNING, State.PENDING, State.SCHEDULED, State.BLOCKED)


def batch_view(batch: Batch, now: float, held: int) -> BatchView:
    """A live batch.

    Args:
        batch: the batch.
        now: the time.
        held: how many of its tasks a worker holds and has not started (`core.held`).
    """
    rate = None if batch.pace is None else batch.pace.rate(now, batch.settled)
    waiting = Counter([task.state for task in (batch.tasks or {}).values()])
    for state, count in batch.fresh_counts():
        waiting[state] += count
    waiting[held_state(batch)] += held
    return BatchView(
        batch=batch.number,
        size=batch.size,
        complete=batch.complete,
        spec=batch.spec,
        counts=Counts(
            blocked=waiting[State.BLOCKED],
            scheduled=waiting[State.SCHEDULED],
            pending=waiting[State.PENDING],
            running=batch.running - held,
            succeeded=batch.succeeded,
            dead=batch.dead,
            cancelled=batch.cancelled,
        ),
        submitted_at=batch.submitted_at,
        key=batch.key,
        reason="" if batch.flow is None else batch.flow.why,
        rate=rate,
        left_s=None if rate is None else (batch.size - batch.ended) / rate,
    )


def finished_batch_view(row: BatchRow, spec: Spec) -> BatchView:
    """A batch that is not live, from its row."""
    return BatchView(
        batch=row.batch,
        size=row.size,
        complete=row.complete,
        spec=spec,
        counts=Counts(succeeded=row.succeeded, dead=row.dead, cancelled=row.cancelled),
        submitted_at=row.submitted_at,
        finished_at=row.finished_at,
        key=row.key if row.user_key else None,
        reason="" if row.flow is None else row.flow.why,
    )


def task_view(machine: Machine, batch: Batch, index: int) -> TaskView | None:
    """A task of a live batch that has not ended; None if it has."""
    task = batch.task(index)
    lease = lease_of(machine.queue_state, batch, index)
    if lease is not None:
        return _view(batch, index, 1, state_of(lease, index), task, lease)
    if task is not None:
        return None if task.state.final else _view(batch, index, 1, task.state, task)
    if batch.is_fresh(index):
        return _view(batch, index, 1, batch.state_of_fresh(index), None)
    return None


def lease_of(queue_state: QueueState, batch: Batch, index: int) -> Lease | None:
    """The lease of a task; None if no worker has it."""
    if not batch.running:
        return None
    for lease in queue_state.leases.values():
        if lease.batch is batch and lease.lo <= index < lease.hi:
            return lease
    return None


def state_of(lease: Lease, index: int) -> State:
    """The state of a leased task: running, or as which it is held."""
    return State.RUNNING if index < held_from(lease) else held_state(lease.batch)


def live_tasks(
    machine: Machine, selection: Selection, now: float, specs: Collection[SpecEntry] | None = None
) -> list[TaskView]:
    """Unfinished tasks that match, as runs of like tasks: running tasks first, then in the order they will run.

    Args:
        machine: the machine.
        selection: the selection.
        now: the time.
        specs: the specs that match, if `matching` has found them already.
    """
    queue_state = machine.queue_state
    picker = _Picker(selection, now)
    if specs is None:
        specs = matching(queue_state.specs.values(), selection)
    behind = _Behind(selection, highest_first=queue_state.rules.highest_first)
    found: list[TaskView] = []
    for state in _LIVE:
        if selection.state not in (None, state):
            continue
        among = {lease.batch for lease in queue_state.leases.values()} if state is State.RUNNING else None
        for batch in _in_order(batches(machine, selection, specs, among)):
            lo = behind.first_of(batch, state)
            if lo is None:
                continue
            runs = (view for view in _runs(machine, batch, state) if view.index >= lo)
            found += [view for view in runs if picker.picks(batch, view)]
            if selection.limit and len(found) >= selection.limit:
                return found[: selection.limit]
    return found


class _Behind:
    """Tells which tasks are behind the place at which a list was cut off.

    Args:
        selection: the selection.
        highest_first: whether a higher priority number is served first.
    """

    def __init__(self, selection: Selection, *, highest_first: bool) -> None:
        self._place: tuple[int, int, int] | None = None
        self._index = 0
        if selection.after is not None:
            state, priority, number, self._index = selection.after
            rank = -int(priority) if highest_first else int(priority)
            self._place = _LIVE.index(State(state)), rank, number

    def first_of(self, batch: Batch, state: State) -> int | None:
        """The first task of a batch in a state that is behind; None if there is none."""
        place = _LIVE.index(state), batch.entry.rank, batch.number
        if self._place is None or place > self._place:
            return 0
        return self._index + 1 if place == self._place else None


def batches(
    machine: Machine, selection: Selection, specs: Collection[SpecEntry], among: Iterable[Batch] | None = None
) -> list[Batch]:
    """Live batches that match by id and have these specs; among all of them, or some."""
    queue_state = machine.queue_state
    if among is None:
        numbers = {number for number, _ in selection.ids}
        among = (
            [queue_state.batches[n] for n in numbers if n in queue_state.batches]
            if numbers
            else queue_state.batches.values()
        )
    label = selection.label
    return [batch for batch in among if batch.entry in specs and (label is None or batch.label == label)]


def matching(specs: Iterable[SpecEntry], selection: Selection) -> set[SpecEntry]:
    """The specs that match by queue and function; batches match by label. A peer's glob is matched here, without the
    lock.
    """
    function = None if selection.function is None else glob(selection.function)
    return {
        entry
        for entry in specs
        if (selection.queue is None or entry.spec.options.queue == selection.queue)
        and (function is None or function.matches(entry.spec.function.name))
    }


class _Picker:
    """Selects tasks of matching batches one by one."""

    def __init__(self, selection: Selection, now: float) -> None:
        self._before = inf if selection.older_than_s is None else now - selection.older_than_s
        self._exception: Glob | None = None if selection.exception is None else glob(selection.exception)
        self._outcome = selection.outcome
        self._by_attempt = selection.by_attempt
        #: By batch, the selected indexes, in order; None for all of them.
        self._ids: dict[int, list[int] | None] = {}
        for number, index in sorted(selection.ids, reverse=True):
            wanted = self._ids.setdefault(number, [])
            if index < 0:
                self._ids[number] = None
            elif wanted is not None:
                wanted.append(index)
        for wanted in self._ids.values():
            if wanted is not None:
                wanted.reverse()

    def picks(self, batch: Batch, view: TaskView) -> bool:
        """Whether a run of a batch is selected, or one task of it."""
        if (view.started_at or view.submitted_at) > self._before:
            return False
        if self._by_attempt and not self._picks_attempt(batch.task(view.index)):
            return False
        if not self._ids:
            return True
        wanted = self._ids.get(view.batch, [])
        if wanted is None:
            return True
        at = bisect_left(wanted, view.index)
        return at < len(wanted) and wanted[at] < view.index + view.count

    def _picks_attempt(self, task: Task | None) -> bool:
        """Whether the last unsuccessful attempt of a task is selected."""
        if task is None or (self._outcome is not None and task.outcome is not self._outcome):
            return False
        return self._exception is None or self._exception.matches(exception_name(task.outcome, task.exception))


def _in_order(batches: Iterable[Batch]) -> Iterator[Batch]:
    """By urgency, and then in the order of their acceptance, which is nearly the given order."""
    by_rank: dict[int, list[Batch]] = {}
    for batch in batches:
        by_rank.setdefault(batch.entry.rank, []).append(batch)
    for rank in sorted(by_rank):
        yield from sorted(by_rank[rank], key=attrgetter("number"))


def _runs(machine: Machine, batch: Batch, state: State) -> Iterator[TaskView]:
    """A live batch's tasks in one unfinished state, as runs of like tasks, in rising order."""
    found: list[TaskView] = []
    if batch.running and state in (State.RUNNING, held_state(batch)):
        for lease in machine.queue_state.leases.values():
            if lease.batch is batch:
                found += _leased(batch, lease, state)
    if state is not State.RUNNING:
        for index, task in (batch.tasks or {}).items():
            if task.state is state:
                found.append(_view(batch, index, 1, state, task))
    yield from _merged(sorted(found, key=attrgetter("index")))
    for fresh, lo, hi in batch.fresh_parts() if batch.fresh else ():
        for gap in [*batch.records_in(lo, hi), hi] if fresh is state else ():
            if gap > lo:
                yield _view(batch, lo, gap - lo, state, None)
            lo = gap + 1


#: What neighbours in one line have in common: nothing went wrong with them, and they are in the same place.
_common: Final = attrgetter("attempt", "due_at", "worker", "held", "cancelling", "failures", "crashes", "start_by")


def _merged(found: Iterable[TaskView]) -> Iterator[TaskView]:
    """Views in rising order, neighbours that are alike as one; tasks that run, failed or crashed stay alone."""
    first: TaskView | None = None
    count = 0
    for view in found:
        if first is not None and view.index == first.index + count and _like(first, view):
            count += view.count
            continue
        if first is not None:
            yield first if count == first.count else replace(first, count=count)
        first, count = view, view.count
    if first is not None:
        yield first if count == first.count else replace(first, count=count)


def _like(first: TaskView, second: TaskView) -> bool:
    unharmed = first.state is not State.RUNNING and not (first.failures or first.crashes)
    return unharmed and _common(first) == _common(second)


def _leased(batch: Batch, lease: Lease, state: State) -> Iterator[TaskView]:
    """The running task of a lease, or its held ones."""
    first = held_from(lease)
    lo, hi = (lease.lo, first) if state is State.RUNNING else (first, lease.hi)
    for index in batch.records_in(lo, hi):
        if index > lo:
            yield _view(batch, lo, index - lo, state, None, lease)
        yield _view(batch, index, 1, state, batch.task(index), lease)
        lo = index + 1
    if lo < hi:
        yield _view(batch, lo, hi - lo, state, None, lease)


def _view(
    batch: Batch, index: int, count: int, state: State, task: Task | None, lease: Lease | None = None
) -> TaskView:
    due_at = batch.due_at if state is State.SCHEDULED else None
    attempt = 0
    if task is not None:
        attempt = task.attempt
        due_at = task.due_at if task.due_at is not None or index < batch.next else due_at
    elif lease is not None:
        attempt = lease.attempt
    held = lease is not None and state is not State.RUNNING
    if held:
        attempt -= 1  # a lease that never starts is no attempt
    return TaskView(
        batch=batch.number,
        index=index,
        count=count,
        single=batch.single,
        state=state,
        spec=batch.spec,
        attempt=attempt,
        failures=task.failures if task is not None else 0,
        crashes=task.crashes if task is not None else 0,
        submitted_at=batch.submitted_at,
        due_at=due_at,
        started_at=None if lease is None or held else running_since(lease),
        worker=lease.worker.name if lease is not None else "",
        held=held,
        cancelling=task is not None and task.cancelling,
        start_by=None if batch.flow is None or attempt or lease is not None else batch.flow.start_by,
        key=batch.key,
    )


def resources(worker: Worker) -> tuple[ResourceView, ...]:
    """A worker's resources, and its free ones."""
    room = worker.room
    if room is None or room.offers is None:
        return ()
    return tuple(
        ResourceView(
            name=portion.name,
            units=portion.units,
            amount=portion.amount,
            free_units=tuple(room.units.get(portion.name, ())),
            free=max(0, room.free(portion.name)),
        )
        for portion in room.offers.resources
    )


def counts(machine: Machine) -> Counts:
    """The counts of all tasks."""
    queue_state = machine.queue_state
    every = queue_state.tally.counts()
    found = Counter[State]()
    for number, count in held(queue_state).items():
        found[held_state(queue_state.batches[number])] += count
    return replace(
        every,
        running=every.running - found.total(),
        pending=every.pending + found[State.PENDING],
        blocked=every.blocked + found[State.BLOCKED],
    )


def _queue_counts(queue_state: QueueState) -> defaultdict[str, Counter[State]]:
    """The counts of unfinished tasks by queue."""
    every = queue_state.tally.queues().items()
    found = defaultdict(Counter[State], {queue: Counter(numbers) for queue, numbers in every})
    for number, count in held(queue_state).items():
        batch = queue_state.batches[number]
        found[batch.queue][State.RUNNING] -= count
        found[batch.queue][held_state(batch)] += count
    return found


def queues(machine: Machine) -> tuple[QueueView, ...]:
    """The queues with unfinished tasks, with workers of their own, or with a definition."""
    queue_state = machine.queue_state
    counts = _queue_counts(queue_state)
    everywhere = sum(not worker.queues for worker in queue_state.workers.values())
    serving = Counter(name for worker in queue_state.workers.values() for name in set(worker.queues))
    names = set(counts) | serving.keys() | steered(queue_state)
    found = ((name, steering(queue_state, name)) for name in sorted(names))
    return tuple(
        QueueView(
            name=name,
            pending=counts[name][State.PENDING],
            scheduled=counts[name][State.SCHEDULED],
            running=counts[name][State.RUNNING],
            blocked=counts[name][State.BLOCKED],
            workers=everywhere + serving[name],
            paused=how.paused,
            draining=how.draining,
            weight=how.weight,
        )
        for name, how in found
    )


def limits(machine: Machine, now: float) -> list[LimitView]:
    """The limits and their use, in the order of their names."""
    queue_state = machine.queue_state
    buckets: dict[str, list[Bucket]] = {}
    for bucket in queue_state.limits.buckets.values():
        if bucket.rule is not None:
            buckets.setdefault(bucket.rule.limit.name, []).append(bucket)
    return [_limit(queue_state, limit, buckets.get(limit.name, []), now) for limit in queue_state.limits]


def _limit(queue_state: QueueState, limit: Limit, buckets: list[Bucket], now: float) -> LimitView:
    shut = [bucket for bucket in buckets if bucket.shut(now)]
    nexts = [at for bucket in shut if not bucket.full and bucket.standings and (at := bucket.opens_at()) is not None]
    return LimitView(
        limit=limit,
        names=len(buckets),
        running=sum(bucket.used for bucket in buckets),
        waiting=sum(queue_state.lines.waiting_at(bucket, queue_state.waiting_in) for bucket in shut),
        next_at=min(nexts, default=None),
    )


def _why_limited(queue_state: QueueState, limits: tuple[str, ...], now: float) -> str:
    """The limit that keeps tasks of a spec from starting now; "" for none."""
    for name in limits:
        bucket = queue_state.limits.bucket(name)
        rule = None if bucket is None else bucket.rule
        if bucket is None or rule is None or not bucket.shut(now):
            continue
        which = f"the limit {name!r}" if rule.glob is None else f"the limit {name!r} ({rule.limit.name})"
        if bucket.full:
            if not rule.concurrency:
                return f"{which} is closed"
            return f"{which} is reached: {bucket.used} of {rule.concurrency} run"
        wait_s = max(0.0, (bucket.opens_at() or now) - now)
        return f"{which} lets one start every {duration(rule.interval_s or 0.0)}: the next in {duration(wait_s)}"
    return ""


def why_waiting(machine: Machine, view: TaskView, now: float) -> str:
    """Why a waiting task does not run, in one sentence."""
    queue_state = machine.queue_state
    if view.held:
        return _why_held(queue_state, view)
    if view.state is State.BLOCKED:
        return unmet.reason(queue_state, queue_state.batches[view.batch], view.index)
    if view.state is State.SCHEDULED:
        return _why_scheduled(queue_state, view, now)
    if view.state is not State.PENDING:
        return ""
    return next(obstacles(machine, view, now)).sentence


class ObstacleKind(Enum):
    """Kinds of obstacles to a pending task."""

    PAUSED = "paused"  #: its queue is paused
    UNSERVED = "unserved"  #: no worker serves its queue
    UNMET = "unmet"  #: no worker could ever meet its needs
    UNREADY = "unready"  #: the workers that could run it take no tasks now
    LIMITED = "limited"  #: a limit keeps it from starting
    IN_LINE = "in line"  #: it waits for a slot, or for resources in use


class Obstacle(NamedTuple):
    """What keeps a pending task from running.

    Attributes:
        kind: its kind.
        sentence: the same in words.
    """

    kind: ObstacleKind
    sentence: str

    @property
    def lasts(self) -> bool:
        """Whether it does not pass by itself."""
        return self.kind in (ObstacleKind.PAUSED, ObstacleKind.UNSERVED, ObstacleKind.UNMET)


def obstacles(machine: Machine, view: TaskView, now: float) -> Iterator[Obstacle]:
    """All that keeps a task from running that is pending, or as if it were: at least one, the decisive one first."""
    queue_state = machine.queue_state
    options = view.spec.options
    paused = options.queue in queue_state.lines.paused
    if paused:
        yield Obstacle(ObstacleKind.PAUSED, f"the queue {options.queue!r} is paused")
    serving = [w for w in queue_state.workers.values() if not w.queues or options.queue in w.queues]
    if not serving:
        others = "" if queue_state.workers else " (no worker is connected at all)"
        yield Obstacle(ObstacleKind.UNSERVED, f"no worker serves the queue {options.queue!r}{others}")
        return
    batch = queue_state.batches[view.batch]
    able = [worker for worker in serving if could_run(worker, batch)]
    if not able:
        whose = "no connected worker" if len(serving) == len(queue_state.workers) else "no worker that serves its queue"
        need = batch.entry.need
        assert need is not None
        lacking = f"{whose} can ever run it: it needs {need}, and {_most_of(serving, need)}"
        yield Obstacle(ObstacleKind.UNMET, lacking)
        return
    if not any(worker.capacity for worker in able):
        unready = f"every worker that serves the queue {options.queue!r} is draining or has no slot ready"
        yield Obstacle(ObstacleKind.UNREADY, unready)
        return
    held_back = _why_limited(queue_state, batch.limits, now) if batch.limits else ""
    if held_back:
        yield Obstacle(ObstacleKind.LIMITED, held_back)
    elif not paused:
        yield Obstacle(ObstacleKind.IN_LINE, _why_in_line(queue_state, batch, view.index, able))


def _why_held(queue_state: QueueState, view: TaskView) -> str:
    lease = lease_of(queue_state, queue_state.batches[view.batch], view.index)
    if lease is None:
        return ""
    worker = lease.worker.name
    if lease.batch.blocked:
        return f"held by the worker {worker}, right behind the task that it waits for"
    count = ahead_of(lease, view.index)
    where = f"behind {counted(count, 'task')}" if count else "which is about to start it"
    return f"held by the worker {worker}, {where}"


def _why_in_line(queue_state: QueueState, batch: Batch, index: int, able: list[Worker]) -> str:
    """The tasks ahead of a task that some workers could run."""
    entry = batch.entry
    capacity = sum(worker.capacity for worker in able)
    place = Run(entry.urgency, batch.number, index, index)
    still = queue_state.waiting_in
    more_urgent, all_of_them = ahead(_beside(queue_state, able, entry.queue), Run(entry.urgency, 0, 0, 0), still)
    count, exact = ahead(_open_heaps(queue_state, able, entry.queue), place, still)
    count, exact = count + more_urgent, exact and all_of_them
    before = f"{'' if exact else 'more than '}{counted(count, 'task is', 'tasks are')} ahead of it"
    if entry.need is not None and (in_use := _in_use(able, entry.need)):
        return f"{in_use}; {before if count else 'it is next in line, and what becomes free is kept for it'}"
    if count == 0:
        return f"next in line for {counted(capacity, 'busy slot')}"
    return f"{before}, for {counted(capacity, 'slot')}"


def _in_use(able: list[Worker], need: Need) -> str:
    """The parts of a need that are in use now, on the worker that lacks fewest of them; "" where one has all free."""
    found: list[list[str]] = []
    for worker in able:
        room = worker.room
        if room is None:
            continue
        lacks = [
            f"{room.free(name)} of {room.totals[name]} {name} free"
            for name, amount in need.amounts.items()
            if room.free(name) < amount
        ]
        free = max(0, free_slots(worker))
        if free < need.slots:
            lacks.append(f"{free} of {counted(worker.capacity, 'slot')} free")
        found.append(lacks)
    fewest = min(found, key=len, default=[])
    if not fewest:
        return ""
    where = "the worker that can run it" if len(able) == 1 else f"the best of {len(able)} workers that can run it"
    return f"it needs {need}, and {where} has {' and '.join(fewest)}"


def _most_of(serving: list[Worker], need: Need) -> str:
    """The parts of a need that the workers lack, in words."""
    rooms = [worker.room for worker in serving if worker.room is not None]
    lacks = []
    for name, amount in need.amounts.items():
        most = max((room.totals.get(name, 0) for room in rooms), default=0)
        if most < amount:
            lacks.append(f"the most that one offers of {name} is {most}" if most else f"none offers any {name}")
    slots = max((room.slots for room in rooms), default=0)
    if slots < need.slots:
        lacks.append(f"the most slots of one are {slots}")
    lacks += [f"none has the tag {tag}" for tag in sorted(need.tags) if not any(tag in room.tags for room in rooms)]
    return ", ".join(lacks) or "none offers all of that together"


def _why_scheduled(queue_state: QueueState, view: TaskView, now: float) -> str:
    batch = queue_state.batches[view.batch]
    if view.failures or view.crashes:  # a task that crashed waits because its worker was unable to run it
        cause = f"backing off after {counted(view.failures + view.crashes, 'failed attempt')}"
    elif view.index >= batch.next and wall_moments.waits_for_wall(batch):
        wait_s = max(0.0, wall_moments.left_s(queue_state, batch, now)) if batch.due_at is not None else 0.0
        return f"submitted for {utc(view.due_at or now)}; due in {duration(wait_s)}"
    else:
        cause = "submitted with a delay"
    return f"{cause}; due in {duration(max(0.0, (view.due_at or now) - now))}"


def _open_heaps(queue_state: QueueState, serving: list[Worker], queue: str) -> list[RunHeap]:
    """Heaps of a queue that no limit holds back, and that some of these workers could run."""
    return [heap for line in queue_state.lines if line.queue == queue for heap in _open(line, serving)]


def _beside(queue_state: QueueState, serving: list[Worker], queue: str) -> list[RunHeap]:
    """The same for the other queues that workers serve."""
    everywhere = any(not worker.queues for worker in serving)
    names = {name for worker in serving for name in worker.queues}
    others = [line for line in queue_state.lines if line.queue != queue and (everywhere or line.queue in names)]
    return [heap for line in others for heap in _open(line, serving)]


def _open(line: Line, serving: list[Worker]) -> list[RunHeap]:
    need = line.need
    if line.paused or (need is not None and not any(w.room is not None and w.room.could(need) for w in serving)):
        return []
    return list(line.open_heaps())
