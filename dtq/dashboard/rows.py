"""The tables of the dashboard: queues, workers with their slots, tasks, dead letters, failures. Pure.

Each function makes the rows of one table, and the columns that go with them, for every page that shows the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dtq.dashboard import wording
from dtq.dashboard.lines import Line, Look, Span, foreign, line
from dtq.dashboard.tables import Column, Row, table
from dtq.model.dashboard import LatestFailure, QueueLine, SlotLine, WorkerLine, WorkerState
from dtq.model.ids import run_text
from dtq.model.snapshots import DeadLetter, TaskView
from dtq.model.states import State

QUEUES: Final = (
    Column("QUEUE", least=10),
    Column("READY", right=True, least=5),
    Column("RUNNING", right=True, least=5),
    Column("SCHEDULED", right=True, least=5, rank=3),
    Column("BLOCKED", right=True, least=5, rank=4),
    Column("OLDEST", right=True, least=6),
    Column("DONE/MIN", right=True, least=6, rank=5),
    Column("WORKERS", right=True, least=4, rank=2),
    Column("STATE", least=8),
    Column("BY PRIORITY", least=12, rank=1, wide=True),
)


def queue_row(queue: QueueLine) -> Row:
    """A queue."""
    said = [word for word, so in (("paused", queue.paused), ("draining", queue.draining)) if so]
    unserved = bool(queue.ready and not queue.workers)
    return (
        Span(foreign(queue.name), Look.STRONG),
        wording.count(queue.ready, Look.PENDING),
        wording.count(queue.running, Look.RUNNING),
        wording.count(queue.scheduled, Look.SCHEDULED),
        wording.count(queue.blocked, Look.BLOCKED),
        Span(wording.age(queue.oldest_s)),
        wording.count(round(queue.done_per_min)),
        wording.count(queue.workers, Look.PLAIN),
        Span(", ".join(said) or ("unserved" if unserved else ""), Look.CANCELLED if said else Look.DEAD),
        Span(wording.depths(queue.depths), Look.DIM),
    )


WORKERS: Final = (
    Column("WORKER", least=12),
    Column("STATE", least=8),
    Column("SLOTS", least=9),
    Column("CPU", right=True, least=4, rank=2),
    Column("MEMORY", right=True, least=5, rank=3),
    Column("DONE", right=True, least=4, rank=4),
    Column("FAILED", right=True, least=4, rank=5),
    Column("HELD", right=True, least=4, rank=9),
    Column("SEEN", right=True, least=5, rank=6),
    Column("UP", right=True, least=5, rank=10),
    Column("QUEUES", least=6, rank=8),
    Column("VERSION", least=7, rank=7),
    Column("RUNS", least=16, rank=1, wide=True),
)


def worker_row(worker: WorkerLine, now: float, blocks: str, *, runs: bool = True) -> Row:
    """A worker.

    Args:
        worker: the worker.
        now: the coordinator's time.
        blocks: the characters of bars.
        runs: whether the row names the task that has run longest; else its slots have rows of their own.
    """
    lost = worker.state is WorkerState.LOST
    columns = min(8, max(4, worker.size))
    slots = (
        Span("")
        if lost
        else Span(f"{wording.meter(worker.busy, worker.size, columns, blocks)} {worker.busy}/{worker.size}")
    )
    running = [slot for slot in worker.slots if slot.batch]
    longest = max(running, key=lambda slot: slot.seconds, default=None)
    said: Line = ()
    if worker.trouble:
        said = line(Span(foreign(worker.trouble), Look.DEAD))
    elif longest is not None and runs:
        said = line(longest.task, " ", foreign(longest.function), Span(f" {wording.age(longest.seconds)}", Look.DIM))
    return (
        Span(foreign(worker.name), Look.STRONG),
        wording.worker_state(worker),
        slots,
        Span(wording.cores(worker.cpu)),
        Span(wording.size(worker.memory)),
        Span("") if lost else wording.count(worker.done),
        Span("") if lost else wording.count(worker.failed),
        Span(f"{worker.held:,}" if worker.held else ""),
        Span(wording.age(worker.seen_s)),
        Span(wording.age(max(0.0, now - worker.since)) if worker.since and not lost else ""),
        Span(foreign(",".join(worker.queues)) or ("" if lost else "all")),
        Span(foreign(worker.version), Look.DIM),
        said,
    )


def slot_line(slot: SlotLine) -> Line:
    """A slot, below its worker's row."""
    number = f"  slot {slot.number:<3} "
    used = f"{wording.cores(slot.cpu):>5} {wording.size(slot.memory):>6} "
    if not slot.batch:
        return line(Span(f"{number}{used} idle", Look.DIM))
    attempt = f", attempt {slot.attempt}" if slot.attempt > 1 else ""
    done = wording.progress(slot.progress)
    return line(
        Span(f"{number}{used} ", Look.DIM),
        Span(f"{wording.age(slot.seconds):>6} ", Look.RUNNING),
        Span(f"{slot.task} ", Look.STRONG),
        foreign(slot.function),
        Span(f"{attempt}{f'  {done} done' if done else ''}", Look.DIM),
    )


FAILURES: Final = (
    Column("WHEN", right=True, least=6),
    Column("TASK", least=6),
    Column("FUNCTION", least=10, rank=2),
    Column("ATTEMPT", right=True, least=3, rank=1),
    Column("WORKER", least=8, rank=3),
    Column("WHY", least=16, wide=True),
)


def failure_row(failure: LatestFailure, now: float) -> Row:
    """An attempt that did not succeed."""
    look = Look.DEAD if failure.dead else Look.SCHEDULED
    return (
        Span(f"{wording.age(max(0.0, now - failure.at))} ago"),
        Span(str(failure.id), look),
        Span(foreign(failure.function)),
        Span(_attempt(failure)),
        Span(foreign(failure.worker), Look.DIM),
        (*_times(failure.count), *why(failure.exception or failure.outcome.value, failure.message)),
    )


def _times(count: int) -> Line:
    return line(Span(f"{count:,} times ", Look.STRONG)) if count > 1 else ()


def _attempt(failure: LatestFailure) -> str:
    if failure.attempt > failure.most:  # it was put back, or crashed, which counts apart
        return str(failure.attempt)
    return f"{failure.attempt}/{failure.most}" if failure.attempt else ""


def why(name: str, message: str) -> Line:
    """An exception, without its module, and its message."""
    return line(foreign(name.rpartition(".")[2]), Span(f": {foreign(message)}" if message else "", Look.DIM))


TASKS: Final = (
    Column(" ", least=1),
    Column("TASK", least=8),
    Column("STATE", least=7),
    Column("FUNCTION", least=12),
    Column("QUEUE", least=6, rank=3),
    Column("P", right=True, least=2, rank=4),
    Column("ATTEMPT", right=True, least=3, rank=2),
    Column("AGE", right=True, least=5),
    Column("WORKER", least=8, rank=1),
    Column("WHY", least=10, rank=5, wide=True),
)


def task_row(task: TaskView, now: float, *, marked: bool) -> Row:
    """A task, or a run of like tasks."""
    since = task.ended_at or task.started_at or task.submitted_at
    due = task.due_at if task.state is State.SCHEDULED else None
    age = f"in {wording.age(max(0.0, due - now))}" if due is not None else wording.age(max(0.0, now - since))
    said = wording.progress(task.progress) or foreign(task.reason)
    return (
        Span("●" if marked else " ", Look.STRONG),
        Span(run_text(task.batch, task.index, task.count, single=task.single), Look.STRONG),
        wording.state(task.state, "stopping" if task.cancelling else ""),
        Span(foreign(task.spec.function.name)),
        Span(foreign(task.spec.options.queue)),
        Span(str(task.spec.options.priority)),
        Span(str(task.attempt) if task.attempt else ""),
        Span(age),
        Span(foreign(task.worker), Look.DIM),
        Span(said, Look.DIM),
    )


DEAD: Final = (
    Column(" ", least=1),
    Column("TASK", least=8),
    Column("FUNCTION", least=12),
    Column("QUEUE", least=6, rank=2),
    Column("ATTEMPTS", right=True, least=3, rank=1),
    Column("DIED", right=True, least=6),
    Column("WHY", least=16, wide=True),
)


def letter_row(letter: DeadLetter, now: float, *, marked: bool) -> Row:
    """A dead letter."""
    return (
        Span("●" if marked else " ", Look.STRONG),
        Span(str(letter.id), Look.DEAD),
        Span(foreign(letter.function)),
        Span(foreign(letter.queue)),
        Span(str(letter.attempts)),
        Span(f"{wording.age(max(0.0, now - letter.died_at))} ago"),
        why(letter.exception or letter.outcome.value, letter.message),
    )


def worker_lines(
    workers: Sequence[WorkerLine], now: float, columns: int, blocks: str, *, slots: bool
) -> list[tuple[Line, list[Line]]]:
    """The titles of the table of workers; then each worker's line, and those of its slots below it.

    Args:
        workers: the workers.
        now: the coordinator's time.
        columns: the width.
        blocks: the characters of bars.
        slots: whether slots have lines of their own.
    """
    found = [worker_row(worker, now, blocks, runs=not slots) for worker in workers]
    titles, *heads = table(WORKERS, found, columns)
    below = [[slot_line(slot) for slot in worker.slots] if slots else [] for worker in workers]
    return [(titles, []), *zip(heads, below, strict=True)]
