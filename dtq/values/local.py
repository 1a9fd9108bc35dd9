"""Values in files that this process can access.

Each writer draws the numbers of its segments and makes their files, so it need not ask before it writes a value. It
holds a shared lock (flock(2)) on a segment's file as long as values in it are not settled, or it may write to it again:
the engine removes or rewrites only segments without a lock. The kernel releases a lock with its process.

A file is opened for each read: a removed file must not take up room because a process has read it once.

A process that runs foreign code may find its descriptors closed, and their numbers reused for other files, or the files
removed or cut. So a descriptor is written to, or closed, only while it still refers to the segment.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import stat
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

from dtq.errors import DtqError, StoreFull, StoreUnwritable, TooLarge, ValueDamaged, ValueGone
from dtq.model.values import ALIGNMENT, Value
from dtq.records import replace
from dtq.values.base import Buffer, Draft
from dtq.values.place import SEGMENT_BYTES, Place, copy_of, path_of

#: Parts are gathered, up to this many bytes together.
_MOST_GATHERED: Final = 1 << 18
_MOST_PARTS: Final = 256
#: Most bytes of one kernel write, at most 2**31 - 4096.
_AT_ONCE: Final = 1 << 30
#: From this many bytes on memory for a value comes from the kernel, in huge pages if it has some: to take each small
#: page by itself costs more than to fill it.
_FROM_KERNEL: Final = 4 << 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
#: Permissions of a segment, whatever the process's mask.
_MODE: Final = 0o600
#: Flags for reading a segment: opening a pipe or the like in its place must not block.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
#: Most bytes of small values between two looks at the disk, and most seconds.
_MOST_ALLOWED: Final = 4 << 20
_ALLOWED_S: Final = 0.02
#: Bytes of several values per write.
_SEVERAL: Final = 2 << 20
#: Bytes per copy out of a directory without room.
_COPIED: Final = 1 << 20
#: A value of less than this many bytes is read at once: a pickle is read in many pieces, which cost more than the copy.
_READ_WHOLE: Final = 1 << 18
#: Unused memory for such values, and its bound: the kernel clears new memory page by page, which takes longer than to
#: fill it. Single list operations need no lock.
_rooms: Final[list[bytearray]] = []
_MOST_ROOMS: Final = 2


class _File:
    """A segment of this writer.

    Args:
        directory: where to make it.
    """

    __slots__ = ("_identity", "begun", "descriptor", "full", "number", "path", "size", "unsettled")

    def __init__(self, directory: str) -> None:
        self.size = 0
        #: Up to where the kernel has begun to write to the disk.
        self.begun = 0
        #: Whether it has no room for another value, however small.
        self.full = False
        #: Number of values in it that are still ours.
        self.unsettled = 0
        while True:
            self.number = int.from_bytes(os.urandom(8), "little") >> 1  # `secrets` would load OpenSSL in each slot
            self.path = path_of(directory, self.number)
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_SH)
                found = os.fstat(self.descriptor)
                self._identity = found.st_dev, found.st_ino
                if stat.S_IMODE(found.st_mode) != _MODE:
                    os.fchmod(self.descriptor, _MODE)
                if found.st_nlink:  # else it was just removed as unused
                    return
            except BaseException:
                os.close(self.descriptor)
                raise
            os.close(self.descriptor)

    def _look(self) -> os.stat_result | None:
        """The file's state, if the descriptor still refers to it."""
        try:
            found = os.fstat(self.descriptor)
        except OSError:
            return None
        return found if (found.st_dev, found.st_ino) == self._identity else None

    @property
    def reachable(self) -> bool:
        """Whether the descriptor still refers to it."""
        return self._look() is not None

    @property
    def sound(self) -> bool:
        """Whether more can be written to it: it still exists, and is complete."""
        found = self._look()
        return found is not None and found.st_nlink > 0 and found.st_size > self.size - ALIGNMENT

    def close(self) -> None:
        if self.reachable:
            os.close(self.descriptor)


class _Draft:
    """See `Draft`."""

    def __init__(self, values: LocalValues, file: _File) -> None:
        self._values = values
        self._file = file
        self._start = file.size
        self._written = 0
        self._checked = values.place.checked
        self._crc = 0
        self._parts: list[Any] = []
        self._gathered = 0

    @property
    def length(self) -> int:
        """See `Draft`."""
        return self._written + self._gathered

    def write(self, data: Buffer, /) -> int:
        """See `Draft`."""
        size = data.nbytes if isinstance(data, memoryview) else len(memoryview(data))
        if self.length + size > self._values.place.max_value:
            raise TooLarge(self._values.what, self.length + size, self._values.place.max_value)
        self._parts.append(data)
        self._gathered += size
        if self._gathered >= _MOST_GATHERED or len(self._parts) >= _MOST_PARTS:
            self._put()
        return size

    def _put(self) -> None:
        parts = [memoryview(part).cast("B") for part in self._parts]
        self._parts = []
        self._gathered = 0
        if not self._written and bytes(next(filter(None, parts), b"")[:1]) == b"\0":
            raise ValueError("a value does not begin with a zero byte")
        if self._checked:
            for part in parts:
                self._crc = zlib.crc32(part, self._crc)
        self._make_sure()
        while parts:
            try:
                piece = self._values.piece(self._file.descriptor, sum([part.nbytes for part in parts]))
                done = os.pwritev(self._file.descriptor, _most(parts, piece), self._start + self._written)
            except OSError as error:
                if error.errno not in _NO_ROOM or not self._move():
                    raise _failed(self._file.path, error) from error
                continue
            self._written += done
            parts = _behind(parts, done)
            file = self._file
            file.begun = self._values.place.begin_syncing(file.descriptor, file.begun, self._start + self._written)

    def _make_sure(self) -> None:
        """Check that the writer is the process that began the value, and that the descriptor is the segment's; a value
        of which nothing was written goes to another segment if it is not, or if the segment was spoilt.

        Raises:
            StoreUnwritable: the writer is a process that was forked meanwhile; or the descriptor was closed.
        """
        if not self._written and not self._values.forked:
            self._file = self._values.sound(self._file)
            self._start = self._file.size
        elif self._values.forked or not self._file.reachable:
            raise StoreUnwritable(self._file.path, "its descriptor was closed by somebody else")

    def _move(self) -> bool:
        """Go on in the last directory, as this one has no room; whether there is another."""
        file = self._values.elsewhere(self._file)
        if file is None:
            return False
        old, start, at = self._file, self._start, 0
        try:
            while at < self._written:
                data = os.pread(old.descriptor, min(_COPIED, self._written - at), start + at)
                at += os.pwrite(file.descriptor, data, at)
        except OSError as error:
            self._values.give_back(file)
            raise _failed(file.path, error) from error
        self._forget(old, start)
        self._file, self._start = file, 0
        return True

    def _forget(self, file: _File, start: int) -> None:
        """Release the room reserved behind this."""
        if not self._values.forked and file.reachable:
            file.begun = min(file.begun, start)
            with suppress(OSError):
                os.ftruncate(file.descriptor, start)
        self._values.give_back(file)

    def finish(self, trailer: bytes = b"") -> Value:
        """See `Draft`."""
        if trailer:
            self.write(trailer)
        if self._parts:
            self._put()
        place = self._values.place
        if place.sync_from and self._written >= place.sync_from:
            try:
                os.fdatasync(self._file.descriptor)
            except OSError as error:
                raise _failed(self._file.path, error) from error
        value = Value(self._file.number, self._start, self._written, self._crc, len(trailer))
        self._file.unsettled += 1
        self._file.size = -(-value.end // ALIGNMENT) * ALIGNMENT
        self._values.give_back(self._file)
        return value

    def finish_as(self, blobs: Sequence[Buffer]) -> list[Value]:
        """Write blobs, nothing before them, and finish them as a value each; errors as for `write`."""
        ranges: list[tuple[int, int, int]] = []
        checked, self._checked = self._checked, False  # each has its own checksum
        for blob in blobs:
            view = memoryview(blob)
            ranges.append((self.length, view.nbytes, zlib.crc32(view) if checked else 0))
            self._parts += [view, bytes(-view.nbytes % ALIGNMENT)]
            self._gathered = -(-(self._gathered + view.nbytes) // ALIGNMENT) * ALIGNMENT
            if self._gathered >= _SEVERAL or len(self._parts) >= _MOST_PARTS:
                self._put()
        if self._parts:
            self._put()
        self._file.unsettled += len(ranges)
        self._file.size = self._start + self._written
        made = [Value(self._file.number, self._start + at, length, crc) for at, length, crc in ranges]
        self._values.give_back(self._file)
        return made

    def abandon(self) -> None:
        """See `Draft`."""
        if self._written:
            self._forget(self._file, self._start)
        else:
            self._values.give_back(self._file)


class LocalValues:
    """See `Values`. Processes that are forked from this one write to segments of their own.

    Args:
        place: the place of the segments.
        map_from: from this many bytes on `fetch` maps the file instead of reading it: pages are copied only when they
            are written to, but the whole segment takes up room as long as the memory lives. None for no mapping.
        what: the noun for a value in the error of one that is too large.
    """

    def __init__(self, place: Place, map_from: int | None = None, what: str = "the value") -> None:
        self.place = place
        self.what = what
        self._map_from = map_from
        self._lock = threading.Lock()
        self._process = os.getpid()
        #: Bytes that small values may still have after the last look at the disk, and until when, ``time.monotonic()``.
        self._allowed = 0
        self._allowed_until = 0.0
        #: Unused segments with room; and all that are held.
        self._free: list[_File] = []
        self._held: dict[int, _File] = {}

    @property
    def least(self) -> int:
        """See `Values`."""
        return self.place.least

    def draft(self) -> Draft:
        """See `Values`."""
        return self._begun()

    def write_all(self, blobs: Sequence[Buffer]) -> list[Value]:
        """Write blobs as a value each, all or none; with fewer calls of the system than one by one.

        Raises:
            DtqError: they cannot be written.
        """
        draft = self._begun()
        try:
            return draft.finish_as(blobs)
        except BaseException:
            draft.abandon()
            raise

    def _begun(self) -> _Draft:
        with self._lock:
            if self.forked:
                self._let_go()
            if self._free:
                return _Draft(self, self._free.pop())
        return _Draft(self, self._begin(self.place.directory()))

    def sound(self, file: _File) -> _File:
        """This segment, or if more cannot be written to it, another one.

        Raises:
            DtqError: no other can be made.
        """
        while not file.sound:
            with self._lock:
                if self._held.get(file.number) is file:
                    self._end(file)
                other = self._free.pop() if self._free else None
            file = self._begin(self.place.directory()) if other is None else other
        return file

    def piece(self, file: int, size: int) -> int:
        """See `Place.piece`; one look at the disk is enough for some small values in a row."""
        if size <= self._allowed and time.monotonic() < self._allowed_until:
            self._allowed -= size  # a race of two threads allows a few more bytes
            return size
        room = self.place.room(file)
        piece = self.place.piece_within(room, size)
        if room is not None:
            self._allowed = min(self.place.share(room), room, _MOST_ALLOWED) - piece
            self._allowed_until = time.monotonic() + _ALLOWED_S
        return piece

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that holds the segments."""
        return os.getpid() != self._process

    def _begin(self, directory: str) -> _File:
        try:
            file = _File(directory)
        except OSError as error:
            raise _failed(directory, error) from error
        with self._lock:
            self._held[file.number] = file
        return file

    def elsewhere(self, file: _File) -> _File | None:
        """A segment in the last directory, to replace one without room in another; else None."""
        last = self.place.paths[-1]
        if os.path.dirname(file.path) == last:
            return None
        file.full = True
        return self._begin(last)

    def give_back(self, file: _File) -> None:
        """Return the segment of a finished draft."""
        with self._lock:
            if self._held.get(file.number) is not file:
                return  # closed meanwhile
            if file.size < SEGMENT_BYTES and not file.full:
                self._free.append(file)
            elif not file.unsettled:
                self._end(file)

    def settled(self, values: Iterable[Value]) -> None:
        """See `Values`."""
        with self._lock:
            for value in values:
                file = self._held.get(value.segment)
                if file is None:
                    continue
                file.unsettled -= 1
                if not file.unsettled and (file.full or file.size >= SEGMENT_BYTES):
                    self._end(file)

    def _end(self, file: _File) -> None:
        del self._held[file.number]
        file.close()

    def _let_go(self) -> None:
        for file in self._held.values():
            file.close()
        self._held.clear()
        self._free.clear()
        self._process = os.getpid()

    def stream(self, value: Value) -> BinaryIO:
        """See `Values`."""
        if value.length < _READ_WHOLE:
            return self._whole(value)
        descriptor, value = self._open(value)
        file = io.FileIO(descriptor, "rb")
        try:
            _check_there(descriptor, value)
        except BaseException:
            file.close()
            raise
        file.seek(value.offset)
        if value.crc or value.length > _AT_ONCE:
            return _Checked(file, value)  # type: ignore[return-value]
        return file

    def _whole(self, value: Value) -> BinaryIO:
        """A value that is read at once."""
        descriptor, value = self._open(value)
        try:
            memory = _rooms.pop()
        except IndexError:
            memory = bytearray(_READ_WHOLE)
        found = WholeValue(memory, value.length)
        try:
            _fill(descriptor, value, found.data)
            _check(value, found.data)
        except OSError as error:
            raise ValueDamaged(value.length, str(error)) from error
        finally:
            os.close(descriptor)
        return found  # type: ignore[return-value]

    def fetch(self, value: Value) -> Buffer:
        """See `Values`."""
        descriptor, value = self._open(value)
        try:
            if self._map_from is not None and value.length >= self._map_from:
                _check_there(descriptor, value)
                found = _mapped(descriptor, value)
            else:
                found = _read(descriptor, value)
        except OSError as error:
            raise ValueDamaged(value.length, str(error)) from error
        finally:
            os.close(descriptor)
        _check(value, memoryview(found))
        return found

    def content(self, value: Value) -> bytes:
        """As `fetch`, for a value that is small enough to be read at once."""
        data = self.part(value.segment, value.offset, value.length)
        if data[:1] == b"\0":
            raise ValueGone(value.length)
        if value.crc and zlib.crc32(data) != value.crc:
            raise ValueDamaged(value.length, "its checksum is wrong")
        return data

    def contents(self, values: Iterable[Value]) -> list[bytes | None]:
        """As `content`, for several values; None for one that cannot be read."""
        files: dict[int, int] = {}
        found: list[bytes | None] = []
        try:
            for value in values:
                data: bytes | None = None
                with suppress(DtqError, OSError):
                    if value.segment not in files:
                        files[value.segment] = self._open(value)[0]
                    data = os.pread(files[value.segment], value.length, value.offset)
                whole = data is not None and len(data) == value.length and data[:1] != b"\0"
                found.append(data if whole and not (value.crc and zlib.crc32(data or b"") != value.crc) else None)
        finally:
            for file in files.values():
                os.close(file)
        return found

    def part(self, segment: int, offset: int, length: int) -> bytes:
        """Some bytes of a segment, perhaps from within a value; zeros for removed parts.

        Raises:
            ValueGone: the segment does not exist.
            ValueDamaged: it is too short, or cannot be read.
        """
        descriptor, value = self._open(Value(segment, offset, length))
        try:
            data = os.pread(descriptor, length, value.offset)
            # The kernel returns less only for more than 2 GiB, after a signal, or if the file is cut short.
            return data if len(data) == length else bytes(memoryview(_read(descriptor, value)))
        except OSError as error:
            raise ValueDamaged(length, str(error)) from error
        finally:
            os.close(descriptor)

    def open_part(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """A descriptor of the file with some bytes of a segment, for the caller to close, and their offset there;
        errors as for `part`.
        """
        descriptor, value = self._open(Value(segment, offset, length))
        return descriptor, value.offset

    def _open(self, value: Value) -> tuple[int, Value]:
        """The descriptor of the file with a value, and the value's offset there."""
        if self.place.copies:
            copy = replace(value, offset=0)
            descriptor = _opened(copy_of(self.place.copies, value.segment, value.offset), copy)
            if descriptor >= 0:
                return descriptor, copy
        for _ in range(2):  # the first look may come just before the file is moved to another directory
            for directory in self.place.paths:
                descriptor = _opened(path_of(directory, value.segment), value)
                if descriptor >= 0:
                    return descriptor, value
        raise ValueGone(value.length)

    def close(self) -> None:
        """See `Values`."""
        with self._lock:
            self._let_go()


class WholeValue:
    """A value that was read at once, in memory and as a file.

    Args:
        memory: its memory; it is used again when this is closed.
        size: its size in bytes.
    """

    __slots__ = ("_at", "_memory", "_size")

    def __init__(self, memory: bytearray, size: int) -> None:
        self._memory = memory
        self._size = size
        self._at = 0

    @property
    def data(self) -> memoryview:
        """All of it, until it is closed."""
        return memoryview(self._memory)[: self._size]

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        with memoryview(buffer).cast("B") as view, memoryview(self._memory) as memory:
            size = min(view.nbytes, self._size - self._at)
            view[:size] = memory[self._at : self._at + size]
        self._at += size
        return size

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        end = self._size if size < 0 else min(self._size, self._at + size)
        with memoryview(self._memory) as memory:
            data = bytes(memory[self._at : end])
        self._at = end
        return data

    def readline(self) -> bytes:
        """As of a file; values have no lines."""
        raise ValueDamaged(self._size, "it is no pickle of ours")

    def close(self) -> None:
        """As of a file."""
        memory, self._memory, self._size = self._memory, bytearray(), 0
        if memory and len(_rooms) < _MOST_ROOMS:
            _rooms.append(memory)

    def __enter__(self) -> WholeValue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Checked:
    """A value's file, read from its beginning to its end, and compared with its checksum there, if it has one. Reads
    are repeated until all bytes that the kernel can give are there.

    Args:
        file: the file, at the value's beginning; closed by this object.
        value: the value.
    """

    def __init__(self, file: io.FileIO, value: Value) -> None:
        self._file = file
        self._value = value
        self._crc = 0
        self._left = value.length

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < view.nbytes and (got := self._file.readinto(view[done : done + _AT_ONCE])):
            done += got
        return self._seen(view[:done])

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        if 0 <= size <= _AT_ONCE:
            data = self._file.read(size)
        else:
            memory = bytearray(self._left if size < 0 else min(size, self._left))
            self.readinto(memory)
            return bytes(memory)
        self._seen(memoryview(data))
        return data

    def readline(self) -> bytes:
        """As of a file; values have no lines."""
        raise ValueDamaged(self._value.length, "it is no pickle of ours")

    def _seen(self, data: memoryview) -> int:
        own = data[: self._left]
        if own:
            if self._value.crc:
                self._crc = zlib.crc32(own, self._crc)
            self._left -= len(own)
            if not self._left and self._crc != self._value.crc:
                raise ValueDamaged(self._value.length, "its checksum is wrong")
        return len(data)

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _opened(path: str, value: Value) -> int:
    """A descriptor of the file with a value; -1 for none.

    Raises:
        ValueDamaged: the file cannot hold the value.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise ValueDamaged(value.length, str(error)) from error
    found = os.fstat(descriptor)
    if found.st_size < value.end or not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ValueDamaged(value.length, "its segment is too short")
    return descriptor


def new_memory(size: int) -> bytearray | mmap.mmap:
    """Memory of this many bytes, with undefined content."""
    if size < _FROM_KERNEL:
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _check_there(descriptor: int, value: Value) -> None:
    """Check that a value was not dropped from its segment.

    Raises:
        ValueGone: it was.
        ValueDamaged: it cannot be read.
    """
    try:
        first = os.pread(descriptor, 1, value.offset)
    except OSError as error:
        raise ValueDamaged(value.length, str(error)) from error
    if first == b"\0":
        raise ValueGone(value.length)


def _check(value: Value, data: memoryview) -> None:
    """Check that a value was not dropped from its segment, and is undamaged.

    Raises:
        ValueGone, ValueDamaged: it was, or is not.
    """
    if data.nbytes and not data[0]:
        raise ValueGone(value.length)
    if value.crc and zlib.crc32(data) != value.crc:
        raise ValueDamaged(value.length, "its checksum is wrong")


def _read(descriptor: int, value: Value) -> Buffer:
    memory = new_memory(value.length)
    _fill(descriptor, value, memoryview(memory))
    return memory


def _fill(descriptor: int, value: Value, view: memoryview) -> None:
    at = 0
    while at < value.length:
        done = os.preadv(descriptor, [view[at : at + _AT_ONCE]], value.offset + at)
        if not done:
            raise OSError(errno.EIO, "its segment is cut short")
        at += done


def _mapped(descriptor: int, value: Value) -> Buffer:
    before = value.offset % mmap.ALLOCATIONGRANULARITY
    memory = mmap.mmap(
        descriptor,
        before + value.length,
        flags=mmap.MAP_PRIVATE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
        offset=value.offset - before,
    )
    return memoryview(memory)[before:]


def _most(parts: list[memoryview], most: int) -> list[memoryview]:
    """The first of the parts, as many bytes as can be written at once; only the last part may be large."""
    most = min(most, _AT_ONCE)
    if parts[-1].nbytes <= most:
        return parts
    return parts[:-1] or [parts[0][:most]]


def _behind(parts: list[memoryview], done: int) -> list[memoryview]:
    while parts and done >= parts[0].nbytes:
        done -= parts[0].nbytes
        parts = parts[1:]
    return [parts[0][done:], *parts[1:]] if done else parts


def _failed(path: str, error: OSError) -> DtqError:
    why = error.strerror or str(error)
    return StoreFull(path, why) if error.errno in _NO_ROOM else StoreUnwritable(path, why)
