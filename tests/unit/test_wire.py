"""The wire table: every message of the service comes back as it was, and nothing else comes in."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtq.errors import BadMessage, DtqError, InvalidValue
from dtq.model import wire
from dtq.model.fields import Blob, Characters, Items, Text
from dtq.model.fields import Rule as FieldRule
from dtq.model.messages import Cancellation, Exchange, Hello, Orders, Progress, Role, Submission, Welcome
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.pages import pack
from dtq.model.resources import MOST, Offers, Portion
from dtq.model.schedules import Rule
from dtq.model.service import Service
from dtq.model.wire import codec, methods
from dtq.transport import safepickle

METHODS = methods(Service)
NAMES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=10)

FUNCTIONS = st.one_of(
    st.builds(Function, kind=st.just(FunctionKind.IMPORT), name=st.tuples(NAMES, NAMES).map(":".join)),
    st.builds(
        Function, kind=st.sampled_from([FunctionKind.VALUE, FunctionKind.REGISTERED]), name=NAMES, body=st.binary()
    ),
)
OPTIONS = st.builds(
    Options,
    priority=st.integers(1, 10),
    max_retries=st.integers(0, 1000),
    max_crashes=st.integers(1, 1000),
    timeout_s=st.none() | st.floats(0.001, 1e6) | st.integers(1, 100),
    queue=NAMES,
    jitter=st.booleans(),
    never_retry=st.lists(NAMES, max_size=3).map(tuple),
)
RULED: dict[Characters, st.SearchStrategy[str]] = {
    Characters.FREE: st.characters(exclude_categories=["Cs"]),
    Characters.PRINTABLE: st.sampled_from("ab :ü漢"),
    Characters.TOKEN: st.sampled_from("aZ0_.-"),
    Characters.QUEUE: st.sampled_from("aZ0_.:/-"),
    Characters.GLOB: st.sampled_from("aZ0_.:/-*?"),
    Characters.ZONE: st.sampled_from("aZ0_/+-"),
}
SCHEDULE_RULES = st.one_of(
    st.builds(Rule, cron=NAMES, tz=NAMES, until=st.none() | st.floats(0, 1e11)),
    st.builds(Rule, every_s=st.floats(0.1, 1e6), jitter_s=st.floats(0, 1e6)),
    st.builds(Rule, at=st.floats(0, 1e11)),
)
UNIT_NAMES = st.text("aZ0_.", min_size=1, max_size=10)
PORTIONS = st.one_of(
    st.builds(Portion, name=UNIT_NAMES, amount=st.integers(1, MOST)),
    st.builds(
        lambda name, units: Portion(name=name, units=tuple(units), amount=len(units)),
        UNIT_NAMES,
        st.lists(UNIT_NAMES, min_size=1, max_size=3, unique=True),
    ),
)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    type(None): st.none(),
    Function: FUNCTIONS,
    Options: OPTIONS,
    Portion: PORTIONS,
    Offers: st.builds(Offers, resources=st.lists(PORTIONS, max_size=2, unique_by=attrgetter("name")).map(tuple)),
    Rule: SCHEDULE_RULES,
}


def ruled(kind: Any, rule: FieldRule) -> st.SearchStrategy[Any]:
    """Values that follow a rule; of a union, texts only."""
    if isinstance(rule, Text):
        return st.text(RULED[rule.characters], min_size=rule.least, max_size=min(rule.most, 10))
    if isinstance(rule, Blob):
        return st.lists(st.binary(max_size=5), max_size=3).map(pack) if rule.page else st.binary(max_size=20)
    if isinstance(rule, Items):
        origin, arguments = get_origin(kind), get_args(kind)
        return st.lists(values(arguments[0]), max_size=3).map(origin)
    whole = st.integers(math.ceil(rule.least), math.floor(rule.most))
    return whole if kind is int else whole | st.floats(rule.least, rule.most)


@cache
def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a type that may cross the wire."""
    known = BY_TYPE.get(annotation)
    if known is not None:
        return known
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ruled(arguments[0], arguments[1])
    if origin in (Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    hints = get_type_hints(annotation, include_extras=True)
    return st.builds(annotation, **{field.name: values(hints[field.name]) for field in fields(annotation)})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.lists(inner, max_size=8).map(tuple),
    max_leaves=30,
)


def plain(message: Any) -> Any:
    """What crosses of a dataclass."""
    encode = codec(type(message)).encode
    assert encode is not None
    return encode(message)


def crossed(value: Any) -> Any:
    return safepickle.loads(safepickle.dumps(value))


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=10)
@given(st.data())
def test_call_and_result_come_back_the_same(name: str, data: st.DataObject) -> None:
    # Given any arguments and any result that the annotations allow
    method = METHODS[name]
    hints = get_type_hints(getattr(Service, name), include_extras=True)
    result = data.draw(values(hints.pop("return")))
    arguments = tuple(data.draw(values(hint)) for hint in hints.values())

    # When they cross, Then they are equal
    assert method.decode_arguments(crossed(method.encode_arguments(arguments))) == arguments
    assert method.result.decode(crossed(method.encode_result(result))) == result


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=10)
@given(value=PLAIN)
def test_any_plain_value_is_decoded_or_refused(name: str, value: Any) -> None:
    method = METHODS[name]
    for candidate in (value, (value,) * len(method.decoders)):
        try:
            method.decode_arguments(candidate)
            method.result.decode(value)
        except DtqError:
            continue


@given(st.data())
def test_short_way_and_long_way_say_the_same(data: st.DataObject) -> None:
    # Given a report, plain, and perhaps something else in the place of one of its fields, or of a field of one of those
    kind = data.draw(st.sampled_from([Exchange, Hello, Submission, Spec, Orders, Progress]))
    message = plain(data.draw(values(kind)))
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(message) - 1))
        message = (*message[:place], data.draw(PLAIN), *message[place + 1 :])

    # When it is decoded both ways, Then they agree, in the value or the sentence
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_inlined", lambda *_: lambda plain: None)
        wire._codec.cache_clear()
        long = codec(kind)
        wire._codec.cache_clear()
    assert said(codec(kind), message) == said(long, message)


def said(one: wire.Codec, message: Any) -> Any:
    """What a codec makes of a message: the value, or the class of the error and what it says."""
    try:
        return repr(one.decode(message))
    except DtqError as error:
        return type(error), error.args


@given(st.data())
def test_one_wrong_field_is_refused(data: st.DataObject) -> None:
    # Given an exchange of a worker, plain, and one field in it replaced by what no field is
    good = plain(data.draw(values(Exchange)))
    place = data.draw(st.integers(0, len(good) - 1))
    broken = (*good[:place], [b"wrong"], *good[place + 1 :])

    # When it is decoded, Then it is refused
    with pytest.raises(BadMessage):
        codec(Exchange).decode(broken)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True),  # a bool is no number on the wire, though it is one in Python
        (int, 1.0),
        (float, "1"),
        (bool, 1),
        (str, b"x"),
        (bytes, "x"),
        (list[int], (1,)),
        (tuple[int, ...], [1]),
        (tuple[int, int], (1,)),
        (Role, "nobody"),
        (Role, 1),
        (int | None, "x"),
        (str | int, 1.5),
        (Welcome, ()),
        (Welcome, (1, False, 1.0, 1.0, 1, False)),
        (Welcome, [1, False, 1.0, 1.0, 1, False, "v"]),
    ],
)
def test_wrong_type_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(BadMessage):
        codec(annotation).decode(value)


def test_value_that_the_dataclass_refuses_keeps_its_sentence() -> None:
    # Given a function whose name is none that can be imported
    wrong = ("import", "math", b"")

    # When it is decoded, Then the sentence says what to write
    with pytest.raises(InvalidValue, match="write module:function"):
        codec(Function).decode(wrong)


def test_wrong_number_of_arguments_is_refused() -> None:
    with pytest.raises(BadMessage, match="watch takes 2 arguments"):
        METHODS["watch"].decode_arguments((1,))


def test_whole_number_is_accepted_for_a_float() -> None:
    assert codec(float).decode(3) == 3


def test_table_holds_exactly_the_methods_of_the_service() -> None:
    assert set(METHODS) == {name for name in vars(Service) if not name.startswith("_")}


def test_message_is_tuples_in_the_order_of_the_fields() -> None:
    # Given dataclasses in a dataclass, and an enum
    orders = Orders(cancel=(Cancellation(token=1, index=2), Cancellation(token=3, index=4)), drop=(5,))
    function = Function(kind=FunctionKind.VALUE, name="f", body=b"x")

    # When they are encoded, Then they are tuples all the way down, and values: the wire format
    assert plain(orders) == ((), ((1, 2), (3, 4)), (5,), None, ())
    assert plain(function) == ("value", "f", b"x")


def test_hello_without_defaults_has_every_field() -> None:
    assert len(plain(Hello(session="s", role=Role.CLIENT))) == len(fields(Hello))


def test_type_that_cannot_cross_is_found_at_import() -> None:
    @dataclass
    class Holder:
        mapping: dict[str, int]

    assert is_dataclass(Holder)
    with pytest.raises(TypeError, match="cannot cross the wire"):
        codec(dict[str, int])
