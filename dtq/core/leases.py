"""Leases and the workers that hold them.

A lease is a worker's temporary ownership of tasks ``[lo, hi)`` of one batch. It is renewed with all others of the
worker by anything the worker says, and fenced by its token: a number that is never used twice (it holds the
coordinator's epoch), so that a report for a lease that has been taken back cannot be mistaken for one of its successor.

What a worker reports of a lease comes in the order of the tasks: the front of the range moves up. What it gives back
unstarted comes off the end.

A worker talks on two connections, and what is said on one overtakes what is said on the other. So each of its messages
is numbered, and says which call on the other connection was under way when it was made up. Nothing is judged by a
message whose sender could not know of it.
"""

from __future__ import annotations

from typing import Final

from dtq.core.batches import Batch
from dtq.core.changes import LeaseRow
from dtq.core.lacking import Lacking
from dtq.core.needs import Room
from dtq.model.resources import Portion

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

    __slots__ = (
        "beside",
        "call",
        "capacity",
        "expires_at",
        "lacking",
        "leases",
        "name",
        "queues",
        "room",
        "session",
        "spared",
        "spread",
    )

    def __init__(self, session: str, name: str, expires_at: float) -> None:
        self.session = session
        self.name = name
        self.queues: tuple[str, ...] = ()
        #: How many slots can run something; 0 while it drains, and until it reports.
        self.capacity = 0
        #: What it was unable to run, once it was.
        self.lacking: Lacking | None = None
        self.leases: dict[int, Lease] = {}
        #: What it offers; None until it has said so. And how many slots its leases have beyond one each.
        self.room: Room | None = None
        self.spread = 0
        #: Number of the newest of its messages, and of the call that was under way beside that.
        self.call = self.beside = 0
        self.expires_at = expires_at
        #: Whether it was given more time after a pause of the coordinator, and has not been heard since.
        self.spared = False

    def renew(self, expires_at: float) -> None:
        """It was heard."""
        self.expires_at = expires_at
        self.spared = False

    def is_over(self, call: int) -> bool:
        """Whether one of its calls is over, by the newest of its messages: nobody reads an answer to it any more."""
        return is_over(call, self.call, self.beside)


def is_over(call: int, newer: int, beside: int) -> bool:
    """Whether a call was over when a message was made up: its answer had been seen, or never would be.

    Args:
        call: number of the call; 0 where it has none, and is never known to be over.
        newer: number of the message.
        beside: the call that was under way on the other connection then.
    """
    return 0 < call < newer and call != beside


class Lease:
    """Tasks ``[lo, hi)`` of a batch that a worker holds."""

    __slots__ = ("attempt", "batch", "call", "granted_at", "hi", "lo", "started", "token", "units", "worker")

    def __init__(
        self,
        token: int,
        worker: Worker,
        batch: Batch,
        lo: int,
        hi: int,
        attempt: int,
        granted_at: float,
        call: int = 0,
    ) -> None:
        self.token = token
        self.worker = worker
        self.batch = batch
        self.lo = lo
        self.hi = hi
        self.attempt = attempt
        self.granted_at = granted_at
        #: Number of the worker's call whose answer brings it.
        self.call = call
        #: Whether the task at ``lo`` has started, as far as is known: blamed if the worker is lost.
        self.started = False
        #: What it has got of its worker's resources; None where its task needs nothing.
        self.units: tuple[Portion, ...] | None = None

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
            call=self.call,
            units=self.units,
        )
