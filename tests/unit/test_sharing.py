"""What is put, or sent twice: it is written once, and let go with its last reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtq.client.payloads import decode_call, encode_call
from dtq.client.references import Reference
from dtq.client.sharing import Repeats, Shared, digest_of
from dtq.errors import CannotPickle, Unreachable
from dtq.model.values import named
from dtq.values.local import LocalValues
from dtq.values.place import Place


class Keeper:
    """What a coordinator does."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.released: list[bytes] = []
        self.away = False

    def hold(self, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        if description:
            self.held.setdefault(digest, description)
        return self.held.get(digest, b"")

    def release(self, digests: list[bytes]) -> None:
        if self.away:
            raise Unreachable("there", "it is away")
        for digest in digests:
            del self.held[digest]
            self.released.append(digest)


@pytest.fixture
def values(tmp_path: Path) -> Any:
    made = LocalValues(Place((str(tmp_path),)), 1)
    yield made
    made.close()


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def shared(keeper: Keeper, values: LocalValues) -> Shared:
    return shared_of(keeper, values)


def shared_of(keeper: Keeper, values: LocalValues | None) -> Shared:
    return Shared(keeper.hold, lambda: values, lambda: None)


def load(reference: Reference, values: LocalValues) -> Any:
    return decode_call(encode_call((reference,), None, values), values)[0][0]


@pytest.mark.parametrize("value", [None, 1, "a", b"x" * 100_000, [1, {"a": 2}], np.arange(30_000)])
def test_what_is_put_comes_back(shared: Shared, values: LocalValues, value: Any) -> None:
    assert np.array_equal(load(shared.put(value), values), value)


def test_the_same_lies_once_until_its_last_reference_is_gone(shared: Shared, keeper: Keeper) -> None:
    # Given something that was put twice
    first, second = shared.put(np.arange(30_000)), shared.put(np.arange(30_000))
    assert len(keeper.held) == 1
    assert first.description == second.description

    # When one reference is gone, and then the other, Then the coordinator hears of the last
    first.release()
    shared.flush(keeper.release)
    assert not keeper.released
    del second
    shared.flush(keeper.release)
    assert (len(keeper.released), keeper.held) == (1, {})


def test_what_another_has_put_is_not_written_again(shared: Shared, keeper: Keeper, values: LocalValues) -> None:
    theirs = shared_of(keeper, values).put(b"x" * 100_000)

    assert shared.put(b"x" * 100_000).description == theirs.description


def test_what_was_let_go_while_nobody_was_there_and_put_again_is_held(shared: Shared, keeper: Keeper) -> None:
    # Given two values whose references are gone, of which the coordinator could not be told
    shared.put(b"x" * 100_000)
    shared.put(b"y" * 100_000)
    keeper.away = True
    with pytest.raises(Unreachable):
        shared.flush(keeper.release)
    keeper.away = False

    # When one is put again, Then only the other is let go
    again = shared.put(b"x" * 100_000)
    shared.flush(keeper.release)
    assert set(keeper.held) == {again.digest}


def test_what_cannot_be_pickled_or_kept_says_so(keeper: Keeper, values: LocalValues) -> None:
    with pytest.raises(CannotPickle, match="lock"):
        shared_of(keeper, values).put(__import__("threading").Lock())
    with pytest.raises(CannotPickle, match="keeps no values"):
        shared_of(keeper, None).put(1)


def test_a_value_with_another_in_it_is_told_apart_by_that(shared: Shared) -> None:
    one, other = shared.put(b"x" * 100_000), shared.put(b"y" * 100_000)

    assert digest_of([one])[0] != digest_of([other])[0]
    assert set(named(one.description)) <= set(named(shared.put([one]).description))


LARGE = {"array": np.arange(30_000), "bytes": b"x" * 100_000, "list": [b"x" * 100_000]}


@pytest.mark.parametrize("argument", LARGE.values(), ids=LARGE)
def test_what_comes_again_is_sent_as_a_reference(shared: Shared, keeper: Keeper, argument: Any) -> None:
    repeats = Repeats(shared)

    sent = [repeats.replaced((n, argument), {"k": argument}) for n in range(4)]

    assert sent[0] == ((0, argument), {"k": argument}) if not isinstance(argument, np.ndarray) else True
    for n, (args, kwargs) in enumerate(sent[1:], 1):
        assert args[0] == n
        assert isinstance(args[1], Reference)
        assert isinstance(kwargs["k"], Reference)
        assert kwargs["k"] is args[1]
    assert len(keeper.held) == 1


def test_what_has_changed_in_place_is_sent_as_it_is_now(shared: Shared, values: LocalValues) -> None:
    # Given one buffer that is filled anew for each call
    repeats = Repeats(shared)
    buffer = np.zeros(30_000)
    sent = []
    for n in range(4):
        buffer[:] = n
        args, _ = repeats.replaced((buffer,), None)
        sent.append(encode_call(args, None, values, True))

    assert [int(decode_call(blob, values)[0][0][0]) for blob in sent] == [0, 1, 2, 3]


def test_what_is_small_or_new_each_time_is_sent_as_it_is(shared: Shared, keeper: Keeper) -> None:
    repeats = Repeats(shared)
    small = ["a"]

    for n in range(3):
        args = (small, n, np.arange(30_000), None)
        new, _ = repeats.replaced(args, None)
        assert all(one is other for one, other in zip(new, args, strict=True))
    assert not keeper.held
