"""The listening end of a connection, and the registration of both ends in the standard library:
``managers.listener_client["dtq"]``.

`multiprocessing.managers` finds its listeners and clients in a table by the name of a serializer. With dtq's own pair
in it, the library's `Server` and `BaseManager` speak dtq's framing, pickling and handshake without a patch. As in the
library, the listener hands out unauthenticated connections; the `pending_connections` authenticates them.
"""

from __future__ import annotations

import socket
from multiprocessing import managers
from typing import Any, Final, cast

from dtq.config.values import Address, format_address
from dtq.errors import PortInUse
from dtq.transport.connection import Connection
from dtq.transport.endpoints import dial, reason

#: Name of dtq's listener and client in the table of `multiprocessing.managers`.
SERIALIZER: Final = "dtq"
#: Connections that may wait to be accepted. The library's 16 loses most of three hundred that come at once.
BACKLOG: Final = 1024


class Listener:
    """A listening socket.

    Args:
        address: host and port; an empty host for every interface, port 0 for any free port.
        backlog: connections that may wait to be accepted; never less than `BACKLOG`.

    Attributes:
        address: host and port that it listens on.
        socket: the socket.

    Raises:
        PortInUse: the address cannot be bound.
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
        """The next connection, not authenticated yet."""
        sock, place = self.socket.accept()
        return Connection(sock, format_address(place[:2]))

    def close(self) -> None:
        """Stop listening; wakes a thread that waits in `accept`."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not listening, or closed already
        finally:
            self.socket.close()


# The table is part of the library's design, but not of its type stubs.
_table: dict[str, tuple[Any, Any]] = vars(managers)["listener_client"]
_table[SERIALIZER] = (Listener, dial)
