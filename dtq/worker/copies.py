"""Copies of values on a worker's own disk: the arguments of its tasks, if its coordinator is on another machine.

Each value has a file of its own (`place.copy_of`), which exists only when complete, so that a slot finds the value or
does not. The argument of a task goes with its lease, before the kernel writes it to the disk. When the other copies
take too much room, those that no lease needs are removed, the least recently needed ones first. A slot that has mapped
a file keeps its content.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from dtq.model.values import Value
from dtq.values.place import copy_of

#: Suffix of an incomplete file.
PART: Final = ".part"

#: A value: segment and offset.
Key = tuple[int, int]


def key_of(value: Value) -> Key:
    """The key of a value."""
    return value.segment, value.offset


class Copies:
    """The copies. Under the supervisor's lock, except for the files' content.

    Args:
        directory: the directory.
        most: bound of their bytes, unless leases need more.
    """

    def __init__(self, directory: str, most: int) -> None:
        self.directory = directory
        self._most = most
        #: By value, its bytes, the least recently needed one first.
        self._whole: OrderedDict[Key, int] = OrderedDict()
        self.size = 0
        #: The values that each lease needs, and the number of leases that need each.
        self._leases: dict[int, list[Key]] = {}
        self._needed: dict[Key, int] = {}
        #: Those that no lease needs but as the argument of a task, which no other task has.
        self._own: set[Key] = set()
        #: Files to be removed, see `sweep`.
        self._doomed: list[str] = []

    def need(self, token: int, values: Sequence[Value], shared: Sequence[Value] = ()) -> list[Value]:
        """QueueState the values that a lease needs until `let_go`.

        Args:
            token: the lease's.
            values: the arguments of its tasks.
            shared: what these refer to, which others may, too.

        Returns:
            The values that are missing here.
        """
        self._own.update([key_of(value) for value in values if key_of(value) not in self._whole])
        self._own.difference_update(map(key_of, shared))
        values = [*shared, *values]
        values = list({key_of(value): value for value in values}.values())
        self._leases[token] = [key_of(value) for value in values]
        for key in self._leases[token]:
            self._needed[key] = self._needed.get(key, 0) + 1
            if key in self._whole:
                self._whole.move_to_end(key)
        return [value for value in values if key_of(value) not in self._whole]

    def let_go(self, token: int) -> bool:
        """End of a lease; whether it needed any value."""
        keys = self._leases.pop(token, None)
        if keys is None:
            return False
        for key in keys:
            self._needed[key] -= 1
            if not self._needed[key]:
                del self._needed[key]
                if key in self._own:
                    self._own.discard(key)
                    self._remove(key)
        self.make_room(0)
        return True

    def is_needed(self, value: Value) -> bool:
        """Whether a lease needs a value."""
        return key_of(value) in self._needed

    def make_room(self, size: int, most: int | None = None) -> None:
        """Remove unneeded copies.

        Args:
            size: bytes to come.
            most: bound of all bytes then; None for the directory's.
        """
        most = self._most if most is None else most
        for key in [key for key in self._whole if key not in self._needed] if self.size + size > most else ():
            self._remove(key)
            if self.size + size <= most:
                break

    def _remove(self, key: Key) -> None:
        size = self._whole.pop(key, None)
        if size is not None:
            self.size -= size
            self._doomed.append(copy_of(self.directory, *key))

    @property
    def untidy(self) -> bool:
        """Whether there are files to be removed."""
        return bool(self._doomed)

    def sweep(self) -> None:
        """Remove the files of removed copies. Not under the lock, and by the thread that makes files."""
        doomed, self._doomed = self._doomed, []
        for path in doomed:
            with suppress(OSError):
                os.unlink(path)

    def part_of(self, value: Value) -> str:
        """The path of an incomplete value's file."""
        return copy_of(self.directory, value.segment, value.offset) + PART

    def finish(self, value: Value) -> None:
        """Complete a value's file, so that slots find it. Not under the lock.

        Raises:
            OSError: the file does not exist.
        """
        os.replace(self.part_of(value), copy_of(self.directory, value.segment, value.offset))

    def add(self, value: Value) -> None:
        """Add a complete value."""
        key = key_of(value)
        self.size += value.length - self._whole.pop(key, 0)
        self._whole[key] = value.length
        self.make_room(0)

    def keys(self) -> Iterable[Key]:
        """The values here."""
        return self._whole.keys()
