"""Marks what a task prints with the task, in the pipe that the slot shares with everything it starts.

Worker, in the slot's process, and the supervisor's `output`, which reads the marks. Standard output and error of Python
code write a *mark* in front of their bytes: the serial of the running task, and the number of bytes that follow. So
output is the right task's, however late the supervisor reads it. Bytes without a mark (of a C library, of a process
that the task has started) belong to the task that runs when they are read.

A mark is written only into the pipe that this process was started with: a task may have put a file in its place.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mmap import mmap

#: Begins a mark. No text has these bytes, and few files.
MAGIC: Final = b"\x00\xf5dtq\xfe"
#: A mark: serial, and bytes that follow.
MARK: Final = struct.Struct("=6sqI")
#: Most bytes behind one mark.
_MOST: Final = 1 << 30


class MarkedStream(io.FileIO):
    """The lowest layer of a standard stream.

    Args:
        descriptor: of the stream.
        serial: returns the serial of the task that has started last.
        own: its first byte is 1 in the slot's own process, see `forks.own_page`.
    """

    def __init__(self, descriptor: int, serial: Callable[[], int], own: mmap) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._descriptor = descriptor
        self._serial = serial
        self._own = own
        self._pipe = _identity(descriptor)
        #: Bytes that belong to the last mark, and were not written with it.
        self._left = 0

    def write(self, data: Any) -> int | None:  # type: ignore[override]  # a buffer, whatever typeshed calls it
        """Write a mark and the bytes behind it; see `io.RawIOBase.write`."""
        if not self._own[0] or _identity(self._descriptor) != self._pipe:
            return super().write(data)
        view = memoryview(data).cast("B")
        if self._left:  # of a write that a signal has interrupted
            done = super().write(view[: self._left])
            self._left -= done or 0
            return done
        view = view[:_MOST]
        mark = MARK.pack(MAGIC, self._serial(), len(view))
        try:
            done = os.writev(self._descriptor, (mark, view))
        except BlockingIOError:
            return None
        while done < len(mark):
            done += os.write(self._descriptor, mark[done:])
        done -= len(mark)
        self._left = len(view) - done
        return done


def mark_streams(serial: Callable[[], int], own: mmap) -> None:
    """Have standard output and error of this process marked, as far as both are the pipe to the supervisor."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with suppress(OSError, ValueError):
            if isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor:
                stream.flush()
                marked = io.TextIOWrapper(
                    io.BufferedWriter(MarkedStream(descriptor, serial, own)),
                    encoding=stream.encoding,
                    errors=stream.errors,
                    line_buffering=True,
                )
                setattr(sys, name, marked)
                setattr(sys, f"__{name}__", marked)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


class Marks:
    """Divides what comes out of the pipe among tasks."""

    def __init__(self) -> None:
        #: The task of the last mark, and the bytes of it that are still to come.
        self._serial, self._left = -1, 0
        #: The beginning of a mark whose rest has not arrived.
        self._begun = b""

    def divided(self, data: bytes, running: int, most: int) -> list[tuple[int, bytes]]:
        """The pieces of some bytes, each with the serial of its task; one for what one task has printed in a row.

        Args:
            data: the bytes that have arrived.
            running: serial of the task that has started last, which unmarked bytes are ascribed to.
            most: the highest serial that a mark can have: others are a task's own invention.
        """
        data, self._begun = self._begun + data, b""
        pieces: list[tuple[int, bytes]] = []
        parts: list[bytes] = []
        of = running
        at = 0
        while True:
            found = data.find(MAGIC, at)
            end = _unfinished(data, at) if found < 0 else found
            while at < end:
                serial, upto = (self._serial, min(end, at + self._left)) if self._left else (running, end)
                if self._left:
                    self._left -= upto - at
                if serial != of and parts:
                    pieces.append((of, b"".join(parts)))
                    parts = []
                of = serial
                parts.append(data[at:upto])
                at = upto
            if found < 0 or len(data) - found < MARK.size:
                self._begun = data[end:]
                break
            _, serial, self._left = MARK.unpack_from(data, found)
            self._serial = serial if self._serial <= serial <= most else running
            at = found + MARK.size
        if parts:
            pieces.append((of, b"".join(parts)))
        return pieces

    def rest(self) -> bytes:
        """The bytes that may have begun a mark, and have not: nothing has followed them."""
        if len(self._begun) >= len(MAGIC):
            return b""
        rest, self._begun = self._begun, b""
        return rest


def _unfinished(data: bytes, first: int) -> int:
    """Where the end of some bytes, from the first one on, may begin a mark; their end if it does not."""
    at = data.rfind(MAGIC[:1], max(first, len(data) - len(MAGIC) + 1))
    return at if at >= 0 and MAGIC.startswith(data[at:]) else len(data)
