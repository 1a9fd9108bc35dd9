"""The SQLite store under kills, full disks and second owners; damage is in `test_sqlite_damage`."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dtq.core.changes import LeaseEnded, Stored
from dtq.engines import faults
from dtq.engines.schema import SCHEMA
from dtq.engines.sqlite import Durability, SqliteEngine
from dtq.errors import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreTooNew, StoreUnwritable
from tests.contracts.engine_rows import batch, lease, spec, stored
from tests.integration.store_scene import changes, contents, crash, everything, last_batch, opened, run

FULL = "database or disk is full"


# -- kills --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_killed_process_loses_nothing_acknowledged(tmp_path: Path, durability: Durability) -> None:
    path = tmp_path / "dtq.db"
    draw = random.Random(durability)
    acknowledged = 0
    for round_ in range(3):
        child = run(path, "commit", durability)
        assert child.stdout is not None
        said: list[int] = []
        wanted = draw.randrange(5, 120)
        while len(said) < wanted:
            said.append(int(child.stdout.readline()))
        child.kill()
        said += [int(line) for line in child.stdout.read().split()]
        child.wait()
        child.stdout.close()
        acknowledged = said[-1]

        engine, opening = opened(path, durability)
        totals = opening.totals
        found = [each.row.batch for each in engine.batches(range(1, acknowledged + 10))]
        engine.close()

        assert opening.losses == ()
        assert opening.epoch == 2 * (round_ + 1)
        assert totals.last_batch in (acknowledged, acknowledged + 1)
        assert found == list(range(1, totals.last_batch + 1))


def test_killed_in_the_middle_of_a_large_commit_has_all_or_nothing_of_it(tmp_path: Path) -> None:
    seen = set()
    for statement in (0, 2, 9, 10**6):
        path = tmp_path / f"{statement}.db"
        child = run(path, "die", str(statement))
        output, _ = child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL

        engine, opening = opened(path)
        found = last_batch(engine, 400)
        said = everything(engine, 400)
        engine.close()
        reference, _ = opened(tmp_path / f"{statement}-reference.db")
        reference.commit(changes(1))
        if found > 1:
            reference.commit([change for number in range(2, 400) for change in changes(number)])

        assert opening.losses == ()
        assert said == everything(reference, 400)
        assert found == 399 if output else found in (1, 399)
        reference.close()
        seen.add(found)
    assert seen == {1, 399}


# -- failing writes -----------------------------------------------------------------------------------------------


class Faulty(SqliteEngine):
    """Fails the n-th statement of its commits, once."""

    left = -1
    error: Exception = sqlite3.OperationalError(FULL)

    def _execute(self, writer: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> None:
        self.left -= 1
        if self.left == -1:
            raise self.error
        super()._execute(writer, sql, parameters)


def error_with(code: int, sentence: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(sentence)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("large", [False, True])
def test_commit_that_fails_at_any_statement_applies_nothing_and_works_again(tmp_path: Path, large: bool) -> None:
    engine = Faulty(tmp_path / "dtq.db", durability="os")
    engine.open()
    engine.commit(changes(1))
    last = 300 if large else 2
    commit = [change for number in range(2, last + 1) for change in changes(number)]
    before = everything(engine, last)

    failures = 0
    for statement in range(100):
        engine.left = statement
        engine.error = error_with(sqlite3.SQLITE_FULL, FULL)
        try:
            engine.commit(commit)
            break
        except StoreFull:
            failures += 1
        assert everything(engine, last) == before
    engine.close()

    again, opening = opened(tmp_path / "dtq.db")
    assert failures == (8 if large else 1)  # output of tasks is left out from the second try on
    assert last_batch(again, last) == last
    assert opening.losses == ()
    again.close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_IOERR_WRITE, StoreUnwritable),
        (sqlite3.SQLITE_READONLY, StoreUnwritable),
        (sqlite3.SQLITE_CORRUPT, StoreDamaged),
    ],
)
def test_errors_of_sqlite_do_not_leave_the_engine(tmp_path: Path, code: int, expected: type[StoreError]) -> None:
    engine = Faulty(tmp_path / "dtq.db", durability="os")
    engine.open()
    engine.error = error_with(code, "what SQLite says")
    engine.left = 0

    with pytest.raises(StoreError, match="what SQLite says") as caught:
        engine.commit(changes(1))

    assert type(caught.value) is expected
    assert caught.value.args[0] == str(tmp_path / "dtq.db")
    engine.commit(changes(1))
    engine.close()


def test_io_error_without_room_is_a_full_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "no_room", lambda path: True)

    error = faults.store_error("x", error_with(sqlite3.SQLITE_IOERR_WRITE, "disk I/O error"))

    assert isinstance(error, StoreFull)


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_full_disk_refuses_commits_and_works_again_when_there_is_room(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "dtq.db"
    child = run(path, "fill", durability)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    said = json.loads(output)

    for full, sentence, nothing_applied in said["errors"]:
        assert full, sentence
        assert "accepted work is safe" in sentence
        assert nothing_applied
    assert len(said["errors"]) == 3
    engine, opening = opened(path)
    assert opening.losses == ()
    assert last_batch(engine, said["commits"]) == said["commits"]
    assert len(engine.batches(range(1, said["commits"] + 1))) == said["commits"]
    engine.close()


# -- one coordinator a store --------------------------------------------------------------------------------------


def test_second_engine_of_the_same_process_is_refused_at_once(tmp_path: Path) -> None:
    engine, _ = opened(tmp_path / "dtq.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "dtq.db")

    for name in ("dtq.db", "link.db"):
        start = time.monotonic()
        with pytest.raises(StoreLocked, match=f"pid {os.getpid()}"):
            SqliteEngine(tmp_path / name).open()
        assert time.monotonic() - start < 0.5
    engine.commit(changes(1))
    engine.close()

    again, _ = opened(tmp_path / "dtq.db")
    again.close()


def test_store_of_another_process_is_refused_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "dtq.db"
    child = run(path, "hold")
    assert child.stdout is not None
    assert child.stdout.readline() == b'"held"\n'

    with pytest.raises(StoreLocked, match=f"pid {child.pid}"):
        SqliteEngine(path).open()
    child.kill()
    child.wait()
    child.stdout.close()

    engine, opening = opened(path)
    assert (opening.epoch, opening.losses) == (2, ())
    engine.close()


def test_failed_open_lets_the_store_go(tmp_path: Path) -> None:
    path = tmp_path / "dtq.db"
    path.write_bytes(b"no database, but a note to myself" * 100)
    with pytest.raises(StoreDamaged):
        SqliteEngine(path).open()
    path.unlink()

    engine, opening = opened(path)
    assert opening.epoch == 1
    engine.close()


# -- what is no store of ours -------------------------------------------------------------------------------------


def other_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: path.write_bytes(b"no database, but a note to myself" * 100), "it is not a database"),
        (lambda path: path.write_bytes(b"short"), "it is not a database"),
        (other_program, "it is a database, but not one of dtq"),
    ],
    ids=["text", "short", "other program"],
)
def test_file_that_is_no_store_is_refused_untouched(
    tmp_path: Path, write: Callable[[Path], object], sentence: str
) -> None:
    path = tmp_path / "dtq.db"
    write(path)
    before = contents(path)

    with pytest.raises(StoreDamaged, match=sentence):
        SqliteEngine(path).open()

    assert contents(path) == before


@pytest.mark.parametrize("in_log", [False, True], ids=["in the file", "in the log"])
def test_store_of_a_newer_version_is_refused_untouched(tmp_path: Path, in_log: bool) -> None:
    path = tmp_path / "dtq.db"
    crash(path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 99")
        if not in_log:
            newer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        before = contents(path)

        with pytest.raises(StoreTooNew, match=f"schema 99, this dtq knows up to {SCHEMA}"):
            SqliteEngine(path).open()

        assert contents(path) == before


def test_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "dtq.db"
    path.touch()

    engine, opening = opened(path)

    assert (opening.epoch, opening.losses) == (1, ())
    engine.close()


@pytest.mark.parametrize("name", ["file/dtq.db", "directory"])
def test_place_that_cannot_hold_a_store_is_a_store_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()

    with pytest.raises(StoreError) as caught:
        SqliteEngine(tmp_path / name).open()

    assert caught.value.code == "store-error"


def test_files_are_made_for_their_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        engine, _ = opened(tmp_path / "new" / "deep" / "dtq.db")
        engine.commit(changes(1))
    finally:
        os.umask(old)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new" / "deep").iterdir()}
    engine.close()

    assert modes.pop("dtq.db.values") == 0o700
    assert set(modes) == {"dtq.db", "dtq.db-wal", "dtq.db-shm", "dtq.db.mark", "dtq.db.reserve", "dtq.db.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "new" / "deep").stat().st_mode) == 0o700


# -- readers and memory -------------------------------------------------------------------------------------------


class Halting(SqliteEngine):
    """Stops before the last statement of a commit of several, until it may go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, durability="os")
        self.halted = threading.Event()
        self.go_on = threading.Event()

    def _execute(self, writer: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> None:
        if sql == "COMMIT":
            self.halted.set()
            assert self.go_on.wait(30)
        super()._execute(writer, sql, parameters)


def test_reads_do_not_wait_for_a_commit_and_see_nothing_of_it(tmp_path: Path) -> None:
    engine = Halting(tmp_path / "dtq.db")
    engine.open()
    engine.commit(changes(1))
    before = everything(engine, 300)
    large = [change for number in range(2, 300) for change in changes(number)]
    committing = threading.Thread(target=engine.commit, args=(large,))
    committing.start()
    assert engine.halted.wait(30)

    during = everything(engine, 300)
    engine.go_on.set()
    committing.join(30)

    assert during == before
    assert last_batch(engine, 300) == 299
    engine.close()


def test_restore_streams(tmp_path: Path) -> None:
    engine, _ = opened(tmp_path / "dtq.db")
    count = 20_000
    engine.commit(stored(spec(), *(batch(number) for number in range(1, count + 1))))
    tracemalloc.start()
    try:
        rows = sum(1 for _ in engine.restore())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    engine.close()

    assert rows == count + 1
    assert peak < 500_000  # the rows together are more than ten times that


def test_large_blobs_do_not_stay_in_memory(tmp_path: Path) -> None:
    child = run(tmp_path / "dtq.db", "blobs")
    output, _ = child.communicate(timeout=60)

    assert child.returncode == 0
    assert json.loads(output) < 40  # MB; 80 MB of blobs went through


def test_lease_that_came_and_went_in_one_commit_writes_nothing(tmp_path: Path) -> None:
    engine, _ = opened(tmp_path / "dtq.db")
    engine.commit(stored(spec(), batch(1)))

    def written(*commit: Any) -> int:
        log = Path(f"{tmp_path / 'dtq.db'}-wal")
        before = log.stat().st_size
        engine.commit(list(commit))
        return log.stat().st_size - before

    assert written() == 0
    nothing = written(LeaseEnded(1))
    came_and_went = written(*(change for n in range(50) for change in (Stored(lease(n)), LeaseEnded(n))))
    came = written(*stored(*(lease(n) for n in range(50))))
    engine.close()

    assert came_and_went == nothing < came
