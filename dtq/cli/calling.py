"""The one place where commands get hold of the coordinator."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from dtq import __version__
from dtq.config import Address, client_addresses, load_authkey
from dtq.model.messages import Hello, Role

if TYPE_CHECKING:
    from dtq.transport import Proxy


class Target(NamedTuple):
    """Where the coordinator is, and the key to talk to it.

    Attributes:
        addresses: where it may be reached, in the order in which to try.
        key: the key.
        origin: where the key came from.
    """

    addresses: tuple[Address, ...]
    key: bytes
    origin: str


def target(addresses: Sequence[str], authkey_file: str | None) -> Target:
    """Where the coordinator is, from the options of a command.

    Raises:
        BadConfig: the configuration cannot be used.
        KeyMissing: there is no key.
        KeyUnusable: the key cannot be used.
    """
    where = client_addresses(addresses)
    key, origin = load_authkey(authkey_file, addresses=where)
    return Target(where, key, origin)


def _hello() -> Hello:
    return Hello(
        session=secrets.token_hex(16),
        role=Role.CLIENT,
        name=f"dtq-{os.getpid()}",
        host=os.uname().nodename,
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
    with Proxy(to.addresses, to.key, _hello(), key_source=to.origin) as proxy:
        yield proxy
