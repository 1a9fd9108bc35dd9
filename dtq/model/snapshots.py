"""What the coordinator tells people about tasks, batches, queues and workers. Moments are seconds of the Unix epoch."""

from __future__ import annotations

from dataclasses import dataclass

from dtq.model.ids import TaskId
from dtq.model.messages import Failure
from dtq.model.options import Spec
from dtq.model.states import Outcome, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tasks a verb is for: all that match everything given.

    Attributes:
        ids: ``(batch, index)``; index -1 for the whole batch. Empty for any.
        state: their state.
        queue: their queue.
        function: their function's name, as a glob (``mymodule:*``).
        exception: name of the last exception, as a glob.
        older_than_s: in that state for at least so long.
        limit: at most so many (verbs that change something take no limit: 0).
    """

    ids: tuple[tuple[int, int], ...] = ()
    state: State | None = None
    queue: str | None = None
    function: str | None = None
    exception: str | None = None
    older_than_s: float | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt that did not succeed.

    Attributes:
        number: which attempt of the task, from 1.
        outcome: how it ended.
        started_at: when it was started (for a lost worker: leased).
        ended_at: when that was reported.
        worker: name of the worker.
        failure: why.
    """

    number: int
    outcome: Outcome
    started_at: float
    ended_at: float
    worker: str
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task, or a run of tasks of one batch that stand alike.

    Attributes:
        batch: the batch.
        index: index of the (first) task.
        count: how many tasks this describes.
        single: whether the batch has just one task.
        state: where it stands.
        spec: its function and options.
        attempt: number of the current or last attempt; 0 before the first.
        failures: how many attempts failed since it was submitted or put back.
        crashes: how many crashed.
        submitted_at: when it was accepted.
        due_at: when it becomes due, for a scheduled task.
        started_at: when the current or last attempt was leased.
        ended_at: when it came into its final state.
        worker: name of the worker that runs it or ran it last.
        progress: ``(done, total)`` as the task itself says.
        cancelling: whether it runs but is being stopped.
        history: its attempts that did not succeed (only where one task was asked for).
        reason: why it does not run, for a task that waits.
    """

    batch: int
    index: int
    count: int = 1
    single: bool = False
    state: State
    spec: Spec
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    submitted_at: float
    due_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    worker: str = ""
    progress: tuple[float, float] | None = None
    cancelling: bool = False
    history: tuple[Attempt, ...] = ()
    reason: str = ""

    @property
    def id(self) -> TaskId:
        """The (first) task's id."""
        return TaskId(self.batch, self.index, self.single)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tasks stand where."""

    scheduled: int = 0
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.unfinished + self.succeeded + self.dead + self.cancelled

    @property
    def unfinished(self) -> int:
        """Those that are not in a final state."""
        return self.scheduled + self.pending + self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch.

    Attributes:
        batch: its number.
        size: how many tasks it has (so far, while it is not complete).
        complete: whether the submitter has sent all of it.
        spec: its function and options.
        counts: where its tasks stand.
        submitted_at: when its first piece was accepted.
        finished_at: when its last task came into a final state.
        key: the submitter's own key.
    """

    batch: int
    size: int
    complete: bool
    spec: Spec
    counts: Counts
    submitted_at: float
    finished_at: float | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter, in one line.

    Attributes:
        batch: the batch.
        index: the task's index.
        single: whether the batch has just one task.
        function: its function's name.
        queue: its queue.
        attempts: how many attempts it had.
        outcome: how the last one ended.
        exception: what the last one raised.
        message: and its message.
        submitted_at: when it was accepted.
        died_at: when it was given up.
    """

    batch: int
    index: int
    single: bool
    function: str
    queue: str
    attempts: int
    outcome: Outcome
    exception: str
    message: str
    submitted_at: float
    died_at: float

    @property
    def id(self) -> TaskId:
        """The task's id."""
        return TaskId(self.batch, self.index, self.single)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """What a cancel did.

    Attributes:
        cancelled: tasks that had not started and never will.
        stopping: running tasks whose slots are being killed.
        finished: tasks that had ended before, and stay as they are.
    """

    cancelled: int
    stopping: int
    finished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue with unfinished tasks or workers."""

    name: str
    pending: int
    scheduled: int
    running: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A connected worker.

    Attributes:
        session: stands for its session, the same while that lasts; is not its name towards the coordinator.
        name: its name.
        host: its machine.
        pid: its process.
        slots: how many slots can run something.
        busy: how many leases it holds, at most two a slot.
        queues: what it serves; empty for all.
        seen_s: seconds since it was last heard.
        connected_at: since when it is known.
        running: the tasks it runs, at most 100.
        draining: whether it takes no more work.
        version: its dtq version.
        python: its Python version.
    """

    session: str
    name: str
    host: str
    pid: int
    slots: int
    busy: int
    queues: tuple[str, ...]
    seen_s: float
    connected_at: float
    running: tuple[str, ...]
    draining: bool
    version: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The coordinator in one look.

    Attributes:
        counts: where tasks stand; final states count everything since the store was made, less what was put back.
        submitted: tasks accepted since the store was made.
        retries: attempts that were followed by another, since the store was made.
        refused: reports for leases that were no longer current, since this start.
        dead_letters: how many dead letters there are now.
        queues: the queues with something in them, or with workers.
        workers: the connected workers.
        clients: how many client sessions are known.
        epoch: number of this run of the coordinator.
        started_at: when this run started.
        now: the coordinator's time.
        pid: the coordinator's process.
        version: its dtq version.
        python: its Python version.
        store: where the state is kept.
        durability: fsync, os or none.
        highest_first: whether a higher number is more urgent.
        losses: what the store had lost when it was opened, in sentences; empty where nothing.
        trouble: why new submissions are refused at the moment, as the code of the error (``store-full``:
            the disk is full); empty where they are accepted.
        trouble_text: the same as a sentence.
    """

    counts: Counts
    submitted: int
    retries: int
    refused: int
    dead_letters: int
    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]
    clients: int
    epoch: int
    started_at: float
    now: float
    pid: int
    version: str
    python: str
    store: str
    durability: str
    highest_first: bool
    losses: tuple[str, ...] = ()
    trouble: str = ""
    trouble_text: str = ""
