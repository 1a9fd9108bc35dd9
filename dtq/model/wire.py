"""Converts dataclasses to plain tuples and back, by their annotations.

A message on the wire holds scalars, bytes, tuples and lists only, so that the receiver can refuse anything else before
unpickling it. This module converts, and checks the type and the rule (`model.fields`) of every arriving field: a peer
that sends a string for a number, or NaN, gets an error that names the field, not a corrupted queue. Codecs are made
once per type, from the annotations; no second description of a message exists.

A dataclass is the tuple of its fields in their order; an unknown trailing field is an error, as protocol versions are
compared before anything else.

Requests are held to the rules. Answers are held to the types, and their numbers to be finite; a text of an answer that
breaks its rule is cut and escaped: it may come from an old store, and one name must not hide a whole list.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from enum import Enum
from functools import cache, cached_property
from operator import attrgetter, call
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

from dtq.errors import BadMessage, DtqError
from dtq.model.fields import Blob, Items, Rule, Text, limits
from dtq.records import fields, is_dataclass, replace

#: A plain value: may cross the wire.
Plain = Any
Encode = Callable[[Any], Plain]
Decode = Callable[[Plain], Any]


#: Messages of a kind that are decoded field by field: compiling a function for it takes as long as that.
_FEW: Final = 30


class _Breach(BadMessage):
    """A value breaks its field's rule; the caller adds the field's name."""


class Inline(NamedTuple):
    """Source code that does a field's decoding in place, if a call would cost more than the check.

    Attributes:
        test: an expression that is true of a plain value, ``{v}``, which is certainly right.
        value: an expression that decodes such a value.
        names: names that the two expressions use, likewise in braces.
    """

    test: str
    value: str
    names: dict[str, Any]


class Codec(NamedTuple):
    """Encoder and decoder of a type; an encoder of None passes the value unchanged."""

    encode: Encode | None
    decode: Decode
    inline: Inline | None = None

    def plain(self, value: Any) -> Plain:
        """The value, encoded."""
        return value if self.encode is None else self.encode(value)


class Method:
    """Codecs of one method of the service. They are made at the method's first call: a program calls few methods, and
    making all takes longer than the rest of an import.

    Args:
        name: the method's name.
        function: the method.

    Attributes:
        name: its name.
        parameters: the names of its parameters.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._function = function
        self.parameters = tuple(word for word in function.__annotations__ if word != "return")

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self._function, include_extras=True)

    @cached_property
    def result(self) -> Codec:
        """The codec of its result."""
        return codec(self._hints["return"], answer=True)

    @cached_property
    def encoders(self) -> tuple[Encode, ...]:
        """The encoders of its arguments."""
        return tuple(codec(self._hints[word]).plain for word in self.parameters)

    @cached_property
    def decoders(self) -> tuple[Decode, ...]:
        """The decoders of its arguments."""
        return tuple(codec(self._hints[word]).decode for word in self.parameters)

    def encode_arguments(self, arguments: tuple[Any, ...]) -> Plain:
        """Encode the positional arguments."""
        if len(arguments) != len(self.encoders):
            raise TypeError(f"{self.name} takes {len(self.encoders)} arguments")
        return tuple(map(call, self.encoders, arguments))

    def decode_arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Decode the positional arguments.

        Raises:
            BadMessage: the method does not take such arguments.
        """
        if type(plain) is not tuple or len(plain) != len(self.decoders):
            raise BadMessage(f"{self.name} takes {len(self.decoders)} arguments")
        try:
            return tuple(map(call, self.decoders, plain))
        except _Breach:
            decoders = list(self.decoders)
            raise _named(self.name, self.parameters, decoders, plain) from None

    def encode_result(self, result: Any) -> Plain:
        """Encode the result."""
        return self.result.plain(result)


def _named(owner: str, names: tuple[str, ...], decoders: list[Decode], plain: Plain) -> BadMessage:
    """The error that names the first faulty field."""
    for name, decode, item in zip(names, decoders, plain, strict=True):
        try:
            decode(item)
        except _Breach as breach:
            return BadMessage(f"{owner}.{name} {breach.args[0]}")
    return BadMessage(f"{owner} is not right")


def _wrong_type(kind: type, plain: Plain) -> _Breach:
    return _Breach(f"is of the type {type(plain).__name__}, not {kind.__name__}")


def _number(kind: type, rule: Rule | None) -> Codec:
    least, most = limits(rule, kind is int)
    right = "type({v}) is int" if kind is int else "(type({v}) is float or type({v}) is int)"
    inline = Inline(f"{right} and {{least}} <= {{v}} <= {{most}}", "{v}", {"least": least, "most": most})

    def decode_int(plain: Plain) -> Any:
        if type(plain) is not int:
            raise _wrong_type(kind, plain)
        if least <= plain <= most:
            return plain
        raise _Breach(f"is out of range: it is a whole number from {least} to {most}")

    def decode_float(plain: Plain) -> Any:
        if type(plain) is not float and type(plain) is not int:
            raise _wrong_type(kind, plain)
        if least <= plain <= most:  # false for NaN
            return plain
        raise _Breach(f"is out of range: it is a finite number from {least:g} to {most:g}")

    return Codec(None, decode_int if kind is int else decode_float, inline)


def _ruled(kind: type, rule: Text | Blob | None) -> Codec:
    """Codec of texts and blobs."""
    free = rule is None or rule == Blob()
    sound: Callable[[Any], bool] = (lambda plain: True) if rule is None else rule.sound

    def decode(plain: Plain) -> Any:
        if type(plain) is kind and (free or sound(plain)):
            return plain
        if type(plain) is not kind or rule is None:
            raise _wrong_type(kind, plain)
        find: Callable[[Any], str | None] = rule.breach
        raise _Breach(str(find(plain)))

    if isinstance(rule, Text):
        return Codec(None, decode, _text(rule))
    test = "type({v}) is {kind}" if free else "type({v}) is {kind} and {sound}({v})"
    return Codec(None, decode, Inline(test, "{v}", {"kind": kind, "sound": sound}))


def _text(rule: Text) -> Inline:
    test = "type({v}) is str and {least} <= len({v}) <= {most}"
    names = {"least": rule.least, "most": rule.most, "match": rule.match}
    return Inline(test if rule.match is None else f"{test} and {{match}}({{v}})", "{v}", names)


def _fitted(rule: Text | None) -> Codec:
    """Codec of answers' texts."""

    def decode(plain: Plain) -> Any:
        if type(plain) is not str:
            raise _wrong_type(str, plain)
        return plain if rule is None or rule.sound(plain) else rule.fitting(plain)

    return Codec(None, decode, Inline("type({v}) is str", "{v}", {}) if rule is None else _text(rule))


def _scalar(kind: type, rule: Rule | None, answer: bool) -> Codec:
    if kind in (int, float):
        return _number(kind, None if answer else rule)
    if kind is str and answer:
        return _fitted(rule if isinstance(rule, Text) else None)
    return _ruled(kind, rule if isinstance(rule, Text | Blob) and not answer else None)


def _optional(inner: Codec) -> Codec:
    encode, inner_decode, inline = inner
    if inline is not None and inline.value == "{v}":
        inline = Inline(f"({{v}} is None or {inline.test})", "{v}", inline.names)
    else:
        inline = Inline("True", "None if {v} is None else {decode}({v})", {"decode": inner_decode})

    def encode_optional(value: Any) -> Plain:
        return None if value is None or encode is None else encode(value)

    def decode(plain: Plain) -> Any:
        return None if plain is None else inner_decode(plain)

    return Codec(None if encode is None else encode_optional, decode, inline)


def _union(kinds: tuple[type, ...], rule: Rule | None) -> Codec:
    """Codec of scalars of several types, in answers only: arguments of errors, which may be an invalid number
    itself.
    """

    def decode(plain: Plain) -> Any:
        if type(plain) not in kinds:
            raise _Breach(f"is of the type {type(plain).__name__}")
        if type(plain) is str and isinstance(rule, Text):
            return plain if rule.breach(plain) is None else rule.fitting(plain)
        return plain

    return Codec(None, decode)


def _sequence(origin: type[list[Any]] | type[tuple[Any, ...]], inner: Codec, rule: Rule | None, answer: bool) -> Codec:
    encode, inner_decode, _ = inner
    most = rule.most if isinstance(rule, Items) and not answer else None
    stand_in = rule.instead if isinstance(rule, Items) and not rule.into else None

    def encode_items(value: Any) -> Plain:
        return origin([encode(item) for item in value]) if value and encode is not None else value

    def decode(plain: Plain) -> Any:
        if type(plain) is not origin:
            raise _wrong_type(origin, plain)
        if not plain:
            return plain
        if most is not None and len(plain) > most:
            raise _Breach(f"has {len(plain):,} items, not at most {most:,}")
        if stand_in is not None:
            return origin([_or_instead(inner_decode, item, stand_in) for item in plain])
        return origin([inner_decode(item) for item in plain])

    inline = Inline("type({v}) is {kind}", "{decode}({v}) if {v} else {v}", {"kind": origin, "decode": decode})
    return Codec(None if encode is None else encode_items, decode, inline)


def _or_instead(decode: Decode, item: Plain, instead: Callable[[int, int, str], Any]) -> Any:
    try:
        return decode(item)
    except DtqError as error:
        if not _begins_with_numbers(item):
            raise
        return instead(item[0], item[1], str(error.args[0]))


def _fixed(inner: tuple[Codec, ...]) -> Codec:
    plain_only = all(c.encode is None for c in inner)

    def encode(value: Any) -> Plain:
        return tuple(v if c.encode is None else c.encode(v) for v, c in zip(value, inner, strict=True))

    def decode(plain: Plain) -> Any:
        if type(plain) is not tuple or len(plain) != len(inner):
            raise _Breach(f"is not a tuple of {len(inner)}")
        return tuple([c.decode(item) for item, c in zip(plain, inner, strict=True)])

    return Codec(None if plain_only else encode, decode)


def _enum(kind: type[Enum]) -> Codec:
    members: dict[str, Enum] = {member.value: member for member in kind.__members__.values()}

    def decode(plain: Plain) -> Any:
        if type(plain) is not str or plain not in members:
            raise _Breach(f"is no {kind.__name__}")
        return members[plain]

    inline = Inline("type({v}) is str and {v} in {members}", "{members}[{v}]", {"members": members})
    # Not `value`, a property in Python: this is asked for in every message.
    return Codec(attrgetter("_value_"), decode, inline)


def _dataclass(kind: type, answer: bool) -> Codec:
    hints = get_type_hints(kind, include_extras=True)
    names = tuple(field.name for field in fields(kind))
    codecs = [_codec(hints[name], answer) for name in names]
    build_at_once: Decode | None = None
    arrived = 0
    decoders = [c.decode for c in codecs]
    apart = {name: items for name in names if (items := _apart(hints[name])) is not None and not answer}

    def build(plain: Plain) -> Any:
        return kind(**dict(zip(names, map(call, decoders, plain), strict=True)))

    def decode(plain: Plain) -> Any:
        nonlocal build_at_once, arrived
        if build_at_once is None and (arrived := arrived + 1) > _FEW:
            build_at_once = _inlined(kind, names, codecs)
        try:
            if build_at_once is not None and (value := build_at_once(plain)) is not None:
                return value
        except (DtqError, TypeError, ValueError):
            pass  # the slow path finds the fault
        if type(plain) is not tuple or len(plain) != len(names):
            raise BadMessage(f"{kind.__name__} has {len(names)} fields")
        try:
            return build(plain)
        except DtqError as error:
            if apart:
                return _sifted(kind, build, dict(zip(names, decoders, strict=True)), apart, plain)
            raise _named(kind.__name__, names, decoders, plain) if isinstance(error, _Breach) else error from None
        except (TypeError, ValueError) as error:
            raise BadMessage(f"{kind.__name__}: {error}") from error

    return Codec(_taking_apart(names, codecs), decode)


def _taking_apart(names: tuple[str, ...], codecs: list[Codec]) -> Encode:
    take = attrgetter(*names) if len(names) > 1 else None
    encoded = [(place, c.encode) for place, c in enumerate(codecs) if c.encode is not None]

    def encode(value: Any) -> Plain:
        taken = take(value) if take is not None else (getattr(value, names[0]),)
        if not encoded:
            return taken
        plain = list(taken)
        for place, encode_field in encoded:
            plain[place] = encode_field(plain[place])
        return tuple(plain)

    return encode


def _inlined(kind: type, names: tuple[str, ...], codecs: list[Codec]) -> Decode:
    """Source of a function that makes a dataclass of its plain tuple; the function returns None, or raises, for a
    faulty one.

    It is one function, made of its fields' expressions, as `dataclasses` makes ``__init__``: with a call for every
    field, decoding a small message costs twice as much.
    """
    space: dict[str, Any] = {"kind_": kind}
    tests, values = [], []
    for name, one in zip(names, codecs, strict=True):
        inline = one.inline or Inline("True", "{decode}({v})", {"decode": one.decode})
        named = {word: f"{name}__{word}" for word in inline.names}
        space.update({named[word]: value for word, value in inline.names.items()})
        tests.append(inline.test.format(v=name, **named))
        values.append(f"{name}={inline.value.format(v=name, **named)}")
    lines = [
        "def build(plain):",
        f"    if type(plain) is tuple and len(plain) == {len(names)}:",
        f"        {', '.join(names)}, = plain",
        f"        if {' and '.join(tests)}:",
        f"            return kind_({', '.join(values)})",
        "    return None",
    ]
    # Of the package's own annotations. Compiled first: text that is executed after a Ctrl-C, as the program ends, would
    # make Python forget that it ends for that.
    exec(compile("\n".join(lines), f"<codec of {kind.__name__}>", "exec"), space)
    made: Decode = space["build"]
    return made


def _apart(hint: Any) -> Items | None:
    """The rule of a sequence whose items are accepted or refused one by one."""
    rule = _rule(hint) if get_origin(hint) is Annotated else None
    return rule if isinstance(rule, Items) and rule.apart else None


def _sifted(kind: type, build: Decode, decoders: dict[str, Decode], apart: dict[str, Items], plain: Plain) -> Any:
    """A message without its faulty items, and with their substitutes."""
    sound = dict(zip(decoders, plain, strict=True))
    instead: dict[str, list[Any]] = {}
    for name, rule in apart.items():
        if type(sound[name]) is not tuple or len(sound[name]) > rule.most:
            continue
        kept = []
        for item in sound[name]:
            try:
                decoders[name]((item,))
                kept.append(item)
            except DtqError as error:
                if rule.instead is not None and _begins_with_numbers(item):
                    instead.setdefault(rule.into, []).append(rule.instead(item[0], item[1], str(error.args[0])))
        sound[name] = tuple(kept)
    try:
        message = build(tuple(sound.values()))
    except _Breach:
        raise _named(kind.__name__, tuple(decoders), list(decoders.values()), tuple(sound.values())) from None
    return replace(message, **{name: (*getattr(message, name), *items) for name, items in instead.items()})


def _begins_with_numbers(item: Plain) -> bool:
    return type(item) is tuple and len(item) > 1 and type(item[0]) is type(item[1]) is int


def codec(annotation: Any, *, answer: bool = False) -> Codec:
    """The codec of a type: a scalar, an Enum, a dataclass, a list or tuple of such, or a union with None; any of them
    with its rule.

    Args:
        annotation: the type.
        answer: whether it comes from the coordinator, whose texts are made to fit, and which is trusted otherwise.

    Raises:
        TypeError: the type cannot cross the wire. A programming error.
    """
    return _codec(annotation, answer)


@cache
def _codec(annotation: Any, answer: bool) -> Codec:
    rule: Rule | None = None
    if get_origin(annotation) is Annotated:
        rule = _rule(annotation)
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is list:
        return _sequence(list, _codec(arguments[0], answer), rule, answer)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _sequence(tuple, _codec(arguments[0], answer), rule, answer)
        return _fixed(tuple(_codec(a, answer) for a in arguments))
    if origin in (Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        return _optional(_codec(rest[0], answer)) if len(rest) == 1 else _union(arguments, rule)
    return _single(annotation, rule, answer)


def _rule(annotation: Any) -> Rule | None:
    """The rule in an annotation."""
    return next((one for one in annotation.__metadata__ if isinstance(one, Rule)), None)


def _single(annotation: Any, rule: Rule | None, answer: bool) -> Codec:
    if annotation in (str, int, float, bool, bytes, type(None)):
        return _scalar(annotation, rule, answer)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _enum(annotation)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _dataclass(annotation, answer)
    raise TypeError(f"{annotation!r} cannot cross the wire")


def methods(protocol: type) -> dict[str, Method]:
    """The codecs of each public method of a protocol class, by its annotations."""
    return {
        name: Method(name, function)
        for name, function in vars(protocol).items()
        if not name.startswith("_") and callable(function)
    }
