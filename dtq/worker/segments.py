"""Segments that the supervisor holds: those with results that the coordinator has not acknowledged yet.

Worker, below the supervisor. The slot that has written a result holds its segment, but may end before the result is
acknowledged. So the supervisor takes a hold of its own (flock(2)) when it hears of the result, one a segment, and
releases it with the last lease that needs it.

A slot's statement about its results is a stranger's word: opening a segment must not block, whatever file is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import Final

from dtq.errors import BadMessage
from dtq.model.values import Value
from dtq.values.place import Place

#: Most segments that are held at a time: each takes a descriptor.
MOST_HELD: Final = 512
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)


class Segments:
    """The held segments. Under the supervisor's lock."""

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}
        #: By lease, the held segments that it needs.
        self._needed: dict[int, set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._needed)

    @property
    def held(self) -> frozenset[int]:
        """The segments that are held."""
        return frozenset(self._descriptors)

    def hold(self, token: int, values: Iterable[Value], place: Place | None) -> None:
        """Hold the segments of results of a lease until `let_go`.

        Args:
            token: the lease.
            values: those of the results that are values.
            place: their place.

        Raises:
            BadMessage: the values do not exist.
        """
        for value in values:
            if place is None or value.length > place.max_value:
                raise BadMessage(f"a result of {value.length} bytes in a segment, where there can be none")
            descriptor = self._descriptors.get(value.segment)
            size = self._take(value.segment, place) if descriptor is None else os.fstat(descriptor).st_size
            if size < value.end:
                raise BadMessage("a result in a segment that is too short")
            if value.segment in self._descriptors:
                self._needed.setdefault(token, set()).add(value.segment)

    def _take(self, segment: int, place: Place) -> int:
        """Hold a segment, if a descriptor is free; its size in bytes."""
        for _ in range(2):  # it may be rewritten just now, under the same name
            try:
                descriptor = os.open(place.find(segment), _OPEN)
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    return os.stat(place.find(segment)).st_size
                raise BadMessage(f"a result in a segment that cannot be opened ({error.strerror or 'gone'})") from None
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and _lock(descriptor):
                if len(self._descriptors) < MOST_HELD:
                    self._descriptors[segment] = descriptor
                else:
                    os.close(descriptor)
                return found.st_size
            os.close(descriptor)
        raise BadMessage("a result in what is no segment, or one that is being removed")

    def let_go(self, token: int) -> None:
        """End of a lease."""
        needed = self._needed.pop(token, None)
        if needed is None:
            return
        still: set[int] = set().union(*self._needed.values())
        for segment in needed - still:
            os.close(self._descriptors.pop(segment))

    def close(self) -> None:
        """Release everything."""
        for token in list(self._needed):
            self.let_go(token)


def _lock(descriptor: int) -> bool:
    """Lock a file, unless it is about to be removed or already is."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(descriptor).st_nlink > 0
