"""Rows and changes: the state that the core asks an engine to keep.

The core's whole state is these rows; restoring them restores it. `Machine.drain` gathers the changes. They are final
values, not steps: two changes of one batch between two drains are one row, and a lease that came and went is none.
"""

from __future__ import annotations

from dtq.model.options import Spec
from dtq.model.resources import Portion
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome, State
from dtq.records import dataclass
from dtq.wording import utc


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecRow:
    """A function with its options, interned. Key: number."""

    number: int
    spec: Spec


#: A parent of a batch: tasks ``[lo, hi)`` of another batch, where hi is 0 for all of it; and whether their results are
#: arguments of the batch's function.
Parent = tuple[int, int, int, bool]
#: What the tasks of a batch wait for and are given one by one, each the result of the task of its own index: a batch,
#: of how many tasks, and whether their results are JSON.
Element = tuple[int, int, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFlow:
    """Rare fields of a batch; part of its row. An engine keeps the fields that differ from their defaults, as JSON.

    Attributes:
        at: its fresh tasks become due at this moment of the wall clock (`BatchRow.due_at` until then); None if they
            wait for the steady clock, or for no time.
        start_by: tasks that have not started by this moment are cancelled; None without a deadline.
        lapsed: whether they were: the moment had come.
        after: its parents: the tasks that it waits for, or has waited for.
        each: the batches whose tasks its own wait for one by one, in the order in which its function is given them.
        given: the batches that single tasks of it wait for by themselves (`TaskRow.after`), the first few.
        run_anyway: whether it runs although a parent ends without a result; else it is cancelled then.
        blocked: whether it still waits for its parents.
        why: why the tasks that were cancelled as a whole (``BatchRow.cut``) never start; "" if a user asked.
        submission: the submitter's number of the submission, if its key may become free before the batch expires; None
            otherwise.
        replaces: an earlier batch that is cancelled as soon as this one is on disk; None for none, or once that is
            done.
        limits: names of the limits that its tasks count against, each once.
        label: its label.
    """

    at: float | None = None
    after: tuple[Parent, ...] = ()
    each: tuple[Element, ...] = ()
    given: tuple[int, ...] = ()
    run_anyway: bool = False
    blocked: bool = False
    start_by: float | None = None
    lapsed: bool = False
    why: str = ""
    submission: int | None = None
    replaces: int | None = None
    limits: tuple[str, ...] = ()
    label: str = ""

    @property
    def has_parents(self) -> bool:
        """Whether it waits for others, or has waited; or some of its tasks by themselves."""
        return bool(self.after or self.each or self.given)

    def too_late(self, now: float) -> str:
        """Why the unstarted tasks of the batch never will start; "" while they may."""
        if self.start_by is None or now < self.start_by:
            return ""
        return f"it had not started by {utc(self.start_by)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """A batch. Key: batch.

    Tasks below ``next`` have been leased at least once, or have a `TaskRow`; those without one and without a `LeaseRow`
    have succeeded (or are no longer kept). Tasks at ``next`` and above are fresh, up to ``cut``, from which on they
    were cancelled as a whole.

    Attributes:
        batch: its number.
        spec: number of its spec.
        size: how many tasks it has so far.
        complete: whether its last piece has come.
        next: index of the first task that is fresh.
        cut: if the batch was cancelled, the first task that never starts; None otherwise.
        due_at: when its fresh tasks become due; None if they are.
        submitted_at: when its first piece was accepted.
        finished_at: when its last task came into a final state; None while it is live.
        succeeded: how many tasks succeeded.
        dead: how many are dead letters now.
        cancelled: how many were cancelled.
        purged: how many were dead letters and have been purged.
        key: recognises a repeated submission: the user's key, or session/number.
        user_key: whether the key is the user's.
        session: session of the submitter.
        expires_at: when the batch expires, if it is finished and has a time of its own (`Options.keep_results_s`); None
            otherwise.
        flow: rare fields; None if all are at their defaults.
    """

    batch: int
    spec: int
    size: int
    complete: bool
    next: int
    cut: int | None
    due_at: float | None
    submitted_at: float
    finished_at: float | None
    succeeded: int
    dead: int
    cancelled: int
    purged: int
    key: str
    user_key: bool
    session: str
    expires_at: float | None = None
    flow: BatchFlow | None = None

    @property
    def label(self) -> str:
        """Its label."""
        return "" if self.flow is None else self.flow.label


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task that left the common path: came back at least once, waits by itself, died, or was cancelled alone. Key:
    batch, index.

    Attributes:
        batch: the batch.
        index: its index.
        state: its state; never SUCCEEDED (the row is removed then).
        attempt: number of its current or last attempt.
        failures: failed and timed out attempts that count against max_retries.
        crashes: crashed attempts that count against max_crashes.
        due_at: when it becomes due, if it is SCHEDULED; None if it becomes due with its batch.
        ended_at: when it died or was cancelled.
        cancelling: whether it runs and is being stopped.
        outcome: how its last unsuccessful attempt ended.
        exception: the exception of that attempt.
        message: the exception's message; of a task that was cancelled without a request, the reason.
        after: its own parents: tasks that it waits for, or has waited for, by itself.
    """

    batch: int
    index: int
    state: State
    attempt: int
    failures: int
    crashes: int
    due_at: float | None
    ended_at: float | None
    cancelling: bool
    outcome: Outcome | None
    exception: str
    message: str
    after: tuple[Parent, ...] = ()

    @property
    def why(self) -> str:
        """Why it was cancelled without a request."""
        return self.message if self.outcome is None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One unsuccessful attempt. Key: batch, index, attempt.number. Never read by the core."""

    batch: int
    index: int
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """Tasks ``[lo, hi)`` of a batch that a worker holds. Key: token.

    Attributes:
        token: the lease.
        session: the worker's session.
        worker: the worker's name.
        batch: the batch.
        lo: index of the first task not settled.
        hi: index after the last.
        attempt: which attempt of each of them it is.
        granted_at: since when.
        call: number of the worker's call whose answer brought it (`Exchange.call`).
        units: the worker's resources that it holds; None if its task needs none.
    """

    token: int
    session: str
    worker: str
    batch: int
    lo: int
    hi: int
    attempt: int
    granted_at: float
    call: int = 0
    units: tuple[Portion, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentPage:
    """The arguments of tasks ``[lo, hi)`` of a batch, as a `model.pages` page. Key: batch, lo.

    Never read by the core.
    """

    batch: int
    lo: int
    hi: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPage:
    """The results of tasks ``[lo, hi)`` of a batch, as a `model.pages` page. Key: batch, lo. Never read by the core.

    Attributes:
        batch: the batch.
        lo: index of the first task.
        hi: index after the last.
        data: the page.
        worker: the name of the worker that ran them.
        ended_at: when that was reported.
        seconds: how long they took together; None of pages that were stored before version 5.
        peak_memory: highest resident memory of their slot's process so far, in bytes; None if unknown.
    """

    batch: int
    lo: int
    hi: int
    data: bytes
    worker: str
    ended_at: float
    seconds: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPage:
    """The output of one attempt each of those of tasks ``[lo, hi)`` that printed anything, as `model.printed` packs it.
    Key: batch, lo, attempt. Never read by the core.

    The page of a task that did not succeed has that task alone.
    """

    batch: int
    lo: int
    hi: int
    attempt: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """A value that a client has put, and holds. Key: session, digest.

    Attributes:
        session: the client's session.
        digest: of the value's content.
        description: of the value (`model.values`).
        ttl_s: how long it is kept after the client has left.
        until: when that time ends; None while the client is connected.
    """

    session: str
    digest: bytes
    description: bytes
    ttl_s: float
    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionRow:
    """A named definition that an operator has made: the steering of a queue, a limit, a schedule. Key: kind, name.

    Attributes:
        kind: the kind of definition.
        name: the name.
        body: the definition as JSON, with its remembered state; the engine does not look into it.
    """

    kind: str
    name: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRow:
    """A batch has another one among its parents (`BatchFlow.after`). Key: child, parent. Removed with the child's own
    row. Never read by the core at a start.
    """

    child: int
    parent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts since the store was made, and the numbers not to be used again. One row.

    Attributes:
        last_batch: highest batch number given out.
        last_spec: highest spec number given out.
        clock: latest steady time seen.
        submitted: tasks accepted.
        succeeded: tasks that succeeded.
        dead: current dead letters.
        cancelled: tasks that were cancelled.
        retries: attempts that were followed by another.
    """

    last_batch: int = 0
    last_spec: int = 0
    clock: float = 0.0
    submitted: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryRow:
    """A moment at which finished batches expire by a time of their own (`BatchRow.expires_at`). Never stored: an engine
    derives it from the rows of batches.
    """

    at: float


Row = (
    SpecRow
    | BatchRow
    | TaskRow
    | AttemptRow
    | LeaseRow
    | ArgumentPage
    | ResultPage
    | OutputPage
    | HoldRow
    | DefinitionRow
    | EdgeRow
    | Totals
    | ExpiryRow
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A row has this value now, whether the row is new or not."""

    row: Row


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """Remove the row of a lease."""

    token: int


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """Remove the row of a hold."""

    session: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class DefinitionEnded:
    """Remove a definition."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class TaskForgotten:
    """Remove the row of a task (it succeeded after all, or was purged).

    Attributes:
        batch: the batch.
        index: the task's index.
        history: whether its attempts are removed too, with their output (they are kept if it succeeded).
    """

    batch: int
    index: int
    history: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """Remove batches that finished before this moment, with all their rows. A batch with dead letters keeps its own
    row, and the `TaskRow`, attempts, output and argument pages of its dead letters. Batches with a time of their own
    stay, and so do the spared ones. Specs that no batch uses any more are removed too.
    """

    before: float
    spared: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnExpired:
    """Remove finished batches whose own time (`BatchRow.expires_at`) is this moment or an earlier one: as with
    `Expired`, except that specs stay.
    """

    at: float
    spared: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchWithdrawn:
    """Remove a batch that was never acknowledged, with every row of it."""

    batch: int


@dataclass(frozen=True, slots=True)
class ArgumentsForgotten:
    """Remove the argument pages of a batch that hold no dead letter: the batch is finished, and dead letters of it were
    purged, so no task of those pages can run again.
    """

    batch: int


@dataclass(frozen=True, slots=True)
class Read:
    """Remove the result pages of a batch that lie wholly in ``[lo, hi)``, and its pages of output and of arguments
    there that hold no dead letter: the tasks have ended, and nobody will ask for them again.
    """

    batch: int
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class BatchesRead:
    """Remove the finished ones of these batches: as if they had expired, except that specs stay."""

    batches: tuple[int, ...]


Change = (
    Stored
    | LeaseEnded
    | HoldEnded
    | DefinitionEnded
    | TaskForgotten
    | Expired
    | OwnExpired
    | BatchWithdrawn
    | ArgumentsForgotten
    | Read
    | BatchesRead
)
