"""Numbers of a worker's calls: each call says which answers to the others its sender had seen.

A worker has two connections with at most one call under way on each. A message on one overtakes messages on the other;
so each exchange names the call that was under way beside it when it was made.
"""

from __future__ import annotations


class Calls:
    """Numbers a worker's calls. Used under the supervisor's lock."""

    def __init__(self) -> None:
        self._last = 0
        #: The call under way, by whether it fetches.
        self._under_way: dict[bool, int] = {}

    def begin(self, *, fetch: bool) -> tuple[int, int]:
        """Begin a call; the one before it on the same connection is over.

        Returns:
            Its number, and that of the call under way on the other connection; 0 for none.
        """
        self._last += 1
        self._under_way[fetch] = self._last
        return self._last, self._under_way.get(not fetch, 0)

    def over(self, call: int) -> None:
        """End a call: its answer has been applied, or the call has failed and its answer is lost."""
        self._under_way = {fetch: number for fetch, number in self._under_way.items() if number != call}

    def all_over(self) -> None:
        """End all calls."""
        self._under_way = {}
