"""The kept output of an attempt of a task: its first and its last bytes, and how many are left out between.

Output is bytes: what a task prints need not be text. Offsets count all bytes that the attempt has printed, so that
somebody who follows it goes on where he was, whatever is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from dtq.model import fields
from dtq.records import dataclass, replace

#: Most bytes kept of an attempt: the largest value of `--keep-output`.
MAX_KEPT: Final = fields.MAX_OUTPUT
#: Bytes kept of an attempt if nothing else was said.
USUAL_KEPT: Final = 64 << 10
#: Approximate bytes of an item beside its content.
OVERHEAD: Final = 64
# Index in its page, bytes of the head, bytes left out, bytes of the tail.
_ITEM: Final = struct.Struct("<IIQI")
#: Most bytes left out to begin or end with a whole line.
_LINE: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """The output of one attempt of a task.

    Attributes:
        index: the task's index in its batch.
        head: its first bytes, all of them if nothing is left out.
        left_out: number of bytes that are left out behind them.
        tail: its last bytes.
    """

    index: fields.Index
    head: fields.Output
    left_out: fields.Count = 0
    tail: fields.Output = b""

    @property
    def kept(self) -> int:
        """Number of kept bytes."""
        return len(self.head) + len(self.tail)

    @property
    def size(self) -> int:
        """Number of printed bytes."""
        return len(self.head) + self.left_out + len(self.tail)

    def since(self, offset: int, room: int) -> tuple[int, bytes]:
        """The kept bytes from an offset on, up to the next gap.

        Args:
            offset: the offset.
            room: bytes at most.

        Returns:
            The offset of the first one, and the bytes; none at the end.
        """
        if offset < len(self.head):
            return offset, self.head[offset : offset + room]
        tail = self.size - len(self.tail)
        offset = max(offset, tail)
        return offset, self.tail[offset - tail : offset - tail + room]


def cut(printed: Printed, room: int) -> Printed:
    """The output with at most this many bytes kept: the same if it has no more."""
    if printed.kept <= room:
        return printed
    first = min(len(printed.head), max(0, room) // 2)
    last = max(0, room) - first
    rest = printed.tail or printed.head[first:]
    tail = rest[max(0, len(rest) - last) :]
    head = printed.head[:first]
    return replace(printed, head=head, left_out=printed.size - len(head) - len(tail), tail=tail)


def whole_lines(printed: Printed) -> Printed:
    """The output with the gap moved to ends of lines, if these are near, else to ends of characters."""
    if not printed.left_out:
        return printed
    end = printed.head.rfind(b"\n", max(0, len(printed.head) - _LINE)) + 1 or _last_whole(printed.head)
    begin = printed.tail.find(b"\n", 0, _LINE) + 1 or _first_whole(printed.tail)
    head, tail = printed.head[:end], printed.tail[begin:]
    return replace(printed, head=head, left_out=printed.size - len(head) - len(tail), tail=tail)


def _last_whole(head: bytes) -> int:
    """The end of the last whole character, if the bytes are UTF-8."""
    for at in range(len(head) - 1, max(-1, len(head) - 4), -1):
        if head[at] >= 0xC0:
            size = 2 if head[at] < 0xE0 else 3 if head[at] < 0xF0 else 4
            return at if at + size > len(head) else len(head)
        if head[at] < 0x80:
            break
    return len(head)


def _first_whole(tail: bytes) -> int:
    """The begin of the first whole character, likewise."""
    return next((at for at in range(min(4, len(tail))) if tail[at] & 0xC0 != 0x80), 0)


def last_lines(printed: Printed, most: int) -> str:
    """The end of the output as text, at most this many bytes of it; whole lines if possible."""
    data = printed.tail if printed.left_out else printed.head + printed.tail
    if len(data) > most:
        _, newline, rest = data[-most - 1 :].partition(b"\n")  # a byte more: it may be the end of a line
        data = rest if newline and rest else data[-most:]
    return data.decode("utf-8", "replace")


def weight(several: Sequence[Printed]) -> int:
    """Approximate bytes of some items in a message, rather too many."""
    return sum([printed.kept + OVERHEAD for printed in several]) if several else 0


def within(several: Iterable[Printed], lo: int, hi: int) -> tuple[Printed, ...]:
    """The items of tasks ``[lo, hi)``, the first one of each, in rising order."""
    found = {printed.index: printed for printed in several if lo <= printed.index < hi}
    return tuple([found[index] for index in sorted(found)])


def pack(several: Iterable[Printed], lo: int) -> bytes:
    """A page of output.

    Args:
        several: the items, in rising order.
        lo: index of the page's first task.
    """
    parts: list[bytes] = []
    for item in several:
        parts += (_ITEM.pack(item.index - lo, len(item.head), item.left_out, len(item.tail)), item.head, item.tail)
    return b"".join(parts)


def unpack(data: bytes, lo: int) -> list[Printed]:
    """The items of a page of output.

    Args:
        data: the page, as `pack` made it.
        lo: index of its first task.
    """
    found: list[Printed] = []
    at = 0
    while at < len(data):
        index, head, left_out, tail = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        middle, end = at + head, at + head + tail
        found.append(Printed(index=lo + index, head=data[at:middle], left_out=left_out, tail=data[middle:end]))
        at = end
    return found
