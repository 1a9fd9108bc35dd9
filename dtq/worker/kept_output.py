"""Keeps the beginning and the end of a stream of bytes, whatever its length.

Worker, in the slot's process.
"""

from __future__ import annotations

from dtq.wording import counted


class KeptOutput:
    """The kept part of an output.

    Args:
        most: bytes that are kept: half of them from the beginning, half from the end.
    """

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._most = most
        self._begin = bytearray()
        self._end = bytearray()
        #: Bytes of the whole output.
        self.size = 0

    def add(self, data: bytes) -> None:
        """Add what has come."""
        self.size += len(data)
        room = self._most - self._half - len(self._begin)
        self._begin += data[: max(0, room)]
        self._end += data[max(0, room) :]
        if len(self._end) > 2 * self._half + 65_536:
            del self._end[: len(self._end) - self._half]

    def kept(self, most: int | None = None) -> bytes:
        """The output; of a longer one than is kept, beginning and end with a line between.

        Args:
            most: bytes, if fewer than are kept.
        """
        most = self._most if most is None else min(most, self._most)
        begin, end, half = bytes(self._begin), bytes(self._end), most // 2
        if self.size <= most:
            return begin + end
        if not most:
            return b""
        begin = begin[: most - half]
        end = (bytes(self._begin[most - half :]) + end if self.size <= self._most else end)[-half:] if half else b""
        left_out = counted(self.size - len(begin) - len(end), "byte")
        return b"%b\n[... %b left out ...]\n%b" % (begin, left_out.encode(), end)

    def last_line(self) -> str:
        """Its last line with anything in it, in short."""
        tail = (bytes(self._end) or bytes(self._begin))[-4096:].decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines()]
        return next((line[-300:] for line in reversed(lines) if line), "")
