"""Which arguments count as the same for a key that is used again."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dtq.coordinator.sameness import MOST, same_arguments

TEXT = "some text"


def blob(*args: Any) -> bytes:
    return pickle.dumps(args, 5)


def copied(text: str) -> str:
    """An equal text that is another object."""
    return "".join(list(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (blob(TEXT, TEXT), blob(TEXT, copied(TEXT))),
        (blob([TEXT] * 3), blob([copied(TEXT), TEXT, copied(TEXT)])),
        (blob({"a": 1, "b": (2.5, None)}), blob({"b": (2.5, None), "a": 1})),
        (blob(Path("/a/b"), datetime(2026, 1, 2)), blob(Path("/a") / "b", datetime(2026, 1, 2, 0))),
        (json.dumps({"args": [1], "kwargs": {}}).encode(), b'{"kwargs":{},"args":[1]}'),
    ],
)
def test_equal_arguments_are_the_same_however_they_are_pickled(one: bytes, other: bytes) -> None:
    assert one != other or one is not other
    assert same_arguments(one, other)


def test_set_is_the_same_in_another_process() -> None:
    script = "import pickle,sys; sys.stdout.buffer.write(pickle.dumps(({str(n) for n in range(50)},), 5))"
    seen = {
        subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True).stdout
        for seed in ("1", "2")
    }

    one, other = seen
    assert same_arguments(one, other)
    assert not same_arguments(one, blob({str(n) for n in range(51)}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (blob(1), blob(2)),
        (blob(1), blob(True)),
        (blob(1), blob(1.0)),
        (blob("a", "b"), blob("b", "a")),
        (blob(["a"]), blob(("a",))),
        (blob({"a": 1}), blob({"a": 2})),
        (blob({1, 2}), blob(frozenset({1, 2}))),
        (blob(b"x" * 100_000), blob(b"y" * 100_000)),
        (blob(Path("/a")), blob(Path("/b"))),
        (blob(), blob(None)),
        (b'{"args":[1],"kwargs":{}}', b'{"args":[2],"kwargs":{}}'),
    ],
)
def test_other_arguments_are_told(one: bytes, other: bytes) -> None:
    assert not same_arguments(one, other)


def test_what_cannot_be_described_counts_as_the_same() -> None:
    endless: list[Any] = [1]
    endless.append(endless)

    assert same_arguments(blob(endless), blob([1, [1]]))
    assert same_arguments(blob(list(range(MOST))), blob(list(range(MOST + 1))))
    assert same_arguments(b"3.11\n" + blob(1), b"3.11\n" + blob(2))
    assert same_arguments(b"\x80\x05garbage", b"\x80\x05other garbage")


def test_values_within_values_cost_no_more_than_their_pickle() -> None:
    def nested(leaf: str) -> list[Any]:
        value: list[Any] = [leaf]
        for _ in range(200):
            value = [value, value]
        return value

    assert not same_arguments(blob(nested("a")), blob(nested("b")))
