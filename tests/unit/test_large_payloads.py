"""Large calls and results: written as values and read back as they were, also where they are no plain pickles."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtq.client import by_value
from dtq.client.payloads import (
    decode_call,
    decode_json_call,
    decode_json_result,
    decode_result,
    encode_call,
    encode_json_call,
    encode_json_result,
    encode_result,
)
from dtq.errors import CannotPickle, CannotUnpickle, OtherPython, TooLarge, ValueDamaged, ValueGone
from dtq.model.values import is_description, named
from dtq.values.local import LocalValues
from dtq.values.place import Place

LARGE = 200_000


@pytest.fixture(params=[None, 1], ids=["read", "mapped"])
def values(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    made = LocalValues(Place((str(tmp_path),), max_value=1 << 24), request.param)
    yield made
    made.close()


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other)) and one.dtype == other.dtype and one.shape == other.shape
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


WHAT = {
    "bytes": b"x" * LARGE,
    "bytearray": bytearray(b"x" * LARGE),
    "text": "é" * LARGE,
    "array": np.arange(LARGE, dtype=np.float64),
    "arrays": {str(n): np.full(n, n, dtype=np.int32) for n in (0, 1, 10_000, 100_000)},
    "columns first": np.asfortranarray(np.arange(LARGE).reshape(200, 1000)),
    "every other": np.arange(2 * LARGE)[::2],
    "small ones": [np.arange(100) for _ in range(2000)],
    "many objects": [{"n": n, "text": str(n)} for n in range(20_000)],
    "twice the same": [np.arange(LARGE)] * 2,
    "names the main program": [b"__main__" * 20_000, np.arange(LARGE), "__main__"],
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("what", WHAT.values(), ids=WHAT)
def test_what_is_large_comes_back(values: LocalValues, what: Any, large: bool) -> None:
    call, result = encode_call((what, 1), {"name": what}, values, large), encode_result(what, values, large)

    assert is_description(call)
    assert is_description(result)
    args, kwargs = decode_call(call, values)
    assert equal(args, (what, 1))
    assert equal(kwargs, {"name": what})
    assert equal(decode_result(result, values), what)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("what", [None, 0, "", b"x" * 60_000, np.arange(3000), [np.arange(10) for _ in range(10)]])
def test_what_is_small_stays_in_the_blob(values: LocalValues, what: Any, large: bool) -> None:
    blob = encode_result(what, values, large)

    assert not is_description(blob)
    assert equal(decode_result(blob), what)


def test_arrays_can_be_written_to_and_are_aligned(values: LocalValues) -> None:
    # Given arrays that came out of one value twice
    blob = encode_call((np.arange(LARGE), np.zeros(LARGE, dtype=np.uint8)), None, values, True)
    (first, second), (again, _) = decode_call(blob, values)[0], decode_call(blob, values)[0]

    # When one is written to, Then the other stays as it was
    first += 1
    assert np.array_equal(first, np.arange(1, LARGE + 1))
    assert np.array_equal(again, np.arange(LARGE))
    assert {array.ctypes.data % 16 for array in (first, second)} == {0}


def test_json_is_written_as_a_value_too(values: LocalValues) -> None:
    text = "x" * LARGE
    call, result = encode_json_call((text,), {"a": 1}, values), encode_json_result(text, values)

    assert is_description(call)
    assert decode_json_call(call, values) == ((text,), {"a": 1})
    assert is_description(result)
    assert decode_json_result(result, values) == text


def test_code_by_value_is_written_as_a_value_too(values: LocalValues, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a call with code of the main program and much beside it
    main = type(sys)("__main__")
    exec("class Mine:\n    def __init__(self, n): self.n = n", main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    blob = encode_call((main.Mine(3), "x" * LARGE), None, values, True)

    # Then it comes back, and only in the same Python
    assert is_description(blob)
    assert decode_call(blob, values)[0][0].n == 3
    monkeypatch.setattr(by_value, "THIS_PYTHON", b"2.7\n")
    with pytest.raises(OtherPython):
        decode_call(blob, values)


@pytest.mark.parametrize("large", [False, True])
def test_what_cannot_be_pickled_leaves_nothing_behind(values: LocalValues, large: bool) -> None:
    with pytest.raises(CannotPickle, match="argument 2"):
        encode_call((b"x" * LARGE, threading.Lock()), None, values, large)

    (value,) = named(encode_result(b"x" * LARGE, values, large))
    assert value.offset == 0


@pytest.mark.parametrize("large", [False, True])
def test_what_is_too_large_is_refused(values: LocalValues, large: bool) -> None:
    with pytest.raises(TooLarge):
        encode_result(b"x" * (1 << 25), values, large)
    with pytest.raises(TooLarge):
        encode_result(np.zeros(1 << 25, dtype=np.uint8), values, large)


@pytest.mark.parametrize("what", ["array", "bytes", "many objects"])
def test_what_is_gone_or_damaged_says_so(values: LocalValues, what: str, tmp_path: Path) -> None:
    blob = encode_result(WHAT[what], values, True)
    (value,) = named(blob)
    path = tmp_path / f"{value.segment:016x}.values"

    with path.open("r+b") as file:
        file.seek(value.offset + 70_000)
        before = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([before[0] ^ 255]))
    with pytest.raises(ValueDamaged):
        decode_result(blob, values)
    path.unlink()
    with pytest.raises(ValueGone):
        decode_result(blob, values)
    with pytest.raises(CannotUnpickle, match="segment"):
        decode_result(blob)
