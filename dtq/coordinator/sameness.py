"""Compares the arguments of two calls by their blobs, without unpickling them.

The coordinator never unpickles clients' data. It does not compare bytes either: equal arguments may be pickled
differently, as the order of a set changes from process to process, and as a value that occurs twice is written once if
it is the same object. So the instructions of a pickle are read, and the value that they would build is described.

Arguments that cannot be described count as equal, because no true repetition may be refused: code that travels by
value, a value that contains itself, more than `MOST` instructions.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, Final

#: Most instructions of a pickle that are read: some milliseconds' work.
MOST: Final = 20_000
_MARK: Final = object()
#: Instructions that push their argument as a value, and the value's kind.
_VALUES: Final = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), "int"),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), "float"),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), "str"),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), "bytes"),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE"), ""),
    "BYTEARRAY8": "bytearray",
    "GLOBAL": "global",
}
#: Instructions that make one value of this many on the stack.
_MADE: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "STACK_GLOBAL": 2, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}
_EMPTY: Final = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_MARKED: Final = {"TUPLE": "tuple", "LIST": "list", "DICT": "dict", "FROZENSET": "frozenset"}


def _told(argument: Any) -> str:
    """The argument of an instruction, in short."""
    if isinstance(argument, bytes | bytearray):
        return blake2b(argument, digest_size=16).hexdigest()
    return repr(argument)


class _Node:
    """A value: its kind and its parts, in order or unordered."""

    __slots__ = ("digest", "kind", "parts")

    def __init__(self, kind: str, parts: list[_Node]) -> None:
        self.kind = kind
        self.parts = parts
        self.digest: bytes | None = None


def same_arguments(one: bytes, other: bytes, *, in_doubt: bool = True) -> bool:
    """Whether two blobs hold equal arguments, as far as that can be told.

    Args:
        one: a blob.
        other: a blob.
        in_doubt: the answer if it cannot be told.
    """
    if one == other:
        return True
    try:
        return bool(_described(one) == _described(other))
    except (ValueError, IndexError, KeyError, RecursionError):
        return in_doubt


def _described(blob: bytes) -> Any:
    if blob[:1] == b"{":
        return json.loads(blob)
    return _digest(_Reader().read(blob))


class _Reader:
    """Interprets the instructions of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, _Node] = {}

    def read(self, blob: bytes) -> _Node:
        """The value that a pickle makes.

        Raises:
            ValueError: the pickle is malformed, or uses other instructions.
            IndexError: it pops an empty stack.
            KeyError: the same.
        """
        import pickletools  # a coordinator without repeated keys does not import it

        for count, (instruction, argument, _) in enumerate(pickletools.genops(blob)):
            name = instruction.name
            if count > MOST:
                raise ValueError("too many instructions")
            if name == "STOP":
                node: _Node = self._stack.pop()
                return node
            if name in _VALUES:
                self._stack.append(_Node(f"{_VALUES[name] or name} {_told(argument)}", []))
            elif name in _MADE:
                self._make(name.rstrip("123"), _MADE[name])
            elif name in _MARKED:
                self._stack.append(_Node(_MARKED[name], self._to_mark()))
            else:
                self._step(name, argument)
        raise ValueError("it has no end")

    def _make(self, kind: str, count: int) -> None:
        parts = self._stack[-count:]
        del self._stack[-count:]
        self._stack.append(_Node(kind.lower(), parts))

    def _to_mark(self) -> list[_Node]:
        parts: list[_Node] = []
        while (part := self._stack.pop()) is not _MARK:
            parts.append(part)
        return parts[::-1]

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _EMPTY:
            stack.append(_Node(_EMPTY[name], []))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            parts = self._to_mark()
            stack[-1].parts += parts
        elif name in ("APPEND", "SETITEM"):
            count = 1 if name == "APPEND" else 2
            parts = stack[-count:]
            del stack[-count:]
            stack[-1].parts += parts
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].parts += [_Node("state", [state])]
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"{name} is not read")


def _digest(node: _Node) -> bytes:
    """The digest of a value; equal for equal ones. Each value is visited once, however often it occurs."""
    if node.digest is None:
        node.digest = b""  # stands for this node during its visit: a value that contains itself is not described
        parts = [_digest(part) for part in node.parts]
        if not all(parts):
            raise ValueError("it holds itself")
        if node.kind in ("set", "frozenset"):
            parts.sort()
        elif node.kind == "dict":
            parts = sorted(key + value for key, value in zip(parts[::2], parts[1::2], strict=True))
        node.digest = blake2b(repr((node.kind, parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return node.digest
