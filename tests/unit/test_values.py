"""Values: what is written comes back the same, also in pieces; segments are held as long as they are needed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pickle
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.errors import BadMessage, StoreFull, TooLarge, ValueDamaged, ValueGone
from dtq.model import pages
from dtq.model import values as model
from dtq.model.values import MAX_VALUES, Value
from dtq.values import layout, local
from dtq.values.local import LocalValues
from dtq.values.place import SEGMENT_BYTES, Place

VALUES = st.builds(
    Value,
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**40).map(lambda n: n * 64),
    st.integers(16, 2**40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 16]),
)


@given(st.lists(VALUES, min_size=1, max_size=5), st.binary(max_size=50))
def test_a_description_names_its_values(values: list[Value], rest: bytes) -> None:
    blob = model.describe(values, rest)

    assert model.is_description(blob)
    assert list(model.named(blob)) == values
    assert model.rest(blob) == rest


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 20, 34])
def test_a_description_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(BadMessage):
        model.named(model.describe([Value(1, 64, 10)])[:cut])


def test_most_values_fit_into_a_description() -> None:
    values = [Value(n, 64 * n, 100) for n in range(MAX_VALUES)]

    assert list(model.named(model.describe(values))) == values


@given(st.lists(st.binary(max_size=20).filter(lambda b: b[:1] != b"\0") | VALUES, max_size=12), st.data())
def test_pages_keep_track_of_descriptions(items: list[bytes | Value], data: st.DataObject) -> None:
    # Given a page with plain blobs and descriptions
    blobs = [model.describe([item]) if isinstance(item, Value) else item for item in items]
    page = pages.pack(blobs, described=True)
    lo = data.draw(st.integers(0, len(blobs)))
    hi = data.draw(st.integers(lo, len(blobs)))

    # When it is cut, joined and unpacked
    first, middle, last = pages.cut(page, 0, lo), pages.cut(page, lo, hi), pages.cut(page, hi, len(blobs))

    # Then it is the page of those blobs, and says which values they name
    assert middle == pages.pack(blobs[lo:hi], described=True)
    assert pages.join([first, middle, last]) == page
    assert pages.unpack(page) == blobs
    assert pages.check(page) == len(blobs)
    assert pages.named(middle) == [item for item in items[lo:hi] if isinstance(item, Value)]
    assert pages.has_descriptions(middle) is any(isinstance(item, Value) for item in items[lo:hi])
    assert pages.largest(page) == max(map(len, blobs), default=0)


@pytest.mark.parametrize("false", [b"\0\1\0nothing", model.describe([Value(1, 64, 10, 0, 11)])], ids=["cut", "false"])
@pytest.mark.parametrize("others", [[], [b"x"]], ids=["alone", "among others"])
def test_a_page_with_a_false_description_is_refused(false: bytes, others: list[bytes]) -> None:
    with pytest.raises(BadMessage):
        pages.check(pages.pack([*others, false], described=True))


def test_a_small_value_is_read_at_once(tmp_path: Path) -> None:
    # Given values that are read in one piece, of which one is damaged and one was dropped
    values = LocalValues(Place((str(tmp_path),)))
    sound, damaged, dropped = (_write(values, pickle.dumps(b"x" * 100_000)) for _ in range(3))
    with open(tmp_path / f"{sound.segment:016x}.values", "r+b") as file:
        os.pwrite(file.fileno(), b"y", damaged.offset + 50_000)
        os.pwrite(file.fileno(), bytes(dropped.length), dropped.offset)

    # Then the reader learns of each
    with values.stream(sound) as stream:
        assert pickle.load(stream) == b"x" * 100_000
    with pytest.raises(ValueDamaged):
        values.stream(damaged)
    for read in (values.stream, values.fetch):
        with pytest.raises(ValueGone):
            read(dropped)
    values.close()


def _write(values: LocalValues, *parts: bytes) -> Value:
    draft = values.draft()
    for part in parts:
        draft.write(part)
    return draft.finish()


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("map_from", [None, 1])
@pytest.mark.parametrize("size", [1, 1000, 300_000, 3_000_000])
def test_a_value_comes_back(tmp_path: Path, checked: bool, map_from: int | None, size: int) -> None:
    # Given some values in a segment, written in pieces of several sizes
    values = LocalValues(Place((str(tmp_path),), checked=checked), map_from)
    data = b"x" + os.urandom(size - 1)
    written = [_write(values, data[:7], data[7:70_000], data[70_000:]) for _ in range(3)]

    # Then each comes back, as memory of one's own and as a file
    for value in written:
        found = values.fetch(value)
        view = memoryview(found)
        assert view == data
        view[0] ^= 1
        with values.stream(value) as file:
            assert file.read(size) == data
    assert len({value.segment for value in written}) == 1
    values.close()


@pytest.mark.parametrize("checked", [True, False])
def test_several_values_are_written_and_read_together(tmp_path: Path, checked: bool) -> None:
    # Given a segment with a value, and blobs of several sizes, more than are written at once
    values = LocalValues(Place((str(tmp_path),), checked=checked))
    before = _write(values, b"before")
    blobs = [b"x" + os.urandom(size) for size in (70_001, 64, 0, 3_000_000, *[99_999] * 40)]

    # When they are written together
    made = values.write_all([*map(memoryview, blobs)])

    # Then each is a value behind the other, with its own checksum, and a later one does not touch them
    after = _write(values, b"after")
    assert {value.segment for value in (before, *made, after)} == {before.segment}
    assert [value.length for value in made] == [len(blob) for blob in blobs]
    assert all(value.offset % 64 == 0 and bool(value.crc) is checked for value in made)
    assert values.contents([before, *made, after]) == [b"before", *blobs, b"after"]
    assert memoryview(values.fetch(made[3])) == blobs[3]

    # And of those that are gone, damaged or cut off there is nothing, whatever the others are
    path = tmp_path / f"{before.segment:016x}.values"
    with path.open("r+b") as file:
        for value in (before, made[1]):
            file.seek(value.offset)
            file.write(b"\0")
        file.seek(made[0].offset + 100)
        file.write(bytes([blobs[0][100] ^ 1]))
        file.truncate(after.end - 1)
    gone = Value(77, 0, 10)
    found = values.contents([before, made[0], made[1], gone, made[2], after])
    assert [content is None for content in found] == [True, checked, True, True, False, True]
    values.close()


def test_several_values_are_written_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = LocalValues(Place((str(tmp_path),)))
    before = _write(values, b"before")
    write = os.pwritev

    def full(file: int, parts: list[memoryview], at: int) -> int:
        if at > 1_000_000:
            raise OSError(errno.ENOSPC, "full")
        return write(file, parts, at)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StoreFull):
        values.write_all([b"x" * 900_000] * 5)

    assert (tmp_path / f"{before.segment:016x}.values").stat().st_size <= 64
    values.settled([before])
    values.close()


def test_a_pickle_with_buffers_comes_back_aligned(tmp_path: Path) -> None:
    values = LocalValues(Place((str(tmp_path),)), 1)
    draft = values.draft()
    draft.write(b"pickle")
    value = layout.finish(draft, [memoryview(b"a" * 100), memoryview(b""), memoryview(b"b" * 100_000)])

    body, buffers = layout.divide(value, values.fetch(value))

    assert (bytes(body), [bytes(b) for b in buffers]) == (b"pickle", [b"a" * 100, b"", b"b" * 100_000])
    values.close()


def test_a_damaged_value_is_refused(tmp_path: Path) -> None:
    # Given a value of which a byte has flipped, and one whose segment was cut
    values = LocalValues(Place((str(tmp_path),)))
    value, cut = _write(values, b"x" * 100_000), _write(values, b"y" * 100_000)
    path = tmp_path / f"{value.segment:016x}.values"
    with path.open("r+b") as file:
        file.seek(value.offset + 500)
        file.write(b"z")
        file.truncate(cut.end - 1)

    # Then neither is handed out
    with pytest.raises(ValueDamaged):
        values.fetch(value)
    with pytest.raises(ValueDamaged), values.stream(value) as stream:
        stream.read(value.length)
    with pytest.raises(ValueDamaged):
        values.fetch(cut)
    path.unlink()
    with pytest.raises(ValueGone):
        values.fetch(value)
    values.close()


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_segment_is_held_until_all_in_it_is_settled(tmp_path: Path) -> None:
    # Given a full segment with two values
    values = LocalValues(Place((str(tmp_path),)))
    first = _write(values, b"x")
    second = _write(values, b"x" * SEGMENT_BYTES)
    path = tmp_path / f"{first.segment:016x}.values"

    # When one after the other is settled, Then it is let go with the last
    values.settled([first])
    assert _is_held(path)
    values.settled([second])
    assert not _is_held(path)

    # And what comes next goes elsewhere, into a segment that is held although nothing in it is left
    third = _write(values, b"x")
    values.settled([third])
    assert third.segment != first.segment
    assert _is_held(tmp_path / f"{third.segment:016x}.values")
    values.close()
    assert not _is_held(tmp_path / f"{third.segment:016x}.values")


def test_what_was_abandoned_takes_no_room(tmp_path: Path) -> None:
    values = LocalValues(Place((str(tmp_path),), max_value=1 << 20))
    draft = values.draft()
    draft.write(b"x" * 500_000)
    with pytest.raises(TooLarge):
        draft.write(b"x" * 700_000)
    draft.abandon()

    assert _write(values, b"y").offset == 0
    values.close()


def test_the_first_directory_is_for_so_many_bytes(tmp_path: Path) -> None:
    # Given a small fast directory before another one
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    fast.mkdir()
    slow.mkdir()
    values = LocalValues(Place((str(fast), str(slow)), first_bytes=1 << 20))

    # When more is written, Then it goes to the other one, and all of it is found
    written = [_write(values, b"x" * SEGMENT_BYTES) for _ in range(2)]
    assert (len(list(fast.iterdir())), len(list(slow.iterdir()))) == (1, 1)
    assert all(len(memoryview(values.fetch(value))) == SEGMENT_BYTES for value in written)
    values.close()


def test_values_leave_free_what_rows_need(tmp_path: Path) -> None:
    # Given a place that is to leave more free than there is after the next value
    free = shutil.disk_usage(tmp_path).free
    values = LocalValues(Place((str(tmp_path),), spare=free - (1 << 20)))
    draft = values.draft()

    # When a value that is larger than what may be used is written, Then it has no room, and none was used
    with pytest.raises(StoreFull):
        draft.write(memoryview(b"x" * (64 << 20)))
    draft.abandon()
    assert not any(path.stat().st_size for path in tmp_path.iterdir())

    # And one that leaves as much has
    roomy = LocalValues(Place((str(tmp_path),), spare=1 << 20))
    assert bytes(memoryview(roomy.fetch(_write(roomy, b"x")))) == b"x"
    values.close()
    roomy.close()


def test_small_values_that_are_read_side_by_side_are_not_mixed_up(tmp_path: Path) -> None:
    # Given two values that are read at the same time, and a third one in the memory of the first
    values = LocalValues(Place((str(tmp_path),)))
    data = [pickle.dumps(bytes([n]) * 90_000) for n in range(3)]
    first, second, third = (_write(values, one) for one in data)
    with values.stream(second) as other:
        with values.stream(first) as stream:
            assert pickle.load(stream) == bytes(90_000)
        with values.stream(third) as stream:
            # Then each has its own bytes, in pieces and as a whole, and nothing behind them
            assert pickle.load(stream) == b"\2" * 90_000
            assert stream.read(1) == b""
        assert other.read(10) + other.read() == data[1]
    assert len(local._rooms) <= local._MOST_ROOMS
    values.close()


def test_small_values_share_a_look_at_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk with much room, and then with room for one more value
    room, looks = 1 << 30, 0

    class Disk:
        f_blocks, f_frsize = 1 << 20, 1

        @property
        def f_bavail(self) -> int:
            return room

    def look(_: int) -> Disk:
        nonlocal looks
        looks += 1
        return Disk()

    monkeypatch.setattr(os, "fstatvfs", look)
    monkeypatch.setattr(local, "_ALLOWED_S", 600.0)
    values = LocalValues(Place((str(tmp_path),), spare=1))
    for _ in range(100):
        _write(values, b"x" * 100_000)

    # Then few of the values look at it, and none for more than its share
    assert 2 <= looks <= 4
    room = 150_000
    for _ in range(local._MOST_ALLOWED // 100_000 + 1):
        with contextlib.suppress(StoreFull):
            _write(values, b"x" * 100_000)
    looks = 0
    _write(values, b"x" * 100_000)
    with pytest.raises(StoreFull):
        _write(values, b"x" * 200_000)
    assert looks == 2
    values.close()


def test_the_disk_begins_early_where_values_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a place whose values are synced, and one whose are not
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, at, size, advice: told.append((at, size)))
    for sync_from in (8 << 20, 0):
        values = LocalValues(Place((str(tmp_path),), sync_from=sync_from))
        # When small ones are written, and one of several MiB
        small = [_write(values, b"x" * 100_000) for _ in range(12)]
        large = _write(values, b"y" * 10_000_000)
        # Then the kernel is told of each byte once, in pieces worth it and as soon as they are there
        if sync_from:
            assert told[0][1] > 500_000
            assert [at for at, _ in told] == [0, *(at + size for at, size in told[:-1])]
            assert large.end - 4096 < sum(told[-1]) <= large.end
            assert max(size for _, size in told) < 5 << 20
            assert len(told) == 5
        assert bytes(memoryview(values.fetch(small[5]))) == b"x" * 100_000
        assert memoryview(values.fetch(large)) == b"y" * 10_000_000
        values.close()
    assert len(told) == 5


def test_a_forked_process_writes_elsewhere(tmp_path: Path) -> None:
    # Given a writer with a segment that has room
    values = LocalValues(Place((str(tmp_path),)))
    mine = _write(values, b"x")

    # When a forked process writes too
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, pickle.dumps(_write(values, b"y")))
        os._exit(0)
    os.waitpid(child, 0)
    theirs: Value = pickle.loads(os.read(read, 1000))
    os.close(read)
    os.close(write)

    # Then into another segment, and this one is still held here
    assert theirs.segment != mine.segment
    assert _is_held(tmp_path / f"{mine.segment:016x}.values")
    assert _write(values, b"z").segment == mine.segment
    values.close()


@pytest.mark.parametrize("checked", [True, False])
def test_what_the_kernel_does_not_read_at_once_is_read_whole(
    tmp_path: Path, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a value that is larger than one read gives
    monkeypatch.setattr("dtq.values.local._AT_ONCE", 100_000)
    values = LocalValues(Place((str(tmp_path),), checked=checked))
    data = pickle.dumps([b"x" * 350_000, b"y" * 250_001, "z" * 150_000])
    value = _write(values, data)

    # Then all of it is there, however it is asked for
    with values.stream(value) as file:
        assert pickle.load(file) == pickle.loads(data)
    with values.stream(value) as file:
        assert file.read() == data
    assert memoryview(values.fetch(value)) == data
    values.close()
