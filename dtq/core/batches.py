"""Live batches, and the tasks that left the common path, as the machine holds them.

Only these objects grow with the queue: one `Batch` for each submission, whatever its size, and one `Task` for each task
that came back and has not ended. Finished batches and tasks leave memory; the engine has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import inf
from typing import Final

from dtq.core.changes import BatchFlow, BatchRow, Parent, TaskRow
from dtq.core.expiry import moment_of_expiry
from dtq.core.needs import Need
from dtq.core.pace import Pace
from dtq.model.fields import MAX_DEPTH
from dtq.model.options import Spec, whole
from dtq.model.states import Outcome, State

#: Memory of a spec with short names, in bytes.
_SPEC_BYTES: Final = 1_000
#: Shortest duration of a task that is told apart from zero, in seconds.
_SHORTEST_S: Final = 1e-7
#: Expected bytes of results that one lease may make: a worker holds two leases a slot until all of each are reported.
_RESULTS: Final = 4 << 20
#: Longest duration that is told apart from longer ones, in seconds: so the ratio of any two stays a number.
_LONGEST_S: Final = 1e9
#: Weight of the latest report in an estimate.
_NEWS: Final = 0.3


@lru_cache(maxsize=16_384)
def shared_flow(limits: tuple[str, ...], label: str) -> BatchFlow:
    """The rare fields of the batches that have these limits and this label, and no other: one object for many."""
    return BatchFlow(limits=tuple(dict.fromkeys(limits)), label=label)


class Learned:
    """Estimates for a function's tasks, which count for a spec of it until one of its own tasks has ended.

    Without them, the first task of each queue or priority would have an unknown duration, and others wait for it.
    """

    __slots__ = ("__weakref__", "argument_bytes", "estimate_s", "result_bytes")

    def __init__(self) -> None:
        self.estimate_s: float | None = None
        self.argument_bytes = 0.0
        self.result_bytes = 0.0


class SpecEntry:
    """An interned spec, without limits and label, and the estimates for its tasks."""

    __slots__ = (
        "argument_bytes",
        "batches",
        "estimate_s",
        "learned",
        "line",
        "need",
        "number",
        "queue",
        "rank",
        "result_bytes",
        "size",
        "spec",
        "urgency",
    )

    def __init__(self, number: int, spec: Spec, rank: int) -> None:
        self.number = number
        self.spec = spec
        self.rank = rank
        self.queue = spec.options.queue
        #: The needs of its tasks beside one slot; None for none. And the line in which they wait (`core.lines`).
        self.need = None if spec.options.needs is None else Need(spec.options.needs)
        self.line = self.queue if self.need is None else self.need.line(self.queue)
        #: Approximate memory, in bytes.
        function = spec.function
        self.size = _SPEC_BYTES + len(function.body) + len(function.name) + sum(map(len, spec.options.never_retry))
        #: Its rank among waiting tasks. Tasks submitted by a task, which may wait for them, go before others of their
        #: priority: so the number of waiting parents grows with the depth of the nesting, not with the number of tasks.
        self.urgency = rank * (MAX_DEPTH + 1) - spec.options.depth
        #: Estimates of the function, whatever the options.
        self.learned: Learned | None = None
        #: Number of live batches that use it.
        self.batches = 0
        #: Duration of one task, in seconds; None while unknown.
        self.estimate_s: float | None = None
        #: Expected bytes of arguments and of the result of one task. An estimate errs upwards, since a lease gathers no
        #: more than an answer and a few reports carry.
        self.argument_bytes = 0.0
        self.result_bytes = 0.0

    def expected_s(self) -> float | None:
        """Duration of one task, in seconds, as far as it is known: of its own tasks, or of others of its function."""
        learned = self.learned
        if self.estimate_s is not None or learned is None:
            return self.estimate_s
        self.argument_bytes = max(self.argument_bytes, learned.argument_bytes)
        self.result_bytes = max(self.result_bytes, learned.result_bytes)
        return learned.estimate_s

    def learn_from(self, other: SpecEntry) -> None:
        """Copy the estimates of another spec of the same function, if this one has none yet."""
        if self.estimate_s is None:
            self.estimate_s = other.estimate_s
            self.argument_bytes, self.result_bytes = other.argument_bytes, other.result_bytes

    def overlook_needs(self) -> None:
        """Treat its tasks as if they needed nothing."""
        self.need, self.line = None, self.queue

    def observe(self, seconds: float, tasks: int) -> None:
        """Update the duration's estimate from tasks that together took so long.

        The estimate is a moving geometric mean: one outlier (a first import, a busy machine) moves it little, a lasting
        change moves it within a few reports. If a task takes far longer than its estimate, the worker takes back the
        work that waits behind it. A time that is no duration changes nothing.
        """
        if not 0 <= seconds < inf:
            return
        each = min(max(seconds / max(1, tasks), _SHORTEST_S), _LONGEST_S)
        if self.estimate_s is None:
            self.estimate_s = each
        else:
            self.estimate_s *= (each / self.estimate_s) ** _NEWS
        learned = self.learned
        if learned is not None and (learned.estimate_s is None or learned.estimate_s > self.estimate_s):
            learned.estimate_s = self.estimate_s  # the first task of all may have taken long to import
            learned.argument_bytes, learned.result_bytes = self.argument_bytes, self.result_bytes

    def weigh_arguments(self, size: int, tasks: int) -> None:
        """Update the estimate of arguments from this many bytes together."""
        each = size / max(1, tasks)
        self.argument_bytes = each if each >= self.argument_bytes else _lighter(self.argument_bytes, each)

    def weigh_results(self, size: int, tasks: int) -> None:
        """Update the estimate of results from this many bytes together."""
        each = size / max(1, tasks)
        self.result_bytes = each if each >= self.result_bytes else _lighter(self.result_bytes, each)

    def most_within(self, room: int) -> int:
        """Number of tasks whose arguments are expected to fit into this many bytes, and whose results into a worker's
        bound; at least one.
        """
        return max(1, int(min(room / max(1.0, self.argument_bytes), _RESULTS / max(1.0, self.result_bytes))))


def _lighter(known: float, news: float) -> float:
    """The new estimate after a smaller observation, which counts only gradually; a larger one counts at once."""
    return known + _NEWS * (news - known)


class Task:
    """A task that left the common path and is not in a final state, or a fresh task that was cancelled alone."""

    __slots__ = (
        "after",
        "attempt",
        "cancelling",
        "crashes",
        "due_at",
        "ended_at",
        "exception",
        "failed_on",
        "failures",
        "message",
        "outcome",
        "state",
    )

    def __init__(self, state: State, attempt: int) -> None:
        self.state = state
        self.attempt = attempt
        self.failures = 0
        self.crashes = 0
        self.due_at: float | None = None
        self.ended_at: float | None = None
        self.cancelling = False
        self.outcome: Outcome | None = None
        self.exception = ""
        self.message = ""
        #: Sessions of the workers that were unable to run it. A restart forgets them.
        self.failed_on: tuple[str, ...] = ()
        #: What it waits for, or has waited for, by itself.
        self.after: tuple[Parent, ...] = ()

    @classmethod
    def from_row(cls, row: TaskRow) -> Task:
        """The task that a row describes."""
        task = cls(row.state, row.attempt)
        task.failures = row.failures
        task.crashes = row.crashes
        task.due_at = row.due_at
        task.ended_at = row.ended_at
        task.cancelling = row.cancelling
        task.outcome = row.outcome
        task.exception = row.exception
        task.message = row.message
        task.after = row.after
        return task

    def give_reason(self, why: str) -> None:
        """Record the reason of a cancellation that nobody asked for. Its row then has this reason in place of its last
        attempt's end, which its history still has.
        """
        self.outcome, self.exception, self.message = None, "", why

    def row(self, batch: int, index: int) -> TaskRow:
        """The row that describes the task."""
        return TaskRow(
            batch=batch,
            index=index,
            state=self.state,
            attempt=self.attempt,
            failures=self.failures,
            crashes=self.crashes,
            due_at=self.due_at,
            ended_at=self.ended_at,
            cancelling=self.cancelling,
            outcome=self.outcome,
            exception=self.exception,
            message=self.message,
            after=self.after,
        )


class Frontier:
    """How far the fresh tasks of a batch may start whose tasks wait one by one (`core.elements`)."""

    __slots__ = ("ready", "unlisted")

    def __init__(self) -> None:
        #: Fresh tasks below wait for nothing any more; those from there on do.
        self.ready = 0
        #: From where on they stand in no heap; None where they do.
        self.unlisted: int | None = 0


class Batch:
    """A live batch. Its fields are those of `BatchRow`."""

    __slots__ = (
        "cancelled",
        "complete",
        "cut",
        "dead",
        "due_at",
        "entry",
        "finished_at",
        "flow",
        "followed",
        "frontier",
        "key",
        "next",
        "number",
        "pace",
        "purged",
        "running",
        "session",
        "size",
        "submission",
        "submitted_at",
        "succeeded",
        "tasks",
    )

    def __init__(self, number: int, entry: SpecEntry, now: float) -> None:
        self.number = number
        self.entry = entry
        self.size = 0
        self.complete = False
        self.next = 0
        self.cut: int | None = None
        self.due_at: float | None = None
        self.submitted_at = now
        self.finished_at: float | None = None
        self.succeeded = 0
        self.dead = 0
        self.cancelled = 0
        self.purged = 0
        #: Rare fields; None for most batches.
        self.flow: BatchFlow | None = None
        #: The frontier of what is ready, of a batch whose tasks wait one by one for those of others.
        self.frontier: Frontier | None = None
        #: The user's key; None if the session and the number of the submission stand for it.
        self.key: str | None = None
        self.session = ""
        self.submission = 0
        #: Whether the submitter's session is told of the ends of its tasks.
        self.followed = False
        #: How fast its tasks end; None until the first lease, and for a single task.
        self.pace: Pace | None = None
        #: Number of its leased tasks.
        self.running = 0
        #: The tasks that left the common path, by index; None (not an empty dict) for most batches, to save the memory.
        self.tasks: dict[int, Task] | None = None

    @classmethod
    def from_row(cls, row: BatchRow, entry: SpecEntry) -> Batch:
        """The batch that a row describes."""
        batch = cls(row.batch, entry, row.submitted_at)
        batch.size = row.size
        batch.complete = row.complete
        batch.next = row.next
        batch.cut = row.cut
        batch.due_at = row.due_at
        batch.succeeded = row.succeeded
        batch.dead = row.dead
        batch.cancelled = row.cancelled
        batch.purged = row.purged
        batch.flow = row.flow
        if row.flow is not None and row.flow.each:
            batch.frontier = Frontier()
            batch.frontier.ready = row.next
        batch.session = row.session
        if row.user_key:
            batch.key = row.key
        else:
            batch.submission = int(row.key.rpartition("/")[2])
        return batch

    def row(self) -> BatchRow:
        """The row that describes the batch."""
        return BatchRow(
            batch=self.number,
            spec=self.entry.number,
            size=self.size,
            complete=self.complete,
            next=self.next,
            cut=self.cut,
            due_at=self.due_at,
            submitted_at=self.submitted_at,
            finished_at=self.finished_at,
            succeeded=self.succeeded,
            dead=self.dead,
            cancelled=self.cancelled,
            purged=self.purged,
            key=f"{self.session}/{self.submission}" if self.key is None else self.key,
            user_key=self.key is not None,
            session=self.session,
            expires_at=self.expires_at,
            flow=self.flow,
        )

    @property
    def expires_at(self) -> float | None:
        """The moment at which it expires, if it has finished and has a time of its own."""
        keep_s = self.entry.spec.options.keep_results_s
        return None if keep_s is None or self.finished_at is None else moment_of_expiry(self.finished_at, keep_s)

    @property
    def blocked(self) -> bool:
        """Whether its fresh tasks, which are then all of its tasks, wait for others."""
        return self.flow is not None and self.flow.blocked

    @property
    def limits(self) -> tuple[str, ...]:
        """The names of the limits that its tasks count against, each once."""
        return () if self.flow is None else self.flow.limits

    @property
    def starts_by(self) -> float | None:
        """The moment at which its unstarted tasks are cancelled; None without one."""
        return None if self.flow is None else self.flow.start_by

    @property
    def label(self) -> str:
        """Its label."""
        return "" if self.flow is None else self.flow.label

    @property
    def spec(self) -> Spec:
        """Its function and options, limits and label among them."""
        return self.entry.spec if self.flow is None else whole(self.entry.spec, self.flow.limits, self.flow.label)

    @property
    def single(self) -> bool:
        """Whether it has just one task, and never will have more."""
        return self.complete and self.size == 1

    @property
    def queue(self) -> str:
        """The queue its tasks wait in."""
        return self.entry.queue

    @property
    def limit(self) -> int:
        """Index after the last of its tasks that were not cancelled as a whole."""
        return self.size if self.cut is None else self.cut

    @property
    def fresh(self) -> int:
        """How many of its tasks are fresh, those with a record included."""
        return max(0, self.limit - self.next)

    def is_fresh(self, index: int) -> bool:
        """Whether a task has never been leased, has no record, and may still start."""
        return self.next <= index < self.limit and self.task(index) is None

    def listed(self, hi: int) -> int:
        """Up to where the fresh tasks of a run that ends there may be handed out, as far as its batch is concerned."""
        hi = min(hi, self.limit)
        return hi if self.frontier is None else min(hi, self.frontier.ready)

    def note_pace(self, now: float) -> None:
        """Note how many of its tasks have ended."""
        if self.pace is None:
            self.pace = Pace(now, self.settled)
        else:
            self.pace.note(now, self.settled)

    @property
    def settled(self) -> int:
        """Number of its tasks that ended by themselves: cancelled ones say nothing of its pace."""
        return self.succeeded + self.dead + self.purged

    @property
    def ended(self) -> int:
        """Number of its tasks that are in a final state, or purged."""
        return self.succeeded + self.dead + self.cancelled + self.purged

    def task(self, index: int) -> Task | None:
        """The task's record, if the task left the common path and is in memory."""
        return None if self.tasks is None else self.tasks.get(index)

    def keep(self, index: int, task: Task) -> None:
        """Add a record."""
        if self.tasks is None:
            self.tasks = {}
        self.tasks[index] = task

    def release(self, index: int) -> None:
        """Remove a record."""
        if self.tasks is not None:
            self.tasks.pop(index, None)
            if not self.tasks:
                self.tasks = None

    def records_in(self, lo: int, hi: int) -> list[int]:
        """The indexes of tasks in ``[lo, hi)`` with a record, in order; looks at the smaller side."""
        if self.tasks is None:
            return []
        if hi - lo < len(self.tasks):
            return [index for index in range(lo, hi) if index in self.tasks]
        return sorted(index for index in self.tasks if lo <= index < hi)

    def fresh_parts(self) -> Iterator[tuple[State, int, int]]:
        """Its fresh tasks, as ranges of one state each; those with a record stand in these ranges, and do not count."""
        lo, hi = self.next, self.limit
        if lo >= hi:
            return
        if self.blocked:
            yield State.BLOCKED, lo, hi
            return
        ready = hi if self.frontier is None else min(hi, max(lo, self.frontier.ready))
        if lo < ready:
            yield State.PENDING if self.due_at is None else State.SCHEDULED, lo, ready
        if ready < hi:
            yield State.BLOCKED, ready, hi

    def fresh_counts(self) -> Iterator[tuple[State, int]]:
        """How many of its fresh tasks have no record, by their states."""
        for state, lo, hi in self.fresh_parts():
            yield state, hi - lo - (0 if self.tasks is None else len(self.records_in(lo, hi)))

    def state_of_fresh(self, index: int) -> State:
        """The state of one of its fresh tasks without a record."""
        return next(state for state, lo, hi in self.fresh_parts() if lo <= index < hi)
