"""The client's connections to the coordinator, and the check that the coordinator still knows the session.

Client, above the transport. A client is one *session*, whatever number of connections it has: one for submissions, one
for awaiting results, one for everything else. When the coordinator does not know the session (after a restart, or a
long time out of reach), the client must follow all its tasks anew: a new *generation* begins here, whichever connection
learns of it first. A session never goes on with another store: there its numbers would belong to other clients'
batches.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from dtq import __version__
from dtq.config import Address, TlsFiles, format_address
from dtq.errors import (
    DtqError,
    ProtocolMismatch,
    SessionUnknown,
    ShuttingDown,
    StoreReplaced,
    Unreachable,
    WrongKey,
)
from dtq.model.fields import Label, fitting
from dtq.model.messages import Hello, Role, ValuesOffer, Welcome
from dtq.model.service import Service
from dtq.model.values import MIN_CALLED
from dtq.records import replace
from dtq.transport import Proxy
from dtq.values.offers import reachable
from dtq.values.place import Place
from dtq.wording import PYTHON_VERSION, duration

log = logging.getLogger("dtq.client")

#: Errors that a later attempt at the same call may cure: the coordinator is away, stopping, or was restarted.
AWAY: Final = (Unreachable, ShuttingDown, SessionUnknown)
#: Errors that no later attempt of this session cures.
FATAL: Final = (WrongKey, ProtocolMismatch, StoreReplaced)


class Line(Service, Protocol):
    """A service that can be lost. As `transport.Proxy`: connects on demand, says hello then, repeats nothing."""

    def connect(self) -> Welcome:
        """Connect now, unless connected."""
        ...

    def close(self) -> None:
        """Disconnect for good; a call under way ends with `Unreachable`."""
        ...


class Connector(Protocol):
    """Makes the client's lines."""

    @property
    def place(self) -> str:
        """The coordinator's address, for people."""
        ...

    @property
    def by_reference(self) -> bool:
        """Whether a client on the coordinator's machine writes and reads the files of large values itself."""
        ...

    def line(self, hello: Callable[[], Hello], on_welcome: Callable[[Welcome], None]) -> Line:
        """A new, unconnected line; at each connection it says hello, and passes on the welcome."""
        ...


class Wire:
    """Makes lines over the transport.

    Args:
        addresses: of the coordinator.
        authkey: the key.
        key_source: the key's origin.
        timeout_s: longest time of a connection, in seconds.
        tls: certificates, for coordinators on other machines; None for no TLS.
        by_reference: see `Connector`.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        authkey: bytes,
        key_source: str,
        timeout_s: float,
        tls: TlsFiles | None = None,
        by_reference: bool = True,
    ) -> None:
        self.by_reference = by_reference
        self._addresses = tuple(addresses)
        self._authkey = authkey
        self._key_source = key_source
        self._timeout_s = timeout_s
        self._tls = tls

    @property
    def place(self) -> str:
        """See `Connector`."""
        return ", ".join(format_address(address) for address in self._addresses)

    def line(self, hello: Callable[[], Hello], on_welcome: Callable[[Welcome], None]) -> Line:
        """See `Connector`."""
        return Proxy(
            self._addresses,
            self._authkey,
            hello,
            on_welcome=on_welcome,
            connect_timeout_s=self._timeout_s,
            key_source=self._key_source,
            tls=self._tls,
        )


class Session:
    """This client's session, and its state at the coordinator.

    Args:
        connector: makes lines.
        store: the coordinator's store, if known already; see `Welcome`.

    Attributes:
        store: see above; empty before the first connection.
        place: the coordinator's address, for people.
        generation: grows each time that the coordinator has forgotten this session's followed batches; 0 before the
            first connection.
        max_message: the coordinator's largest message in bytes.
        max_blob: its largest argument in bytes.
        max_piece: its most tasks of one submission.
        values: its offer of values; the same object as long as the offer is the same.
        by_reference: see `Connector`.
    """

    def __init__(self, connector: Connector, store: bytes = b"") -> None:
        self.store = store
        self.place = connector.place
        self.generation = 0
        self.max_message = 1 << 20
        self.max_blob = 1 << 20
        self.max_piece = 1
        self.values: ValuesOffer | None = None
        self.by_reference = connector.by_reference
        self._connector = connector
        self._lock = threading.Lock()
        self._epoch = -1
        self._lost_at: float | None = None
        host = fitting(Label, socket.gethostname())
        self._hello = Hello(
            session=secrets.token_hex(16),
            role=Role.CLIENT,
            name=fitting(Label, f"{host}-{os.getpid()}"),
            host=host,
            pid=os.getpid(),
            python=PYTHON_VERSION,
            version=__version__,
        )

    @property
    def id(self) -> str:
        """Its name towards the coordinator."""
        return self._hello.session

    @property
    def away(self) -> bool:
        """Whether a call has found the coordinator away, and none has succeeded since."""
        return self._lost_at is not None

    @property
    def place_of_values(self) -> Place | None:
        """The place of values, if this process can access it, and may."""
        return reachable(self.values) if self.by_reference and self.values is not None else None

    def _greeting(self) -> Hello:
        """The hello of a line: whether large values must travel inline is known from the second connection on."""
        by_calls = self.values is not None and self.place_of_values is None
        return replace(self._hello, inline=MIN_CALLED) if by_calls else self._hello

    def link(self) -> Link:
        """A new line of this session."""
        return Link(self, self._connector, self._greeting)

    def welcomed(self, welcome: Welcome) -> None:
        """Note that a line has connected.

        Raises:
            StoreReplaced: the coordinator has another store.
        """
        with self._lock:
            if self.store and self.store != welcome.store:
                raise StoreReplaced(self.place)
            self.store = welcome.store
            if not welcome.resumed or welcome.epoch != self._epoch:
                self.generation += 1
            self._epoch = welcome.epoch
            self.max_message = welcome.max_message
            self.max_blob = welcome.max_blob
            self.max_piece = welcome.max_piece
            if welcome.values != self.values:
                self.values = welcome.values
            lost_at, self._lost_at = self._lost_at, None
        if lost_at is not None:
            log.info("the coordinator at %s is back after %s", self.place, duration(time.monotonic() - lost_at))

    def lost(self, error: DtqError) -> None:
        """Note that a call failed. Logged once an outage, however many lines notice."""
        if isinstance(error, SessionUnknown):
            return  # it is alive, and another line has said hello again
        with self._lock:
            if self._lost_at is not None:
                return
            self._lost_at = time.monotonic()
        reason = error.args[-1] if type(error) is Unreachable else error
        log.warning("lost the coordinator at %s, trying again (%s)", self.place, reason)


class Link:
    """One line of a session.

    Attributes:
        service: the service.
        epoch: the coordinator's epoch at the last connection; 0 before.
    """

    def __init__(self, session: Session, connector: Connector, hello: Callable[[], Hello]) -> None:
        self._session = session
        self._steady = False
        self.epoch = 0
        self._line = connector.line(hello, self._on_welcome)
        self.service: Service = self._line

    def _on_welcome(self, welcome: Welcome) -> None:
        self._session.welcomed(welcome)
        self.epoch = welcome.epoch
        if self._steady:
            raise SessionUnknown("of a cursor that another connection was given")

    def connect(self) -> None:
        """Connect now, unless connected.

        Raises:
            Unreachable, WrongKey, ProtocolMismatch, StoreReplaced: the connection does not work.
        """
        self._line.connect()

    def steady(self, steady: bool) -> None:
        """When steady, fail with `SessionUnknown` instead of reconnecting.

        A cursor acknowledges everything before it, and is valid only in the session that issued it.
        """
        self._steady = steady

    def close(self) -> None:
        """Disconnect for good, from any thread."""
        self._line.close()
