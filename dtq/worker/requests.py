"""Requests of a supervisor to its fork server: a slot, with its descriptors.

Worker, used at both ends of the socket between them.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

#: Longest message in bytes: paths and modules; a traceback.
LONGEST: Final = 1 << 17
#: A letter for each of the descriptors, in their order; a message has the letters of the given ones.
_LETTERS: Final = b"cprot"


class Request(NamedTuple):
    """The descriptors of a slot that is to be forked; -1 for none.

    Attributes:
        channel: pipe to the supervisor.
        position: memory that it shares with the supervisor.
        reply: the pipe for the reaper's number.
        output: its standard output and error.
        tracker: pipe to the resource tracker.
    """

    channel: int
    position: int
    reply: int
    output: int = -1
    tracker: int = -1


def send(sock: socket.socket, request: Request) -> None:
    """Request a slot.

    Raises:
        OSError: the fork server is gone.
    """
    given = [(letter, descriptor) for letter, descriptor in zip(_LETTERS, request, strict=True) if descriptor >= 0]
    socket.send_fds(sock, [bytes([letter for letter, _ in given])], [descriptor for _, descriptor in given])


def receive(sock: socket.socket) -> Request | None:
    """The next request, with descriptors of this process; None if the supervisor is gone."""
    try:
        letters, descriptors, _, _ = socket.recv_fds(sock, 64, len(_LETTERS))
    except ConnectionResetError:  # it is gone, and had not read everything
        return None
    if not letters:
        return None
    given = dict(zip(letters, descriptors, strict=True))
    return Request(*[given.get(letter, -1) for letter in _LETTERS])
