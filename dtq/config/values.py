"""Parsers and formatters of durations, sizes, addresses and names.

Floor 1, with `errors` alone below. Everything here is pure and cheap: the command line, the transport and the settings
share the one parser of each kind.
"""

from __future__ import annotations

import math
import re
from typing import Final

from dtq.errors import InvalidAddress, InvalidValue
from dtq.wording import counted

#: An address: the host's name or number, and the port.
Address = tuple[str, int]

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])", re.ASCII)
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:ms|[smhdw])\s*)+", re.ASCII)
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
_DURATION_FORM: Final = "write seconds (2.5), or units of ms, s, m, h, d, w (90s, 5m, 1h30m)"

_RATE: Final = re.compile(r"(\d{1,9})\s*/\s*(\S.*)", re.ASCII)
_RATE_FORM: Final = "write how many in which time: 100/m, 5/s, 10/90s"

_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_SIZE_FORM: Final = "write bytes (1048576), or units (512MiB, 5GB)"

#: Most named units of a resource.
_MOST_UNITS: Final = 256

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?", re.ASCII)
_HOST6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.-]{1,32})?", re.ASCII)
_QUEUE: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(\d{1,5})", re.ASCII)


def parse_duration(text: str, what: str = "a duration") -> float:
    """Seconds, from ``2.5``, ``90s``, ``5m`` or ``1h30m``.

    Args:
        text: the duration.
        what: its noun in the error's sentence.

    Raises:
        InvalidValue: the text is not a duration.
    """
    plain = text.strip().lower()
    if _NUMBER.fullmatch(plain):
        seconds = float(plain)
    elif _DURATION.fullmatch(plain):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(plain))
    else:
        raise InvalidValue(what, text[:80], _DURATION_FORM)
    if not math.isfinite(seconds):
        raise InvalidValue(what, text[:80], _DURATION_FORM)
    return seconds


def parse_rate(text: str, what: str = "a rate") -> tuple[int, float]:
    """A count, and the seconds it is for, from ``100/m``, ``5/s``, ``10/90s`` or ``1/1h30m``.

    Args:
        text: the rate.
        what: its noun in the error's sentence.

    Raises:
        InvalidValue: the text is not a rate.
    """
    found = _RATE.fullmatch(text.strip().lower())
    per = "" if found is None else found[2].strip()
    try:
        seconds = _SECONDS[per] if per in _SECONDS else parse_duration(per, what)
    except InvalidValue:
        seconds = 0.0
    if found is None or not seconds or not int(found[1]):
        raise InvalidValue(what, text[:80], _RATE_FORM)
    return int(found[1]), seconds


def parse_size(text: str, what: str = "a size") -> int:
    """Bytes, from ``1048576``, ``512MiB``, ``5GB`` or ``2g`` (a bare letter is a power of 1024).

    Args:
        text: the size.
        what: its noun in the error's sentence.

    Raises:
        InvalidValue: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or match[2] not in _BYTES:
        raise InvalidValue(what, text[:80], _SIZE_FORM)
    size = float(match[1]) * _BYTES[match[2]]
    if size > 2**63:
        raise InvalidValue(what, text[:80], "that is more than any machine has")
    return int(size)


def format_size(size: int) -> str:
    """A size for people: ``512 MiB``, ``3.1 GiB``."""
    for unit, bytes_ in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:.0f} {unit}" if size % bytes_ == 0 else f"{size / bytes_:.1f} {unit}"
    return counted(size, "byte")


def check_host(host: str) -> str:
    """The host, if valid: a name, or the number of IPv4 or IPv6 (without brackets).

    Raises:
        InvalidValue: it is not.
    """
    if _HOST.fullmatch(host) or (":" in host and _HOST6.fullmatch(host)):
        return host
    raise InvalidValue("a host", host[:80], "write a name or an address, for example 127.0.0.1")


def check_queue(name: object) -> str:
    """The queue's name, if valid, whatever its declared type.

    Raises:
        InvalidValue: it is not.
    """
    if isinstance(name, str) and _QUEUE.fullmatch(name):
        return name
    raise InvalidValue("queue", str(name)[:80], "it has 1 to 64 letters, digits or _ . : / -")


def check_resource(name: str) -> str:
    """The name of a resource, if valid.

    Raises:
        InvalidValue: it is not.
    """
    if _QUEUE.fullmatch(name):
        return name
    raise InvalidValue("the name of a resource", name[:80], "it has 1 to 64 letters, digits or _ . : / -")


def check_tag(tag: str) -> str:
    """The tag, if valid.

    Raises:
        InvalidValue: it is not.
    """
    if _QUEUE.fullmatch(tag):
        return tag
    raise InvalidValue("a tag", tag[:80], "it has 1 to 64 letters, digits or _ . : / -")


def parse_offer(text: str, what: str = "a resource") -> tuple[str, tuple[str, ...], int]:
    """A worker's share of a resource, from ``gpu=0,1`` (named units) or ``memory=32GB`` (a sum).

    A single unit whose name is a number has a comma behind it: ``port=8080,``. That of ``gpu`` needs none.

    Args:
        text: name and amount.
        what: its noun in the error's sentence.

    Returns:
        The name, the names of its units (empty for a sum), and their number, or the sum.

    Raises:
        InvalidValue: the text is malformed.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not value:
        raise InvalidValue(what, text[:80], "write NAME=UNIT,UNIT or NAME=AMOUNT, as in gpu=0,1 or memory=32GB")
    check_resource(name)
    if "," not in value and not (name == "gpu" and value == "0"):
        amount = parse_size(value, what)
        if name == "gpu" or amount < 1:
            why = f"name its units: {name}=0,1 for two; {name}={value}, for the one that is called {value}"
            raise InvalidValue(what, text[:80], why)
        return name, (), amount
    units = tuple([unit.strip() for unit in value.split(",") if unit.strip()])
    if not 1 <= len(units) <= _MOST_UNITS or len(set(units)) < len(units) or not all(map(_QUEUE.fullmatch, units)):
        why = f"it has 1 to {_MOST_UNITS} units, each with a name of its own of letters, digits or _ . : / -"
        raise InvalidValue(what, text[:80], why)
    return name, units, len(units)


def parse_address(text: str) -> Address:
    """Host and port, from ``host:port`` or ``[::1]:port``.

    Raises:
        InvalidAddress: the text is not an address, or its port is not one of 1 to 65535.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise InvalidAddress(text[:80])
    bracketed, bare, port = match.groups()
    good = _HOST6.fullmatch(bracketed) and ":" in bracketed if bracketed is not None else _HOST.fullmatch(bare)
    if not good or not 0 < int(port) < 65536:
        raise InvalidAddress(text[:80])
    return (bare if bracketed is None else bracketed), int(port)


def format_address(address: Address) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


#: Hosts that stand for every interface of a machine, and the address of such a listener for clients on it.
_EVERY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def host_here(host: str) -> str:
    """The host under which clients on this machine reach a listener that is bound to it."""
    return _EVERY.get(host, host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "localhost")
