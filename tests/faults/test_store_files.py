"""The files of a store are moved, removed, linked to, or changed by other programs; freed room goes back."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreError, StoreUnwritable
from dtq.model.snapshots import Selection
from tests.cluster import Cluster, until
from tests.faults.disks import small_disk
from tests.faults.test_full_disk import refused_for_good, seconds_until_accepted
from tests.integration.store_scene import changes, everything, opened
from tests.producer import Producer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def second(cluster: Cluster, store: Path) -> tuple[int, str]:
    """How another coordinator with that store ends, and what it prints."""
    process = cluster.run("second", ["coordinator", "start", "--port", "0", "--db", str(store)])
    return process.ended(), process.output()


def test_second_coordinator_is_refused_although_the_lock_file_was_removed(cluster: Cluster) -> None:
    cluster.coordinator()
    (cluster.directory / "queue.db.lock").unlink()

    code, output = second(cluster, cluster.directory / "queue.db")

    assert code == 73
    assert "in use by another coordinator" in output


@pytest.mark.parametrize("running", [True, False])
def test_second_name_of_a_store_is_refused(cluster: Cluster, running: bool) -> None:
    """Its write-ahead log belongs to the first name: what is in that would be missing under the other one."""
    coordinator = cluster.coordinator()
    if not running:
        coordinator.kill()
    other = cluster.directory / "other.db"
    other.hardlink_to(cluster.directory / "queue.db")

    code, output = second(cluster, other)

    assert code == 74
    assert "has another name (a hard link)" in output


def test_store_that_was_moved_away_cannot_be_taken_by_another_coordinator(cluster: Cluster) -> None:
    cluster.coordinator()
    moved = (cluster.directory / "queue.db").rename(cluster.directory / "moved.db")

    code, output = second(cluster, moved)

    assert code == 73
    assert "in use by another coordinator" in output


def move(store: Path) -> Callable[[], object]:
    elsewhere = store.rename(store.with_suffix(".moved"))
    return lambda: elsewhere.rename(store)


def replace(store: Path) -> Callable[[], object]:
    put_back = move(store)
    store.write_bytes(b"")
    return put_back


def move_directory(store: Path) -> Callable[[], object]:
    elsewhere = store.parent.rename(store.parent.with_suffix(".moved"))
    return lambda: elsewhere.rename(store.parent)


def link(store: Path) -> Callable[[], object]:
    other = store.with_suffix(".linked")
    other.hardlink_to(store)
    return other.unlink


def link_log(store: Path) -> Callable[[], object]:
    return link(store.with_name(f"{store.name}-wal"))


@pytest.mark.parametrize("away", [move, replace, move_directory, link, link_log])
def test_coordinator_acknowledges_nothing_while_its_store_is_away(
    tmp_path: Path, away: Callable[[Path], Callable[[], object]]
) -> None:
    # Given work that was acknowledged
    store = tmp_path / "state" / "queue.db"
    store.parent.mkdir()
    with Cluster(tmp_path, store=store) as cluster:
        coordinator = cluster.coordinator()
        producer = Producer(cluster.service())
        batch = producer.submit("add", [(1, 2)] * 3)

        # When the store is moved, Then nothing is acknowledged, and the reason is told
        put_back = away(store)
        for _ in range(3):
            with pytest.raises(
                StoreUnwritable, match=r"(removed, moved or replaced|given another name .*) while it was in use"
            ):
                producer.submit("add", [(3, 4)])

        # and when it is back, the same coordinator goes on, and so does the next one.
        put_back()
        seconds_until_accepted(producer)
        later = producer.submit("add", [(5, 6)])
        coordinator.kill()
        cluster.coordinator()
        cluster.worker()
        assert producer.values(batch) == [3] * 3
        assert producer.values(later) == [11]


@pytest.mark.parametrize("end", ["", "-wal"])
def test_coordinator_acknowledges_nothing_when_a_file_of_its_store_was_removed(cluster: Cluster, end: str) -> None:
    coordinator = cluster.coordinator()
    producer = Producer(cluster.service())
    batch = producer.submit("add", [(1, 2)] * 3)

    (cluster.directory / f"queue.db{end}").unlink()

    for _ in range(3):
        with pytest.raises(StoreUnwritable, match=f"queue.db{end} was removed, moved or replaced"):
            producer.submit("add", [(3, 4)])
    if end:  # an orderly end moves the log into the file
        coordinator.signal(signal.SIGTERM)
        coordinator.ended()
        cluster.coordinator()
        cluster.worker()
        assert producer.values(batch) == [3] * 3


@pytest.mark.parametrize("end", [".lock", ".mark", ".reserve", "-wal", "-shm"])
@pytest.mark.parametrize("kind", ["symbolic", "hard", "pipe"])
def test_no_file_beside_a_store_is_written_through_a_link(tmp_path: Path, end: str, kind: str) -> None:
    # Given somebody's file, and a link to it under the name of one of ours
    theirs, store = tmp_path / "theirs", tmp_path / "queue.db"
    theirs.write_bytes(b"precious")
    name = tmp_path / f"queue.db{end}"
    match kind:
        case "symbolic":
            name.symlink_to(theirs)
        case "hard":
            name.hardlink_to(theirs)
        case _:
            os.mkfifo(name)

    # Then the store is not opened, and their file is as it was
    with pytest.raises(StoreError, match=f"queue.db{end}"):
        SqliteEngine(store).open()
    assert theirs.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "statements",
    [
        ["VACUUM"],
        ["PRAGMA auto_vacuum = FULL", "VACUUM"],
        ["PRAGMA auto_vacuum = NONE", "VACUUM"],
        ["PRAGMA journal_mode = DELETE"],
        ["ANALYZE"],
        ["REINDEX"],
        ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA optimize"],
    ],
)
def test_store_that_was_looked_after_by_hand_is_not_damaged(tmp_path: Path, statements: list[str]) -> None:
    # Given a store with many rows, and what people do to a database by hand
    engine, _ = opened(tmp_path / "dtq.db")
    for number in range(1, 60):
        engine.commit(changes(number))
    before = everything(engine, 59)
    engine.close()
    with closing(sqlite3.connect(tmp_path / "dtq.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()

    # Then it opens without a complaint, holds what it held, and goes on
    engine, said = opened(tmp_path / "dtq.db")
    assert said.losses == ()
    assert everything(engine, 59) == before
    engine.commit(changes(60))
    engine.close()


def test_copy_made_by_vacuum_into_is_a_store(tmp_path: Path) -> None:
    engine, _ = opened(tmp_path / "dtq.db")
    for number in range(1, 60):
        engine.commit(changes(number))
    before = everything(engine, 59)
    with closing(sqlite3.connect(tmp_path / "dtq.db", isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    engine.close()

    copy, said = opened(tmp_path / "copy.db")
    assert [loss for loss in said.losses if "is missing or unreadable" not in loss] == []  # its mark is not there
    assert everything(copy, 59) == before
    copy.commit(changes(60))
    copy.close()


def test_purged_dead_letters_give_their_room_back_at_once(cluster: Cluster) -> None:
    """Also where results are kept for a day: nothing of a purged task is needed any more."""
    # Given dead letters with 60 MB of arguments
    cluster.coordinator()
    cluster.worker()
    producer = Producer(cluster.service())
    batch = producer.submit("square", [("x" * 1_000_000,)] * 10, max_retries=0)
    batches = [batch] + [producer.submit("square", [("x" * 1_000_000,)] * 10, max_retries=0) for _ in range(5)]
    kept = producer.submit("fail", [("kept",)], max_retries=0)
    for number in [*batches, kept]:
        producer.finish(number)
    store = cluster.directory / "queue.db"
    size = store.stat().st_size
    assert size + (cluster.directory / "queue.db-wal").stat().st_size > 60_000_000

    # When they are purged
    assert producer.service.purge_dead(Selection(ids=tuple((number, -1) for number in batches), limit=0)) == 60

    # Then the file becomes small without more ado, and what was not purged is there
    until(lambda: store.stat().st_size < 40_000_000, "the file to shrink", lambda: store.stat().st_size)
    assert producer.service.retry_dead(Selection(ids=((kept, -1),), limit=0)) == 1


def test_purging_is_a_way_out_of_a_full_disk(tmp_path: Path) -> None:
    # Given a full disk, and dead letters on it
    with (
        small_disk(tmp_path / "disk", 24) as disk,
        Cluster(tmp_path, store=disk.place / "queue.db", within=disk.within) as cluster,
    ):
        cluster.coordinator()
        cluster.worker()
        producer = Producer(cluster.service())
        dead = producer.submit("square", [("x" * 10_000,)] * 600, max_retries=0)
        producer.finish(dead)
        refused_for_good(producer, disk)

        # When they are purged, Then there is room for new work
        assert producer.service.purge_dead(Selection(ids=((dead, -1),), limit=0)) == 600
        seconds_until_accepted(producer)
