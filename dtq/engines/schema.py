"""The tables of the SQLite engine: creation of a store, and recognition of its file.

Every table has the columns that queries need and a blob with the whole row (`rowcodec`). Batch numbers, leases and
specs are row ids; pages, tasks and attempts are in the order of their keys. Live batches are those whose
``finished_at`` is NULL, and come first in ``batches_by_end``; finished ones with a time of their own are in
``batches_by_expiry`` instead. ``counts`` has the numbers of rows that the core depends on, so that a row missing from a
damaged file is noticed.

A store of an earlier version gets these tables at its first start (`UPGRADES`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Final

from dtq.engines.head import Head
from dtq.engines.storefile import sync_directory
from dtq.errors import StoreDamaged, StoreTooNew

#: "dtqs" at offset 68 of the file: this database is a store of dtq.
APPLICATION_ID: Final = 0x64747173
#: Version of everything in this module and `rowcodec` that is on disk.
SCHEMA: Final = 5
#: Bytes. Larger pages would write less for pages of blobs, and more for single rows.
PAGE_SIZE: Final = 4096

# Rows of ``counts``.
LIVE_BATCHES: Final = 1
TASKS: Final = 2
LEASES: Final = 3
USES: Final = 4
HOLDS: Final = 5
DEFINITIONS: Final = 6

_BATCHES: Final = (
    "CREATE TABLE batches (batch INTEGER PRIMARY KEY, spec INTEGER, code INTEGER, finished_at REAL, cut INTEGER,"
    " trimmed INTEGER DEFAULT 0, body BLOB{})"
)
_BY_END: Final = "CREATE INDEX batches_by_end ON batches (trimmed, finished_at)"
#: Tables that every version has.
_ALWAYS: Final = (
    "CREATE TABLE head (id INTEGER PRIMARY KEY, body BLOB)",
    "CREATE TABLE counts (name INTEGER PRIMARY KEY, rows INTEGER)",
    "CREATE TABLE specs (number INTEGER PRIMARY KEY, body BLOB)",
    "CREATE INDEX batches_by_code ON batches (code)",
    "CREATE INDEX batches_by_spec ON batches (spec)",
    "CREATE INDEX batches_cut ON batches (finished_at) WHERE cut IS NOT NULL",
    "CREATE TABLE tasks (batch INTEGER, idx INTEGER, state INTEGER, ended_at REAL, body BLOB,"
    " PRIMARY KEY (batch, idx)) WITHOUT ROWID",
    "CREATE INDEX tasks_by_end ON tasks (ended_at)",
    "CREATE TABLE attempts (batch INTEGER, idx INTEGER, number INTEGER, body BLOB,"
    " PRIMARY KEY (batch, idx, number)) WITHOUT ROWID",
    "CREATE TABLE leases (token INTEGER PRIMARY KEY, batch INTEGER, body BLOB)",
    "CREATE TABLE arguments (batch INTEGER, lo INTEGER, hi INTEGER, crc INTEGER, data BLOB,"
    " PRIMARY KEY (batch, lo)) WITHOUT ROWID",
    "CREATE TABLE results (batch INTEGER, lo INTEGER, hi INTEGER, ended_at REAL, worker BLOB, crc INTEGER, data BLOB,"
    " PRIMARY KEY (batch, lo)) WITHOUT ROWID",
    "CREATE INDEX results_by_end ON results (ended_at)",
)
#: Tables of version 3, with the column ``expires_at`` of batches: also the uses of values (kind of the naming row, as
#: in `rowcodec`, its key, and the value), and clients' holds.
_TABLES_3: Final = (
    "CREATE TABLE uses (kind INTEGER, owner INTEGER, lo INTEGER, segment INTEGER, start INTEGER, length INTEGER,"
    " crc BLOB, PRIMARY KEY (kind, owner, lo, segment, start, length)) WITHOUT ROWID",
    "CREATE INDEX uses_by_segment ON uses (segment, start, length)",
    "CREATE TABLE holds (hold INTEGER PRIMARY KEY, body BLOB)",
)
_INDEXES_3: Final = (
    f"{_BY_END} WHERE expires_at IS NULL",
    "CREATE INDEX batches_by_expiry ON batches (trimmed, expires_at) WHERE expires_at IS NOT NULL",
)
#: Tables of version 4: operators' definitions, and the parents of batches.
_TABLES_4: Final = (
    "CREATE TABLE definitions (code INTEGER PRIMARY KEY, body BLOB)",
    "CREATE TABLE edges (child INTEGER, parent INTEGER, PRIMARY KEY (child, parent)) WITHOUT ROWID",
    "CREATE INDEX edges_by_parent ON edges (parent)",
)
#: Tables of version 5: the output of tasks.
_TABLES_5: Final = (
    "CREATE TABLE output (batch INTEGER, lo INTEGER, attempt INTEGER, hi INTEGER, crc INTEGER, data BLOB,"
    " PRIMARY KEY (batch, lo, attempt)) WITHOUT ROWID",
)
#: The tables of versions before the present one.
_TABLES_1: Final = (_BATCHES.format(""), _BY_END, *_ALWAYS)
_UP_TO_3: Final = (_BATCHES.format(", expires_at REAL"), *_ALWAYS, *_INDEXES_3, *_TABLES_3)
_UP_TO_4: Final = (*_UP_TO_3, *_TABLES_4)
_TABLES_BEFORE: Final = {1: _TABLES_1, 2: _TABLES_1, 3: _UP_TO_3, 4: _UP_TO_4}
TABLES: Final = (*_UP_TO_4, *_TABLES_5)
#: Rows that the present version counts.
_COUNTED: Final = (LIVE_BATCHES, TASKS, LEASES, USES, HOLDS, DEFINITIONS)
#: Statements that upgrade the tables from the version before. `ALTER TABLE` leaves the text that `TABLES` has.
UPGRADES: Final[dict[int, tuple[str, ...]]] = {
    2: (),
    3: (
        "ALTER TABLE batches ADD COLUMN expires_at REAL",
        "DROP INDEX batches_by_end",
        *_INDEXES_3,
        *_TABLES_3,
        f"INSERT INTO counts VALUES ({USES}, 0), ({HOLDS}, 0)",
    ),
    4: (*_TABLES_4, f"INSERT INTO counts VALUES ({DEFINITIONS}, 0)"),
    # The column ``worker`` of results says since then how long the tasks took, too (`rowcodec.encode_worker`).
    5: _TABLES_5,
}

#: Condition of batches that are unfinished, and not trimmed to their dead letters; in stores of earlier versions.
LIVE: Final = "trimmed = 0 AND finished_at IS NULL AND expires_at IS NULL"
LIVE_BEFORE_3: Final = "trimmed = 0 AND finished_at IS NULL"
#: Without tables that SQLite makes of its own accord (ANALYZE), and in no order: VACUUM changes it.
_LIST_SCHEMA: Final = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"


def create(path: str, head: Head) -> None:
    """Make an empty store, whole or not at all.

    Args:
        path: the file, which does not exist, in a directory that does.
        head: its first head, of sequence number 0.

    Raises:
        sqlite3.Error: it could not be written.
        OSError: the same.
    """
    draft = path + ".new"
    for left in (draft, draft + "-wal", draft + "-shm", draft + "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _fill(draft, head)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(draft, path)
    sync_directory(path)


def _fill(draft: str, head: Head) -> None:
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("BEGIN")
        for statement in TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO head VALUES (1, ?)", (head.pack(),))
        connection.executemany("INSERT INTO counts VALUES (?, 0)", [(name,) for name in _COUNTED])
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
        # Closing does this too, and does not report a failure.
        ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise sqlite3.OperationalError("the new store is in use")
    finally:
        connection.close()
    check_header(draft)


def lenient(raw: bytes) -> str:
    """Decodes text of a database, even of damaged bytes; checksums tell. For ``Connection.text_factory``."""
    return raw.decode("utf-8", "replace")


def check_header(path: str) -> None:
    """Check a file's first 100 bytes, before SQLite reads it.

    Raises:
        StoreDamaged: the file is no database, another program's, or one that dtq never makes.
        StoreTooNew: a newer dtq wrote it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        raw = file.read(100)
    if len(raw) < 100 or not raw.startswith(b"SQLite format 3\0"):
        raise StoreDamaged(path, "it is not a database")
    if int.from_bytes(raw[68:72], "big") != APPLICATION_ID:
        raise StoreDamaged(path, "it is a database, but not one of dtq")
    check_version(path, int.from_bytes(raw[60:64], "big"))
    # Page size, room for nothing else, UTF-8: other values are flipped bits. The log's format (another in a copy that
    # VACUUM INTO made) and the kind of vacuum (none in stores of version 1) may be changed by hand.
    made = (PAGE_SIZE.to_bytes(2, "big"), b"\0\x40\x20\x20", (1).to_bytes(4, "big"))
    found = (raw[16:18], raw[20:24], raw[56:60])
    vacuum = int.from_bytes(raw[64:68], "big")
    if found != made or raw[18:20] not in (b"\1\1", b"\2\2") or vacuum > (raw[52:56] != bytes(4)):
        raise StoreDamaged(path, "its header is not one that dtq writes")


def check_roots(path: str, connection: sqlite3.Connection) -> None:
    """Compare the largest root page in the file's header with the tables. Only while the log is empty.

    Raises:
        StoreDamaged: they differ.
        sqlite3.Error: it cannot be read.
        OSError: the same.
    """
    with open(path, "rb") as file:
        largest = int.from_bytes(file.read(100)[52:56], "big")
    if largest and (largest,) != connection.execute("SELECT max(rootpage) FROM sqlite_schema").fetchone():
        raise StoreDamaged(path, "its header is not one that dtq writes")


def check_version(path: str, version: int) -> None:
    """Compare a store's schema version with ours.

    Raises:
        StoreTooNew: it is newer.
        StoreDamaged: no dtq has ever had such a version.
    """
    if version > SCHEMA:
        raise StoreTooNew(path, version, SCHEMA)
    if version < 1:
        raise StoreDamaged(path, f"it says that its schema is version {version}")


def upgrade_steps(version: int) -> list[str]:
    """The statements that upgrade a store to this version; none for a store of this version."""
    if version >= SCHEMA:
        return []
    steps = [step for later in range(version + 1, SCHEMA + 1) for step in UPGRADES[later]]
    return ["BEGIN IMMEDIATE", *steps, f"PRAGMA user_version = {SCHEMA}", "COMMIT"]


def check_tables(path: str, connection: sqlite3.Connection) -> int:
    """Compare the tables with those that its version of `create` makes.

    Returns:
        The version.

    Raises:
        StoreTooNew: a newer dtq wrote it.
        StoreDamaged: they differ.
        sqlite3.Error: it cannot be read.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    check_version(path, version)
    tables = _TABLES_BEFORE.get(version, TABLES)
    if sorted(sql for (sql,) in connection.execute(_LIST_SCHEMA)) != sorted(tables):
        raise StoreDamaged(path, "its tables are not those of dtq")
    return version
