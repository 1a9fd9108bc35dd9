"""Globs: what the standard library's fnmatch says, in time that no pattern can stretch."""

from __future__ import annotations

import threading
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtq.model.fields import MAX_NAME
from dtq.model.globs import MAX_GLOB, Glob, glob

PATTERNS = st.text("ab.:*?[]!-^\\\n", max_size=12) | st.text(st.sampled_from("ab*"), max_size=20)
NAMES = st.text("ab.:[]!-^\\\n", max_size=16)


@settings(max_examples=300)
@given(PATTERNS, NAMES)
def test_as_fnmatch(pattern: str, name: str) -> None:
    assert Glob(pattern).matches(name) == fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("mymodule:*", "mymodule:work", True),
        ("*TimeoutError", "concurrent.futures.TimeoutError", True),
        ("a*b*c", "a-b-b-c", True),
        ("ab*ba", "aba", False),
        ("[!a]*", "b", True),
        ("[]a]", "]", True),
        ("[z-a]", "b", False),
        ("[!z-a]", "b", True),
        ("[a-]", "-", True),
        ("[", "[", True),
        ("a[", "a[", True),
        ("", "", True),
        ("*", "", True),
    ],
)
def test_pattern(pattern: str, name: str, matches: bool) -> None:
    assert glob(pattern).matches(name) is fnmatchcase(name, pattern) is matches


@pytest.mark.parametrize(
    "pattern",
    [
        "[" * MAX_GLOB,
        "*a" * (MAX_GLOB // 2) + "b",
        "*" * MAX_GLOB,
        "?*" * (MAX_GLOB // 2),
        "[!b]*" * (MAX_GLOB // 5) + "b",
        "*" + "a" * (MAX_GLOB - 2) + "b*",
        "*a]" * (MAX_GLOB // 3) + "c",  # recursion without end elsewhere
        "*[" + "ab" * (MAX_GLOB // 2 - 3) + "]*b",  # a set that is read again at every place elsewhere
        "a*" * (MAX_GLOB // 2 - 1) + "b",
    ],
)
def test_pattern_that_is_meant_to_take_long_does_not(pattern: str) -> None:
    # Given a pattern and a name that other matchers go over again and again, When they are matched a hundred times
    name = "a" * MAX_NAME
    done = threading.Event()

    def match() -> None:
        for _ in range(100):
            assert not Glob(pattern).matches(name) or set(pattern) <= set("*?")
        done.set()

    threading.Thread(target=match, daemon=True).start()

    # Then that is over at once: no deadline is near, a matcher that comes back would take hours
    assert done.wait(60)
