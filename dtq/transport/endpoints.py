"""The connecting end of a connection: all steps of a client or worker until both sides are authenticated.

The other end is in `listening`, which knows `multiprocessing.managers`: a program that only connects need not import
that.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from dtq.config.values import Address, format_address, is_loopback
from dtq.errors import DtqError, Unreachable, WrongKey
from dtq.transport.connection import MAX_MESSAGE, Connection, tune
from dtq.transport.handshake import HANDSHAKE_S, NO_BINDING, join_server

if TYPE_CHECKING:
    from ssl import SSLContext

#: A connection to every interface is one to this machine.
_ANY: Final = ("0.0.0.0", "::")


def reason(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def dial(
    address: Address,
    authkey: bytes | None = None,
    *,
    timeout_s: float = HANDSHAKE_S,
    key_source: str = "this side",
    limit: int = MAX_MESSAGE,
    tls: SSLContext | None = None,
) -> Connection:
    """Connect, and authenticate both sides.

    Args:
        address: host and port of a coordinator.
        authkey: the key; None proves nothing, and is refused.
        timeout_s: seconds for the whole.
        key_source: the key's origin, for sentences.
        limit: largest message in bytes.
        tls: the TLS context, unused if the address is of this machine; None for no TLS.

    Raises:
        Unreachable: no answer, or not in time, or not from a coordinator.
        TlsFailed: the two sides do not agree on TLS.
        WrongKey: the other side has another key.
        ProtocolMismatch: the other side speaks another version.
    """
    peer = format_address(address)
    if authkey is None:
        raise WrongKey(peer, key_source)
    deadline = time.monotonic() + timeout_s
    try:
        sock = socket.create_connection(address, timeout_s)
    except (OSError, UnicodeError) as error:
        raise Unreachable(peer, reason(error)) from error
    try:
        if sock.getsockname() == sock.getpeername():
            # Nobody listens, and the kernel drew the very port that is dialled: this socket talks to itself.
            raise Unreachable(peer, "connection refused")
        tune(sock)
        binding = NO_BINDING
        if tls is not None and not is_loopback(address[0]) and address[0] not in _ANY:
            from dtq.transport.tls import secure_client  # ssl is expensive, and many processes do without

            sock, binding = secure_client(sock, tls, host=address[0], peer=peer, deadline=deadline)
        join_server(sock, authkey, deadline=deadline, peer=peer, key_source=key_source, binding=binding)
        return Connection(sock, peer, limit)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError | EOFError) and not isinstance(error, DtqError):
            raise Unreachable(peer, reason(error)) from error
        raise
