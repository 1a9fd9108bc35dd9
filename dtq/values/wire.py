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
from collections.abc import Iterable
from typing import Any, BinaryIO, Protocol, cast

from dtq.errors import DtqError, TooLarge, ValueDamaged, ValueGone
from dtq.model.messages import ANSWER_ENVELOPE
from dtq.model.values import ALIGNMENT, CHUNK, MIN_CALLED, Value
from dtq.values.base import Buffer, Draft
from dtq.values.local import new_memory
from dtq.values.place import SEGMENT_BYTES


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

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        """See `Service.write_value`."""
        ...

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        """See `Service.read_value`."""
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


class _Draft:
    """See `Draft`."""

    def __init__(self, values: WireValues, segment: _Segment) -> None:
        self._values = values
        self._service = values.service
        self._segment = segment
        self._start = segment.size
        #: How many bytes were sent, and what is to be sent next.
        self._sent = 0
        self._next = bytearray()
        self._chunk = values.service.chunk
        #: The checksum of what was sent.
        self._sent_crc = 0
        self._epoch = 0

    @property
    def length(self) -> int:
        """See `Draft`."""
        return self._sent + len(self._next)

    def write(self, data: Buffer, /) -> int:
        """See `Draft`."""
        view = memoryview(data).cast("B")
        if self.length + view.nbytes > self._values.max_value:
            raise TooLarge(self._values.what, self.length + view.nbytes, self._values.max_value)
        at = 0
        if self._next:
            at = min(view.nbytes, self._chunk - len(self._next))
            self._next += view[:at]
            if len(self._next) < self._chunk:
                return view.nbytes
            self._flush()
        while view.nbytes - at >= self._chunk:
            self._send(bytes(view[at : at + self._chunk]))
            at += self._chunk
        self._next += view[at:]
        return view.nbytes

    def _flush(self) -> None:
        data = bytes(self._next)
        self._next.clear()
        self._send(data)

    def _send(self, data: bytes) -> None:
        self._service.write_value(self._segment.number, self._start + self._sent, data)
        before, self._epoch = self._epoch, self._service.epoch
        if self._sent and before != self._epoch:
            self._verify()
        self._sent += len(data)
        self._sent_crc = zlib.crc32(data, self._sent_crc)

    def _verify(self) -> None:
        """Make sure that a coordinator which was restarted has all that was sent before: it may have lost power."""
        crc = 0
        try:
            for at in range(0, self._sent, self._chunk):
                size = min(self._chunk, self._sent - at)
                crc = zlib.crc32(self._service.read_value(self._segment.number, self._start + at, size), crc)
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
        self._sent += self._chunk  # of the last piece it is not known whether it has arrived
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

    def draft(self) -> Draft:
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
        return _Draft(self, segment)

    def _say_done(self, segment: int) -> None:
        with contextlib.suppress(DtqError):  # the coordinator finds out when the session is gone
            self.service.write_value(segment, 0, b"")

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
        self._here = memoryview(b"")

    def readinto(self, buffer: Any) -> int:
        """As of a file: all of the buffer, or as much as there is."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < view.nbytes and self._more():
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

    def _more(self) -> bool:
        """Have the next piece, unless something is left of the last one; whether there is something."""
        if self._here:
            return True
        value = self._value
        size = min(self._chunk, value.length - self._at)
        if not size:
            return False
        data = self._service.read_value(value.segment, value.offset + self._at, size)
        if len(data) != size:
            raise ValueDamaged(value.length, "its segment is too short")
        if self._at == 0 and data[:1] == b"\0":
            raise ValueGone(value.length)
        self._at += size
        if not value.crc and self._at == value.length > size and self._is_dropped():
            raise ValueGone(value.length)
        if value.crc:
            self._crc = zlib.crc32(data, self._crc)
            if self._at == value.length and self._crc != value.crc:
                raise ValueDamaged(value.length, "its checksum is wrong")
        self._here = memoryview(data)
        return True

    def _is_dropped(self) -> bool:
        """Whether it is no longer there, so that the last pieces may be zeros."""
        return self._service.read_value(self._value.segment, self._value.offset, 1) == b"\0"

    def close(self) -> None:
        """As of a file."""
        self._here = memoryview(b"")

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
