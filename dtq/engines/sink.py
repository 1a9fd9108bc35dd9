"""Turns the changes of one commit into few SQL statements, usually one.

The thread that commits shares the interpreter with busy handler threads. Each statement gives the interpreter's lock
away and has to queue for it again, which costs far more than a small statement itself. So the rows of a commit,
whatever their kind, are inserted with one statement into one view, the *sink*, whose triggers distribute them to their
tables, and that statement is the whole transaction. (Measured with four busy threads and a hundred rows: 625 commits/s,
against 260 to 360 with statements for each table.) A trigger doubles the work for a row, though, so many rows of one
kind go straight into their table, up to `_MOST_ROWS` a statement.

A row is ``(kind, a, b, c, d, e, f, body)``. View and triggers are temporary: the file has only tables.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final

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
    LeaseRow,
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
from dtq.engines import rowcodec
from dtq.engines.rowcodec import (
    ARGUMENTS,
    ATTEMPT,
    BATCH,
    DEFINITION,
    HOLD,
    LEASE,
    OUTPUT,
    RESULTS,
    SPEC,
    STATE_CODE,
    TASK,
    DamagedRow,
)
from dtq.engines.schema import DEFINITIONS, HOLDS, LEASES, LIVE_BATCHES, TASKS, USES
from dtq.engines.uses import DESCRIBED, named_by, places
from dtq.model.states import State
from dtq.model.values import Value
from dtq.records import dataclass

# Kinds of rows of the sink beside those of `rowcodec`.
_EDGE: Final = 19
_USE: Final = 20
_HEAD: Final = 21
_LEASE_ENDED: Final = 22
_TASK_FORGOTTEN: Final = 23
_BATCH_WITHDRAWN: Final = 24
_ARGUMENTS_FORGOTTEN: Final = 25
_READ: Final = 26
_HOLD_ENDED: Final = 27
_DEFINITION_ENDED: Final = 28

#: Changes that remove one row, and the rows that depend on it.
_ONE_ROW: Final = frozenset({TaskForgotten, HoldEnded, DefinitionEnded})

Statement = tuple[str, Sequence[Any]]
SinkRow = tuple[int, Any, Any, Any, Any, Any, Any, bytes]
_NAMES: Final = ("kind", "a", "b", "c", "d", "e", "f", "body")
_body = itemgetter(7)
#: Most rows of one statement: its parameters stay below the 32,766 that SQLite allows, its program below 1 MB.
_MOST_ROWS: Final = 1024
#: This many rows of one kind, or more, go straight into their table.
_MANY: Final = 128
#: Fewest rows of one statement; then powers of two, so that there are few statements to prepare.
_FEWEST_ROWS: Final = 16
#: Most bytes of one statement, except for a single larger row: SQLite keeps the values last bound to each statement.
_MOST_BYTES: Final = 2 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Upsert:
    """The SQL that stores rows of a kind in their table.

    Attributes:
        table: the table.
        columns: its columns, each with its place in a sink row.
        key: how many of the columns, from the first, are the key.
        constant: columns that stay as they are in a row with the same key.
        also: further settings in a row with the same key.
    """

    table: str
    columns: dict[str, str]
    key: int = 1
    constant: tuple[str, ...] = ()
    also: str = ""

    def sql(self, source: str) -> str:
        """The statement that stores the rows of a source."""
        names = list(self.columns)
        key = names[: self.key]
        changed = [f"{name} = excluded.{name}" for name in names[self.key :] if name not in self.constant]
        then = f"UPDATE SET {', '.join(changed)}{self.also}" if changed else "NOTHING"
        return f"INSERT INTO {self.table} ({', '.join(names)}) {source} ON CONFLICT ({', '.join(key)}) DO {then}"


_UPSERTS: Final = {
    SPEC: _Upsert(table="specs", columns={"number": "a", "body": "body"}),
    BATCH: _Upsert(
        table="batches",
        columns={
            "batch": "a",
            "spec": "b",
            "code": "c",
            "finished_at": "d",
            "cut": "e",
            "expires_at": "f",
            "body": "body",
        },
        # A batch keeps its key, and that index is not touched. Its function may get another number, when the batch is
        # put back after a restart that dropped the old one.
        constant=("code",),
        also=", trimmed = 0",
    ),
    TASK: _Upsert(
        table="tasks", columns={"batch": "a", "idx": "b", "state": "c", "ended_at": "d", "body": "body"}, key=2
    ),
    ATTEMPT: _Upsert(table="attempts", columns={"batch": "a", "idx": "b", "number": "c", "body": "body"}, key=3),
    LEASE: _Upsert(table="leases", columns={"token": "a", "batch": "b", "body": "body"}),
    ARGUMENTS: _Upsert(
        table="arguments", columns={"batch": "a", "lo": "b", "hi": "c", "crc": "f", "data": "body"}, key=2
    ),
    RESULTS: _Upsert(
        table="results",
        columns={"batch": "a", "lo": "b", "hi": "c", "ended_at": "d", "worker": "e", "crc": "f", "data": "body"},
        key=2,
    ),
    OUTPUT: _Upsert(
        table="output",
        columns={"batch": "a", "lo": "b", "attempt": "c", "hi": "d", "crc": "f", "data": "body"},
        key=3,
    ),
    HOLD: _Upsert(table="holds", columns={"hold": "a", "body": "body"}),
    DEFINITION: _Upsert(table="definitions", columns={"code": "a", "body": "body"}),
    _EDGE: _Upsert(table="edges", columns={"child": "a", "parent": "b"}, key=2),
    # After the rows that name the values: these remove the records of their earlier values.
    _USE: _Upsert(
        table="uses",
        columns={"kind": "a", "owner": "b", "lo": "c", "segment": "d", "start": "e", "length": "f", "crc": "body"},
        key=6,
    ),
}
_DEAD: Final = STATE_CODE[State.DEAD]
_OF_DEAD: Final = (
    "NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.batch = {0}.batch AND tasks.idx >= {0}.{1} AND tasks.idx < {0}.{2}"
    f" AND tasks.state = {_DEAD})"
)
#: The records of uses by removed pages of some batches.
_OF_GONE: Final = (
    "DELETE FROM uses WHERE kind = {0} AND owner {2} AND NOT EXISTS"
    " (SELECT 1 FROM {1} WHERE {1}.batch = uses.owner AND {1}.lo = uses.lo)"
)
_OF_GONE_ARGUMENTS: Final = _OF_GONE.format(ARGUMENTS, "arguments", "= new.a")
_OF_GONE_RESULTS: Final = _OF_GONE.format(RESULTS, "results", "= new.a")
#: An expiry checks a batch again when its dead letters change.
_LOOK_AGAIN: Final = "UPDATE batches SET trimmed = 0 WHERE batch = new.a AND trimmed = 1;"
_REMOVALS: Final = {
    _LEASE_ENDED: "DELETE FROM leases WHERE token = new.a;",
    _HOLD_ENDED: f"DELETE FROM holds WHERE hold = new.a; DELETE FROM uses WHERE kind = {HOLD} AND owner = new.a;",
    _DEFINITION_ENDED: "DELETE FROM definitions WHERE code = new.a;",
    _TASK_FORGOTTEN: "DELETE FROM tasks WHERE batch = new.a AND idx = new.b;"
    f" DELETE FROM attempts WHERE new.c AND batch = new.a AND idx = new.b;"
    f" DELETE FROM output WHERE new.c AND batch = new.a AND lo = new.b AND hi = new.b + 1; {_LOOK_AGAIN}",
    _BATCH_WITHDRAWN: " ".join(
        f"DELETE FROM {table} WHERE batch = new.a;"
        for table in ("leases", "batches", "tasks", "attempts", "arguments", "results", "output")
    )
    + f" DELETE FROM edges WHERE child = new.a; {_OF_GONE_ARGUMENTS}; {_OF_GONE_RESULTS};",
    _ARGUMENTS_FORGOTTEN: f"DELETE FROM arguments WHERE batch = new.a AND {_OF_DEAD.format('arguments', 'lo', 'hi')};"
    f" {_OF_GONE_ARGUMENTS};",
    _READ: "DELETE FROM results WHERE batch = new.a AND lo >= new.b AND lo < new.c AND hi <= new.c;"
    " DELETE FROM arguments WHERE batch = new.a AND lo >= new.b AND lo < new.c AND hi <= new.c"
    f" AND {_OF_DEAD.format('arguments', 'lo', 'hi')};"
    " DELETE FROM output WHERE batch = new.a AND lo >= new.b AND lo < new.c AND hi <= new.c"
    f" AND {_OF_DEAD.format('output', 'lo', 'hi')};"
    f" {_OF_GONE_RESULTS} AND lo >= new.b AND lo < new.c; {_OF_GONE_ARGUMENTS} AND lo >= new.b AND lo < new.c;",
}


def _sink_trigger(kind: int) -> str:
    if kind in _UPSERTS:
        upsert = _UPSERTS[kind]
        values = ", ".join(f"new.{place}" for place in upsert.columns.values())
        action = upsert.sql(f"VALUES ({values})") + ";" + (_LOOK_AGAIN if kind == TASK else "")
    elif kind == _HEAD:
        # Leases are few, so they are counted rather than kept count of.
        action = (
            f"UPDATE counts SET rows = (SELECT count(*) FROM leases) WHERE name = {LEASES};"
            " UPDATE head SET body = new.body;"
        )
    else:
        action = _REMOVALS[kind]
    return f"CREATE TEMP TRIGGER sink_{kind} INSTEAD OF INSERT ON sink WHEN new.kind = {kind} BEGIN {action} END"


def _counting(name: int, when: str, step: str) -> str:
    return f"CREATE TEMP TRIGGER {when} BEGIN UPDATE counts SET rows = rows + {step} WHERE name = {name}; END"


def _replacing(kind: int, table: str, owner: str, lo: str, data: str) -> str:
    # Not for removed rows: a trigger for each of them would take a fifth more time, and values are few.
    return (
        f"CREATE TEMP TRIGGER {table}_replaced AFTER UPDATE OF {data} ON {table} BEGIN"
        f" DELETE FROM uses WHERE kind = {kind} AND owner = old.{owner} AND lo = {lo}; END"
    )


#: Statements before the first commit of a writing connection.
SETUP: Final = (
    f"CREATE TEMP VIEW sink ({', '.join(_NAMES)}) AS SELECT 0, 0, 0, 0, 0, 0, 0, 0",
    *(_sink_trigger(kind) for kind in (*_UPSERTS, _HEAD, *_REMOVALS)),
    _counting(LIVE_BATCHES, "batch_in AFTER INSERT ON batches WHEN new.finished_at IS NULL", "1"),
    _counting(LIVE_BATCHES, "batch_out AFTER DELETE ON batches WHEN old.finished_at IS NULL", "-1"),
    _counting(
        LIVE_BATCHES,
        "batch_turned AFTER UPDATE OF finished_at ON batches"
        " WHEN (new.finished_at IS NULL) <> (old.finished_at IS NULL)",
        "(new.finished_at IS NULL) - (old.finished_at IS NULL)",
    ),
    _counting(TASKS, "task_in AFTER INSERT ON tasks", "1"),
    _counting(TASKS, "task_out AFTER DELETE ON tasks", "-1"),
    "CREATE TEMP TABLE going (batch INTEGER PRIMARY KEY, dead INTEGER)",
    _counting(USES, "use_in AFTER INSERT ON uses", "1"),
    _counting(USES, "use_out AFTER DELETE ON uses", "-1"),
    _counting(HOLDS, "hold_in AFTER INSERT ON holds", "1"),
    _counting(HOLDS, "hold_out AFTER DELETE ON holds", "-1"),
    _counting(DEFINITIONS, "definition_in AFTER INSERT ON definitions", "1"),
    _counting(DEFINITIONS, "definition_out AFTER DELETE ON definitions", "-1"),
    _replacing(ARGUMENTS, "arguments", "batch", "old.lo", "data"),
    _replacing(RESULTS, "results", "batch", "old.lo", "data"),
    _replacing(SPEC, "specs", "number", "0", "body"),
    _replacing(HOLD, "holds", "hold", "0", "body"),
    "CREATE TEMP TABLE freed (segment INTEGER PRIMARY KEY)",
    "CREATE TEMP TRIGGER freed_in AFTER DELETE ON uses BEGIN INSERT OR IGNORE INTO freed VALUES (old.segment); END",
)
#: The segments with values that went out of use since the last query.
FREED: Final = "SELECT segment FROM freed"
FREED_SEEN: Final = "DELETE FROM freed"

_GOING: Final = "IN (SELECT batch FROM going WHERE {})"
_CHOSEN: Final = (
    "INSERT INTO going SELECT batch, EXISTS (SELECT 1 FROM tasks WHERE tasks.batch = batches.batch"
    f" AND state = {_DEAD}) FROM batches WHERE trimmed = 0 AND {{}}"
)
#: Removed batches: of `Expired` and `OwnExpired` by their moments, of `BatchesRead` by their numbers as JSON.
_OLD: Final = _CHOSEN.format("expires_at IS NULL AND finished_at < ?")
_OVERDUE: Final = _CHOSEN.format("expires_at <= ?")
#: Except for spared ones, by their numbers as JSON.
_SPARING: Final = " AND batch NOT IN (SELECT value FROM json_each(?))"
_READ_WHOLE: Final = _CHOSEN.format("finished_at IS NOT NULL AND batch IN (SELECT value FROM json_each(?))")
#: The steps of their removal, in order.
_NO_LONGER: Final = (
    f"DELETE FROM results WHERE batch {_GOING.format(1)}",
    f"DELETE FROM leases WHERE batch {_GOING.format(1)}",
    *(
        f"DELETE FROM {table} WHERE batch {_GOING.format('NOT dead')}"
        for table in ("arguments", "attempts", "tasks", "batches")
    ),
    f"DELETE FROM arguments WHERE batch {_GOING.format('dead')} AND {_OF_DEAD.format('arguments', 'lo', 'hi')}",
    f"DELETE FROM attempts WHERE batch {_GOING.format('dead')} AND {_OF_DEAD.format('attempts', 'idx', 'idx + 1')}",
    f"DELETE FROM tasks WHERE batch {_GOING.format('dead')} AND state <> {_DEAD}",
    f"UPDATE batches SET trimmed = 1 WHERE batch {_GOING.format('dead')}",
)
_END_OF_GOING: Final = "DELETE FROM going"
_NAMED_NO_LONGER: Final = tuple(
    _OF_GONE.format(kind, table, _GOING.format(1)) for kind, table in ((ARGUMENTS, "arguments"), (RESULTS, "results"))
)
_PRINTED_NO_LONGER: Final = (
    f"DELETE FROM output WHERE batch {_GOING.format(1)} AND {_OF_DEAD.format('output', 'lo', 'hi')}"
)
_LINKED_NO_LONGER: Final = f"DELETE FROM edges WHERE child {_GOING.format('NOT dead')}"
_UNUSED_SPECS: Final = "DELETE FROM specs WHERE NOT EXISTS (SELECT 1 FROM batches WHERE spec = number)"
_NAMED_BY_UNUSED: Final = (
    f"DELETE FROM uses WHERE kind = {SPEC} AND NOT EXISTS (SELECT 1 FROM specs WHERE number = owner)"
)


class WritePlan:
    """The changes of one commit as rows, in an order with the same effect.

    Only the last value of a row is written. Changes that concern many rows are barriers that no other change crosses.

    Args:
        changes: the changes.
        valued: whether stored rows may name values.
        linked: whether stored batches may have parents.
        printed: whether there may be stored output.

    Attributes:
        totals: the totals row, if it changed.
        argument_bytes: bytes of arguments.
        removes: whether it removes rows that may be large, so that the file may have room to give back.
        values: the values that its rows name.
        linked: whether batches may have parents after this commit.
        printed: whether there may be output.
    """

    def __init__(
        self, changes: Sequence[Change], *, valued: bool = True, linked: bool = True, printed: bool = True
    ) -> None:
        self._valued = valued
        self.linked = linked
        self.printed = printed
        self.totals: Totals | None = None
        self.argument_bytes = 0
        self.removes = False
        self.values: list[Value] = []
        #: Statements so far, and rows that wait for a statement into the sink.
        self._made: list[Statement] = []
        self._rows: list[SinkRow] = []
        self._batches: dict[int, BatchRow] = {}
        self._leases: dict[int, LeaseRow | None] = {}
        self._arguments: dict[tuple[int, int], ArgumentPage] = {}
        self._results: dict[tuple[int, int], ResultPage] = {}
        self._others: dict[tuple[int, ...], SinkRow] = {}
        #: The values that functions and holds name, by kind and key.
        self._named: dict[tuple[int, int], Sequence[Value]] = {}
        for change in changes:
            if type(change) is Stored:
                _GATHER[type(change.row)](self, change.row)
            elif type(change) is LeaseEnded:
                self._leases[change.token] = None
            elif type(change) in _ONE_ROW:
                self._on_row_gone(change)
            else:
                self._on_removal(change)
        self._settle()

    def statements(self, head: bytes) -> list[Statement]:
        """The statements that make up the commit, which ends with the store's new head."""
        self._rows.append((_HEAD, None, None, None, None, None, None, head))
        self._sink()
        return self._made

    # -- gathering ------------------------------------------------------------------------------------------------

    def _on_batch(self, row: BatchRow) -> None:
        self._batches[row.batch] = row

    def _on_lease(self, row: LeaseRow) -> None:
        self._leases[row.token] = row

    def _on_totals(self, row: Totals) -> None:
        self.totals = row

    def _on_arguments(self, row: ArgumentPage) -> None:
        self._arguments[row.batch, row.lo] = row
        self.argument_bytes += len(row.data)

    def _on_results(self, row: ResultPage) -> None:
        self._results[row.batch, row.lo] = row

    def _on_spec(self, row: SpecRow) -> None:
        body = rowcodec.encode_spec(row)
        self._others[SPEC, row.number] = (SPEC, row.number, None, None, None, None, None, body)
        self._named[SPEC, row.number] = named_by(row)

    def _on_hold(self, row: HoldRow) -> None:
        code = rowcodec.hold_code(row.session, row.digest)
        self._last((HOLD, code), (HOLD, code, None, None, None, None, None, rowcodec.encode_hold(row)))
        self._named[HOLD, code] = named_by(row)

    def _on_definition(self, row: DefinitionRow) -> None:
        code = rowcodec.definition_code(row.kind, row.name)
        body = rowcodec.encode_definition(row)
        self._last((DEFINITION, code), (DEFINITION, code, None, None, None, None, None, body))

    def _on_edge(self, row: EdgeRow) -> None:
        self.linked = True
        key = (_EDGE, row.child, row.parent)
        self._others[key] = (*key, None, None, None, None, b"")

    def _on_task(self, row: TaskRow) -> None:
        body = rowcodec.encode_task(row)
        state, ended_at = STATE_CODE[row.state], rowcodec.final_at(row)
        self._last((TASK, row.batch, row.index), (TASK, row.batch, row.index, state, ended_at, None, None, body))

    def _on_attempt(self, row: AttemptRow) -> None:
        key = (ATTEMPT, row.batch, row.index, row.attempt.number)
        self._last(key, (*key, None, None, None, rowcodec.encode_attempt(row)))

    def _on_output(self, row: OutputPage) -> None:
        self.printed = True
        batch, lo, hi, attempt, data = row.batch, row.lo, row.hi, row.attempt, row.data
        crc = rowcodec.output_crc(batch, lo, hi, attempt, data)
        self._last((OUTPUT, batch, lo, attempt), (OUTPUT, batch, lo, attempt, hi, None, crc, data))

    def _last(self, key: tuple[int, ...], row: SinkRow) -> None:
        # Forgetting a task may forget its attempts too, so among these the order of the changes is kept.
        self._others.pop(key, None)
        self._others[key] = row

    def _on_row_gone(self, change: Change) -> None:
        match change:
            case TaskForgotten(batch, index, history):
                row = (_TASK_FORGOTTEN, batch, index, int(history), None, None, None, b"")
                self._last((_TASK_FORGOTTEN if history else TASK, batch, index), row)
            case HoldEnded(session, digest):
                self.removes = True
                code = rowcodec.hold_code(session, digest)
                self._last((HOLD, code), (_HOLD_ENDED, code, None, None, None, None, None, b""))
                self._named.pop((HOLD, code), None)
            case DefinitionEnded(kind, name):
                code = rowcodec.definition_code(kind, name)
                self._last((DEFINITION, code), (_DEFINITION_ENDED, code, None, None, None, None, None, b""))

    def _on_removal(self, change: Change) -> None:
        match change:
            case BatchWithdrawn(batch):
                self._remove(_BATCH_WITHDRAWN, batch)
            case ArgumentsForgotten(batch):
                self._remove(_ARGUMENTS_FORGOTTEN, batch)
            case Expired(before, spared):
                self._no_longer(_OLD, before, spared)
                self._made.append((_UNUSED_SPECS, ()))
                if self._valued or self.values:
                    self._made.append((_NAMED_BY_UNUSED, ()))
            case OwnExpired(at, spared):
                self._no_longer(_OVERDUE, at, spared)
            case BatchesRead(batches):
                self._no_longer(_READ_WHOLE, json.dumps(batches))
            case Read(batch, lo, hi):
                self._remove(_READ, batch, lo, hi)
            case _:
                raise TypeError(f"{change!r} is not a change")

    def _remove(self, kind: int, batch: int, lo: int | None = None, hi: int | None = None) -> None:
        self.removes = True
        self._settle()
        self._rows.append((kind, batch, lo, hi, None, None, None, b""))

    def _no_longer(self, which: str, parameter: object, spared: tuple[int, ...] = ()) -> None:
        self.removes = True
        self._settle()
        self._sink()
        what = [*_NAMED_NO_LONGER, _END_OF_GOING] if self._valued or self.values else [_END_OF_GOING]
        if self.linked:
            what.insert(0, _LINKED_NO_LONGER)
        if self.printed:
            what.insert(0, _PRINTED_NO_LONGER)
        chosen = (which + _SPARING, (parameter, json.dumps(spared))) if spared else (which, (parameter,))
        self._made += [chosen, *((sql, ()) for sql in (*_NO_LONGER, *what))]

    # -- writing --------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Turn the gathered changes into rows."""
        self._rows += self._others.values()
        self._others.clear()
        uses = self._uses()
        for kind, rows in (
            (BATCH, self._batch_rows()),
            (ARGUMENTS, self._argument_rows()),
            (RESULTS, self._result_rows()),
            (_LEASE_ENDED, [_ended_lease(token) for token, lease in self._leases.items() if lease is None]),
            (LEASE, [_lease(lease) for lease in self._leases.values() if lease is not None]),
            (_USE, uses),
        ):
            if len(rows) < _MANY:
                self._rows += rows
                continue
            self._sink()
            self._made += [_statement(kind, part) for part in _parts(rows)]
        self._leases.clear()

    def _sink(self) -> None:
        """Make a statement that inserts the rows into the sink."""
        self._made += [_statement(0, part) for part in _parts(self._rows)]
        self._rows = []

    def _uses(self) -> list[SinkRow]:
        """The records of uses by the gathered rows."""
        rows: list[SinkRow] = []
        for kind, kept in ((ARGUMENTS, self._arguments), (RESULTS, self._results)):
            for (batch, lo), page in kept.items():
                if page.data >= DESCRIBED:
                    named = named_by(page)
                    self.values += named
                    rows += _uses(kind, batch, lo, named)
        for (kind, number), named in self._named.items():
            self.values += named
            rows += _uses(kind, number, 0, named)
        self._named.clear()
        return rows

    def _batch_rows(self) -> list[SinkRow]:
        encode, code = rowcodec.encode_batch, rowcodec.key_code
        rows: list[SinkRow] = [
            (BATCH, batch, row.spec, code(row.key), row.finished_at, row.cut, row.expires_at, encode(row))
            for batch, row in self._batches.items()
        ]
        self._batches.clear()
        return rows

    def _argument_rows(self) -> list[SinkRow]:
        crc = rowcodec.arguments_crc
        rows: list[SinkRow] = [
            (ARGUMENTS, batch, lo, row.hi, None, None, crc(batch, lo, row.hi, row.data), row.data)
            for (batch, lo), row in self._arguments.items()
        ]
        self._arguments.clear()
        return rows

    def _result_rows(self) -> list[SinkRow]:
        rows: list[SinkRow] = []
        for (batch, lo), row in self._results.items():
            hi, ended_at, data, worker = row.hi, row.ended_at, row.data, rowcodec.encode_worker(row)
            crc = rowcodec.results_crc(batch, lo, hi, ended_at, worker, data)
            rows.append((RESULTS, batch, lo, hi, ended_at, worker, crc, data))
        self._results.clear()
        return rows


#: Functions, not methods of one sheet: those would tie each sheet into a cycle that keeps its blobs until a collection.
_GATHER: Final[dict[type, Callable[[WritePlan, Any], None]]] = {
    BatchRow: WritePlan._on_batch,
    LeaseRow: WritePlan._on_lease,
    ArgumentPage: WritePlan._on_arguments,
    ResultPage: WritePlan._on_results,
    OutputPage: WritePlan._on_output,
    TaskRow: WritePlan._on_task,
    AttemptRow: WritePlan._on_attempt,
    SpecRow: WritePlan._on_spec,
    HoldRow: WritePlan._on_hold,
    DefinitionRow: WritePlan._on_definition,
    EdgeRow: WritePlan._on_edge,
    Totals: WritePlan._on_totals,
}


#: Kinds of rows that may name values, and how to decode them.
_NAMING: Final[tuple[tuple[int, str, Callable[[tuple[Any, ...]], tuple[int, int, Sequence[Value]]]], ...]] = (
    (
        SPEC,
        "SELECT number, body FROM specs",
        lambda row: (row[0], 0, named_by(SpecRow(number=row[0], spec=rowcodec.decode_spec(*row)))),
    ),
    (
        ARGUMENTS,
        "SELECT batch, lo, hi, crc, data FROM arguments WHERE data >= x'80'",
        lambda row: (row[0], row[1], named_by(rowcodec.decode_arguments(row))),
    ),
    (
        RESULTS,
        "SELECT batch, lo, hi, ended_at, worker, crc, data FROM results WHERE data >= x'80'",
        lambda row: (row[0], row[1], named_by(rowcodec.decode_results(row))),
    ),
    (HOLD, "SELECT hold, body FROM holds", lambda row: (row[0], 0, named_by(rowcodec.decode_hold(*row)))),
)


def remade_uses(connection: sqlite3.Connection) -> list[Statement]:
    """The statements that rebuild the record of uses, from all rows that may name values; damaged ones name none.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    rows: list[SinkRow] = []
    for kind, sql, decode in _NAMING:
        for row in connection.execute(sql):
            with contextlib.suppress(DamagedRow):
                rows += _uses(kind, *decode(row))
    begin: list[Statement] = [
        ("BEGIN IMMEDIATE", ()),
        ("DELETE FROM uses", ()),
        (f"UPDATE counts SET rows = 0 WHERE name = {USES}", ()),
    ]
    return [*begin, *(_statement(_USE, part) for part in _parts(rows)), ("COMMIT", ())]


def _uses(kind: int, owner: int, lo: int, named: Iterable[Value]) -> list[SinkRow]:
    """The records of a row's uses."""
    return [(_USE, kind, owner, lo, *at, rowcodec.use_crc(kind, owner, lo, *at)) for at in places(named)]


def _lease(row: LeaseRow) -> SinkRow:
    return LEASE, row.token, row.batch, None, None, None, None, rowcodec.encode_lease(row)


def _ended_lease(token: int) -> SinkRow:
    return _LEASE_ENDED, token, None, None, None, None, None, b""


def _parts(rows: list[SinkRow]) -> Iterable[list[SinkRow]]:
    if len(rows) <= _MOST_ROWS and sum(map(len, map(_body, rows))) <= _MOST_BYTES:
        return [rows] if rows else []
    return _cut(rows)


def _cut(rows: list[SinkRow]) -> Iterator[list[SinkRow]]:
    part: list[SinkRow] = []
    size = 0
    for row in rows:
        if part and (len(part) == _MOST_ROWS or size + len(row[7]) > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row[7])
    yield part


def _statement(kind: int, rows: list[SinkRow]) -> Statement:
    size = _FEWEST_ROWS
    while size < len(rows):
        size *= 2
    sql, width, take = _prepared(kind, size)
    parameters: list[Any] = list(chain.from_iterable(map(take, rows)))
    parameters += [None] * (width * (size - len(rows)))
    return sql, parameters


@cache
def _prepared(kind: int, rows: int) -> tuple[str, int, Callable[[SinkRow], Iterable[Any]]]:
    """The statement for this many rows of a kind, or of any kind (0); the number of values of a row; their order.

    Rows that are NULL are left out.
    """
    upsert = _UPSERTS.get(kind)
    places = ("a",) if kind == _LEASE_ENDED else _NAMES if upsert is None else tuple(upsert.columns.values())
    one = f"({', '.join('?' * len(places))})"
    source = f"(VALUES {', '.join([one] * rows)}) WHERE column1 IS NOT NULL"
    if kind == _LEASE_ENDED:
        sql = f"DELETE FROM leases WHERE token IN (SELECT column1 FROM {source})"
    elif upsert is None:
        sql = f"INSERT INTO sink SELECT * FROM {source}"
    else:
        sql = upsert.sql(f"SELECT * FROM {source}")
    indexes = [_NAMES.index(place) for place in places]
    take: Callable[[SinkRow], Iterable[Any]] = itemgetter(*indexes) if len(indexes) > 1 else itemgetter(slice(1, 2))
    return sql, len(places), take
