"""Detects damage at the start of a write-ahead log.

SQLite uses a log up to the first frame with a wrong checksum. If that frame is in the middle, the pages of the last
good commit count, the head among them, and comparing it with the mark tells which commits are missing. If it is at the
very start, the log is not used at all, and if a checkpoint was under way the file holds pages of different commits, the
latest head perhaps among them. So the start is checked before SQLite opens the file; layout:
https://sqlite.org/fileformat2.html, "The WAL File Format".
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import BinaryIO, Final

_MAGIC: Final = 0x377F0682  # checksums of little-endian words; one more: of big-endian words
_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
#: Most frames of the first commit that are checked; more would take long in Python, and is 4 MB at once.
_MOST_FRAMES: Final = 1024


def damaged_start(path: str) -> bool:
    """Whether a log holds several commits, but SQLite will use none because the header or the first one is damaged.

    A log of one commit does not count: the power may have failed while it was written.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _damaged(file)
    except FileNotFoundError:
        return False


def _damaged(file: BinaryIO) -> bool:
    raw = file.read(_HEADER.size)
    if len(raw) < _HEADER.size or not any(raw):
        return False
    magic, _, page_size, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(raw)
    big = bool(magic & 1)
    if magic & ~1 != _MAGIC or _checksum(raw[:24], (0, 0), big) != (sum_1, sum_2):
        return True
    ours = [(number, frame) for number, frame in _frames(file, page_size) if frame[2:4] == (salt_1, salt_2)]
    commits = [number for number, frame in ours if frame[1]]
    if len(commits) < 2:
        return False
    return ours[0][0] != 0 or not _sound(file, page_size, big, (sum_1, sum_2), frames=commits[0] + 1)


def _frames(file: BinaryIO, page_size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    number = 0
    while len(raw := _at(file, _HEADER.size + number * (_FRAME.size + page_size), _FRAME.size)) == _FRAME.size:
        yield number, _FRAME.unpack(raw)
        number += 1


def _sound(file: BinaryIO, page_size: int, big: bool, checksum: tuple[int, int], frames: int) -> bool:
    for number in range(min(frames, _MOST_FRAMES)):
        raw = _at(file, _HEADER.size + number * (_FRAME.size + page_size), _FRAME.size + page_size)
        checksum = _checksum(raw[_FRAME.size :], _checksum(raw[:8], checksum, big), big)
        if checksum != _FRAME.unpack_from(raw)[4:6]:
            return False
    return True


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _checksum(raw: bytes, start: tuple[int, int], big: bool) -> tuple[int, int]:
    words = array("I", raw)
    if big != (sys.byteorder == "big"):
        words.byteswap()
    first, second = start
    even = iter(words)
    for one, two in zip(even, even, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
