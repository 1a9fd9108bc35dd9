"""Explains why tasks are in their states: the machine's facts, those of the engine, and those of the sessions."""

from __future__ import annotations

from operator import attrgetter
from shlex import quote
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.service import Coordinator
from dtq.core import endings, explaining, views
from dtq.core.explaining import Findings
from dtq.model.explanations import Explanation
from dtq.model.messages import WorkerOrder
from dtq.model.snapshots import Selection, TaskView
from dtq.model.states import State
from dtq.records import replace
from dtq.wording import counted, duration

#: Part of a lease's time for which a worker may be silent before that is mentioned.
_SILENT: Final = 0.6


def explain(c: Coordinator, number: int, index: int) -> list[Explanation]:
    """Why a task is in its state; of a batch (index -1), one task of each state. See `Service.explain`."""
    if index >= 0:
        return [_explained(c, queries.task(c, number, index))]
    counts = queries.batch(c, number).counts
    found = []
    for state in State:
        count = getattr(counts, state.value)
        first = queries.tasks(c, Selection(ids=((number, -1),), state=state, limit=1)) if count else ()
        found += [replace(_explained(c, queries.task(c, number, view.index)), count=count) for view in first]
    return found


def _explained(c: Coordinator, view: TaskView) -> Explanation:
    """The explanation of a task, as it is now: it may have gone on since it was looked at."""
    history = c.engine.attempts(view.batch, view.index, first=-endings.TOLD)
    with c.lock:
        now = c.clock.now()
        live = c.machine.queue_state.batches.get(view.batch)
        latest = None if live is None or view.state.final else views.task_view(c.machine, live, view.index)
        found = None if latest is None else explaining.explain(c.machine, latest, now)
        if latest is not None and found is not None:
            _of_sessions(c, latest, now, found)
    if latest is None or found is None:
        view = view if view.state.final else queries.task(c, view.batch, view.index)
        found = endings.explain(view, history, now)
    else:
        view = replace(latest, spec=view.spec, progress=view.progress)
        if history:
            found.reasons.append(endings.told(history[-1]))
            found.advise(f"dtq status {view.id}", "all of its attempts")
    return Explanation(
        task=replace(view, history=(), reason=""),
        reasons=tuple(found.reasons),
        outlook=found.outlook,
        remedies=tuple(found.remedies),
    )


def _of_sessions(c: Coordinator, view: TaskView, now: float, found: Findings) -> None:
    """Add what the workers' sessions say. Under the lock."""
    if view.state is State.RUNNING:
        _of_silence(c, view, now, found)
    elif view.state is State.PENDING:
        kinds = {obstacle.kind for obstacle in views.obstacles(c.machine, view, now)}
        if views.ObstacleKind.UNREADY in kinds:
            _of_unready(c, view, found)


def _of_silence(c: Coordinator, view: TaskView, now: float, found: Findings) -> None:
    """Mention a worker that has not been heard for long."""
    lease_s = c.setup.rules.lease_s
    for state in c.sessions.by_id.values():
        silent_s = now - state.seen_at
        if state.is_worker and state.name == view.worker and silent_s > _SILENT * lease_s:
            silence = f"{view.worker} was last heard {duration(silent_s)} ago"
            found.reasons.append(f"{silence}: after {duration(lease_s)} of silence the task runs elsewhere")


def _of_unready(c: Coordinator, view: TaskView, found: Findings) -> None:
    """Mention why the workers that serve a task's queue take no tasks."""
    queue = view.spec.options.queue
    serving = [s for s in c.sessions.by_id.values() if s.is_worker and (not s.hello.queues or queue in s.hello.queues)]
    serving.sort(key=attrgetter("name"))
    starting = 0
    for state in serving[: explaining.NAMED]:
        order = c.sessions.order_of(state)
        if order is WorkerOrder.STAY:
            found.reasons.append(f"an operator has {state.name} take no tasks")
            found.advise(f"dtq workers resume {quote(state.name)}", "let the worker take tasks again")
        elif order is not WorkerOrder.WORK:
            found.reasons.append(f"{state.name} takes no more tasks, and ends")
        elif state.trouble:
            found.reasons.append(f"slots of {state.name} do not start: {state.trouble}")
        elif state.away:
            found.reasons.append(f"{state.name} has lost its connection, and may come back")
        else:
            starting += 1
            found.reasons.append(f"the slots of {state.name} are starting")
    if len(serving) > explaining.NAMED:
        found.reasons.append(f"and {counted(len(serving) - explaining.NAMED, 'other worker')}")
    if not starting:
        found.advise("dtq worker", "start another worker")
