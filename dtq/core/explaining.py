"""Explains why a task that has not ended is in its state: every obstacle, the tasks that cause it, and commands that
help.

The first sentence is that of `views.why_waiting`; the others say who or what is behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from shlex import quote
from typing import Final

from dtq.core import unmet, views
from dtq.core.batches import Batch
from dtq.core.held import held_in, running
from dtq.core.leases import Lease, Worker
from dtq.core.limits import Bucket
from dtq.core.machine import Machine
from dtq.core.needs import Need
from dtq.core.placing import could_run
from dtq.model.explanations import Remedy
from dtq.model.ids import TaskId
from dtq.model.snapshots import TaskView
from dtq.model.states import State
from dtq.wording import counted, duration, utc

#: Most tasks, workers or functions that one sentence names.
NAMED: Final = 3


class Findings:
    """The facts about one task, as they are found."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.outlook = ""
        self.remedies: list[Remedy] = []

    def advise(self, command: str, purpose: str) -> None:
        """Add a command that helps."""
        self.remedies.append(Remedy(command=command, purpose=purpose))


def explain(machine: Machine, view: TaskView, now: float) -> Findings:
    """The facts about a task that has not ended."""
    found = Findings()
    batch = machine.queue_state.batches[view.batch]
    if view.state is State.RUNNING:
        _running(view, now, found)
    elif view.held:
        found.reasons.append(views.why_waiting(machine, view, now))
        found.advise("dtq workers list", "what the worker does")
    elif view.state is State.BLOCKED:
        found.reasons.append(views.why_waiting(machine, view, now))
        _blocked(machine, batch, view.index, now, found)
    elif view.state is State.SCHEDULED:
        found.reasons.append(views.why_waiting(machine, view, now))
        if view.due_at is not None:
            found.outlook = f"it is due at {utc(view.due_at)}, in {duration(max(0.0, view.due_at - now))}"
    if view.state is not State.RUNNING and not view.held:
        _obstacles(machine, view, now, found)
    if view.start_by is not None:
        left_s = max(0.0, view.start_by - now)
        found.reasons.append(f"it is cancelled unless it starts by {utc(view.start_by)}, in {duration(left_s)}")
    return found


# -- running ------------------------------------------------------------------------------------------------------


def _running(view: TaskView, now: float, found: Findings) -> None:
    since = "" if view.started_at is None else f" for {duration(max(0.0, now - view.started_at))}"
    nth = f", in its attempt {view.attempt}" if view.attempt > 1 else ""
    found.reasons.append(f"it runs on {view.worker}{since}{nth}")
    if view.cancelling:
        found.reasons.append("it is being stopped: its process is killed")
        return
    timeout_s = view.spec.options.timeout_s
    if timeout_s is not None and view.started_at is not None:
        left_s = view.started_at + timeout_s - now
        when = f"in about {duration(left_s)}" if left_s > 0 else "now"
        found.reasons.append(f"its time limit of {duration(timeout_s)} ends it {when}")
    found.advise(f"dtq cancel {view.id}", "stop it")


# -- waiting ------------------------------------------------------------------------------------------------------


def _obstacles(machine: Machine, view: TaskView, now: float, found: Findings) -> None:
    """What keeps a task from running that is pending, or would be."""
    queue_state = machine.queue_state
    options, batch = view.spec.options, queue_state.batches[view.batch]
    waits = view.state is State.PENDING
    for obstacle in views.obstacles(machine, view, now):
        if waits or obstacle.lasts:
            found.reasons.append(obstacle.sentence if waits else f"after that: {obstacle.sentence}")
        if obstacle.kind is views.ObstacleKind.PAUSED:
            found.advise(f"dtq queue resume {options.queue}", "let the queue start tasks again")
        elif obstacle.kind is views.ObstacleKind.UNSERVED:
            found.reasons += _connected(queue_state.workers.values())
            served = "" if not queue_state.workers else f" --queue {options.queue}"
            found.advise(f"dtq worker{served}", "start a worker that serves the queue")
        elif obstacle.kind is views.ObstacleKind.UNMET and batch.entry.need is not None:
            found.advise(f"dtq worker {offering(batch.entry.need)}", "start a worker that offers what it needs")
        elif waits and obstacle.kind is views.ObstacleKind.LIMITED:
            found.reasons += _counted_at(machine, batch, now)
            for name in _shut(machine, batch, now):
                found.advise(f"dtq limit set {name} --concurrency N", f"let more tasks of {name} run at once")
        elif waits and obstacle.kind is views.ObstacleKind.IN_LINE:
            found.reasons += _busy(machine, batch, now)
            found.reasons += _unable(machine, batch)
            found.advise(f"dtq reprioritize {batch.number} -p 1", "let its batch overtake others")
            found.advise("dtq worker", "add slots, on this machine or another one")


def _connected(workers: Iterable[Worker]) -> Iterator[str]:
    """The queues of the workers that serve another queue."""
    known = sorted(workers, key=attrgetter("name"))
    if known:
        named = [f"{worker.name} serves {', '.join(worker.queues[:NAMED])}" for worker in known[:NAMED]]
        yield f"of the connected workers {'; '.join(named)}{_others(len(known))}"


def offering(need: Need) -> str:
    """The options of a worker that could run tasks with a need."""
    words = [f"--resource {name}={amount}" for name, amount in need.amounts.items()]
    words += [f"--tag {tag}" for tag in sorted(need.tags)]
    words += [f"--slots {need.slots}"] if need.slots > 1 else []
    return " ".join(words)


def _buckets(machine: Machine, batch: Batch, now: float) -> Iterator[Bucket]:
    """The buckets that keep tasks of a batch from starting now."""
    for name in batch.limits:
        bucket = machine.queue_state.limits.bucket(name)
        if bucket is not None and bucket.shut(now):
            yield bucket


def _shut(machine: Machine, batch: Batch, now: float) -> list[str]:
    """The names, quoted, of the limits on how many run at once that are reached."""
    rules = [bucket.rule for bucket in _buckets(machine, batch, now) if bucket.full]
    return list(dict.fromkeys(quote(rule.limit.name) for rule in rules if rule is not None))


def _counted_at(machine: Machine, batch: Batch, now: float) -> Iterator[str]:
    """The tasks that use up the limits of a batch."""
    for bucket in _buckets(machine, batch, now):
        if bucket.full and bucket.used:
            holders = [lease for lease in machine.queue_state.leases.values() if bucket.name in lease.batch.limits]
            yield f"tasks that count against {bucket.name!r} now: {_named(holders)}"


def _busy(machine: Machine, batch: Batch, now: float) -> Iterator[str]:
    """The tasks that the workers have which could run a batch's tasks."""
    queue = batch.queue
    leases = [
        worker.leases[token]
        for worker in machine.queue_state.workers.values()
        if (not worker.queues or queue in worker.queues) and could_run(worker, batch)
        for token in running(worker)
    ]
    if not leases:
        return
    functions = Counter(lease.batch.spec.function.name for lease in leases)
    named = [f"{counted(count, 'slot')} with {name}" for name, count in functions.most_common(NAMED)]
    oldest = min(leases, key=attrgetter("since"))
    since = duration(max(0.0, now - oldest.since))
    yield f"busy: {', '.join(named)}{_others(len(functions))}; longest {_id(oldest)}, for {since}"


def _unable(machine: Machine, batch: Batch) -> Iterator[str]:
    """The workers that failed to run a batch's function (`core.quarantining`)."""
    failed = [
        worker.name
        for worker in machine.queue_state.workers.values()
        if worker.quarantine is not None and batch.entry.number in worker.quarantine.specs
    ]
    if failed:
        named = f"{', '.join(sorted(failed)[:NAMED])}{_others(len(failed))}"
        yield f"{named} could not run {batch.spec.function.name} of late: other workers come first"


def _named(leases: list[Lease]) -> str:
    leases = sorted(leases, key=attrgetter("since"))
    named = [f"{_id(lease)} ({lease.batch.spec.function.name} on {lease.worker.name})" for lease in leases[:NAMED]]
    return f"{', '.join(named)}{_others(len(leases))}"


def _id(lease: Lease) -> str:
    return str(TaskId(lease.batch.number, lease.lo, lease.batch.single))


def _others(count: int) -> str:
    return f" and {counted(count - NAMED, 'other')}" if count > NAMED else ""


# -- blocked ------------------------------------------------------------------------------------------------------


def _blocked(machine: Machine, batch: Batch, index: int, now: float, found: Findings) -> None:
    """The standing of the tasks that a task waits for."""
    for count, (number, lo, hi) in enumerate(unmet.parents(machine.queue_state, batch, index)):
        if count == NAMED:
            break
        parent = machine.queue_state.batches.get(number)
        if parent is None:
            continue
        if hi == lo + 1 or (not hi and parent.single):
            view = views.task_view(machine, parent, lo)
            if view is not None:
                found.reasons.append(f"{view.id} {_standing(machine, view, now)}")
        else:
            counts = views.batch_view(parent, now, held_in(machine.queue_state, parent)).counts
            states = [(getattr(counts, state.value), state) for state in State if not state.final]
            said = ", ".join(f"{number:,} {state.value}" for number, state in states if number)
            found.reasons.append(f"of batch {number} are {said or 'more tasks to come'}, of {parent.size:,}")
        found.advise(f"dtq explain {number if not hi or parent.single else f'{number}.{lo}'}", "what that waits for")


def _standing(machine: Machine, view: TaskView, now: float) -> str:
    """What a task does, for one that waits for it."""
    if view.state is State.RUNNING:
        since = "" if view.started_at is None else f" for {duration(max(0.0, now - view.started_at))}"
        return f"runs on {view.worker}{since}"
    return f"is {view.state.value}: {views.why_waiting(machine, view, now)}"
