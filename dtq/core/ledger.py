"""The ledger: gathers changes until the next drain.

The machine marks everything it touches; `drain` turns each marked object into one row, however often it was touched. So
a change costs a set insertion, and a batch that moved fifty times between two commits is written once.
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
    OutputPage,
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
    """Tasks ``[lo, hi)`` of a batch came into a final state: followers are told once this is durable.

    Attributes:
        batch: the batch.
        lo: index of the first task.
        hi: index after the last.
        state: the final state.
        session: the submitter's session if it follows the batch, else "".
        why: why they were cancelled without a request.
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
        self._output: list[OutputPage] = []
        self._pages: list[ArgumentPage | ResultPage] = []
        self._leases: dict[int, Lease | None] = {}
        self._holds: dict[tuple[str, bytes], HoldRow | HoldEnded] = {}
        self._definitions: dict[tuple[str, str], DefinitionRow | DefinitionEnded] = {}
        #: Finished batches with purged dead letters, an ordered set.
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
        """Keep a spec (again)."""
        self._specs[entry.number] = entry

    def batch(self, batch: Batch) -> None:
        """CommitMarker a live batch as changed."""
        self._batches[batch.number] = batch
        self._totals = True

    def finished_batch(self, row: BatchRow) -> None:
        """Store the row of a batch that is not live."""
        self._batches[row.batch] = row
        self._totals = True

    def edges(self, child: int, parents: Iterable[int]) -> None:
        """Store the parents of a batch."""
        self._edges += [EdgeRow(child=child, parent=parent) for parent in parents]

    def page(self, page: ArgumentPage | ResultPage) -> None:
        """Add a page."""
        self._pages.append(page)

    def task(self, row: TaskRow) -> None:
        """CommitMarker a task off the common path as changed."""
        self._tasks[row.batch, row.index] = row

    def task_forgotten(self, batch: int, index: int, *, history: bool) -> None:
        """Remove the row of a task."""
        self._tasks[batch, index] = TaskForgotten(batch, index, history)

    def attempt(self, row: AttemptRow) -> None:
        """Add an unsuccessful attempt."""
        self._attempts.append(row)

    def output(self, page: OutputPage) -> None:
        """Add output of tasks that have ended."""
        self._output.append(page)

    def lease(self, lease: Lease) -> None:
        """CommitMarker a lease as new, or shortened."""
        self._leases[lease.token] = lease

    def lease_ended(self, token: int) -> None:
        """Remove a lease."""
        self._leases[token] = None

    def hold(self, row: HoldRow) -> None:
        """CommitMarker a hold as new, or changed."""
        self._holds[row.session, row.digest] = row

    def hold_ended(self, session: str, digest: bytes) -> None:
        """Remove a hold."""
        self._holds[session, digest] = HoldEnded(session, digest)

    def definition(self, row: DefinitionRow) -> None:
        """CommitMarker a definition as new, or changed."""
        self._definitions[row.kind, row.name] = row

    def definition_ended(self, kind: str, name: str) -> None:
        """Remove a definition."""
        self._definitions[kind, name] = DefinitionEnded(kind, name)

    def ended(self, batch: Batch, lo: int, hi: int, state: State, why: str = "") -> None:
        """Note tasks that came into a final state."""
        self._ended.append(EndedRange(batch.number, lo, hi, state, batch.session if batch.followed else "", why))

    def purged(self, batch: int) -> None:
        """Note a finished batch whose dead letters were purged: their arguments are no longer needed."""
        self._purged[batch] = None

    def revived(self, batch: int) -> None:
        """Note a batch that is live again: its arguments are needed until it has finished once more."""
        self._purged.pop(batch, None)

    def expired(self, before: float, spared: tuple[int, ...] = ()) -> None:
        """Expire batches that finished before a moment, except some."""
        self._tail.append(Expired(before, spared))

    def own_expired(self, at: float, spared: tuple[int, ...] = ()) -> None:
        """Expire batches whose own time is a moment or an earlier one, except some."""
        self._tail.append(OwnExpired(at, spared))

    def read(self, batch: int, lo: int, hi: int) -> None:
        """Remove results of ended tasks that nobody will ask for again."""
        self._tail.append(Read(batch, lo, hi))

    def batches_read(self, batches: tuple[int, ...]) -> None:
        """Remove batches that nobody will ask for again."""
        self._tail.append(BatchesRead(batches))

    def withdrawn(self, batch: int) -> None:
        """Remove a batch that was never acknowledged."""
        self._batches.pop(batch, None)
        self._purged.pop(batch, None)
        self._pages = [page for page in self._pages if page.batch != batch]
        self._output = [page for page in self._output if page.batch != batch]
        self._edges = [edge for edge in self._edges if edge.child != batch]
        self._ended = [ended for ended in self._ended if ended.batch != batch]
        self._tail.append(BatchWithdrawn(batch))
        self._totals = True

    def drain(self, totals: Totals) -> tuple[list[Change], list[EndedRange]]:
        """Everything since the last drain as rows, and the tasks that ended; the ledger is empty afterwards.

        Specs come before the batches that use them, and the removal of a row after its storing in the same drain.
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
        changes += [Stored(page) for page in self._output]
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
