"""The pipe between a supervisor and a slot: framed messages over a socket pair.

Messages are tuples of scalars and bytes, checked before they are unpickled as everywhere: a slot runs foreign code. The
slot's end waits; the supervisor's end never waits to read, and gathers what has arrived.
"""

from __future__ import annotations

import socket
import threading
from typing import Any, Final

from dtq.transport import safepickle

_HEAD: Final = 4
_READ: Final = 1 << 18
#: Buffer of the pipe in bytes: a message of less than half fits in while the slot is busy with the one before.
BUFFER: Final = 1 << 19


class Channel:
    """One end of the pipe.

    Args:
        sock: the connected socket; the channel owns it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()
        #: Held while one message is sent, as several threads may.
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def send(self, *message: Any) -> int:
        """Send one message.

        Returns:
            Its length in bytes.

        Raises:
            OSError: the other end is gone, or (with a timeout set on the socket) does not read.
        """
        data = safepickle.dumps(message)
        with self._sending:
            self._sock.sendall(len(data).to_bytes(_HEAD, "big") + data)
        return len(data)

    def receive(self) -> Any | None:
        """Wait for the next message; None when the other end is closed."""
        while (message := self._next()) is None:
            data = self._sock.recv(_READ)
            if not data:
                return None
            self._received += data
        return message[0]

    def would_wait(self) -> bool:
        """Whether nothing has arrived that `receive` has not returned yet."""
        if self._received:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        return False

    def gather(self) -> tuple[list[Any], bool]:
        """All messages that have arrived, without waiting.

        Returns:
            The messages, and whether the other end is closed.

        Raises:
            BadMessage: the other end does not keep to the protocol.
        """
        closed = False
        try:
            while True:
                data = self._sock.recv(_READ, socket.MSG_DONTWAIT)
                if not data:
                    closed = True
                    break
                self._received += data
                if len(data) < _READ:
                    break
        except BlockingIOError:
            pass
        except ConnectionError:
            closed = True
        messages = []
        while (message := self._next()) is not None:
            messages.append(message[0])
        return messages, closed

    def _next(self) -> tuple[Any] | None:
        received = self._received
        if len(received) < _HEAD:
            return None
        end = _HEAD + int.from_bytes(received[:_HEAD], "big")
        if len(received) < end:
            return None
        message = safepickle.loads(bytes(memoryview(received)[_HEAD:end]))
        del received[:end]
        return (message,)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
