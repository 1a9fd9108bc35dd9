"""``dtq store check``: all of a store is looked at, what is damaged is told, and nothing is changed."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dtq.cli.app import run
from dtq.core.changes import Read, ResultPage
from dtq.engines.check import check
from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreError, StoreLocked, StoreTooNew
from dtq.model.values import Value
from dtq.values.local import LocalValues
from tests.contracts.engine_rows import batch, described, hold, spec, stored
from tests.faults.test_old_stores import FIXTURES, VERSIONS, copied
from tests.integration.store_scene import changes, copy

BYTES = 100_000


def fill(path: Path) -> tuple[SqliteEngine, list[Value]]:
    """An engine with batches 1 to 9; tasks 1.5 to 1.7 have arguments that are values, 1.5 has a result that is the
    first of them, and a client has put another."""
    engine = SqliteEngine(path, durability="os")
    engine.open()
    writer = LocalValues(engine.place)
    values = []
    for n in range(5):
        draft = writer.draft()
        draft.write(bytes([n + 1]) * BYTES)
        values.append(draft.finish())
    for number in range(1, 10):
        engine.commit(changes(number))
    engine.commit(stored(described(1, *values[:3], lo=5), described(1, values[0], lo=5, kind=ResultPage)))
    engine.commit(stored(hold("s", b"d", values[3]), described(2, values[4], lo=5)))
    engine.commit([Read(2, 5, 6)])
    writer.close()
    return engine, values


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that was closed."""
    engine, _ = fill(tmp_path / "dtq.db")
    engine.close()
    return tmp_path / "dtq.db"


def segment_of(store: Path) -> Path:
    (path,) = Path(f"{store}.values").iterdir()
    return path


def everything_in(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_sound_store_is_counted_and_not_changed(store: Path) -> None:
    before = everything_in(store.parent)

    found = check(store)

    assert found.damage == ()
    assert (found.batches, found.values, found.value_bytes) == (9, 4, 4 * BYTES)
    assert (found.segments, found.unused_segments) == (1, 0)
    assert BYTES <= found.unused_bytes < 2 * BYTES
    assert everything_in(store.parent) == before


def test_store_whose_coordinator_was_killed_is_looked_at_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "life").mkdir()
    if not (child := os.fork()):
        fill(tmp_path / "life" / "dtq.db")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    path = copy(tmp_path / "life" / "dtq.db", tmp_path / "copy")
    log = Path(f"{path}-wal").read_bytes()
    assert log

    found = check(path)

    assert (found.damage, found.batches, found.values) == ((), 9, 4)
    assert Path(f"{path}-wal").read_bytes() == log


def flip(store: Path) -> None:
    with segment_of(store).open("r+b") as file:
        file.seek(50)
        file.write(b"?")


def sql(*statements: str) -> Callable[[Path], None]:
    def act(store: Path) -> None:
        with closing(sqlite3.connect(store, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return act


@pytest.mark.parametrize(
    ("damage", "sentence", "named_by"),
    [
        (flip, "1 value of 4 is damaged", ["the arguments of task 1.5, the result of task 1.5"]),
        (lambda store: segment_of(store).unlink(), r"4 values \(400,000 bytes\) are missing", None),
        (
            lambda store: os.truncate(segment_of(store), 3 * BYTES + 1000),
            r"1 value \(100,000 bytes\) is cut short",
            ["what a client has put"],
        ),
        (sql("UPDATE arguments SET crc = crc + 1 WHERE batch = 5"), "1 of 10 pages of arguments are damaged", []),
        (sql("UPDATE uses SET length = 7 WHERE kind = 7"), "1 of 5 records of values in use are damaged", []),
        (
            sql("DELETE FROM uses WHERE kind = 7", "UPDATE counts SET rows = rows - 1 WHERE name = 4"),
            "the record of which values are in use is not what the rows name",
            [],
        ),
        (sql("UPDATE head SET body = x'00'"), "its head, which says what it holds, is damaged", []),
        (lambda store: store.write_bytes(b"no store" * 100), "it is not a database", []),
    ],
)
def test_damage_is_told(
    store: Path, damage: Callable[[Path], object], sentence: str, named_by: list[str] | None
) -> None:
    damage(store)

    found = check(store)

    assert len(found.damage) == 1
    assert re.search(sentence, found.damage[0])
    if named_by is not None:
        assert [each.named_by for each in found.damaged_values] == named_by
    else:
        assert len(found.damaged_values) == 4


def test_start_makes_a_damaged_record_of_uses_anew(store: Path) -> None:
    sql("UPDATE uses SET length = 7 WHERE kind = 7")(store)
    engine = SqliteEngine(store)
    assert any("records of values in use are damaged" in loss for loss in engine.open().losses)
    engine.close()

    assert check(store).damage == ()
    engine = SqliteEngine(store)
    assert engine.open().losses == ()
    engine.close()


def test_store_in_use_is_not_looked_at(tmp_path: Path) -> None:
    engine, _ = fill(tmp_path / "dtq.db")

    with pytest.raises(StoreLocked, match=f"pid {os.getpid()}"):
        check(tmp_path / "dtq.db")

    engine.commit(changes(10))
    engine.close()


def test_what_is_no_store_is_told(tmp_path: Path, store: Path) -> None:
    with pytest.raises(StoreError, match="it is not there"):
        check(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()
    sql("PRAGMA user_version = 99")(store)
    with pytest.raises(StoreTooNew):
        check(store)


@pytest.mark.parametrize("version", VERSIONS)
def test_store_of_an_earlier_version_is_looked_at_and_stays_one(tmp_path: Path, version: int) -> None:
    path = copied(version, tmp_path)
    written = json.loads((FIXTURES / f"store_v{version}.json").read_text())["totals"]["last_batch"]

    found = check(path)

    assert (found.damage, found.schema, found.batches) == ((), version, written)


def test_command_ends_with_what_it_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "check", str(store)]) == 0
    shown = capsys.readouterr().out
    assert f"store      {store}" in shown
    assert "batches    9," in shown
    assert "values     4 with 400,000 bytes, in 1 file\n" in shown
    assert shown.endswith("\nsound\n")

    flip(store)
    assert run(["store", "check", str(store), "--json"]) == 74
    said = json.loads(capsys.readouterr().out)
    assert (said["sound"], said["store"]["values"]) == (False, 4)
    assert said["store"]["damaged_values"][0]["why"] == "its checksum is wrong"
    assert run(["store", "check", str(store)]) == 74
    assert "damaged    1 value of 4 is damaged\n" in capsys.readouterr().out
    assert run(["store", "check", str(store.parent / "missing.db")]) == 74
    assert "it is not there" in capsys.readouterr().err


def test_only_task_of_a_batch_is_named_as_lists_do(tmp_path: Path) -> None:
    # Given a batch of one task, whose arguments are a value that is damaged
    engine = SqliteEngine(tmp_path / "dtq.db", durability="os")
    engine.open()
    draft = LocalValues(engine.place).draft()
    draft.write(b"a" * BYTES)
    engine.commit(stored(spec(), batch(7, size=1, complete=True), described(7, draft.finish())))
    engine.close()
    flip(tmp_path / "dtq.db")

    assert [value.named_by for value in check(tmp_path / "dtq.db").damaged_values] == ["the arguments of task 7"]
