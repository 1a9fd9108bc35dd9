"""Snapshots: the coordinator's descriptions of tasks, batches, queues and workers for people.

Moments are seconds of the Unix epoch.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from dtq.model import fields
from dtq.model.fields import ANSWERED, FEW, MANY, RESOURCES, TAGS, UNITS
from dtq.model.ids import TaskId
from dtq.model.messages import Failure, WorkerOrder
from dtq.model.options import Spec
from dtq.model.states import Outcome, State
from dtq.records import dataclass

#: A place in a list of tasks: a state; the moment of the end, or the priority of an unfinished task; batch and index.
Place = tuple[fields.Word, fields.Moment, fields.BatchNumber, fields.Index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The tasks that a verb applies to: those that match every given field.

    Attributes:
        ids: ``(batch, index)``; index -1 for the whole batch. Empty for any.
        state: their state.
        queue: their queue.
        function: their function's name, as a glob (``mymodule:*``).
        exception: name of the last exception, as a glob; of a time limit ``TimeoutError``, of a crash
            ``dtq.errors.TaskCrashed`` (`exception_name`).
        outcome: how their last unsuccessful attempt ended.
        label: their label.
        older_than_s: in that state for at least so long.
        limit: at most this many (verbs that change something take no limit: 0).
        after: only those behind this place of a list (`TaskView.place`, `DeadLetter.place`): continues a list that was
            cut off.
    """

    ids: Annotated[tuple[tuple[fields.BatchNumber, fields.IndexOrNone], ...], MANY] = ()
    state: State | None = None
    queue: fields.Label | None = None
    function: fields.Pattern | None = None
    exception: fields.Pattern | None = None
    label: fields.Label | None = None
    older_than_s: fields.Seconds | None = None
    limit: fields.Count = 100
    after: Place | None = None
    outcome: Outcome | None = None

    @property
    def by_attempt(self) -> bool:
        """Whether only tasks with an unsuccessful attempt can match."""
        return self.exception is not None or self.outcome is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt that did not succeed.

    Attributes:
        number: which attempt of the task, from 1.
        outcome: how it ended.
        started_at: when it was started (for a lost worker: when the task before it had ended, or it was leased).
        ended_at: when that was reported.
        worker: name of the worker.
        failure: why.
    """

    number: fields.Count
    outcome: Outcome
    started_at: fields.Moment
    ended_at: fields.Moment
    worker: fields.Label
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPart:
    """A part of what one attempt of a task has printed.

    Attributes:
        attempt: which attempt, from 1; 0 for a task that was never started.
        offset: number of bytes that the attempt had printed before: more than asked for if some are left out.
        data: the bytes.
        over: whether the attempt is over, and these are its last bytes.
        last: whether the task has ended besides, so that no attempt follows.
        state: the task's state.
        worker: name of the worker of an attempt that is over.
    """

    attempt: fields.Count
    offset: fields.Offset
    data: fields.Output
    over: bool = False
    last: bool = False
    state: State
    worker: fields.Label = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task, or a run of like tasks of one batch.

    Attributes:
        batch: the batch.
        index: index of the (first) task.
        count: how many tasks this describes.
        single: whether the batch has just one task.
        state: its state.
        spec: its function and options.
        attempt: number of the current or last attempt; 0 before the first.
        failures: how many attempts failed since it was submitted or put back.
        crashes: how many crashed.
        submitted_at: when it was accepted.
        due_at: when it becomes due, for a scheduled task.
        started_at: when the current or last attempt started, as far as that is known; None if a worker only holds it.
        ended_at: when it came into its final state.
        worker: name of the worker that runs it, holds it, or ran it last.
        progress: ``(done, total)`` as the task itself reports it.
        cancelling: whether it runs but is being stopped.
        history: its unsuccessful attempts (only if one task was asked for).
        reason: why it does not run, for a waiting task; why it was cancelled without a request.
        more: whether there are later attempts than those of the history; see `Service.attempts`.
        start_by: for a task that waits for its first start, the moment at which it is cancelled.
        key: its batch's own key; ``schedule/NAME/...`` if a schedule has submitted it.
        held: whether a worker holds it, and has not started it yet.
        run_s: how long it ran, in seconds, if it has succeeded and that is known; of tasks that were reported together,
            the mean.
        about: whether ``run_s`` is a mean, and ``started_at`` is therefore not exact.
        peak_memory: highest resident memory of its slot's process until its end, in bytes, likewise. Earlier tasks of
            the process count too.
    """

    batch: fields.BatchNumber
    index: fields.Index
    count: fields.Count = 1
    single: bool = False
    state: State
    spec: Spec
    attempt: fields.Count = 0
    failures: fields.Count = 0
    crashes: fields.Count = 0
    submitted_at: fields.Moment
    due_at: fields.Moment | None = None
    started_at: fields.Moment | None = None
    ended_at: fields.Moment | None = None
    worker: fields.Label = ""
    progress: tuple[fields.Measure, fields.Measure] | None = None
    cancelling: bool = False
    history: Annotated[tuple[Attempt, ...], ANSWERED] = ()
    reason: fields.Sentence = ""
    more: bool = False
    start_by: fields.Moment | None = None
    key: fields.Key | None = None
    held: bool = False
    run_s: fields.Measure | None = None
    about: bool = False
    peak_memory: fields.Count | None = None

    @property
    def id(self) -> TaskId:
        """The (first) task's id."""
        return TaskId(self.batch, self.index, self.single)

    @property
    def place(self) -> Place:
        """Its place in a list of tasks."""
        at = float(self.spec.options.priority) if self.ended_at is None else self.ended_at
        return self.state.value, at, self.batch, self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArguments:
    """The arguments of a task, as they are stored: for people, and opened by nobody but the face that shows them.

    Attributes:
        batch: the batch.
        index: the task's index.
        kept: whether they are still kept.
        blob: their first bytes; of large ones a description (`model.values`).
        size: how many bytes there are.
        given: the results of other tasks that it is given, in words, in the order in which its call names them; the
            first few.
    """

    batch: fields.BatchNumber
    index: fields.Index
    kept: bool
    blob: fields.CallBlob
    size: fields.Count
    given: Annotated[tuple[fields.Label, ...], ANSWERED] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of tasks by state."""

    blocked: fields.Count = 0
    scheduled: fields.Count = 0
    pending: fields.Count = 0
    running: fields.Count = 0
    succeeded: fields.Count = 0
    dead: fields.Count = 0
    cancelled: fields.Count = 0

    @property
    def total(self) -> int:
        """Number of all tasks."""
        return self.unfinished + self.succeeded + self.dead + self.cancelled

    @property
    def unfinished(self) -> int:
        """Number of tasks that are not in a final state."""
        return self.blocked + self.scheduled + self.pending + self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch.

    Attributes:
        batch: its number.
        size: how many tasks it has (so far, while it is not complete).
        complete: whether the submitter has sent all of it.
        spec: its function and options.
        counts: its tasks by state.
        submitted_at: when its first piece was accepted.
        finished_at: when its last task came into a final state.
        key: the submitter's own key.
        reason: why its tasks that were cancelled as a whole, without a request, never start.
        rate: how many of its tasks end per second at present; None if that is unknown.
        left_s: when it will have finished at this rate, in seconds from now; None if the rate is unknown.
    """

    batch: fields.BatchNumber
    size: fields.Count
    complete: bool
    spec: Spec
    counts: Counts
    submitted_at: fields.Moment
    finished_at: fields.Moment | None = None
    key: fields.Key | None = None
    reason: fields.Sentence = ""
    rate: fields.Measure | None = None
    left_s: fields.Measure | None = None

    @property
    def ended(self) -> int:
        """Number of its tasks that are in a final state; those that are no longer kept among them."""
        return max(0, self.size - self.counts.unfinished)

    @property
    def finished(self) -> bool:
        """Whether all of its tasks have come, and have ended."""
        return self.complete and not self.counts.unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSelection:
    """The batches that a list shows: those that match every given field.

    Attributes:
        queue: their queue.
        function: their function's name, as a glob.
        label: their label.
        state: the state of at least one of their tasks.
        older_than_s: submitted at least so long ago.
        before: only batches with lower numbers: continues a list (`BatchList.before`). 0 for all.
        limit: at most this many; 0 for as many as one answer holds.
    """

    queue: fields.Label | None = None
    function: fields.Pattern | None = None
    label: fields.Label | None = None
    state: State | None = None
    older_than_s: fields.Seconds | None = None
    before: fields.BatchNumber = 0
    limit: fields.Count = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchList:
    """A part of a list of batches.

    Attributes:
        batches: the batches, newest first. There may be none although more follow: one call looks at a bounded number
            of batches.
        before: where to continue the list (`BatchSelection.before`); 0 at its end.
    """

    batches: Annotated[tuple[BatchView, ...], ANSWERED]
    before: fields.BatchNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A batch in a graph of dependencies.

    Attributes:
        batch: its number.
        size: how many tasks it has.
        function: its function's name.
        counts: its tasks by state.
        after: its parents: tasks ``[lo, hi)`` of a batch, where hi is 0 for all of it.
        more: whether it has more parents than these.
        each: the batches whose tasks its own wait for one by one, or have.
        given: the batches that single tasks of it wait for by themselves, or have; the first few.
    """

    batch: fields.BatchNumber
    size: fields.Count
    function: fields.FunctionName
    counts: Counts
    after: Annotated[tuple[tuple[fields.BatchNumber, fields.Index, fields.Index], ...], ANSWERED] = ()
    more: bool = False
    each: Annotated[tuple[fields.BatchNumber, ...], ANSWERED] = ()
    given: Annotated[tuple[fields.BatchNumber, ...], ANSWERED] = ()


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
        exception: the exception of the last one.
        message: the exception's message.
        submitted_at: when it was accepted.
        died_at: when it was given up.
        started_at: when its last attempt started; None if that is not known.
        run_s: how long that ran, in seconds, likewise.
        worker: name of the worker that ran it.
        peak_memory: highest resident memory of its slot's process, in bytes, likewise.
    """

    batch: fields.BatchNumber
    index: fields.Index
    single: bool
    function: fields.FunctionName
    queue: fields.Queue
    attempts: fields.Count
    outcome: Outcome
    exception: fields.ExceptionName
    message: fields.Message
    submitted_at: fields.Moment
    died_at: fields.Moment
    started_at: fields.Moment | None = None
    run_s: fields.Measure | None = None
    worker: fields.Label = ""
    peak_memory: fields.Count | None = None

    @property
    def id(self) -> TaskId:
        """The task's id."""
        return TaskId(self.batch, self.index, self.single)

    @property
    def place(self) -> Place:
        """Its place in a list of dead letters."""
        return State.DEAD.value, self.died_at, self.batch, self.index


class GroupBy(Enum):
    """What dead letters of one group have in common."""

    EXCEPTION = "exception"  #: the name of their exception (`exception_name`)
    FUNCTION = "function"  #: the name of their function


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadGroup:
    """Dead letters that have something in common.

    Attributes:
        name: what they have in common.
        count: how many there are.
        newest_at: when the latest of them was given up.
        batch: the batch of the latest.
        index: its index.
        single: whether its batch has just one task.
        message: the message of its exception.
    """

    name: fields.FunctionName
    count: fields.Count
    newest_at: fields.Moment
    batch: fields.BatchNumber
    index: fields.Index
    single: bool
    message: fields.Message

    @property
    def id(self) -> TaskId:
        """The id of the latest."""
        return TaskId(self.batch, self.index, self.single)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSummary:
    """A summary of some dead letters.

    Attributes:
        groups: the groups, the largest first.
        after: where the summary goes on (`Selection.after`); None if these were the last.
    """

    groups: Annotated[tuple[DeadGroup, ...], ANSWERED]
    after: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """The effects of a cancel.

    Attributes:
        cancelled: tasks that had not started and never will.
        stopping: running tasks whose slots are being killed.
        finished: tasks that had ended before, and stay as they are.
    """

    cancelled: fields.Count
    stopping: fields.Count
    finished: fields.Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A batch of ended tasks that were submitted once more.

    Attributes:
        earlier: the batch of the ended tasks.
        batch: the new batch.
        tasks: how many tasks it has, in the order of the ended ones.
    """

    earlier: fields.BatchNumber
    batch: fields.BatchNumber
    tasks: fields.Count


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunReport:
    """The effects of a rerun.

    Attributes:
        tasks: how many tasks were submitted.
        batches: the new batches.
        more: whether there are more of them than the answer holds.
    """

    tasks: fields.Count
    batches: Annotated[tuple[Rerun, ...], ANSWERED]
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue with unfinished tasks, workers, or settings of its own.

    Attributes:
        name: its name.
        pending: how many tasks wait for a grant.
        scheduled: how many wait for a time.
        running: how many run.
        workers: how many workers serve it.
        blocked: how many wait for other tasks.
        paused: whether it starts no tasks.
        draining: whether it takes no new tasks.
        weight: its share beside other queues of equal priority.
    """

    name: fields.Queue
    pending: fields.Count
    scheduled: fields.Count
    running: fields.Count
    workers: fields.Count
    blocked: fields.Count = 0
    paused: bool = False
    draining: bool = False
    weight: fields.Weight = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceView:
    """A worker's offer of a resource.

    Attributes:
        name: the resource.
        units: the names of its units; empty for a sum.
        amount: how many units, or how large the sum.
        free_units: the units that no task has.
        free: number of free units, or the free part of the sum.
    """

    name: fields.ResourceName
    units: Annotated[tuple[fields.UnitName, ...], UNITS]
    amount: fields.Count
    free_units: Annotated[tuple[fields.UnitName, ...], UNITS]
    free: fields.Count


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A connected worker.

    Attributes:
        session: identifies its session while that lasts; not the name that it uses towards the coordinator.
        name: its name.
        host: its machine.
        pid: its process.
        slots: how many slots can run tasks.
        busy: how many of its slots run tasks.
        queues: the queues it serves; empty for all.
        seen_s: seconds since it was last heard.
        connected_at: since when it is known.
        running: the tasks it runs, at most 100.
        draining: whether it takes no more work.
        version: its dtq version.
        python: its Python version.
        trouble: why its slots do not start at the moment; empty if they do.
        resources: its offers of resources.
        tags: its tags.
        order: the operator's order that holds for it.
        held: how many tasks it holds that have not started.
    """

    session: fields.Session
    name: fields.Label
    host: fields.Label
    pid: fields.Pid
    slots: fields.Slots
    busy: fields.Count
    queues: Annotated[tuple[fields.Queue, ...], FEW]
    seen_s: fields.Measure
    connected_at: fields.Moment
    running: Annotated[tuple[fields.Label, ...], FEW]
    draining: bool
    version: fields.Version
    python: fields.Version
    trouble: fields.Sentence = ""
    resources: Annotated[tuple[ResourceView, ...], RESOURCES] = ()
    tags: Annotated[tuple[fields.Tag, ...], TAGS] = ()
    order: WorkerOrder = WorkerOrder.WORK
    held: fields.Count = 0

    @property
    def state(self) -> str:
        """Its state in one word: working, idle, starting, in-trouble, draining, drained or stopping."""
        if self.order is not WorkerOrder.WORK:
            drained = self.order is WorkerOrder.STAY and not self.busy and not self.held
            return "drained" if drained else "stopping" if self.order is WorkerOrder.STOP else "draining"
        if self.trouble:
            return "in-trouble"
        return "starting" if self.draining else "working" if self.busy else "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedWorker:
    """A worker that an operator has given an order.

    Attributes:
        name: its name.
        session: identifies its session (`WorkerView.session`).
        order: the order that holds for it now: one to end cannot be taken back.
        busy: how many tasks it runs.
    """

    name: fields.Label
    session: fields.Session
    order: WorkerOrder
    busy: fields.Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """An overview of the coordinator.

    Attributes:
        counts: tasks by state; final states count all tasks since the store was made, less those put back.
        submitted: tasks accepted since the store was made.
        retries: attempts that were followed by another, since the store was made.
        refused: reports for leases that were no longer current, since this start.
        dead_letters: how many dead letters there are now.
        queues: the queues with tasks, or with workers.
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
        losses: losses of the store found when it was opened, in sentences; empty for none.
        trouble: why new submissions are refused at the moment, as the code of the error (``store-full``: the disk is
            full); empty if they are accepted.
        trouble_text: the same as a sentence.
        more_queues: whether there are more queues; see `Service.queues`.
        more_workers: whether there are more workers; see `Service.workers`.
        schedules: how many schedules there are; see `Service.schedules`.
    """

    counts: Counts
    submitted: fields.Count
    retries: fields.Count
    refused: fields.Count
    dead_letters: fields.Count
    queues: Annotated[tuple[QueueView, ...], ANSWERED]
    workers: Annotated[tuple[WorkerView, ...], ANSWERED]
    clients: fields.Count
    epoch: fields.Count
    started_at: fields.Moment
    now: fields.Moment
    pid: fields.Pid
    version: fields.Version
    python: fields.Version
    store: fields.Sentence
    durability: fields.Word
    highest_first: bool
    losses: Annotated[tuple[fields.Sentence, ...], ANSWERED] = ()
    trouble: fields.Word = ""
    trouble_text: fields.Sentence = ""
    more_queues: bool = False
    more_workers: bool = False
    schedules: fields.Count = 0
