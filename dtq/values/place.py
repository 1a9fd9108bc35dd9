"""Where segments lie: directories, and the names of the files in them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from dtq.model.values import MIN_VALUE
from dtq.records import dataclass

#: What the name of a segment's file ends with.
SUFFIX: Final = ".values"
#: After so many bytes a writer begins another segment.
SEGMENT_BYTES: Final = 64 << 20
#: Largest value in bytes, where nothing else is said.
MAX_VALUE: Final = 1 << 30
#: Bytes that are written without another look at the disk, and how many writers share what is free on it before it is
#: looked at again.
_LEAST_PIECE: Final = 1 << 18
_WRITERS: Final = 16
#: How many bytes a block of a file has, as the kernel counts them (stat(2)).
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Place:
    """Directories of segments, of this process's user alone.

    Attributes:
        paths: the directories. New segments are made in the last one, but for as many bytes as the first one is for.
        first_bytes: how many bytes of segments the first one is for, about, where there are several.
        least: from how many bytes on what is written here is a value.
        checked: whether values are written with their checksums: where they may outlast a crash of the machine.
        max_value: largest value in bytes.
        sync_from: from how many bytes on values are synced by whoever writes them, before they are handed over, so
            that a commit of others need not wait for that; 0 where nothing is synced.
        copies: a directory of values that lie elsewhere, each in a file of its own (`copy_of`); empty for none.
        spare: how many bytes values leave free on the disk, for the rows of what was accepted.
    """

    paths: tuple[str, ...]
    first_bytes: int = 0
    checked: bool = True
    least: int = MIN_VALUE
    max_value: int = MAX_VALUE
    sync_from: int = 0
    copies: str = ""
    spare: int = 0

    def directory(self) -> str:
        """Where the next segment goes."""
        if len(self.paths) > 1 and _used(self.paths[0]) >= self.first_bytes:
            return self.paths[-1]
        return self.paths[0]

    def piece(self, file: int, size: int) -> int:
        """How much of what is to be written may be written before the next look at the disk: others write there, too,
        and all of them together are to leave free what is to be left.

        Args:
            file: the descriptor of a segment.
            size: how many bytes are to be written.

        Raises:
            OSError: there is no room for them, as on a full disk. Where nobody says what is free, writing finds out.
        """
        if not self.spare:
            return size
        disk = os.fstatvfs(file)
        if not disk.f_blocks:
            return size
        room = disk.f_bavail * disk.f_frsize - self.spare
        if room < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return max(_LEAST_PIECE, room // _WRITERS)

    def find(self, segment: int) -> str:
        """The path of a segment's file.

        Raises:
            FileNotFoundError: there is none.
        """
        for directory in self.paths:
            path = path_of(directory, segment)
            if os.path.exists(path):
                return path
        raise FileNotFoundError(segment)

    def segments(self) -> dict[int, str]:
        """The paths of all segments' files, by number."""
        found: dict[int, str] = {}
        for directory in self.paths:
            with suppress(FileNotFoundError):
                for name in os.listdir(directory):
                    if (number := number_of(name)) is not None:
                        found[number] = os.path.join(directory, name)
        return found


def path_of(directory: str, segment: int) -> str:
    """The path of a segment's file in a directory."""
    return os.path.join(directory, f"{segment:016x}{SUFFIX}")


def copy_of(directory: str, segment: int, offset: int) -> str:
    """The path of the file in a directory that has a copy of one value, and is there only when it is whole."""
    return os.path.join(directory, f"{segment:016x}-{offset:x}.value")


def number_of(name: str) -> int | None:
    """The number of the segment whose file has this name; None where it is no segment's."""
    digits, dot, _ = name.rpartition(SUFFIX)
    if not dot or len(digits) != 16 or name != f"{digits}{SUFFIX}":
        return None
    with suppress(ValueError):
        return int(digits, 16)
    return None


def _used(directory: str) -> int:
    """How many bytes the segments in a directory have on their disk."""
    used = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                used += entry.stat().st_blocks * _BLOCK
    return used
