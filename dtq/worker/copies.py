"""Copies of values that lie at the coordinator, on a worker's own disk: those of the arguments of its tasks.

Worker, where it is on another machine than its coordinator. Each value has a file of its own (`place.copy_of`), which
is there only when it is whole, so that a slot finds the value or does not. What no lease needs goes when there is too
much, that which was needed longest ago first. A slot that has mapped a file keeps what is in it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from dtq.model.values import Value
from dtq.values.place import copy_of

#: What the name of a file ends with that is not whole.
PART: Final = ".part"

#: Which value it is: segment and offset.
Key = tuple[int, int]


def key_of(value: Value) -> Key:
    """Which value it is."""
    return value.segment, value.offset


class Copies:
    """What is there. Under the supervisor's lock, but for what is in the files.

    Args:
        directory: the directory.
        most: how many bytes there may be, if leases do not need more.
    """

    def __init__(self, directory: str, most: int) -> None:
        self.directory = directory
        self._most = most
        #: How many bytes each has, the one that was needed longest ago first.
        self._whole: OrderedDict[Key, int] = OrderedDict()
        self.size = 0
        #: What each lease needs, and how many need it.
        self._leases: dict[int, list[Key]] = {}
        self._needed: dict[Key, int] = {}
        #: Files to be removed, see `sweep`.
        self._doomed: list[str] = []

    def need(self, token: int, values: Sequence[Value]) -> list[Value]:
        """A lease needs values until `let_go`; those of them that are not there."""
        values = list({key_of(value): value for value in values}.values())
        self._leases[token] = [key_of(value) for value in values]
        for key in self._leases[token]:
            self._needed[key] = self._needed.get(key, 0) + 1
            if key in self._whole:
                self._whole.move_to_end(key)
        return [value for value in values if key_of(value) not in self._whole]

    def let_go(self, token: int) -> bool:
        """A lease is over; whether it needed anything."""
        keys = self._leases.pop(token, None)
        if keys is None:
            return False
        for key in keys:
            self._needed[key] -= 1
            if not self._needed[key]:
                del self._needed[key]
        self.make_room(0)
        return True

    def is_needed(self, value: Value) -> bool:
        """Whether a lease needs a value."""
        return key_of(value) in self._needed

    def make_room(self, size: int, most: int | None = None) -> None:
        """Remove what nobody needs.

        Args:
            size: how many bytes are to come.
            most: how many there may be then; None for what the directory may have.
        """
        most = self._most if most is None else most
        for key in [key for key in self._whole if key not in self._needed] if self.size + size > most else ():
            self.size -= self._whole.pop(key)
            self._doomed.append(copy_of(self.directory, *key))
            if self.size + size <= most:
                break

    @property
    def untidy(self) -> bool:
        """Whether there are files to be removed."""
        return bool(self._doomed)

    def sweep(self) -> None:
        """Remove the files of what was removed. Not under the lock, and by the thread that makes files."""
        doomed, self._doomed = self._doomed, []
        for path in doomed:
            with suppress(OSError):
                os.unlink(path)

    def part_of(self, value: Value) -> str:
        """The path of the file in which a value is while it is not whole."""
        return copy_of(self.directory, value.segment, value.offset) + PART

    def finish(self, value: Value) -> None:
        """All of a value is in that file: have it found. Not under the lock.

        Raises:
            OSError: the file is not there.
        """
        os.replace(self.part_of(value), copy_of(self.directory, value.segment, value.offset))

    def add(self, value: Value) -> None:
        """All of a value is there."""
        key = key_of(value)
        self.size += value.length - self._whole.pop(key, 0)
        self._whole[key] = value.length
        self.make_room(0)

    def keys(self) -> Iterable[Key]:
        """The values that are there."""
        return self._whole.keys()
