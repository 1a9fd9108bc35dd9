"""Output: tables that fit, JSON that is JSON, and nothing that drives the reader's terminal."""

from __future__ import annotations

import datetime
import io
import json

import pytest

from dtq.cli.output import (
    ago,
    colourful,
    moment,
    one_line,
    paint,
    table,
    write_fields,
)
from dtq.cli.values import value_json, value_text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_one_line_flattens_and_cuts() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 300, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3628800, "3628800"),
        ("ü", '"ü"'),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a": [1, 2.5, true]}'),
        (b"raw", "b'raw'"),
        (float("nan"), "nan"),
        ({1, 2}, "{1, 2}"),
        ("\x9b2J", '"\\u009b2J"'),
    ],
)
def test_value_text_is_json_if_it_can_be_else_repr(value: object, text: str) -> None:
    assert value_text(value) == text


def test_bytes_that_are_many_are_told_by_their_length() -> None:
    assert value_text(b"x" * 3_000_000) == f"{b'x' * 64!r}... (3,000,000 bytes)"
    assert value_json(b"x" * 3_000_000) == {"repr": f"{b'x' * 64!r}... (3,000,000 bytes)"}


def test_value_text_is_one_line() -> None:
    class Matrix:
        def __repr__(self) -> str:
            return "1 2\n3 4"

    assert value_text(Matrix()) == "1 2\\n3 4"


def test_value_json_says_which_it_is() -> None:
    assert value_json([1]) == {"result": [1]}
    assert value_json(b"raw") == {"repr": "b'raw'"}


def test_moment_is_iso_8601_in_utc() -> None:
    text = moment(1_700_000_000.9996)
    assert text == "2023-11-14T22:13:20.999Z"
    assert datetime.datetime.fromisoformat(text).utcoffset() == datetime.timedelta(0)
    assert moment(None) is None


def test_ago_tells_past_from_future() -> None:
    assert ago(100.0, 234.0) == "2m 14s ago"
    assert ago(104.0, 100.0) == "in 4 s"
    assert ago(None, 100.0) == ""


def test_table_aligns_columns_without_borders() -> None:
    lines = table(("ID", "N"), [("1", "10"), ("17.3", "7")], right=(1,))
    assert lines == ["ID     N", "1     10", "17.3   7"]


def test_table_off_a_terminal_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "20")
    assert table(("ID", "WHY"), [("1", "w" * 150)])[1] == "1   " + "w" * 150


def test_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a terminal of 40 columns, and text with wide characters
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = table(("ID", "WHY"), [("17.3", "w" * 150), ("18", "漢" * 50)])
    # Then no line is wider than the terminal, and the short column is whole
    assert [len(line) for line in lines[:2]] == [9, 40]
    assert lines[1].endswith("…")
    assert len(lines[2]) == 6 + 16 + 1  # sixteen characters of two columns each, and the ellipsis
    assert lines[1].startswith("17.3  w")


def test_table_colours_states_without_breaking_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = table(("STATE", "N"), [("dead", "1"), ("running", "2")], state=0)
    assert lines == ["STATE    N", "\x1b[31mdead\x1b[0m     1", "\x1b[34mrunning\x1b[0m  2"]


@pytest.mark.parametrize(
    ("variables", "stream", "expected"),
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"TERM": "dumb"}, Terminal(), False),
    ],
)
def test_colourful_obeys_the_variables_then_the_terminal(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], stream: io.StringIO, expected: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert colourful(stream) is expected


def test_paint_leaves_a_pipe_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert paint("dead") == "dead"


def test_write_fields_leaves_empty_ones_out(capsys: pytest.CaptureFixture[str]) -> None:
    write_fields([("state", "dead"), ("worker", ""), ("id", "1")])
    assert capsys.readouterr().out == "state  dead\nid     1\n"


def test_json_of_hostile_text_stays_json() -> None:
    text = value_text({"\x1b": "\x00\x9f\ud800"})
    assert json.loads(text) == {"\x1b": "\x00\x9f\ud800"}
