"""The port to values: `LocalValues` for processes with access to the segments' files, `WireValues` for others, by calls
of the service.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from mmap import mmap
from pickle import PickleBuffer
from typing import BinaryIO, Protocol

from dtq.errors import ValueDamaged
from dtq.model.values import Value
from dtq.records import dataclass

#: Bytes in a caller's object, contiguous.
Buffer = bytes | bytearray | memoryview | mmap | PickleBuffer


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file, to be sent.

    Attributes:
        descriptor: the file's; it stays open until they are sent.
        offset: offset of the first.
        size: their number.
    """

    descriptor: int
    offset: int
    size: int

    @property
    def whole(self) -> bool:
        """Whether the file is long enough."""
        return os.fstat(self.descriptor).st_size >= self.offset + self.size

    def read(self) -> bytes:
        """The bytes.

        Raises:
            ValueDamaged: the file is too short.
        """
        data = os.pread(self.descriptor, self.size, self.offset)
        if len(data) < self.size:
            raise ValueDamaged(self.size, "its segment is too short")
        return data


#: Bytes to be sent: in memory, possibly in parts, or in a file.
Content = Sequence[memoryview] | FileRange


def size_of(content: Content) -> int:
    """Number of the bytes to be sent."""
    return content.size if isinstance(content, FileRange) else sum(part.nbytes for part in content)


class Draft(Protocol):
    """A value that is being written. The thread that has begun it finishes or abandons it."""

    def write(self, data: Buffer, /) -> int:
        """Append bytes. They may be kept until `finish`, so they must not change before. The first byte of a value is
        not 0.

        Returns:
            The number of bytes: all of them.

        Raises:
            TooLarge: the value becomes larger than values may be.
            StoreFull: there is no room.
            DtqError: another failure; the draft can only be abandoned.
        """
        ...

    @property
    def length(self) -> int:
        """Its length so far, in bytes."""
        ...

    def finish(self, trailer: bytes = b"") -> Value:
        """Append this, and end the value. It belongs to its writer until `Values.settled`.

        Raises:
            DtqError: as for `write`.
        """
        ...

    def abandon(self) -> None:
        """Drop the written bytes; also after an error."""
        ...


class Values(Protocol):
    """Writes and reads values. Any thread."""

    @property
    def least(self) -> int:
        """A blob of this many bytes or more becomes a value."""
        ...

    def draft(self) -> Draft:
        """Begin a value.

        Raises:
            DtqError: it cannot be written.
        """
        ...

    def settled(self, values: Iterable[Value]) -> None:
        """Note that values that were written here belong to the queue now, or are not needed any more."""
        ...

    def stream(self, value: Value) -> BinaryIO:
        """A value as a file to be read from its beginning, and closed; bytes behind its end are undefined.

        Raises:
            ValueGone: the value is no longer kept.
            DtqError: it cannot be read.
        """
        ...

    def fetch(self, value: Value) -> Buffer:
        """A value in private memory, which may be written to.

        Raises:
            ValueGone: the value is no longer kept.
            ValueDamaged: the value has changed since it was written.
            DtqError: the value cannot be read.
        """
        ...

    def close(self) -> None:
        """End; unfinished values are lost. Calling it twice does no harm."""
        ...
