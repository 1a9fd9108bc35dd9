"""Text from elsewhere, made safe to read: nothing unseen stays, nothing seen goes."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.daemon.logs import SafeFormatter
from dtq.model.text import cells, cut_to, printable, printable_line

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_unseen_character_is_escaped_and_no_other() -> None:
    # Given every character that there is, and those of them that nobody sees
    characters = [(chr(n), unicodedata.category(chr(n))) for n in range(sys.maxunicode + 1)]
    unseen = "".join(c for c, category in characters if category in UNSEEN and c not in "\t\n")
    seen = "".join(c for c, category in characters if category not in UNSEEN | {"Cn"})

    # Then these are escaped, and the others stay
    assert printable(unseen) == printable_line(unseen)
    assert printable(unseen).isascii()
    assert printable(unseen).isprintable()
    assert printable(seen) == printable_line(seen) == seen


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 漢字, 🙂", "plain, ünïcode, 漢字, 🙂"),
        ("\x1b[31mred\x07\x7f\x9b2J\r", "\\u001b[31mred\\u0007\\u007f\\u009b2J\\u000d"),
        ("good\u202etxt.exe", "good\\u202etxt.exe"),
        ("wor\u200bker \ufeff", "wor\\u200bker \\ufeff"),
        ("one\u2028two\u2029three\x85", "one\\u2028two\\u2029three\\u0085"),
        ("\U000e0041\ud800", "\\udb40\\udc41\\ud800"),
    ],
)
def test_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_line(f"{text}\n\t") == f"{shown}\\n\\t"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_json_is_json_of_the_same(text: str) -> None:
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


FORGED = "w\n2026-11-29 12:00:00,000 INFO dtq.audit: key first from 127.0.0.1:1: stop(): done (None)"


def record(message: str, *values: object, error: BaseException | None = None) -> str:
    exc_info = None if error is None else (type(error), error, None)
    return SafeFormatter().format(
        logging.LogRecord("dtq.coordinator", logging.INFO, "x.py", 1, message, values, exc_info)
    )


def test_value_in_a_log_line_cannot_begin_another() -> None:
    for mean in (FORGED, FORGED.replace("\n", "\r"), FORGED.replace("\n", "\u2028"), FORGED.replace("\n", "\x1b[1F")):
        line = record("worker %s from %s joins", mean, "127.0.0.1:2")
        assert len(line.splitlines()) == 1
        assert line.isprintable()


def test_further_lines_of_a_record_are_indented() -> None:
    # Given an error whose text holds a line break, and a sentence of ours that does
    for text in (record("a call failed", error=ValueError(FORGED)), record("cannot import:\n%s", FORGED)):
        # Then no further line passes for a record
        assert text.count("\n") >= 1
        assert all(line.startswith("    ") for line in text.splitlines()[1:])


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("名前", 4, "名前"),
        ("名前x", 4, "名…"),
        ("名前", 3, "名…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("", 0, ""),
    ],
)
def test_text_is_cut_to_columns_of_a_terminal(text: str, width: int, shown: str) -> None:
    assert cut_to(text, width) == shown
    assert cells(shown) <= width
