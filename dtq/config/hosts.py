"""This machine's name or address for other machines.

Floor 1, apart from `values` because it asks the kernel.
"""

from __future__ import annotations

import socket
from typing import Final

#: By host that stands for every interface: an address of a network without machines, to ask for the route to it.
_ELSEWHERE: Final = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}


def host_for_others(host: str) -> str:
    """The host under which other machines reach a listener that is bound to it.

    Args:
        host: the bound host.

    Returns:
        The host itself; if it stands for every interface, this machine's address towards others, or its name if it has
        no route to any.
    """
    if host not in _ELSEWHERE:
        return host
    family, elsewhere = _ELSEWHERE[host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing: it asks the kernel for the route
            found: str = probe.getsockname()[0]
            return found
    except OSError:
        return socket.gethostname() or host
