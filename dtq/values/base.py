"""The port to values: `LocalValues` for whoever can reach the segments' files, others by calls of the service."""

from __future__ import annotations

from collections.abc import Iterable
from mmap import mmap
from pickle import PickleBuffer
from typing import BinaryIO, Protocol

from dtq.model.values import Value

#: Bytes as others hand them over, contiguous.
Buffer = bytes | bytearray | memoryview | mmap | PickleBuffer


class Draft(Protocol):
    """A value that is being written. It is finished or abandoned by whoever has begun it."""

    def write(self, data: Buffer, /) -> int:
        """Append bytes. They may be kept until `finish`, so they must not change before. The first byte of a
        value is not 0.

        Returns:
            How many bytes: all of them.

        Raises:
            TooLarge: the value gets larger than values may be.
            StoreFull: there is no room.
            DtqError: it cannot be written in another way; it can only be abandoned.
        """
        ...

    @property
    def length(self) -> int:
        """How many bytes it has so far."""
        ...

    def finish(self, trailer: bytes = b"") -> Value:
        """Append this, and end the value. It is whoever's begun it until `Values.settled`.

        Raises:
            DtqError: as for `write`.
        """
        ...

    def abandon(self) -> None:
        """What was written is not needed; also after an error."""
        ...


class Values(Protocol):
    """Writes and reads values. Any thread."""

    @property
    def least(self) -> int:
        """From how many bytes on a blob is to be a value."""
        ...

    def draft(self) -> Draft:
        """Begin a value.

        Raises:
            DtqError: it cannot be written.
        """
        ...

    def settled(self, values: Iterable[Value]) -> None:
        """Values that were written here are in the queue's hands now, or not needed any more: no longer ours."""
        ...

    def stream(self, value: Value) -> BinaryIO:
        """A value as a file to be read from its beginning, and closed; what is read behind its end is anything.

        Raises:
            ValueGone: it is no longer kept.
            DtqError: it cannot be read.
        """
        ...

    def fetch(self, value: Value) -> Buffer:
        """A value in memory of one's own, which may be written to.

        Raises:
            ValueGone: it is no longer kept.
            ValueDamaged: it is not what was written.
            DtqError: it cannot be read.
        """
        ...

    def close(self) -> None:
        """End; what is unfinished is lost. Calling it twice does no harm."""
        ...
