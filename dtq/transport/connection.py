"""Messages over a socket: a length, then a pickle of plain values (`safepickle`).

Both ends of every dtq connection hold one of these. It has the three methods that `multiprocessing.managers` asks of a
connection (``send``, ``recv``, ``close``), and in addition knows whether it may still be used. A connection with an
outstanding answer answers the wrong question, one inherited by `os.fork` answers the wrong process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from dtq.errors import TooLarge
from dtq.transport import safepickle
from dtq.values.base import Content, FileRange, size_of

#: Largest message in bytes, the server's default.
MAX_MESSAGE: Final = 16 << 20
#: Seconds after which a peer that acknowledges nothing, or keeps its window shut, counts as gone. Keepalive alone is
#: silent while data is under way.
SILENCE_S: Final = 20

_SLOW: Final = "the peer is too slow"
_LENGTH: Final = 4
#: First read of a message, in bytes: most messages are smaller, and every idle connection holds so much.
_FIRST_READ: Final = 8 << 10
#: Up to this size a body is copied behind its length, into one buffer; larger ones are sent in their parts.
_JOINED: Final = 32 << 10
#: First memory for a long message; then as much again as has arrived, but at most a MiB.
_FIRST_ROOM: Final = 64 << 10
_MORE_ROOM: Final = memoryview(bytes(1 << 20))

_OPTIONS: Final = (
    ("TCP_NODELAY", 1),  # without it every message above 16 KiB stalls for 40 ms
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
)


#: Least pace of a message that has begun: bytes and seconds. A peer on the worst of lines is faster; one that occupies
#: a thread with a byte now and then is not.
PACE_BYTES: Final = 4096
PACE_S: Final = float(SILENCE_S)
#: Largest piece for one call of TLS, which must send it whole in that time. And for one of the kernel, to show
#: progress: at first, and as long as pieces are sent at once.
_TLS_PIECE: Final = 16 << 10
_PIECE: Final = 256 << 10
_LARGE_PIECE: Final = 1 << 20
_AT_ONCE_S: Final = 0.02
#: Tells the kernel that more follows at once, if the platform supports it: one packet less.
_MORE: Final[int] = getattr(socket, "MSG_MORE", 0)
#: Makes the kernel return the bytes at hand, without waiting.
_AT_ONCE: Final[int] = getattr(socket, "MSG_DONTWAIT", 0)
#: Most parts of a message in one such piece.
_MOST_PARTS: Final = 16
#: Seconds between two calls of `on_moved` during a long message: a small part of the shortest lease.
_MOVED_S: Final = 0.1

#: Unused memory for long messages: reused memory costs a part of new memory, which the kernel clears page by page. With
#: its bounds: total, and longest. Single list operations need no lock.
_bodies: Final[list[bytearray]] = []
_MOST_BODIES: Final = 2
_MOST_KEPT: Final = 4 << 20


def tune(sock: socket.socket) -> None:
    """Set the options that every connection of dtq needs, if the platform has them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


#: Returns memory for the large content of a message, given the bytes before it, and its size. None to leave it in the
#: message.
Room = Callable[[bytes, int], memoryview | None]


def _first_bytes(parts: list[memoryview], at: int, room: int) -> list[memoryview]:
    """The first bytes of the unsent rest, at most this many."""
    pieces: list[memoryview] = []
    for part in parts[at : at + _MOST_PARTS]:
        pieces.append(part[:room])
        room -= len(pieces[-1])
        if room <= 0:
            break
    return pieces


def _piece_after(began: float) -> int:
    """The size of the kernel's next piece, after it has taken this many bytes since then."""
    return _LARGE_PIECE if time.monotonic() - began < _AT_ONCE_S else _PIECE


class _Pace:
    """Checks the pace of a message: the number of bytes in each stretch of time."""

    __slots__ = ("_bytes", "_have", "_seconds", "_until")

    def __init__(self, size: int, seconds: float) -> None:
        self._bytes = size
        self._seconds = seconds
        self._have = 0
        self._until = time.monotonic() + seconds

    def left_s(self, have: int) -> float:
        """Seconds left of this stretch.

        Args:
            have: bytes received so far.

        Raises:
            TimeoutError: too few bytes came in the last stretch.
        """
        now = time.monotonic()
        if now >= self._until:
            if have - self._have < self._bytes:
                raise TimeoutError(_SLOW)
            self._have = have
            self._until = now + self._seconds
        return self._until - now


class Connection:
    """One end of an authenticated connection. Not for two threads at once, except `interrupt`.

    Args:
        sock: the connected socket; belongs to this object from now on.
        peer: the other side's address, for sentences.
        limit: largest message in bytes, either way.

    Attributes:
        sock: the socket.
        peer: the other side's address.
        limit: may be changed; holds for the next message.
        on_moved: called now and then while bytes of a long message move, either way, by the thread that sends or
            receives it; None for no calls.
    """

    __slots__ = (
        "_moved_at",
        "_outstanding",
        "_owner",
        "_pace",
        "_poll",
        "_rest",
        "_timeout_s",
        "limit",
        "on_moved",
        "peer",
        "sock",
    )

    def __init__(self, sock: socket.socket, peer: str, limit: int = MAX_MESSAGE) -> None:
        self.sock = sock
        self.peer = peer
        self.limit = limit
        self.on_moved: Callable[[], None] | None = None
        self._moved_at = 0.0
        self._rest = b""
        self._owner = os.getpid()
        #: Number of messages sent, less those received since.
        self._outstanding = 0
        self._timeout_s = sock.gettimeout()
        self._poll: select.poll | None = None
        self._pace: tuple[int, float] | None = None

    def keep_pace(self) -> None:
        """From now on a message that has begun must keep its pace (`PACE_BYTES`), either way, or the connection becomes
        unusable; the wait for a message to begin is unbounded.
        """
        self._pace = PACE_BYTES, PACE_S
        if self._secured:
            self.sock.settimeout(PACE_S)
        else:
            # By the kernel, so that a transfer that does not wait costs no further call.
            whole_s = int(PACE_S)
            timeout = struct.pack("@ll", whole_s, int((PACE_S - whole_s) * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    @property
    def _secured(self) -> bool:
        return hasattr(self.sock, "pending")

    def send(self, value: Any) -> None:
        """Send a message, whole.

        Raises:
            BadMessage: the message is not plain data. Nothing was sent, the connection is as before.
            TooLarge: the message is over the limit. Nothing was sent, the connection is as before.
            TimeoutError: the peer took nothing for the time set, or too little. The connection is unusable.
            OSError: the connection is gone.
        """
        parts = safepickle.parts(value)
        size = sum(map(len, parts))
        if size > self.limit:
            raise TooLarge("a message", size, self.limit)
        self._outstanding += 1
        length = size.to_bytes(_LENGTH, "big")
        if size <= _JOINED:
            self._push(b"".join((length, *parts)))
        elif self._secured:  # a socket with TLS has no sendmsg
            self._push(length)
            for part in parts:
                self._push(part)
        else:
            self._pour([memoryview(part) for part in (length, *parts)])

    def send_around(self, value: Any, content: Content) -> None:
        """Send a message with a large content in the place of `safepickle.FILLER`, without a copy.

        Args:
            value: the message.
            content: at least `safepickle.APART` bytes; a file that is too short makes the connection unusable.

        Raises:
            BadMessage, TooLarge, TimeoutError, OSError: as for `send`.
        """
        size = size_of(content)
        before, after = safepickle.around(value, size)
        whole = len(before) + size + len(after)
        if whole > self.limit:
            raise TooLarge("a message", whole, self.limit)
        self._outstanding += 1
        before = whole.to_bytes(_LENGTH, "big") + before
        if isinstance(content, FileRange):
            self._push(before, 0 if self._secured else _MORE)
            self._send_file(content)
            self._push(after)
        elif self._secured:
            self._push(before)
            for part in content:
                self._push(part)
            self._push(after)
        else:
            self._pour([memoryview(before), *content, memoryview(after)])

    def _send_file(self, content: FileRange) -> None:
        at, end, piece = content.offset, content.offset + content.size, _PIECE
        while at < end:
            size, began = min(piece, end - at), time.monotonic()
            if self._secured:
                data = os.pread(content.descriptor, size, at)
                self._push(data)
                sent = len(data)
            else:
                try:
                    sent = os.sendfile(self.sock.fileno(), content.descriptor, at, size)
                except BlockingIOError:
                    raise TimeoutError(_SLOW) from None
                if self._pace is not None and 0 < sent < min(size, self._pace[0]):
                    raise TimeoutError(_SLOW)
            if not sent:
                raise OSError(errno.EIO, "a file was cut short while it was sent")
            at += sent
            piece = _piece_after(began)
            self._moved()

    def recv(self, room: Room | None = None) -> Any:
        """Wait for a message.

        Args:
            room: returns memory for a large content of it, which then is in the message; None to leave all of it in the
                message itself.

        Raises:
            BadMessage: the message is not plain data. The connection is in step.
            TooLarge: the peer announced one over the limit. The connection is unusable.
            EOFError: the peer has closed the connection.
            TimeoutError: nothing came for the time set, or too little. The connection is unusable.
            OSError: the connection is gone.
        """
        data = self._rest or self._first()
        if len(data) < _LENGTH:
            data = self._length(data)
        size = int.from_bytes(data[:_LENGTH], "big")
        if size > self.limit:
            raise TooLarge("a message announced by the peer", size, self.limit)
        end = _LENGTH + size
        self._rest = data[end:]
        if room is not None and len(data) < end and size >= safepickle.APART:
            found = safepickle.large_at(data[_LENGTH:], size)
            place = None if found is None else room(data[_LENGTH : _LENGTH + found[0]], found[1])
            if found is not None and place is not None:
                return self._place(data[_LENGTH:], size, found[0], place)
        if len(data) >= end:
            self._outstanding -= 1
            return safepickle.loads(data[_LENGTH:end])
        body = self._fill(data[_LENGTH:], size)
        self._outstanding -= 1
        with memoryview(body) as whole:
            value = safepickle.loads(whole[:size])
        if _FIRST_ROOM <= len(body) <= _MOST_KEPT and len(_bodies) < _MOST_BODIES:
            _bodies.append(body)
        return value

    def _place(self, start: bytes, size: int, at: int, place: memoryview) -> Any:
        """The rest of a message, with the content that begins here in its memory."""
        pace = self._pace and _Pace(*self._pace)
        have = min(len(start) - at, place.nbytes)
        place[:have] = start[at : at + have]
        self._receive(place, have, pace)
        behind = start[at + place.nbytes :]
        after = bytearray(size - at - place.nbytes)
        after[: len(behind)] = behind
        self._receive(memoryview(after), len(behind), self._pace and _Pace(*self._pace))
        self._outstanding -= 1
        return safepickle.loads_around(start[:at], place, bytes(after))

    def set_timeout(self, timeout_s: float | None) -> None:
        """Set how long `send` and `recv` wait without a byte moving, in seconds; None for no bound."""
        if timeout_s != self._timeout_s:
            self.sock.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def usable(self) -> bool:
        """Whether a request may be sent: the connection is open and this process's own, no answer is outstanding, and
        the peer has neither gone nor sent an unexpected message. For the requesting side.
        """
        if self._outstanding > 0 or self._owner != os.getpid() or self.sock.fileno() < 0:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.sock, select.POLLIN)
        return not self._poll.poll(0)

    def finish(self) -> None:
        """Accept no more messages: `recv` meets the end, an answer under way can still be sent. From any thread."""
        self._shutdown(socket.SHUT_RD)

    def interrupt(self) -> None:
        """Wake any thread in `send` or `recv`, from any thread; the connection becomes unusable."""
        self._shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; calling it twice does no harm."""
        self.sock.close()

    def _shutdown(self, how: int) -> None:
        if self._owner == os.getpid():  # a shutdown would reach the process that it was inherited from
            with contextlib.suppress(OSError):  # gone already
                # Not the method of a socket with TLS: it would send later bytes in the clear.
                socket.socket.shutdown(self.sock, how)

    def _moved(self) -> None:
        if self.on_moved is not None and (now := time.monotonic()) - self._moved_at >= _MOVED_S:
            self._moved_at = now
            self.on_moved()

    def _push(self, data: bytes | memoryview, flags: int = 0) -> None:
        if len(data) > _TLS_PIECE and self._secured:
            rest = memoryview(data)
            while rest:
                rest = rest[self.sock.send(rest[:_TLS_PIECE]) :]
                self._moved()
            return
        try:
            sent = self.sock.send(data, flags)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    # With a pace set, a short send means that its time was over.
                    if self._pace is not None and sent < self._pace[0]:
                        raise TimeoutError(_SLOW)
                    sent = self.sock.send(rest)
                    rest = rest[sent:]
        except BlockingIOError:
            raise TimeoutError(_SLOW) from None

    def _pour(self, parts: list[memoryview]) -> None:
        """Send the parts of a long message piece by piece, uncopied."""
        at, room = 0, _PIECE
        while at < len(parts):
            pieces, began = _first_bytes(parts, at, room), time.monotonic()
            try:
                sent = self.sock.sendmsg(pieces)
            except BlockingIOError:
                raise TimeoutError(_SLOW) from None
            # With a pace set, a short send means that its time was over.
            if self._pace is not None and sent < self._pace[0] and sent < sum(map(len, pieces)):
                raise TimeoutError(_SLOW)
            while at < len(parts) and sent >= len(parts[at]):
                sent -= len(parts[at])
                at += 1
            if sent:
                parts[at] = parts[at][sent:]
            room = _piece_after(began)
            self._moved()

    def _first(self) -> bytes:
        """The beginning of a message; the wait may be long."""
        if self._pace is not None and self._secured and not self.sock.pending():  # type: ignore[attr-defined]  # TLS
            self._readable(None)
        return self._pull(_FIRST_READ)

    def _length(self, data: bytes) -> bytes:
        """More of a message, at least its length."""
        pace = self._pace and _Pace(*self._pace)
        while len(data) < _LENGTH:
            if pace is not None:
                self._await_more(pace, 0)
            data += self._pull(_FIRST_READ)
        return data

    def _await_more(self, pace: _Pace, have: int) -> None:
        """Wait for more of a message that has begun."""
        while not self._readable(pace.left_s(have)):
            pass

    def _readable(self, timeout_s: float | None) -> bool:
        if self._secured and self.sock.pending():  # type: ignore[attr-defined]  # a socket with TLS has it
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.sock, select.POLLIN)
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1000))

    def _pull(self, most: int) -> bytes:
        data = self.sock.recv(most)
        if not data:
            raise EOFError
        return data

    def _fill(self, start: bytes, size: int) -> bytearray:
        """The rest of a message, and perhaps bytes behind it. Memory grows with the bytes received, not with those
        announced.
        """
        try:
            body = _bodies.pop()
        except IndexError:
            body = bytearray(min(size, max(_FIRST_ROOM, len(start))))
        body[: len(start)] = start
        have = len(start)
        pace = self._pace and _Pace(*self._pace)
        while True:
            with memoryview(body) as room:
                have = self._receive(room[:size], have, pace)
            if have == size:
                return body
            body += _MORE_ROOM[: min(size - have, have)]

    def _receive(self, room: memoryview, have: int, pace: _Pace | None) -> int:
        """Receive until this memory is full; returns the number of its bytes."""
        at_once = 0 if pace is None or self._secured else _AT_ONCE
        flags = at_once
        while have < len(room):
            if pace is not None and not flags:
                self._await_more(pace, have)
            try:
                received = self.sock.recv_into(room[have:], 0, flags)
            except BlockingIOError:  # nothing is there yet
                flags = 0
                continue
            flags = at_once
            if not received:
                raise EOFError
            have += received
            self._moved()
        return have
