"""The server's part of the handshake (`handshake` has the protocol), and the keyring.

Written as a generator that never blocks: it yields the event that it waits for, and its caller (`pending_connections`)
attends to a thousand others meanwhile, and ends it after its deadline.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import selectors
import socket
from collections.abc import Generator, Iterable
from typing import Final

from dtq.config.keys import Key
from dtq.model.messages import PROTOCOL
from dtq.transport.handshake import (
    CLIENT,
    KEY_ID,
    MAGIC,
    NAME,
    NO_BINDING,
    NONCE,
    PROOF,
    SERVER,
    TLS_WANTED,
    check_key,
    key_id,
    proof,
)

#: The event that a step of the handshake waits for: `selectors.EVENT_READ` or `EVENT_WRITE`.
Waits = int


class Stranger(Exception):
    """The peer is refused. Stays on the server's side of the wire, in its log."""


class Keyring:
    """The keys that a server accepts; may be replaced while it runs.

    Args:
        keys: all of them.

    Raises:
        InvalidValue: one is too short.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        # A key without a holder: an unknown id takes the same steps as a known one.
        self._nobody: Final = Key(name="", secret=os.urandom(32), roles=frozenset())
        self.replace(keys)

    def replace(self, keys: Iterable[Key]) -> None:
        """Replace all keys by these."""
        self._keys = {key_id(check_key(key.secret)): key for key in keys}

    def of_id(self, identity: bytes) -> Key:
        """The key with an id; a key without a holder if the id is unknown."""
        return self._keys.get(identity, self._nobody)

    def holds(self, key: Key) -> bool:
        """Whether this key, with its roles, is one of them."""
        return self._keys.get(key_id(key.secret)) == key

    def names(self) -> list[str]:
        """The names of the keys."""
        return [key.name for key in self._keys.values()]


def admit_client(sock: socket.socket, keys: Keyring, binding: bytes = NO_BINDING) -> Generator[Waits, None, Key]:
    """The handshake.

    Args:
        sock: a new connection that does not block.
        keys: the accepted keys.
        binding: the channel's binding.

    Yields:
        The event that it waits for.

    Returns:
        The key that the peer has proved to hold.

    Raises:
        Stranger: the peer speaks another protocol, another version, or has another key.
        EOFError: it closed the connection.
        OSError: it reset the connection.
    """
    theirs = yield from _take(sock, len(MAGIC))
    if not theirs.startswith(NAME):
        raise Stranger("it does not speak dtq's protocol")
    if theirs != MAGIC:
        # Every version begins with at least a nonce. Received bytes must be read: unread, they would reset our answer.
        yield from _take(sock, NONCE)
        yield from _give(sock, MAGIC + os.urandom(NONCE))
        with contextlib.suppress(OSError):
            sock.recv(4096)
        raise Stranger(f"it speaks protocol {theirs[-1]}, this side {PROTOCOL}")
    opening = yield from _take(sock, KEY_ID + NONCE)
    server_nonce = os.urandom(NONCE)
    yield from _give(sock, MAGIC + server_nonce)
    claim = yield from _take(sock, PROOF)
    key = keys.of_id(opening[:KEY_ID])
    nonces = server_nonce + opening[KEY_ID:]
    if not hmac.compare_digest(claim, proof(key.secret, CLIENT, binding, nonces)):
        yield from _give(sock, os.urandom(PROOF))
        raise Stranger("it has another authkey")
    yield from _give(sock, proof(key.secret, SERVER, binding, nonces))
    return key


def peek(sock: socket.socket) -> Generator[Waits, None, bytes]:
    """The peer's first byte, which stays to be read.

    Raises:
        EOFError: the peer sends nothing.
    """
    while True:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            yield selectors.EVENT_READ
            continue
        if not first:
            raise EOFError
        return first


def want_tls(sock: socket.socket) -> Generator[Waits, None, None]:
    """Tell a peer without TLS that it must use TLS.

    Raises:
        Stranger: always.
    """
    theirs = yield from _take(sock, len(MAGIC))
    if theirs.startswith(NAME):
        yield from _take(sock, NONCE)
        yield from _give(sock, TLS_WANTED)
        with contextlib.suppress(OSError):
            sock.recv(4096)
    raise Stranger("it does not speak TLS, and comes from another machine")


def farewell(sock: socket.socket, body: bytes) -> Generator[Waits, None, None]:
    """Answer the first request of an authenticated peer, whatever it is, and wait for it to leave."""
    yield from _give(sock, len(body).to_bytes(4, "big") + body)
    # Closing with unread bytes would take the answer back.
    while True:
        yield from _take(sock, 1)


def _take(sock: socket.socket, size: int) -> Generator[Waits, None, bytes]:
    data = b""
    while len(data) < size:
        try:
            part = sock.recv(size - len(data))
        except BlockingIOError:
            yield selectors.EVENT_READ
            continue
        if not part:
            raise EOFError
        data += part
    return data


def _give(sock: socket.socket, data: bytes) -> Generator[Waits, None, None]:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            yield selectors.EVENT_WRITE
