"""What this machine is called by others.

Floor 1, apart from `values` because it asks the kernel.
"""

from __future__ import annotations

import socket
from typing import Final

#: By host that stands for every interface: an address of a network that no machine is in, to ask for the way to it.
_ELSEWHERE: Final = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}


def host_for_others(host: str) -> str:
    """The host as other machines reach a listener that is bound to it.

    Args:
        host: what it is bound to.

    Returns:
        The host itself; where it stands for every interface, the address with which this machine goes to others, or
        its name where it has no way to any.
    """
    if host not in _ELSEWHERE:
        return host
    family, elsewhere = _ELSEWHERE[host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing: it asks the kernel for the way
            found: str = probe.getsockname()[0]
            return found
    except OSError:
        return socket.gethostname() or host
