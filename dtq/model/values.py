"""Values: a blob that is too large for a page lies in a segment, and a *description* stands for it in the page.

A segment is an append-only file of its writer (`dtq.values`). The writer names it by a random number, and so need not
ask anybody. A value's position identifies the value: the bytes there never change.

Unused parts of a segment may read as zeros, and no value begins with a zero: so a reader of a value's beginning knows
whether the value was still there.

A description is a blob of a page: it names values, and holds the rest of the blob. If the rest is empty, the first
value is the blob itself. The client and the slot open a description; the coordinator only reads which values it names,
so that they are kept as long as the page. No other blob (a pickle, JSON) begins with `MARK`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from dtq.errors import BadMessage
from dtq.records import dataclass

#: First byte of a description.
MARK: Final = b"\0"
#: A blob of this many bytes or more is a value.
MIN_VALUE: Final = 64 << 10
#: Most bytes of a value in one call.
CHUNK: Final = 1 << 20
#: The same if values travel by calls: smaller blobs travel faster in their pages.
MIN_CALLED: Final = 1 << 19
#: Largest result that goes into its page when values have no room, in bytes.
MOST_WITHOUT_ROOM: Final = 1 << 20
#: Most values that one description names.
MAX_VALUES: Final = 0xFFFF
#: Values begin at multiples of this, so that arrays in them are aligned; segments' numbers and sizes are below 2**63.
ALIGNMENT: Final = 64
_MOST: Final = (1 << 63) - 1
_COUNT: Final = struct.Struct("<H")
_VALUE: Final = struct.Struct("<QQQII")
_HEAD: Final = len(MARK) + _COUNT.size
#: A description of one value and nothing else, as nearly all are: mark, count, value.
ALONE: Final = struct.Struct("<cHQQQII")


@dataclass(frozen=True, slots=True)
class Value:
    """Bytes in a segment.

    Attributes:
        segment: number of the segment.
        offset: its offset in the segment's file, in bytes.
        length: its length, in bytes.
        crc: CRC-32 of its bytes; 0 if unchecked.
        trailer: length of the table at its end that divides its bytes (`values.layout`); 0 for none.
    """

    segment: int
    offset: int
    length: int
    crc: int = 0
    trailer: int = 0

    @property
    def end(self) -> int:
        """Its end in the segment's file."""
        return self.offset + self.length


def describe(values: Sequence[Value], rest: bytes = b"") -> bytes:
    """A description.

    Args:
        values: the named values, at least one and at most `MAX_VALUES`.
        rest: the blob, if none of the values is the blob.
    """
    packed = [_VALUE.pack(v.segment, v.offset, v.length, v.crc, v.trailer) for v in values]
    return b"".join((MARK, _COUNT.pack(len(values)), *packed, rest))


def is_description(blob: bytes) -> bool:
    """Whether a blob is a description."""
    return blob.startswith(MARK)


def named(blob: bytes) -> tuple[Value, ...]:
    """The values that a description names.

    Raises:
        BadMessage: the blob is no description, or cannot be true.
    """
    if not blob.startswith(MARK) or len(blob) < _HEAD:
        raise BadMessage("a description of values is cut short")
    (count,) = _COUNT.unpack_from(blob, len(MARK))
    end = _HEAD + count * _VALUE.size
    if count == 0 or len(blob) < end:
        raise BadMessage("a description of values is cut short")
    return tuple([_sound(*fields) for fields in _VALUE.iter_unpack(blob[_HEAD:end])])


def _sound(segment: int, offset: int, length: int, crc: int, trailer: int) -> Value:
    if segment > _MOST or offset + length > _MOST or offset % ALIGNMENT or trailer > length:
        raise BadMessage("a description names a value that cannot be")
    return Value(segment, offset, length, crc, trailer)


def all_alone(blobs: bytes | memoryview) -> list[Value] | None:
    """The values of descriptions, one after the other; None if one of them names several values, or has other content.

    Args:
        blobs: a multiple of `ALONE`'s size; each a description.

    Raises:
        BadMessage: one of them cannot be true.
    """
    found: list[Value] = []
    for mark, count, *fields in ALONE.iter_unpack(blobs):
        if mark != MARK or count != 1:
            return None
        found.append(_sound(*fields))
    return found


def rest(blob: bytes) -> bytes:
    """A description's content beside its named values; empty if the first value is the blob.

    Args:
        blob: a description that `named` has accepted.
    """
    (count,) = _COUNT.unpack_from(blob, len(MARK))
    return blob[_HEAD + count * _VALUE.size :]


def content(blob: bytes) -> Value | None:
    """The value that a description stands for; None if its content is in itself.

    Args:
        blob: a description.
    """
    if len(blob) == ALONE.size and blob[len(MARK)] == 1:
        return _sound(*ALONE.unpack(blob)[2:])
    return None if rest(blob) else named(blob)[0]


def weight(blob: bytes) -> int:
    """Bytes that a blob stands for: its own, and those of its value, if it is a description."""
    if not blob.startswith(MARK):
        return len(blob)
    if len(blob) == ALONE.size and blob[len(MARK)] == 1:  # with another count it is cut short
        return len(blob) + int(ALONE.unpack(blob)[4])
    value = content(blob)
    return len(blob) + (0 if value is None else value.length)
