"""Weight: the size of a message's parts, and how a failure is made lighter.

Everything that is gathered into a message is weighed first, so that no message is refused for its size: an item that
does not fit goes with the next one. Weights err upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar

from dtq.model.messages import Failure
from dtq.records import fields, is_dataclass, replace

T = TypeVar("T")

#: Most bytes of a scalar, and of a text, bytes or a tuple beside their content.
_SCALAR: Final = 12
_SCALARS: Final = frozenset({bool, int, float})


@cache
def _fields_of(kind: type) -> Callable[[Any], Iterable[Any]]:
    names = [field.name for field in fields(kind)]
    return attrgetter(*names) if len(names) > 1 else lambda value: [getattr(value, names[0])]


def weight(value: Any) -> int:
    """Approximate bytes of a message's part, never too few: a dataclass, a tuple or list, a scalar."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return len(value) + _SCALAR
    if kind is str:
        return (len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))) + _SCALAR
    if kind is tuple or kind is list:
        return _SCALAR + sum(map(weight, value))
    if value is None or kind in _SCALARS:
        return _SCALAR
    if is_dataclass(kind):
        return _SCALAR + sum(map(weight, _fields_of(kind)(value)))
    return _SCALAR


def first_within(items: Iterable[T], room: int) -> Iterator[T]:
    """The first items that fit into this many bytes; the first item in any case. At most one further item is made."""
    for number, item in enumerate(items):
        room -= weight(item)
        if room < 0 and number:
            return
        yield item


def slim(failure: Failure, room: int) -> Failure:
    """A failure of at most this many bytes: first without the exception itself, then with shortened texts."""
    if weight(failure) > room:
        failure = replace(failure, pickled=b"")
    if weight(failure) > room:
        failure = replace(
            failure,
            bases=failure.bases[: room // 4096],
            message=_end(failure.message, room // 8),
            traceback=_end(failure.traceback, room // 4),
            output=_end(failure.output, room // 8),
        )
    return failure


def _end(text: str, most: int) -> str:
    data = text.encode(errors="surrogatepass")
    return text if len(data) <= most else data[-most:].decode(errors="ignore")
