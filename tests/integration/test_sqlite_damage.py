"""Damage to the SQLite store's files: said at once and counted, or refused; never silent.

The stores are made by processes that commit numbered batches and are then killed, so that their last commits are still
in the write-ahead log. "Equal" below means that everything that can be asked about them is answered as before.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dtq.core.changes import ArgumentPage, BatchRow, LeaseRow, ResultPage, TaskRow, Totals
from dtq.engines import commit_marker as marks
from dtq.engines import integrity_check
from dtq.engines.commit_marker import CommitMarker
from dtq.engines.head import Head
from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreDamaged, StoreError
from tests.integration.store_scene import changes, contents, copy, crash, everything, flip, last_batch, opened

COMMITS = 60
FRAME = 24 + 4096


class Crashed(NamedTuple):
    """A store as its process left it, and what it says when nothing is wrong with it."""

    path: Path
    said: dict[str, Any]


@pytest.fixture(scope="module")
def in_log(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """All of it is in the log still."""
    directory = tmp_path_factory.mktemp("log")
    path = directory / "dtq.db"
    crash(path, COMMITS)
    engine, opening = opened(copy(path, directory / "sound"))
    assert opening.losses == ()
    said = everything(engine, COMMITS)
    engine.close()
    return Crashed(path, said)


@pytest.fixture(scope="module")
def in_file(in_log: Crashed, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """All of it is in the file, and the log is gone."""
    path = copy(in_log.path, tmp_path_factory.mktemp("file") / "store")
    moved = sqlite3.connect(path)
    moved.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    moved.close()
    return Crashed(path, in_log.said)


@pytest.fixture(scope="module")
def in_both(in_log: Crashed, in_file: Crashed, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """All of it is in the file, and in the log too: the process was killed after a checkpoint."""
    path = copy(in_file.path, tmp_path_factory.mktemp("both") / "store")
    shutil.copyfile(in_log.path.with_name("dtq.db-wal"), path.with_name("dtq.db-wal"))
    return Crashed(path, in_log.said)


def outcome(path: Path, said: dict[str, Any], *, large: bool = False) -> tuple[str, tuple[str, ...]]:
    """What becomes of a store: refused, reported, refused when read, equal; or silent, which must not be.

    In a large store a look-up may miss what is there (a damaged key), but what it finds has to be right.
    """
    before = contents(path)
    engine = SqliteEngine(path, durability="os")
    try:
        opening = engine.open()
    except StoreError as error:
        assert contents(path) == before, "refused, but touched"
        return "refused", (str(error),)
    try:
        now = everything(engine, COMMITS)
    except StoreDamaged as error:
        return ("reported", opening.losses) if opening.losses else ("refused when read", (str(error),))
    finally:
        engine.close()
    if opening.losses:
        return "reported", opening.losses
    if large and now["restore"] == said["restore"]:
        looked_up = [
            name for name in said if name.startswith(("batches", "by key", "arguments", "results", "attempts"))
        ]
        now = {name: said[name] if all(found in said[name] for found in now[name]) else None for name in looked_up}
        said = {name: said[name] for name in looked_up}
    return ("equal" if now == said else "silent"), ()


@pytest.fixture
def lost(in_log: Crashed, tmp_path: Path) -> Path:
    """A store whose log ends in the middle of its 41st commit."""
    path = copy(in_log.path, tmp_path / "store")
    log = path.with_name("dtq.db-wal")
    ends = commit_ends(log.read_bytes())
    with log.open("r+b") as file:
        file.truncate(ends[41] - 1)  # the first of them is the opening
    return path


def commit_ends(log: bytes) -> list[int]:
    """Where each commit in a log ends, in bytes; the opening of the store is the first."""
    starts = range(32, len(log) - FRAME + 1, FRAME)
    return [start + FRAME for start in starts if int.from_bytes(log[start + 4 : start + 8], "big")]


# -- the end of the log -------------------------------------------------------------------------------------------


def test_torn_log_is_counted_exactly(in_log: Crashed, tmp_path: Path) -> None:
    """Row 41: the log is cut short, by a byte, a page, nearly all of it: said at start, and how much is missing."""
    draw = random.Random(1)
    size = in_log.path.with_name("dtq.db-wal").stat().st_size
    for cut in [1, 2, 4096, FRAME, size - 40, *(draw.randrange(1, size - 32) for _ in range(5))]:
        path = copy(in_log.path, tmp_path / str(cut))
        with path.with_name("dtq.db-wal").open("r+b") as file:
            file.truncate(size - cut)

        engine, opening = opened(path)
        found = last_batch(engine, COMMITS)
        engine.close()

        (loss,) = opening.losses
        missing = re.match(r"(\d+) commits \(up to (\d+) tasks accepted\) that had been acknowledged are missing", loss)
        assert missing is not None, loss
        commits = int(missing[1])
        assert commits == COMMITS - found if found or commits == COMMITS else commits == COMMITS + 1
        assert int(missing[2]) == 2 * (COMMITS - found)


def test_log_that_lost_its_end_keeps_what_came_before(lost: Path, in_log: Crashed) -> None:
    engine, opening = opened(lost)
    reference, _ = opened(lost.with_name("reference.db"))
    for number in range(1, 41):
        reference.commit(changes(number))

    assert [loss.split(" that")[0] for loss in opening.losses] == ["20 commits (up to 40 tasks accepted)"]
    assert everything(engine, COMMITS) == everything(reference, COMMITS)
    engine.close()
    reference.close()


def test_numbers_of_missing_commits_are_not_given_out_again(lost: Path) -> None:
    engine, opening = opened(lost)
    engine.close()

    assert opening.totals.last_batch == COMMITS
    assert opening.totals.submitted == 80
    assert opening.epoch == 2


def test_loss_is_said_once_and_later_commits_count_from_there(lost: Path) -> None:
    engine, _ = opened(lost)
    engine.commit(changes(70))
    engine.close()

    engine, opening = opened(lost)

    assert opening.losses == ()
    assert last_batch(engine, 70) == 70
    engine.close()


def test_older_copy_in_its_place_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "dtq.db"
    engine, _ = opened(path)
    for number in range(1, 11):
        engine.commit(changes(number))
    engine.close()
    shutil.copyfile(path, tmp_path / "copy")
    engine, _ = opened(path)
    for number in range(11, 18):
        engine.commit(changes(number))
    engine.close()
    shutil.copyfile(tmp_path / "copy", path)

    engine, opening = opened(path)

    assert [loss.split(" that")[0] for loss in opening.losses] == ["8 commits (up to 14 tasks accepted)"]
    assert last_batch(engine, 20) == 10
    engine.close()


# -- flipped bits -------------------------------------------------------------------------------------------------


def test_flipped_bits_in_the_log_are_never_silent(in_log: Crashed, tmp_path: Path) -> None:
    seen = _flip_at_random(in_log, "-wal", tmp_path, count=24, seed=2)

    assert seen.get("reported", 0) + seen.get("refused", 0) == 24


def test_flipped_bits_in_a_log_that_is_in_the_file_too_are_never_silent(in_both: Crashed, tmp_path: Path) -> None:
    _flip_at_random(in_both, "-wal", tmp_path, count=16, seed=3)


def test_flipped_bits_in_the_file_are_never_silent(in_file: Crashed, tmp_path: Path) -> None:
    seen = _flip_at_random(in_file, "", tmp_path, count=30, seed=4)

    assert seen["reported"] > 4


@pytest.mark.parametrize("limit", ["WHOLE", "TREE"])
def test_flipped_bits_in_a_large_file_lose_no_work_silently_and_never_answer_wrong(
    in_file: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(integrity_check, "WHOLE_CHECK_BYTES", 0)
    monkeypatch.setattr(integrity_check, f"{limit}_CHECK_BYTES", 0)

    seen = _flip_at_random(in_file, "", tmp_path, count=30, seed=5, large=True)

    assert seen["refused when read"] > 2


def _flip_at_random(
    crashed: Crashed, suffix: str, tmp_path: Path, *, count: int, seed: int, large: bool = False
) -> dict[str, int]:
    draw = random.Random(seed)
    size = Path(f"{crashed.path}{suffix}").stat().st_size
    seen: dict[str, int] = {}
    for n in range(count):
        bit = draw.randrange(8 * size)
        path = copy(crashed.path, tmp_path / str(n))
        flip(Path(f"{path}{suffix}"), bit)
        what, sentences = outcome(path, crashed.said, large=large)
        assert what != "silent", f"bit {bit}"
        assert all(sentences), sentences
        seen[what] = seen.get(what, 0) + 1
        shutil.rmtree(path.parent)
    return seen


@pytest.mark.parametrize("byte", [*range(0, 100, 6), 100, 101, 103, 105, 108])
def test_flipped_bits_in_the_first_page_are_never_silent(in_file: Crashed, tmp_path: Path, byte: int) -> None:
    path = copy(in_file.path, tmp_path / "store")
    flip(path, 8 * byte + byte % 8)

    assert outcome(path, in_file.said)[0] != "silent"


@pytest.mark.parametrize("byte", [*range(16, 24), *range(52, 72, 4)])
def test_flipped_bits_in_the_header_are_refused_in_a_store_of_any_size(
    in_file: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte: int
) -> None:
    monkeypatch.setattr(integrity_check, "WHOLE_CHECK_BYTES", 0)
    monkeypatch.setattr(integrity_check, "TREE_CHECK_BYTES", 0)
    path = copy(in_file.path, tmp_path / "store")
    flip(path, 8 * byte + 1)

    assert outcome(path, in_file.said)[0] == "refused"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("table", ["batches", "results", "results_by_end", "arguments", "leases", "specs", "tasks"])
def test_row_cut_off_from_its_tree_is_noticed(
    in_file: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, whole: bool
) -> None:
    """SQLite itself reads on without the row: the number of rows in a page has no checksum."""
    if not whole:
        monkeypatch.setattr(integrity_check, "WHOLE_CHECK_BYTES", 0)
    path = copy(in_file.path, tmp_path / "store")
    connection = sqlite3.connect(path)
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0]
    connection.close()
    raw = bytearray(path.read_bytes())
    while raw[at := (page - 1) * 4096] in (2, 5):  # not a leaf: go on to its last child
        page = int.from_bytes(raw[at + 8 : at + 12], "big")
    rows = int.from_bytes(raw[at + 3 : at + 5], "big")
    raw[at + 3 : at + 5] = (rows - 1).to_bytes(2, "big")
    path.write_bytes(raw)

    assert outcome(path, in_file.said)[0] == "refused"


@pytest.mark.parametrize("byte", [0, 8, 17, 24, 32, 48, 2000])
@pytest.mark.parametrize("copied", [0.0, 0.5])
def test_log_damaged_at_its_start_is_never_silent(
    in_log: Crashed, in_both: Crashed, tmp_path: Path, byte: int, copied: float
) -> None:
    """The process was killed while a checkpoint had copied so much of the log into the file."""
    path = copy(in_log.path, tmp_path / "store")
    whole, part = in_both.path.read_bytes(), bytearray(path.read_bytes())
    pages = int(len(whole) // 4096 * copied)
    part[: pages * 4096] = whole[: pages * 4096]
    path.write_bytes(part)
    flip(path.with_name("dtq.db-wal"), 8 * byte + 1)

    what, sentences = outcome(path, in_log.said)

    assert what in ("reported", "refused"), (what, sentences)


@pytest.mark.parametrize("copied", [0.0, 0.5, 1.0])
def test_checkpoint_that_was_interrupted_loses_nothing(
    in_log: Crashed, in_both: Crashed, tmp_path: Path, copied: float
) -> None:
    path = copy(in_log.path, tmp_path / "store")
    whole, part = in_both.path.read_bytes(), bytearray(path.read_bytes())
    pages = int(len(whole) // 4096 * copied)
    part[: pages * 4096] = whole[: pages * 4096]
    path.write_bytes(part)

    assert outcome(path, in_log.said) == ("equal", ())


# -- the rows, in a store that is too large to be checked as a whole ----------------------------------------------


def _damage(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, statement
    connection.commit()
    connection.close()


SPOIL = "UPDATE {0} SET body = CAST(substr(body, 1, 9) || 'x' || substr(body, 11) AS BLOB) WHERE {1}"


@pytest.mark.parametrize(
    ("statement", "losses"),
    [
        (SPOIL.format("batches", "batch = 5"), ["1 of 41 unfinished batches are damaged and left out"]),
        ("DELETE FROM batches WHERE batch IN (5, 7)", ["2 of 41 unfinished batches are missing"]),
        ("UPDATE batches SET finished_at = 1 WHERE batch = 5", ["1 of 41 unfinished batches are missing"]),
        (SPOIL.format("tasks", "batch = 5"), ["1 of 59 records of tasks are damaged and left out"]),
        ("DELETE FROM tasks WHERE batch = 5", ["1 of 59 records of tasks are missing"]),
        ("UPDATE tasks SET batch = 100 WHERE batch = 5", ["1 of 59 records of tasks are damaged and left out"]),
        (SPOIL.format("leases", "token = 60"), ["1 of 1 leases are damaged and left out"]),
        ("DELETE FROM leases", ["1 of 1 leases are missing"]),
        (SPOIL.format("specs", "1"), ["41 of 41 unfinished batches are damaged and left out"]),
        ("DELETE FROM specs", ["41 of 41 unfinished batches are damaged and left out"]),
    ],
)
def test_damaged_and_missing_rows_that_the_core_needs_are_counted(
    in_file: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, losses: list[str]
) -> None:
    monkeypatch.setattr(integrity_check, "WHOLE_CHECK_BYTES", 0)
    path = copy(in_file.path, tmp_path / "store")
    _damage(path, statement)

    engine, opening = opened(path)
    rows = list(engine.restore())
    engine.close()

    assert list(opening.losses) == losses
    live = {row.batch for row in rows if isinstance(row, BatchRow)}  # and what is left hangs together:
    assert all(row.batch in live for row in rows if isinstance(row, TaskRow | LeaseRow))


def test_finished_batch_among_the_unfinished_is_refused(
    in_file: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity_check, "WHOLE_CHECK_BYTES", 0)
    path = copy(in_file.path, tmp_path / "store")
    _damage(path, "UPDATE batches SET finished_at = NULL WHERE batch = 6")

    with pytest.raises(StoreDamaged, match="its index of unfinished batches is wrong"):
        SqliteEngine(path).open()


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE results SET data = CAST(data || 'x' AS BLOB) WHERE batch = 5", "results"),
        ("UPDATE results SET data = NULL WHERE batch = 5", "results"),
        ("UPDATE results SET hi = 2 WHERE batch = 5", "results"),
        ("UPDATE results SET ended_at = 1 WHERE batch = 5", "results"),
        ("UPDATE results SET worker = CAST('other' AS BLOB) WHERE batch = 5", "results"),
        ("UPDATE arguments SET data = CAST(substr(data, 2) AS BLOB) WHERE batch = 5", "arguments"),
        ("UPDATE arguments SET crc = crc + 1 WHERE batch = 5", "arguments"),
        (SPOIL.format("batches", "batch = 6"), "batches"),
        (SPOIL.format("attempts", "batch = 5"), "attempts"),
    ],
)
def test_damaged_row_is_refused_when_read_and_only_that(
    in_file: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, read: str
) -> None:
    monkeypatch.setattr(integrity_check, "WHOLE_CHECK_BYTES", 0)
    path = copy(in_file.path, tmp_path / "store")
    _damage(path, statement)
    engine, opening = opened(path)

    reads: dict[str, Callable[[], Sequence[object]]] = {
        "results": lambda: engine.pages(ResultPage, 5, 0, 1),
        "arguments": lambda: engine.pages(ArgumentPage, 5, 0, 1),
        "batches": lambda: engine.batches([6]),
        "attempts": lambda: engine.attempts(5, 1),
    }
    for name, ask in reads.items():
        if name == read:
            with pytest.raises(StoreDamaged, match="checksum"):
                ask()
        else:
            assert ask()
    assert opening.losses == ()
    assert engine.pages(ResultPage, 8, 0, 1) == in_file.said["results 8"]
    # and a list leaves a damaged batch out, and goes on
    below_8 = [stored.row.batch for stored in engine.newest(8, 3)]
    assert below_8 == ([7, 5, 4] if read == "batches" else [7, 6, 5])
    engine.close()


@pytest.mark.parametrize(
    ("statement", "loss"),
    [
        ("UPDATE results SET data = NULL WHERE batch = 5", "1 of 59 pages of results are damaged"),
        ("UPDATE output SET attempt = 7 WHERE batch = 5 AND lo = 0", "1 of 177 pages of output are damaged"),
        ("UPDATE arguments SET crc = 1 WHERE batch < 5", "4 of 60 pages of arguments are damaged"),
        (SPOIL.format("attempts", "batch = 5"), "1 of 59 records of attempts are damaged"),
        (SPOIL.format("batches", "batch = 6"), "1 of 60 batches are damaged"),
        ("UPDATE batches SET code = 1 WHERE batch = 6", "1 of 60 batches are damaged"),
        ("UPDATE tasks SET state = 6 WHERE batch = 6", "1 of 59 keys of records of tasks are damaged"),
        ("UPDATE leases SET batch = 9", "1 of 1 leases are damaged and left out"),
    ],
)
def test_small_store_is_checked_as_a_whole(in_file: Crashed, tmp_path: Path, statement: str, loss: str) -> None:
    path = copy(in_file.path, tmp_path / "store")
    _damage(path, statement)

    engine, opening = opened(path)
    engine.close()

    assert opening.losses == (loss,)


# -- the files around it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "emptied", "garbage"])
def test_store_without_its_mark_says_that_losses_cannot_be_told(in_log: Crashed, tmp_path: Path, how: str) -> None:
    path = copy(in_log.path, tmp_path / "store")
    mark = path.with_name("dtq.db.mark")
    if how == "deleted":
        mark.unlink()
    else:
        mark.write_bytes(b"" if how == "emptied" else b"?" * 8192)

    engine, opening = opened(path)
    assert everything(engine, COMMITS) == in_log.said
    engine.close()
    again, later = opened(path)
    again.close()

    (loss,) = opening.losses
    assert "dtq.db.mark is missing or unreadable" in loss
    assert later.losses == ()


def test_mark_of_another_store_is_noticed(in_log: Crashed, tmp_path: Path) -> None:
    path = copy(in_log.path, tmp_path / "store")
    other, _ = opened(tmp_path / "other.db")
    other.close()
    shutil.copyfile(tmp_path / "other.db.mark", f"{path}.mark")

    engine, opening = opened(path)
    engine.close()

    assert ["is the mark of another store" in loss for loss in opening.losses] == [True]


def test_torn_write_of_the_mark_leaves_the_one_before(in_log: Crashed, tmp_path: Path) -> None:
    left = set()
    for place in (0, 4096):
        path = copy(in_log.path, tmp_path / str(place))
        mark = path.with_name("dtq.db.mark")
        flip(mark, 8 * (place + 50))
        head = marks.read(str(mark))
        assert head is not None
        left.add(head.sequence)
        assert outcome(path, in_log.said) == ("equal", ())

    assert left == {COMMITS, COMMITS + 1}  # the first commit was the opening


@pytest.mark.parametrize("emptied", [False, True])
def test_store_that_is_gone_while_its_mark_is_there_is_not_made_anew(
    in_file: Crashed, tmp_path: Path, emptied: bool
) -> None:
    path = copy(in_file.path, tmp_path / "store")
    path.unlink()
    if emptied:
        path.touch()

    for _ in range(2):
        with pytest.raises(StoreDamaged, match=r"with 61 commits is gone, though .*\.mark is there"):
            SqliteEngine(path).open()

    assert path.exists() == emptied
    path.with_name("dtq.db.mark").unlink()
    engine, opening = opened(path)
    engine.close()
    assert (opening.epoch, opening.losses) == (1, ())


def test_store_that_is_gone_while_its_log_is_there_is_not_made_anew(in_log: Crashed, tmp_path: Path) -> None:
    path = copy(in_log.path, tmp_path / "store")
    path.unlink()
    path.with_name("dtq.db.mark").unlink()

    with pytest.raises(StoreDamaged, match=r"gone, though .*-wal is there"):
        SqliteEngine(path).open()

    assert not path.exists()


def test_store_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "dtq.db"
    Path(f"{path}.new").write_bytes(b"half of a store")
    with closing(CommitMarker(f"{path}.mark", sync=False)) as mark:
        mark.start(Head(store=b"12345678", sequence=0, epoch=0, totals=Totals()))

    engine, opening = opened(path)
    engine.commit(changes(1))
    engine.close()

    assert (opening.epoch, opening.losses) == (1, ())
    assert not Path(f"{path}.new").exists()
