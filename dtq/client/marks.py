"""Marks in the outbox: a caller waits until all that was submitted before the mark is accepted or refused.

Client, below the hub. A verb on a filter or a queue must not overtake earlier submissions of the same client: the two
travel on different connections.
"""

from __future__ import annotations

import threading
from typing import Final

from dtq.client.feeds import Feed


class Mark:
    """What lay in the outbox when somebody looked.

    Args:
        items: how many single submissions had been put in until then.
        feeds: the maps, and how many tasks had been put into each.
    """

    __slots__ = ("_feeds", "_items", "_rung", "passed")

    def __init__(self, items: int, feeds: list[tuple[Feed, int]]) -> None:
        self._items = items
        self._feeds = feeds
        self._rung: Final = threading.Event()
        #: Whether all of it is accepted or refused.
        self.passed = False

    def look(self, taken: int, *, full: bool) -> bool:
        """By the sender, when a call is over; whether whoever waits goes on.

        Args:
            taken: how many single submissions were taken out so far.
            full: whether the queue has no room for what was in the call.
        """
        self._feeds = [(feed, count) for feed, count in self._feeds if not feed.sealed and feed.sent < count]
        self.passed = not full and taken >= self._items and not self._feeds
        if self.passed or full:
            self._rung.set()
        return self.passed or full

    def end(self) -> None:
        """Nothing is sent any more."""
        self.passed = True
        self._rung.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all of it is accepted or refused, or the queue has no room for some of it.

        Args:
            timeout_s: how long at most, in seconds.

        Returns:
            Whether that is so.
        """
        return self._rung.wait(timeout_s)

    def again(self) -> None:
        """Wait anew, for what there was no room for."""
        self._rung.clear()
