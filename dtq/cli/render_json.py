"""Renders tasks, batches, dead letters and statistics as JSON, and as short phrases.

In JSON, moments are ISO 8601 in UTC and durations are seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtq.cli.output import moment, one_line
from dtq.model.ids import run_text
from dtq.model.limits import LimitView
from dtq.model.messages import Failure
from dtq.model.options import Spec
from dtq.model.schedules import ScheduleView
from dtq.model.snapshots import (
    Attempt,
    BatchView,
    Counts,
    DeadGroup,
    DeadLetter,
    QueueView,
    Stats,
    TaskView,
    WorkerView,
)
from dtq.model.states import State

if TYPE_CHECKING:
    from dtq.client.argument_text import ArgumentText


def run_id(task: TaskView) -> str:
    """The id of a task; ``17.0-999`` for a run of like tasks."""
    return run_text(task.batch, task.index, task.count, single=task.single)


def counts_text(counts: Counts) -> str:
    """Numbers of tasks by state, without zeroes."""
    parts = [f"{getattr(counts, state.value):,} {state.value}" for state in State if getattr(counts, state.value)]
    return ", ".join(parts) or "none"


def failure_text(failure: Failure) -> str:
    """Why an attempt did not succeed, in one line."""
    parts = [part for part in (failure.exception, failure.message) if part]
    if not parts:
        if failure.signal is not None:
            parts.append(f"signal {failure.signal}")
        elif failure.exit_code is not None:
            parts.append(f"exit code {failure.exit_code}")
    return one_line(": ".join(parts))


def spec_json(spec: Spec) -> dict[str, Any]:
    """A function and its options."""
    options, needs = spec.options, spec.options.needs
    return {
        "function": spec.function.name,
        "kind": spec.function.kind.value,
        "queue": options.queue,
        "priority": options.priority,
        "max_retries": options.max_retries,
        "max_crashes": options.max_crashes,
        "timeout": options.timeout_s,
        "soft_timeout": options.soft_timeout_s,
        "keep_results": options.keep_results_s,
        "never_retry": list(options.never_retry),
        "limits": list(options.limits),
        "resources": {} if needs is None else {quantity.name: quantity.amount for quantity in needs.resources},
        "slots": 1 if needs is None else needs.slots,
        "tags": [] if needs is None else list(needs.tags),
        "label": options.label,
    }


def failure_json(failure: Failure) -> dict[str, Any]:
    """Why an attempt did not succeed."""
    return {
        "exception": failure.exception,
        "message": failure.message,
        "traceback": failure.traceback,
        "exit_code": failure.exit_code,
        "signal": failure.signal,
        "peak_memory": failure.peak_memory,
        "output": failure.output,
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """One attempt that did not succeed."""
    return {
        "attempt": attempt.number,
        "outcome": attempt.outcome.value,
        "started_at": moment(attempt.started_at),
        "ended_at": moment(attempt.ended_at),
        "worker": attempt.worker,
        **failure_json(attempt.failure),
    }


def arguments_json(arguments: ArgumentText | None) -> dict[str, Any]:
    """A task's arguments; None if they are not known, or not wanted."""
    return {
        "arguments": None if arguments is None else arguments.text,
        "arguments_shortened": arguments is not None and arguments.shortened,
    }


def task_json(task: TaskView, arguments: ArgumentText | None = None) -> dict[str, Any]:
    """A task, or a run of like tasks; the arguments are those of the first one."""
    progress = None if task.progress is None else {"done": task.progress[0], "total": task.progress[1]}
    return {
        "id": run_id(task),
        "batch": task.batch,
        "index": task.index,
        "count": task.count,
        "state": task.state.value,
        **spec_json(task.spec),
        **arguments_json(arguments),
        "attempt": task.attempt,
        "failures": task.failures,
        "crashes": task.crashes,
        "submitted_at": moment(task.submitted_at),
        "due_at": moment(task.due_at),
        "start_by": moment(task.start_by),
        "started_at": moment(task.started_at),
        "ended_at": moment(task.ended_at),
        "run_time": task.run_s,
        "run_time_is_mean": task.about,
        "peak_memory": task.peak_memory,
        "worker": task.worker,
        "held": task.held,
        "progress": progress,
        "cancelling": task.cancelling,
        "reason": task.reason,
        "key": task.key,
        "history": [attempt_json(attempt) for attempt in task.history],
    }


def counts_json(counts: Counts) -> dict[str, int]:
    """Numbers of tasks by state."""
    return {
        "blocked": counts.blocked,
        "scheduled": counts.scheduled,
        "pending": counts.pending,
        "running": counts.running,
        "succeeded": counts.succeeded,
        "dead": counts.dead,
        "cancelled": counts.cancelled,
    }


def batch_json(batch: BatchView) -> dict[str, Any]:
    """A batch."""
    return {
        "id": str(batch.batch),
        "size": batch.size,
        "complete": batch.complete,
        **spec_json(batch.spec),
        "counts": counts_json(batch.counts),
        "submitted_at": moment(batch.submitted_at),
        "finished_at": moment(batch.finished_at),
        "key": batch.key,
        "reason": batch.reason,
        "rate": batch.rate,
        "left": batch.left_s,
    }


def letter_json(letter: DeadLetter, arguments: ArgumentText | None = None) -> dict[str, Any]:
    """A dead letter, in short."""
    return {
        "id": str(letter.id),
        "function": letter.function,
        **arguments_json(arguments),
        "queue": letter.queue,
        "attempts": letter.attempts,
        "outcome": letter.outcome.value,
        "exception": letter.exception,
        "message": letter.message,
        "submitted_at": moment(letter.submitted_at),
        "started_at": moment(letter.started_at),
        "died_at": moment(letter.died_at),
        "run_time": letter.run_s,
        "peak_memory": letter.peak_memory,
        "worker": letter.worker,
    }


def schedule_json(view: ScheduleView) -> dict[str, Any]:
    """A schedule, with its state."""
    given, rule = view.schedule, view.schedule.rule
    return {
        "name": given.name,
        "cron": rule.cron or None,
        "tz": rule.tz,
        "every": rule.every_s,
        "at": moment(rule.at),
        "jitter": rule.jitter_s,
        "until": moment(rule.until),
        "overlap": given.overlap.value,
        "catch_up": given.catch_up.value,
        **spec_json(given.spec),
        "arguments": len(given.arguments),
        "added_at": moment(view.added_at),
        "paused": view.paused,
        "next": [moment(due) for due in view.upcoming],
        "last_due": moment(view.last_due),
        "last_id": str(view.last_batch) if view.last_batch else None,
        "last": None if view.last is None else counts_json(view.last.counts),
        "last_finished_at": None if view.last is None else moment(view.last.finished_at),
        "runs": view.made,
        "skipped": view.skipped,
        "trouble": view.trouble,
    }


def group_json(group: DeadGroup, by: str) -> dict[str, Any]:
    """A group of dead letters."""
    return {
        by: group.name,
        "count": group.count,
        "newest_at": moment(group.newest_at),
        "example": str(group.id),
        "message": group.message,
    }


def queue_json(queue: QueueView) -> dict[str, Any]:
    """A queue."""
    return {
        "name": queue.name,
        "pending": queue.pending,
        "scheduled": queue.scheduled,
        "blocked": queue.blocked,
        "running": queue.running,
        "paused": queue.paused,
        "draining": queue.draining,
        "weight": queue.weight,
        "workers": queue.workers,
    }


def limit_json(view: LimitView) -> dict[str, Any]:
    """A limit, with its use."""
    limit = view.limit
    return {
        "name": limit.name,
        "concurrency": limit.concurrency,
        "starts": limit.starts,
        "per": None if limit.starts is None else limit.per_s,
        "burst": limit.burst,
        "names": view.names,
        "running": view.running,
        "waiting": view.waiting,
        "next_at": moment(view.next_at),
    }


def worker_json(worker: WorkerView) -> dict[str, Any]:
    """A worker."""
    return {
        "name": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "slots": worker.slots,
        "busy": worker.busy,
        "held": worker.held,
        "queues": list(worker.queues),
        "resources": {
            resource.name: (
                {"units": list(resource.units), "free": list(resource.free_units)}
                if resource.units
                else {"amount": resource.amount, "free": resource.free}
            )
            for resource in worker.resources
        },
        "tags": list(worker.tags),
        "seen": worker.seen_s,
        "connected_at": moment(worker.connected_at),
        "running": list(worker.running),
        "draining": worker.draining,
        "trouble": worker.trouble,
        "version": worker.version,
        "python": worker.python,
        "state": worker.state,
    }


def stats_json(stats: Stats) -> dict[str, Any]:
    """An overview of the coordinator."""
    return {
        "tasks": counts_json(stats.counts),
        "submitted": stats.submitted,
        "retries": stats.retries,
        "refused": stats.refused,
        "dead_letters": stats.dead_letters,
        "queues": [queue_json(queue) for queue in stats.queues],
        "workers": [worker_json(worker) for worker in stats.workers],
        "clients": stats.clients,
        "epoch": stats.epoch,
        "started_at": moment(stats.started_at),
        "now": moment(stats.now),
        "pid": stats.pid,
        "version": stats.version,
        "python": stats.python,
        "store": stats.store,
        "durability": stats.durability,
        "highest_first": stats.highest_first,
        "losses": list(stats.losses),
        "schedules": stats.schedules,
        "trouble": {"code": stats.trouble, "message": stats.trouble_text} if stats.trouble else None,
    }
