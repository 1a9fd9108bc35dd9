"""References: they stand for what was put, anywhere in a call, and say what the call needs."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtq.client.payloads import decode_call, decode_result, encode_call, encode_result
from dtq.client.references import Reference
from dtq.errors import CannotUnpickle, ValueGone
from dtq.model import pages
from dtq.model.values import is_description, named, rest
from dtq.values.local import LocalValues
from dtq.values.place import Place


@pytest.fixture
def values(tmp_path: Path) -> Any:
    made = LocalValues(Place((str(tmp_path),)), 1)
    yield made
    made.close()


def put(values: LocalValues, value: Any) -> Reference:
    return Reference(encode_result(value, values, True))


class Holder:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("beside", [b"", b"x" * 100_000])
def test_a_reference_stands_for_its_value(values: LocalValues, large: bool, beside: bytes) -> None:
    # Given a call with references in several places
    first, second = put(values, np.arange(50_000)), put(values, b"y" * 70_000)
    blob = encode_call(([first, {"a": second}], beside, Holder(first)), {"k": second}, values, large)

    # Then it names what it needs, once each, and the call has the values
    assert set(named(blob)) >= {*named(first.description), *named(second.description)}
    assert len(named(blob)) == (3 if beside else 2)
    assert bool(rest(blob)) is not bool(beside)
    assert pages.named(pages.pack([b"", blob], described=True)) == list(named(blob))
    (things, came, holder), kwargs = decode_call(blob, values)
    assert np.array_equal(things[0], np.arange(50_000))
    assert (things[1]["a"], kwargs["k"], came) == (b"y" * 70_000, b"y" * 70_000, beside)
    assert np.array_equal(holder.inner, np.arange(50_000))


def test_a_value_with_references_in_it_names_them_all(values: LocalValues) -> None:
    # Given a value that was put with a reference to another in it
    inner = put(values, b"y" * 70_000)
    outer = Reference(encode_call((inner, b"x" * 70_000), None, values, True))

    blob = encode_call((outer,), None, values, False)

    assert set(named(inner.description)) <= set(named(blob))
    assert decode_call(blob, values)[0][0] == (b"y" * 70_000, b"x" * 70_000)


def test_calls_without_references_stay_as_they_are(values: LocalValues) -> None:
    reference = put(values, b"y" * 70_000)

    assert not is_description(encode_call((1, "a"), None, values, False))
    assert decode_call(encode_call((1, "a")))[0] == (1, "a")
    assert "70," in repr(reference)


def test_a_reference_in_a_result_comes_back_as_one(values: LocalValues) -> None:
    reference = put(values, b"y" * 70_000)

    came = decode_result(encode_result([reference], values, False), values)[0]

    assert isinstance(came, Reference)
    assert pickle.loads(pickle.dumps(came)).description == reference.description


def test_a_reference_is_released_once_and_with_its_last_use(values: LocalValues) -> None:
    released: list[bytes] = []
    description = encode_result(b"y" * 70_000, values)
    first, second = (Reference(description, bytes([n]), released.append) for n in range(2))

    first.release()
    first.release()
    del first, second
    gc.collect()

    assert released == [b"\0", b"\1"]


def test_what_is_gone_says_so(values: LocalValues, tmp_path: Path) -> None:
    blob = encode_call((put(values, b"y" * 70_000),), None, values, False)

    with pytest.raises(CannotUnpickle, match="segment"):
        decode_call(blob)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(ValueGone):
        decode_call(blob, values)
