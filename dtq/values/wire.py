"""Values that are written and read by calls of the service, piece by piece: for processes without access to the files.

Only the result of `fetch` is ever a whole value in memory. Segments are managed as by `local`: each writer draws their
numbers, and fills one after the other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, Final, Protocol, cast

from dtq.errors import DtqError, TooLarge, ValueDamaged, ValueGone
from dtq.model.messages import ANSWER_ENVELOPE
from dtq.model.values import ALIGNMENT, CHUNK, MIN_CALLED, Value
from dtq.records import replace
from dtq.values.base import Buffer, Content, FileRange, size_of
from dtq.values.local import new_memory
from dtq.values.place import SEGMENT_BYTES

#: Most parts of a piece that are gathered before it is sent.
_MOST_PARTS: Final = 256
#: Pieces under way at a time on one connection, without waits for the answers in between.
WINDOW: Final = 4

#: Unused memory for pieces, and its bound: reused memory costs a part of new memory. Taking and giving back are single
#: list operations, so threads need no lock.
_rooms: Final[list[bytearray]] = []
_MOST_ROOMS: Final = 2

#: A piece to be written: segment, offset, and the bytes.
Outgoing = tuple[int, int, Content]
#: A piece to be read: segment, offset, and its memory, which has the same size.
Incoming = tuple[int, int, memoryview]
#: Called for each piece after its arrival, with its index and the reason of its refusal. The next one does not arrive
#: before it returns, so several pieces may share memory.
Arrived = Callable[[int, DtqError | None], None]


class ValueCalls(Protocol):
    """The calls of the service that carry values."""

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        """See `Service.write_value`."""
        ...

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        """See `Service.read_value`."""
        ...


def write_pieces(calls: ValueCalls, pieces: Sequence[Outgoing]) -> list[DtqError | None]:
    """Write pieces; returns for each the reason of its refusal, None if it was accepted. A service that can do it
    without copies, and without waits in between, has a method for it. Otherwise nothing is written behind a refused
    piece.
    """
    at_once = getattr(calls, "write_values", None)
    if at_once is not None:
        return cast("list[DtqError | None]", at_once(pieces))
    refusals: list[DtqError | None] = []
    for segment, offset, content in pieces:
        try:
            data = content.read() if isinstance(content, FileRange) else b"".join(content)
            calls.write_value(segment, offset, data)
        except DtqError as error:
            return [*refusals, *[error] * (len(pieces) - len(refusals))]
        refusals.append(None)
    return refusals


def read_pieces(calls: ValueCalls, pieces: Sequence[Incoming], arrived: Arrived) -> None:
    """Read pieces. A service that can do it without copies, and without waits in between, has a method for it."""
    at_once = getattr(calls, "read_values", None)
    if at_once is not None:
        at_once(pieces, arrived)
        return
    for nth, (segment, offset, place) in enumerate(pieces):
        refusal: DtqError | None = None
        try:
            data = calls.read_value(segment, offset, place.nbytes)
        except DtqError as error:
            refusal = error
        else:
            if len(data) == place.nbytes:
                place[:] = data
            else:
                refusal = ValueDamaged(place.nbytes, "its segment is too short")
        arrived(nth, refusal)


class Remainder:
    """The pieces still to be read, after the loss of a connection.

    Args:
        pieces: the pieces.
        arrived: called once for each.
        passes: whether a refusal is temporary, so that the piece is to be requested again; then it is raised.
    """

    def __init__(self, pieces: Sequence[Incoming], arrived: Arrived, passes: Callable[[DtqError], bool]) -> None:
        self._pieces = pieces
        self._arrived = arrived
        self._passes = passes
        self._done = 0

    def read(self, calls: ValueCalls) -> None:
        """Read the pieces for which `arrived` was not called."""
        read_pieces(calls, self._pieces[self._done :], self._take)

    def _take(self, _: int, refusal: DtqError | None) -> None:
        if refusal is not None and self._passes(refusal):
            raise refusal
        self._done += 1
        self._arrived(self._done - 1, refusal)


def write_firmly(
    calls: ValueCalls, pieces: Sequence[Outgoing], passes: Callable[[DtqError], bool]
) -> list[DtqError | None]:
    """As `write_pieces`; a temporary refusal is raised, so that all of them are written again."""
    refusals = write_pieces(calls, pieces)
    for refusal in refusals:
        if refusal is not None and passes(refusal):
            raise refusal
    return refusals


class ValueService(Protocol):
    """The calls, on a connection of their own: repeated if their answer was lost. Any thread.

    Every call raises `Unreachable` if the coordinator is away and does not come back in time.
    """

    @property
    def chunk(self) -> int:
        """Most bytes of a piece (`chunk_of`)."""
        ...

    @property
    def epoch(self) -> int:
        """The coordinator's epoch at the last connection."""
        ...

    def write_values(self, pieces: Sequence[Outgoing]) -> list[DtqError | None]:
        """See `Service.write_value`; returns for each piece the reason of its refusal, None if it was accepted."""
        ...

    def read_values(self, pieces: Sequence[Incoming], arrived: Arrived) -> None:
        """See `Service.read_value`."""
        ...

    def close(self) -> None:
        """Disconnect for good; a call under way ends."""
        ...


def chunk_of(max_message: int) -> int:
    """Bytes of a value that one call carries.

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
        #: Number of unsettled values in it.
        self.unsettled = 0


class WireDraft:
    """See `Draft`. A writer that gets its bytes piece by piece uses `place` and `took` instead of `write`."""

    def __init__(self, values: WireValues, segment: _Segment) -> None:
        self._values = values
        self._service = values.service
        self._segment = segment
        self._start = segment.size
        #: Number of bytes that arrived; and the end of those that were sent.
        self.sent = 0
        self._tried = 0
        #: The next pieces to be sent, in parts; the size of the last of them, and of the others together.
        self._next: list[list[memoryview]] = []
        self._filled = 0
        self._full = 0
        #: The size of a piece.
        self.chunk = values.service.chunk
        #: The checksum of the arrived bytes, if values have checksums.
        self.crc = 0
        self._epoch = 0

    @property
    def length(self) -> int:
        """See `Draft`."""
        return self.sent + self._full + self._filled

    def write(self, data: Buffer, /) -> int:
        """See `Draft`."""
        view = memoryview(data).cast("B")
        if self.length + view.nbytes > self._values.max_value:
            raise TooLarge(self._values.what, self.length + view.nbytes, self._values.max_value)
        at = 0
        while at < view.nbytes:
            if not self._filled:
                self._next.append([])
            piece, part = self._next[-1], view[at : at + self.chunk - self._filled]
            piece.append(part)
            at += part.nbytes
            self._filled += part.nbytes
            if len(piece) >= _MOST_PARTS:
                piece[:] = [memoryview(b"".join(piece))]
            if self._filled == self.chunk:
                self._full, self._filled = self._full + self.chunk, 0
                if len(self._next) == WINDOW:
                    self._flush()
        return view.nbytes

    def _flush(self) -> None:
        pieces = self.place(self._next)
        self._next, self._full, self._filled = [], 0, 0
        refusal = self.took(pieces, self._service.write_values(pieces))
        if refusal is not None:
            raise refusal

    def place(self, pieces: Sequence[Content]) -> list[Outgoing]:
        """The place of the bytes that follow the arrived ones.

        Args:
            pieces: the bytes, in pieces.
        """
        placed: list[Outgoing] = []
        self._tried = max(self._tried, self.sent)
        at = self.sent
        for content in pieces:
            placed.append((self._segment.number, self._start + at, content))
            at += size_of(content)
        self._tried = max(self._tried, at)
        return placed

    def took(self, pieces: Sequence[Outgoing], refusals: Sequence[DtqError | None]) -> DtqError | None:
        """Note that placed pieces were sent.

        Args:
            pieces: the pieces.
            refusals: the answer to each.

        Returns:
            The reason of the first refusal. That piece and those behind it have not arrived then.

        Raises:
            ValueGone: the coordinator has lost bytes that had arrived before.
        """
        before, self._epoch = self._epoch, self._service.epoch
        if self.sent and before != self._epoch:
            self._verify()
        for (_, _, content), refusal in zip(pieces, refusals, strict=True):
            if refusal is not None:
                return refusal
            self.sent += size_of(content)
            if self._values.checked:
                for part in [content.read()] if isinstance(content, FileRange) else content:
                    self.crc = zlib.crc32(part, self.crc)
        return None

    def _verify(self) -> None:
        """Make sure that a restarted coordinator still has all bytes that arrived before: it may have lost power, or
        keep nothing.
        """
        place = memoryview(bytearray(min(self.chunk, self.sent)))
        # Without checksums, no bytes have to outlast a loss of power.
        ends = [(at, self.chunk) for at in range(0, self.sent, self.chunk)] if self._values.checked else []
        crc = 0
        try:
            for at, size in ends or [(0, 1), (self.sent - 1, 1)]:
                piece = place[: min(size, self.sent - at)]
                _read(self._service, self._segment.number, self._start + at, piece)
                if at == 0 and not piece[0]:
                    raise ValueGone(self.length)
                crc = zlib.crc32(piece, crc)
        except ValueDamaged as error:
            raise ValueGone(self.length) from error
        if self._values.checked and crc != self.crc:
            raise ValueGone(self.length)

    def finish(self, trailer: bytes = b"") -> Value:
        """See `Draft`."""
        if trailer:
            self.write(trailer)
        if self._next:
            self._flush()
        value = Value(self._segment.number, self._start, self.sent, self.crc, len(trailer))
        self._segment.unsettled += 1
        self._give_back()
        return value

    def abandon(self) -> None:
        """See `Draft`."""
        self.sent = max(self.sent, self._tried)  # it is unknown which of the refused or lost pieces arrived
        self._give_back()

    def _give_back(self) -> None:
        self._segment.size = -(-(self._start + self.sent) // ALIGNMENT) * ALIGNMENT
        self._values.give_back(self._segment)


class WireValues:
    """See `base.Values`.

    Args:
        service: the calls; closed with this.
        max_value: largest value in bytes.
        checked: whether values are written with their checksums.
        what: the name of a value in the sentence of `TooLarge`.
        reading: the calls for reading, if they are to be made beside those for writing; closed with this.
    """

    def __init__(
        self,
        service: ValueService,
        *,
        max_value: int,
        checked: bool,
        what: str = "the value",
        reading: ValueService | None = None,
    ) -> None:
        self.service = service
        self._reading = service if reading is None else reading
        self.what = what
        self.max_value = max_value
        self.checked = checked
        self._lock = threading.Lock()
        self._process = os.getpid()
        #: The coordinator's epoch at the time of the writes; 0 before the first.
        self._epoch = service.epoch
        #: Unused segments with room; all segments of this writer; and those that it has finished.
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
                # Another run of the coordinator may have another place: later writes begin there.
                if self._epoch:
                    self._free.clear()
                self._epoch = self.service.epoch
            segment = self._free.pop() if self._free else _Segment()
            self._held[segment.number] = segment
        for number in done:
            self._say_done(number)
        return WireDraft(self, segment)

    def _say_done(self, segment: int) -> None:
        with contextlib.suppress(DtqError):  # the coordinator notices it at the end of the session
            self.service.write_values([(segment, 0, ())])

    def give_back(self, segment: _Segment) -> None:
        """Return the segment of a finished draft."""
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
        return cast(BinaryIO, WireStream(self._reading, value))

    def fetch(self, value: Value) -> Buffer:
        """See `base.Values`."""
        memory = new_memory(value.length)
        with WireStream(self._reading, value) as stream:
            stream.readinto(memory)
        return memory

    def pieces(self, value: Value) -> WireStream:
        """A value to be read piece by piece (`WireStream.ask`). Its checksum is not checked: that is up to the reader
        of its content.
        """
        return WireStream(self._reading, replace(value, crc=0))

    def close(self) -> None:
        """See `base.Values`."""
        with self._lock:
            self._forget()
        self.service.close()
        self._reading.close()


class WireStream:
    """A value, read from its beginning to its end, where its checksum is checked. As a file, or by `ask` and `arrived`
    until it is `whole`.

    Args:
        service: the calls.
        value: the value.
    """

    def __init__(self, service: ValueService, value: Value) -> None:
        self._service = service
        self._value = value
        self._chunk = service.chunk
        #: Number of bytes requested, and arrived.
        self._asked = 0
        self._at = 0
        self._crc = 0
        #: The rest of the latest piece, and the memory for such pieces.
        self._here = memoryview(b"")
        self._room: bytearray | None = None
        #: Memory for its first byte when that is read once more.
        self._first = memoryview(bytearray(1))

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived."""
        return self._at == self._value.length

    def ask(self, places: Iterable[memoryview]) -> list[Incoming]:
        """The next pieces.

        Args:
            places: the memory of each, and its size, if the value has that many bytes.
        """
        value, begun = self._value, self._asked
        pieces: list[Incoming] = []
        for place in places:
            piece = place[: min(self._chunk, value.length - self._asked)]
            if not piece:
                break
            pieces.append((value.segment, value.offset + self._asked, piece))
            self._asked += piece.nbytes
        if pieces and self._asked == value.length and not value.crc and (begun or len(pieces) > 1):
            # If it was dropped meanwhile, the last pieces may be zeros.
            pieces.append((value.segment, value.offset, self._first))
        return pieces

    def arrived(self, piece: memoryview) -> bool:
        """Note the arrival of the next of these pieces; returns whether it is a piece of the value.

        Raises:
            ValueGone: the value is no longer kept.
            ValueDamaged: its checksum is wrong.
        """
        value = self._value
        if piece is self._first:
            if not piece[0]:
                raise ValueGone(value.length)
            return False
        if self._at == 0 and not piece[0]:
            raise ValueGone(value.length)
        self._at += piece.nbytes
        if value.crc:
            self._crc = zlib.crc32(piece, self._crc)
            if self.whole and self._crc != value.crc:
                raise ValueDamaged(value.length, "its checksum is wrong")
        return True

    def _take(self, room: memoryview) -> int:
        """Put the next pieces into their memory, several at a time; returns their size."""
        before = self._at
        pieces = self.ask(
            room[at : at + self._chunk] for at in range(0, min(room.nbytes, WINDOW * self._chunk), self._chunk)
        )
        problems: list[DtqError] = []

        def arrived(nth: int, refusal: DtqError | None) -> None:
            if problems:
                return  # the others are awaited, so that the connection remains usable
            try:
                if refusal is not None:
                    raise refusal
                self.arrived(pieces[nth][2])
            except DtqError as problem:
                problems.append(problem)

        self._service.read_values(pieces, arrived)
        if problems:
            raise problems[0]
        return self._at - before

    def readinto(self, buffer: Any) -> int:
        """As of a file: fills the buffer, or the part of it that the value still has bytes for."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < view.nbytes:
            if not self._here:
                size = min(self._chunk, self._value.length - self._at)
                if not size:
                    break
                if view.nbytes - done >= size:
                    done += self._take(view[done:])
                    continue
                piece = self._memory(size)
                self._take(piece)
                self._here = piece
            part = self._here[: view.nbytes - done]
            view[done : done + len(part)] = part
            self._here = self._here[len(part) :]
            done += len(part)
        return done

    def _memory(self, size: int) -> memoryview:
        """Memory for a piece of which only a part is needed at first; it replaces that of the piece before."""
        if self._room is None or len(self._room) < size:
            try:
                self._room = _rooms.pop()
            except IndexError:
                self._room = bytearray(self._chunk)
            if len(self._room) < size:
                self._room = bytearray(self._chunk)
        return memoryview(self._room)[:size]

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
        """As of a file; values have no lines."""
        raise ValueDamaged(self._value.length, "it is no pickle of ours")

    def close(self) -> None:
        """As of a file."""
        self._here, room, self._room = memoryview(b""), self._room, None
        if room is not None and len(_rooms) < _MOST_ROOMS:
            _rooms.append(room)

    def __enter__(self) -> WireStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(service: ValueService, segment: int, offset: int, place: memoryview) -> None:
    """Read one piece."""

    def arrived(_: int, refusal: DtqError | None) -> None:
        if refusal is not None:
            raise refusal

    service.read_values([(segment, offset, place)], arrived)
