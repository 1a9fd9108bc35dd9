"""The service: the one small protocol that every face speaks.

The coordinator's sessions satisfy it in process, the transport's proxy satisfies it across the wire; the contract suite
runs the same tests over both. Each connection has a service object of its own, and `hello` is its first call.

No call returns before everything its answer depends on is on disk. Grants are the exception: a lease is recorded
without waiting, since a lease lost in a crash is a task that runs again.
"""

from __future__ import annotations

from typing import Annotated, Protocol

from dtq.model import fields
from dtq.model.dashboard import Dashboard, SlotUse
from dtq.model.explanations import Explanation
from dtq.model.fields import ANSWERED, FEW, FEW_TASKS, MANY, SLOTS
from dtq.model.limits import Limit, LimitView
from dtq.model.messages import (
    SUBMISSIONS,
    Ended,
    Exchange,
    Hello,
    Orders,
    Receipt,
    Submission,
    TaskRange,
    Watched,
    Welcome,
    WorkerOrder,
)
from dtq.model.options import Spec
from dtq.model.queues import Steering, SteeringChange
from dtq.model.schedules import Schedule, ScheduleView
from dtq.model.snapshots import (
    Attempt,
    BatchList,
    BatchSelection,
    BatchView,
    CancelReport,
    DeadLetter,
    DeadSummary,
    GraphNode,
    GroupBy,
    OrderedWorker,
    OutputPart,
    QueueView,
    RerunReport,
    Selection,
    Stats,
    TaskArguments,
    TaskView,
    WorkerView,
)


class Service(Protocol):
    """The coordinator's calls for clients, workers and operators."""

    def hello(self, hello: Hello) -> Welcome:
        """Introduce the caller; the first call on every connection.

        Raises:
            ProtocolMismatch: the two sides speak different versions.
        """
        ...

    def submit(
        self,
        specs: Annotated[list[Spec], MANY],
        submissions: Annotated[list[Submission], SUBMISSIONS],
        repeated: bool,
    ) -> Annotated[list[Receipt], ANSWERED]:
        """Accept new batches, or further pieces of batches, durably.

        Args:
            specs: the functions and options that the submissions refer to.
            submissions: in order. Each is accepted or refused by itself.
            repeated: whether the same submissions may have arrived before (the answer to them was lost).

        If the queue has no room for the first submission, the call waits for room as long as that submission allows.
        When a submission that may wait is refused with `QueueFull`, those after it that may wait are refused too, so
        the order stays.

        Returns:
            One receipt a submission. An accepted one is on disk.

        Raises:
            ShuttingDown: the coordinator is stopping.
            StoreFull: the disk is full; none of the submissions was accepted.
        """
        ...

    def follow(
        self, batches: Annotated[list[fields.BatchNumber], MANY]
    ) -> Annotated[list[fields.BatchNumber], ANSWERED]:
        """Have `watch` report the ends of these batches' tasks, past ones included.

        Returns:
            The batches that are not known.
        """
        ...

    def watch(self, cursor: fields.Count, wait_s: fields.Seconds) -> Watched:
        """Wait until a followed task ends.

        Args:
            cursor: from the last answer; 0 at first, and after a `Welcome` that did not resume the session.
            wait_s: how long to wait at most, in seconds.

        Returns:
            The ends since the cursor, at most a few MiB at a time; empty when the wait ran out.
        """
        ...

    def let_go(self, read: Annotated[list[TaskRange], MANY]) -> None:
        """Drop results and arguments that the caller has read and nobody else will ask for: of ended tasks, in batches
        that this very session has submitted without a key of the user's. Other tasks are passed over.

        Dead letters stay, with their arguments. A batch whose tasks are all let go is no longer known.

        Args:
            read: the tasks.
        """
        ...

    def write_value(self, segment: fields.Segment, offset: fields.Offset, data: fields.Chunk) -> None:
        """Write a piece of a value into a segment of the caller's own; for clients and workers that cannot reach the
        segments' files.

        The segment is made with the first piece; the caller draws its number at random. It belongs to the caller's
        session, and is kept until that session is gone, or is done with the segment. Written bytes never change:
        writing the same bytes again does no harm, so a call whose answer was lost may be repeated, also to a restarted
        coordinator.

        Args:
            segment: the segment.
            offset: the piece's offset in the segment, in bytes.
            data: the piece; empty to say that the caller is done with the segment: its values have been submitted or
                reported, and stay as long as their tasks.

        Raises:
            NotPermitted: another session writes to this segment, or the bytes there differ; or the coordinator keeps no
                values.
            TooLarge: the piece lies behind the end of the largest segment.
            StoreFull, StoreUnwritable: the piece cannot be written at the moment.
        """
        ...

    def read_value(self, segment: fields.Segment, offset: fields.Offset, length: fields.ChunkLength) -> fields.Chunk:
        """Read a piece of a value.

        Args:
            segment: the segment.
            offset: the piece's offset in the segment, in bytes.
            length: how many bytes.

        Raises:
            ValueGone: the segment does not exist, or no longer.
            ValueDamaged: it is too short, or cannot be read.
        """
        ...

    def hold(self, digest: fields.Digest, description: fields.Description, ttl_s: fields.Seconds) -> fields.Description:
        """Keep a value that no task needs yet, or needs any more: while the caller's session is connected, and for some
        time after. The value is known by the digest of its content: two holders of the same content hold the same
        value.

        Args:
            digest: SHA-256 of the value's content.
            description: of the value; empty to hold it only if it exists.
            ttl_s: how long it is kept when the session has gone, in seconds.

        Returns:
            The description of the value that is held, which may be another than the given one; empty if there is none.
            It is on disk.

        Raises:
            ValueGone, BadMessage: the described value does not exist.
            QueueFull: the session's number of holds has reached its bound.
            StoreFull: the disk is full.
        """
        ...

    def release(self, digests: Annotated[list[fields.Digest], MANY]) -> None:
        """Release the session's holds on these values. Tasks keep the values they need.

        Args:
            digests: of the values' contents.
        """
        ...

    def exchange(self, exchange: Exchange) -> Orders:
        """A worker's report and request (see `Exchange`); renews all its leases.

        Raises:
            SessionUnknown: the worker must say hello again.
        """
        ...

    def note_slots(self, wall: fields.Moment, slots: Annotated[list[SlotUse], SLOTS]) -> None:
        """A worker's account of its slots, for people: now and then, beside its reports.

        Args:
            wall: the worker's wall clock.
            slots: its slots, as many as a message should have.
        """
        ...

    def spec(self, number: fields.Count) -> Spec:
        """The function and options behind a grant's spec number.

        Raises:
            UnknownId: no live batch has this spec.
        """
        ...

    def batch(self, batch: fields.BatchNumber) -> BatchView:
        """A batch.

        Raises:
            UnknownId: it was never accepted, or it was purged.
        """
        ...

    def batches(self, selection: BatchSelection) -> BatchList:
        """Batches that match, newest first. Functions that travelled by value come without their bodies.

        Returns:
            At most the requested number: ask again with `BatchSelection.before`, until that is 0.
        """
        ...

    def task(self, batch: fields.BatchNumber, index: fields.Index) -> TaskView:
        """A task with its history and, while it waits, the reason.

        Returns:
            The task, with the first few MiB of its history.

        Raises:
            UnknownId: it was never accepted, or it was purged.
        """
        ...

    def explain(self, batch: fields.BatchNumber, index: fields.IndexOrNone) -> Annotated[list[Explanation], ANSWERED]:
        """Why a task is in its state, and what helps.

        Args:
            batch: the batch.
            index: the task; -1 for one task of each state that the batch has tasks in.

        Raises:
            UnknownId: it was never accepted, or it was purged.
        """
        ...

    def attempts(
        self, batch: fields.BatchNumber, index: fields.Index, first: fields.Count
    ) -> Annotated[list[Attempt], ANSWERED]:
        """The unsuccessful attempts of a task, from a number on.

        Returns:
            Oldest first, cut off after a few MiB: ask again behind the last one's number.
        """
        ...

    def output(
        self,
        batch: fields.BatchNumber,
        index: fields.Index,
        attempt: fields.Count,
        offset: fields.Offset,
        wait_s: fields.Seconds,
    ) -> OutputPart:
        """What an attempt of a task has printed, standard output and error together.

        Args:
            batch: the batch.
            index: the task.
            attempt: which attempt, from 1; 0 for the last one.
            offset: number of its bytes that the caller has.
            wait_s: how long to wait at most, in seconds, if there are no further bytes yet, or no such attempt.

        Returns:
            The next bytes that are kept, up to the next gap; none when the wait ran out.

        Raises:
            UnknownId: the task was never accepted, or it was purged.
            InvalidValue: the task has ended, and had no such attempt.
        """
        ...

    def results(
        self, batch: fields.BatchNumber, lo: fields.Index, hi: fields.Index
    ) -> Annotated[list[Ended], ANSWERED]:
        """The ends of tasks ``[lo, hi)`` of a batch; tasks that have not ended are left out.

        Returns:
            In rising order, cut off after a few MiB: ask again from the last ``hi``.

        Raises:
            UnknownId: the batch was never accepted, or it was purged.
        """
        ...

    def arguments(
        self, tasks: Annotated[list[tuple[fields.BatchNumber, fields.Index]], FEW_TASKS], most: fields.ChunkLength
    ) -> Annotated[list[TaskArguments], ANSWERED]:
        """The arguments of tasks, as they are stored.

        Args:
            tasks: batch and index of each.
            most: how many bytes of each at most; the bound is 64 KiB.

        Returns:
            In the same order, cut off after a few MiB: ask again for the others. Of a task that is not known any more,
            that its arguments are not kept.
        """
        ...

    def tasks(self, selection: Selection) -> Annotated[list[TaskView], ANSWERED]:
        """Tasks that match, as runs of like ones: unfinished tasks in the order they will run, then ended tasks, the
        latest first. Functions that travelled by value come without their bodies.

        Returns:
            At most the requested number: ask again with `Selection.after`, until none are left.
        """
        ...

    def graph(self, batch: fields.BatchNumber, limit: fields.Count) -> Annotated[list[GraphNode], ANSWERED]:
        """A batch, its parents, its children, and so on: the nearest batches that are kept.

        Args:
            batch: the batch.
            limit: how many batches at most; the bound is 1,000.

        Returns:
            The batch itself first, then the others in rising order; fewer if an answer cannot hold them all.

        Raises:
            UnknownId: it was never accepted.
            ResultExpired: it is no longer kept.
        """
        ...

    def cancel(self, selection: Selection) -> CancelReport:
        """Stop tasks: waiting tasks never start, running tasks are killed.

        Raises:
            UnknownId: one of the selected ids was never accepted; nothing was cancelled.
        """
        ...

    def reprioritize(self, selection: Selection, priority: fields.Priority) -> fields.Count:
        """Change the priority of whole batches, durably: of those with a matching task that waits.

        Returns:
            The number of their waiting tasks.

        Raises:
            UnknownId: one of the selected ids was never accepted; nothing was changed.
            WholeBatchOnly: an id names one task, or some, while others of the batch wait too; nothing was changed.
        """
        ...

    def steer_queue(self, queue: fields.Queue, how: SteeringChange) -> Steering:
        """Pause or drain a queue, or set its weight, durably.

        Returns:
            Its settings now.
        """
        ...

    def order_workers(
        self, names: Annotated[list[fields.Pattern], FEW], order: WorkerOrder
    ) -> Annotated[list[OrderedWorker], ANSWERED]:
        """Order workers to take no more tasks, to take them again, or to end. A worker is given nothing from then on
        that the order forbids, and is told at once, or when it comes back. The order holds as long as the worker's
        process; one that the worker has not heard is forgotten with the coordinator's process.

        Args:
            names: their names, as globs, or `WorkerView.session`; empty for all.
            order: the order. A worker that ends cannot be called back.

        Returns:
            The workers, in the order of their names, as many as an answer holds.

        Raises:
            UnknownWorker: a name matches no worker; no worker was given an order.
        """
        ...

    def set_limit(self, limit: Limit) -> None:
        """Set a limit, or change it, durably.

        Raises:
            LimitsFull: the number of limits has reached its bound.
            InvalidValue: it bounds nothing.
        """
        ...

    def limits(self, after: fields.Label) -> Annotated[list[LimitView], ANSWERED]:
        """The limits behind a name ("" for all), in the order of their names; ask again behind the last, until none are
        left.
        """
        ...

    def remove_limit(self, name: fields.LimitPattern) -> None:
        """Remove a limit, durably: tasks that waited for it may start.

        Raises:
            UnknownLimit: no limit has this name.
        """
        ...

    def dead_letters(self, selection: Selection) -> Annotated[list[DeadLetter], ANSWERED]:
        """Dead letters that match, latest first.

        Returns:
            At most the requested number: ask again with `Selection.after`, until none are left.
        """
        ...

    def dead_summary(self, selection: Selection, by: GroupBy) -> DeadSummary:
        """Dead letters that match, in groups.

        Returns:
            The groups of some of them, from the latest on: ask again with `Selection.after` as long as the answer has a
            place, and add the counts up.
        """
        ...

    def retry_dead(self, selection: Selection) -> fields.Count:
        """Put dead letters back with fresh counters, their history kept.

        Returns:
            Their number.

        Raises:
            UnknownId: one of the selected ids is not a dead letter; nothing was put back.
        """
        ...

    def purge_dead(self, selection: Selection) -> fields.Count:
        """Remove dead letters for good.

        Returns:
            Their number.

        Raises:
            UnknownId: one of the selected ids is not a dead letter; nothing was purged.
        """
        ...

    def rerun(self, selection: Selection) -> RerunReport:
        """Submit tasks that have ended once more, durably: the same functions, arguments and terms, as new tasks. The
        ended tasks of one batch make one new batch, without the key of the earlier one, its delay and its deadline.

        All new batches become durable in one commit, as far as they have 65,536 tasks and 16 MiB of arguments. Of
        more, whole batches stay when a later one is refused, and one of which not all could be submitted is cancelled;
        also if the coordinator ends in the middle.

        Raises:
            NotEnded: one of the selected ids is not that of an ended task; nothing was submitted.
            NotRepeatable: the arguments of a task are no longer kept.
            ResultExpired: a task is no longer kept; nothing was submitted.
            UnknownId: one of the selected ids was never accepted; nothing was submitted.
            QueueFull: the queue has no room for them.
            StoreFull: the disk is full.
        """
        ...

    def set_schedule(self, schedule: Schedule, replace: bool, dry_run: bool) -> fields.Word:
        """Define a schedule, durably; an identical definition changes nothing.

        Args:
            schedule: the schedule.
            replace: whether a schedule of this name with another definition is changed to this one.
            dry_run: whether nothing is changed, and only the effect is returned.

        Returns:
            ``added``, ``changed`` or ``unchanged``.

        Raises:
            ScheduleExists: a schedule of this name has another definition.
            SchedulesFull: the number of schedules has reached its bound.
            InvalidValue: its cron expression or time zone is invalid; or its call refers to values that are put.
            CronMissing: the coordinator cannot read cron expressions.
        """
        ...

    def schedules(self, after: fields.Label) -> Annotated[list[ScheduleView], ANSWERED]:
        """The schedules behind a name ("" for all), in the order of their names; ask again behind the last, until none
        are left.
        """
        ...

    def schedule(self, name: fields.ScheduleName) -> ScheduleView:
        """A schedule.

        Raises:
            UnknownSchedule: no schedule has this name.
        """
        ...

    def pause_schedule(self, name: fields.ScheduleName, paused: bool) -> None:
        """Let due times of a schedule go by without a submission, durably; or stop that: then the first one that counts
        is after this moment.

        Raises:
            UnknownSchedule: no schedule has this name.
        """
        ...

    def run_schedule(self, name: fields.ScheduleName) -> fields.BatchNumber:
        """Make a submission of a schedule now, durably, beside its due times.

        Returns:
            The batch.

        Raises:
            UnknownSchedule: no schedule has this name.
            QueueFull: the queue has no room for it.
        """
        ...

    def remove_schedule(self, name: fields.ScheduleName) -> None:
        """Remove a schedule, durably. Its submissions stay.

        Raises:
            UnknownSchedule: no schedule has this name.
        """
        ...

    def stats(self) -> Stats:
        """An overview of the coordinator, with as many of its queues and workers as an answer holds."""
        ...

    def dashboard(self, since: fields.Moment) -> Dashboard:
        """The first screen of a dashboard: bounded, and quickly made however much waits.

        Args:
            since: the history comes from this moment on; 0 for all of it.
        """
        ...

    def queues(self, after: fields.Label) -> Annotated[list[QueueView], ANSWERED]:
        """The queues behind a name ("" for all), in the order of their names; ask again behind the last, until none are
        left.
        """
        ...

    def workers(self, after: fields.Label, session: fields.Label) -> Annotated[list[WorkerView], ANSWERED]:
        """The workers behind one, by its `WorkerView.name` and `WorkerView.session`, in this order ("" and "" for all);
        ask again behind the last, until none are left.
        """
        ...

    def stop(self) -> None:
        """Stop the coordinator: commit, tell peers, end."""
        ...

    def reload_keys(self) -> Annotated[list[fields.Label], ANSWERED]:
        """Accept exactly the keys that the keyring has now; connections with removed keys end.

        Returns:
            The names of all accepted keys.

        Raises:
            KeyUnusable: the keyring cannot be read; the keys are as before.
        """
        ...


class Session(Service, Protocol):
    """A connection's service object, as the coordinator hands it to a transport."""

    def alive(self) -> None:
        """Note that bytes of a call or an answer move: the peer is alive, however slow the line is. Called now and then
        while a long message is under way, from the thread that makes the calls.
        """
        ...

    def open_value(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """As `read_value`, to be sent from the file: a descriptor of the file with the piece, for the caller to close,
        and the piece's offset there.

        Raises:
            ValueGone, ValueDamaged: as there.
        """
        ...

    def disconnected(self) -> None:
        """Note that the connection is gone; called once, last."""
        ...
