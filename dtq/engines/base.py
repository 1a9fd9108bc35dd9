"""The engine port: where rows are kept.

An engine stores the rows of `core.changes` and answers a few questions about them. It decides nothing: no priority, no
lease, no retry. Every engine passes the contract suite in ``tests/contracts``.

Threads: `commit` is called by one thread at a time; the reading methods may be called by any thread at any moment, also
while a commit is under way, and see whole commits only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from dtq.core.changes import ArgumentPage, BatchRow, Change, ResultPage, Row, TaskRow, Totals
from dtq.errors import StoreFull
from dtq.model.options import Spec
from dtq.model.snapshots import Attempt, Selection
from dtq.model.states import State
from dtq.model.values import Value
from dtq.model.weight import first_within
from dtq.records import dataclass
from dtq.values.place import Place

Page = TypeVar("Page", ArgumentPage, ResultPage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an engine says when it has been opened.

    Attributes:
        epoch: number of this run, one more than that of the run before; on disk before `open` returns.
        store: random bytes that no other store has.
        totals: the totals row; all zero in a new store.
        losses: what is missing or damaged, a sentence each with a count; empty where nothing is.
    """

    epoch: int
    store: bytes
    totals: Totals
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What an engine says when it has applied changes.

    Attributes:
        shortage: why new work is going to be refused, where it is; None where there is room.
        unfinished: whether room that was freed is still to be given back: each commit, also one of no changes, gives
            back some of it.
        again_s: after how many seconds there may be some to give back although nothing was committed; None for never.
    """

    shortage: StoreFull | None = None
    unfinished: bool = False
    again_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch with its spec."""

    row: BatchRow
    spec: Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """Tasks ``[lo, hi)`` of a batch that ended alike.

    Attributes:
        batch: the batch with its spec.
        lo: index of the first task.
        hi: index after the last.
        state: SUCCEEDED (one run a result page), DEAD or CANCELLED (one run a `TaskRow`, or the tail from ``cut``).
        ended_at: when.
        worker: who ran them, where they succeeded.
        task: the row of a single task, where there is one.
    """

    batch: StoredBatch
    lo: int
    hi: int
    state: State
    ended_at: float
    worker: str = ""
    task: TaskRow | None = None

    @property
    def why(self) -> str:
        """Why they were cancelled, where nobody had asked for it."""
        if self.state is not State.CANCELLED:
            return ""
        if self.task is not None:
            return self.task.why
        flow = self.batch.row.flow
        return "" if flow is None else flow.why


def fill(found: Iterable[Page], room: int | None) -> list[Page]:
    """The first of some pages that have so many bytes; the first in any case. None for all."""
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
    """The first of some attempts that have so many bytes; the first in any case. None for all."""
    return list(attempts if room is None else first_within(attempts, room))


class Engine(Protocol):
    """Keeps rows."""

    @property
    def place(self) -> Place | None:
        """Where values are written that rows may name, once it is open; None where it keeps none."""
        ...

    def open(self) -> Opened:
        """Take the store for this process, and look it over. Called once, first.

        Raises:
            StoreLocked: another coordinator has it.
            StoreTooNew: a newer dtq wrote it; it was not touched.
            StoreDamaged: it is not a store, or not readable as a whole; it was not touched.
            StoreError: it cannot be opened (permissions, missing directory).
        """
        ...

    def restore(self) -> Iterable[Row]:
        """The rows that the core needs to go on: for each batch that is not finished its `SpecRow` (once a spec, before
        the first batch that uses it) and `BatchRow`; then the `TaskRow` s of live batches in a state that is not final
        or at or above the batch's ``next``; then all `LeaseRow` s, `HoldRow` s and `DefinitionRow` s. Batches in rising
        order. Last, an `ExpiryRow` for each moment at which batches expire by a time of their own, in rising order."""
        ...

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        """Apply all changes, in order, or none.

        When it returns they are as durable as the engine was told to make them, with the values that their rows name;
        these stay as long as one of the rows does. Values that are not there are logged. Where there is little room,
        changes that store arguments are refused first: room is set aside for those that end what was accepted. A commit
        of no changes writes nothing and only says whether there is room.

        Args:
            changes: what has changed.
            insist: whether what is set aside may be used for arguments too, as they cannot be refused any more.

        Returns:
            Whether there is room, and whether some is still to be given back.

        Raises:
            StoreFull: no room; nothing was applied, and the same call may work later.
            StoreUnwritable: it failed in another way that may pass; nothing was applied.
            StoreError: it failed for good; nothing was applied.
        """
        ...

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """The pages of a batch that overlap ``[lo, hi)``, in rising order; whole pages, not cut.

        With ``room``, the first of them that have no more bytes than that together, and no fewer than one; no more of
        the others is read than it takes to know.

        Raises:
            StoreDamaged: a page's checksum is wrong.
        """
        ...

    def batches(self, numbers: Sequence[int] = (), key: str | None = None, most: int = 1) -> list[StoredBatch]:
        """The batches with these numbers, or with this key, that are kept, in rising order; others are left out.

        Of those with the key, the latest ``most``.
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
        """The batches that are kept and have one of these among what they wait for, or have waited for (`EdgeRow`), in
        rising order. A damaged store may name others, too."""
        ...

    def holds(self, values: Sequence[Value]) -> bool:
        """Whether rows name all of these values. Where they do, the values stay for at least a minute, so that whoever
        asks can name them too."""
        ...

    def attempts(self, batch: int, index: int, *, first: int = 0, room: int | None = None) -> list[Attempt]:
        """The unsuccessful attempts of a task, oldest first.

        Args:
            batch: the batch.
            index: the task.
            first: from the attempt with this number on; negative for so many of the last ones.
            room: the first of them that have about so many bytes, and one that has more; None for all.
        """
        ...

    def close(self) -> None:
        """Let go of the store; everything committed is in place. Calling it twice does no harm."""
        ...
