"""The commands' connection to the coordinator: the one place that opens it."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dtq import __version__
from dtq.cli.output import say
from dtq.config import (
    Address,
    TlsFiles,
    client_addresses,
    client_by_reference,
    configured_tls,
    format_address,
    load_authkey,
)
from dtq.daemon.logs import SafeFormatter
from dtq.errors import Unreachable
from dtq.model.fields import Label, fitting
from dtq.model.messages import Hello, Role

if TYPE_CHECKING:
    from dtq.client.client_core import ClientCore
    from dtq.client.sync import Client
    from dtq.transport import Proxy

#: Longest time of the first connection, and of a call while the coordinator is away, in seconds.
_PATIENCE_S: Final = 10.0
#: Seconds after which a slow connection is mentioned.
_SILENCE_S: Final = 1.0


class Target(NamedTuple):
    """The coordinator's addresses, and the key.

    Attributes:
        addresses: its addresses, in the order in which to try them.
        key: the key.
        origin: the key's origin.
        tls: certificates for coordinators on other machines; None for no TLS.
    """

    addresses: tuple[Address, ...]
    key: bytes
    origin: str
    tls: TlsFiles | None


def target(addresses: Sequence[str], authkey_file: str | None) -> Target:
    """The coordinator's addresses and key, from the options of a command.

    Raises:
        BadConfig: the configuration cannot be used.
        KeyMissing: there is no key.
        KeyUnusable: the key cannot be used.
    """
    where = client_addresses(addresses)
    key, origin = load_authkey(authkey_file, addresses=where)
    return Target(where, key, origin, configured_tls())


@contextmanager
def _mentioned(addresses: Sequence[Address]) -> Iterator[None]:
    """Mention a connection that takes long."""
    where = ", ".join(map(format_address, addresses))
    timer = threading.Timer(_SILENCE_S, say, (f"dtq: waiting for the coordinator at {where} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _StderrHandler(logging.Handler):
    """Writes to standard error as it is then: while bars are shown, a line of the log goes above them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record in a line."""
        with suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write(f"{self.format(record)}\n")


def say_warnings() -> None:
    """Send the client's log (the coordinator is lost, and back) to standard error in the form of dtq's other
    sentences.
    """
    handler = _StderrHandler()
    handler.setFormatter(SafeFormatter("dtq: %(message)s"))
    logging.getLogger("dtq.client").addHandler(handler)


def _hello() -> Hello:
    return Hello(
        session=secrets.token_hex(16),
        role=Role.CLIENT,
        name=f"dtq-{os.getpid()}",
        host=fitting(Label, os.uname().nodename),
        pid=os.getpid(),
        python=sys.version.split()[0],
        version=__version__,
    )


@contextmanager
def service(addresses: Sequence[str], authkey_file: str | None, *, patience_s: float | None = None) -> Iterator[Proxy]:
    """The coordinator, for a command that makes a few calls and ends.

    Args:
        addresses: of the coordinator; empty for the configured ones.
        authkey_file: the file with the key; None for the configured one.
        patience_s: longest time of the connection, and of a call, in seconds, for whoever says nothing meanwhile; None
            for the usual ones.

    Raises:
        Unreachable: it does not answer.
        WrongKey: it has another key.
    """
    from dtq.transport import Proxy  # not before it is needed: it imports sockets and multiprocessing

    to = target(addresses, authkey_file)
    times: dict[str, Any] = (
        {} if patience_s is None else {"connect_timeout_s": patience_s, "call_timeout_s": patience_s}
    )
    with Proxy(to.addresses, to.key, _hello(), key_source=to.origin, tls=to.tls, **times) as proxy:
        with _mentioned(to.addresses) if patience_s is None else nullcontext():
            proxy.connect()
        yield proxy


@contextmanager
def core(addresses: Sequence[str], authkey_file: str | None, full_timeout_s: float) -> Iterator[ClientCore]:
    """A client's core, for a command that submits: it waits for a coordinator that is away.

    Args:
        addresses: of the coordinator; empty for the configured ones.
        authkey_file: the file with the key; None for the configured one.
        full_timeout_s: how long submissions wait for room in a full queue, in seconds.

    Raises:
        Unreachable: it does not answer.
        WrongKey: it has another key.
    """
    from dtq.client.client_core import ClientCore
    from dtq.client.links import Wire

    to = target(addresses, authkey_file)
    say_warnings()
    made = ClientCore(
        Wire(to.addresses, to.key, to.origin, _PATIENCE_S, to.tls, client_by_reference()), _PATIENCE_S, full_timeout_s
    )
    try:
        with _mentioned(to.addresses):
            made.start()
        yield made
    except BaseException:
        with suppress(Unreachable):  # the close cancels a file's submitted part; the error tells more
            made.close(_PATIENCE_S)
        raise
    made.close(_PATIENCE_S)


@contextmanager
def client(addresses: Sequence[str], authkey_file: str | None) -> Iterator[Client]:
    """A client, for a command that waits: it waits for a coordinator that is away.

    Raises:
        Unreachable: it does not answer.
        WrongKey: it has another key.
    """
    from dtq.client.links import Wire
    from dtq.client.sync import Client

    to = target(addresses, authkey_file)
    say_warnings()
    wire = Wire(to.addresses, to.key, to.origin, _PATIENCE_S, to.tls, client_by_reference())
    with ExitStack() as stack:
        with _mentioned(to.addresses):
            made = stack.enter_context(Client(connector=wire, timeout=_PATIENCE_S))
        yield made
