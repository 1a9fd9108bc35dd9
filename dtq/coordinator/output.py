"""What tasks print: kept output of ended attempts from the engine, that of running ones from their workers.

The output of a running task stays with its worker unless somebody follows it. Then the coordinator names the task in
its answers to the worker, which reports what the task prints a few times a second, and keeps the last of that here for
the calls that wait for it. Nothing here outlasts the process: followers repeat their calls, and say where they were.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.attempt_output import of_attempts
from dtq.coordinator.printing import LiveTask
from dtq.coordinator.service import LONGEST_WAIT_S, Coordinator
from dtq.core import views
from dtq.core.leases import Lease
from dtq.errors import InvalidValue
from dtq.model.snapshots import OutputPart, TaskView
from dtq.model.states import State

#: Longest wait for a worker's first word on what a task has printed, in seconds.
FIRST_WORD_S: Final = 2.0
#: Most bytes of output in one answer.
_MOST: Final = 1 << 20


def output(c: Coordinator, number: int, index: int, attempt: int, offset: int, wait_s: float) -> OutputPart:
    """See `Service.output`."""
    begun = time.monotonic()
    first_word, deadline = begun + FIRST_WORD_S, begun + min(wait_s, LONGEST_WAIT_S)
    while True:
        woken = threading.Event()
        with c.lock:
            batch = c.machine.queue_state.batches.get(number)
            lease = None if batch is None else views.lease_of(c.machine.queue_state, batch, index)
            live, state = None, State.RUNNING
            if lease is not None and _concerns(lease, index, attempt):
                live = c.printing.follow(lease, index, time.monotonic())
                c.tell_followed()
                state = views.state_of(lease, index)
            c.printing.wait(number, woken)
        try:
            part = _live(c, live, offset, state) if live is not None else _ended(c, number, index, attempt, offset)
            now = time.monotonic()
            over = now >= deadline and (live is None or live.known or now >= first_word)
            if part is not None and (part.data or part.over or over or c.stopping):
                return part
            if part is not None:
                until = deadline if live is None or live.known else max(deadline, first_word)
                woken.wait(max(0.0, until - now))
        finally:
            with c.lock:
                c.printing.waits_no_more(number, woken)


def _concerns(lease: Lease, index: int, attempt: int) -> bool:
    """Whether an attempt that was asked for is the one of a lease: the last one is, unless the worker only holds the
    task, and there was one before.
    """
    if attempt:
        return attempt == lease.attempt
    return lease.attempt == 1 or views.state_of(lease, index) is State.RUNNING


def _live(c: Coordinator, live: LiveTask, offset: int, state: State) -> OutputPart:
    with c.lock:
        at, data = live.since(offset, _room(c))
    return OutputPart(attempt=live.attempt, offset=at, data=data, state=state)


def _ended(c: Coordinator, number: int, index: int, attempt: int, offset: int) -> OutputPart | None:
    """Output of an attempt that is over, or has not begun; None if that has just changed.

    Raises:
        UnknownId, ResultExpired: there is no such task, or no longer.
        InvalidValue: the task has ended, without such an attempt.
    """
    view = queries.task(c, number, index)
    wanted = attempt or view.attempt
    if view.state is State.RUNNING and wanted == view.attempt:
        return None
    if wanted > view.attempt and view.state.final:
        raise InvalidValue("an attempt", attempt, f"the task has ended after {view.attempt}")
    over = wanted <= view.attempt and (wanted > 0 or view.state.final)
    kept = of_attempts(c.engine, number, index).get(wanted) if over else None
    at, data = (offset, b"") if kept is None else kept.since(offset, _room(c))
    over = over and (kept is None or at + len(data) >= kept.size)
    return OutputPart(
        attempt=wanted,
        offset=at,
        data=data,
        over=over,
        last=over and view.state.final and wanted == view.attempt,
        state=view.state,
        worker=_worker_of(view, wanted),
    )


def _worker_of(view: TaskView, attempt: int) -> str:
    failed = next((each.worker for each in view.history if each.number == attempt), "")
    return failed or (view.worker if attempt == view.attempt else "")


def _room(c: Coordinator) -> int:
    return min(_MOST, c.setup.answer_bytes)
