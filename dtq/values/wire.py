"""Values that are written and read by calls of the service, a piece at a time: for processes without access to the
files.

Only the result of `fetch` is ever a whole value in memory. Segments are kept as by `local`: each writer draws their
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
from dtq.values.base import Buffer
from dtq.values.local import new_memory
from dtq.values.place import SEGMENT_BYTES

#: Most parts of a piece that are gathered before it is sent.
_MOST_PARTS: Final = 256
#: How many pieces are under way at a time on one connection, none of which waits for the answer to the one before.
WINDOW: Final = 4

#: Memory for pieces that nobody uses right now, and most of it: memory that is used again costs a part of what new
#: memory does. Taking and giving back are single list operations, so threads need no lock.
_rooms: Final[list[bytearray]] = []
_MOST_ROOMS: Final = 2

#: A piece to be written: segment, offset, and the bytes, which may lie in parts.
Outgoing = tuple[int, int, Sequence[memoryview]]
#: A piece to be read: segment, offset, and the memory that it goes to, which has as many bytes.
Incoming = tuple[int, int, memoryview]
#: Told of each piece that was read when it is there: its place among those asked for, and why it is refused. Before it
#: returns no other one comes, so several may go to the same memory.
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
    """Write pieces; why each was refused, None where it was not. Whoever can do it without a copy, and without waiting
    after each, has a method for it. Else nothing is written behind what is refused."""
    at_once = getattr(calls, "write_values", None)
    if at_once is not None:
        return cast("list[DtqError | None]", at_once(pieces))
    refusals: list[DtqError | None] = []
    for segment, offset, parts in pieces:
        try:
            calls.write_value(segment, offset, b"".join(parts))
        except DtqError as error:
            return [*refusals, *[error] * (len(pieces) - len(refusals))]
        refusals.append(None)
    return refusals


def read_pieces(calls: ValueCalls, pieces: Sequence[Incoming], arrived: Arrived) -> None:
    """Read pieces. Whoever can do it without a copy, and without waiting after each, has a method for it."""
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
    """Pieces of which the next are read, where a connection was lost.

    Args:
        pieces: the pieces.
        arrived: told of each, once.
        passes: whether what is answered passes, so that the piece is to be asked for again; it is raised.
    """

    def __init__(self, pieces: Sequence[Incoming], arrived: Arrived, passes: Callable[[DtqError], bool]) -> None:
        self._pieces = pieces
        self._arrived = arrived
        self._passes = passes
        self._done = 0

    def read(self, calls: ValueCalls) -> None:
        """Read those of which `arrived` was not told."""
        read_pieces(calls, self._pieces[self._done :], self._take)

    def _take(self, _: int, refusal: DtqError | None) -> None:
        if refusal is not None and self._passes(refusal):
            raise refusal
        self._done += 1
        self._arrived(self._done - 1, refusal)


def write_firmly(
    calls: ValueCalls, pieces: Sequence[Outgoing], passes: Callable[[DtqError], bool]
) -> list[DtqError | None]:
    """As `write_pieces`; an answer that passes, so that all of it is to be written again, is raised."""
    refusals = write_pieces(calls, pieces)
    for refusal in refusals:
        if refusal is not None and passes(refusal):
            raise refusal
    return refusals


class ValueService(Protocol):
    """The calls, on a connection of their own: made again where their answer was lost. Any thread.

    Every call raises `Unreachable` where the coordinator is away and does not come back in time.
    """

    @property
    def chunk(self) -> int:
        """How many bytes one piece has at most (`chunk_of`)."""
        ...

    @property
    def epoch(self) -> int:
        """The coordinator's epoch at the last connection."""
        ...

    def write_values(self, pieces: Sequence[Outgoing]) -> list[DtqError | None]:
        """See `Service.write_value`; why each piece was refused, None where it was not."""
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
        #: Number of values in it that are still ours.
        self.unsettled = 0


class WireDraft:
    """See `Draft`. Whoever has the bytes at hand piece by piece uses `place` and `took` in the place of `write`."""

    def __init__(self, values: WireValues, segment: _Segment) -> None:
        self._values = values
        self._service = values.service
        self._segment = segment
        self._start = segment.size
        #: How many bytes arrived; and up to where some were sent.
        self.sent = 0
        self._tried = 0
        #: The pieces to be sent next, in parts; how many bytes the last of them has, and the others together.
        self._next: list[list[memoryview]] = []
        self._filled = 0
        self._full = 0
        #: How many bytes a piece has.
        self.chunk = values.service.chunk
        #: The checksum of what has arrived, where there is one.
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

    def place(self, pieces: Sequence[Sequence[memoryview]]) -> list[Outgoing]:
        """Where the bytes belong that follow what has arrived.

        Args:
            pieces: they, in pieces.
        """
        placed: list[Outgoing] = []
        self._tried = max(self._tried, self.sent)
        at = self.sent
        for parts in pieces:
            placed.append((self._segment.number, self._start + at, parts))
            at += sum(part.nbytes for part in parts)
        self._tried = max(self._tried, at)
        return placed

    def took(self, pieces: Sequence[Outgoing], refusals: Sequence[DtqError | None]) -> DtqError | None:
        """Pieces that were placed are sent.

        Args:
            pieces: they.
            refusals: what was answered to each.

        Returns:
            Why one was refused. It and those behind it have not arrived then.

        Raises:
            ValueGone: the coordinator has lost what arrived before.
        """
        before, self._epoch = self._epoch, self._service.epoch
        if self.sent and before != self._epoch:
            self._verify()
        for (_, _, parts), refusal in zip(pieces, refusals, strict=True):
            if refusal is not None:
                return refusal
            for part in parts:
                self.sent += part.nbytes
                if self._values.checked:
                    self.crc = zlib.crc32(part, self.crc)
        return None

    def _verify(self) -> None:
        """Make sure that a coordinator which was restarted has all that arrived before: it may have lost power, or be
        one that keeps nothing."""
        place = memoryview(bytearray(min(self.chunk, self.sent)))
        # Without checksums nothing was to outlast a loss of power.
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
        self.sent = max(self.sent, self._tried)  # of what was refused or lost it is not known what has arrived
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
        what: what a value is called where it is too large.
        reading: the calls that read, where they are to be made beside those that write; closed with this.
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
        #: Unused segments with room; all that are ours; and those that we are done with.
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
        with contextlib.suppress(DtqError):  # the coordinator finds out when the session is gone
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
        """A value to be read piece by piece (`WireStream.ask`). It is not held against its checksum: whoever reads what
        was read does that."""
        return WireStream(self._reading, replace(value, crc=0))

    def close(self) -> None:
        """See `base.Values`."""
        with self._lock:
            self._forget()
        self.service.close()
        self._reading.close()


class WireStream:
    """A value, read from its beginning to its end, and held against its checksum there. As a file, or by `ask` and
    `arrived`, as long as it is not `whole`.

    Args:
        service: the calls.
        value: the value.
    """

    def __init__(self, service: ValueService, value: Value) -> None:
        self._service = service
        self._value = value
        self._chunk = service.chunk
        #: How many bytes were asked for, and have arrived.
        self._asked = 0
        self._at = 0
        self._crc = 0
        #: The rest of the piece that was read last, and the memory for such pieces.
        self._here = memoryview(b"")
        self._room: bytearray | None = None
        #: Where its first byte goes when it is looked at once more.
        self._first = memoryview(bytearray(1))

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived."""
        return self._at == self._value.length

    def ask(self, places: Iterable[memoryview]) -> list[Incoming]:
        """The pieces that come next.

        Args:
            places: where each goes, and how many bytes it has, if there are so many.
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
        """The next of these pieces is there; whether it is one of the value.

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
        """Have the next pieces there, some at a time; how many bytes they have."""
        before = self._at
        pieces = self.ask(
            room[at : at + self._chunk] for at in range(0, min(room.nbytes, WINDOW * self._chunk), self._chunk)
        )
        problems: list[DtqError] = []

        def arrived(nth: int, refusal: DtqError | None) -> None:
            if problems:
                return  # the others are waited for, so that the connection can be used again
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
        """As of a file: fills the buffer, or as much as is left."""
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
        """Memory for a piece of which less is needed at first; none of another one is needed any more."""
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
