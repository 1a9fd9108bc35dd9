"""Values written in a process that runs foreign code, which may close descriptors and change files; and full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dtq.errors import StoreFull, StoreUnwritable, TooLarge, ValueDamaged
from dtq.model.values import Value
from dtq.values.local import LocalValues
from dtq.values.place import SEGMENT_BYTES, Place

DATA = b"d" * 100_000
#: So much is written at once.
LONG = b"l" * 300_000


def _write(values: LocalValues, *parts: bytes) -> Value:
    draft = values.draft()
    for part in parts:
        draft.write(part)
    return draft.finish()


def _path(directory: Path, value: Value) -> Path:
    return directory / f"{value.segment:016x}.values"


def _descriptor(path: Path) -> int:
    """The descriptor that this process has of a file."""
    found = os.stat(path)
    for name in os.listdir("/proc/self/fd"):
        with_it = int(name)
        try:
            held = os.fstat(with_it)
        except OSError:
            continue
        if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
            return with_it
    raise AssertionError(f"nobody has {path}")


@pytest.mark.parametrize("begun", [False, True], ids=["before", "in the middle of"])
def test_a_descriptor_that_is_used_for_something_else_is_left_alone(tmp_path: Path, begun: bool) -> None:
    # Given a segment whose descriptor somebody has closed, so that a file of theirs has its number
    values = LocalValues(Place((str(tmp_path),)))
    first = _write(values, DATA)
    draft = values.draft() if begun else None
    if draft is not None:
        draft.write(LONG)
    number = _descriptor(_path(tmp_path, first))
    theirs = tmp_path / "theirs"
    with theirs.open("w+b") as file:
        os.dup2(file.fileno(), number)
    # When more is written
    if draft is not None:
        with pytest.raises(StoreUnwritable):
            draft.write(LONG)
        draft.abandon()
    second = _write(values, DATA)
    # Then elsewhere; nothing came into their file, which is still open, also when all is over
    assert second.segment != first.segment
    assert memoryview(values.fetch(second)) == DATA
    assert theirs.read_bytes() == b""
    values.close()
    assert os.fstat(number).st_ino == theirs.stat().st_ino
    os.close(number)


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_segment_that_somebody_has_spoilt_takes_nothing_more(tmp_path: Path, how: str) -> None:
    values = LocalValues(Place((str(tmp_path),)))
    first = _write(values, DATA)
    if how == "removed":
        _path(tmp_path, first).unlink()
    else:
        os.truncate(_path(tmp_path, first), 10)

    second = _write(values, DATA)

    assert second.segment != first.segment
    assert memoryview(values.fetch(second)) == DATA
    values.close()


def test_a_pipe_in_the_place_of_a_segment_is_not_waited_for(tmp_path: Path) -> None:
    values = LocalValues(Place((str(tmp_path),)))
    os.mkfifo(tmp_path / f"{7:016x}.values")

    with pytest.raises(ValueDamaged):
        values.fetch(Value(7, 0, 100))


def test_a_fork_in_the_middle_of_a_value_writes_nothing(tmp_path: Path) -> None:
    # Given a value that is being written
    values = LocalValues(Place((str(tmp_path),)))
    draft = values.draft()
    draft.write(DATA)
    # When the process forks, and its child goes on with it
    if not (child := os.fork()):
        try:
            draft.write(b"x" * len(DATA))
            draft.finish()
        except StoreUnwritable:
            draft.abandon()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    # Then it cannot, and the value is what was written here
    assert status == 0
    draft.write(DATA)
    assert memoryview(values.fetch(draft.finish())) == 2 * DATA
    values.close()


def test_an_abandoned_value_takes_no_room_on_the_disk(tmp_path: Path) -> None:
    values = LocalValues(Place((str(tmp_path),)))
    first = _write(values, DATA)
    draft = values.draft()
    draft.write(b"x" * 10_000_000)
    draft.abandon()

    assert _path(tmp_path, first).stat().st_size < 200_000
    assert memoryview(values.fetch(first)) == DATA
    assert memoryview(values.fetch(_write(values, DATA))) == DATA
    values.close()


def _full(monkeypatch: pytest.MonkeyPatch, directory: Path, room: int) -> None:
    """Have a directory's files take no more than so many bytes together."""
    real: Any = os.pwritev

    def pwritev(descriptor: int, parts: list[memoryview], at: int) -> int:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent != directory:
            return int(real(descriptor, parts, at))
        left = room - at
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(real(descriptor, [parts[0][:left]], at))

    monkeypatch.setattr(os, "pwritev", pwritev)


def test_what_finds_no_room_in_fast_memory_goes_on_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a fast directory with less room than it is said to have, with a value in it
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    fast.mkdir()
    slow.mkdir()
    values = LocalValues(Place((str(fast), str(slow)), first_bytes=SEGMENT_BYTES))
    _full(monkeypatch, fast, 3_000_000)
    small = _write(values, DATA)
    # When one does not fit
    large = _write(values, b"a" * 1_000_000, b"b" * 1_000_000, b"c" * 2_000_000)
    # Then it is whole, in the other one, and takes no room in the first
    assert _path(slow, large).exists()
    assert memoryview(values.fetch(large)) == b"a" * 1_000_000 + b"b" * 1_000_000 + b"c" * 2_000_000
    assert memoryview(values.fetch(small)) == DATA
    assert _path(fast, small).stat().st_size < 200_000
    # And in the last directory there is an end
    _full(monkeypatch, slow, 1_000_000)
    draft = values.draft()
    with pytest.raises(StoreFull):
        draft.write(b"x" * 5_000_000)
    draft.abandon()
    values.close()


def test_what_is_too_large_is_called_what_it_is(tmp_path: Path) -> None:
    values = LocalValues(Place((str(tmp_path),), max_value=1 << 20), what="the result")
    draft = values.draft()
    with pytest.raises(TooLarge, match="the result has"):
        draft.write(b"x" * (1 << 21))
    draft.abandon()
    values.close()
