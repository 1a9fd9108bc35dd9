"""The place of segments: directories, and the names of the files in them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from dtq.model.values import MIN_VALUE
from dtq.records import dataclass

#: Suffix of a segment's file.
SUFFIX: Final = ".values"
#: After this many bytes a writer begins another segment.
SEGMENT_BYTES: Final = 64 << 20
#: Default of the largest value, in bytes.
MAX_VALUE: Final = 1 << 30
#: Bytes that are written without another look at the disk, and the number of writers that share its free room between
#: two looks.
_LEAST_PIECE: Final = 1 << 18
#: From how many bytes on the disk is given work at once, and at most how many are written before it is.
_WORTH_BEGINNING: Final = 1 << 19
_MOST_BEFORE: Final = 4 << 20
_PAGE: Final = 4096
_WRITERS: Final = 16
#: Bytes of a block of a file, as the kernel counts them (stat(2)).
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Place:
    """Directories of segments, of this process's user alone.

    Attributes:
        paths: the directories. New segments are made in the last one, except for as many bytes as the first one is for.
        first_bytes: if there are several, approximate bytes of segments in the first one.
        least: a blob of this many bytes or more is a value here.
        checked: whether values have checksums: if they may outlast a crash of the machine.
        max_value: largest value in bytes.
        sync_from: from this many bytes on the writer of a value syncs it before handing it over, so that a commit of
            others need not wait for that; 0 for no syncs.
        copies: a directory of copies of remote values, each in a file of its own (`copy_of`); empty for none.
        spare: bytes that values leave free on the disk, for the rows of accepted tasks.
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
        """The directory for the next segment."""
        if len(self.paths) > 1 and _used(self.paths[0]) >= self.first_bytes:
            return self.paths[-1]
        return self.paths[0]

    def piece(self, file: int, size: int) -> int:
        """Number of the bytes that may be written before the next look at the disk: other processes write there, too,
        and all of them together must leave the spare room free.

        Args:
            file: the descriptor of a segment.
            size: bytes to be written.

        Raises:
            OSError: there is no room for them, as on a full disk. If the system does not report free room, the write
                finds out.
        """
        return self.piece_within(self.room(file), size)

    def room(self, file: int) -> int | None:
        """Bytes that may be written to the disk with a segment, by all processes together; None for no bound.

        Args:
            file: the descriptor of the segment.
        """
        if not self.spare:
            return None
        disk = os.fstatvfs(file)
        return disk.f_bavail * disk.f_frsize - self.spare if disk.f_blocks else None

    def piece_within(self, room: int | None, size: int) -> int:
        """As `piece`, after a look that has found this room."""
        most = min(size, _MOST_BEFORE) if self.sync_from else size
        if room is None:
            return most
        if room < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return min(most, self.share(room))

    @staticmethod
    def share(room: int) -> int:
        """Bytes that one process may write after a look that has found this room."""
        return max(_LEAST_PIECE, room // _WRITERS)

    def begin_syncing(self, file: int, begun: int, end: int) -> int:
        """Have the kernel begin to write to the disk, so that a later sync finds most of it done. Nobody waits here.

        Args:
            file: the descriptor of a segment.
            begun: where the bytes begin for which it has not begun.
            end: where they end.

        Returns:
            Where those begin now.
        """
        end -= end % _PAGE  # the part that is soon written again
        if not self.sync_from or end - begun < _WORTH_BEGINNING or not hasattr(os, "posix_fadvise"):
            return begun
        # Linux begins to write what is dirty when told that it is not needed; it drops what is clean, of which there is
        # nothing yet. The call made for this, sync_file_range, the standard library does not have.
        with suppress(OSError):
            os.posix_fadvise(file, begun, end - begun, os.POSIX_FADV_DONTNEED)
        return end

    def find(self, segment: int) -> str:
        """The path of a segment's file.

        Raises:
            FileNotFoundError: the segment does not exist.
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
    """The path of the file in a directory with a copy of one value, which exists only when complete."""
    return os.path.join(directory, f"{segment:016x}-{offset:x}.value")


def number_of(name: str) -> int | None:
    """The number of the segment whose file has this name; None if it is no segment's."""
    digits, dot, _ = name.rpartition(SUFFIX)
    if not dot or len(digits) != 16 or name != f"{digits}{SUFFIX}":
        return None
    with suppress(ValueError):
        return int(digits, 16)
    return None


def _used(directory: str) -> int:
    """Bytes of a directory's segments on the disk."""
    used = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                used += entry.stat().st_blocks * _BLOCK
    return used
