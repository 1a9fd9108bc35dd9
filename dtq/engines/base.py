"""The engine port: storage for the core's rows.

An engine stores the rows of `core.changes` and answers a few questions about them. It decides nothing: no priority, no
lease, no retry. Every engine passes the contract suite in ``tests/contracts``.

Threads: `commit` is called by one thread at a time; the reading methods may be called by any thread at any moment, also
while a commit is under way, and see whole commits only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from dtq.core.changes import ArgumentPage, BatchRow, Change, OutputPage, ResultPage, Row, TaskRow, Totals
from dtq.errors import StoreFull
from dtq.model.options import Spec, whole
from dtq.model.snapshots import Attempt, Selection
from dtq.model.states import State
from dtq.model.values import Value
from dtq.model.weight import first_within
from dtq.records import dataclass
from dtq.values.place import Place

Page = TypeVar("Page", ArgumentPage, ResultPage, OutputPage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The result of opening a store.

    Attributes:
        epoch: number of this run, one more than that of the run before; on disk before `open` returns.
        store: the store's unique id, random bytes.
        totals: the totals row; all zero in a new store.
        losses: missing or damaged parts, a sentence each with a count; empty for a sound store.
    """

    epoch: int
    store: bytes
    totals: Totals
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The result of a commit.

    Attributes:
        shortage: why new work is going to be refused; None while the store has room.
        unfinished: whether freed room has still to be given back: each commit, even an empty one, gives back some of
            it.
        again_s: seconds after which there may be room to give back even without a commit; None for never.
    """

    shortage: StoreFull | None = None
    unfinished: bool = False
    again_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch with its spec, the batch's own limits and label in it."""

    row: BatchRow
    spec: Spec


def stored_batch(row: BatchRow, spec: Spec) -> StoredBatch:
    """A batch with its spec, as the spec's row has it."""
    flow = row.flow
    return StoredBatch(row=row, spec=spec if flow is None else whole(spec, flow.limits, flow.label))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """Tasks ``[lo, hi)`` of a batch that ended alike.

    Attributes:
        batch: the batch with its spec.
        lo: index of the first task.
        hi: index after the last.
        state: SUCCEEDED (one run a result page), DEAD or CANCELLED (one run a `TaskRow`, or the tail from ``cut``).
        ended_at: when.
        worker: the name of their worker, if they succeeded.
        seconds: how long they took together, if they succeeded and that is known.
        peak_memory: highest resident memory of their slot's process so far, likewise, in bytes.
        task: the row of a single task, if it has one.
    """

    batch: StoredBatch
    lo: int
    hi: int
    state: State
    ended_at: float
    worker: str = ""
    seconds: float | None = None
    peak_memory: int | None = None
    task: TaskRow | None = None

    @property
    def why(self) -> str:
        """Why they were cancelled without a request."""
        if self.state is not State.CANCELLED:
            return ""
        if self.task is not None:
            return self.task.why
        flow = self.batch.row.flow
        return "" if flow is None else flow.why


def fill(found: Iterable[Page], room: int | None) -> list[Page]:
    """The first of some pages that fit into this many bytes; the first in any case. None for all."""
    taken: list[Page] = []
    left = room
    for page in found:
        if left is not None:
            left -= len(page.data)
            if left < 0 and taken:
                break
        taken.append(page)
    return taken


def recall(attempts: Iterable[Attempt], room: int | None) -> list[Attempt]:
    """The first of some attempts that fit into this many bytes; the first in any case. None for all."""
    return list(attempts if room is None else first_within(attempts, room))


class Engine(Protocol):
    """Stores rows."""

    @property
    def place(self) -> Place | None:
        """The place for values that rows may name, once the engine is open; None if it keeps no values."""
        ...

    def open(self) -> Opened:
        """Lock the store for this process, and check it. Called once, first.

        Raises:
            StoreLocked: another coordinator has it.
            StoreTooNew: a newer dtq wrote it; it was not touched.
            StoreDamaged: it is no store, or not readable as a whole; it was not touched.
            StoreError: it cannot be opened (permissions, missing directory).
        """
        ...

    def restore(self) -> Iterable[Row]:
        """The rows with which the core goes on: for each unfinished batch its `SpecRow` (each spec once, before the
        first batch that uses it) and `BatchRow`; then the `TaskRow` s of live batches in a state that is not final or
        at or above the batch's ``next``; then all `LeaseRow` s, `HoldRow` s and `DefinitionRow` s. Batches in rising
        order. Last, an `ExpiryRow` for each moment at which batches expire by a time of their own, in rising order.
        """
        ...

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        """Apply all changes, in order, or none.

        Afterwards they are as durable as the engine was told to make them, with the values that their rows name; these
        stay as long as one of the rows does. Missing values are logged. If room is scarce, output of tasks is left out,
        and changes that store arguments are refused: room is set aside for the ends of accepted work. An empty commit
        writes nothing and only returns whether there is room.

        Args:
            changes: the changes.
            insist: whether the room set aside may be used for arguments too, as they cannot be refused any more.

        Returns:
            Whether there is room, and whether freed room has still to be given back.

        Raises:
            StoreFull: no room; nothing was applied, and the same call may work later.
            StoreUnwritable: it failed in another way that may pass; nothing was applied.
            StoreError: it failed for good; nothing was applied.
        """
        ...

    def sync(self, values: Sequence[Value]) -> None:
        """Have values as durable as a commit would have them, so that the commit with the rows that name them, and all
        others that wait for it, need not wait for that. Any thread, several at a time. The caller keeps the values as
        they are until that commit. Nothing is said of what fails: the commit does it again.
        """
        ...

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """The pages of a batch that overlap ``[lo, hi)``, in rising order; whole pages, not cut. Pages of output that
        begin with the same task are in the order of its attempts.

        With ``room``, only the first pages that fit into this many bytes together, and at least one; little more than
        these is read.

        Raises:
            StoreDamaged: a page's checksum is wrong.
        """
        ...

    def batches(self, numbers: Sequence[int] = (), keys: Sequence[str] = (), most: int = 1) -> list[StoredBatch]:
        """The kept batches with these numbers, or with one of these keys, in rising order; others are left out.

        Of those with the same key, the latest ``most``.
        """
        ...

    def newest(self, before: int, most: int) -> list[StoredBatch]:
        """The kept batches with numbers below one, in falling order: this many, unless there are no more.

        Little more than these is read.
        """
        ...

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        """Tasks in a final state that match, latest first, at most ``selection.limit`` runs (0: all).

        ``function`` and ``exception`` are globs (`model.globs`); ``exception`` and ``older_than_s`` match
        against the task's row and its ``ended_at``; ``ids`` with index -1 mean the whole batch, and a run is
        returned whole if it holds one of the ids.
        """
        ...

    def children(self, parents: Sequence[int]) -> list[int]:
        """The kept batches that have a parent in one of these (`EdgeRow`), in rising order. A damaged store may name
        others, too.
        """
        ...

    def holds(self, values: Sequence[Value]) -> bool:
        """Whether rows name all of these values. If so, the values stay for at least a minute, so that the caller can
        name them too.
        """
        ...

    def attempts(self, batch: int, index: int, *, first: int = 0, room: int | None = None) -> list[Attempt]:
        """The unsuccessful attempts of a task, oldest first.

        Args:
            batch: the batch.
            index: the task.
            first: from the attempt with this number on; negative for this many of the last ones.
            room: the first of them that have about this many bytes, and one that has more; None for all.
        """
        ...

    def close(self) -> None:
        """Close the store; everything committed is in place. Calling it twice does no harm."""
        ...
