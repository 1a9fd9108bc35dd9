"""What is put, or sent twice: it is written once, and let go with its last reference."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtq.client.functions import callee, resolve
from dtq.client.payloads import decode_call, encode_call
from dtq.client.references import Reference
from dtq.client.sharing import Repeats, Shared, digest_of
from dtq.client.terms import NO_TERMS
from dtq.errors import CannotPickle, Unreachable, ValueGone
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


@pytest.mark.parametrize("make", [lambda: np.zeros(200_000), lambda: b"x" * 2_000_000, lambda: "x" * 2_000_000])
def test_what_is_large_is_put_at_its_first_call(shared: Shared, keeper: Keeper, make: Callable[[], Any]) -> None:
    # Given a large argument, and another one in its place
    target, one, other = callee(len), make(), make()

    # When both are sent; Then only the first of them is put, as the next ones are probably all different
    (sent,), _ = shared.replaced(target, (one,), None)
    assert isinstance(sent, Reference)
    assert shared.replaced(target, (other,), None)[0][0] is other
    del sent

    # And it goes with the program's last reference, also if there is no other in its place
    shared.flush(keeper.release)
    assert not keeper.held
    target = callee(sum)
    assert isinstance(shared.replaced(target, (one,), None)[0][0], Reference)
    del one
    for _ in range(2):
        shared.flush(keeper.release)
    assert not keeper.held


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


class Unsteady:
    """Pickles as something else each time."""

    def __init__(self) -> None:
        self.times = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.times += 1
        return bytes, (bytes([self.times]) * 100_000,)


class Steady:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (b"\x01" * 100_000,)


def test_a_value_is_known_by_what_was_written_of_it(shared: Shared, values: LocalValues) -> None:
    # Given something that has changed between being looked at and being written
    first = shared.put(Unsteady())

    # When somebody puts what it was at first, Then they have that
    second = shared.put(Steady())
    assert (load(first, values)[0], load(second, values)[0]) == (2, 1)


@pytest.mark.parametrize("asked_first", [True, False])
def test_what_the_coordinator_has_lost_is_written_anew(
    shared: Shared, keeper: Keeper, values: LocalValues, asked_first: bool
) -> None:
    # Given references, a call's argument and a function, and a coordinator that has lost them with everything else
    array, function = np.arange(30_000), functools.partial(max, b"x" * 100_000)
    spec = callee(function).spec(NO_TERMS)
    kept = shared.put(b"kept")
    repeats = Repeats(shared)
    repeats.replaced((array,), None)
    (lost,), _ = repeats.replaced((array,), None)
    body = shared.function(function, spec).function.body
    again = shared.put(array)
    old = set(keeper.held.values())
    keeper.held = {digest: blob for digest, blob in keeper.held.items() if blob == kept.description}

    def hold(digest: bytes, description: bytes, ttl_s: float) -> bytes:
        if digest not in keeper.held and description in old:
            raise ValueGone(len(description))
        return keeper.hold(digest, description, ttl_s)

    # When the session is a new one, Then what comes next is written once more, and nothing else
    shared._hold, shared._generation = hold, lambda: 1
    if asked_first:
        shared.hold_again(hold)
    (found,), _ = repeats.replaced((array,), None)
    assert found.description != lost.description
    assert np.array_equal(load(found, values), array)
    assert shared.function(function, spec).function.body != body
    assert shared.put(b"kept").description == kept.description
    assert shared.put(array).description == found.description
    # And references to what was lost count as before
    del lost, again
    shared.flush(keeper.release)
    assert found.digest in keeper.held


def test_what_the_program_has_let_go_of_is_not_kept_alive(shared: Shared, keeper: Keeper) -> None:
    class Part:
        pass

    # Given an argument to which there are no weak references
    part = Part()
    seen = weakref.ref(part)
    argument = [part, b"x" * 100_000]
    target = callee(len)
    shared.replaced(target, (argument,), None)
    del part

    # When the program has it still, Then it may come again; and when not, it is gone
    shared.flush(keeper.release)
    assert isinstance(shared.replaced(target, (argument,), None)[0][0], list | Reference)
    assert seen() is not None
    del argument
    shared.flush(keeper.release)
    assert seen() is None


def test_what_changes_each_time_is_not_put_for_ever(shared: Shared, keeper: Keeper) -> None:
    repeats, array = Repeats(shared), np.zeros(30_000)
    found = []
    for n in range(10):
        array[0] = n
        found.append(repeats.replaced((array,), None)[0][0])

    assert len(keeper.held) <= 3
    assert found[-1] is array


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_function_may_have_references_in_it(shared: Shared, values: LocalValues, size: int) -> None:
    # Given a function by value, small or large, with a reference
    reference = shared.put(np.arange(30_000))
    function = functools.partial(both, reference, b"x" * size)

    # When it has travelled, Then it has the value, and names what it needs
    spec = shared.function(function, callee(function).spec(NO_TERMS))
    assert set(named(reference.description)) <= set(named(spec.function.body))
    assert resolve(spec.function, values=values)() == (int(np.arange(30_000).sum()), size)


def both(array: Any, rest: bytes) -> tuple[int, int]:
    return int(array.sum()), len(rest)
