"""The commands' connection to the coordinator: the one place that opens it."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

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
    from dtq.client.hub import Hub
    from dtq.client.sync import Client
    from dtq.transport import Proxy

#: How long the first connection may take, and a call while the coordinator is away, in seconds.
_PATIENCE_S: Final = 10.0
#: After how long a connection that does not come about is mentioned, in seconds.
_SILENCE_S: Final = 1.0


class Target(NamedTuple):
    """Where the coordinator is, and the key to talk to it.

    Attributes:
        addresses: where it may be reached, in the order in which to try.
        key: the key.
        origin: where the key came from.
        tls: certificates for coordinators on other machines; None for no TLS.
    """

    addresses: tuple[Address, ...]
    key: bytes
    origin: str
    tls: TlsFiles | None


def target(addresses: Sequence[str], authkey_file: str | None) -> Target:
    """Where the coordinator is, from the options of a command.

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
    """Say what is waited for, if connecting takes long."""
    where = ", ".join(map(format_address, addresses))
    timer = threading.Timer(_SILENCE_S, say, (f"dtq: waiting for the coordinator at {where} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say_warnings() -> None:
    """What the client logs (the coordinator is lost, and back) goes to standard error as dtq's other sentences do."""
    handler = logging.StreamHandler()
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
def service(addresses: Sequence[str], authkey_file: str | None) -> Iterator[Proxy]:
    """The coordinator, for a command that asks it a few things and ends.

    Raises:
        Unreachable: it does not answer.
        WrongKey: it has another key.
    """
    from dtq.transport import Proxy  # not before it is needed: it brings sockets and multiprocessing

    to = target(addresses, authkey_file)
    with Proxy(to.addresses, to.key, _hello(), key_source=to.origin, tls=to.tls) as proxy:
        with _mentioned(to.addresses):
            proxy.connect()
        yield proxy


@contextmanager
def hub(addresses: Sequence[str], authkey_file: str | None, full_timeout_s: float) -> Iterator[Hub]:
    """A client's engine room, for a command that submits: a coordinator that comes back is waited for.

    Args:
        addresses: where the coordinator may be reached; empty for the configured ones.
        authkey_file: the file with the key; None for the configured one.
        full_timeout_s: how long submissions wait for room in a full queue, in seconds.

    Raises:
        Unreachable: it does not answer.
        WrongKey: it has another key.
    """
    from dtq.client.hub import Hub
    from dtq.client.links import Wire

    to = target(addresses, authkey_file)
    say_warnings()
    made = Hub(
        Wire(to.addresses, to.key, to.origin, _PATIENCE_S, to.tls, client_by_reference()), _PATIENCE_S, full_timeout_s
    )
    try:
        with _mentioned(to.addresses):
            made.start()
        yield made
    except BaseException:
        with suppress(Unreachable):  # closing sends the cancel of what was submitted of a file; the error says more
            made.close(_PATIENCE_S)
        raise
    made.close(_PATIENCE_S)


@contextmanager
def client(addresses: Sequence[str], authkey_file: str | None) -> Iterator[Client]:
    """A client, for a command that waits: a coordinator that comes back is waited for.

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
