"""The check of a store before its use: missing and damaged parts.

It only reads. The rows with which the core goes on are always checked, one by one and by their number. The store's size
decides how much of the rest is checked, so that a start takes seconds: in a small store every index, row and page of
blobs; in all but the largest, the structure of the trees. A store with signs of damage is checked as a whole, whatever
its size. Parts that the start skips are checked when they are read; but in a large store a damaged key may hide a page,
an attempt or a finished batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from dtq.engines import rowcodec
from dtq.engines.head import Head, unpack
from dtq.engines.rowcodec import BATCH, DamagedRow, sound
from dtq.engines.schema import DEFINITIONS, HOLDS, LEASES, LIVE, LIVE_BATCHES, LIVE_BEFORE_3, TASKS, USES
from dtq.engines.uses import USE_COLUMNS, sound_use
from dtq.errors import StoreDamaged
from dtq.records import dataclass, replace
from dtq.wording import counted

#: Largest store whose every row is checked, in bytes; takes up to two seconds.
WHOLE_CHECK_BYTES: Final = 32 * 2**20
#: Largest store whose trees are checked, in bytes; takes up to a second, and the time to read it from the disk.
TREE_CHECK_BYTES: Final = 512 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The findings.

    Attributes:
        head: the store's head; if the mark is ahead of it, with the mark's highest numbers.
        losses: missing or damaged parts, a sentence each.
        missing_batches: whether unfinished batches are gone without a trace, so that leases may point to nothing.
        version: the store's schema.
        uses_damaged: whether the record of uses must be rebuilt from the rows that name values.
    """

    head: Head
    losses: tuple[str, ...]
    missing_batches: bool
    version: int
    uses_damaged: bool = False


def look_over(
    path: str,
    connection: sqlite3.Connection,
    mark: Head | None,
    *,
    damaged_log: bool,
    size: int,
    version: int,
    segments: dict[int, int],
) -> Survey:
    """Check a store.

    Args:
        path: the store, for messages.
        connection: a connection to it that only reads.
        mark: the mark's head, if any.
        damaged_log: whether the start of its write-ahead log is damaged.
        size: bytes of its file and its log.
        version: its schema.
        segments: the sizes of its files of values, by number.

    Raises:
        StoreDamaged: it is not readable as a whole.
        sqlite3.Error: the same, or an error of the disk.
    """
    row = connection.execute("SELECT body FROM head").fetchone()
    head = unpack(row[0]) if row else None
    if head is None:
        raise StoreDamaged(path, "its head, which says what it holds, is damaged")
    losses = _missing_commits(path, head, mark, damaged_log)
    whole = size <= WHOLE_CHECK_BYTES or bool(losses)
    if whole:
        _check_trees(path, connection, "integrity_check")
    elif size <= TREE_CHECK_BYTES:
        _check_trees(path, connection, "quick_check")
    rows, missing = _live_losses(path, connection, LIVE if version >= 3 else LIVE_BEFORE_3)
    losses += rows
    uses_damaged = False
    if version >= 3:
        found, uses_damaged = _value_losses(path, connection, segments)
        losses += found
    if version >= 4:
        losses += _definition_losses(connection)
    if whole:
        losses += _other_losses(connection, version)
    if mark is not None and mark.store == head.store and mark.sequence > head.sequence:
        head = _caught_up(head, mark)
    return Survey(head=head, losses=tuple(losses), missing_batches=missing, version=version, uses_damaged=uses_damaged)


def _caught_up(head: Head, mark: Head) -> Head:
    """The head, with the mark's numbers: a number given out in a missing commit is never given out again."""
    ours, theirs = head.totals, mark.totals
    totals = replace(
        ours,
        last_batch=max(ours.last_batch, theirs.last_batch),
        last_spec=max(ours.last_spec, theirs.last_spec),
        clock=max(ours.clock, theirs.clock),
    )
    return replace(mark, totals=totals)


def _missing_commits(path: str, head: Head, mark: Head | None, damaged_log: bool) -> list[str]:
    losses = []
    if mark is None:
        losses.append(
            f"{path}.mark is missing or unreadable: whether the last commits to {path} are all there cannot be told"
        )
    elif mark.store != head.store:
        losses.append(
            f"{path}.mark is the mark of another store: whether the last commits to {path} are all there cannot be told"
        )
    elif mark.sequence > head.sequence:
        commits, tasks = mark.sequence - head.sequence, mark.totals.submitted - head.totals.submitted
        losses.append(
            f"{commits} commits (up to {tasks} tasks accepted) that had been acknowledged are missing from {path}: the"
            " end of its write-ahead log is damaged, or an older copy was put in its place; restore a newer copy or"
            " resubmit"
        )
    if damaged_log:
        losses.append(
            f"the write-ahead log of {path} is damaged from its start and was not used: rows may be older than what"
            " had been acknowledged"
        )
    return losses


def _check_trees(path: str, connection: sqlite3.Connection, check: str) -> None:
    found = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if found != "ok":
        raise StoreDamaged(path, " ".join(str(found).split()))


def _live_losses(path: str, connection: sqlite3.Connection, live: str) -> tuple[list[str], bool]:
    """Faults of the rows with which the core goes on, and whether whole batches are gone."""
    expected = dict(connection.execute("SELECT name, rows FROM counts").fetchall())
    losses = []
    seen, damaged = _check_batches(path, connection, live)
    losses += _counted("unfinished batches", seen, damaged + _without_spec(connection, live))
    missing = expected.get(LIVE_BATCHES) != seen
    losses += _compared("unfinished batches", seen, expected.get(LIVE_BATCHES))
    for name, noun, sql, check in (
        (TASKS, "records of tasks", "SELECT batch, idx, body FROM tasks", _task),
        (LEASES, "leases", "SELECT token, batch, body FROM leases", _lease),
    ):
        seen, damaged = _count(connection, sql, check)
        losses += _counted(noun, seen, damaged) + _compared(noun, seen, expected.get(name))
    return losses, missing


def _value_losses(path: str, connection: sqlite3.Connection, segments: dict[int, int]) -> tuple[list[str], bool]:
    """Missing values, faults of holds, and whether the record of uses is damaged."""
    expected = dict(connection.execute("SELECT name, rows FROM counts").fetchall())
    seen = damaged = 0
    gone: set[tuple[int, int, int]] = set()
    short: set[tuple[int, int, int]] = set()
    for *key, segment, start, length, crc in connection.execute(f"SELECT {USE_COLUMNS} FROM uses"):
        seen += 1
        if not sound_use(*key, segment, start, length, crc):
            damaged += 1
        elif segment not in segments:
            gone.add((segment, start, length))
        elif start + length > segments[segment]:
            short.add((segment, start, length))
    losses = []
    for what, lost in (("missing from", gone), ("cut short in", short)):
        if lost:
            size = sum(length for _, _, length in lost)
            verb = "is" if len(lost) == 1 else "are"
            losses.append(f"{counted(len(lost), 'value')} ({size:,} bytes) {verb} {what} {path}.values")
    compared = _compared("records of values in use", seen, expected.get(USES))
    losses += _counted("records of values in use", seen, damaged) + compared
    holds, damaged_holds = _count(connection, "SELECT hold, body FROM holds", _hold)
    losses += _counted("values that clients have put", holds, damaged_holds)
    losses += _compared("values that clients have put", holds, expected.get(HOLDS))
    return losses, bool(damaged or compared)


def _definition_losses(connection: sqlite3.Connection) -> list[str]:
    """Faults of definitions."""
    (expected,) = connection.execute("SELECT rows FROM counts WHERE name = ?", (DEFINITIONS,)).fetchone() or (None,)
    noun = "definitions of queues, limits and schedules"
    seen, damaged = _count(connection, "SELECT code, body FROM definitions", _definition)
    return _counted(noun, seen, damaged) + _compared(noun, seen, expected)


def _definition(row: tuple[Any, ...]) -> bool:
    return rowcodec.sound(row[1], rowcodec.DEFINITION, row[0])


def _check_batches(path: str, connection: sqlite3.Connection, live: str) -> tuple[int, int]:
    # A restart checks a million of them.
    seen = damaged = previous = 0
    for batch, body in connection.execute(f"SELECT batch, body FROM batches WHERE {live}"):
        seen += 1
        if not sound(body, BATCH, batch):
            damaged += 1
        elif batch <= previous or not rowcodec.unfinished(body):
            raise StoreDamaged(path, "its index of unfinished batches is wrong")
        previous = batch
    return seen, damaged


def _without_spec(connection: sqlite3.Connection, live: str) -> int:
    """Number of unfinished batches without a readable spec."""
    count = 0
    for (number,) in connection.execute("SELECT DISTINCT spec FROM batches").fetchall():
        found = connection.execute("SELECT body FROM specs WHERE number = ?", (number,)).fetchone()
        if found is None or not sound(found[0], rowcodec.SPEC, number):
            sql = f"SELECT count(*) FROM batches WHERE spec = ? AND {live}"
            count += connection.execute(sql, (number,)).fetchone()[0]
    return count


def _counted(noun: str, seen: int, damaged: int) -> list[str]:
    return [f"{damaged} of {seen} {noun} are damaged and left out"] if damaged else []


def _compared(noun: str, seen: int, expected: int | None) -> list[str]:
    if expected == seen:
        return []
    if expected is not None and expected > seen:
        return [f"{expected - seen} of {expected} {noun} are missing"]
    return [f"there are {seen} {noun}, but {expected} were counted: the count or the rows are damaged"]


def _count(connection: sqlite3.Connection, sql: str, check: Callable[[tuple[Any, ...]], bool]) -> tuple[int, int]:
    """Number of rows, and of damaged ones."""
    seen = damaged = 0
    for row in connection.execute(sql):
        seen += 1
        try:
            damaged += not check(row)
        except DamagedRow:
            damaged += 1
    return seen, damaged


def _task(row: tuple[Any, ...]) -> bool:
    batch, index, body = row
    return rowcodec.sound(body, rowcodec.TASK, batch, index)


def _hold(row: tuple[Any, ...]) -> bool:
    return rowcodec.sound(row[1], rowcodec.HOLD, row[0])


def _lease(row: tuple[Any, ...]) -> bool:
    token, batch, body = row
    return bool(rowcodec.decode_lease(token, body).batch == batch)


# -- the rest, if the store is checked as a whole -----------------------------------------------------------------


def _batch_columns(row: tuple[Any, ...]) -> bool:
    number, *columns, body = row
    if columns[2] is None and not sound(body, BATCH, number):
        return True  # an unfinished batch, counted already
    stored = rowcodec.decode_batch(number, body, {})
    return columns == [stored.spec, rowcodec.key_code(stored.key), stored.finished_at, stored.cut, stored.expires_at]


def _task_columns(row: tuple[Any, ...]) -> bool:
    batch, index, state, ended_at, body = row
    if not _task((batch, index, body)):
        return True  # counted already
    stored = rowcodec.decode_task(batch, index, body)
    return (state, ended_at) == (rowcodec.STATE_CODE[stored.state], rowcodec.final_at(stored))


def _attempt(row: tuple[Any, ...]) -> bool:
    batch, index, number, body = row
    return bool(rowcodec.decode_attempt(batch, index, body).number == number)


_REST: Final[tuple[tuple[str, str, Callable[[tuple[Any, ...]], bool]], ...]] = (
    ("functions", "SELECT number, body FROM specs", lambda row: bool(rowcodec.decode_spec(*row))),
    ("batches", "SELECT batch, spec, code, finished_at, cut, expires_at, body FROM batches", _batch_columns),
    ("keys of records of tasks", "SELECT batch, idx, state, ended_at, body FROM tasks", _task_columns),
    ("records of attempts", "SELECT batch, idx, number, body FROM attempts", _attempt),
    (
        "pages of arguments",
        "SELECT batch, lo, hi, crc, data FROM arguments",
        lambda row: bool(rowcodec.decode_arguments(row)),
    ),
    (
        "pages of results",
        "SELECT batch, lo, hi, ended_at, worker, crc, data FROM results",
        lambda row: bool(rowcodec.decode_results(row)),
    ),
)


#: Likewise, from version 5 on.
_REST_5: Final[tuple[tuple[str, str, Callable[[tuple[Any, ...]], bool]], ...]] = (
    (
        "pages of output",
        "SELECT batch, lo, hi, attempt, crc, data FROM output",
        lambda row: bool(rowcodec.decode_output(row)),
    ),
)


def _other_losses(connection: sqlite3.Connection, version: int) -> list[str]:
    losses = []
    for noun, sql, check in (*_REST, *(_REST_5 if version >= 5 else ())):
        if version < 3:  # without this column, as no batch had a time of its own
            sql = sql.replace("expires_at, body FROM batches", "NULL, body FROM batches")
        seen, damaged = _count(connection, sql, check)
        if damaged:
            losses.append(f"{damaged} of {seen} {noun} are damaged")
    return losses
