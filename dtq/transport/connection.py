"""Messages over a socket: a length, then a pickle of plain values (`safepickle`).

Both ends of every dtq connection hold one of these. It has the three methods that
`multiprocessing.managers` asks of a connection (``send``, ``recv``, ``close``), and knows what the stock one does not:
whether it may still be used. A connection on which an answer is outstanding answers the wrong question, one inherited
by `os.fork` answers the wrong process.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import Any, Final

from dtq.errors import TooLarge
from dtq.transport import safepickle

#: Largest message in bytes, unless the server is told otherwise.
MAX_MESSAGE: Final = 16 << 20
#: Seconds after which a peer that acknowledges nothing, or keeps its window shut, counts as gone. Keepalive alone is
#: mute while data is under way.
SILENCE_S: Final = 20

_LENGTH: Final = 4
#: First read of a message, in bytes: most messages are smaller, and every idle connection holds so much.
_FIRST_READ: Final = 8 << 10
#: Up to here a body is copied behind its length, to be one buffer; above, both are handed over as they are.
_JOINED: Final = 32 << 10
#: A long message is given so much memory at first, and then as much again as has arrived, but no more than a MiB.
_FIRST_ROOM: Final = 64 << 10
_MORE_ROOM: Final = memoryview(bytes(1 << 20))

_OPTIONS: Final = (
    ("TCP_NODELAY", 1),  # without it every message above 16 KiB stalls for 40 ms
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
)


def tune(sock: socket.socket) -> None:
    """Set the options that every connection of dtq needs, where the platform has them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


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
    """

    __slots__ = ("_owner", "_poll", "_rest", "_timeout_s", "_waiting", "limit", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: str, limit: int = MAX_MESSAGE) -> None:
        self.sock = sock
        self.peer = peer
        self.limit = limit
        self._rest = b""
        self._owner = os.getpid()
        self._waiting = False
        self._timeout_s = sock.gettimeout()
        self._poll: select.poll | None = None

    def send(self, value: Any) -> None:
        """Send a message, whole.

        Raises:
            BadMessage: it is not plain data. Nothing was sent, the connection is as before.
            TooLarge: it is over the limit. Nothing was sent, the connection is as before.
            TimeoutError: the peer took nothing for the time set. The connection is of no more use.
            OSError: the connection is gone.
        """
        body = safepickle.dumps(value)
        size = len(body)
        if size > self.limit:
            raise TooLarge("a message", size, self.limit)
        self._waiting = True
        length = size.to_bytes(_LENGTH, "big")
        if size <= _JOINED:
            self._push(length + body)
        elif hasattr(self.sock, "pending"):  # with TLS there is no sendmsg
            self._push(length)
            self._push(body)
        else:
            sent = self.sock.sendmsg((length, body))
            if sent < _LENGTH:
                self._push(length[sent:])
                sent = _LENGTH
            self._push(memoryview(body)[sent - _LENGTH :])

    def recv(self) -> Any:
        """Wait for a message.

        Raises:
            BadMessage: it is not plain data. The connection is in step.
            TooLarge: the peer announced one over the limit. The connection is of no more use.
            EOFError: the peer has closed the connection.
            TimeoutError: nothing came for the time set. The connection is of no more use.
            OSError: the connection is gone.
        """
        data = self._rest or self._pull(_FIRST_READ)
        while len(data) < _LENGTH:
            data += self._pull(_FIRST_READ)
        size = int.from_bytes(data[:_LENGTH], "big")
        if size > self.limit:
            raise TooLarge("a message announced by the peer", size, self.limit)
        end = _LENGTH + size
        self._rest = data[end:]
        body = data[_LENGTH:end] if len(data) >= end else self._fill(data[_LENGTH:], size)
        self._waiting = False
        return safepickle.loads(body)

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long `send` and `recv` wait without a byte moving, in seconds; None for ever."""
        if timeout_s != self._timeout_s:
            self.sock.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def usable(self) -> bool:
        """Whether a request may be sent: it is open, this process's own, no answer is outstanding, and the peer has
        neither gone nor said something unasked."""
        if self._waiting or self._owner != os.getpid() or self.sock.fileno() < 0:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.sock, select.POLLIN)
        return not self._poll.poll(0)

    def finish(self) -> None:
        """Take no more messages: `recv` meets the end, an answer under way can still be sent. From any thread."""
        self._shutdown(socket.SHUT_RD)

    def interrupt(self) -> None:
        """Wake whoever waits in `send` or `recv`, from any thread; the connection is of no more use."""
        self._shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket; calling it twice does no harm."""
        self.sock.close()

    def _shutdown(self, how: int) -> None:
        if self._owner == os.getpid():  # a shutdown would reach the process that it was inherited from
            with contextlib.suppress(OSError):  # gone already
                # Not the method of a socket with TLS: that would have what follows sent in the clear.
                socket.socket.shutdown(self.sock, how)

    def _push(self, data: bytes | memoryview) -> None:
        sent = self.sock.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self.sock.send(rest) :]

    def _pull(self, most: int) -> bytes:
        data = self.sock.recv(most)
        if not data:
            raise EOFError
        return data

    def _fill(self, start: bytes, size: int) -> bytearray:
        """The rest of a message. Memory grows with the bytes received, not with those announced."""
        body = bytearray(min(size, max(_FIRST_ROOM, len(start))))
        body[: len(start)] = start
        have = len(start)
        while True:
            with memoryview(body) as room:
                while have < len(body):
                    received = self.sock.recv_into(room[have:])
                    if not received:
                        raise EOFError
                    have += received
            if have == size:
                return body
            body += _MORE_ROOM[: min(size - have, have)]
