"""The opcode list: whatever the bytes, a plain value or BadMessage, and never more memory than the message is worth."""

from __future__ import annotations

import math
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dtq.errors import BadMessage
from dtq.transport import safepickle

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**2039), 2**2039 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters())  # lone surrogates too: file names have them
    | st.binary()
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.lists(inner, max_size=6).map(tuple),
    max_leaves=40,
)
HEAD = b"\x80\x05"


class Touch:
    """Unpickling one of these would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def nested(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels - 1):
        value = (value,)
    return value


@given(PLAIN)
def test_plain_value_comes_back_the_same(value: Any) -> None:
    # When it crosses
    back = safepickle.loads(safepickle.dumps(value))

    # Then it is equal, also in the types that compare equal
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            sign * (2**bits + off)
            for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64, 2038)
            for sign in (1, -1)
            for off in (-1, 0)
        ),
        *(b"x" * size for size in (0, 1, 255, 256, 65_535, 65_536, 200_000)),
        *("é" * size for size in (0, 1, 127, 128, 40_000, 100_000)),
        *(tuple(range(size)) for size in range(6)),
        *(list(range(size)) for size in (0, 1, 2, 1000, 1001, 2500)),
        [b"a" * 70_000, "mid", b"b" * 70_000, ("c" * 70_000,)],
        ("same", "same", b"same" * 100, b"same" * 100),
        (float("inf"), -0.0, 1e-320),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}",
)
def test_every_length_of_every_opcode_comes_back(value: Any) -> None:
    assert safepickle.loads(safepickle.dumps(value)) == value


def test_large_blobs_are_not_copied() -> None:
    # Given a message with large blobs among small ones
    one, other = b"a" * 100_000, b"b" * 70_000
    value = ("name", one, 7, [other, b"c"])

    # When it is taken apart for sending
    parts = safepickle.parts(value)

    # Then the blobs are parts of it, the very same ones, and all of it is what it is as a whole
    assert any(part is one for part in parts)
    assert any(part is other for part in parts)
    assert b"".join(parts) == safepickle.dumps(value)


def test_nan_comes_back() -> None:
    assert math.isnan(safepickle.loads(safepickle.dumps(math.nan)))


def test_bytearray_is_read_like_bytes() -> None:
    # Given a long message, which a connection receives into a bytearray
    data = bytearray(safepickle.dumps(("x" * 100_000, [1])))

    # When it is read, Then it makes no difference
    assert safepickle.loads(data) == ("x" * 100_000, [1])


@pytest.mark.parametrize("value", [{"a": 1}, {}, {1}, frozenset({1}), bytearray(b"x"), ({},), [(({1: 2},),)]])
def test_other_builtins_are_refused(value: Any) -> None:
    with pytest.raises(BadMessage):
        safepickle.loads(safepickle.dumps(value))
    with pytest.raises(BadMessage):
        safepickle.loads(pickle.dumps(value, 5))


@pytest.mark.parametrize("value", [object(), len, Path, 1j, slice(1), Ellipsis, BadMessage("x"), lambda: 0])
def test_objects_are_refused_before_sending_with_their_type(value: Any) -> None:
    with pytest.raises(BadMessage, match=type(value).__name__):
        safepickle.dumps((1, [value]))


def test_subclass_of_scalar_is_refused_before_sending() -> None:
    class Number(int):
        pass

    with pytest.raises(BadMessage, match="Number is not plain data"):
        safepickle.dumps(Number(3))


def test_value_that_contains_itself_is_refused() -> None:
    # Given a list in itself
    loop: list[Any] = []
    loop.append(loop)

    # When it is to be sent, Then the sentence says why not
    with pytest.raises(BadMessage, match="cyclic"):
        safepickle.dumps(loop)


def test_refused_value_leaves_no_trace_in_the_next_message() -> None:
    # Given an encoder that was stopped after some output
    with pytest.raises(BadMessage):
        safepickle.dumps([b"x" * 100_000, object()])

    # When the next value is sent, Then it is alone
    assert safepickle.loads(safepickle.dumps(1)) == 1


def test_pickled_call_is_refused_and_not_made(tmp_path: Path) -> None:
    # Given pickles that would make a directory
    for protocol in range(6):
        for value in (Touch(tmp_path / "made"), (1, [Touch(tmp_path / "made")])):
            # When they are read, Then they are refused
            with pytest.raises(BadMessage):
                safepickle.loads(pickle.dumps(value, protocol))
    # Then nothing has run
    assert not (tmp_path / "made").exists()


def test_opcodes_hidden_in_a_blob_are_content() -> None:
    # Given bytes that spell a call
    blob = pickle.dumps(Touch(Path("/never")), 0)

    # When they travel as bytes or text, Then they are just that
    assert safepickle.loads(safepickle.dumps((blob, blob.decode()))) == (blob, blob.decode())


@pytest.mark.parametrize("container", ["tuple", "list"])
def test_nesting_up_to_the_limit_is_read_and_beyond_is_not(container: str) -> None:
    def built(levels: int) -> bytes:
        if container == "tuple":
            return HEAD + b")" + b"\x85" * levels + b"."
        return HEAD + b"]" * levels + b"a" * (levels - 1) + b"."

    # Given the deepest that is allowed, When it is read, Then it is what was built
    assert safepickle.loads(built(safepickle.MAX_DEPTH)) is not None
    # Given one level more, Then it is refused
    with pytest.raises(BadMessage, match="nested"):
        safepickle.loads(built(safepickle.MAX_DEPTH + 1))


def test_wide_message_of_nested_items_is_not_mistaken_for_a_deep_one() -> None:
    # Given many small containers side by side
    value = [((1, 2), [3], (4, (5,), [6, 7])) for _ in range(2000)]

    # When they cross, Then they are all there
    assert safepickle.loads(safepickle.dumps(value)) == value


ATTACKS = {
    "memo bomb": HEAD + b"Nr\xff\xff\xff\x0f.",
    "memo": HEAD + b"N\x94.",
    "memo get": HEAD + b"]\x94(h\x00h\x00e.",
    "nested tuples": HEAD + b")" + b"\x85" * 1_000_000 + b".",
    "nested pairs": HEAD + b")" + b"K\x00\x86" * 20 + b".",
    "two values": HEAD + b"NN.",
    "more after the end": HEAD + b"N.N.",
    "open brackets": HEAD + b"(" * 1_000_000 + b".",
    "empty lists": HEAD + b"(" + b"]" * 200_000 + b"t.",
    "long length": HEAD + b"B\xff\xff\xff\xff.",
    "8-byte length": HEAD + b"\x8e" + b"\xff" * 8 + b".",
    "long integer": HEAD + b"\x8b\xff\xff\xff\x7f.",
    "long frame": HEAD + b"\x95" + b"\xff" * 8 + b"N.",
    "hash flood": pickle.dumps({i * (2**61 - 1): None for i in range(2000)}, 5),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused_and_costs_no_memory(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a message, and a smaller bound (counting memory makes the walk slow)
    monkeypatch.setattr(safepickle, "MAX_VALUES", 100_000)
    data = ATTACKS[attack]
    tracemalloc.start()
    try:
        # When it is read, Then it is refused
        with pytest.raises(BadMessage):
            safepickle.loads(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Then nothing was built: the walk keeps a number a value
    assert peak < 2 << 20


def test_value_count_is_bounded() -> None:
    # Given a flat message with one value too many
    data = HEAD + b"(" + b"N" * safepickle.MAX_VALUES + b"t."

    # When it is read, Then it is refused
    with pytest.raises(BadMessage, match="more than"):
        safepickle.loads(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_plain_value_or_refused(data: bytes) -> None:
    for candidate in (data, HEAD + data, HEAD + data + b".", bytearray(HEAD + data + b".")):
        _assert_plain_or_refused(candidate)


# The opcodes that are let through, in any order and number: this reaches the unpickler far more often.
OPCODE_LIST = (
    [bytes([opcode]) for opcode in b"N\x88\x89)](t\x85\x86\x87ae."]
    + [b"K\x01", b"M\x01\x02", b"J\xff\xff\xff\xff", b"G" + bytes(8), b"\x8a\x01\xff", b"\x8a\x00"]
    + [b"\x8c\x02ab", b"\x8c\x01\xff", b"C\x01x", b"X\x01\x00\x00\x00\xed", b"B\x02\x00\x00\x00zz"]
    + [b"\x95" + (5).to_bytes(8, "little"), b"\x95" + bytes(8)]
)
OPCODES = st.sampled_from(OPCODE_LIST)


@given(st.lists(OPCODES, max_size=30))
def test_any_order_of_allowed_opcodes_is_a_plain_value_or_refused(opcodes: list[bytes]) -> None:
    _assert_plain_or_refused(HEAD + b"".join(opcodes) + b".")


FRAMED = HEAD + b"\x95" + bytes(8)


@given(st.lists(OPCODES, max_size=30))
@example([b"K\x01", b"\x86"])
@example([b"N"] + [b"\x85"] * (safepickle.MAX_DEPTH + 1))
@example([b"]"] + [b"\x85"] * safepickle.MAX_DEPTH)
@example([b"("] * 20 + [b"t"] * 20)
def test_what_is_seen_at_once_to_be_plain_is_not_refused_otherwise(opcodes: list[bytes]) -> None:
    # Given a small message, framed as the writer's are, that is seen at once to be plain
    data = FRAMED + b"".join(opcodes) + b"."
    assume(safepickle._small_and_plain(data))

    # When it is walked over opcode by opcode, Then nothing is said but that they do not fit together
    assert _refusal(data) in ("", "it is not exactly one value")
    _assert_plain_or_refused(data)


def _refusal(data: bytes) -> str:
    try:
        safepickle._check(data)
    except BadMessage as error:
        return str(error.args[0])
    except (IndexError, ValueError):
        pass  # a bracket that nobody opened
    return ""


@given(st.lists(OPCODES, max_size=8), st.integers(0, 255), st.binary(max_size=8), st.lists(OPCODES, max_size=8))
def test_no_refused_opcode_is_overlooked(before: list[bytes], opcode: int, content: bytes, after: list[bytes]) -> None:
    # Given a small message with an opcode of no plain data somewhere
    known = {code[0] for code in OPCODE_LIST}
    data = FRAMED + b"".join(before) + bytes([opcode]) + content + b"".join(after) + b"."
    assume(opcode not in known)

    # When it is looked at, Then it is not taken for plain
    assert not safepickle._small_and_plain(data)


def test_small_messages_are_seen_at_once_to_be_plain() -> None:
    # Given what a client and a worker say most
    for value in (
        ("watch", (17, 20.0)),
        ("submit", ([("import", "m:f", b"")], [(0, 1, b"x" * 200, None, 0.5)], False)),
    ):
        # When such a thing has been written often enough, Then the short look is enough
        for _ in range(safepickle._PATIENCE):
            safepickle.loads(safepickle.dumps(value))
        assert safepickle._small_and_plain(safepickle.dumps(value))


@given(PLAIN, st.data())
def test_any_damage_to_a_message_is_a_plain_value_or_refused(value: Any, draw: st.DataObject) -> None:
    data = bytearray(safepickle.dumps(value))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    _assert_plain_or_refused(data)
    _assert_plain_or_refused(data[: draw.draw(st.integers(0, len(data)))])


def _assert_plain_or_refused(data: bytes | bytearray) -> None:
    try:
        value = safepickle.loads(data)
    except BadMessage:
        return
    rest = [value]
    while rest:
        item = rest.pop()
        assert type(item) in (type(None), bool, int, float, str, bytes, tuple, list)
        if type(item) in (tuple, list):
            rest.extend(item)
