"""Parses calls from the command line and from files: one call, one call a line, or one JSON object a line.

Pure, except for reading the lines. Nothing here holds more than one line, so a file may be of any size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from dtq.errors import BadInput, InvalidValue

_NAME: Final = r"[^\W\d]\w*"
_REFERENCE: Final = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}(?:\.{_NAME})*")


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def function_name(text: str) -> str:
    """The text, if it is ``module:function``; the workers find out whether the function exists.

    Raises:
        InvalidValue: it is not.
    """
    if not _REFERENCE.fullmatch(text):
        raise InvalidValue("a function", text[:80], "write module:function, for example mymodule:work")
    return text


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def value(text: str) -> Any:
    """The value of an argument: JSON if it parses as JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def parse_call(words: Sequence[str]) -> Call:
    """Parse the words of a call: ``NAME=VALUE`` with an identifier NAME is a keyword, any other word is positional.

    Raises:
        InvalidValue: a keyword is given twice.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            args.append(value(word))
        elif name in kwargs:
            raise InvalidValue(f"the argument {name}", text[:80], "it is given twice")
        else:
            kwargs[name] = value(text)
    return Call(tuple(args), kwargs)


def each_line(lines: Iterable[bytes], rest: Call) -> Iterator[Call]:
    """One call a line: the line is the first argument, the others are the same for all calls. Empty lines are skipped.

    A line that is not UTF-8 is decoded as Python decodes such file names: it still opens the file.
    """
    for line in lines:
        text = line.rstrip(b"\r\n").decode(errors="surrogateescape")
        if text:
            yield Call((value(text), *rest.args), rest.kwargs)


def json_lines(lines: Iterable[bytes], source: str) -> Iterator[Call]:
    """One call a line, each ``{"args": [...], "kwargs": {...}}``. Empty lines are skipped.

    Args:
        lines: the lines.
        source: their origin, for the sentence.

    Raises:
        BadInput: a line is malformed; names the line.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _json_call(line, source, number)


def _json_call(line: bytes, source: str, number: int) -> Call:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(source, number, f"it is not JSON ({error})") from None
    if not isinstance(document, dict) or not document.keys() <= {"args", "kwargs"}:
        raise BadInput(source, number, 'it is not {"args": [...], "kwargs": {...}}')
    args, kwargs = document.get("args", []), document.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadInput(source, number, '"args" is a list and "kwargs" an object')
    return Call(tuple(args), kwargs)
