"""Directories of values: made for one user alone, and removed when nobody has them any more."""

from __future__ import annotations

import gc
import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from dtq.engines import places
from dtq.engines.places import OwnPlace, beside_store
from dtq.errors import StoreError


@pytest.fixture(autouse=True)
def parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where directories are made."""
    made = [tmp_path / "fast", tmp_path / "temporary"]
    for parent in made:
        parent.mkdir()
    monkeypatch.setattr(places, "_FAST", str(made[0]))
    monkeypatch.setattr(tempfile, "tempdir", str(made[1]))
    monkeypatch.setattr(places, "_ENOUGH", 1 << 62)
    return made


def test_own_directories_go_with_their_owner(parents: list[Path]) -> None:
    own = OwnPlace(1 << 30)
    paths = [Path(path) for path in own.place.paths]
    assert [path.parent for path in paths] == parents
    assert own.place.first_bytes > 0
    (paths[0] / "0123456789abcdef.values").touch()

    del own
    gc.collect()

    assert [path.exists() for path in paths] == [False, False]


def test_fork_that_ends_removes_nothing(parents: list[Path]) -> None:
    own = OwnPlace(1 << 30)
    if not (child := os.fork()):
        own.close()
        os._exit(0)
    os.waitpid(child, 0)

    assert all(os.path.isdir(path) for path in own.place.paths)
    own.close()


def test_directories_of_a_killed_process_are_removed_and_others_are_not(parents: list[Path]) -> None:
    # Given those of a process that was killed, of one that lives, and what only looks like one
    living = OwnPlace(1 << 30)
    read, write = os.pipe()
    if not (child := os.fork()):
        killed = OwnPlace(1 << 30)
        (Path(killed.place.paths[1]) / "0123456789abcdef.values").touch()
        os.write(write, b".")
        signal.pause()
    assert os.read(read, 1) == b"."
    strange = [parents[0] / "dtq-values-strange", parents[0] / "dtq-other"]
    for path in strange:
        path.mkdir()
    assert len(list(parents[1].iterdir())) == 2

    # When the next one is made, Then the first ones are gone once that process is
    OwnPlace(1 << 30).close()
    assert len(list(parents[1].iterdir())) == 2
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    OwnPlace(1 << 30).close()
    assert {Path(path) for path in living.place.paths} == {
        *parents[1].iterdir(),
        *(path for path in parents[0].iterdir() if path not in strange),
    }
    assert all(path.is_dir() for path in strange)
    living.close()


def test_without_fast_memory_there_is_one_directory(parents: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_FAST", str(parents[0] / "missing"))

    own = OwnPlace(1 << 30)

    assert len(own.place.paths) == 1
    own.close()


def test_where_the_disk_has_room_values_are_nowhere_else(parents: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given what a killed process has left in fast memory, and a disk with room
    (parents[0] / "dtq-values-0123").mkdir()
    os.utime(parents[0] / "dtq-values-0123", (0, 0))
    monkeypatch.setattr(places, "_ENOUGH", 1)

    own = OwnPlace(1 << 30)

    assert [Path(path).parent for path in own.place.paths] == [parents[1]]
    assert list(parents[0].iterdir()) == []
    own.close()


def test_directory_beside_a_store_is_made_private(tmp_path: Path) -> None:
    store = str(tmp_path / "dtq.db")
    (tmp_path / "dtq.db.values").mkdir(0o755)

    place = beside_store(store, durable=True, max_value=1000)

    assert stat.S_IMODE(os.stat(place.paths[0]).st_mode) == 0o700
    assert (place.checked, place.max_value) == (True, 1000)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_directory_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if kind == "link":
        (tmp_path / "dtq.db.values").symlink_to(theirs)
    else:
        (tmp_path / "dtq.db.values").touch()

    with pytest.raises(StoreError, match=r"dtq\.db\.values is not a directory"):
        beside_store(str(tmp_path / "dtq.db"), durable=True, max_value=1000)
