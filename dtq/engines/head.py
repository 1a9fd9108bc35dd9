"""The head of a store: its id, commit number, epoch and totals, written with each commit to its database and its mark
(`commit_marker`).
"""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import Final
from zlib import crc32

from dtq.core.changes import Totals
from dtq.records import dataclass

_LAYOUT: Final = struct.Struct("<4s8sQQ2qd5q")
_MAGIC: Final = b"dtqH"
_totals = attrgetter("last_batch", "last_spec", "clock", "submitted", "succeeded", "dead", "cancelled", "retries")

#: Bytes of a packed head.
HEAD_BYTES: Final = _LAYOUT.size + 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a store.

    Attributes:
        store: the store's random name, 8 bytes.
        sequence: number of the commit.
        epoch: how many times the store has been opened.
        totals: the totals row as of this commit.
    """

    store: bytes
    sequence: int
    epoch: int
    totals: Totals

    def pack(self) -> bytes:
        """As bytes, a checksum at their end."""
        payload = _LAYOUT.pack(_MAGIC, self.store, self.sequence, self.epoch, *_totals(self.totals))
        return payload + crc32(payload).to_bytes(4, "little")


def unpack(raw: object) -> Head | None:
    """The head in these bytes; None if there is none, or a damaged one."""
    if not isinstance(raw, bytes) or len(raw) != HEAD_BYTES or not raw.startswith(_MAGIC):
        return None
    if crc32(raw[:-4]).to_bytes(4, "little") != raw[-4:]:
        return None
    _, store, sequence, epoch, last_batch, last_spec, clock, *counted = _LAYOUT.unpack_from(raw)
    submitted, succeeded, dead, cancelled, retries = counted
    totals = Totals(
        last_batch=last_batch,
        last_spec=last_spec,
        clock=clock,
        submitted=submitted,
        succeeded=succeeded,
        dead=dead,
        cancelled=cancelled,
        retries=retries,
    )
    return Head(store=store, sequence=sequence, epoch=epoch, totals=totals)
