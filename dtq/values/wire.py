"""Values that are written and read by calls of the service, a piece at a time: for whoever cannot reach the files.

A value is never whole in memory here, but in what `fetch` gives. Segments are kept as by `local`: each writer draws
their numbers, and fills one after the other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Final, Protocol, cast

from dtq.errors import DtqError, TooLarge, ValueDamaged, ValueGone
from dtq.model.messages import ANSWER_ENVELOPE
from dtq.model.values import ALIGNMENT, CHUNK, MIN_CALLED, Value
from dtq.values.base import Buffer
from dtq.values.local import new_memory
from dtq.values.place import SEGMENT_BYTES

#: Most parts of a piece that are kept apart until it is sent.
_MOST_PARTS: Final = 256


class ValueCalls(Protocol):
    """The calls of the service that carry values."""

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        """See `Service.write_value`."""
        ...

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        """See `Service.read_value`."""
        ...


def write_parts(calls: ValueCalls, segment: int, offset: int, parts: Sequence[memoryview]) -> None:
    """Write a piece that lies in parts. Whoever can do it without a copy has a method for it."""
    in_place = getattr(calls, "write_value_parts", None)
    if in_place is None:
        calls.write_value(segment, offset, b"".join(parts))
    else:
        in_place(segment, offset, parts)


def read_into(calls: ValueCalls, segment: int, offset: int, place: memoryview) -> None:
    """Read a piece to where it is to be. Whoever can do it without a copy has a method for it.

    Raises:
        ValueDamaged: there is less of it.
    """
    in_place = getattr(calls, "read_value_into", None)
    if in_place is not None:
        in_place(segment, offset, place)
        return
    data = calls.read_value(segment, offset, place.nbytes)
    if len(data) != place.nbytes:
        raise ValueDamaged(place.nbytes, "its segment is too short")
    place[:] = data


class ValueService(Protocol):
    """The calls, on a connection of their own: made again where their answer was lost. Any thread.

    Every call raises, besides what `Service` says, `Unreachable` where the coordinator is away and does not come back
    in time.
    """

    @property
    def chunk(self) -> int:
        """How many bytes one call carries (`chunk_of`)."""
        ...

    @property
    def epoch(self) -> int:
        """The number of the coordinator's run that was connected to last."""
        ...

    def write_value(self, segment: int, offset: int, parts: Sequence[memoryview]) -> None:
        """See `Service.write_value`; the piece lies in parts."""
        ...

    def read_value(self, segment: int, offset: int, place: memoryview) -> None:
        """See `Service.read_value`; the piece goes there, and has as many bytes."""
        ...

    def close(self) -> None:
        """Disconnect for good; a call under way ends."""
        ...


def chunk_of(max_message: int) -> int:
    """How many bytes of a value one call carries.

    Args:
        max_message: largest message in bytes.
    """
    return max(1, min(CHUNK, max_message - ANSWER_ENVELOPE))


class _Segment:
    """A segment of this writer."""

    __slots__ = ("number", "size", "unsettled")

    def __init__(self) -> None:
        self.number = secrets.randbits(63)
        self.size = 0
        #: How many values in it are still ours.
        self.unsettled = 0


class WireDraft:
    """See `Draft`."""

    def __init__(self, values: WireValues, segment: _Segment) -> None:
        self._values = values
        self._service = values.service
        self._segment = segment
        self._start = segment.size
        #: How many bytes were sent; what is to be sent next, and how many bytes that has.
        self._sent = 0
        self._next: list[memoryview] = []
        self._gathered = 0
        #: How many bytes one call carries; so many that are written are sent at once.
        self.chunk = values.service.chunk
        #: The checksum of what was sent.
        self._sent_crc = 0
        self._epoch = 0

    @property
    def length(self) -> int:
        """See `Draft`."""
        return self._sent + self._gathered

    def write(self, data: Buffer, /) -> int:
        """See `Draft`."""
        view = memoryview(data).cast("B")
        if self.length + view.nbytes > self._values.max_value:
            raise TooLarge(self._values.what, self.length + view.nbytes, self._values.max_value)
        at = 0
        while at < view.nbytes:
            part = view[at : at + self.chunk - self._gathered]
            at += part.nbytes
            self._next.append(part)
            self._gathered += part.nbytes
            if self._gathered == self.chunk:
                self._flush()
        if len(self._next) >= _MOST_PARTS:
            self._next = [memoryview(b"".join(self._next))]
        return view.nbytes

    def _flush(self) -> None:
        parts, self._next, size, self._gathered = self._next, [], self._gathered, 0
        self._service.write_value(self._segment.number, self._start + self._sent, parts)
        before, self._epoch = self._epoch, self._service.epoch
        if self._sent and before != self._epoch:
            self._verify()
        self._sent += size
        for part in parts:
            self._sent_crc = zlib.crc32(part, self._sent_crc)

    def _verify(self) -> None:
        """Make sure that a coordinator which was restarted has all that was sent before: it may have lost power."""
        crc = 0
        place = memoryview(bytearray(min(self.chunk, self._sent)))
        try:
            for at in range(0, self._sent, self.chunk):
                piece = place[: self._sent - at]
                self._service.read_value(self._segment.number, self._start + at, piece)
                crc = zlib.crc32(piece, crc)
        except ValueDamaged as error:
            raise ValueGone(self.length) from error
        if crc != self._sent_crc:
            raise ValueGone(self.length)

    def finish(self, trailer: bytes = b"") -> Value:
        """See `Draft`."""
        if trailer:
            self.write(trailer)
        if self._next:
            self._flush()
        crc = self._sent_crc if self._values.checked else 0
        value = Value(self._segment.number, self._start, self._sent, crc, len(trailer))
        self._segment.unsettled += 1
        self._give_back()
        return value

    def abandon(self) -> None:
        """See `Draft`."""
        self._sent += self.chunk  # of the last piece it is not known whether it has arrived
        self._give_back()

    def _give_back(self) -> None:
        self._segment.size = -(-(self._start + self._sent) // ALIGNMENT) * ALIGNMENT
        self._values.give_back(self._segment)


class WireValues:
    """See `base.Values`.

    Args:
        service: the calls; closed with this.
        max_value: largest value in bytes.
        checked: whether values are written with their checksums.
        what: what a value is called where it is too large.
    """

    def __init__(self, service: ValueService, *, max_value: int, checked: bool, what: str = "the value") -> None:
        self.service = service
        self.what = what
        self.max_value = max_value
        self.checked = checked
        self._lock = threading.Lock()
        self._process = os.getpid()
        #: The run of the coordinator to which they were written; 0 while none was met.
        self._epoch = service.epoch
        #: Segments with room, that nobody writes to now; all that are ours; and those that we are done with.
        self._free: list[_Segment] = []
        self._held: dict[int, _Segment] = {}
        self._done: list[int] = []

    @property
    def least(self) -> int:
        """See `base.Values`."""
        return MIN_CALLED

    def draft(self) -> WireDraft:
        """See `base.Values`."""
        with self._lock:
            if os.getpid() != self._process:
                self._forget()
            done, self._done = self._done, []
            if self.service.epoch != self._epoch:
                # Another run of the coordinator may have another place: what is written next begins there.
                if self._epoch:
                    self._free.clear()
                self._epoch = self.service.epoch
            segment = self._free.pop() if self._free else _Segment()
            self._held[segment.number] = segment
        for number in done:
            self._say_done(number)
        return WireDraft(self, segment)

    def _say_done(self, segment: int) -> None:
        with contextlib.suppress(DtqError):  # the coordinator finds out when the session is gone
            self.service.write_value(segment, 0, ())

    def give_back(self, segment: _Segment) -> None:
        """A draft is over."""
        with self._lock:
            if self._held.get(segment.number) is not segment:
                return  # closed meanwhile
            if segment.size < SEGMENT_BYTES:
                self._free.append(segment)
            elif not segment.unsettled:
                self._end(segment)

    def settled(self, values: Iterable[Value]) -> None:
        """See `base.Values`."""
        with self._lock:
            for value in values:
                segment = self._held.get(value.segment)
                if segment is None:
                    continue
                segment.unsettled -= 1
                if not segment.unsettled and segment.size >= SEGMENT_BYTES:
                    self._end(segment)

    def _end(self, segment: _Segment) -> None:
        del self._held[segment.number]
        self._done.append(segment.number)

    def _forget(self) -> None:
        self._held.clear()
        self._free.clear()
        self._done.clear()
        self._process = os.getpid()

    def stream(self, value: Value) -> BinaryIO:
        """See `base.Values`."""
        return cast(BinaryIO, _Stream(self.service, value))

    def fetch(self, value: Value) -> Buffer:
        """See `base.Values`."""
        memory = new_memory(value.length)
        view = memoryview(memory)
        with _Stream(self.service, value) as stream:
            at = 0
            while at < value.length:
                at += stream.readinto(view[at:])
        return memory

    def close(self) -> None:
        """See `base.Values`."""
        with self._lock:
            self._forget()
        self.service.close()


class _Stream:
    """A value, read from its beginning to its end, and held against its checksum there.

    Args:
        service: the calls.
        value: the value.
    """

    def __init__(self, service: ValueService, value: Value) -> None:
        self._service = service
        self._value = value
        self._chunk = service.chunk
        self._at = 0
        self._crc = 0
        #: What is left of the piece that was read last, and where such pieces go.
        self._here = memoryview(b"")
        self._memory: bytearray | None = None

    def readinto(self, buffer: Any) -> int:
        """As of a file: all of the buffer, or as much as there is."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < view.nbytes:
            if not self._here:
                size = min(self._chunk, self._value.length - self._at)
                if not size:
                    break
                if view.nbytes - done >= size:
                    self._take(view[done : done + size])
                    done += size
                    continue
                if self._memory is None:
                    self._memory = bytearray(size)
                piece = memoryview(self._memory)[:size]
                self._take(piece)
                self._here = piece
            part = self._here[: view.nbytes - done]
            view[done : done + len(part)] = part
            self._here = self._here[len(part) :]
            done += len(part)
        return done

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        left = len(self._here) + self._value.length - self._at
        if 0 <= size <= len(self._here):
            data, self._here = self._here[:size], self._here[size:]
            return bytes(data)
        found = bytearray(left if size < 0 else min(size, left))
        self.readinto(found)
        return bytes(found)

    def readline(self) -> bytes:
        """As of a file; what was written here has no lines."""
        raise ValueDamaged(self._value.length, "it is no pickle of ours")

    def _take(self, piece: memoryview) -> None:
        """Have the next piece here."""
        value, size = self._value, piece.nbytes
        self._service.read_value(value.segment, value.offset + self._at, piece)
        if self._at == 0 and not piece[0]:
            raise ValueGone(value.length)
        self._at += size
        if not value.crc and self._at == value.length > size and self._is_dropped():
            raise ValueGone(value.length)
        if value.crc:
            self._crc = zlib.crc32(piece, self._crc)
            if self._at == value.length and self._crc != value.crc:
                raise ValueDamaged(value.length, "its checksum is wrong")

    def _is_dropped(self) -> bool:
        """Whether it is no longer there, so that the last pieces may be zeros."""
        first = bytearray(1)
        self._service.read_value(self._value.segment, self._value.offset, memoryview(first))
        return first == b"\0"

    def close(self) -> None:
        """As of a file."""
        self._here, self._memory = memoryview(b""), None

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
