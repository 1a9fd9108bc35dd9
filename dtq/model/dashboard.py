"""The first screen: what the coordinator says of itself at a glance, for the terminal dashboard and the page.

One bounded answer, made in the coordinator, so that both faces show the same numbers in the same words. Moments are
seconds of the Unix epoch by the coordinator's clock, ages and durations are seconds.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from dtq.model import fields
from dtq.model.fields import ANSWERED, FEW
from dtq.model.ids import TaskId
from dtq.model.snapshots import Counts
from dtq.model.states import Outcome
from dtq.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotUse:
    """What a slot of a worker runs and uses, as the worker measures it.

    Attributes:
        number: which slot of the worker, from 1.
        token: the lease of the task that it runs; 0 for none.
        index: the task's index in its batch.
        seconds: how long the task has run.
        cpu: cores that the slot's processes have used since the last report; None if unknown.
        memory: their resident memory, in bytes; None if unknown.
    """

    number: fields.Slots
    token: fields.Token = 0
    index: fields.Index = 0
    seconds: fields.Seconds = 0.0
    cpu: fields.Cores | None = None
    memory: fields.Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Totals of equal intervals, oldest first.

    Attributes:
        step_s: length of an interval.
        end: when the last interval ended.
        submitted: tasks that were accepted in each interval.
        done: tasks that succeeded.
        failed: attempts that did not succeed.
        backlog: tasks that waited at the end of each interval.
        lost: workers that were lost.
        oldest_ms: age of the oldest ready task at the end of each interval, in milliseconds; 0 if none waited.
    """

    step_s: fields.Seconds
    end: fields.Moment
    submitted: Annotated[tuple[fields.Count, ...], ANSWERED] = ()
    done: Annotated[tuple[fields.Count, ...], ANSWERED] = ()
    failed: Annotated[tuple[fields.Count, ...], ANSWERED] = ()
    backlog: Annotated[tuple[fields.Count, ...], ANSWERED] = ()
    lost: Annotated[tuple[fields.Count, ...], ANSWERED] = ()
    oldest_ms: Annotated[tuple[fields.Count, ...], ANSWERED] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Tasks a second, over the last ten seconds.

    Attributes:
        submitted: accepted tasks.
        done: succeeded tasks.
        failed: attempts that did not succeed.
    """

    submitted: fields.Measure = 0.0
    done: fields.Measure = 0.0
    failed: fields.Measure = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """Waiting tasks of one priority.

    Attributes:
        priority: the priority.
        count: how many tasks wait.
        rest: whether tasks of less urgent priorities are counted here too: there were too many to tell them apart.
    """

    priority: fields.Priority
    count: fields.Count
    rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLine:
    """A queue on the first screen.

    Attributes:
        name: its name.
        ready: how many tasks wait for a slot.
        running: how many run, or are with a worker.
        scheduled: how many wait for a time.
        blocked: how many wait for other tasks.
        oldest_s: age of the oldest ready task, since its submission; None if none waits.
        done_per_min: tasks that succeed in a minute, as in the last one.
        depths: ready tasks by priority, the most urgent first.
        workers: how many workers serve it.
        paused: whether it starts no tasks.
        draining: whether it takes no new tasks.
    """

    name: fields.Queue
    ready: fields.Count
    running: fields.Count
    scheduled: fields.Count
    blocked: fields.Count
    oldest_s: fields.Measure | None
    depths: Annotated[tuple[Depth, ...], FEW]
    workers: fields.Count
    done_per_min: fields.Measure = 0.0
    paused: bool = False
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLine:
    """A slot on the first screen.

    Attributes:
        number: which slot of its worker, from 1.
        batch: the batch of the task that it runs; 0 if it is idle.
        index: that task's index.
        single: whether the batch has just one task.
        function: the task's function.
        attempt: which attempt this is.
        seconds: how long it has run.
        progress: ``(done, total)`` as the task itself reports it.
        cpu: cores that the slot uses; None if unknown.
        memory: its resident memory, in bytes; None if unknown.
    """

    number: fields.Slots
    batch: fields.BatchNumber = 0
    index: fields.Index = 0
    single: bool = False
    function: fields.ExceptionName = ""
    attempt: fields.Count = 0
    seconds: fields.Measure = 0.0
    progress: tuple[fields.Measure, fields.Measure] | None = None
    cpu: fields.Cores | None = None
    memory: fields.Count | None = None

    @property
    def task(self) -> str:
        """The id of the task; empty if the slot is idle."""
        return str(TaskId(self.batch, self.index, self.single)) if self.batch else ""


class WorkerState(Enum):
    """State of a worker."""

    WORKING = "working"
    IDLE = "idle"
    STARTING = "starting"  #: has no slot yet
    DRAINING = "draining"  #: takes no more work, and finishes what it has
    DRAINED = "drained"  #: was told to take no more work, and has none
    STOPPING = "stopping"  #: gives its tasks back, and ends
    IN_TROUBLE = "in-trouble"  #: its slots do not start
    SILENT = "silent"  #: not heard for longer than it should be
    LOST = "lost"  #: given up, in the last ten minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    """A worker on the first screen.

    Attributes:
        session: identifies its session while that lasts, also in verbs (`WorkerView.session`); empty for a lost one.
        name: its name.
        host: its machine.
        pid: its process.
        state: its state.
        size: how many slots it has.
        busy: how many of them run a task.
        held: how many further tasks it has taken, and not started.
        queues: the queues it serves; empty for all.
        seen_s: seconds since it was last heard.
        since: since when it is known.
        done: tasks that succeeded there since then.
        failed: attempts there that did not succeed.
        cpu: cores that its slots use; None if unknown.
        memory: their resident memory, in bytes; None if unknown.
        slots: its slots, as far as the answer has room.
        version: its dtq version.
        python: its Python version.
        trouble: why its slots do not start; empty if they do.
        ahead_s: seconds that its wall clock is ahead of the coordinator's; None if unknown.
    """

    session: fields.Label = ""
    name: fields.Label
    host: fields.Label
    pid: fields.Pid
    state: WorkerState
    size: fields.Slots
    busy: fields.Slots = 0
    held: fields.Count = 0
    queues: Annotated[tuple[fields.Queue, ...], FEW] = ()
    seen_s: fields.Measure = 0.0
    since: fields.Moment = 0.0
    done: fields.Count = 0
    failed: fields.Count = 0
    cpu: fields.Cores | None = None
    memory: fields.Count | None = None
    slots: Annotated[tuple[SlotLine, ...], ANSWERED] = ()
    version: fields.Version = ""
    python: fields.Version = ""
    trouble: fields.Sentence = ""
    ahead_s: fields.Measure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestFailure:
    """Attempts that did not succeed, alike in function, exception and message: the latest one, and their number.

    Attributes:
        at: when it ended.
        batch: the batch.
        index: the task's index.
        single: whether the batch has just one task.
        function: its function.
        queue: its queue.
        attempt: which attempt it was.
        most: how many attempts the task may have, if all fail.
        outcome: how it ended.
        exception: its exception.
        message: the exception's message, cut.
        worker: the name of the worker.
        dead: whether the task is a dead letter since then.
        count: how many such attempts there were, since the line has begun.
    """

    at: fields.Moment
    batch: fields.BatchNumber
    index: fields.Index
    single: bool
    function: fields.FunctionName
    queue: fields.Queue
    attempt: fields.Count
    most: fields.Count
    outcome: Outcome
    exception: fields.ExceptionName = ""
    message: fields.Message = ""
    worker: fields.Label = ""
    dead: bool = False
    count: fields.Count = 1

    @property
    def id(self) -> TaskId:
        """The task's id."""
        return TaskId(self.batch, self.index, self.single)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Something that a person should look at.

    Attributes:
        kind: a word for programs: ``no-worker``, ``worker-lost``, ``dead-letters``, ``paused``, ``needs``, ``trouble``,
            ``version``, ``python``, ``clock``, ``store``.
        text: what is the matter, in a sentence.
        remedy: a command line, or a few words, that help.
    """

    kind: fields.Word
    text: fields.Sentence
    remedy: fields.Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """The first screen.

    Attributes:
        now: the coordinator's time.
        epoch: number of this run of the coordinator.
        started_at: when this run started.
        pid: the coordinator's process.
        version: its dtq version.
        python: its Python version.
        store: where the state is kept.
        counts: tasks by state; final states count all tasks since the store was made, less those put back.
        rates: tasks a second.
        hour_s: seconds of the last hour that the history knows.
        hour_done: tasks that succeeded in that time.
        hour_failed: attempts that did not succeed in that time.
        oldest_s: age of the oldest ready task, since its submission; None if none waits.
        longest: the task that has run longest; None if none runs.
        longest_worker: the name of its worker.
        alive: how many workers there are.
        lost: how many were lost in the last ten minutes, and have not come back.
        slots: how many slots the workers have.
        busy: how many of them run a task.
        history: the last 15 minutes by the second, and the last 24 hours by the minute; only what is newer than was
            asked for.
        attention: what a person should look at, the most urgent first.
        queues: the first queues, those with the most ready tasks first.
        more_queues: how many further queues there are.
        workers: the first workers: lost and troubled ones, then the others by name.
        more_workers: how many further workers there are.
        failures: the latest attempts that did not succeed, newest first; alike ones in one line.
    """

    now: fields.Moment
    epoch: fields.Count
    started_at: fields.Moment
    pid: fields.Pid
    version: fields.Version
    python: fields.Version
    store: fields.Sentence
    counts: Counts
    rates: Rates
    hour_s: fields.Seconds
    hour_done: fields.Count
    hour_failed: fields.Count
    oldest_s: fields.Measure | None = None
    longest: SlotLine | None = None
    longest_worker: fields.Label = ""
    alive: fields.Count = 0
    lost: fields.Count = 0
    slots: fields.Count = 0
    busy: fields.Count = 0
    history: Annotated[tuple[History, ...], FEW] = ()
    attention: Annotated[tuple[Attention, ...], FEW] = ()
    queues: Annotated[tuple[QueueLine, ...], ANSWERED] = ()
    more_queues: fields.Count = 0
    workers: Annotated[tuple[WorkerLine, ...], ANSWERED] = ()
    more_workers: fields.Count = 0
    failures: Annotated[tuple[LatestFailure, ...], FEW] = ()
