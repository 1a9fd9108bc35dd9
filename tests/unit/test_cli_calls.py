"""Calls from words and lines: JSON where it is JSON, text where it is not, and a sentence where it is neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dtq.cli.calls import Call, each_line, function_name, json_lines, parse_call, value
from dtq.errors import BadInput, InvalidValue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", 20),
        ("2.5", 2.5),
        ("true", True),
        ("null", None),
        ('"20"', "20"),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ("a.jpg", "a.jpg"),
        ("", ""),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("01", "01"),
        ("[" * 100_000, "[" * 100_000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_value_is_json_if_it_parses_else_the_text(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_parse_call_tells_keywords_from_positions() -> None:
    # Given words of which two have a name before their equals sign
    words = ["a.jpg", "size=128", "name=big", "http://x/?a=b", '"k=v"', "1=2", "=x", "flag=", "ünicode=1"]
    # Then only those whose name is an identifier are keywords
    assert parse_call(words) == Call(
        ("a.jpg", "http://x/?a=b", "k=v", "1=2", "=x"), {"size": 128, "name": "big", "flag": "", "ünicode": 1}
    )


def test_parse_call_refuses_a_keyword_twice() -> None:
    with pytest.raises(InvalidValue, match=r"^the argument size cannot be '2': it is given twice\.$"):
        parse_call(["size=1", "size=2"])


@pytest.mark.parametrize("text", ["math:factorial", "a.b_c:D.e", "módulo:función", "m2:_f"])
def test_function_name_takes_module_and_function(text: str) -> None:
    assert function_name(text) == text


@pytest.mark.parametrize(
    "text", ["", "math", "math.factorial", ":f", "m:", "m:f:g", "m:<lambda>", "a b:c", "m.:f", "m:f()", "2m:f", "m:f\n"]
)
def test_function_name_refuses_anything_else(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"a function cannot be .*: write module:function"):
        function_name(text)


def test_each_line_is_the_first_argument() -> None:
    lines = [b"a.jpg\n", b"7\r\n", b"\n", b"two words\n", b"caf\xe9.txt\n", b"last"]
    calls = list(each_line(lines, Call((1,), {"size": 2})))
    assert [call.args for call in calls] == [
        ("a.jpg", 1),
        (7, 1),
        ("two words", 1),
        ("caf\udce9.txt", 1),
        ("last", 1),
    ]
    assert all(call.kwargs == {"size": 2} for call in calls)


def test_each_line_reads_no_further_than_it_is_asked() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x\n"

    calls = each_line(endless(), Call((), {}))
    assert [next(calls).args for _ in range(3)] == [("x",)] * 3


def test_each_line_may_stay_text() -> None:
    assert [call.args for call in each_line([b"7\n", b'{"a": 1}\n'], Call((1,), {}), as_text=True)] == [
        ("7", 1),
        ('{"a": 1}', 1),
    ]


def test_json_lines_reads_terms_of_a_line() -> None:
    checked: list[Mapping[str, Any]] = []
    lines = [b'{"args": [1], "priority": 2, "timeout": "90s", "limits": ["a"], "key": "x"}', b'{"args": [2]}']
    calls = list(json_lines(lines, "calls.jsonl", checked.append))
    assert calls[0].args == (1,)
    assert calls[0].terms == {"priority": 2, "timeout": 90.0, "limits": ("a",), "key": "x"}
    assert calls[1].terms == {}
    assert checked == [calls[0].terms]


def test_json_lines_reads_args_and_kwargs() -> None:
    lines = [b'{"args": [1, "a"], "kwargs": {"k": null}}\n', b" \n", b'{"args": [2]}\n', b"{}"]
    assert list(json_lines(lines, "f")) == [Call((1, "a"), {"k": None}), Call((2,), {}), Call((), {})]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"nonsense", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1]", 'it is not {"args": '),
        (b'{"arg": [1]}', "'arg' is none of args, kwargs, at, "),
        (b'{"timeout": "soon"}', "'soon'"),
        (b'{"at": "soon"}', "'soon'"),
        (b'{"args": 1}', '"args" is a list'),
        (b'{"kwargs": []}', '"kwargs" an object'),
    ],
)
def test_json_lines_names_the_line_that_is_wrong(line: bytes, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        list(json_lines([b"{}\n", b"\n", line], "calls.jsonl"))
    assert str(caught.value).startswith("calls.jsonl, line 3: ")
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 65
