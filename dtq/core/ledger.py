"""What has changed since the last drain.

The machine marks what it touched; `drain` turns that into rows once, however often it was touched. So the cost of a
change is a set insertion, and a batch that moved fifty times between two commits is written once.
"""

from __future__ import annotations

from collections.abc import Iterable

from dtq.core.batches import Batch, SpecEntry
from dtq.core.changes import (
    ArgumentPage,
    ArgumentsForgotten,
    AttemptRow,
    BatchesRead,
    BatchRow,
    BatchWithdrawn,
    Change,
    DefinitionEnded,
    DefinitionRow,
    EdgeRow,
    Expired,
    HoldEnded,
    HoldRow,
    LeaseEnded,
    OwnExpired,
    Read,
    ResultPage,
    SpecRow,
    Stored,
    TaskForgotten,
    TaskRow,
    Totals,
)
from dtq.core.leases import Lease
from dtq.model.states import State
from dtq.records import dataclass


@dataclass(frozen=True, slots=True)
class EndedRange:
    """Tasks ``[lo, hi)`` of a batch came into a final state; what followers are told once it is durable.

    Attributes:
        batch: the batch.
        lo: index of the first task.
        hi: index after the last.
        state: the final state.
        session: the submitter's session where it follows the batch, else "".
        why: why they were cancelled, where nobody had asked for it.
    """

    batch: int
    lo: int
    hi: int
    state: State
    session: str
    why: str = ""


class Ledger:
    """Gathers changes."""

    def __init__(self) -> None:
        self._specs: dict[int, SpecEntry] = {}
        self._batches: dict[int, Batch | BatchRow] = {}
        self._tasks: dict[tuple[int, int], TaskRow | TaskForgotten] = {}
        self._attempts: list[AttemptRow] = []
        self._pages: list[ArgumentPage | ResultPage] = []
        self._leases: dict[int, Lease | None] = {}
        self._holds: dict[tuple[str, bytes], HoldRow | HoldEnded] = {}
        self._definitions: dict[tuple[str, str], DefinitionRow | DefinitionEnded] = {}
        #: Finished batches with purged dead letters, a set in order.
        self._purged: dict[int, None] = {}
        self._tail: list[Expired | OwnExpired | BatchWithdrawn | Read | BatchesRead] = []
        self._ended: list[EndedRange] = []
        self._edges: list[EdgeRow] = []
        self._totals = False

    @property
    def empty(self) -> bool:
        """Whether nothing has changed."""
        return not (
            self._batches
            or self._tasks
            or self._leases
            or self._tail
            or self._pages
            or self._holds
            or self._definitions
            or self._totals
        )

    def spec(self, entry: SpecEntry) -> None:
        """A spec is to be kept (again)."""
        self._specs[entry.number] = entry

    def batch(self, batch: Batch) -> None:
        """A live batch changed."""
        self._batches[batch.number] = batch
        self._totals = True

    def finished_batch(self, row: BatchRow) -> None:
        """A batch that is not live changed."""
        self._batches[row.batch] = row
        self._totals = True

    def edges(self, child: int, parents: Iterable[int]) -> None:
        """A batch waits for others."""
        self._edges += [EdgeRow(child=child, parent=parent) for parent in parents]

    def page(self, page: ArgumentPage | ResultPage) -> None:
        """A page is new."""
        self._pages.append(page)

    def task(self, row: TaskRow) -> None:
        """A task off the common path changed."""
        self._tasks[row.batch, row.index] = row

    def task_forgotten(self, batch: int, index: int, *, history: bool) -> None:
        """The row of a task is needed no more."""
        self._tasks[batch, index] = TaskForgotten(batch, index, history)

    def attempt(self, row: AttemptRow) -> None:
        """An attempt did not succeed."""
        self._attempts.append(row)

    def lease(self, lease: Lease) -> None:
        """A lease is new, or has become shorter."""
        self._leases[lease.token] = lease

    def lease_ended(self, token: int) -> None:
        """A lease is over."""
        self._leases[token] = None

    def hold(self, row: HoldRow) -> None:
        """A hold is new, or changed."""
        self._holds[row.session, row.digest] = row

    def hold_ended(self, session: str, digest: bytes) -> None:
        """A hold is over."""
        self._holds[session, digest] = HoldEnded(session, digest)

    def definition(self, row: DefinitionRow) -> None:
        """A definition is new, or changed."""
        self._definitions[row.kind, row.name] = row

    def definition_ended(self, kind: str, name: str) -> None:
        """A definition is gone."""
        self._definitions[kind, name] = DefinitionEnded(kind, name)

    def ended(self, batch: Batch, lo: int, hi: int, state: State, why: str = "") -> None:
        """Tasks came into a final state."""
        self._ended.append(EndedRange(batch.number, lo, hi, state, batch.session if batch.followed else "", why))

    def purged(self, batch: int) -> None:
        """A batch is finished, and has dead letters that were purged: their arguments are needed no more."""
        self._purged[batch] = None

    def revived(self, batch: int) -> None:
        """A batch is live again: its arguments are needed until it has finished once more."""
        self._purged.pop(batch, None)

    def expired(self, before: float, spared: tuple[int, ...] = ()) -> None:
        """What finished before a moment is no longer kept, but for some batches."""
        self._tail.append(Expired(before, spared))

    def own_expired(self, at: float, spared: tuple[int, ...] = ()) -> None:
        """Batches whose own time is a moment or an earlier one are no longer kept, but for some."""
        self._tail.append(OwnExpired(at, spared))

    def read(self, batch: int, lo: int, hi: int) -> None:
        """Nobody will ask for tasks of a batch again, which have ended."""
        self._tail.append(Read(batch, lo, hi))

    def batches_read(self, batches: tuple[int, ...]) -> None:
        """Nobody will ask for anything of batches again."""
        self._tail.append(BatchesRead(batches))

    def withdrawn(self, batch: int) -> None:
        """A batch never was."""
        self._batches.pop(batch, None)
        self._purged.pop(batch, None)
        self._pages = [page for page in self._pages if page.batch != batch]
        self._edges = [edge for edge in self._edges if edge.child != batch]
        self._ended = [ended for ended in self._ended if ended.batch != batch]
        self._tail.append(BatchWithdrawn(batch))
        self._totals = True

    def drain(self, totals: Totals) -> tuple[list[Change], list[EndedRange]]:
        """Everything since the last drain as rows, and what ended; nothing is left afterwards.

        Specs come before the batches that use them, and removals of what was stored in the same drain after it.
        """
        if self.empty:
            return [], []
        changes: list[Change] = [
            Stored(SpecRow(number=entry.number, spec=entry.spec)) for entry in self._specs.values()
        ]
        changes += [Stored(b if isinstance(b, BatchRow) else b.row()) for b in self._batches.values()]
        changes += [Stored(page) for page in self._pages]
        changes += [Stored(edge) for edge in self._edges]
        changes += [Stored(t) if isinstance(t, TaskRow) else t for t in self._tasks.values()]
        changes += [Stored(attempt) for attempt in self._attempts]
        changes += [
            LeaseEnded(token) if lease is None else Stored(lease.row()) for token, lease in self._leases.items()
        ]
        changes += [Stored(hold) if isinstance(hold, HoldRow) else hold for hold in self._holds.values()]
        changes += [Stored(d) if isinstance(d, DefinitionRow) else d for d in self._definitions.values()]
        changes += [ArgumentsForgotten(batch) for batch in self._purged]
        changes += self._tail
        if self._totals:
            changes.append(Stored(totals))
        ended = self._ended
        self.__init__()  # type: ignore[misc]  # start over with nothing gathered
        return changes, ended
