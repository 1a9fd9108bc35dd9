"""Calls on values, for peers that cannot reach their files; and the place of the files, for those that can.

A session writes to segments whose numbers it has drawn, and to no others. Written bytes never change: so no peer can
change a value that another has read, or that is on disk, and a call may be repeated without harm. The coordinator holds
a shared lock (flock(2)) on each such segment, as a writer with access to the file would, until the session is done with
it or gone.

Nothing here is done under the coordinator's lock: files are slow.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dtq.errors import DtqError, NotPermitted, StoreError, StoreFull, StoreUnwritable, TooLarge, ValueGone
from dtq.model import pages, values
from dtq.model.coverage import Coverage
from dtq.model.messages import ValuesOffer
from dtq.model.values import CHUNK, MIN_VALUE, Value
from dtq.values.base import Draft
from dtq.values.local import LocalValues
from dtq.values.offers import Proof, offer_of
from dtq.values.place import SEGMENT_BYTES, Place, path_of

log = logging.getLogger("dtq.coordinator")

#: Most segments that peers write to at a time, a descriptor each. Beyond it the session with the most of them loses its
#: oldest: values in it that were not submitted are lost.
MOST_OPEN: Final = 1024
#: Time for which a departed session's segments are kept, in seconds: as after a restart of the coordinator, a client
#: that was cut off may still submit them.
KEPT_S: Final = 600.0
#: Most separate ranges written to a segment: a gap is a piece that was lost on the way.
_MOST_RANGES: Final = 4096
#: Longest wait for a segment that is being rewritten, in seconds, and the pause between two tries.
_PATIENCE_S: Final = 10.0
_EVERY_S: Final = 0.01
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Flags for files that others have made: opening a pipe or the like in their place must not block.
_SAFELY: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
#: Most segments that one call holds.
_MOST_HELD: Final = 512


class _Upload:
    """A segment that a peer writes to.

    Args:
        session: its owner.
        segment: its number.
        place: the place of segments.
    """

    def __init__(self, session: str, segment: int, place: Place) -> None:
        self.session = session
        self.segment = segment
        self.lock = threading.Lock()
        self.written = Coverage()
        self.end = 0
        self._unsynced = 0
        #: Up to where the kernel has begun to write to the disk.
        self._begun = 0
        #: When its session was seen to be gone.
        self.lost_at: float | None = None
        self._place = place
        self._path = ""
        self._file = -1
        self._closed = False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write a piece; with the lock.

        Raises:
            NotPermitted: the bytes there differ, or another session writes to the segment.
            StoreFull, StoreUnwritable: it cannot be written.
        """
        if self._closed:
            raise NotPermitted("writing to a segment that this session is done with")
        try:
            if self._file < 0:
                self._open()
            if offset < self.end:
                self._refuse_another(offset, data)
            self._place.piece(self._file, len(data))
            rest, at = memoryview(data), offset
            while rest:
                done = os.pwrite(self._file, rest, at)
                rest, at = rest[done:], at + done
        except DtqError:  # one of them is an OSError
            raise
        except OSError as error:
            raise _failed(self._path or self._place.paths[-1], error) from error
        self.written.add(offset, at)
        self.end = max(self.end, at)
        self._unsynced += len(data)
        self._begun = self._place.begin_syncing(self._file, min(self._begun, offset), at)
        if self._place.sync_from and self._unsynced >= self._place.sync_from:
            self._sync()

    def _sync(self) -> None:
        """Sync the written pieces, so that no commit has to wait for many of them.

        Raises:
            StoreFull, StoreUnwritable: the sync fails.
        """
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise _failed(self._path, error) from error
        self._unsynced = 0

    def has(self, value: Value) -> bool:
        """Whether all of a value was written."""
        with self.lock:
            found = self.written.interval(value.offset)
        return found is not None and found[1] >= value.end

    def _refuse_another(self, offset: int, data: bytes | memoryview) -> None:
        """Make sure that a rewritten range has the same bytes as before."""
        end = offset + len(data)
        for lo, hi in self.written:
            lo, hi = max(lo, offset), min(hi, end)
            if lo < hi and os.pread(self._file, hi - lo, lo) != data[lo - offset : hi - offset]:
                raise NotPermitted("changing what is written in a segment")
        if sum(1 for _ in self.written) >= _MOST_RANGES:
            raise NotPermitted("writing to a segment in so many pieces")

    def _open(self) -> None:
        """Open the segment's file: a new one, or one from before this coordinator's start."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._file < 0:
            try:
                self._path = self._place.find(self.segment)
                file = os.open(self._path, os.O_RDWR | _SAFELY)
            except FileNotFoundError:
                self._make()
                continue
            try:
                if self._take(file) and _is_at(file, self._path):
                    self._file, file = file, -1
                    self.end = self._begun = os.fstat(self._file).st_size
                    self.written.add(0, self.end)
                    return
            finally:
                if file >= 0:
                    os.close(file)
            if time.monotonic() > deadline:
                raise StoreUnwritable(self._path, "its segment is being rewritten")
            time.sleep(_EVERY_S)

    def _make(self) -> None:
        self._path = path_of(self._place.directory(), self.segment)
        with contextlib.suppress(FileExistsError):
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is_at(file, self._path):
                self._file = file
            else:  # it was just removed as unused
                os.close(file)

    def _take(self, file: int) -> bool:
        """Lock a file; False if it is being rewritten or removed.

        Raises:
            NotPermitted: another process writes to it, or holds its values.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _shared(file):
                return False
            raise NotPermitted("writing to a segment of somebody else's") from None
        fcntl.flock(file, fcntl.LOCK_SH)
        return True

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._closed = True
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _failed(path: str, error: OSError) -> StoreError:
    why = error.strerror or str(error)
    return StoreFull(path, why) if error.errno in _NO_ROOM else StoreUnwritable(path, why)


class Hold:
    """Segments that are neither removed nor rewritten before it is closed, and their sizes.

    Args:
        place: the place of segments.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._files: list[int] = []
        self._sizes: dict[int, int] = {}

    def size(self, segment: int) -> int:
        """Bytes of a segment; 0 if it does not exist."""
        size = self._sizes.get(segment)
        if size is None:
            size = self._sizes[segment] = self._have(segment)
        return size

    def _have(self, segment: int) -> int:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                path = self._place.find(segment)
                file = os.open(path, os.O_RDONLY | _SAFELY)
            except OSError:
                return 0
            try:
                taken = _shared(file) and _is_at(file, path)
                found = os.fstat(file)
                if taken and len(self._files) < _MOST_HELD:
                    self._files.append(file)
                    file = -1
            finally:
                if file >= 0:
                    os.close(file)
            if taken or time.monotonic() > deadline:
                return found.st_size if stat.S_ISREG(found.st_mode) else 0
            time.sleep(_EVERY_S)

    def close(self) -> None:
        """Release them."""
        while self._files:
            os.close(self._files.pop())


def _shared(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: str) -> bool:
    """Whether the path still leads to this file."""
    ours = os.fstat(file)
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (now.st_dev, now.st_ino)


class PeerValues:
    """Peers' values: written and read by calls, and the offer of their place.

    Args:
        place: the place of segments.
        holds: whether durable rows name all of some values.
        by_reference: whether peers on this machine may write and read the files themselves.
    """

    def __init__(self, place: Place, holds: Callable[[Sequence[Value]], bool], *, by_reference: bool) -> None:
        self.place = place
        self._holds = holds
        self._files = LocalValues(place)
        self._lock = threading.Lock()
        #: By number, in the order of the last write.
        self._uploads: dict[int, _Upload] = {}
        #: When `tick` has work to do, at the latest; None for never.
        self.next_at: float | None = None
        self._proof: Proof | None = None
        if by_reference:
            try:
                self._proof = Proof(place)
            except OSError as error:
                log.warning("values travel over the connection also on this machine: %s", error)
        #: The offer to peers.
        self.offer: ValuesOffer = offer_of(place, self._proof)

    def write(self, session: str, segment: int, offset: int, data: bytes | memoryview) -> None:
        """See `Service.write_value`."""
        if not data:
            self._done(session, segment)
            return
        most = SEGMENT_BYTES + self.place.max_value
        if offset + len(data) > most:
            raise TooLarge("a segment of values", offset + len(data), most)
        upload = self._upload(session, segment)
        try:
            with upload.lock:
                upload.write(offset, data)
        except (NotPermitted, StoreError):
            if not upload.end:  # never opened
                self._drop(upload)
            raise

    def _upload(self, session: str, segment: int) -> _Upload:
        with self._lock:
            upload = self._uploads.pop(segment, None)
            if upload is None:
                upload = _Upload(session, segment, self.place)
            self._uploads[segment] = upload
            surplus = self._surplus() if len(self._uploads) > MOST_OPEN else None
        if surplus is not None:
            surplus.close()
        if upload.session != session:
            raise NotPermitted("writing to a segment of another session's")
        return upload

    def _surplus(self) -> _Upload:
        """Remove the oldest upload of the session with the most of them."""
        counts: dict[str, int] = {}
        for upload in self._uploads.values():
            counts[upload.session] = counts.get(upload.session, 0) + 1
        most = max(counts, key=counts.__getitem__)
        oldest = next(upload for upload in self._uploads.values() if upload.session == most)
        log.warning("a peer writes to more than %d segments of values at a time; the first is closed", counts[most] - 1)
        return self._uploads.pop(oldest.segment)

    def _done(self, session: str, segment: int) -> None:
        with self._lock:
            upload = self._uploads.get(segment)
            if upload is None or upload.session != session:
                return
        self._drop(upload)

    def _drop(self, upload: _Upload) -> None:
        with self._lock:
            if self._uploads.get(upload.segment) is upload:
                del self._uploads[upload.segment]
        upload.close()

    def read(self, segment: int, offset: int, length: int) -> bytes:
        """See `Service.read_value`."""
        return self._files.part(segment, offset, length)

    def open(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """See `Session.open_value`."""
        return self._files.open_part(segment, offset, length)

    def check(self, session: str, named: Iterable[Value], hold: Hold) -> None:
        """Make sure that the values exist that a session's page names.

        Args:
            session: the page's sender.
            named: the values.
            hold: keeps them until it is closed.

        Raises:
            TooLarge: one is larger than values may be.
            ValueGone: one does not exist, or is being written by another session.
        """
        foreign: list[Value] = []
        for value in named:
            if value.length > self.place.max_value:
                raise TooLarge("a value", value.length, self.place.max_value)
            if value.end > hold.size(value.segment):
                raise ValueGone(value.length)
            upload = self._uploads.get(value.segment)
            if upload is None:
                continue
            if upload.session != session:
                foreign.append(value)
            elif not upload.has(value):  # it was written to another run of the coordinator, which had another place
                raise ValueGone(value.length)
        if foreign and not self._holds(foreign):
            raise ValueGone(foreign[0].length)

    def hold(self) -> Hold:
        """An empty hold."""
        return Hold(self.place)

    def are_same(self, one: Value, other: Value) -> bool:
        """Whether two values have the same bytes.

        Raises:
            ValueGone, ValueDamaged: one of them cannot be read.
        """
        if one.length != other.length or one.trailer != other.trailer:
            return False
        if one == other or (one.crc and one.crc == other.crc):
            return True
        with self._files.stream(one) as ours, self._files.stream(other) as theirs:
            for at in range(0, one.length, CHUNK):
                size = min(CHUNK, one.length - at)
                if ours.read(size)[:size] != theirs.read(size)[:size]:
                    return False
        return True

    def content(self, value: Value) -> bytes:
        """All of a value.

        Raises:
            ValueGone, ValueDamaged: it cannot be read.
        """
        return self._files.content(value)

    def take_out(self, page: bytes) -> tuple[bytes, list[Value]]:
        """Write a page's large blobs as values, if there is room for them.

        Returns:
            The page that names them, and the segments to be `settled` when that page is on disk.
        """
        blobs = pages.parts(page)
        large = [
            place
            for place, blob in enumerate(blobs)
            if len(blob) >= MIN_VALUE and not values.is_description(bytes(blob[:1]))
        ]
        try:
            made = self._files.write_all([blobs[place] for place in large])
        except DtqError as error:  # their later place has some room set aside
            log.warning("%d large blobs stay in their page: %s", len(large), error)
            return page, []
        for place, value in zip(large, made, strict=True):
            blobs[place] = memoryview(values.describe([value]))
        return pages.pack(blobs, described=True), made

    def draft(self) -> Draft:
        """Begin a value of the coordinator's own, to be `settled` when the row that names it is on disk.

        Raises:
            DtqError: it cannot be written.
        """
        return self._files.draft()

    def settled(self, made: Sequence[Value]) -> None:
        """Release segments that `take_out` has written: durable rows name them, or nobody needs them."""
        self._files.settled(made)

    def put_in(self, page: bytes, most: int, room: int) -> bytes:
        """Replace descriptions in a page by their values, if a value has at most this many bytes and is the whole blob.

        Args:
            page: the page.
            most: the number of bytes.
            room: bytes that the page may have.
        """
        blobs = pages.unpack(page)
        room -= len(page)
        wanted: dict[int, Value] = {}
        for place, blob in enumerate(blobs):
            if not values.is_description(blob):
                continue
            named = values.named(blob)
            value = named[0]
            if len(named) > 1 or values.rest(blob) or value.trailer or not value.length <= min(most, room):
                continue
            wanted[place] = value
            room -= value.length
        for place, content in zip(wanted, self._files.contents(wanted.values()), strict=True):
            if content is not None:  # else the reader of the value gets the error
                blobs[place] = content
        return pages.pack(blobs, described=True)

    def tick(self, is_there: Callable[[str], bool], now: float) -> None:
        """Release segments of sessions that have been gone for long.

        Args:
            is_there: whether a session is known.
            now: the time.
        """
        gone: list[_Upload] = []
        self.next_at = None
        with self._lock:
            for upload in self._uploads.values():
                if is_there(upload.session):
                    upload.lost_at = None
                    continue
                if upload.lost_at is None:
                    upload.lost_at = now
                if upload.lost_at + KEPT_S <= now:
                    gone.append(upload)
                else:
                    self.next_at = min(upload.lost_at + KEPT_S, self.next_at or math.inf)
        for upload in gone:
            self._drop(upload)

    def close(self) -> None:
        """End: no session writes or reads any more."""
        for upload in list(self._uploads.values()):
            self._drop(upload)
        self._files.close()
        if self._proof is not None:
            self._proof.remove()
