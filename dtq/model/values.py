"""Values: what is too large for a page lies in a segment, and a *description* stands for it where a blob would.

A segment is an append-only file of whoever writes values (`dtq.values`), named by a random number that its writer has
drawn, so that nobody has to be asked. Where a value lies says which value it is: that never changes.

What is no longer used of a segment may read as zeros, and no value begins with one: so who reads a value from its
beginning knows whether it was still there.

A description is a blob of a page: what it names, and what is left of the blob. Where nothing is left, the first value
is the blob itself. The client and the slot open it; the coordinator only reads which values it names, so that they are
kept as long as the page. What else a blob may begin with (pickles, JSON) is never `MARK`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from dtq.errors import BadMessage
from dtq.records import dataclass

#: What a description begins with.
MARK: Final = b"\0"
#: From so many bytes on a blob is a value.
MIN_VALUE: Final = 64 << 10
#: How many bytes of a value one call carries at most.
CHUNK: Final = 1 << 20
#: From so many bytes on a blob is a value where values travel by calls: what is smaller travels faster in its page.
MIN_CALLED: Final = 1 << 19
#: How many bytes a result may have to go into its page where there is no room for values.
MOST_WITHOUT_ROOM: Final = 1 << 20
#: Most values that one description names.
MAX_VALUES: Final = 0xFFFF
#: Values begin at multiples of this, so that arrays in them are aligned; segments' numbers and sizes are below 2**63.
ALIGNMENT: Final = 64
_MOST: Final = (1 << 63) - 1
_COUNT: Final = struct.Struct("<H")
_VALUE: Final = struct.Struct("<QQQII")
_HEAD: Final = len(MARK) + _COUNT.size


@dataclass(frozen=True, slots=True)
class Value:
    """Bytes in a segment.

    Attributes:
        segment: number of the segment.
        offset: where it begins in the segment's file, in bytes.
        length: how many bytes it has.
        crc: their CRC-32; 0 where they are not checked.
        trailer: how many of them, the last ones, say how the others are divided (`values.layout`); 0 for none.
    """

    segment: int
    offset: int
    length: int
    crc: int = 0
    trailer: int = 0

    @property
    def end(self) -> int:
        """Where it ends in the segment's file."""
        return self.offset + self.length


def describe(values: Sequence[Value], rest: bytes = b"") -> bytes:
    """A description.

    Args:
        values: what it names, at least one and at most `MAX_VALUES`.
        rest: the blob, where none of the values is.
    """
    packed = [_VALUE.pack(v.segment, v.offset, v.length, v.crc, v.trailer) for v in values]
    return b"".join((MARK, _COUNT.pack(len(values)), *packed, rest))


def is_description(blob: bytes) -> bool:
    """Whether a blob is one."""
    return blob.startswith(MARK)


def named(blob: bytes) -> tuple[Value, ...]:
    """The values that a description names.

    Raises:
        BadMessage: it is none, or cannot be true.
    """
    if not blob.startswith(MARK) or len(blob) < _HEAD:
        raise BadMessage("a description of values is cut short")
    (count,) = _COUNT.unpack_from(blob, len(MARK))
    end = _HEAD + count * _VALUE.size
    if count == 0 or len(blob) < end:
        raise BadMessage("a description of values is cut short")
    values = tuple(Value(*fields) for fields in _VALUE.iter_unpack(blob[_HEAD:end]))
    for value in values:
        if value.segment > _MOST or value.end > _MOST or value.offset % ALIGNMENT or value.trailer > value.length:
            raise BadMessage("a description names a value that cannot be")
    return values


def rest(blob: bytes) -> bytes:
    """What a description has beside the values that it names; empty where the first one is the blob.

    Args:
        blob: a description that `named` has taken.
    """
    (count,) = _COUNT.unpack_from(blob, len(MARK))
    return blob[_HEAD + count * _VALUE.size :]


def content(blob: bytes) -> Value | None:
    """The value that a description stands for; None where what it stands for is in itself.

    Args:
        blob: a description.
    """
    return None if rest(blob) else named(blob)[0]


def weight(blob: bytes) -> int:
    """How many bytes a blob stands for: its own, and those of the value that it stands for, if it is a description."""
    if not blob.startswith(MARK):
        return len(blob)
    value = content(blob)
    return len(blob) + (0 if value is None else value.length)
