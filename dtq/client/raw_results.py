"""The bytes of a result, for files and pipes: of a large text or bytes a piece at a time, never as a whole.

Client, beside `outcomes`. A large result is a value that holds a pickle; if that is of one text or bytes object, which
its first bytes tell, the object's own bytes lie in the value one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from dtq.client.handle import TaskHandle
from dtq.errors import ResultExpired, ValueGone
from dtq.model.values import MARK, Value, named, rest
from dtq.values.base import Values

#: Bytes of a piece.
PIECE: Final = 1 << 20
#: The pickle's opcodes of large bytes, bytearrays and texts, and how many bytes their length has.
_OPCODES: Final = {b"B": 4, b"\x8e": 8, b"\x96": 8, b"X": 4, b"\x8d": 8}
#: Length of a pickle's first two bytes, which say its protocol, and of its end behind such an object.
_HEAD: Final = 2
_TAIL: Final = len(b"\x94.")


def streamed(handle: TaskHandle[Any]) -> Iterator[bytes] | None:
    """The bytes of an ended task's result, a piece at a time; None if the result is not a large text or bytes.

    Raises:
        ResultExpired: it is no longer kept.
        DtqError: it cannot be read.
    """
    blob, values = handle._undecoded, handle._desk.values
    if blob is None or values is None or not blob.startswith(MARK) or rest(blob):
        return None
    value = named(blob)[0]
    if value.trailer:
        return None
    try:
        length = _length(value, values)
    except ValueGone:
        raise ResultExpired(handle.id) from None
    return None if length is None else _pieces(value, values, length)


def _length(value: Value, values: Values) -> int | None:
    """Bytes of the one object in a value; None if that holds another pickle."""
    with values.stream(value) as file:
        head = _exactly(file, min(value.length, _HEAD + 1))
        width = _OPCODES.get(head[_HEAD:])
        if width is None or head[:1] != b"\x80":
            return None
        length = int.from_bytes(_exactly(file, width), "little")
    return length if _HEAD + 1 + width + length + _TAIL == value.length else None


def _pieces(value: Value, values: Values, length: int) -> Iterator[bytes]:
    with values.stream(value) as file:
        _exactly(file, value.length - _TAIL - length)
        while length:
            piece = _exactly(file, min(PIECE, length))
            length -= len(piece)
            yield piece


def _exactly(file: BinaryIO, size: int) -> bytes:
    """This many bytes of a file; a raw file may give fewer at a time.

    Raises:
        EOFError: it has fewer.
    """
    parts: list[bytes] = []
    while size:
        part = file.read(size)
        if not part:
            raise EOFError("a value is shorter than its description says")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
