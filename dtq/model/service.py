"""The service: the one small protocol that every face speaks.

The coordinator's sessions satisfy it in process, the transport's proxy satisfies it across the wire; the contract suite
runs the same tests over both. Each connection has a service object of its own, and `hello` is its first call.

No call returns before everything its answer depends on is on disk, except that work is granted (and a lease recorded)
without waiting: a lease lost with a crash is a task that runs again.
"""

from __future__ import annotations

from typing import Annotated, Protocol

from dtq.model import fields
from dtq.model.fields import ANSWERED, MANY
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
)
from dtq.model.options import Spec
from dtq.model.queues import Steering, SteeringChange
from dtq.model.schedules import Schedule, ScheduleView
from dtq.model.snapshots import (
    Attempt,
    BatchView,
    CancelReport,
    DeadLetter,
    GraphNode,
    QueueView,
    Selection,
    Stats,
    TaskView,
    WorkerView,
)


class Service(Protocol):
    """What the coordinator does for clients, workers and operators."""

    def hello(self, hello: Hello) -> Welcome:
        """Say who calls; the first call on every connection.

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
            submissions: what to accept, in order. Each is accepted or refused by itself.
            repeated: whether the same submissions may have arrived before (the answer to them was lost).

        Where the queue has no room for the first submission, the call is held for so long as that allows. When one
        that may wait is refused with `QueueFull`, those after it that may wait are refused too: their order stays.

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
        """Have `watch` report how the tasks of these batches end, and of those that ended already.

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
            What ended since the cursor, at most a few MiB at a time; empty when the wait ran out.
        """
        ...

    def let_go(self, read: Annotated[list[TaskRange], MANY]) -> None:
        """Keep no longer what the caller has read and nobody else will ask for: of tasks that have ended, in batches
        that this very session has submitted without a key of the user's. Other tasks are passed over.

        Results and arguments go; dead letters stay, with their arguments. A batch all of which is let go is not known
        any more.

        Args:
            read: the tasks.
        """
        ...

    def write_value(self, segment: fields.Segment, offset: fields.Offset, data: fields.Chunk) -> None:
        """Write a piece of a value into a segment of the caller's own; from clients and workers that cannot reach the
        segments' files.

        The segment is made with the first piece; its number is drawn by the caller, at random. It belongs to the
        caller's session, and is kept until that is gone, or says that it is done with it. What was written is not
        changed any more: to write the same again does no harm, so a call whose answer was lost may be repeated, also
        to a coordinator that was restarted.

        Args:
            segment: the segment.
            offset: where the piece goes, in bytes from its beginning.
            data: the piece; empty to say that the caller is done with the segment: what is in it has been submitted or
                reported, and stays for as long as that.

        Raises:
            NotPermitted: somebody else writes to this segment, or something else is written there; or the coordinator
                keeps no values.
            TooLarge: it lies behind the end of the largest segment.
            StoreFull, StoreUnwritable: it cannot be written at the moment.
        """
        ...

    def read_value(self, segment: fields.Segment, offset: fields.Offset, length: fields.ChunkLength) -> fields.Chunk:
        """Read a piece of a value.

        Args:
            segment: the segment.
            offset: where the piece is, in bytes from its beginning.
            length: how many bytes.

        Raises:
            ValueGone: there is no such segment, or not any more.
            ValueDamaged: it is too short, or cannot be read.
        """
        ...

    def hold(self, digest: fields.Digest, description: fields.Description, ttl_s: fields.Seconds) -> fields.Description:
        """Have a value kept that no task needs yet, or needs any more: while the caller's session is there, and for
        some time when it has gone. It is known by the digest of what it holds: who holds what somebody else has put
        holds the same.

        Args:
            digest: SHA-256 of what the value holds.
            description: of the value; empty to hold it only if there is one.
            ttl_s: how long it is kept when the session has gone, in seconds.

        Returns:
            The description of the value that is held, which may be another one than was given; empty where there is
            none. It is on disk.

        Raises:
            ValueGone, BadMessage: what is described is not there.
            QueueFull: the session holds as many values as one may.
            StoreFull: the disk is full.
        """
        ...

    def release(self, digests: Annotated[list[fields.Digest], MANY]) -> None:
        """Hold values no longer, those of them that this session does. Tasks that need one have it still.

        Args:
            digests: of what they hold.
        """
        ...

    def exchange(self, exchange: Exchange) -> Orders:
        """A worker's report and request (see `Exchange`); renews all its leases.

        Raises:
            SessionUnknown: the worker has to say hello again.
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

    def task(self, batch: fields.BatchNumber, index: fields.Index) -> TaskView:
        """A task with its history and, while it waits, the reason.

        Returns:
            The task, with the first few MiB of its history.

        Raises:
            UnknownId: it was never accepted, or it was purged.
        """
        ...

    def attempts(
        self, batch: fields.BatchNumber, index: fields.Index, first: fields.Count
    ) -> Annotated[list[Attempt], ANSWERED]:
        """The attempts of a task that did not succeed, from the one with a number on.

        Returns:
            Oldest first, cut off after a few MiB: ask again behind the last one's number.
        """
        ...

    def results(
        self, batch: fields.BatchNumber, lo: fields.Index, hi: fields.Index
    ) -> Annotated[list[Ended], ANSWERED]:
        """How tasks ``[lo, hi)`` of a batch ended; those that have not are left out.

        Returns:
            In rising order, cut off after a few MiB: ask again from the last ``hi``.

        Raises:
            UnknownId: the batch was never accepted, or it was purged.
        """
        ...

    def tasks(self, selection: Selection) -> Annotated[list[TaskView], ANSWERED]:
        """Tasks that match, as runs of like ones: unfinished ones in the order they will run, then ended ones, the
        latest first. The functions of those that travelled by value are without their bodies.

        Returns:
            As many as were asked for, or fewer: ask again with `Selection.after`, until there are none.
        """
        ...

    def graph(self, batch: fields.BatchNumber, limit: fields.Count) -> Annotated[list[GraphNode], ANSWERED]:
        """A batch, what it waits for or has waited for, what waits for it, and so on: the nearest ones that are kept.

        Args:
            batch: the batch.
            limit: how many batches at most; there is a bound of 1,000.

        Returns:
            The batch itself first, then the others in rising order; fewer where they are more than an answer holds.

        Raises:
            UnknownId: it was never accepted.
            ResultExpired: it is no longer kept.
        """
        ...

    def cancel(self, selection: Selection) -> CancelReport:
        """Stop tasks: those that wait never start, those that run are killed.

        Raises:
            UnknownId: one of the selected ids was never accepted; nothing was cancelled.
        """
        ...

    def reprioritize(self, selection: Selection, priority: fields.Priority) -> fields.Count:
        """Give what waits another priority, durably, in whole batches: those of which any task that waits matches.

        Returns:
            How many tasks wait in them.

        Raises:
            UnknownId: one of the selected ids was never accepted; nothing was changed.
            WholeBatchOnly: one is that of a task, or of some tasks, while others of the batch wait too; nothing was
                changed.
        """
        ...

    def steer_queue(self, queue: fields.Queue, how: SteeringChange) -> Steering:
        """Pause or drain a queue, or give it a weight, durably.

        Returns:
            What holds for it now.
        """
        ...

    def set_limit(self, limit: Limit) -> None:
        """Set a limit, or change it, durably.

        Raises:
            LimitsFull: there are as many limits as there may be.
            InvalidValue: it bounds nothing.
        """
        ...

    def limits(self, after: fields.Label) -> Annotated[list[LimitView], ANSWERED]:
        """The limits behind a name ("" for all), in the order of their names; ask again behind the last, until there
        are none."""
        ...

    def remove_limit(self, name: fields.LimitPattern) -> None:
        """Forget a limit, durably: what waited for it may start.

        Raises:
            UnknownLimit: there is none of this name.
        """
        ...

    def dead_letters(self, selection: Selection) -> Annotated[list[DeadLetter], ANSWERED]:
        """Dead letters that match, latest first.

        Returns:
            As many as were asked for, or fewer: ask again with `Selection.after`, until there are none.
        """
        ...

    def retry_dead(self, selection: Selection) -> fields.Count:
        """Put dead letters back with fresh counters, their history kept.

        Returns:
            How many.

        Raises:
            UnknownId: one of the selected ids is not a dead letter; nothing was put back.
        """
        ...

    def purge_dead(self, selection: Selection) -> fields.Count:
        """Forget dead letters for good.

        Returns:
            How many.

        Raises:
            UnknownId: one of the selected ids is not a dead letter; nothing was purged.
        """
        ...

    def set_schedule(self, schedule: Schedule, replace: bool, dry_run: bool) -> fields.Word:
        """Define a schedule, durably; one that has the same definition already stays as it is.

        Args:
            schedule: the schedule.
            replace: whether one of this name that has another definition is changed to this one.
            dry_run: whether nothing is done, and only said what would be.

        Returns:
            ``added``, ``changed`` or ``unchanged``.

        Raises:
            ScheduleExists: there is one of this name with another definition.
            SchedulesFull: there are as many as there may be.
            InvalidValue: its cron expression is none, or its time zone; or its call refers to values that are put.
            CronMissing: the coordinator reads no cron expressions.
        """
        ...

    def schedules(self, after: fields.Label) -> Annotated[list[ScheduleView], ANSWERED]:
        """The schedules behind a name ("" for all), in the order of their names; ask again behind the last, until there
        are none."""
        ...

    def schedule(self, name: fields.ScheduleName) -> ScheduleView:
        """A schedule.

        Raises:
            UnknownSchedule: there is none of this name.
        """
        ...

    def pause_schedule(self, name: fields.ScheduleName, paused: bool) -> None:
        """Let due times of a schedule go by without a submission, durably; or no longer: then the first one that counts
        is after this moment.

        Raises:
            UnknownSchedule: there is none of this name.
        """
        ...

    def run_schedule(self, name: fields.ScheduleName) -> fields.BatchNumber:
        """Make a submission of a schedule now, durably, beside its due times.

        Returns:
            The batch.

        Raises:
            UnknownSchedule: there is none of this name.
            QueueFull: there is no room for it.
        """
        ...

    def remove_schedule(self, name: fields.ScheduleName) -> None:
        """Forget a schedule, durably. What it has submitted stays.

        Raises:
            UnknownSchedule: there is none of this name.
        """
        ...

    def stats(self) -> Stats:
        """The coordinator in one look, with as many of its queues and workers as an answer holds."""
        ...

    def queues(self, after: fields.Label) -> Annotated[list[QueueView], ANSWERED]:
        """The queues behind a name ("" for all), in the order of their names; ask again behind the last, until there
        are none."""
        ...

    def workers(self, after: fields.Label, session: fields.Label) -> Annotated[list[WorkerView], ANSWERED]:
        """The workers behind one, by its `WorkerView.name` and `WorkerView.session`, in this order ("" and "" for all);
        ask again behind the last, until there are none."""
        ...

    def stop(self) -> None:
        """Stop the coordinator: commit, tell peers, end."""
        ...

    def reload_keys(self) -> Annotated[list[fields.Label], ANSWERED]:
        """Accept the keys that the keyring has now, and no others; connections of those that are gone end.

        Returns:
            The names of all keys that are accepted.

        Raises:
            KeyUnusable: the keyring cannot be read; the keys are as before.
        """
        ...


class Session(Service, Protocol):
    """A service object of one connection, as the coordinator hands it to a transport."""

    def alive(self) -> None:
        """Bytes of a call or an answer move: whoever is at the other end is there, however slow the line is. Called now
        and then while a long message is under way, from the thread that makes the calls."""
        ...

    def open_value(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """As `read_value`, to be sent from where it lies: a descriptor of the file that has the piece, for the caller
        to close, and where it begins there.

        Raises:
            ValueGone, ValueDamaged: as there.
        """
        ...

    def disconnected(self) -> None:
        """The connection is gone; called once, last."""
        ...
