"""Who may talk: both sides prove that they hold the authkey, and neither shows it.

    client  magic, nonce
    server                 magic, nonce          (to those whose magic begins right; to others nothing)
    client  proof
    server                 proof                 (to a wrong proof: as many random bytes)

A proof is HMAC-SHA256 over magic, role, channel binding and both nonces, so it cannot be reflected, replayed, or taken
from another connection. The client speaks first: where the kernel's accept queue overflows, the client's side of a
connection may exist without the server's, and a client that waits to be greeted waits for ever. Whatever a stranger
sees is random, and the refusal is an answer rather than a closed connection, because a connection is also closed by a
coordinator that dies or is too busy, which must not look like a wrong key. All of it happens under one deadline, which
no drip feed extends.
"""

from __future__ import annotations

import hmac
import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from dtq.errors import InvalidValue, ProtocolMismatch, Unreachable, WrongKey
from dtq.model.messages import PROTOCOL

#: Seconds for the whole handshake.
HANDSHAKE_S: Final = 5.0
#: What every connection begins with: three letters and the version of the protocol.
MAGIC: Final = b"DTQ" + bytes([PROTOCOL])
#: Shortest authkey in bytes; shorter ones can be guessed from one recorded handshake.
MIN_KEY: Final = 16
#: What a connection without TLS is bound to; with TLS, the hash of the server's certificate goes here.
NO_BINDING: Final = bytes(32)

_NAME: Final = MAGIC[:3]
_NONCE: Final = 32
_PROOF: Final = 32
_CLIENT: Final = b"client"
_SERVER: Final = b"server"


class Stranger(Exception):
    """Who connected is not let in. Stays on the server's side of the wire, in its log."""


def check_key(key: bytes) -> bytes:
    """The authkey, if it is long enough.

    Raises:
        InvalidValue: it is not. The sentence does not show the key.
    """
    if len(key) < MIN_KEY:
        raise InvalidValue("the length of an authkey", len(key), f"it has at least {MIN_KEY} random bytes")
    return key


def admit_client(sock: socket.socket, keys: Sequence[bytes], *, deadline: float, binding: bytes = NO_BINDING) -> None:
    """The server's part.

    Args:
        sock: a new connection; its timeout is changed.
        keys: the authkeys that are accepted (more than one while a key is being replaced).
        deadline: when it has to be over, as `time.monotonic` counts.
        binding: what the channel is bound to.

    Raises:
        Stranger: the peer speaks something else, another version, or has another key.
        EOFError: it closed the connection.
        OSError: it reset the connection, or the deadline has passed.
    """
    theirs = _take(sock, len(MAGIC), deadline)
    if not theirs.startswith(_NAME):
        raise Stranger("it does not speak dtq's protocol")
    client_nonce = _take(sock, _NONCE, deadline)
    server_nonce = os.urandom(_NONCE)
    sock.sendall(MAGIC + server_nonce)
    if theirs != MAGIC:
        raise Stranger(f"it speaks protocol {theirs[-1]}, this side {PROTOCOL}")
    claim = _take(sock, _PROOF, deadline)
    nonces = server_nonce + client_nonce
    for key in keys:
        if hmac.compare_digest(claim, _proof(key, _CLIENT, binding, nonces)):
            sock.sendall(_proof(key, _SERVER, binding, nonces))
            return
    sock.sendall(os.urandom(_PROOF))
    raise Stranger("it has another authkey")


def join_server(
    sock: socket.socket, key: bytes, *, deadline: float, peer: str, key_source: str, binding: bytes = NO_BINDING
) -> None:
    """The client's part.

    Args:
        sock: a new connection; its timeout is changed.
        key: the authkey.
        deadline: when it has to be over, as `time.monotonic` counts.
        peer: the server's address, for sentences.
        key_source: where the key comes from, for sentences.
        binding: what the channel is bound to.

    Raises:
        WrongKey: the server refused the proof, or could not prove itself.
        ProtocolMismatch: the server speaks another version.
        Unreachable: what answers is no coordinator.
        EOFError: the server closed the connection.
        OSError: it reset the connection, or the deadline has passed.
    """
    client_nonce = os.urandom(_NONCE)
    sock.settimeout(_left_s(deadline))
    sock.sendall(MAGIC + client_nonce)
    theirs = _take(sock, len(MAGIC), deadline)
    if not theirs.startswith(_NAME):
        raise Unreachable(peer, "what listens there is not a dtq coordinator")
    if theirs != MAGIC:
        raise ProtocolMismatch(PROTOCOL, theirs[-1])
    nonces = _take(sock, _NONCE, deadline) + client_nonce
    sock.sendall(_proof(key, _CLIENT, binding, nonces))
    if not hmac.compare_digest(_take(sock, _PROOF, deadline), _proof(key, _SERVER, binding, nonces)):
        raise WrongKey(peer, key_source)


def _proof(key: bytes, role: bytes, binding: bytes, nonces: bytes) -> bytes:
    return hmac.digest(key, MAGIC + role + binding + nonces, "sha256")


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the handshake took too long")
    return left_s


def _take(sock: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(_left_s(deadline))
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
