"""The one place where commands get hold of the coordinator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dtq.config import Address, client_addresses, format_address, load_authkey
from dtq.model.service import Service


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

    @property
    def text(self) -> str:
        """The addresses for people."""
        return ", ".join(map(format_address, self.addresses))


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


@contextmanager
def service(addresses: Sequence[str], authkey_file: str | None) -> Iterator[Service]:
    """The coordinator, for a command that asks it a few things and ends.

    Raises:
        Unreachable: it does not answer.
        WrongKey: it has another key.
    """
    from dtq.transport import Proxy  # not before it is needed: it brings sockets and multiprocessing

    to = target(addresses, authkey_file)
    with Proxy(to.addresses, to.key, key_origin=to.origin) as proxy:
        yield proxy
