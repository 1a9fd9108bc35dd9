"""Reads what a pickle holds, without running any of it.

Client, for faces that show a task's arguments. A pickle is a program: to unpickle what somebody else has submitted is
to run their code. Here its instructions are followed on a stack of plain descriptions instead: containers and scalars
become what they are, anything else a `Thing` with the name of its class. Nothing is imported and nothing is called but
the constructors of a few types of the standard library, with arguments that were checked.

The pickle may be cut off, damaged or hostile. What was read up to there counts; what is missing is a `REST`. Work and
memory are bounded by the number of instructions.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, Final

from dtq.client.pickle_things import Global, Group, Thing, made

#: Stands for what was not read.
REST: Final = Thing("…")
_MARK: Final = object()
#: Instructions with a text or bytes, and the number of bytes of their length.
_TEXTS: Final = {0x8C: 1, 0x58: 4, 0x8D: 8}
_BYTES: Final = {0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8}


class _End(Exception):
    """The pickle ends here, as it should or not."""


def read_pickle(data: bytes, most: int, stand_in: Callable[[str, tuple[Any, ...]], Thing | None]) -> Any:
    """The object in a pickle: a scalar, a `Group`, or a `Thing`.

    Args:
        data: the pickle, or its first bytes.
        most: most instructions that are followed.
        stand_in: describes an object of dtq's own by the name of its constructor and the arguments; None for any other.
    """
    reader = _Reader(stand_in)
    file = io.BytesIO(data)
    instructions = pickletools.genops(file)
    for _ in range(most):
        at = file.tell()
        try:
            instruction, argument, _ = next(instructions)
            reader.follow(instruction.name, argument)
        except _End:
            return reader.result()
        except Exception:  # noqa: BLE001 - whatever is wrong with it: it was damaged, or cut off here
            reader.cut(_partial(data[at:]))
            return reader.result()
    reader.cut(REST)
    return reader.result()


def _partial(data: bytes) -> Any:
    """The beginning of a text, or of bytes, that were cut off."""
    kind = data[0] if data else 0
    if kind in _TEXTS:
        return Group("text", [data[1 + _TEXTS[kind] :].decode("utf-8", "ignore")])
    if kind in _BYTES:
        return Group("bytes", [data[1 + _BYTES[kind] :]])
    return REST


class _Reader:
    """Follows instructions."""

    def __init__(self, stand_in: Callable[[str, tuple[Any, ...]], Thing | None]) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._stand_in = stand_in

    def follow(self, name: str, argument: Any) -> None:
        """Follow an instruction.

        Raises:
            _End: it was the last one.
            Exception: it makes no sense here.
        """
        if name in _SCALARS:
            self._stack.append(_SCALARS[name])
        elif name in _EMPTY:
            self._stack.append(Group(_EMPTY[name], []))
        elif name in _GROUPS:
            self._stack.append(Group(_GROUPS[name], self._from_mark()))
        elif name in _SMALL:
            count = _SMALL[name]
            self._stack[-count:] = [Group("tuple", self._stack[-count:])]
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif argument is not None:
            self._stack.append(argument)  # numbers, texts and bytes

    def _from_mark(self) -> list[Any]:
        at = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def result(self) -> Any:
        """The object on the stack."""
        return self._stack[-1] if self._stack else REST

    def cut(self, last: Any) -> None:
        """Close everything that is open.

        Args:
            last: the beginning of what came next.
        """
        self._stack.append(last)
        while _MARK in self._stack:
            items = self._from_mark()
            if items[-1:] != [REST]:
                items.append(REST)
            below = self._stack[-1] if self._stack else None
            if type(below) is Group and below.kind in ("list", "dict", "set") and not below.closed:
                below.extend(items)
            else:
                self._stack.append(Group("tuple", items))
        if len(self._stack) > 1 or (type(last) is Group and self._stack == [last]):
            items = self._stack if self._stack[-1] is REST else [*self._stack, REST]
            self._stack = [Group("tuple", items)]

    # -- steps ------------------------------------------------------------------------------------------------------

    def _on_mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _on_stop(self, _: Any) -> None:
        raise _End

    def _on_pop(self, _: Any) -> None:
        self._stack.pop()

    def _on_pop_mark(self, _: Any) -> None:
        self._from_mark()

    def _on_dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _on_one(self, _: Any) -> None:
        self._add([self._stack.pop()])

    def _on_pair(self, _: Any) -> None:
        value = self._stack.pop()
        self._add([self._stack.pop(), value])

    def _on_many(self, _: Any) -> None:
        self._add(self._from_mark())

    def _add(self, items: list[Any]) -> None:
        below = self._stack[-1]
        if type(below) is Group:
            below.extend(items)

    def _on_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _on_put(self, argument: Any) -> None:
        self._memo[int(argument)] = self._stack[-1]

    def _on_get(self, argument: Any) -> None:
        self._stack.append(self._memo[int(argument)])

    def _on_global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(Global(module, name))

    def _on_stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(Global(str(module), str(name)))

    def _on_reduce(self, _: Any) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        self._stack.append(self._made(what, arguments))

    def _on_new_with_names(self, _: Any) -> None:
        self._stack.pop()
        self._on_reduce(None)

    def _on_instance(self, argument: Any) -> None:
        arguments = self._from_mark()
        module, _, name = str(argument).partition(" ")
        self._stack.append(self._made(Global(module, name), Group("tuple", arguments)))

    def _on_object(self, _: Any) -> None:
        what, *arguments = self._from_mark()
        self._stack.append(self._made(what, Group("tuple", arguments)))

    def _on_build(self, _: Any) -> None:
        self._stack.pop()

    def _on_foreign(self, _: Any) -> None:
        self._stack.append(Thing("<object>"))

    def _on_foreign_id(self, _: Any) -> None:
        self._stack[-1] = Thing("<object>")

    def _made(self, what: Any, arguments: Any) -> Any:
        """An object by its constructor and arguments."""
        if type(what) is not Global:
            return Thing("<object>")
        plain = tuple(arguments.items) if type(arguments) is Group and arguments.kind == "tuple" else ()
        return self._stand_in(what.name, plain) or made(what, plain)


_SCALARS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final = {"EMPTY_LIST": "list", "EMPTY_TUPLE": "tuple", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_GROUPS: Final = {"LIST": "list", "TUPLE": "tuple", "DICT": "dict", "FROZENSET": "frozenset"}
_SMALL: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _nothing(_reader: _Reader, _argument: Any) -> None:
    """An instruction that changes nothing here."""


_STEPS: Final[dict[str, Callable[[_Reader, Any], None]]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "READONLY_BUFFER": _nothing,
    "MARK": _Reader._on_mark,
    "STOP": _Reader._on_stop,
    "POP": _Reader._on_pop,
    "POP_MARK": _Reader._on_pop_mark,
    "DUP": _Reader._on_dup,
    "APPEND": _Reader._on_one,
    "SETITEM": _Reader._on_pair,
    "APPENDS": _Reader._on_many,
    "SETITEMS": _Reader._on_many,
    "ADDITEMS": _Reader._on_many,
    "MEMOIZE": _Reader._on_memoize,
    "PUT": _Reader._on_put,
    "BINPUT": _Reader._on_put,
    "LONG_BINPUT": _Reader._on_put,
    "GET": _Reader._on_get,
    "BINGET": _Reader._on_get,
    "LONG_BINGET": _Reader._on_get,
    "GLOBAL": _Reader._on_global,
    "STACK_GLOBAL": _Reader._on_stack_global,
    "REDUCE": _Reader._on_reduce,
    "NEWOBJ": _Reader._on_reduce,
    "NEWOBJ_EX": _Reader._on_new_with_names,
    "INST": _Reader._on_instance,
    "OBJ": _Reader._on_object,
    "BUILD": _Reader._on_build,
    "EXT1": _Reader._on_foreign,
    "EXT2": _Reader._on_foreign,
    "EXT4": _Reader._on_foreign,
    "PERSID": _Reader._on_foreign,
    "NEXT_BUFFER": _Reader._on_foreign,
    "BINPERSID": _Reader._on_foreign_id,
}
