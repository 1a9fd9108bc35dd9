"""The space that is set aside beside a store: when it is there, when it is given, when it is whole again."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dtq.core.changes import Totals
from dtq.engines import faults, reserve
from dtq.engines.reserve import Reserve
from dtq.errors import StoreFull, StoreUnwritable

MIB = 2**20


class Disk:
    """How much room there is, as far as allocating goes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._allocate = os.posix_fallocate
        self.error = errno.ENOSPC

    def allocate(self, file: int, place: int, size: int) -> None:
        if place + size > self.room:
            raise OSError(self.error, "there is none left")
        self._allocate(file, place, size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(10 * MIB)
    monkeypatch.setattr(os, "posix_fallocate", disk.allocate)
    monkeypatch.setattr(reserve, "_BASE", 2 * MIB)
    return disk


@pytest.fixture
def full(tmp_path: Path, disk: Disk) -> Reserve:
    made = Reserve(str(tmp_path / "dtq.db"))
    assert made.short
    assert made.fill()
    return made


def size(tmp_path: Path) -> int:
    return (tmp_path / "dtq.db.reserve").stat().st_size


def test_reserve_is_on_the_disk_and_survives(tmp_path: Path, full: Reserve) -> None:
    assert not full.short
    assert size(tmp_path) == 2 * MIB
    assert (tmp_path / "dtq.db.reserve").stat().st_blocks * 512 >= 2 * MIB
    assert not Reserve(str(tmp_path / "dtq.db")).short


def test_file_with_holes_is_no_reserve(tmp_path: Path, disk: Disk) -> None:
    with (tmp_path / "dtq.db.reserve").open("wb") as file:
        file.truncate(2 * MIB)
    assert Reserve(str(tmp_path / "dtq.db")).short


def test_reserve_gives_a_little_at_a_time_until_nothing_is_left(tmp_path: Path, full: Reserve) -> None:
    assert full.give()
    assert (full.short, full.missing, size(tmp_path)) == (True, MIB, MIB)
    assert full.give()
    assert size(tmp_path) == MIB // 4
    assert not full.give()


def test_last_of_it_is_for_openings(tmp_path: Path, full: Reserve) -> None:
    while full.give():
        pass
    opening = Reserve(str(tmp_path / "dtq.db"))
    assert [opening.give(all_of_it=True) for _ in range(5)] == [True, True, True, True, False]
    assert size(tmp_path) == 0


def test_reserve_is_whole_again_when_there_is_room_and_not_before(tmp_path: Path, disk: Disk, full: Reserve) -> None:
    full.give()
    disk.room = MIB
    assert not full.fill()
    assert (full.short, size(tmp_path)) == (True, MIB)
    assert not full.due
    disk.room = 2 * MIB
    assert full.fill()
    assert (full.short, size(tmp_path)) == (False, 2 * MIB)


def test_what_was_refused_has_to_find_room_beside_it(tmp_path: Path, disk: Disk, full: Reserve) -> None:
    full.refused(MIB)
    disk.room = 4 * MIB - 1
    assert (full.missing, full.fill()) == (2 * MIB, False)
    disk.room = 4 * MIB
    assert full.fill()
    assert (full.short, size(tmp_path)) == (False, 2 * MIB)


def test_room_inside_of_the_store_counts(disk: Disk, full: Reserve) -> None:
    full.refused(MIB)
    disk.room = 0
    assert not full.fill(elsewhere=2 * MIB - 1)
    assert full.fill(elsewhere=2 * MIB)
    assert not full.short


def test_reserve_grows_with_the_work_up_to_a_limit(tmp_path: Path, disk: Disk, full: Reserve) -> None:
    full.want(Totals(submitted=20_000))
    assert not full.short
    full.want(Totals(submitted=50_000, succeeded=10_000))
    assert full.missing == 4 * MIB
    assert full.fill()
    assert size(tmp_path) == 6 * MIB
    full.want(Totals(submitted=10**9))
    assert full.missing == (2 + 256 - 6) * MIB
    assert not full.fill()
    full.want(Totals(submitted=10**9, cancelled=10**9))
    assert not full.short


@pytest.mark.parametrize(("number", "kind"), [(errno.EDQUOT, StoreFull), (errno.EIO, StoreUnwritable)])
def test_quota_that_is_used_up_is_a_full_disk(
    tmp_path: Path, disk: Disk, number: int, kind: Callable[..., object]
) -> None:
    disk.room, disk.error = 0, number
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert type(faults.commit_error(str(tmp_path / "dtq.db"), error)) is kind
    assert list(tmp_path.iterdir()) == []
