"""Mutual authentication: both sides prove that they hold the same key, and neither shows it. The client's part.

    client  magic, key id, nonce
    server                        magic, nonce          (to those whose magic begins right; to others nothing)
    client  proof
    server                        proof                 (to a wrong proof: as many random bytes)

A key's id follows from the key, and tells the server which of its keys to compare with; an unknown id fails like a
wrong proof, in the same steps. A proof is HMAC-SHA256 over magic, role, channel binding, key id and both nonces, so it
cannot be reflected, replayed, or taken from another connection. The client speaks first: if the kernel's accept queue
overflows, the client's side of a connection may exist without the server's, and a client that waits for a greeting
waits for ever. A stranger sees random bytes only. The refusal is an answer rather than a closed connection, because a
dying or overloaded coordinator also closes connections, which must not look like a wrong key. One deadline bounds the
whole handshake, and no drip feed extends it. The server's part is in `server_handshake`.
"""

from __future__ import annotations

import hmac
import os
import socket
import time
from typing import Final

from dtq.errors import InvalidValue, ProtocolMismatch, TlsFailed, Unreachable, WrongKey
from dtq.model.messages import PROTOCOL

#: Seconds for the whole handshake.
HANDSHAKE_S: Final = 5.0
#: First bytes of every connection: three letters and the version of the protocol.
MAGIC: Final = b"DTQ" + bytes([PROTOCOL])
#: First bytes of a connection of any version.
NAME: Final = MAGIC[:3]
#: Answer of a server that requires TLS to a client without it.
TLS_WANTED: Final = NAME + b"\x00"
#: Shortest authkey in bytes; shorter ones can be guessed from one recorded handshake.
MIN_KEY: Final = 16
#: Channel binding without TLS; with TLS, the hash of the server's certificate.
NO_BINDING: Final = bytes(32)

#: Lengths in bytes.
KEY_ID: Final = 8
NONCE: Final = 32
PROOF: Final = 32
#: Roles in a proof.
CLIENT: Final = b"client"
SERVER: Final = b"server"


def check_key(key: bytes) -> bytes:
    """The authkey, if it is long enough.

    Raises:
        InvalidValue: the key is too short. The sentence does not show the key.
    """
    if len(key) < MIN_KEY:
        raise InvalidValue("the length of an authkey", len(key), f"it has at least {MIN_KEY} random bytes")
    return key


def key_id(key: bytes) -> bytes:
    """The id of a key, from which the key cannot be found."""
    return hmac.digest(key, b"dtq key id", "sha256")[:KEY_ID]


def proof(key: bytes, role: bytes, binding: bytes, nonces: bytes) -> bytes:
    """The proof of a key's possession.

    Args:
        key: the key.
        role: the prover, `CLIENT` or `SERVER`.
        binding: the channel's binding.
        nonces: the server's, then the client's.
    """
    return hmac.digest(key, MAGIC + role + binding + key_id(key) + nonces, "sha256")


def join_server(
    sock: socket.socket, key: bytes, *, deadline: float, peer: str, key_source: str, binding: bytes = NO_BINDING
) -> None:
    """The client's part.

    Args:
        sock: a new connection; its timeout is changed.
        key: the authkey.
        deadline: its end, as `time.monotonic` counts.
        peer: the server's address, for sentences.
        key_source: the key's origin, for sentences.
        binding: the channel's binding.

    Raises:
        WrongKey: the server refused the proof, or could not prove itself.
        ProtocolMismatch: the server speaks another version.
        Unreachable: the peer is no coordinator.
        TlsFailed: the server requires TLS.
        EOFError: the server closed the connection.
        OSError: it reset the connection, or the deadline has passed.
    """
    client_nonce = os.urandom(NONCE)
    sock.settimeout(_left_s(deadline))
    sock.sendall(MAGIC + key_id(key) + client_nonce)
    theirs = _take(sock, len(MAGIC), deadline)
    if not theirs.startswith(NAME):
        raise Unreachable(peer, "what listens there is not a dtq coordinator")
    if theirs == TLS_WANTED:
        raise TlsFailed(peer, "it speaks nothing else with other machines, and this side has no certificates")
    if theirs != MAGIC:
        raise ProtocolMismatch(PROTOCOL, theirs[-1])
    nonces = _take(sock, NONCE, deadline) + client_nonce
    sock.sendall(proof(key, CLIENT, binding, nonces))
    if not hmac.compare_digest(_take(sock, PROOF, deadline), proof(key, SERVER, binding, nonces)):
        raise WrongKey(peer, key_source)


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
