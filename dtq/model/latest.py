"""The latest number of each key, for keys that several numbers may have: batch numbers, which rise."""

from __future__ import annotations

from heapq import heappop, heappush


class _Others:
    """The numbers of one key beside the latest, and a heap of them with outdated entries."""

    __slots__ = ("heap", "numbers")

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.heap: list[int] = []


class LatestByKey(dict[str, int]):
    """The highest number of each key. Nearly every key has one number only, and takes no more than in a plain dict."""

    __slots__ = ("_others",)

    def __init__(self) -> None:
        super().__init__()
        self._others: dict[str, _Others] = {}

    def add(self, key: str, number: int) -> None:
        """Add a number to a key; no effect if the key has it already."""
        latest = self.setdefault(key, number)
        if latest == number:
            return
        self[key] = max(latest, number)
        others = self._others.setdefault(key, _Others())
        other = min(latest, number)
        if other not in others.numbers:
            others.numbers.add(other)
            heappush(others.heap, -other)

    def discard(self, key: str, number: int) -> None:
        """Remove a number from a key; no effect if the key has it not."""
        others = self._others.get(key)
        if others is None:
            if self.get(key) == number:
                del self[key]
            return
        if self[key] == number:
            while -others.heap[0] not in others.numbers:
                heappop(others.heap)
            self[key] = number = -heappop(others.heap)
        others.numbers.discard(number)
        if not others.numbers:
            del self._others[key]

    def all(self, key: str) -> list[int]:
        """All numbers of a key, the latest first."""
        latest = self.get(key)
        if latest is None:
            return []
        others = self._others.get(key)
        return [latest, *sorted(others.numbers if others is not None else (), reverse=True)]
