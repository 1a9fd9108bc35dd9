"""How calls and results travel, and what is said when they cannot."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import pytest

from dtq.client import payloads
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
from dtq.errors import CannotPickle, CannotUnpickle, OtherPython, ResultCannotPickle


class Hostile:
    """Raises something unheard of when it is pickled."""

    def __reduce__(self) -> str:
        raise BlockingIOError("not this one")


def deep(levels: int) -> list[Any]:
    nest: list[Any] = []
    for _ in range(levels):
        nest = [nest]
    return nest


@pytest.mark.parametrize("before", [0, 10, 2_000, 100_000])
@pytest.mark.parametrize("after", [0, 2_000, 100_000])
def test_main_program_is_noticed_wherever_it_is_named(monkeypatch: pytest.MonkeyPatch, before: int, after: int) -> None:
    # Given something of the main program with so much before and behind it
    by_value: list[object] = []
    monkeypatch.setattr(payloads, "dump_by_value", lambda value: by_value.append(value) or b"by value")
    value = b"x" * before + b"__main__" + b"x" * after

    # When it is encoded, Then it goes by value, and what is not of it does not
    assert encode_call((value,)) == b"by value"
    assert encode_result(value) == b"by value"
    assert by_value == [(value,), value]
    value = value.replace(b"__main__", b"__mine__")
    assert b"by value" not in (encode_call((value,)), encode_result(value))


@pytest.mark.parametrize("value", [None, 0, "", b"", [], {"a": (1, 2.5)}, "__main__", float("inf")])
def test_results_come_back_as_they_were(value: object) -> None:
    # Given a result; When it travels; Then it is equal
    assert decode_result(encode_result(value)) == value


def test_no_result_takes_no_bytes() -> None:
    # Given the most frequent result; When it travels; Then it is free
    assert encode_result(None) == b""


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        ((1, threading.Lock()), {}, r"argument 2 \(lock\) cannot be pickled: TypeError: cannot pickle '_thread.lock'"),
        ((), {"a": 1, "guard": threading.Lock()}, r"the argument guard \(lock\) cannot be pickled"),
        ((Hostile(),), {}, r"argument 1 \(Hostile\) cannot be pickled: BlockingIOError: not this one"),
        ((deep(100_000),), {}, r"argument 1 \(list\) cannot be pickled: "),
    ],
)
def test_argument_that_cannot_be_pickled_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], sentence: str) -> None:
    """Row 53: refused before anything is sent."""
    # Given an argument that cannot travel; When it is to; Then the caller learns which, and that nothing happened
    with pytest.raises(CannotPickle, match=sentence) as caught:
        encode_call(args, kwargs)
    assert "Nothing was submitted" in str(caught.value)


def test_open_socket_is_refused_at_the_caller() -> None:
    # Given a socket, which pickles nowhere
    with socket.socket() as sock, pytest.raises(CannotPickle, match=r"argument 1 \(socket\)"):
        # When it is to travel; Then it is refused here
        encode_call((sock,))


def test_lambda_arguments_travel_where_cloudpickle_is() -> None:
    # Given a lambda as argument; When it travels
    (function,), _ = decode_call(encode_call((lambda x: x + 1,)))
    # Then it works at the other end
    assert function(1) == 2


def test_lambda_argument_without_cloudpickle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no extra; When a lambda is to travel; Then it is refused, named
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(CannotPickle, match=r"argument 1 \(function\)"):
        encode_call((lambda x: x,))


def test_result_that_cannot_be_pickled_does_not_speak_of_submitting() -> None:
    # Given a result that cannot travel; When it is to; Then the sentence is about results
    with pytest.raises(ResultCannotPickle, match=r"the result \(lock\) cannot be pickled: .* Return plain data"):
        encode_result(threading.Lock())


def test_broken_blobs_are_one_kind_of_error() -> None:
    # Given bytes that are no pickle; When they are opened; Then the error is dtq's
    with pytest.raises(CannotUnpickle, match="the task's arguments cannot be unpickled here"):
        decode_call(b"garbage")
    with pytest.raises(CannotUnpickle, match="the task's arguments cannot be unpickled here: "):
        decode_call(b"3.x\n")
    with pytest.raises(CannotUnpickle, match="the task's result cannot be unpickled here"):
        decode_result(b"\x80\x05cno_such_module\nThing\n.")


def test_code_in_arguments_needs_the_same_python(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a call with code in its arguments, which travels by value
    blob = encode_call((lambda x: x + 1,), {"main": "__main__"})
    (args, kwargs) = decode_call(blob)
    assert (args[0](2), kwargs) == (3, {"main": "__main__"})
    # When it arrives at another version of Python; Then both are named
    with pytest.raises(OtherPython, match=r"by value from Python 2\.7, and this is Python 3"):
        decode_call(b"2.7" + blob[blob.index(b"\n") :])
    # And one without code in it is for all of them
    monkeypatch.setattr("dtq.client.payloads.THIS_PYTHON", b"4.0\n")
    assert decode_call(encode_call(("__main__",))) == (("__main__",), {})


def test_json_calls_and_results_come_back() -> None:
    # Given a call of a registered task type; When it travels; Then it is plain JSON
    assert decode_json_call(encode_json_call(({"to": "me"},), {"n": 1})) == (({"to": "me"},), {"n": 1})
    assert decode_json_call(b'{"args": [1]}') == ((1,), {})
    assert decode_json_result(encode_json_result({"ok": True})) == {"ok": True}
    assert decode_json_result(encode_json_result(None)) is None


def test_what_is_not_json_is_refused_on_both_sides() -> None:
    # Given things that JSON cannot say; When they are to travel; Then each side says so
    with pytest.raises(CannotPickle, match="not JSON"):
        encode_json_call((object(),))
    with pytest.raises(ResultCannotPickle, match="not JSON"):
        encode_json_result({1, 2})
    with pytest.raises(CannotUnpickle):
        decode_json_call(b"[1]")
    with pytest.raises(CannotUnpickle):
        decode_json_result(b"{")
