"""Values that clients have put: each is kept as long as a client that has put it is there, and some time longer.

What tasks need is kept by their rows; this is for values that no row names yet, or any more. Two clients that put the
same (by its digest) hold the same value.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace

from dtq.core.changes import HoldRow
from dtq.core.ledger import Ledger
from dtq.errors import HoldsFull


class Holds:
    """All holds.

    Args:
        ledger: told what changes.
        most: how many there may be.
    """

    def __init__(self, ledger: Ledger, most: int) -> None:
        self._ledger = ledger
        self._most = most
        self._count = 0
        self._of: dict[str, dict[bytes, HoldRow]] = {}
        #: The sessions that hold what has a digest, a set in order.
        self._with: dict[bytes, dict[str, None]] = {}
        #: When holds of holders who have left are over, soonest first; some are held on to, or over already.
        self._due: list[tuple[float, str, bytes]] = []

    def rows(self) -> list[HoldRow]:
        """All of them."""
        return [row for rows in self._of.values() for row in rows.values()]

    def release_all(self, session: str) -> None:
        """Nothing is held in this name any more."""
        self.release(session, list(self._of.get(session, ())))

    def hold(self, session: str, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        """A client that is there puts a value, or asks whether it is there.

        Args:
            session: the client's.
            digest: of what the value holds.
            description: of the value; empty to hold one only if it is there.
            ttl_s: how long to keep it when the client has left, in seconds.

        Returns:
            The description of the value that is held: that of the first who has put it. Empty where there is none.

        Raises:
            HoldsFull: there are as many holds as there may be.
        """
        holders = self._with.get(digest)
        if holders is not None:
            description = self._of[next(iter(holders))][digest].description
        if description:
            if self._count >= self._most and digest not in self._of.get(session, {}):
                raise HoldsFull(self._count)
            self.add(HoldRow(session=session, digest=digest, description=description, ttl_s=ttl_s, until=None))
        return description

    def add(self, row: HoldRow) -> None:
        """A hold is this now."""
        rows = self._of.setdefault(row.session, {})
        if rows.get(row.digest) == row:
            return
        self._count += row.digest not in rows
        rows[row.digest] = row
        self._with.setdefault(row.digest, {})[row.session] = None
        self._ledger.hold(row)
        if row.until is not None:
            heapq.heappush(self._due, (row.until, row.session, row.digest))

    def release(self, session: str, digests: Iterable[bytes]) -> None:
        """A client has no use for what it holds any more."""
        rows = self._of.get(session, {})
        for digest in digests:
            if rows.pop(digest, None) is not None:
                self._count -= 1
                self._ledger.hold_ended(session, digest)
                holders = self._with[digest]
                del holders[session]
                if not holders:
                    del self._with[digest]
        if not rows:
            self._of.pop(session, None)

    def left(self, session: str, now: float) -> None:
        """A client is gone: what it holds is kept for its time."""
        for row in list(self._of.get(session, {}).values()):
            if row.until is None:
                self.add(replace(row, until=now + row.ttl_s))

    def back(self, session: str) -> None:
        """A client is there again."""
        for row in list(self._of.get(session, {}).values()):
            self.add(replace(row, until=None))

    def next_at(self) -> float | None:
        """When the next one may be over; None where none is to be."""
        return self._due[0][0] if self._due else None

    def expire(self, now: float) -> None:
        """End those whose time is over."""
        while self._due and self._due[0][0] <= now:
            until, session, digest = heapq.heappop(self._due)
            row = self._of.get(session, {}).get(digest)
            if row is not None and row.until == until:
                self.release(session, (digest,))
