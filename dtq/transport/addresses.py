"""``host:port`` to a pair and back. Ground level of the transport; no name is looked up here."""

from __future__ import annotations

import re
from typing import Final

from dtq.errors import InvalidAddress

#: Host and port, the host either in brackets (IPv6) or free of colons.
Address = tuple[str, int]

_TEXT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:\[\]/@]+)):(\d{1,5})", re.ASCII)
#: Longest host name there is (RFC 1035).
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65_535


def parse_address(text: str) -> Address:
    """Take an address apart.

    Args:
        text: ``host:port``; an IPv6 address is written in brackets, ``[::1]:3870``.

    Returns:
        ``(host, port)``, the host without brackets.

    Raises:
        InvalidAddress: the text is not an address.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise InvalidAddress(text)
    host, port = match[1] or match[2], int(match[3])
    if len(host) > _MAX_HOST or not 1 <= port <= _MAX_PORT or (match[1] and ":" not in host):
        raise InvalidAddress(text)
    return host, port


def format_address(address: Address) -> str:
    """The text of an address; what `parse_address` reads."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
