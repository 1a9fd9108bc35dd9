"""Upkeep of the files of values: synced before a row names them, removed when no row does any more.

Engines. The writers of values make the files (`values.local`), and hold a shared lock on each file with content that
the queue does not have yet. The engine never changes a file that others may read or write:

1. Before a commit, the segments that its rows name are synced, then the names of new files in their directory: by the
   calls that report the values (`sync`), side by side, and by the commit for what they have left.
2. After a commit, a segment whose last value has gone is removed, unless a process holds it. If the process dies in
   between, or the power fails, a later sweep finds the file.
3. A mostly unused segment is rewritten as a file with holes, a few MiB at a time: the used parts at their old places,
   synced, and then put in the place of the old file by a rename, unless a process holds the old file or has written to
   it meanwhile. A process with the old file open or mapped keeps the old content. The next start removes an unfinished
   file.
4. A value that no row names is left alone for a while after it was written: after a restart of the coordinator its
   writer may come back and submit a call that names it. A writer of this run holds its segments as long as it lives:
   a segment of this run that no process holds goes sooner. A value stays that a peer has just been told exists.

All but `asked` and `sync` is for the thread that commits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Final

from dtq.errors import StoreError, StoreFull, StoreUnwritable
from dtq.model.values import Value
from dtq.values.place import Place, number_of

_log = logging.getLogger("dtq.engines")

#: Suffix of a file that is to replace a segment's.
UNFINISHED: Final = ".new"
#: Bytes copied in one step.
_SLICE: Final = 4 << 20
#: Approximate seconds of checks in one step.
_LOOKS_S: Final = 0.005
#: A segment is rewritten when less than this share of it is used, and at least this many bytes can be given back.
_SPARSE_SHARE: Final = 2
_WORTHWHILE: Final = 1 << 20
#: Quiet seconds before a segment is rewritten, counted from the last release in it: if values go in the order in which
#: they came, all of it goes soon.
_QUIET_S: Final = 5.0
#: Tries to put a finished file in the place of one that a process holds.
_TRIES: Final = 50
#: Seconds for which an unnamed value stays that was written before the last start.
GRACE_S: Final = 600.0
#: Seconds for which an unnamed value stays that was written since, if no process holds its segment: the result of a
#: slot that has ended may be on its way.
_FRESH_S: Final = 60.0
#: Seconds for which a segment stays after a peer was told that it exists.
_ASKED_S: Final = 60.0
#: Seconds between two sweeps, and between two tries to remove a segment.
_SWEEP_S: Final = 60.0
_SWEEP_SOON_S: Final = 10.0
_BLOCK: Final = 512
#: Most segments of which it is remembered that values in them were synced before their commit.
_MOST_SYNCED: Final = 4096
#: Locks for syncing; segments share them.
_LOCKS: Final = 64
_NOTHING: Final[frozenset[tuple[int, int]]] = frozenset()
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: The used parts of a segment: beginnings and ends of values, rising.
Ranges = list[tuple[int, int]]


class Segments:
    """The segments at a place.

    Args:
        place: their place.
        store: name of the store, for errors.
        sync: whether a commit waits until its values are on the disk.
        used: returns the parts of a segment that committed rows use.
    """

    def __init__(self, place: Place, store: str, *, sync: bool, used: Callable[[int], Ranges]) -> None:
        self.place = place
        self._store = store
        self._sync = sync
        self._used = used
        #: Segments to check; those that could not be removed yet; those in which a value must be freed first.
        self._due: dict[int, None] = {}
        #: Those of them that only a sweep has found.
        self._found: set[int] = set()
        self._waiting: set[int] = set()
        self._settled: set[int] = set()
        #: Segments whose names are on the disk.
        self._named: set[int] = set()
        #: The values that `sync` has put on the disk and no commit has named yet, where they begin and end in each.
        self._synced: dict[int, set[tuple[int, int]]] = {}
        #: Segments whose sync has failed: the kernel may take unwritten data for written.
        self._failed: set[int] = set()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._asked: dict[int, float] = {}
        #: When a value was last freed in segments that are not empty.
        self._freed: dict[int, float] = {}
        self._rewrite: _Rewrite | None = None
        self._sweep_at = time.monotonic() + _SWEEP_SOON_S
        self._began = time.time()
        self._directories = {path: _directory(path) for path in place.paths}
        for path in place.paths:
            _remove_unfinished(path)

    def close(self) -> None:
        """Stop; an unfinished file is removed."""
        self._abandon()

    # -- before a commit ------------------------------------------------------------------------------------------

    def sync(self, values: Iterable[Value]) -> None:
        """See `Engine.sync`."""
        if not self._sync:
            return
        for number, wanted in _by_segment(values).items():
            try:
                path = self.place.find(number)
                self._ensure(number, path, wanted)
                if number not in self._named:
                    _sync_directory(os.path.dirname(path))
                    self._named.add(number)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("values could not be synced before their commit: %s", error)
                continue
            if len(self._synced) >= _MOST_SYNCED:
                self._synced.clear()  # of calls that were refused
            self._synced.setdefault(number, set()).update([(value.offset, value.end) for value in wanted])

    def ensure(self, values: Iterable[Value]) -> None:
        """Put values on the disk, before rows that name them. Missing values are logged: they are lost already.

        Raises:
            StoreFull: the disk has no room for written data.
            StoreUnwritable: they cannot be synced for another reason, or their directory was moved away.
        """
        by_segment = _by_segment(values)
        if self._rewrite is not None and self._rewrite.number in by_segment:
            self._abandon()
        directories = set()
        for number, wanted in by_segment.items():
            synced = self._synced.pop(number, _NOTHING)
            wanted = [value for value in wanted if (value.offset, value.end) not in synced]
            if not wanted:
                self._settled.discard(number)
                continue
            try:
                path = self.place.find(number)
                self._ensure(number, path, wanted)
            except FileNotFoundError:
                self._check_presence()
                _log.error("%d values in the segment %016x are missing; rows name them", len(wanted), number)
            except OSError as error:
                raise self._error(error) from error
            else:
                self._settled.discard(number)
                if self._sync and number not in self._named:
                    directories.add(os.path.dirname(path))
        try:
            for directory in directories:
                _sync_directory(directory)
        except OSError as error:
            raise self._error(error) from error
        self._named |= by_segment.keys()

    def _check_presence(self) -> None:
        """Check that the directories are still the same.

        Raises:
            StoreUnwritable: one is not.
        """
        for path, seen in self._directories.items():
            if _directory(path) != seen:
                why = f"{path} was removed, moved or replaced while it was in use; put it back, or stop the coordinator"
                raise StoreUnwritable(self._store, why)

    def _ensure(self, number: int, path: str, values: list[Value]) -> None:
        """Put values of a segment on the disk.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: they cannot be synced.
        """
        # One at a time: the kernel tells of a failure once, and whoever comes then has to know of it.
        with self._locks[number % _LOCKS]:
            file = os.open(path, (os.O_RDWR if number in self._failed else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                size = os.fstat(file).st_size
                if (short := sum(value.end > size for value in values)) > 0:
                    _log.error("%d values in the segment %016x are cut short; rows name them", short, number)
                if self._sync:
                    if number in self._failed:
                        for value in values:
                            _write_again(file, value)
                    os.fdatasync(file)
            except OSError:
                self._failed.add(number)
                raise
            finally:
                os.close(file)

    def _error(self, error: OSError) -> StoreError:
        why = error.strerror or str(error)
        return (StoreFull if error.errno in _NO_ROOM else StoreUnwritable)(self._store, why)

    # -- after a commit -------------------------------------------------------------------------------------------

    def freed(self, segments: Iterable[int]) -> None:
        """Note that values in these segments are no longer in use."""
        now = time.monotonic()
        for number in segments:
            self._settled.discard(number)
            self._due[number] = None
            self._found.discard(number)
            self._freed[number] = now

    def asked(self, segments: Iterable[int]) -> None:
        """Note that a peer has been told that values in these segments exist, and may name them soon. Any thread."""
        now = time.monotonic()
        for number in segments:
            self._asked[number] = now

    @property
    def unfinished(self) -> bool:
        """Whether there is work to do now."""
        return self._rewrite is not None or bool(self._due) or time.monotonic() >= self._sweep_at

    @property
    def again_s(self) -> float:
        """Seconds until there may be work to do."""
        return max(0.0, self._sweep_at - time.monotonic())

    def step(self) -> None:
        """Do a few milliseconds' work."""
        try:
            if self._rewrite is not None:
                self._go_on()
                return
            now = time.monotonic()
            if now >= self._sweep_at:
                self._sweep(now)
                now = time.monotonic()
            while self._due and time.monotonic() - now < _LOOKS_S:
                number = next(iter(self._due))
                del self._due[number]
                if number in self._found:  # a held one can wait for the next sweep
                    self._found.discard(number)
                else:
                    self._wait(number, now)
                if self._look(number, now):
                    break
        except OSError as error:
            _log.warning("the room of unused values cannot be given back now: %s", error)
            self._abandon()

    def _sweep(self, now: float) -> None:
        """Find segments that no event has reported: of departed writers, of commits before the last start."""
        for number, path in self.place.segments().items():
            if number not in self._settled and number not in self._due:
                with contextlib.suppress(FileNotFoundError):
                    if number in self._waiting:
                        self._due[number] = None
                    elif time.time() - os.stat(path).st_mtime > _FRESH_S:
                        self._due[number] = None
                        self._found.add(number)
        self._waiting.clear()
        self._asked = {number: at for number, at in list(self._asked.items()) if now - at < _ASKED_S}
        self._sweep_at = now + _SWEEP_S

    def _look(self, number: int, now: float) -> bool:
        """Check whether a segment can be removed, or shortened; whether it is being rewritten now."""
        try:
            path = self.place.find(number)
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._forget(number)
            return False
        try:
            if self._is_asked(number, now) or not self._may_go(file):
                return False
            used = self._used(number)
            if not used:
                os.unlink(path)
                self._forget(number)
            elif not _is_sparse(file, used):
                self._done(number)
            elif now - self._freed.get(number, 0.0) >= _QUIET_S:
                self._rewrite = _Rewrite(number, path, file, used)
                file = -1
                return True
        finally:
            if file >= 0:
                os.close(file)
        return False

    def _is_asked(self, number: int, now: float) -> bool:
        at = self._asked.get(number)
        return at is not None and now - at < _ASKED_S

    def _may_go(self, file: int) -> bool:
        """Whether no process holds a segment, nor may come back for it; it is locked then."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        written = os.fstat(file).st_mtime
        return written >= self._began or written < time.time() - GRACE_S

    def _wait(self, number: int, now: float) -> None:
        self._waiting.add(number)
        self._sweep_at = min(self._sweep_at, now + _SWEEP_SOON_S)

    def _done(self, number: int) -> None:
        self._waiting.discard(number)
        self._settled.add(number)
        self._freed.pop(number, None)

    def _forget(self, number: int) -> None:
        for known in (self._waiting, self._settled, self._named, self._failed, self._found):
            known.discard(number)
        self._due.pop(number, None)
        self._freed.pop(number, None)

    # -- rewriting ------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        rewrite = self._rewrite
        assert rewrite is not None
        if rewrite.step(sync=self._sync):
            self._rewrite = None
            rewrite.close()
            self._done(rewrite.number)
        elif rewrite.hopeless:
            self._abandon()

    def _abandon(self) -> None:
        rewrite, self._rewrite = self._rewrite, None
        if rewrite is not None:
            rewrite.close()


class _Rewrite:
    """A segment that is being rewritten.

    Args:
        number: the segment.
        path: its file.
        source: that file, open and locked; this object unlocks and closes it.
        used: its used parts.
    """

    def __init__(self, number: int, path: str, source: int, used: Ranges) -> None:
        self.number = number
        self._path = path
        self._source = source
        self._target = -1
        self._size = max(end for _, end in used)
        self._left = used[::-1]
        self._made = path + UNFINISHED
        self._seen = _identity(source)
        self._tries = _TRIES
        fcntl.flock(source, fcntl.LOCK_UN)  # no process has to wait for this one

    @property
    def hopeless(self) -> bool:
        """Whether a process holds the old file for long, or has written to it."""
        return self._tries == 0

    def step(self, *, sync: bool) -> bool:
        """Copy some of it; whether the new file has replaced the old one.

        Raises:
            OSError: it cannot be written.
        """
        if self._target < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            self._target = os.open(self._made, flags, 0o600)
            os.ftruncate(self._target, self._size)
        room = _SLICE
        while self._left and room > 0:
            start, end = self._left.pop()
            data = os.pread(self._source, min(end - start, room), start)
            if not data:
                continue  # the file is cut short: the missing part is lost already
            start += _put(self._target, data, start)
            room -= len(data)
            if start < end:
                self._left.append((start, end))
        if sync:
            os.fdatasync(self._target)
        if self._left or not self._take_back():
            return False
        os.rename(self._made, self._path)
        self._made = ""
        if sync:
            _sync_directory(os.path.dirname(self._path))
        return True

    def _take_back(self) -> bool:
        """Lock the old file again, if it is unchanged."""
        try:
            fcntl.flock(self._source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._tries -= 1
            return False
        if _identity(self._source) == self._seen == _identity(self._path):
            return True
        self._tries = 0
        return False

    def close(self) -> None:
        """Close; an unfinished file is removed."""
        os.close(self._source)
        if self._target >= 0:
            os.close(self._target)
            if self._made:
                with contextlib.suppress(OSError):
                    os.unlink(self._made)


def _by_segment(values: Iterable[Value]) -> dict[int, list[Value]]:
    found: dict[int, list[Value]] = {}
    for value in values:
        found.setdefault(value.segment, []).append(value)
    return found


def _directory(path: str) -> tuple[int, int] | None:
    """The directory's identity; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _identity(file: int | str) -> tuple[int, int, int, int] | None:
    """The file's identity, and the time of its last write; None if it does not exist."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_sparse(file: int, used: Ranges) -> bool:
    on_disk = os.fstat(file).st_blocks * _BLOCK
    in_use = sum(end - start for start, end in used)
    return in_use * _SPARSE_SHARE < on_disk and on_disk - in_use >= _WORTHWHILE


def _put(file: int, data: bytes, at: int) -> int:
    """Write all of the bytes at an offset; return their number."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(file, view[done:], at + done)
    return done


def _write_again(file: int, value: Value) -> None:
    """Write a value's pages in memory to the disk once more: after a failed sync the kernel would not."""
    crc, at = 0, value.offset
    while at < value.end and (data := os.pread(file, min(_SLICE, value.end - at), at)):
        crc = zlib.crc32(data, crc)
        at += _put(file, data, at)
    if value.crc and crc != value.crc:
        _log.error("a value of %d bytes in the segment %016x is damaged", value.length, value.segment)


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_unfinished(directory: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if name.endswith(UNFINISHED) and number_of(name.removesuffix(UNFINISHED)) is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))


def found(place: Place) -> dict[int, int]:
    """The sizes of all segments at a place, by number."""
    sizes = {}
    for number, path in place.segments().items():
        with contextlib.suppress(FileNotFoundError):
            sizes[number] = os.path.getsize(path)
    return sizes
