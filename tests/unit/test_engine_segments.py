"""Segments before a commit: synced, and written again where a sync has failed; what cannot be is told as what it is."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from dtq.engines import segments
from dtq.engines.segments import UNFINISHED, Segments
from dtq.errors import StoreFull, StoreUnwritable
from dtq.model.values import Value
from dtq.values.local import LocalValues
from dtq.values.place import Place, path_of

DATA = b"a value" * 10_000


class Disk:
    """What was synced; and an error that the next syncs end with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.errors: list[int] = []
        self.rewritten: list[tuple[int, bytes]] = []
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "fdatasync", self._sync)
        monkeypatch.setattr(os, "fsync", self._sync)
        monkeypatch.setattr(os, "pwrite", self._write)

    def _sync(self, file: int) -> None:
        if self.errors and (error := self.errors.pop(0)):
            raise OSError(error, os.strerror(error))
        self.synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)

    def _write(self, file: int, data: Any, at: int) -> int:
        self.rewritten.append((at, bytes(data)))
        return self._pwrite(file, data, at)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "values").mkdir()
    return Place((str(tmp_path / "values"),))


@pytest.fixture
def kept(place: Place, disk: Disk) -> Segments:
    return Segments(place, "dtq.db", sync=True, used=lambda number: [])


def write(place: Place, *blobs: bytes) -> list[Value]:
    writer = LocalValues(place)
    values = []
    for blob in blobs:
        draft = writer.draft()
        draft.write(blob)
        values.append(draft.finish())
    writer.close()
    return values


def test_segments_are_synced_once_a_commit_and_their_names_once(place: Place, kept: Segments, disk: Disk) -> None:
    values = write(place, DATA, DATA)
    name = f"{values[0].segment:016x}.values"

    kept.ensure(values)
    kept.ensure(values[1:])

    assert disk.synced == [name, "values", name]


def test_what_is_synced_before_the_commit_is_not_synced_by_it(place: Place, kept: Segments, disk: Disk) -> None:
    # Given two values in a segment, of which one is synced before it is named
    first, second = write(place, DATA, DATA)
    name = f"{first.segment:016x}.values"
    kept.sync([first])
    assert disk.synced == [name, "values"]

    # When both are named, Then only the other one has to be synced, and each once for each time that it is named
    kept.ensure([first])
    assert disk.synced == [name, "values"]
    kept.ensure([second])
    kept.ensure([first])
    assert disk.synced == [name, "values", name, name]


def test_a_sync_before_the_commit_that_fails_is_made_up_for_by_it(place: Place, kept: Segments, disk: Disk) -> None:
    # Given a value that could not be synced, which nobody is told
    (value,) = write(place, DATA)
    disk.errors = [errno.EIO]
    kept.sync([value])
    assert disk.synced == []

    # When it is named, Then it is written again, and what could not be synced then is told
    disk.errors = [errno.EIO]
    with pytest.raises(StoreUnwritable):
        kept.ensure([value])
    kept.ensure([value])
    assert disk.rewritten == [(value.offset, DATA)] * 2
    assert disk.synced == [f"{value.segment:016x}.values", "values"]

    # And a value that is not there is left to it, too
    kept.sync([Value(7, 0, 100)])


@pytest.mark.parametrize(
    ("error", "kind"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreUnwritable)],
)
def test_failed_sync_is_told_and_its_values_are_written_again_with_the_next(
    place: Place, kept: Segments, disk: Disk, error: int, kind: type[Exception]
) -> None:
    """A kernel that could not write what it had takes it for written afterwards."""
    # Given two values in a segment
    first, second = write(place, DATA, DATA[::-1])
    disk.errors = [error]

    # When the sync for one of them fails
    with pytest.raises(kind, match=r"dtq\.db"):
        kept.ensure([first])
    assert disk.rewritten == []

    # Then that one is written again before the next, and so is the other when its turn comes
    kept.ensure([first])
    assert disk.rewritten == [(first.offset, DATA)]
    kept.ensure([second])
    assert disk.rewritten[1:] == [(second.offset, DATA[::-1])]
    assert bytes(memoryview(LocalValues(place).fetch(second))) == DATA[::-1]


def test_failed_sync_of_the_directory_is_done_again(place: Place, kept: Segments, disk: Disk) -> None:
    values = write(place, DATA)
    disk.errors = [0, errno.EIO]
    with pytest.raises(StoreUnwritable):
        kept.ensure(values)

    kept.ensure(values)

    assert disk.synced[-1] == "values"


def test_without_durability_nothing_is_synced(place: Place, disk: Disk) -> None:
    kept = Segments(place, "dtq.db", sync=False, used=lambda number: [])

    kept.ensure(write(place, DATA))

    assert disk.synced == []


def test_values_whose_directory_was_moved_away_are_not_taken(place: Place, kept: Segments) -> None:
    values = write(place, DATA)
    directory = Path(place.paths[0])
    elsewhere = directory.rename(directory.with_name("moved"))

    with pytest.raises(StoreUnwritable, match="was removed, moved or replaced"):
        kept.ensure(values)
    directory.mkdir()
    with pytest.raises(StoreUnwritable):
        kept.ensure(values)

    directory.rmdir()
    elsewhere.rename(directory)
    kept.ensure(values)


def test_file_that_was_not_finished_is_removed_at_the_start(place: Place) -> None:
    strange = Path(place.paths[0]) / "strange.new"
    strange.touch()
    Path(path_of(place.paths[0], 7) + UNFINISHED).touch()

    Segments(place, "dtq.db", sync=True, used=lambda number: [])

    assert list(strange.parent.iterdir()) == [strange]


def test_rewriting_without_room_leaves_all_as_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a sparse segment on a full disk
    for name in ("_SWEEP_S", "_SWEEP_SOON_S", "_QUIET_S"):
        monkeypatch.setattr(segments, name, 0.0)
    value, _ = write(place, DATA, b"x" * (4 << 20))
    kept = Segments(place, "dtq.db", sync=True, used=lambda number: [(value.offset, value.end)])
    kept.freed([value.segment])
    monkeypatch.setattr(kept, "_may_go", lambda file: True)

    tried: list[object] = []

    def full(*arguments: object) -> int:
        tried.append(arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    # When it is rewritten, Then nothing is changed, and it works when there is room
    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", full)
        for _ in range(5):
            kept.step()
    assert tried
    assert os.listdir(place.paths[0]) == [f"{value.segment:016x}.values"]
    assert os.path.getsize(place.find(value.segment)) > 4 << 20

    for _ in range(5):
        kept.step()
    assert os.path.getsize(place.find(value.segment)) == value.end
    found = memoryview(LocalValues(place).fetch(value))
    assert zlib.crc32(found) == value.crc
    kept.close()
