"""What an engine is to do, said as plainly as possible: a dictionary of rows, and changes applied one by one."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

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
    ExpiryRow,
    HoldEnded,
    HoldRow,
    LeaseEnded,
    LeaseRow,
    OutputPage,
    OwnExpired,
    Read,
    ResultPage,
    Row,
    SpecRow,
    Stored,
    TaskForgotten,
    TaskRow,
    Totals,
)
from dtq.engines.base import EndedRun, StoredBatch
from dtq.model import pages
from dtq.model.snapshots import Attempt, Selection
from dtq.model.states import State
from dtq.model.values import Value
from dtq.model.values import named as values_named


def key_of(row: Row) -> tuple[Any, ...]:
    match row:
        case SpecRow() | BatchRow() | LeaseRow():
            return type(row), getattr(row, {SpecRow: "number", BatchRow: "batch", LeaseRow: "token"}[type(row)])
        case TaskRow():
            return TaskRow, row.batch, row.index
        case AttemptRow():
            return AttemptRow, row.batch, row.index, row.attempt.number
        case ArgumentPage() | ResultPage() | OutputPage():
            return type(row), row.batch, row.lo, getattr(row, "attempt", 0)
        case HoldRow():
            return HoldRow, row.session, row.digest
        case DefinitionRow():
            return DefinitionRow, row.kind, row.name
        case EdgeRow():
            return EdgeRow, row.child, row.parent
        case Totals():
            return (Totals,)
        case ExpiryRow():
            raise AssertionError("an expiry is never stored")


def _key_of_ended(change: LeaseEnded | HoldEnded | DefinitionEnded) -> tuple[Any, ...]:
    match change:
        case LeaseEnded(token):
            return LeaseRow, token
        case HoldEnded(session, digest):
            return HoldRow, session, digest
        case DefinitionEnded(kind, name):
            return DefinitionRow, kind, name


class Model:
    """The rows there are."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], Any] = {}

    def commit(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case Stored(row):
                    self.rows[key_of(row)] = row
                case LeaseEnded() | HoldEnded() | DefinitionEnded():
                    self.rows.pop(_key_of_ended(change), None)
                case TaskForgotten(batch, index, history):
                    self._forget_task(batch, index, history)
                case BatchWithdrawn(batch):
                    self._keep(lambda r: getattr(r, "batch", getattr(r, "child", None)) != batch)
                case ArgumentsForgotten(batch):
                    self._forget_arguments(batch)
                case Expired() | OwnExpired():
                    self._expire(change)
                case Read(batch, lo, hi):
                    self._forget_arguments(batch, lo, hi)
                    self._keep(lambda r: type(r) is not ResultPage or not _within(r, batch, lo, hi))
                    self._forget_output(batch, lo, hi)
                case BatchesRead(batches):
                    self._no_longer(lambda r: r.batch in batches)

    def _forget_task(self, batch: int, index: int, history: bool) -> None:
        self.rows.pop((TaskRow, batch, index), None)
        if history:
            self._keep(lambda r: not (type(r) is AttemptRow and (r.batch, r.index) == (batch, index)))
            self._keep(lambda r: type(r) is not OutputPage or not _within(r, batch, index, index + 1))

    def _keep(self, wanted: Any) -> None:
        self.rows = {key: row for key, row in self.rows.items() if wanted(row)}

    def _expire(self, change: Expired | OwnExpired) -> None:
        if isinstance(change, OwnExpired):
            self._no_longer(
                lambda r: r.expires_at is not None and r.expires_at <= change.at and r.batch not in change.spared
            )
            return
        self._no_longer(
            lambda r: r.expires_at is None and r.finished_at < change.before and r.batch not in change.spared
        )
        used = {row.spec for row in self.of(BatchRow)}
        self._keep(lambda r: type(r) is not SpecRow or r.number in used)

    def _no_longer(self, chosen: Any) -> None:
        for row in self.of(BatchRow):
            if row.finished_at is not None and chosen(row):
                dead = self._dead(row.batch)
                self._keep(lambda r, number=row.batch, dead=dead: _outlives(r, number, dead))

    def _forget_arguments(self, batch: int, lo: int = 0, hi: int = 2**62) -> None:
        dead = self._dead(batch)
        self._keep(lambda r: type(r) is not ArgumentPage or not _within(r, batch, lo, hi) or _holds(r, dead))

    def _forget_output(self, batch: int, lo: int, hi: int) -> None:
        dead = self._dead(batch)
        self._keep(lambda r: type(r) is not OutputPage or not _within(r, batch, lo, hi) or _holds(r, dead))

    def _dead(self, batch: int) -> set[int]:
        return {t.index for t in self.of(TaskRow) if t.batch == batch and t.state is State.DEAD}

    def of(self, kind: type) -> list[Any]:
        found = [(key[1:], row) for key, row in self.rows.items() if type(row) is kind]
        return [row for _, row in sorted(found, key=lambda item: item[0])]

    def restore(self) -> list[Row]:
        rows: list[Row] = []
        live = [b for b in self.of(BatchRow) if b.finished_at is None and (SpecRow, b.spec) in self.rows]
        for row in live:
            spec = self.rows[SpecRow, row.spec]
            rows += [row] if spec in rows else [spec, row]
        fresh_from = {row.batch: row.next for row in live}
        for task in self.of(TaskRow):
            if task.batch in fresh_from and (not task.state.final or task.index >= fresh_from[task.batch]):
                rows.append(task)
        moments = {row.expires_at for row in self.of(BatchRow) if row.expires_at is not None}
        kept = self.of(LeaseRow) + self.of(HoldRow) + self.of(DefinitionRow)
        return rows + kept + [ExpiryRow(at=at) for at in sorted(moments)]

    def pages(self, kind: type, batch: int, lo: int, hi: int) -> list[Any]:
        return [page for page in self.of(kind) if page.batch == batch and page.lo < hi and page.hi > lo]

    def batches(self, numbers: Iterable[int] = (), keys: Iterable[str] = ()) -> list[StoredBatch]:
        return [
            StoredBatch(row=row, spec=self.rows[SpecRow, row.spec].spec)
            for row in self.of(BatchRow)
            if (row.batch in set(numbers) or row.key in keys) and (SpecRow, row.spec) in self.rows
        ]

    def children(self, parents: Iterable[int]) -> list[int]:
        return sorted({row.child for row in self.of(EdgeRow) if row.parent in set(parents)})

    def holds(self, values: Iterable[Value]) -> bool:
        named = {
            value for kind in (ArgumentPage, ResultPage) for row in self.of(kind) for value in pages.named(row.data)
        }
        named |= {value for row in self.of(HoldRow) for value in values_named(row.description)}
        return named.issuperset(values)

    def attempts(self, batch: int, index: int) -> list[Attempt]:
        return [row.attempt for row in self.of(AttemptRow) if (row.batch, row.index) == (batch, index)]

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        runs = [run for run in self._all_ended(now) if _matches(run, selection, now)]
        runs.sort(key=lambda run: (run.ended_at, run.batch.row.batch, run.lo), reverse=True)
        return runs[: selection.limit] if selection.limit else runs

    def _all_ended(self, now: float) -> list[EndedRun]:
        runs = []
        for batch in self.batches([row.batch for row in self.of(BatchRow)]):
            row = batch.row
            for page in self.pages(ResultPage, row.batch, 0, 2**62):
                made = EndedRun(batch=batch, lo=page.lo, hi=page.hi, state=State.SUCCEEDED, ended_at=page.ended_at)
                runs.append(_by(made, page.worker))
            for task in self.of(TaskRow):
                if task.batch == row.batch and task.state.final:
                    lo = task.index
                    runs.append(
                        EndedRun(batch=batch, lo=lo, hi=lo + 1, state=task.state, ended_at=task.ended_at, task=task)
                    )
            if row.cut is not None and row.cut < row.size:
                ended_at = now if row.finished_at is None else row.finished_at
                runs.append(EndedRun(batch=batch, lo=row.cut, hi=row.size, state=State.CANCELLED, ended_at=ended_at))
        return runs


def _by(run: EndedRun, worker: str) -> EndedRun:
    return EndedRun(
        batch=run.batch, lo=run.lo, hi=run.hi, state=run.state, ended_at=run.ended_at, worker=worker, task=run.task
    )


def _outlives(row: Any, batch: int, dead: set[int]) -> bool:
    if isinstance(row, EdgeRow):
        return row.child != batch or bool(dead)
    if getattr(row, "batch", None) != batch:
        return True
    match row:
        case BatchRow():
            return bool(dead)
        case TaskRow() | AttemptRow():
            return row.index in dead
        case ArgumentPage() | OutputPage():
            return _holds(row, dead)
        case _:
            return False


def _within(page: Any, batch: int, lo: int, hi: int) -> bool:
    return bool(page.batch == batch and lo <= page.lo and page.hi <= hi)


def _holds(page: ArgumentPage | OutputPage, indexes: set[int]) -> bool:
    return any(page.lo <= index < page.hi for index in indexes)


def _matches(run: EndedRun, selection: Selection, now: float) -> bool:
    number, spec = run.batch.row.batch, run.batch.spec
    tasks = {(number, index) for index in range(run.lo, run.hi)} | {(number, -1)}
    return (
        (not selection.ids or bool(tasks & set(selection.ids)))
        and (selection.state is None or run.state is selection.state)
        and (selection.queue is None or spec.options.queue == selection.queue)
        and (selection.function is None or fnmatchcase(spec.function.name, selection.function))
        and (
            selection.exception is None
            or (run.task is not None and fnmatchcase(run.task.exception, selection.exception))
        )
        and (selection.outcome is None or (run.task is not None and run.task.outcome is selection.outcome))
        and (selection.older_than_s is None or now - run.ended_at >= selection.older_than_s)
    )
