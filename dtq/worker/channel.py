"""The pipe between a supervisor and a slot: framed messages over a socket pair.

Messages are tuples of scalars and bytes, checked before they are unpickled as everywhere: a slot runs foreign code. The
slot's end, `Channel`, waits. The supervisor's end, `Pipe`, never does: it gathers arrived messages, and keeps those
that the slot has not read yet.

Each message begins with the same four random bytes, which the supervisor has drawn for this pipe, and its length. So
bytes that a task writes into the pipe, or has read out of it, are noticed at once, and never waited for or taken for a
message.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dtq.errors import BadMessage
from dtq.transport import safepickle

#: Beginning of a message: the pipe's mark, and the length.
MARK: Final = 4
_HEAD: Final = MARK + 4
_READ: Final = 1 << 18
#: Up to this size the parts of a message are copied into one, in bytes: a call of the kernel costs more.
_JOINED: Final = 1 << 17
#: Parts that the kernel surely takes at once.
_AT_ONCE: Final = 512
#: Buffer of the pipe in bytes: a message of less than half of it fits in while the slot is busy with the one before.
BUFFER: Final = 1 << 19
#: Most bytes of arrived messages that are taken at once: the loop serves other slots in between.
TURN: Final = 1 << 20
#: The kernel's type of a count.
_COUNT: Final = struct.Struct("@i")


class _Received:
    """Splits arrived bytes into messages.

    Args:
        mark: beginning of each message.
        longest: longest message in bytes; None for any.
    """

    def __init__(self, mark: bytes, longest: int | None = None) -> None:
        self._mark = mark
        self.longest = longest
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Add arrived bytes."""
        self._data += data

    def take(self) -> tuple[Any] | None:
        """The next message, in a tuple; None if it has not arrived as a whole.

        Raises:
            BadMessage: the bytes are no message.
        """
        data = self._data
        if not data.startswith(self._mark) and not self._mark.startswith(data):
            raise BadMessage("something else has written into the pipe, or read from it")
        if len(data) < _HEAD:
            return None
        size = int.from_bytes(data[MARK:_HEAD], "big")
        if self.longest is not None and size > self.longest:
            raise BadMessage(f"a message of {size} bytes, where the longest has {self.longest}")
        end = _HEAD + size
        if len(data) < end:
            return None
        message = safepickle.loads(bytes(memoryview(data)[_HEAD:end]))
        del data[:end]
        return (message,)


def _framed(mark: bytes, parts: list[bytes]) -> list[bytes]:
    """A message in its frame: large parts are not copied, small ones are joined.

    Args:
        mark: beginning of each message.
        parts: its bytes, see `safepickle.parts`.
    """
    size = sum(map(len, parts))
    head = mark + size.to_bytes(4, "big")
    if len(parts) > 1 and size > _JOINED:
        return [head + parts[0], *parts[1:]]
    return [b"".join((head, *parts))]


def _identity(sock: socket.socket) -> tuple[int, int]:
    found = os.fstat(sock.fileno())
    return found.st_dev, found.st_ino


class Channel:
    """The slot's end.

    Args:
        sock: the connected socket; the channel owns it. The first bytes that arrive are the pipe's mark.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._identity = _identity(sock)
        self._mark = b""
        while len(self._mark) < MARK and (piece := sock.recv(MARK - len(self._mark))):
            self._mark += piece
        self._received = _Received(self._mark)
        #: Longest wait of a call in the kernel, in seconds; None for ever.
        self._within_s: float | None = None
        #: Held while one message is sent, as several threads may.
        self._sending = threading.Lock()

    def send(self, *message: Any) -> None:
        """Send one message.

        Raises:
            OSError: the other end is gone, or a task has closed this one, even if its number is in use again.
        """
        parts = _framed(self._mark, safepickle.parts(message))
        with self._sending:
            if _identity(self._sock) != self._identity:
                raise OSError(9, "the pipe to the worker was closed, and its number used for something else")
            # In one call, if possible: a task's signal handler that raises may come between two.
            sent = self._sock.sendmsg(parts[:_AT_ONCE])
            for part in parts:
                if sent < len(part):
                    self._sock.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def receive(self, at_once: Callable[[], None], within_s: float | None = None) -> Any | None:
        """Wait for the next message; None when the other end is closed.

        Args:
            at_once: called before a wait, if no message has arrived yet.
            within_s: how long to wait, in seconds; None for ever.

        Raises:
            BadMessage: a task has read from the pipe.
            TimeoutError: no message has arrived in that time.
            OSError: as for `send`.
        """
        while (message := self._received.take()) is None:
            try:
                data = self._sock.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                at_once()
                data = self._wait(within_s)
            if not data:
                return None
            self._received.add(data)
        return message[0]

    def _wait(self, within_s: float | None) -> bytes:
        """Wait by the kernel's own clock: a message in time costs no further call."""
        if within_s != self._within_s:
            self._within_s = within_s
            timeout = struct.pack("@ll", 0, 0 if within_s is None else int(within_s * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        try:
            return self._sock.recv(_READ)
        except BlockingIOError:
            raise TimeoutError from None

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


class Gathered(NamedTuple):
    """The yield of a pipe.

    Attributes:
        messages: whole messages, in their order.
        closed: whether the other end is closed.
        breach: why the following bytes are no message; empty for none.
    """

    messages: list[Any]
    closed: bool
    breach: str


class Pipe:
    """The supervisor's end. It never waits.

    Args:
        sock: the connected socket; the pipe owns it.
        longest: longest message that a slot sends, in bytes.
    """

    def __init__(self, sock: socket.socket, longest: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        mark = os.urandom(MARK)
        self._mark = mark
        self._received = _Received(mark, longest)
        #: Bytes that the slot's end has not taken.
        self._unsent: deque[memoryview] = deque([memoryview(mark)])

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def expect(self, longest: int) -> None:
        """Accept only messages of at most this many bytes from now on."""
        self._received.longest = longest

    @property
    def unsent(self) -> bool:
        """Whether bytes are left to be sent: `pump` must be called when the pipe takes more."""
        return bool(self._unsent)

    @property
    def taken(self) -> bool:
        """Whether the slot has read everything that it was sent; False if unknown."""
        if self._unsent or sys.platform != "linux":
            return False
        unread: int = _COUNT.unpack(fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(_COUNT.size)))[0]
        return unread == 0

    def put(self, *message: Any) -> None:
        """Send one message, now or when the pipe takes it.

        Raises:
            OSError: the other end is gone.
        """
        waiting = len(self._unsent)
        self._unsent.extend(map(memoryview, _framed(self._mark, safepickle.parts(message))))
        if waiting <= 1:  # else earlier bytes wait already
            self.pump()

    def pump(self) -> None:
        """Send as many of the waiting bytes as the pipe takes.

        Raises:
            OSError: the other end is gone.
        """
        unsent = self._unsent
        while unsent:
            try:
                sent = self._sock.send(unsent[0])
            except BlockingIOError:
                return
            if sent < len(unsent[0]):
                unsent[0] = unsent[0][sent:]
            else:
                unsent.popleft()

    def gather(self, most: int = TURN) -> Gathered:
        """Take arrived messages.

        Args:
            most: bytes after which the rest is left for another time.
        """
        closed = self._fill(most)
        messages: list[Any] = []
        try:
            while (message := self._received.take()) is not None:
                messages.append(message[0])
        except BadMessage as error:
            return Gathered(messages, closed, str(error))
        return Gathered(messages, closed, "")

    def _fill(self, most: int) -> bool:
        taken = 0
        try:
            while taken < most:
                data = self._sock.recv(_READ)
                if not data:
                    return True
                self._received.add(data)
                taken += len(data)
                if len(data) < _READ:
                    return False
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return False

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
