"""Messages between clients or workers and the coordinator, and its answers.

All of them cross the wire (`model.wire`) as tuples of scalars and bytes. Times are seconds; moments are seconds of the
Unix epoch.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

from dtq.model import fields
from dtq.model.fields import ANSWERED, FEW, LIMITS, MANY, MAX_SUBMISSIONS, NAMES, PRINTED, RESOURCES, Items
from dtq.model.options import Spec, whole
from dtq.model.pages import PAGE_BLOBS
from dtq.model.printed import Printed
from dtq.model.resources import Offers, Portion
from dtq.model.states import Outcome, State
from dtq.records import dataclass

#: Version of everything in this package that crosses the wire. Peers with another version are refused with a sentence.
PROTOCOL: Final = 7


class Role(Enum):
    """Purpose of a session."""

    CLIENT = "client"
    WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The caller's identity. The first call on every connection.

    Attributes:
        session: random name of the caller (32 hex digits), the same on all its connections and after a reconnect.
        role: purpose of the session.
        protocol: the caller's `PROTOCOL`.
        name: the caller's name for people.
        host: the caller's machine.
        pid: the caller's process.
        python: the caller's Python version.
        version: the caller's dtq version.
        slots: how many slots a worker has; 0 for a client.
        queues: the queues a worker serves, in no order; empty for all.
        primary: whether the session ends when this connection ends (a worker's reporting connection).
        inline: values up to this many bytes travel in the pages that would name them: for callers that cannot reach the
            files of values. The coordinator takes such values out of the pages before it stores them.
        offers: a worker's resources beside its slots; None for none.
        chains: whether a worker's slots run tasks right behind the one that they wait for (`Grant.behind`).
    """

    session: fields.Session
    role: Role
    protocol: fields.Protocol = PROTOCOL
    name: fields.Label = ""
    host: fields.Label = ""
    pid: fields.Pid = 0
    python: fields.Version = ""
    version: fields.Version = ""
    slots: fields.Slots = 0
    queues: Annotated[tuple[fields.Queue, ...], FEW] = ()
    primary: bool = False
    inline: fields.Count = 0
    offers: Offers | None = None
    chains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesOffer:
    """The place of values, and a proof by which a peer finds out that it is on the same machine.

    Attributes:
        max_value: largest value in bytes.
        checked: whether values have checksums.
        directories: the segments' directories, for a peer that can reach them; empty if none may.
        first_bytes: if there are several directories, bytes of segments that the first one is for.
        sync_from: a writer syncs values of this many bytes and more; 0 for none.
        spare: bytes that values must leave free on the disk.
        proof: name of a file in each of the directories.
        digest: SHA-256 of that file's content. A peer that finds the same content is on the same machine, whatever its
            name.
    """

    max_value: fields.Count
    checked: bool
    directories: Annotated[tuple[fields.FilePath, ...], FEW] = ()
    first_bytes: fields.Count = 0
    sync_from: fields.Count = 0
    spare: fields.Count = 0
    proof: fields.FilePath = ""
    digest: fields.Digest = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The coordinator's answer to `Hello`.

    Attributes:
        epoch: number of this run of the coordinator, one more at each start.
        resumed: whether the session was known, and its followed batches and leases are still in place.
        lease_s: how long a worker may be silent before its tasks run elsewhere.
        heartbeat_s: how often a worker reports at least.
        max_message: largest message in bytes.
        highest_first: whether a higher priority number is served first.
        version: the coordinator's dtq version.
        max_blob: largest argument or result in bytes, if that is less than a message allows.
        max_piece: how many tasks one submission should have at most, so that a full queue soon has room for it.
        values: the place of values; None if the coordinator keeps none, and everything large travels in messages.
        store: unique id of the store, because batches of two stores may have the same numbers. Empty if that does not
            matter.
    """

    epoch: fields.Count
    resumed: bool
    lease_s: fields.Seconds
    heartbeat_s: fields.Seconds
    max_message: fields.Count
    highest_first: bool
    version: fields.Version
    max_blob: fields.Count = 1 << 40
    max_piece: fields.Count = PAGE_BLOBS
    values: ValuesOffer | None = None
    store: fields.Digest = b""


#: Most bytes of a worker's report beside the one result or failure that travels alone in it: mostly its leases; a
#: quarter of small messages. And of an answer beside the one argument or result.
REPORT_ENVELOPE: Final = 64 << 10
ANSWER_ENVELOPE: Final = 1 << 10


def largest_outcome(max_message: int) -> int:
    """Largest result or failure, in bytes, that can travel alone in a report.

    Args:
        max_message: largest message in bytes.
    """
    return max_message - min(REPORT_ENVELOPE, max_message // 4)


# -- submitting ---------------------------------------------------------------------------------------------------


class Unique(Enum):
    """The time for which a key stands for the batch that was accepted with it."""

    PENDING = "pending"  #: while none of its tasks has started
    UNFINISHED = "unfinished"  #: while it has not ended
    KEPT = "kept"  #: as long as it is kept


class Conflict(Enum):
    """The result of a submission whose key is taken."""

    EXISTING = "existing"  #: the batch that has it, if that is of the same call
    ERROR = "error"  #: an error
    REPLACE = "replace"  #: a batch of its own; the earlier one is cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Rare terms of a submission.

    Attributes:
        expires_s: tasks that have not started this many seconds after the acceptance are cancelled; None for no such
            bound.
        start_by: likewise, at this moment.
        at: it is due at this moment of the coordinator's wall clock, whatever its delay; None for no such moment.
        unique: how long its key stands for an earlier batch.
        unique_s: likewise, in seconds from the acceptance of that one on; None if `unique` counts.
        on_conflict: its result if the key is taken.
        after: its parents: tasks ``[lo, hi)`` of a batch, where hi is 0 for all of it, as ``(batch, lo, hi, value)``;
            and whether their results are arguments of its function, in this order. A negative batch is the one that was
            submitted this many places before in the same call.
        each: the batches whose tasks its own wait for one by one, and are given the results of, in this order; and
            whether these are JSON. Then it has as many tasks as the smallest of them, and no pieces.
        run_anyway: whether it runs although a parent ends without a result; else it is cancelled then.
    """

    after: Annotated[tuple[tuple[fields.Awaited, fields.Index, fields.Index, bool], ...], fields.AWAITED] = ()
    each: Annotated[tuple[tuple[fields.BatchNumber, bool], ...], fields.EACH] = ()
    run_anyway: bool = False
    expires_s: fields.Seconds | None = None
    start_by: fields.Moment | None = None
    at: fields.Moment | None = None
    unique: Unique = Unique.KEPT
    unique_s: fields.Seconds | None = None
    on_conflict: Conflict = Conflict.EXISTING

    @property
    def of_key(self) -> bool:
        """Whether they concern the key."""
        usual = self.unique is Unique.KEPT and self.unique_s is None and self.on_conflict is Conflict.EXISTING
        return not usual


#: What a single task of a batch waits for by itself.
Own = Annotated[tuple[tuple[fields.BatchNumber, fields.Index, fields.Index, bool], ...], fields.AWAITED]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A new batch, or the next piece of one.

    Attributes:
        spec: index of its spec in the call.
        number: the client's own number for it, rising; makes a repeat of the call recognisable.
        arguments: page of argument blobs, one a task; at most `pages.PAGE_BLOBS`.
        batch: the batch to append to; None makes a new one.
        offset: place of the first blob in the batch; tasks that the batch already has are not added again.
        complete: whether the batch has no more pieces.
        delay_s: how long the tasks wait before they are due.
        key: the user's own key; while a batch with this key is remembered, there is no second one, and none with other
            arguments is taken for it.
        follow: whether the session's `watch` reports how the tasks end.
        wait_s: how long the call may wait for room in a full queue, in seconds; 0 to be refused at once.
        conditions: rare terms.
        limits: names of the limits that its tasks count against; of a new batch. If empty, those of its spec.
        label: its label, likewise. What differs from submission to submission stands here, so that all share a spec.
        items: the parents of single tasks of the page: the place of the task, and its parents as in `Conditions.after`,
            but none of them of the same call.
    """

    spec: fields.Index
    number: fields.Count
    arguments: fields.Page
    batch: fields.BatchNumber | None = None
    offset: fields.Index = 0
    complete: bool = True
    delay_s: fields.Seconds = 0.0
    key: fields.Key | None = None
    follow: bool = True
    wait_s: fields.Seconds = 0.0
    conditions: Conditions | None = None
    limits: Annotated[tuple[fields.LimitName, ...], LIMITS] = ()
    label: fields.Label = ""
    items: Annotated[tuple[tuple[fields.Index, Own], ...], fields.ITEMS] = ()

    def called(self, spec: Spec) -> Spec:
        """Its spec with its own limits and label."""
        return whole(spec, self.limits, self.label) if self.limits or self.label else spec


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedSubmission(Submission):
    """Stands for a submission of a call that breaks a rule, and is refused without the others.

    Attributes:
        why: its fault.
    """

    why: fields.Sentence


def _refused(spec: int, number: int, why: str) -> RefusedSubmission:
    return RefusedSubmission(spec=spec, number=number, arguments=b"", why=why)


#: Submissions of one call: each is accepted or refused by itself.
SUBMISSIONS: Final = Items(MAX_SUBMISSIONS, apart=True, instead=_refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The result of a submission: durably accepted, or refused.

    Attributes:
        batch: the batch's number; 0 if refused.
        size: how many tasks of the batch have been accepted so far.
        code: stable code of the error if refused, else "".
        details: the arguments of that error.
        earlier: whether the batch is an earlier one, which has the key: its tasks may have ended before. Not told in
            the answer to a repeated call, of which all batches may be such.
    """

    batch: fields.BatchNumber
    size: fields.Count
    code: fields.Word = ""
    details: Annotated[tuple[fields.Detail, ...], FEW] = ()
    earlier: bool = False


# -- working ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt did not succeed.

    Attributes:
        exception: ``module.Class`` of the exception, builtins bare; "" if none was raised.
        bases: the names of its base classes, nearest first, so that "never retry" can match them.
        message: one line or few, bounded.
        traceback: the remote traceback, bounded.
        pickled: the exception itself, pickled, or empty if it cannot be pickled or is too large.
        exit_code: exit code of the slot's process, if that ended.
        signal: the signal that ended it.
        peak_memory: highest resident memory of the slot's process since its start, in bytes; None if unknown. Earlier
            tasks of the process count too.
        output: the last lines that the task printed, bounded; in answers only: a worker reports all of it that is kept
            (`Failed.printed`).
        unable: whether the attempt never reached the task's own code, because the worker lacks a module or task type.
        particular: whether the lack is particular to this call's arguments, or to a function sent by value from another
            Python: the worker may well be fit for everything else.
        final: whether the task has returned a result that can never be sent, so that no other attempt follows.
    """

    exception: fields.ExceptionName = ""
    bases: Annotated[tuple[fields.ExceptionName, ...], NAMES] = ()
    message: fields.Message = ""
    traceback: fields.Report = ""
    pickled: fields.Pickle = b""
    exit_code: fields.ExitCode | None = None
    signal: fields.ExitCode | None = None
    peak_memory: fields.Count | None = None
    output: fields.Report = ""
    unable: bool = False
    particular: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """Tasks ``[lo, lo + blobs)`` of a lease returned.

    Attributes:
        token: the lease.
        lo: index of the first task in its batch.
        results: page of result blobs.
        seconds: how long the tasks took together.
        peak_memory: highest resident memory of the slot's process since its start, in bytes; 0 if unknown. Earlier
            tasks of the process count too.
        printed: the output of those of them that printed anything.
    """

    token: fields.Token
    lo: fields.Index
    results: fields.Results
    seconds: fields.Seconds
    peak_memory: fields.Count = 0
    printed: Annotated[tuple[Printed, ...], PRINTED] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One task of a lease ended without a result.

    Tasks of the lease before it that have not been reported go back unblamed: their results died with the slot.

    Attributes:
        token: the lease.
        index: the task's index in its batch.
        outcome: how it ended; never SUCCEEDED.
        failure: why.
        seconds: how long it ran.
        printed: its output; none if it printed nothing.
    """

    token: fields.Token
    index: fields.Index
    outcome: Outcome
    failure: Failure
    seconds: fields.Seconds
    printed: Annotated[tuple[Printed, ...], PRINTED] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Tasks ``[lo, hi)``, the end of a lease, are returned unblamed: not started, or stopped as the worker ends.

    Attributes:
        token: the lease.
        lo: index of the first task.
        hi: index after the last.
        started: number of the first tasks that had started.
    """

    token: fields.Token
    lo: fields.Index
    hi: fields.Index
    started: fields.Index = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A lease of the worker: its tasks that are not settled in an answered exchange.

    Attributes:
        token: the lease.
        started: index of the running task, or -1 if none has started.
        done: whether all of its tasks have ended, and the outcomes are on their way.
    """

    token: fields.Token
    started: fields.IndexOrNone = -1
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a running task, as the task reports it."""

    token: fields.Token
    index: fields.Index
    done: fields.Measure
    total: fields.Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedNow:
    """What a running task has printed, as somebody follows it; empty to say that it has printed nothing yet.

    Attributes:
        token: the lease.
        index: the task's index in its batch.
        offset: number of bytes that the attempt had printed before.
        data: the bytes.
    """

    token: fields.Token
    index: fields.Index
    offset: fields.Offset
    data: fields.Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A task that a worker holds, and whose output somebody follows.

    Attributes:
        token: the lease.
        index: the task's index in its batch.
        known: whether the coordinator has heard of its output.
        offset: number of bytes up to which it has.
    """

    token: fields.Token
    index: fields.Index
    known: bool = False
    offset: fields.Offset = 0


def _spoilt(token: int, index: int, why: str) -> Failed:
    """The substitute for an outcome that breaks a rule: the task failed, for that reason."""
    failure = Failure(exception="dtq.errors.BadMessage", message=f"the worker's report is refused: {why}")
    return Failed(token=token, index=index, outcome=Outcome.FAILED, failure=failure, seconds=0.0)


#: Outcomes in a report: one that breaks a rule ends its own task's attempt, and harms no other.
OUTCOMES: Final = Items(MANY.most, apart=True, instead=_spoilt, into="failed")
#: Other statements about leases in a report: one that breaks a rule is ignored.
CLAIMS: Final = Items(MANY.most, apart=True)


class WorkerOrder(Enum):
    """An operator's order to a worker."""

    WORK = "work"  #: take tasks
    STAY = "stay"  #: finish the running tasks, take no others, and stay
    DRAIN = "drain"  #: finish the running tasks, and end
    STOP = "stop"  #: give the running tasks back, and end

    @property
    def final(self) -> bool:
        """Whether the worker ends by it, so that it cannot be called back."""
        return self in _FINAL_ORDERS

    def holds_against(self, order: WorkerOrder) -> bool:
        """Whether a worker that follows this order need not, or cannot, follow another."""
        return self is order or self is WorkerOrder.STOP or (self is WorkerOrder.DRAIN and not order.final)


_FINAL_ORDERS: Final = frozenset({WorkerOrder.DRAIN, WorkerOrder.STOP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A worker's whole conversation: outcomes and holdings in, orders out.

    Attributes:
        succeeded: results.
        failed: attempts without a result.
        released: unstarted tasks given back.
        holding: every lease of the worker. The list is complete as far as its sender had seen: if a lease from the
            answer to an earlier call, other than `beside`, is missing here, it never arrived and is taken back
            unblamed. Leases that the worker cannot have seen are not judged.
        progress: latest progress of running tasks.
        printed: what tasks that are followed have printed since the last report that arrived.
        capacity: how many slots can run tasks, busy ones included; 0 while draining.
        fetch: whether grants may be answered (a worker has one fetching call under way at most).
        wait_s: how long a fetching call may wait for work.
        more: whether the answer to a report may bring grants, so that a worker whose slots are busy needs no second
            call for the next work.
        call: number of this call, one more with each that the worker makes, on whichever connection; 0 from a worker
            that does not number them, and of which no lease is ever missed.
        trouble: why slots of the worker do not start at the moment; empty if they do.
        beside: the call that is under way on the worker's other connection: its answer had not been seen when this one
            was made; 0 for none. Of all other earlier calls the answer was seen, or never will be.
        follows: the order that the worker follows, whoever gave it.
    """

    succeeded: Annotated[tuple[Succeeded, ...], OUTCOMES] = ()
    failed: Annotated[tuple[Failed, ...], OUTCOMES] = ()
    released: Annotated[tuple[Released, ...], CLAIMS] = ()
    holding: Annotated[tuple[Holding, ...], CLAIMS] = ()
    progress: Annotated[tuple[Progress, ...], CLAIMS] = ()
    printed: Annotated[tuple[PrintedNow, ...], CLAIMS] = ()
    capacity: fields.Slots = 0
    fetch: bool = False
    wait_s: fields.Seconds = 0.0
    more: bool = False
    call: fields.Count = 0
    beside: fields.Count = 0
    trouble: fields.Sentence = ""
    follows: WorkerOrder = WorkerOrder.WORK


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A lease: tasks ``[lo, hi)`` of one batch, for one slot.

    Attributes:
        token: the lease's number, never used twice; holds the coordinator's epoch.
        batch: the batch.
        lo: index of the first task.
        hi: index after the last.
        single: whether the batch has just one task.
        attempt: which attempt of each of the tasks this is, from 1.
        spec: number of the spec, to be asked for with `Service.spec` when it is new.
        arguments: page of argument blobs.
        units: the worker's resources that it holds; None if it needs none.
        behind: token of the lease of the one task that this one waits for; 0 for none. This one starts in the same slot
            right behind it, if that has returned, with its result in the place of `inputs.PREVIOUS`; else it goes back.
    """

    token: fields.Token
    batch: fields.BatchNumber
    lo: fields.Index
    hi: fields.Index
    single: bool
    attempt: fields.Count
    spec: fields.Count
    arguments: fields.Page
    units: Annotated[tuple[Portion, ...], RESOURCES] | None = None
    behind: fields.Token = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """A running task to be stopped: its slot is killed and the outcome CANCELLED reported."""

    token: fields.Token
    index: fields.Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The coordinator's answer to an `Exchange`.

    Attributes:
        grants: new leases.
        cancel: tasks to stop.
        drop: leases that are no longer the worker's: stop them and report nothing.
        order: an operator's order that the worker does not follow yet; None for none. Told until it does.
        follow: tasks whose output somebody follows. The answer to a report names all of them.
    """

    grants: Annotated[tuple[Grant, ...], ANSWERED] = ()
    cancel: Annotated[tuple[Cancellation, ...], ANSWERED] = ()
    drop: Annotated[tuple[fields.Token, ...], ANSWERED] = ()
    order: WorkerOrder | None = None
    follow: Annotated[tuple[Followed, ...], ANSWERED] = ()


# -- following ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Tasks ``[lo, hi)`` of a batch that ended alike.

    Attributes:
        batch: the batch.
        lo: index of the first task.
        hi: index after the last.
        state: SUCCEEDED, DEAD or CANCELLED.
        results: page of result blobs if they succeeded (empty if the results are no longer kept).
        outcome: how the last attempt of a dead task ended.
        failure: why, for a dead task, and for one that was cancelled without a request.
    """

    batch: fields.BatchNumber
    lo: fields.Index
    hi: fields.Index
    state: State
    results: fields.Page = b""
    outcome: Outcome | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRange:
    """Tasks ``[lo, hi)`` of a batch."""

    batch: fields.BatchNumber
    lo: fields.Index
    hi: fields.Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The ends since the cursor.

    Attributes:
        cursor: argument of the next `watch`; it also says that everything before has arrived.
        ended: the ended tasks, in the order in which they became durable.
    """

    cursor: fields.Count
    ended: Annotated[tuple[Ended, ...], ANSWERED]


__all__ = [
    "PROTOCOL",
    "Conditions",
    "Conflict",
    "Cancellation",
    "Ended",
    "Exchange",
    "Failed",
    "Failure",
    "Followed",
    "Grant",
    "Hello",
    "Holding",
    "Orders",
    "PrintedNow",
    "Progress",
    "Receipt",
    "Released",
    "Role",
    "Spec",
    "Submission",
    "Succeeded",
    "TaskRange",
    "Unique",
    "ValuesOffer",
    "Watched",
    "Welcome",
    "WorkerOrder",
]
