"""Marks in the outbox: a caller waits until all that was submitted before the mark is accepted or refused.

Client, below the client core. A verb on a filter or a queue must not overtake earlier submissions of the same client:
the two travel on different connections.
"""

from __future__ import annotations

import threading
from typing import Final

from dtq.client.batch_uploads import BatchUpload


class CommitMarker:
    """A state of the outbox.

    Args:
        items: single submissions put in so far.
        feeds: the maps, and the tasks put into each so far.
    """

    __slots__ = ("_feeds", "_items", "_rung", "passed")

    def __init__(self, items: int, feeds: list[tuple[BatchUpload, int]]) -> None:
        self._items = items
        self._feeds = feeds
        self._rung: Final = threading.Event()
        #: Whether all of it is accepted or refused.
        self.passed = False

    def look(self, taken: int, *, full: bool) -> bool:
        """Check the mark after a call of the sender's; whether its waiter goes on.

        Args:
            taken: single submissions taken out so far.
            full: whether the queue has no room for the call's submissions.
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
        """Wait until everything before the mark is accepted or refused, or has no room in the queue.

        Args:
            timeout_s: how long at most, in seconds.

        Returns:
            Whether that is so.
        """
        return self._rung.wait(timeout_s)

    def again(self) -> None:
        """Wait anew, for the submissions without room."""
        self._rung.clear()
