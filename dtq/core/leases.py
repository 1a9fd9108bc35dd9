"""Leases and the workers that hold them.

A lease is a worker's temporary ownership of tasks ``[lo, hi)`` of one batch. It is renewed with all others of the
worker by anything the worker says, and fenced by its token: a number that is never used twice (it holds the
coordinator's epoch), so that a report for a lease that has been taken back cannot be mistaken for one of its successor.

What a worker reports of a lease comes in the order of the tasks: the front of the range moves up. What it gives back
unstarted comes off the end.
"""

from __future__ import annotations

from typing import Final

from dtq.core.batches import Batch
from dtq.core.changes import LeaseRow
from dtq.core.lacking import Lacking

#: How much work one lease may hold, in seconds by the spec's estimate. A worker holds one a slot and one more, and so
#: takes at most twice as long to turn to something more urgent.
CHUNK_S: Final = 0.025
#: Below so much work a lease costs more than it brings, in seconds: tasks are not spread thinner than this.
WORTHWHILE_S: Final = 0.002
#: Most tasks in a lease: one page.
MAX_CHUNK: Final = 1024


def chunk(estimate_s: float | None, waiting: int, slots: int) -> int:
    """How many tasks a lease may hold.

    One of unknown or long duration. Of others what `CHUNK_S` has room for while there are plenty, and towards the end
    of them half of each slot's share, so that all slots end together.

    Args:
        estimate_s: how long one task takes, in seconds; None where that is not known.
        waiting: how many such tasks there are.
        slots: how many slots all workers have.
    """
    if estimate_s is None or estimate_s >= CHUNK_S:
        return 1
    each_s = max(estimate_s, 1e-6)
    most = min(MAX_CHUNK, int(CHUNK_S / each_s))
    if slots > 1:
        most = min(most, max(-(-waiting // (2 * slots)), int(WORTHWHILE_S / each_s)))
    return max(1, most)


class Worker:
    """A worker that has said hello, or one whose leases were restored and that is expected to."""

    __slots__ = ("capacity", "expires_at", "lacking", "leases", "name", "queues", "session", "spared", "unconfirmed")

    def __init__(self, session: str, name: str, expires_at: float) -> None:
        self.session = session
        self.name = name
        self.queues: tuple[str, ...] = ()
        #: How many slots can run something; 0 while it drains, and until it reports.
        self.capacity = 0
        #: What it was unable to run, once it was.
        self.lacking: Lacking | None = None
        self.leases: dict[int, Lease] = {}
        #: Leases that the answer to its last report brought: its next report says whether that arrived.
        self.unconfirmed: set[int] = set()
        self.expires_at = expires_at
        #: Whether it was given more time after a pause of the coordinator, and has not been heard since.
        self.spared = False

    def renew(self, expires_at: float) -> None:
        """It was heard."""
        self.expires_at = expires_at
        self.spared = False


class Lease:
    """Tasks ``[lo, hi)`` of a batch that a worker holds."""

    __slots__ = ("attempt", "batch", "granted_at", "hi", "lo", "started", "token", "worker")

    def __init__(
        self, token: int, worker: Worker, batch: Batch, lo: int, hi: int, attempt: int, granted_at: float
    ) -> None:
        self.token = token
        self.worker = worker
        self.batch = batch
        self.lo = lo
        self.hi = hi
        self.attempt = attempt
        self.granted_at = granted_at
        #: Whether the task at ``lo`` has started, as far as is known: blamed if the worker is lost.
        self.started = False

    def row(self) -> LeaseRow:
        """The row that describes the lease."""
        return LeaseRow(
            token=self.token,
            session=self.worker.session,
            worker=self.worker.name,
            batch=self.batch.number,
            lo=self.lo,
            hi=self.hi,
            attempt=self.attempt,
            granted_at=self.granted_at,
        )
