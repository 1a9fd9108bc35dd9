"""Dataclasses to plain tuples and back, from their annotations.

What crosses the wire is built of scalars, bytes, tuples and lists only, so that the receiving side can refuse anything
else before unpickling it. This module translates, and checks every field's type on the way in: a peer that sends a
string for a number gets an error, not a corrupted queue. Codecs are made once per type, from the annotations; there is
no second description of a message anywhere.

A dataclass is the tuple of its fields in their order; a trailing field that the peer does not know yet is an error, as
protocol versions are compared before anything else is said.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

from dtq.errors import BadMessage, DtqError

#: A plain value: what may cross the wire.
Plain = Any
Encode = Callable[[Any], Plain]
Decode = Callable[[Plain], Any]


#: Whole numbers end before this, either way.
_INT_END: Final = 1 << 63


class Codec(NamedTuple):
    """How a type is taken apart and put together; an encoder of None means that the value goes as it is."""

    encode: Encode | None
    decode: Decode

    def plain(self, value: Any) -> Plain:
        """The value, taken apart."""
        return value if self.encode is None else self.encode(value)


class Method(NamedTuple):
    """How one method of the service crosses the wire."""

    name: str
    parameters: tuple[str, ...]
    arguments: tuple[Codec, ...]
    result: Codec

    def encode_arguments(self, arguments: tuple[Any, ...]) -> Plain:
        """The positional arguments, plain."""
        return tuple([c.plain(a) for a, c in zip(arguments, self.arguments, strict=True)])

    def decode_arguments(self, plain: Plain) -> tuple[Any, ...]:
        """The positional arguments again.

        Raises:
            BadMessage: they are not what the method takes.
        """
        if type(plain) is not tuple or len(plain) != len(self.arguments):
            raise BadMessage(f"{self.name} takes {len(self.arguments)} arguments")
        return tuple([c.decode(a) for a, c in zip(plain, self.arguments, strict=True)])

    def encode_result(self, result: Any) -> Plain:
        """The result, plain."""
        return self.result.plain(result)


def _decode_int(plain: Plain) -> Any:
    if type(plain) is not int:
        raise BadMessage(f"int expected, not {type(plain).__name__}")
    if not -_INT_END <= plain < _INT_END:  # it names nothing, and no store takes it
        raise BadMessage("an int has at most 64 bits")
    return plain


def _scalar(kind: type) -> Codec:
    if kind is int:
        return Codec(None, _decode_int)
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)

    def decode(plain: Plain) -> Any:
        if type(plain) not in accepted:
            raise BadMessage(f"{kind.__name__} expected, not {type(plain).__name__}")
        return plain

    return Codec(None, decode)


def _optional(inner: Codec) -> Codec:
    encode, inner_decode = inner

    def encode_optional(value: Any) -> Plain:
        return None if value is None or encode is None else encode(value)

    def decode(plain: Plain) -> Any:
        return None if plain is None else inner_decode(plain)

    return Codec(None if encode is None else encode_optional, decode)


def _union(kinds: tuple[type, ...]) -> Codec:
    def decode(plain: Plain) -> Any:
        if type(plain) not in kinds:
            raise BadMessage(f"{type(plain).__name__} is not expected here")
        return plain

    return Codec(None, decode)


def _sequence(origin: type[list[Any]] | type[tuple[Any, ...]], inner: Codec) -> Codec:
    encode, inner_decode = inner

    def encode_items(value: Any) -> Plain:
        return origin([encode(item) for item in value]) if encode is not None else value

    def decode(plain: Plain) -> Any:
        if type(plain) is not origin:
            raise BadMessage(f"{origin.__name__} expected, not {type(plain).__name__}")
        return origin([inner_decode(item) for item in plain])

    return Codec(None if encode is None else encode_items, decode)


def _fixed(inner: tuple[Codec, ...]) -> Codec:
    plain_only = all(c.encode is None for c in inner)

    def encode(value: Any) -> Plain:
        return tuple(v if c.encode is None else c.encode(v) for v, c in zip(value, inner, strict=True))

    def decode(plain: Plain) -> Any:
        if type(plain) is not tuple or len(plain) != len(inner):
            raise BadMessage(f"a tuple of {len(inner)} expected")
        return tuple([c.decode(item) for item, c in zip(plain, inner, strict=True)])

    return Codec(None if plain_only else encode, decode)


def _enum(kind: type[Enum]) -> Codec:
    members: dict[str, Enum] = {member.value: member for member in kind.__members__.values()}

    def decode(plain: Plain) -> Any:
        if type(plain) is not str or plain not in members:
            raise BadMessage(f"{plain[:40] if type(plain) is str else type(plain)!r} is no {kind.__name__}")
        return members[plain]

    return Codec(attrgetter("value"), decode)


def _dataclass(kind: type) -> Codec:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    codecs = [codec(hints[name]) for name in names]
    take = attrgetter(*names) if len(names) > 1 else None
    encoded = [(place, c.encode) for place, c in enumerate(codecs) if c.encode is not None]
    pairs = list(zip(names, [c.decode for c in codecs], strict=True))

    def encode(value: Any) -> Plain:
        taken = take(value) if take is not None else (getattr(value, names[0]),)
        if not encoded:
            return taken
        plain = list(taken)
        for place, encode_field in encoded:
            plain[place] = encode_field(plain[place])
        return tuple(plain)

    def decode(plain: Plain) -> Any:
        if type(plain) is not tuple or len(plain) != len(pairs):
            raise BadMessage(f"{kind.__name__} has {len(pairs)} fields")
        try:
            return kind(**{name: decode_field(item) for (name, decode_field), item in zip(pairs, plain, strict=True)})
        except DtqError:
            raise
        except (TypeError, ValueError) as error:
            raise BadMessage(f"{kind.__name__}: {error}") from error

    return Codec(encode, decode)


@cache
def codec(annotation: Any) -> Codec:
    """The codec of a type: a scalar, an Enum, a dataclass, a list or tuple of such, or a union with None.

    Raises:
        TypeError: the type cannot cross the wire. A programming error, found at import.
    """
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is list:
        return _sequence(list, codec(arguments[0]))
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _sequence(tuple, codec(arguments[0]))
        return _fixed(tuple(codec(a) for a in arguments))
    if origin in (Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        return _optional(codec(rest[0])) if len(rest) == 1 else _union(arguments)
    return _single(annotation)


def _single(annotation: Any) -> Codec:
    if annotation in (str, int, float, bool, bytes, type(None)):
        return _scalar(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _enum(annotation)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _dataclass(annotation)
    raise TypeError(f"{annotation!r} cannot cross the wire")


def methods(protocol: type) -> dict[str, Method]:
    """How each public method of a protocol class crosses the wire, from its annotations."""
    table: dict[str, Method] = {}
    for name, function in vars(protocol).items():
        if name.startswith("_") or not callable(function):
            continue
        hints = get_type_hints(function)
        result = codec(hints.pop("return"))
        table[name] = Method(name, tuple(hints), tuple(codec(h) for h in hints.values()), result)
    return table
