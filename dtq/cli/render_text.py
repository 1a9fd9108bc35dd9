"""Renders tasks, batches and statistics as text for people: short blocks of names and values, and borderless tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from dtq.cli.bars import LEGEND, queue_bar, share, unfinished
from dtq.cli.output import (
    ago,
    is_wide,
    local_time,
    one_line,
    paint,
    say,
    table,
    write,
    write_fields,
    write_table,
)
from dtq.cli.render_json import counts_text, failure_text, run_id
from dtq.config.values import format_size
from dtq.model.limits import Limit, LimitView
from dtq.model.snapshots import (
    Attempt,
    BatchView,
    DeadGroup,
    DeadLetter,
    QueueView,
    ResourceView,
    Stats,
    TaskView,
    WorkerView,
)
from dtq.model.text import printable
from dtq.wording import counted, duration, percent, rate

if TYPE_CHECKING:
    from dtq.cli.arguments import Arguments
    from dtq.client.argument_text import ArgumentText

#: Columns of numbers.
_NUMBERS: Final = ("PRIORITY", "ATTEMPT", "ATTEMPTS", "RUN TIME", "MEMORY")
#: Width of the bar of a worker's slots, in characters.
_USE: Final = 8


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    took = duration(max(0.0, attempt.ended_at - attempt.started_at))
    peak = attempt.failure.peak_memory
    memory = "" if peak is None else format_size(peak)
    return (str(attempt.number), attempt.outcome.value, took, memory, attempt.worker, failure_text(attempt.failure))


def _write_words(attempt: Attempt, *, traceback: bool) -> None:
    """Write an attempt's traceback, if wanted, and the last lines that it printed."""
    number, failure = attempt.number, attempt.failure
    if traceback and failure.traceback:
        write(f"\nAttempt {number}:\n{printable(failure.traceback.rstrip())}")
    if failure.output:
        write(f"\nAttempt {number} printed at last:\n{printable(failure.output.rstrip())}")


def _progress(task: TaskView) -> str:
    if task.progress is None:
        return ""
    done, total = task.progress
    return f"{done:g} of {total:g} ({done / total:.0%})" if total > 0 else f"{done:g}"


def _terms(task: TaskView) -> str:
    options = task.spec.options
    limit = "" if options.timeout_s is None else f", at most {duration(options.timeout_s)} an attempt"
    limit += "" if options.soft_timeout_s is None else f", SoftTimeout after {duration(options.soft_timeout_s)}"
    retries = counted(options.max_retries, "retry", "retries")
    counts = f", counts against {', '.join(options.limits)}" if options.limits else ""
    return f"priority {options.priority}, queue {options.queue}, {retries}{limit}{counts}"


def _short(seconds: float) -> str:
    """A duration, also of a tiny task."""
    return f"{seconds * 1e6:.0f} us" if 0 < seconds < 0.001 else duration(seconds)


def _run_time(task: TaskView) -> str:
    if task.run_s is None:
        return ""
    mean = ", the mean of tasks that were reported together" if task.about else ""
    return f"{'about ' if task.about else ''}{_short(task.run_s)}{mean}"


def _memory(task: TaskView) -> str:
    """The peak memory of a task; earlier tasks of its process count too."""
    return "" if task.peak_memory is None else f"{format_size(task.peak_memory)}, the peak of its process until then"


def show_task(task: TaskView, now: float, arguments: ArgumentText | None = None, *, tracebacks: bool = False) -> None:
    """A task in full.

    Args:
        task: the task.
        now: the present moment.
        arguments: its arguments; None if they are not known, or not wanted.
        tracebacks: whether all attempts are shown with their tracebacks and last output; else only the last output of
            the last one is.
    """
    state = paint(task.state.value) + (", being stopped" if task.cancelling else "")
    # Attempts that no worker could begin count against max_crashes, and are no crashes.
    unable = min(task.crashes, sum(attempt.failure.unable for attempt in task.history))
    failed = [counted(task.failures, "failure")] if task.failures else []
    failed += [counted(task.crashes - unable, "crash", "crashes")] if task.crashes > unable else []
    failed += [f"{counted(unable, 'attempt')} that could not begin"] if unable else []
    write_fields(
        [
            ("task", run_id(task)),
            ("state", state),
            ("reason", printable(task.reason)),
            ("function", printable(task.spec.function.name)),
            ("arguments", "" if arguments is None else arguments.text),
            ("terms", _terms(task)),
            ("needs", str(task.spec.options.needs or "")),
            ("label", task.spec.options.label),
            ("key", printable(task.key or "")),
            ("attempt", str(task.attempt) + (f" (after {', '.join(failed)})" if failed else "")),
            ("worker", printable(task.worker)),
            ("progress", _progress(task)),
            ("submitted", local_time(task.submitted_at, now)),
            ("due", local_time(task.due_at, now)),
            ("start by", local_time(task.start_by, now)),
            ("started", ("about " if task.about else "") + local_time(task.started_at, now)),
            ("ended", local_time(task.ended_at, now)),
            ("run time", _run_time(task)),
            ("memory", _memory(task)),
        ]
    )
    if task.history:
        write()
        rows = [_attempt_row(attempt) for attempt in task.history]
        write_table(("ATTEMPT", "OUTCOME", "AFTER", "MEMORY", "WORKER", "WHY"), rows, right=(0, 3))
    for attempt in task.history if tracebacks else task.history[-1:]:
        _write_words(attempt, traceback=tracebacks)


def show_batch(batch: BatchView, now: float) -> None:
    """A batch."""
    options = batch.spec.options
    write_fields(
        [
            ("batch", str(batch.batch)),
            ("tasks", f"{batch.size:,}{'' if batch.complete else ' so far'}: {counts_text(batch.counts)}"),
            ("function", printable(batch.spec.function.name)),
            ("terms", f"priority {options.priority}, queue {options.queue}"),
            ("key", printable(batch.key or "")),
            ("reason", printable(batch.reason)),
            ("pace", "" if batch.rate is None else f"{rate(batch.rate)}, {duration(batch.left_s or 0.0)} left"),
            ("submitted", local_time(batch.submitted_at, now)),
            ("finished", local_time(batch.finished_at, now)),
        ]
    )


def show_batches(batches: Sequence[BatchView], now: float) -> None:
    """A table of batches."""
    labels = any(batch.spec.options.label for batch in batches)
    cancelled = any(batch.counts.cancelled for batch in batches)
    rows = [
        (
            str(batch.batch),
            *([batch.spec.options.label] if labels else []),
            batch.spec.function.name,
            percent(batch.ended, batch.size),
            f"{batch.counts.succeeded:,}",
            f"{batch.counts.dead:,}",
            *([f"{batch.counts.cancelled:,}"] if cancelled else []),
            f"{batch.size:,}{'' if batch.complete else '+'}",
            "" if batch.rate is None else rate(batch.rate),
            _left(batch),
            ago(batch.submitted_at, now),
        )
        for batch in batches
    ]
    first, last = ("ID", *(["LABEL"] if labels else []), "FUNCTION"), ("SIZE", "RATE", "LEFT", "SUBMITTED")
    counts = ("ENDED", "DONE", "FAILED", *(["CANCELLED"] if cancelled else []))
    numbers = range(len(first), len(first) + len(counts) + 2)
    write_table((*first, *counts, *last), rows, right=numbers)


def _left(batch: BatchView) -> str:
    """When a batch will have finished, or how long it took."""
    if batch.finished_at is not None:
        return f"took {duration(max(0.0, batch.finished_at - batch.submitted_at))}"
    return "" if batch.left_s is None else duration(batch.left_s)


def _when(task: TaskView, now: float) -> str:
    return ago(task.ended_at or task.due_at or task.started_at or task.submitted_at, now)


def _memory_cell(peak: int | None) -> str:
    return "" if peak is None else format_size(peak)


def _run_time_cell(run_s: float | None, about: bool = False) -> str:
    return "" if run_s is None else f"{'about ' if about else ''}{_short(run_s)}"


def _argument_cells(task: TaskView | DeadLetter, arguments: Arguments | None, count: int = 1) -> list[str]:
    """The cell with a task's arguments; none without that column."""
    if arguments is None:
        return []
    found = arguments.get((task.batch, task.index))
    more = " …" if count > 1 else ""  # the others have arguments of their own
    return ["" if found is None else found.text + more]


def _where(task: TaskView) -> str:
    if task.held:
        return f"held by {task.worker}"
    return task.worker or task.reason


def show_tasks(tasks: Iterable[TaskView], now: float, arguments: Arguments | None = None) -> None:
    """A table of tasks.

    Args:
        tasks: the tasks.
        now: the present moment.
        arguments: their arguments; None to leave out that column.
    """
    wide = is_wide()
    names = ("ID", "STATE", "FUNCTION", *(["ARGUMENTS"] if arguments is not None else []))
    names += ("QUEUE", "PRIORITY", "ATTEMPT") if wide else ()
    names += ("SINCE", "RUN TIME", *(["MEMORY"] if wide else []), "WHERE")
    rows = [
        (
            run_id(task),
            task.state.value,
            task.spec.function.name,
            *_argument_cells(task, arguments, task.count),
            *((task.spec.options.queue, str(task.spec.options.priority), str(task.attempt)) if wide else ()),
            _when(task, now),
            _run_time_cell(task.run_s, task.about),
            *([_memory_cell(task.peak_memory)] if wide else []),
            _where(task),
        )
        for task in tasks
    ]
    write_table(names, rows, right=[names.index(name) for name in _NUMBERS if name in names], state=1)


def show_letters(letters: Iterable[DeadLetter], now: float, arguments: Arguments | None = None) -> None:
    """A table of dead letters.

    Args:
        letters: the dead letters.
        now: the present moment.
        arguments: their arguments; None to leave out that column.
    """
    wide = is_wide()
    names = ("ID", "FUNCTION", *(["ARGUMENTS"] if arguments is not None else []))
    names += ("QUEUE", "ATTEMPTS") if wide else ()
    names += ("DIED", "RUN TIME", *(["MEMORY", "WORKER"] if wide else []), "WHY")
    rows = [
        (
            str(letter.id),
            letter.function,
            *_argument_cells(letter, arguments),
            *((letter.queue, str(letter.attempts)) if wide else ()),
            ago(letter.died_at, now),
            _run_time_cell(letter.run_s),
            *((_memory_cell(letter.peak_memory), letter.worker) if wide else ()),
            ": ".join(part for part in (letter.exception or letter.outcome.value, letter.message) if part),
        )
        for letter in letters
    ]
    write_table(names, rows, right=[names.index(name) for name in _NUMBERS if name in names])


def show_coordinator(stats: Stats, address: str) -> None:
    """The coordinator in a few lines; losses of its store go to standard error."""
    slots = sum(worker.slots for worker in stats.workers)
    running_s = stats.now - stats.started_at
    write_fields(
        [
            ("coordinator", f"{address}, pid {stats.pid}, up {duration(running_s)}"),
            ("version", f"dtq {stats.version}, Python {stats.python}"),
            ("store", f"{printable(stats.store)}, durability {stats.durability}"),
            ("order", "highest priority first" if stats.highest_first else "lowest priority number first"),
            ("tasks", counts_text(stats.counts)),
            (
                "so far",
                f"{stats.submitted:,} submitted, {stats.retries:,} retried, {stats.refused:,} late reports refused",
            ),
            ("dead letters", f"{stats.dead_letters:,}"),
            ("workers", f"{counted(len(stats.workers), 'worker')} with {counted(slots, 'slot')}"),
            ("clients", str(stats.clients)),
            ("schedules", str(stats.schedules or "")),
        ]
    )
    if stats.trouble:
        say(f"dtq: no new work is accepted ({stats.trouble}): {one_line(stats.trouble_text, 1000)}")
    for loss in stats.losses:
        say(f"dtq: the store had losses: {one_line(loss, 1000)}")


def show_groups(groups: Iterable[DeadGroup], by: str, now: float) -> None:
    """A table of groups of dead letters."""
    rows = [
        (f"{group.count:,}", group.name, ago(group.newest_at, now), str(group.id), group.message) for group in groups
    ]
    write_table(("COUNT", by.upper(), "NEWEST", "EXAMPLE", "MESSAGE"), rows, right=(0,))


def show_queues(queues: Sequence[QueueView], *, bars: bool = False) -> None:
    """A table of queues; with bars of their unfinished tasks, if there are any."""
    blocked = any(queue.blocked for queue in queues)  # few queues ever have a task that waits for others
    names = ("QUEUE", "PENDING", "SCHEDULED", *(["BLOCKED"] if blocked else []), "RUNNING", "WORKERS")
    rows = [
        (q.name, *(f"{n:,}" for n in (q.pending, q.scheduled, *([q.blocked] if blocked else []), q.running, q.workers)))
        for q in queues
    ]
    right = tuple(range(1, len(names)))
    if any(queue.weight != 1 for queue in queues):
        names, rows = (*names, "WEIGHT"), [(*row, str(q.weight)) for row, q in zip(rows, queues, strict=True)]
        right = (*right, len(names) - 1)
    if any(queue.paused or queue.draining for queue in queues):
        names, rows = (*names, "STEERED"), [(*row, _steered(q)) for row, q in zip(rows, queues, strict=True)]
    most = max(map(unfinished, queues), default=0) if bars else 0
    if most:
        names, rows = (*names, "BAR"), [(*row, queue_bar(q, most)) for row, q in zip(rows, queues, strict=True)]
    write_table(names, rows, right=right)
    if most:
        write(f"bar: {LEGEND}")


def _steered(queue: QueueView) -> str:
    said = [word for word, so in (("paused", queue.paused), ("draining", queue.draining)) if so]
    return ", ".join(said)


def show_limits(limits: Sequence[LimitView], now: float) -> None:
    """A table of limits."""
    rows = [
        (
            view.limit.name,
            "" if view.limit.concurrency is None else f"{view.limit.concurrency:,}",
            _rate(view.limit),
            f"{view.names:,}" if view.limit.is_glob else "",
            f"{view.running:,}",
            f"{view.waiting:,}",
            "" if view.next_at is None else f"in {duration(max(0.0, view.next_at - now))}",
        )
        for view in limits
    ]
    write_table(("LIMIT", "CONCURRENCY", "RATE", "NAMES", "RUNNING", "WAITING", "NEXT"), rows, right=(1, 3, 4, 5))


def _rate(limit: Limit) -> str:
    if limit.starts is None:
        return ""
    units = {1.0: "s", 60.0: "m", 3600.0: "h", 86_400.0: "d"}
    burst = f", burst {limit.burst}" if limit.burst > 1 else ""
    return f"{limit.starts}/{units.get(limit.per_s) or f'{limit.per_s:g}s'}{burst}"


def show_stats(stats: Stats, address: str) -> None:
    """The coordinator, its queues and its workers."""
    show_coordinator(stats, address)
    if stats.queues:
        write("")
        show_queues(stats.queues, bars=True)
    if stats.workers:
        write("")
        for line in table(
            ("WORKER", "BUSY", "SLOTS", "USE", "QUEUES", "SEEN", "RUNS", "STATE"),
            [
                (
                    worker.name,
                    str(worker.busy),
                    str(worker.slots),
                    share(worker.busy, worker.slots, _USE),
                    ",".join(worker.queues) or "all",
                    f"{duration(worker.seen_s)} ago",
                    " ".join(worker.running[:3]) + (" …" if len(worker.running) > 3 else ""),
                    _state_of(worker),
                )
                for worker in stats.workers
            ],
            right=(1, 2),
        ):
            write(line)
    offered = [(worker.name, *_offer(resource)) for worker in stats.workers for resource in worker.resources]
    offered += [(worker.name, f"tag {tag}", "") for worker in stats.workers for tag in worker.tags]
    if offered:
        write("")
        write_table(("WORKER", "OFFERS", "FREE"), offered)


def show_workers(workers: Sequence[WorkerView], now: float) -> None:
    """A table of workers."""
    offering = any(worker.tags or worker.resources for worker in workers)
    names = ("WORKER", "HOST", "PID", "BUSY", "QUEUES", *(["OFFERS"] if offering else []), "SINCE", "VERSION", "STATE")
    rows = [
        (
            worker.name,
            worker.host,
            str(worker.pid),
            f"{min(worker.busy, worker.slots)}/{worker.slots}",
            ",".join(worker.queues) or "all",
            *([_offers(worker)] if offering else []),
            duration(max(0.0, now - worker.connected_at)),
            worker.version,
            _state_of(worker),
        )
        for worker in workers
    ]
    write_table(names, rows, right=(2, 3))


def _offers(worker: WorkerView) -> str:
    """The free parts of a worker's resources, and its tags."""
    resources = [f"{offered} ({free} free)" for offered, free in map(_offer, worker.resources)]
    return ", ".join([*resources, *worker.tags])


def _state_of(worker: WorkerView) -> str:
    """A worker's state, and its trouble."""
    return f"{worker.state}: {printable(worker.trouble)}" if worker.trouble else worker.state


def _offer(resource: ResourceView) -> tuple[str, str]:
    """A worker's offer of a resource, and its free part."""
    if resource.units:
        return f"{resource.name}={','.join(resource.units)}", ",".join(resource.free_units) or "none"
    return f"{resource.name}={resource.amount:,}", f"{resource.free:,}"
