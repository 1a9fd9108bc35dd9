"""Layout of a pickle with buffers beside it (PEP 574) in a value.

The pickle comes first, then each buffer at a multiple of `ALIGNMENT` from the value's beginning, and last a trailer
with their positions. A pickle without buffers is a value by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from dtq.errors import ValueDamaged
from dtq.model.values import ALIGNMENT, Value
from dtq.values.base import Buffer, Draft

_RANGE: Final = struct.Struct("<QQ")


def finish(draft: Draft, buffers: Sequence[memoryview]) -> Value:
    """End a value that holds its pickle already.

    Args:
        draft: the value.
        buffers: the pickle's buffers, in its order.

    Raises:
        DtqError: see `Draft.write`.
    """
    if not buffers:
        return draft.finish()
    ranges = [_RANGE.pack(0, draft.length)]
    for buffer in buffers:
        draft.write(bytes(-draft.length % ALIGNMENT))
        ranges.append(_RANGE.pack(draft.length, buffer.nbytes))
        draft.write(buffer)
    return draft.finish(b"".join(ranges))


def divide(value: Value, whole: Buffer) -> tuple[memoryview, list[memoryview]]:
    """The pickle and the buffers of a value that has a trailer.

    Args:
        value: the value.
        whole: its bytes.

    Raises:
        ValueDamaged: the trailer cannot be true.
    """
    view = memoryview(whole)
    body = value.length - value.trailer
    if not value.trailer or value.trailer % _RANGE.size or view.nbytes != value.length:
        raise ValueDamaged(value.length, "it is not divided as it says")
    parts: list[memoryview] = []
    for start, size in _RANGE.iter_unpack(view[body:]):
        if start + size > body:
            raise ValueDamaged(value.length, "it is not divided as it says")
        parts.append(view[start : start + size])
    return parts[0], parts[1:]
