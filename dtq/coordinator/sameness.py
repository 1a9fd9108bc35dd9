"""Whether two calls have the same arguments, told from their blobs without opening them.

The coordinator never unpickles what clients send. It does not compare bytes either: equal arguments may be pickled
differently, as the order of a set changes from process to process, and as a value that occurs twice is written once
where it is the same object. So a pickle's instructions are read, and the value that they would build is described.

What cannot be described counts as the same, as nobody is to be refused a true repetition: code that travels by value, a
value that holds itself, more than `MOST` instructions.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, Final

#: Most instructions of a pickle that are read: some milliseconds' work.
MOST: Final = 20_000
_MARK: Final = object()
#: Instructions that put a value on the stack which stands in their argument, and what kind of value that is.
_VALUES: Final = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), "int"),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), "float"),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), "str"),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), "bytes"),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE"), ""),
    "BYTEARRAY8": "bytearray",
    "GLOBAL": "global",
}
#: Instructions that make one value of so many on the stack.
_MADE: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "STACK_GLOBAL": 2, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}
_EMPTY: Final = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_MARKED: Final = {"TUPLE": "tuple", "LIST": "list", "DICT": "dict", "FROZENSET": "frozenset"}


def _told(argument: Any) -> str:
    """The argument of an instruction, briefly."""
    if isinstance(argument, bytes | bytearray):
        return blake2b(argument, digest_size=16).hexdigest()
    return repr(argument)


class _Node:
    """A value: of what kind, and of which parts, in their order or in none."""

    __slots__ = ("digest", "kind", "parts")

    def __init__(self, kind: str, parts: list[_Node]) -> None:
        self.kind = kind
        self.parts = parts
        self.digest: bytes | None = None


def same_arguments(one: bytes, other: bytes, *, in_doubt: bool = True) -> bool:
    """Whether two blobs of arguments stand for equal ones, as far as that can be told.

    Args:
        one: a blob.
        other: a blob.
        in_doubt: the answer where it cannot be told.
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
    """Follows the instructions of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, _Node] = {}

    def read(self, blob: bytes) -> _Node:
        """The value that a pickle makes.

        Raises:
            ValueError: it is none, or not of those that are read here.
            IndexError: it takes what is not there.
            KeyError: the same.
        """
        import pickletools  # a coordinator in which no key comes twice does without

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
    """What stands for a value; the same for equal ones. Each is looked at once, however often it occurs."""
    if node.digest is None:
        node.digest = b""  # stands for this one while it is looked at: whoever holds itself is not described
        parts = [_digest(part) for part in node.parts]
        if not all(parts):
            raise ValueError("it holds itself")
        if node.kind in ("set", "frozenset"):
            parts.sort()
        elif node.kind == "dict":
            parts = sorted(key + value for key, value in zip(parts[::2], parts[1::2], strict=True))
        node.digest = blake2b(repr((node.kind, parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return node.digest
