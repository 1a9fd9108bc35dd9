"""Parses calls from the command line and from files: one call, one call a line, or one JSON object a line.

Pure, except for reading the lines. Nothing here holds more than one line, so a file may be of any size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn

from dtq.config.values import parse_duration
from dtq.errors import BadInput, DtqError, InvalidValue

#: Spans of time among the terms of a line.
_SPANS: Final = frozenset({"timeout", "soft_timeout", "retry_delay", "keep_results", "delay", "expires"})
#: Terms that a line may have of its own, named as in Python.
TERMS: Final = _SPANS | {
    "priority", "max_retries", "max_crashes", "jitter", "never_retry", "queue", "limits", "resources", "slots", "tags",
    "label", "at", "key", "unique", "on_conflict",
}  # fmt: skip
_NAME: Final = r"[^\W\d]\w*"
_REFERENCE: Final = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}(?:\.{_NAME})*")


def parse_moment(text: str) -> datetime:
    """A moment, from ``2026-12-01T08:00`` (which names no zone), ``2026-12-01T08:00Z`` or ``2026-12-01T08:00+01:00``.

    Raises:
        InvalidValue: the text is not a moment.
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidValue("a moment", text[:80], "write 2026-12-01T08:00, or 2026-12-01T08:00Z for UTC") from None


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Terms of its own, beside those that all calls of a file have.
    terms: Mapping[str, Any] = MappingProxyType({})


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


def each_line(lines: Iterable[bytes], rest: Call, *, as_text: bool = False) -> Iterator[Call]:
    """One call a line: the line is the first argument, the others are the same for all calls. Empty lines are skipped.

    A line that is not UTF-8 is decoded as Python decodes such file names: it still opens the file.

    Args:
        lines: the lines.
        rest: the other arguments.
        as_text: whether a line is a text even if it is JSON.
    """
    for line in lines:
        text = line.rstrip(b"\r\n").decode(errors="surrogateescape")
        if text:
            yield Call((text if as_text else value(text), *rest.args), rest.kwargs)


def json_lines(
    lines: Iterable[bytes], source: str, check: Callable[[Mapping[str, Any]], None] = lambda terms: None
) -> Iterator[Call]:
    """One call a line, each ``{"args": [...], "kwargs": {...}}``, with terms of its own beside these (`TERMS`). Empty
    lines are skipped.

    Args:
        lines: the lines.
        source: their origin, for the sentence.
        check: called with a line's own terms, if it has any.

    Raises:
        BadInput: a line is malformed; names the line.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _json_call(line, source, number, check)


def _json_call(line: bytes, source: str, number: int, check: Callable[[Mapping[str, Any]], None]) -> Call:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(source, number, f"it is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadInput(source, number, 'it is not {"args": [...], "kwargs": {...}}')
    args, kwargs = document.pop("args", []), document.pop("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadInput(source, number, '"args" is a list and "kwargs" an object')
    unknown = document.keys() - TERMS
    if unknown:
        known = ", ".join(["args", "kwargs", *sorted(TERMS)])
        raise BadInput(source, number, f"{min(unknown)[:80]!r} is none of {known}")
    try:
        terms = {name: _term(name, found) for name, found in document.items()}
        if terms:
            check(terms)
        return Call(tuple(args), kwargs, terms)
    except DtqError as error:
        raise BadInput(source, number, str(error)) from None


def _term(name: str, found: Any) -> Any:
    """A term of a line: a span of time may be a text such as "90s", and lists are tuples."""
    if name in _SPANS and isinstance(found, str):
        return parse_duration(found)
    if name == "at" and isinstance(found, str):
        return parse_moment(found)
    return tuple(found) if isinstance(found, list) else found
