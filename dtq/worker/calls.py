"""The numbers of a worker's calls: what each says its sender had seen of the answers to the others.

A worker has two connections with one call under way on each at most. What is said on one overtakes what is said on the
other; so each exchange says which call was under way beside it when it was made up.
"""

from __future__ import annotations


class Calls:
    """Numbers a worker's calls. Used under the supervisor's lock."""

    def __init__(self) -> None:
        self._last = 0
        #: The call under way, by whether it fetches.
        self._under_way: dict[bool, int] = {}

    def begin(self, *, fetch: bool) -> tuple[int, int]:
        """A call is made up; the one before it on the same connection is over.

        Returns:
            Its number, and that of the call under way on the other connection; 0 where there is none.
        """
        self._last += 1
        self._under_way[fetch] = self._last
        return self._last, self._under_way.get(not fetch, 0)

    def over(self, call: int) -> None:
        """A call is over: what its answer brought has been taken up, or it has failed and its answer is lost."""
        self._under_way = {fetch: number for fetch, number in self._under_way.items() if number != call}

    def all_over(self) -> None:
        """No call is under way any more."""
        self._under_way = {}
