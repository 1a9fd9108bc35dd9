"""Values that clients have put: each is kept while such a client is connected, and for its time to live after that.

Rows keep the values that tasks need; holds keep values that no row names yet, or any more. Two clients that put the
same content (by its digest) hold the same value.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from dtq.core.changes import HoldRow
from dtq.core.ledger import Ledger
from dtq.errors import HoldsFull
from dtq.records import replace


class Holds:
    """All holds.

    Args:
        ledger: told of changes.
        most: their bound.
    """

    def __init__(self, ledger: Ledger, most: int) -> None:
        self._ledger = ledger
        self._most = most
        self._count = 0
        self._of: dict[str, dict[bytes, HoldRow]] = {}
        #: By digest, the sessions that hold the value, an ordered set.
        self._with: dict[bytes, dict[str, None]] = {}
        #: When holds of departed clients end, soonest first; some entries are outdated.
        self._due: list[tuple[float, str, bytes]] = []

    def rows(self) -> list[HoldRow]:
        """The rows of all holds."""
        return [row for rows in self._of.values() for row in rows.values()]

    def release_all(self, session: str) -> None:
        """Release every hold of a holder."""
        self.release(session, list(self._of.get(session, ())))

    def hold(self, session: str, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        """Hold a value for a connected client, or ask whether the value is here.

        Args:
            session: the client's.
            digest: of the value's content.
            description: of the value; empty to hold it only if it is here.
            ttl_s: how long to keep it after the client has left, in seconds.

        Returns:
            The description of the value that is held: that of the first put. Empty if there is none.

        Raises:
            HoldsFull: the number of holds has reached its bound.
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
        """Set a hold to this row."""
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
        """Release holds that a client no longer needs."""
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
        """Start the time to live of a departed client's holds."""
        for row in list(self._of.get(session, {}).values()):
            if row.until is None:
                self.add(replace(row, until=now + row.ttl_s))

    def back(self, session: str) -> None:
        """Stop the time to live of a returned client's holds."""
        for row in list(self._of.get(session, {}).values()):
            self.add(replace(row, until=None))

    def next_at(self) -> float | None:
        """The earliest moment at which a hold may end; None for none."""
        return self._due[0][0] if self._due else None

    def expire(self, now: float) -> None:
        """End the holds whose time is over."""
        while self._due and self._due[0][0] <= now:
            until, session, digest = heapq.heappop(self._due)
            row = self._of.get(session, {}).get(digest)
            if row is not None and row.until == until:
                self.release(session, (digest,))
