"""The two ends of a connection, and their place in the standard library: ``managers.listener_client["dtq"]``.

`multiprocessing.managers` looks up how to listen and how to connect in a table by the name of a serializer. With dtq's
own pair in it, the library's `Server` and `BaseManager` speak dtq's framing, pickling and handshake without a patch.
As in the library, the listener hands out connections before anybody has proved anything; that is done in the
`reception`.
"""

from __future__ import annotations

import socket
import time
from multiprocessing import managers
from typing import TYPE_CHECKING, Any, Final, cast

from dtq.config.values import Address, format_address, is_loopback
from dtq.errors import DtqError, PortInUse, Unreachable, WrongKey
from dtq.transport.connection import MAX_MESSAGE, Connection, tune
from dtq.transport.handshake import HANDSHAKE_S, NO_BINDING, join_server

if TYPE_CHECKING:
    from ssl import SSLContext

#: Name of dtq's listener and client in the table of `multiprocessing.managers`.
SERIALIZER: Final = "dtq"
#: Connections that may wait to be accepted. The library's 16 loses most of three hundred that come at once.
BACKLOG: Final = 1024
#: Connecting to every interface is connecting to this machine.
_ANY: Final = ("0.0.0.0", "::")


def reason(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


class Listener:
    """A listening socket.

    Args:
        address: host and port; an empty host for every interface, port 0 for any that is free.
        backlog: connections that may wait to be accepted; never less than `BACKLOG`.

    Attributes:
        address: host and port that it listens on.
        socket: the socket.

    Raises:
        PortInUse: it cannot listen there.
    """

    def __init__(self, address: Address, backlog: int = BACKLOG) -> None:
        host, port = address
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, place = found[0]
            self.socket = socket.create_server(
                cast(Address, place),
                family=family,
                backlog=max(backlog, BACKLOG),
                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
            )
        except (OSError, UnicodeError) as error:
            raise PortInUse(format_address(address), reason(error)) from error
        self.address: Address = self.socket.getsockname()[:2]

    def accept(self) -> Connection:
        """The next connection, which has proved nothing yet."""
        sock, place = self.socket.accept()
        return Connection(sock, format_address(place[:2]))

    def close(self) -> None:
        """Listen no more; wakes a thread that waits in `accept`."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not listening, or closed already
        finally:
            self.socket.close()


def dial(
    address: Address,
    authkey: bytes | None = None,
    *,
    timeout_s: float = HANDSHAKE_S,
    key_source: str = "this side",
    limit: int = MAX_MESSAGE,
    tls: SSLContext | None = None,
) -> Connection:
    """Connect, and prove who is who.

    Args:
        address: host and port of a coordinator.
        authkey: the key; None proves nothing, and is refused.
        timeout_s: seconds for all of it.
        key_source: where the key comes from, for sentences.
        limit: largest message in bytes.
        tls: what to speak TLS with, unless the address is of this machine; None for no TLS.

    Raises:
        Unreachable: nobody answers there, or not in time, or not a coordinator.
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
            from dtq.transport.tls import secure_client  # ssl costs what a process without it need not pay

            sock, binding = secure_client(sock, tls, host=address[0], peer=peer, deadline=deadline)
        join_server(sock, authkey, deadline=deadline, peer=peer, key_source=key_source, binding=binding)
        return Connection(sock, peer, limit)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError | EOFError) and not isinstance(error, DtqError):
            raise Unreachable(peer, reason(error)) from error
        raise


# The table is part of the library's design, but not of its type stubs.
_table: dict[str, tuple[Any, Any]] = vars(managers)["listener_client"]
_table[SERIALIZER] = (Listener, dial)
