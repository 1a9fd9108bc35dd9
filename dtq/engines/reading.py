"""Reads of the SQLite engine, over connections that only read.

A read never waits for a commit, nor a commit for a read, and each answer shows one moment between two commits.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from dtq.core.changes import (
    ArgumentPage,
    BatchRow,
    DefinitionRow,
    ExpiryRow,
    OutputPage,
    ResultPage,
    Row,
    SpecRow,
    TaskRow,
)
from dtq.engines import rowcodec, schema
from dtq.engines.base import EndedRun, Page, StoredBatch, fill, recall, stored_batch
from dtq.engines.faults import store_error
from dtq.engines.rowcodec import DamagedRow
from dtq.engines.schema import LIVE
from dtq.engines.selection_filter import SelectionFilter, cut_tail, latest_first
from dtq.errors import StoreDamaged, StoreError
from dtq.model.options import Spec
from dtq.model.pages import PAGE_BLOBS
from dtq.model.snapshots import Attempt
from dtq.model.states import State
from dtq.model.values import Value

_log = logging.getLogger("dtq.engines")

#: Kibibytes of pages that a reading connection caches.
_CACHE_KIB: Final = 4096

_OVERLAPPING: Final = "WHERE batch = ? AND lo > ? AND lo < ? AND hi > ? ORDER BY lo"
_ARGUMENTS: Final = f"SELECT batch, lo, hi, crc, data FROM arguments {_OVERLAPPING}"
_RESULTS: Final = f"SELECT batch, lo, hi, ended_at, worker, crc, data FROM results {_OVERLAPPING}"
_OUTPUT: Final = f"SELECT batch, lo, hi, attempt, crc, data FROM output {_OVERLAPPING}, attempt"
#: How to read each kind of pages.
_READ_PAGES: Final[dict[type, tuple[str, Callable[[tuple[Any, ...]], Any]]]] = {
    ArgumentPage: (_ARGUMENTS, rowcodec.decode_arguments),
    ResultPage: (_RESULTS, rowcodec.decode_results),
    OutputPage: (_OUTPUT, rowcodec.decode_output),
}

_IN_USE: Final = "SELECT 1 FROM uses WHERE segment = ? AND start = ? AND length = ? LIMIT 1"

_CHILDREN: Final = "SELECT DISTINCT child FROM edges WHERE parent IN (SELECT value FROM json_each(?)) ORDER BY child"

_NEWEST: Final = "SELECT batch, body FROM batches WHERE batch < ? ORDER BY batch DESC"

_ATTEMPTS: Final = "SELECT body FROM attempts WHERE batch = ? AND idx = ? AND number >= ? ORDER BY number"
_LAST_ATTEMPTS: Final = "SELECT body FROM attempts WHERE batch = ? AND idx = ? ORDER BY number DESC LIMIT ?"

_ENDED_PAGES: Final = (
    "SELECT batches.batch, spec, batches.body, lo, hi, ended_at, worker FROM results"
    " CROSS JOIN batches ON batches.batch = results.batch WHERE (ended_at, results.batch, lo) < (?, ?, ?) {0}"
    " ORDER BY ended_at DESC, results.batch DESC, lo DESC"
)
_ENDED_TASKS: Final = (
    "SELECT batches.batch, spec, batches.body, idx, tasks.body FROM tasks"
    " CROSS JOIN batches ON batches.batch = tasks.batch WHERE (ended_at, tasks.batch, idx) < (?, ?, ?) {0}"
    " ORDER BY ended_at DESC, tasks.batch DESC, idx DESC"
)
_PAGES_OF: Final = "AND results.batch = ? AND lo > ? AND lo < ? AND hi > ?"
_TASKS_OF: Final = "AND tasks.batch = ? AND idx >= ? AND idx < ?"
_EXPIRIES: Final = "SELECT DISTINCT expires_at FROM batches WHERE expires_at IS NOT NULL ORDER BY expires_at"
_CUT: Final = (
    "SELECT batch, spec, body FROM batches WHERE cut IS NOT NULL {0} ORDER BY coalesce(finished_at, ?) DESC, batch DESC"
)
_TASKS: Final = (
    "SELECT tasks.batch, idx, tasks.body, batches.body FROM tasks"
    " CROSS JOIN batches ON batches.batch = tasks.batch ORDER BY tasks.batch, idx"
)


def connect(path: str) -> sqlite3.Connection:
    """A connection to a store in use that only reads.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = schema.lenient
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class Reader:
    """Answers one question at a time.

    Args:
        path: the store.

    Raises:
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = connect(path)

    def close(self) -> None:
        """Wait for the read under way, and close."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                raise StoreError(self._path, "it is not open")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise store_error(self._path, error) from error
            except DamagedRow as error:
                raise StoreDamaged(self._path, str(error)) from error

    @contextmanager
    def _one_moment(self) -> Iterator[sqlite3.Connection]:
        with self._asking() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """See `Engine.pages`."""
        where = (batch, lo - PAGE_BLOBS, hi, lo)
        sql, decode = _READ_PAGES[kind]
        with self._asking() as connection, closing(connection.execute(sql, where)) as rows:
            found: list[Page] = fill(map(decode, rows), room)
        return found

    def children(self, parents: Sequence[int]) -> list[int]:
        """See `Engine.children`."""
        with self._asking() as connection:
            found = connection.execute(_CHILDREN, (json.dumps(list(parents)),))
            return [child for (child,) in found if type(child) is int]

    def holds(self, values: Sequence[Value]) -> bool:
        """See `Engine.holds`."""
        with self._asking() as connection:
            return all(
                connection.execute(_IN_USE, (value.segment, value.offset, value.length)).fetchone() for value in values
            )

    def attempts(self, batch: int, index: int, first: int, room: int | None) -> list[Attempt]:
        """See `Engine.attempts`."""
        sql, where = (_ATTEMPTS, first) if first >= 0 else (_LAST_ATTEMPTS, -first)
        with self._asking() as connection, closing(connection.execute(sql, (batch, index, where))) as rows:
            kept = (rowcodec.decode_attempt(batch, index, body) for (body,) in rows)
            return recall(kept if first >= 0 else reversed(list(kept)), room)

    def batches(self, numbers: Sequence[int], keys: Sequence[str], most: int) -> list[StoredBatch]:
        """See `Engine.batches`."""
        with self._one_moment() as connection:
            specs = _Specs(connection)
            bodies: dict[int, object] = {}
            for number in set(numbers):
                bodies.update(connection.execute("SELECT batch, body FROM batches WHERE batch = ?", (number,)))
            rows = {number: rowcodec.decode_batch(number, body, {}) for number, body in bodies.items()}
            for key in _known(connection, keys):
                rows.update({row.batch: row for row in islice(_with_key(connection, key), most)})
            with_spec = [(row, specs.get(row.spec)) for _, row in sorted(rows.items())]
        return [stored_batch(row, spec) for row, spec in with_spec if spec is not None]

    def newest(self, before: int, most: int) -> list[StoredBatch]:
        """See `Engine.newest`."""
        found: list[StoredBatch] = []
        damaged = 0
        names: dict[bytes, str] = {}
        with self._one_moment() as connection, closing(connection.execute(_NEWEST, (before,))) as rows:
            specs = _Specs(connection)
            while len(found) < most and (next_row := rows.fetchone()) is not None:
                number, body = next_row
                row = (
                    rowcodec.decode_batch(number, body, names) if rowcodec.sound(body, rowcodec.BATCH, number) else None
                )
                spec = None if row is None else specs.get(row.spec)
                if row is None or spec is None:
                    damaged += 1
                else:
                    found.append(stored_batch(row, spec))
        if damaged:
            _log.warning("%d damaged batches of %s are left out of a list", damaged, self._path)
        return found

    def ended(self, selector: SelectionFilter) -> list[EndedRun]:
        """See `Engine.ended`."""
        with self._one_moment() as connection:
            search = _Search(connection, selector)
            if selector.batches is None:
                runs = list(selector.first(search.runs(None)))
            else:
                found = [run for span in _spans(selector.batches) for run in search.runs(span)]
                runs = list(selector.first(sorted(found, key=latest_first, reverse=True)))
        if search.damaged:
            _log.warning("%d damaged rows of %s are left out of a list", search.damaged, self._path)
        return runs


def restore(path: str, *, missing_batches: bool) -> Iterator[Row]:
    """See `Engine.restore`. Row by row, over a connection of its own.

    Args:
        path: the store.
        missing_batches: whether tasks and leases may belong to batches that cannot be restored; they are left out.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with closing(connect(path)) as connection:
            connection.execute("BEGIN")
            restored: set[int] = set()
            left_out: set[int] = set()
            for row in _live_batches(connection, left_out):
                if missing_batches and isinstance(row, BatchRow):
                    restored.add(row.batch)
                yield row
            for task in _live_tasks(connection):
                if task.batch not in left_out and (not missing_batches or task.batch in restored):
                    yield task
            for token, batch, body in connection.execute("SELECT token, batch, body FROM leases ORDER BY token"):
                here = batch not in left_out and (not missing_batches or batch in restored)
                if here and rowcodec.sound(body, rowcodec.LEASE, token):
                    yield rowcodec.decode_lease(token, body)
            holds = connection.execute("SELECT hold, body FROM holds").fetchall()
            whole = [rowcodec.decode_hold(*hold) for hold in holds if rowcodec.sound(hold[1], rowcodec.HOLD, hold[0])]
            yield from sorted(whole, key=attrgetter("session", "digest"))
            yield from _definitions(connection)
            for (at,) in connection.execute(_EXPIRIES):
                if type(at) is float:
                    yield ExpiryRow(at=at)
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def _definitions(connection: sqlite3.Connection) -> list[DefinitionRow]:
    found = connection.execute("SELECT code, body FROM definitions").fetchall()
    whole = [row for row in found if rowcodec.sound(row[1], rowcodec.DEFINITION, row[0])]
    return sorted((rowcodec.decode_definition(*row) for row in whole), key=attrgetter("kind", "name"))


def _live_batches(connection: sqlite3.Connection, left_out: set[int]) -> Iterator[SpecRow | BatchRow]:
    specs = _Specs(connection)
    given: set[int] = set()
    names: dict[bytes, str] = {}
    for number, body in connection.execute(f"SELECT batch, body FROM batches WHERE {LIVE} ORDER BY batch"):
        try:
            row = rowcodec.decode_batch(number, body, names)
        except DamagedRow:
            left_out.add(number)
            continue
        if row.spec not in given:
            spec = specs.get(row.spec)
            if spec is None:
                left_out.add(number)
                continue
            given.add(row.spec)
            yield SpecRow(number=row.spec, spec=spec)
        yield row


def _live_tasks(connection: sqlite3.Connection) -> Iterator[TaskRow]:
    # The blobs tell whether a batch is live and a task final: the columns have no checksums.
    current, live, fresh_from = -1, False, 0
    for batch, index, body, batch_body in connection.execute(_TASKS):
        if batch != current:
            current = batch
            live = rowcodec.sound(batch_body, rowcodec.BATCH, batch) and rowcodec.unfinished(batch_body)
            fresh_from = rowcodec.decode_batch(batch, batch_body, {}).next if live else 0
        if live and rowcodec.sound(body, rowcodec.TASK, batch, index):
            row = rowcodec.decode_task(batch, index, body)
            if not row.state.final or index >= fresh_from:
                yield row


class _Specs:
    """The specs of one answer, each decoded once; None for a missing or damaged one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[int, Spec | None] = {}

    def get(self, number: int) -> Spec | None:
        """The spec of a number."""
        if number not in self._known:
            self._known[number] = self._read(number)
        return self._known[number]

    def _read(self, number: int) -> Spec | None:
        found = self._connection.execute("SELECT body FROM specs WHERE number = ?", (number,)).fetchone()
        if found is None or not rowcodec.sound(found[0], rowcodec.SPEC, number):
            return None
        return rowcodec.decode_spec(number, found[0])


def _known(connection: sqlite3.Connection, keys: Sequence[str]) -> list[str]:
    """Those of some keys that batches may have, found with one statement: most keys are new."""
    codes = {key: rowcodec.key_code(key) for key in keys}
    sql = "SELECT DISTINCT code FROM batches WHERE code IN (SELECT value FROM json_each(?))"
    found = {code for (code,) in connection.execute(sql, (json.dumps(list(codes.values())),))} if codes else ()
    return [key for key, code in codes.items() if code in found]


def _with_key(connection: sqlite3.Connection, key: str) -> Iterator[BatchRow]:
    """The batches with a key, the latest first."""
    sql = "SELECT batch, body FROM batches WHERE code = ? ORDER BY batch DESC"
    for number, body in connection.execute(sql, (rowcodec.key_code(key),)):
        row = rowcodec.decode_batch(number, body, {})
        if row.key == key:
            yield row


#: Tasks ``[lo, hi)`` of a batch.
_Span = tuple[int, int, int]


def _spans(batches: dict[int, set[int] | None]) -> Iterator[_Span]:
    for batch, indexes in batches.items():
        yield (batch, 0, 2**62) if indexes is None else (batch, min(indexes), max(indexes) + 1)


class _Search:
    """One listing of ended tasks: three streams, each latest first, merged lazily."""

    def __init__(self, connection: sqlite3.Connection, selector: SelectionFilter) -> None:
        self.damaged = 0
        self._connection = connection
        self._sieve = selector
        self._specs = _Specs(connection)
        self._wanted: dict[int, bool] = {}
        self._names: dict[bytes, str] = {}

    def runs(self, span: _Span | None) -> Iterator[EndedRun]:
        """The runs of some tasks, or of all, latest first; it may return more than the selector lets through."""
        states = self._sieve.states
        streams = []
        if State.SUCCEEDED in states and not self._sieve.by_attempt:
            streams.append(self._pages(span))
        if states & {State.DEAD, State.CANCELLED}:
            streams.append(self._tasks(span))
        if State.CANCELLED in states and not self._sieve.by_attempt:
            streams.append(self._tails(span))
        return merge(*streams, key=latest_first, reverse=True)

    def _pages(self, span: _Span | None) -> Iterator[EndedRun]:
        sql = _ENDED_PAGES.format("" if span is None else _PAGES_OF)
        where = () if span is None else (span[0], span[1] - PAGE_BLOBS, span[2], span[1])
        for number, spec, body, lo, hi, ended_at, worker in self._connection.execute(sql, (*self._sieve.below, *where)):
            batch = self._batch(number, spec, body)
            if (type(lo), type(hi), type(ended_at)) != (int, int, float):
                self.damaged += 1
            elif batch is not None:
                name, seconds, peak = rowcodec.decode_worker(worker)
                yield EndedRun(
                    batch=batch,
                    lo=lo,
                    hi=hi,
                    state=State.SUCCEEDED,
                    ended_at=ended_at,
                    worker=name,
                    seconds=seconds,
                    peak_memory=peak,
                )

    def _tasks(self, span: _Span | None) -> Iterator[EndedRun]:
        sql = _ENDED_TASKS.format("" if span is None else _TASKS_OF)
        where = (*self._sieve.below, *(span or ()))
        for number, spec, body, index, task in self._connection.execute(sql, where):
            batch = self._batch(number, spec, body)
            if batch is None:
                continue
            if not rowcodec.sound(task, rowcodec.TASK, number, index):
                self.damaged += 1
                continue
            row = rowcodec.decode_task(number, index, task)
            ended_at = rowcodec.final_at(row) or 0.0
            yield EndedRun(batch=batch, lo=index, hi=index + 1, state=row.state, ended_at=ended_at, task=row)

    def _tails(self, span: _Span | None) -> Iterator[EndedRun]:
        now = self._sieve.now
        sql = _CUT.format("" if span is None else "AND batch = ?")
        where = (now,) if span is None else (span[0], now)
        for number, spec, body in self._connection.execute(sql, where):
            batch = self._batch(number, spec, body)
            tail = None if batch is None else cut_tail(batch, now)
            if tail is not None:
                yield tail

    def _batch(self, number: int, spec_number: int, body: object) -> StoredBatch | None:
        """The batch of a run; None if its spec does not match, or a row is damaged."""
        spec = self._specs.get(spec_number)
        wanted = self._wanted.get(spec_number)
        if wanted is None:
            wanted = self._wanted[spec_number] = spec is None or self._sieve.wants_spec(spec)
        if not wanted:
            return None
        if spec is None or not rowcodec.sound(body, rowcodec.BATCH, number):
            self.damaged += 1
            return None
        row = rowcodec.decode_batch(number, body, self._names)
        return stored_batch(row, spec) if self._sieve.wants_label(row.label) else None
