"""The arguments of a task as a line for people.

Client, for commands and other faces. Nothing of what a submitter has sent is run (`pickle_reading`), and no large value
is fetched: of what is not shown, the size is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from dtq.client.pickle_reading import REST, read_pickle
from dtq.client.pickle_things import Group, Thing
from dtq.config.values import format_size
from dtq.errors import BadMessage
from dtq.model.inputs import ELEMENTS, elements_of
from dtq.model.options import FunctionKind
from dtq.model.snapshots import TaskArguments
from dtq.model.text import printable_line
from dtq.model.values import MARK, content, named, rest
from dtq.records import dataclass

#: Most instructions of a pickle that are followed.
_INSTRUCTIONS: Final = 20_000
#: Deepest groups that are shown.
_DEEPEST: Final = 12
#: Bits of the largest number that is shown.
_BITS: Final = 256
#: The line in front of a pickle with code in it (`by_value.THIS_PYTHON`).
_PYTHON: Final = re.compile(rb"\d{1,2}\.\d{1,3}\n")
_BRACKETS: Final = {
    "tuple": ("(", ")"),
    "list": ("[", "]"),
    "dict": ("{", "}"),
    "set": ("{", "}"),
    "frozenset": ("frozenset({", "})"),
}


@dataclass(frozen=True, slots=True)
class ArgumentText:
    """The arguments of a task, in a line.

    Attributes:
        text: as in a call, without the parentheses: ``'a.jpg', size=64``.
        shortened: whether a part of them is not shown.
    """

    text: str
    shortened: bool


def argument_text(found: TaskArguments, kind: FunctionKind, most: int) -> ArgumentText | None:
    """The arguments of a task as a line; None if they are no longer kept.

    Args:
        found: the arguments.
        kind: how the task's function travels.
        most: most characters of the line.
    """
    if not found.kept:
        return None
    line = _Line(most)
    try:
        _write(line, found, kind)
    except _Full:
        pass
    except Exception:  # noqa: BLE001 - whatever is wrong with it: a submitter can send any bytes
        return ArgumentText(f"<{format_size(found.size)} that cannot be read>", True)
    return ArgumentText(line.text, line.shortened)


class _Full(Exception):
    """The line has no room left."""


class _Line:
    """Gathers a line.

    Args:
        most: most characters.
    """

    def __init__(self, most: int) -> None:
        self._most = self.left = most
        self.text = ""
        self.shortened = False

    def add(self, text: str) -> None:
        """Add a text.

        Raises:
            _Full: it does not fit.
        """
        text = printable_line(text)
        if len(text) > self.left:
            self.text = f"{(self.text + text)[: self._most - 1]}…"
            self.shortened = True
            self.left = 0
            raise _Full
        self.text += text
        self.left -= len(text)

    def rest(self) -> None:
        """Add that something is not shown."""
        self.shortened = True
        self.add("…")


def _write(line: _Line, found: TaskArguments, kind: FunctionKind) -> None:
    blob = found.blob
    if blob.startswith(MARK):
        opened = _opened(line, found)
        if opened is None:
            return
        blob = opened
    if blob.startswith(ELEMENTS):
        _write_items(line, [_result(found.given, place) for place in range(len(elements_of(blob)))])
    elif kind is FunctionKind.REGISTERED:
        _write_json(line, blob)
    else:
        _write_pickle(line, blob, found.given)


def _opened(line: _Line, found: TaskArguments) -> bytes | None:
    """The content of a description; None if it is a value, which has been shown."""
    blob = found.blob
    try:
        value = content(blob)
        sizes = named(blob)
    except BadMessage:  # it was cut off within the names of its values
        line.shortened = True
        line.add(f"<{format_size(found.size)} of arguments>")
        return None
    if value is None and len(blob) < found.size and not rest(blob):
        value = sizes[0]
    if value is None:
        return rest(blob)
    line.shortened = True
    line.add(f"<{format_size(value.length)} value>")
    return None


# -- pickles ----------------------------------------------------------------------------------------------------------


def _write_pickle(line: _Line, blob: bytes, given: Sequence[str]) -> None:
    python = _PYTHON.match(blob)
    call = read_pickle(blob[python.end() if python else 0 :], _INSTRUCTIONS, partial(_stand_in, given))
    arguments, names = _parts(call)
    pieces = len(arguments)
    for place, argument in enumerate(arguments):
        _show(line, argument, 0)
        if place + 1 < pieces or names:
            line.add(", ")
    for place in range(0, len(names), 2):
        name = names[place]
        if name is REST:
            line.rest()
            return
        line.add(f"{name if isinstance(name, str) and name.isidentifier() else '<name>'}=")
        _show(line, names[place + 1] if place + 1 < len(names) else REST, 0)
        if place + 2 < len(names):
            line.add(", ")


def _parts(call: Any) -> tuple[list[Any], list[Any]]:
    """The positional arguments of a call, and its keyword arguments: names and values in turns."""
    if type(call) is not Group:
        return [call], []
    if call.kind == "list" and call.items and type(call.items[0]) is Group and call.items[0].kind == "tuple":
        arguments, *others = call.items
        names = others[0].items if others and type(others[0]) is Group and others[0].kind == "dict" else others
        return arguments.items, names
    return call.items, []


def _stand_in(given: Sequence[str], name: str, arguments: tuple[Any, ...]) -> Thing | None:
    """The words for an object of dtq's own in a call."""
    if name == "dtq.client.parents.input_of":
        return _result(given, *arguments[:1], *arguments[2:3])
    if name in ("dtq.client.references.value_of", "dtq.client.references.Reference"):
        return _reference(*arguments[:1])
    return None


def _result(given: Sequence[str], place: Any = None, task: Any = "") -> Thing:
    if type(place) is int and 0 <= place < len(given):
        return Thing(f"<{given[place]}>")
    return Thing(f"<result of {task}>" if isinstance(task, str) and task else "<result of another task>")


def _reference(description: Any = None) -> Thing:
    try:
        size = sum(value.length for value in dict.fromkeys(named(description)))
    except (BadMessage, TypeError, AttributeError):
        return Thing("<reference>")
    return Thing(f"<reference, {format_size(size)}>")


def _show(line: _Line, value: Any, depth: int) -> None:
    """Write an argument, or a part of one."""
    kind = type(value)
    if value is REST or depth > _DEEPEST:
        line.rest()
    elif kind is Group:
        _show_group(line, value, depth)
    elif kind is str or kind is bytes:
        _show_text(line, value, cut=False)
    elif kind is bytearray:
        line.add("bytearray(")
        _show_text(line, bytes(value), cut=False)
        line.add(")")
    elif kind is int and value.bit_length() > _BITS:
        line.shortened = True
        line.add(f"<int of {value.bit_length():,} bits>")
    elif isinstance(value, Thing):
        line.add(value.text)
    else:
        line.add(repr(value))


def _show_text(line: _Line, value: str | bytes, *, cut: bool) -> None:
    room = max(1, line.left)
    text = repr(value[:room])
    if cut or len(value) > room or len(text) > room:
        line.shortened = True
        line.add(f"{text[: max(1, room - 2)].rstrip(text[-1]) if len(text) > room else text[:-1]}…{text[-1]}")
    else:
        line.add(text)


def _show_group(line: _Line, group: Group, depth: int) -> None:
    if group.kind in ("text", "bytes"):
        _show_text(line, group.items[0], cut=True)
        return
    if group.kind == "set" and not group.items:
        line.add("set()")
        return
    begin, end = _BRACKETS[group.kind]
    line.add(begin)
    for place, item in enumerate(group.items):
        between = (": " if place % 2 else ", ") if group.kind == "dict" and item is not REST else ", "
        if place:
            line.add(between)
        _show(line, item, depth + 1)
    line.add(f",{end}" if group.kind == "tuple" and len(group.items) == 1 else end)


def _write_items(line: _Line, items: Sequence[Any]) -> None:
    for place, item in enumerate(items):
        if place:
            line.add(", ")
        _show(line, item, 0)


# -- JSON -------------------------------------------------------------------------------------------------------------


def _write_json(line: _Line, blob: bytes) -> None:
    try:
        call = json.loads(blob)
        arguments, names = list(call["args"]), dict(call["kwargs"])
    except (ValueError, RecursionError, TypeError, KeyError):  # cut off, or not what dtq's clients send
        line.shortened = True
        line.add(blob.decode("utf-8", "replace").removeprefix('{"args":['))
        return
    pieces = [json.dumps(argument, ensure_ascii=False) for argument in arguments]
    pieces += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in names.items()]
    line.add(", ".join(pieces))
