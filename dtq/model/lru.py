"""A cache bounded by bytes and entries: least recently used entries go first.

Model, pure. Functions that travel by value may be large, so a bound on their number does not bound their memory; the
caches of the coordinator, of a worker and of its slots therefore count bytes, too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SizedLru(Generic[K, V]):
    """Values by key, bounded by their number and their bytes. The newest always stays, however large it is.

    Args:
        most_bytes: of all values together.
        most_entries: how many values.
    """

    __slots__ = ("_entries", "_most_bytes", "_most_entries", "size")

    def __init__(self, most_bytes: int, most_entries: int) -> None:
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        #: Bytes of all values.
        self.size = 0

    def get(self, key: K) -> V | None:
        """The value of a key, which counts as used now; None for an unknown key."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def used(self, key: K) -> bool:
        """Whether the cache has a key, which counts as used now."""
        if key not in self._entries:
            return False
        self._entries.move_to_end(key)
        return True

    def put(self, key: K, value: V, size: int) -> list[tuple[K, V]]:
        """Remember a value as the newest.

        Args:
            key: its key.
            value: the value.
            size: its bytes.

        Returns:
            The values that were dropped for it.
        """
        self.pop(key)
        self._entries[key] = value, size
        self.size += size
        gone: list[tuple[K, V]] = []
        while len(self._entries) > 1 and (self.size > self._most_bytes or len(self._entries) > self._most_entries):
            oldest, (dropped, bytes_) = self._entries.popitem(last=False)
            self.size -= bytes_
            gone.append((oldest, dropped))
        return gone

    def pop(self, key: K) -> None:
        """Forget a key, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry[1]

    def __len__(self) -> int:
        return len(self._entries)
