"""The arguments of a task as a line: nothing of what a submitter has sent is run, however it looks."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import pathlib
import pickle
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from dtq.client.argument_text import ArgumentText, argument_text
from dtq.client.by_value import THIS_PYTHON
from dtq.client.parents import input_of
from dtq.client.payloads import encode_call, encode_json_call
from dtq.client.references import Reference
from dtq.model.inputs import elements_call
from dtq.model.options import FunctionKind
from dtq.model.snapshots import TaskArguments
from dtq.model.values import Value, describe

VALUE = Value(7, 64, 100 << 20, 5)


def shown(
    blob: bytes, most: int = 80, *, cut: int | None = None, given: tuple[str, ...] = (), json: bool = False
) -> ArgumentText:
    found = TaskArguments(batch=1, index=0, kept=True, blob=blob[:cut], size=len(blob), given=given)
    text = argument_text(found, FunctionKind.REGISTERED if json else FunctionKind.IMPORT, most)
    assert text is not None
    return text


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Stand:
    """Pickles as a call of a function of dtq's own."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Shop:
    def __init__(self) -> None:
        self.stock = [1, 2]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, ""),
        (("a.jpg",), {"size": 64}, "'a.jpg', size=64"),
        ((), {"a": None, "b": True}, "a=None, b=True"),
        ((1, -2.5, 10**30, False), {}, f"1, -2.5, {10**30}, False"),
        (([1, [2]], (3,), {"k": (4, 5, 6, 7)}, []), {}, "[1, [2]], (3,), {'k': (4, 5, 6, 7)}, []"),
        (("\u202e\x1b[31m\n",), {}, r"'\u202e\x1b[31m\n'"),
        ((Shop(), Shop), {"at": Shop()}, f"<{__name__}.Shop>, <{__name__}.Shop>, at=<{__name__}.Shop>"),
        ((pathlib.PurePosixPath("/a/b c"), decimal.Decimal("1.50")), {}, "Path('/a/b c'), Decimal('1.50')"),
        ((uuid.UUID(int=5),), {}, "<uuid.UUID>"),
    ],
)
def test_arguments_are_shown_as_in_a_call(args: Any, kwargs: Any, text: str, protocol: int) -> None:
    call = [args, kwargs] if kwargs else args
    assert shown(pickle.dumps(call, protocol), 200) == ArgumentText(text, False)


def test_plain_values_of_the_usual_protocol_are_shown(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4)
    call = ({1, 2}, frozenset({3}), b"\0", bytearray(b"x"), moment, set(), range(3))
    assert shown(encode_call(call), 200).text == (
        "{1, 2}, frozenset({3}), b'\\x00', bytearray(b'x'), datetime.datetime(2026, 1, 2, 3, 4), set(), range(0, 3)"
    )


def test_nothing_is_run_and_nothing_imported(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    blob = pickle.dumps((Trap(trap), 1))

    assert shown(blob).text == "<posix.mkdir>, 1"
    missing = pickle.dumps((Shop(),)).replace(__name__.encode(), b"x" * len(__name__))
    assert shown(missing).text == f"<{'x' * len(__name__)}.Shop>"
    assert not trap.exists()


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (pickle.dumps((list(range(1000)),), 5), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9…"),
        (pickle.dumps(("x" * 5000,), 5), "'xxxxxxxxxxxxxxxxxxxxxxxxxxx…'"),
        (pickle.dumps((b"x" * 5000,), 5), "b'xxxxxxxxxxxxxxxxxxxxxxxxxx…'"),
        (pickle.dumps((10**5000,), 5), "<int of 16,610 bits>"),
        (describe([VALUE]), "<100 MiB value>"),
    ],
)
def test_long_arguments_are_shortened(blob: bytes, text: str) -> None:
    assert shown(blob, 30) == ArgumentText(text, True)


def test_arguments_of_which_only_the_beginning_came_are_shown_as_far_as_they_go() -> None:
    blob = pickle.dumps([("a.jpg", [1, 2, 3], "b" * 1000), {"size": 64}], 5)
    for cut in range(len(blob)):
        assert shown(blob, cut=cut).shortened
    assert shown(blob, cut=60).text.startswith("'a.jpg', [1, 2, 3], 'bbb")


def test_results_of_others_and_references_are_named() -> None:
    call = (Stand(input_of, 0, False, ""), Stand(input_of, 7, False, ""), Stand(input_of, 8, False, "9.1"))
    assert shown(pickle.dumps(call, 5), given=("result of 17.3",)).text == (
        "<result of 17.3>, <result of another task>, <result of 9.1>"
    )
    assert shown(elements_call([False, True]), given=("result of 4.0", "result of 5.0")).text == (
        "<result of 4.0>, <result of 5.0>"
    )
    reference = Reference(describe([VALUE]))
    described = encode_call((1, reference))
    assert described.startswith(b"\0")
    assert shown(described).text == "1, <reference, 100 MiB>"
    assert shown(described, cut=20).text == f"<{len(described)} bytes of arguments>"


def test_arguments_with_code_are_shown_without_it() -> None:
    assert shown(THIS_PYTHON + pickle.dumps((1,), 5)).text == "1"
    assert shown(b"3.11\n" + b"\x80\x05\x8c\x17cloudpickle.cloudpickle\x8c\x02_m\x93)R\x85.").text == (
        "<code sent by value>"
    )


def test_arguments_of_task_types_are_their_json() -> None:
    blob = encode_json_call(({"to": "a\u202eb", "n": None},), {"urgent": True})
    assert shown(blob, json=True) == ArgumentText('{"to": "a\\u202eb", "n": null}, urgent=true', False)
    assert shown(blob, json=True, cut=14) == ArgumentText('{"to"', True)
    assert shown(b"\xff{", json=True).shortened
    assert shown(json.dumps({"args": 5, "kwargs": 0}).encode(), json=True).shortened


def test_arguments_that_are_no_longer_kept_are_none() -> None:
    assert argument_text(TaskArguments(batch=1, index=0, kept=False, blob=b"", size=0), FunctionKind.IMPORT, 80) is None


def test_whatever_a_submitter_sends_makes_a_short_line(tmp_path: Path) -> None:
    # Given pickles of every protocol, a few bytes of which are others
    chance = random.Random(1)
    trap = tmp_path / "sprung"
    seeds = [pickle.dumps(([1, "abc", {"a": (1, 2, 3, 4)}], Shop(), b"x" * 99, Trap(trap)), p) for p in range(6)]
    seeds += [b"\x80\x05" + b"(" * 500, b"\x80\x05" + b"(t" * 500, b"\x80\x05]" + b"2(e" * 300, b"\0\0\0", b""]
    nest: list[Any] = []
    nest.append(nest)
    seeds += [pickle.dumps((nest,), 5), b"\x80\x05]\x94" + b"(h\0h\0h\0h\0e" * 200 + b"."]
    # Then each of them is shown in a line of printable characters, and none is run
    for _ in range(3000):
        blob = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(6) if blob else 0):
            blob[chance.randrange(len(blob))] = chance.randrange(256)
        text = shown(bytes(blob), 60, cut=chance.choice((None, chance.randrange(99)))).text
        assert len(text) <= 60
        assert text.isprintable()
    assert not trap.exists()
