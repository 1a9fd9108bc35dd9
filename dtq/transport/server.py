"""The server: `multiprocessing.managers` with dtq's own authentication, wire format and thread management.

Built on `BaseManager` and its `Server`: one registered type, whose factory is called once a connection and whose
exposed methods are those of `model.service.Service`. The other verbs of the library's server (create, shutdown,
debug_info, reference counts, ``#GETVALUE``) do not exist here: a peer's words are looked up in the wire table only.

Threads: one accepts and authenticates connections (`pending_connections`); each authenticated connection has its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing import managers
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self

from dtq.config.keys import FIRST, Key
from dtq.config.tls import TlsFiles
from dtq.config.values import Address, is_loopback
from dtq.errors import ConnectionsFull, DtqError, InvalidValue
from dtq.model.service import Session
from dtq.records import dataclass
from dtq.transport import safepickle
from dtq.transport.calls import METHODS, error_answer
from dtq.transport.connection import MAX_MESSAGE, Connection, tune
from dtq.transport.connection_handler import ConnectionHandler
from dtq.transport.connection_table import ConnectionTable, RateLimitedLog
from dtq.transport.endpoints import reason
from dtq.transport.handshake import NO_BINDING
from dtq.transport.listening import SERIALIZER, Listener
from dtq.transport.pending_connections import PendingConnections, Talk
from dtq.transport.server_handshake import Keyring, Waits, admit_client, farewell, peek, want_tls
from dtq.wording import counted

if TYPE_CHECKING:
    from ssl import SSLContext

#: The one type that the manager registers: an object that satisfies `model.service.Session`.
TYPEID: Final = "Service"
#: Default port of a coordinator.
PORT: Final = 3870
#: Stack of a connection's thread in bytes: with the usual 8 MiB, a few hundred threads exhaust an address space limit.
_STACK: Final = 1 << 20
#: Seconds for a connection to end after it was cut.
_LAST_WAIT_S: Final = 1.0

log = logging.getLogger("dtq.transport")

#: Makes the object that answers the calls of one new connection, given the peer's address.
OpenSession = Callable[[str], Session]


class Server:
    """Serves `model.service.Service` to the holders of keys, as far as a key's roles permit.

    Args:
        open_session: called once for each authenticated connection, in its thread, with the peer's ``host:port``. The
            session's ``disconnected`` is called exactly once, last, however the connection ends.
        host: interface to listen on.
        port: port to listen on; 0 for any free port.
        authkeys: the keys that may do everything, at least 16 bytes each; more than one while a key is being replaced.
        keys: keys with fewer rights.
        max_message: largest message in bytes, either way.
        max_connections: bound of all connections.
        max_pending: bound of unauthenticated connections; the oldest makes room for the next.
        on_quiet: called, in the thread that accepts connections, when a crowd of strangers has left.
        tls: certificates; with them, peers on other machines must use TLS, those on this one may.

    Raises:
        InvalidValue: an authkey is missing, or a key too short.
        BadConfig: the certificates cannot be used.
    """

    def __init__(
        self,
        open_session: OpenSession,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        authkeys: Sequence[bytes],
        keys: Iterable[Key] = (),
        max_message: int = MAX_MESSAGE,
        max_connections: int = 4096,
        max_pending: int = 1024,
        tls: TlsFiles | None = None,
        on_quiet: Callable[[], None] = lambda: None,
    ) -> None:
        if not authkeys:
            raise InvalidValue("authkeys", 0, "there is at least one")
        self._first = [Key(name=FIRST, secret=authkey) for authkey in authkeys]
        self._door = _Door(
            keyring=Keyring([*self._first, *keys]),
            max_message=max_message,
            max_connections=max_connections,
            max_pending=max_pending,
            tls=None if tls is None else _tls().server_context(tls),
            binding=NO_BINDING if tls is None else _tls().server_binding(tls),
            on_quiet=on_quiet,
        )
        self._wanted: Address = (host, port)
        self._manager_class = _manager_class(open_session)
        self._server: _ServiceServer | None = None
        self._accepter: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Host and port; after `start` the port that was bound."""
        return self._wanted if self._server is None else self._server.listener.address

    def start(self) -> None:
        """Listen, and accept connections in a thread of its own; calling it twice does no harm.

        Raises:
            PortInUse: the address cannot be bound.
        """
        if self._server is not None:
            return
        self._server = self._manager_class(self._wanted, self._door).get_server()
        self._accepter = threading.Thread(target=self._server.accepter, name="dtq-accept", daemon=True)
        self._accepter.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Accept no more connections, finish calls under way, close every connection; calling it twice does no harm.

        Args:
            timeout_s: how long to wait for calls under way, in seconds; after it their connections are cut.
        """
        if self._server is None or self._accepter is None:
            return
        if not self._server.stop_event.is_set():
            self._server.stop_event.set()
            self._server.reception.close()
            self._accepter.join()
            self._server.listener.close()
        self._server.disperse(timeout_s)

    def replace_keys(self, keys: Iterable[Key]) -> list[str]:
        """Accept these keys beside the authkeys, and no others, from now on. Connections whose key is no longer
        accepted, or has other roles now, end at once. From any thread.

        Returns:
            The names of all accepted keys.
        """
        self._door.keyring.replace([*self._first, *keys])
        if self._server is not None:
            self._server.turn_out()
        return self._door.keyring.names()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tls() -> ModuleType:
    """The TLS context; imported here, so that a server without TLS does not import it."""
    from dtq.transport import tls

    return tls


@dataclass(frozen=True, slots=True, kw_only=True)
class _Door:
    """The server's rules of admission: keys, and bounds."""

    keyring: Keyring
    max_message: int
    max_connections: int
    max_pending: int
    tls: SSLContext | None
    binding: bytes
    on_quiet: Callable[[], None]


class _Manager(managers.BaseManager):
    """The library's manager, with a server of its own kind (the library's names its own, whatever a subclass says)."""

    def __init__(self, address: Address, door: _Door) -> None:
        super().__init__(address, b"", SERIALIZER)  # dtq's own ends have the keys
        self._place = address
        self._door = door

    def get_server(self) -> _ServiceServer:
        registry: dict[str, Any] = vars(type(self))["_registry"]
        return _ServiceServer(registry, self._place, self._door)


def _manager_class(open_session: OpenSession) -> type[_Manager]:
    class ServiceManager(_Manager):
        """Registrations belong to a class in the library, so every server has a class."""

    ServiceManager.register(TYPEID, open_session, exposed=tuple(METHODS), create_method=False)
    return ServiceManager


class _ServiceServer(managers.Server):
    """The library's server with every step of a connection's life replaced, and without verbs of its own."""

    #: The library looks a peer's verbs up here.
    public: list[str] = []  # noqa: RUF012  declared so by the library

    def __init__(self, registry: dict[str, Any], address: Address, door: _Door) -> None:
        super().__init__(registry, address, b"", SERIALIZER)
        self.listener: Listener
        self._open_session: OpenSession = registry[TYPEID][0]
        self.stop_event = threading.Event()
        self._door = door
        self._admission = ConnectionTable(door.max_connections)
        self._strangers = RateLimitedLog(log)
        self._threads: set[threading.Thread] = set()
        self.reception = PendingConnections(
            self.listener,
            greet=self._greet,
            show_in=self._show_in,
            most=door.max_pending,
            strangers=self._strangers,
            on_quiet=door.on_quiet,
        )

    def accepter(self) -> None:
        """The accept loop."""
        self.reception.run()

    def _greet(self, connection: Connection) -> Talk:
        """The whole dialogue with a stranger."""
        binding = yield from self._secure(connection)
        key = yield from admit_client(connection.sock, self._door.keyring, binding)
        if not self._admission.full:
            return key
        full = ConnectionsFull(self._door.max_connections)
        self._strangers.warning("turned %s away: %s", connection.peer, full)
        yield from farewell(connection.sock, safepickle.dumps(error_answer(full)))
        return None

    def _secure(self, connection: Connection) -> Generator[Waits, None, bytes]:
        """Begin TLS, if this server uses it; returns the channel's binding."""
        tls = self._door.tls
        if tls is None:
            return NO_BINDING
        if (yield from peek(connection.sock)) == _tls().RECORD:
            connection.sock = secured = _tls().server_side(connection.sock, tls)
            yield from _tls().shake_hands(secured)
            return self._door.binding
        if not is_loopback(connection.sock.getpeername()[0]):
            yield from want_tls(connection.sock)
        return NO_BINDING

    def _show_in(self, connection: Connection, key: Key) -> None:
        """Start the thread of an authenticated connection."""
        self._admission.admit(connection, key)
        name = f"dtq-connection-{connection.peer}"
        thread = threading.Thread(target=self.handle_request, args=((connection, key),), name=name, daemon=True)
        usual = threading.stack_size(_STACK)
        try:
            self._threads.add(thread)
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            self._admission.leave(connection)
            raise
        finally:
            threading.stack_size(usual)

    def handle_request(self, conn: Any) -> None:
        """Run an authenticated connection, in its own thread."""
        connection: Connection
        connection, key = conn
        peer = connection.peer
        try:
            tune(connection.sock)
            connection.keep_pace()
            connection.limit = self._door.max_message
            if self._door.keyring.holds(key):  # it may have been revoked since its proof
                self.serve_client(conn)
        except DtqError as error:
            log.warning("closing the connection from %s: %s", peer, error)
        except (EOFError, OSError) as error:
            log.debug("the connection from %s ended: %s", peer, reason(error))
        except Exception:
            log.exception("the connection from %s failed", peer)  # the edge of its thread
        finally:
            self._admission.leave(connection)
            connection.close()
            self._threads.discard(threading.current_thread())

    def serve_client(self, conn: Any) -> None:
        """Answer an authenticated connection's calls, to its end."""
        connection, key = conn
        session = self._open_session(connection.peer)
        connection.on_moved = session.alive
        try:
            conversation = ConnectionHandler(connection, session, key)
            while conversation.turn() and not self.stop_event.is_set():
                pass
        finally:
            session.disconnected()

    def turn_out(self) -> None:
        """End the connections whose key is no longer accepted."""
        for connection in self._admission.everybody(lambda key: not self._door.keyring.holds(key)):
            log.info("ending the connection from %s: its key was revoked or changed", connection.peer)
            connection.interrupt()

    def disperse(self, timeout_s: float) -> None:
        """End every connection, and wait for the threads, for this many seconds at most."""
        deadline = time.monotonic() + timeout_s
        for connection in self._admission.everybody():
            connection.finish()
        self._join(deadline)
        for connection in self._admission.everybody():
            connection.interrupt()
        self._join(deadline + _LAST_WAIT_S)
        left = self._threads - {threading.current_thread()}
        if left:
            log.warning("%s still under way when the server closed", counted(len(left), "call was", "calls were"))
        self._strangers.close()

    def _join(self, deadline: float) -> None:
        for thread in self._threads - {threading.current_thread()}:
            thread.join(max(0.0, deadline - time.monotonic()))
