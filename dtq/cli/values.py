"""Renders results as text: every result gets a line, even one that cannot be written.

A result is foreign code: its ``repr`` may raise, and a whole number may have too many digits to be written. Such a
result must not hide the results after it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from dtq.cli.output import moment
from dtq.client.by_value import sentence
from dtq.client.commands import CommandResult
from dtq.client.payloads import is_interrupt
from dtq.model.text import printable, printable_line

#: Most digits of a written whole number: more take seconds.
_MAX_DIGITS: Final = 100_000
#: Bytes longer than this are not for people: only their beginning and their length are written.
_MOST_BYTES: Final = 1 << 20
_BEGINNING: Final = 64
#: Depth to which the unwritable parts of a result are looked for.
_DEPTH: Final = 4
#: Decimal digits of a binary digit.
_DIGITS_A_BIT: Final = 0.30103


def value_text(value: Any) -> str:
    """A result for people and pipes: JSON if it can be written as JSON, else its repr, in one line; of a command, what
    it has printed.
    """
    if isinstance(value, CommandResult):
        return printable(value.stdout.decode(errors="backslashreplace").removesuffix("\n"))
    with _long_numbers():
        try:
            text = json.dumps(value, ensure_ascii=not _writes_anything(), allow_nan=False)
        except BaseException as error:  # noqa: BLE001 - writing a result runs its own code
            _let_through(error)
            return printable_line(_shown(value, _DEPTH))
        return printable(text)


def value_json(value: Any) -> dict[str, Any]:
    """A result inside JSON: ``result`` if it can be written as JSON that Python reads again, else ``repr``."""
    if isinstance(value, CommandResult):
        return {"result": command_json(value)}
    try:
        json.dumps(value, allow_nan=False)
    except BaseException as error:  # noqa: BLE001 - as above
        _let_through(error)
        with _long_numbers():
            return {"repr": _shown(value, _DEPTH)}
    return {"result": value}


def command_json(result: CommandResult) -> dict[str, Any]:
    """How a command ended, for JSON; bytes that are no text are escaped."""
    return {
        "exit_code": result.exit_code,
        "signal": result.signal,
        "stdout": result.stdout.decode(errors="backslashreplace"),
        "stderr": result.stderr.decode(errors="backslashreplace"),
        "worker": result.worker,
        "started_at": moment(result.started_at),
        "seconds": round(result.seconds, 6),
    }


def message_of(error: BaseException) -> str:
    """An exception's message; a few words if its own code for that fails."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - the exception's own code
        _let_through(failure)
        return "(the exception's own message cannot be made)"


@contextmanager
def _long_numbers() -> Iterator[None]:
    """Write whole numbers with more digits than Python's limit."""
    limit = sys.get_int_max_str_digits()
    if limit:
        sys.set_int_max_str_digits(max(limit, _MAX_DIGITS))
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _writes_anything() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _let_through(error: BaseException) -> None:
    if is_interrupt(error):
        raise error


def _shown(value: Any, depth: int) -> str:
    """The repr; if it fails, that of the parts, and the types of those without one."""
    if isinstance(value, bytes | bytearray) and len(value) > _MOST_BYTES:
        return f"{bytes(value[:_BEGINNING])!r}... ({len(value):,} bytes)"
    try:
        return str(repr(value))
    except BaseException as error:  # noqa: BLE001 - as above
        _let_through(error)
        container = _CONTAINERS.get(type(value)) if depth else None
        if container is not None:
            return container(value, depth - 1)
        if isinstance(value, int):
            return f"<{type(value).__name__} of about {int(value.bit_length() * _DIGITS_A_BIT) + 1:,} digits>"
        return f"<{type(value).__name__} that cannot be written: {sentence(error)}>"


def _several(begin: str, end: str) -> Callable[[Any, int], str]:
    return lambda values, depth: f"{begin}{', '.join([_shown(value, depth) for value in values])}{end}"


def _mapping(value: dict[Any, Any], depth: int) -> str:
    return f"{{{', '.join([f'{_shown(k, depth)}: {_shown(v, depth)}' for k, v in value.items()])}}}"


_CONTAINERS: Final[dict[type, Callable[[Any, int], str]]] = {
    list: _several("[", "]"),
    tuple: _several("(", ")"),
    set: _several("{", "}"),
    frozenset: _several("frozenset({", "})"),
    dict: _mapping,
}
