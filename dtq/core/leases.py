"""Leases and the workers that hold them.

A lease is a worker's temporary ownership of tasks ``[lo, hi)`` of one batch. Every message of the worker renews all of
its leases. A lease is fenced by its token: a number that is never used twice (it holds the coordinator's epoch), so a
report for a lease that was taken back cannot be mistaken for one of its successor.

A worker reports the tasks of a lease in their order: the front of the range moves up. Unstarted tasks that it returns
come off the end.

A worker talks on two connections, and a message on one overtakes messages on the other. So each message is numbered,
and names the call that was under way on the other connection when it was made. No fact is judged by a message whose
sender could not know of it.
"""

from __future__ import annotations

from typing import Final

from dtq.core.batches import Batch
from dtq.core.changes import LeaseRow
from dtq.core.needs import Room
from dtq.core.quarantine import Quarantine
from dtq.model.resources import Portion

#: Work in one lease, in seconds by the spec's estimate. A worker holds one lease a slot and one more, so it takes at
#: most twice as long to turn to more urgent work.
CHUNK_S: Final = 0.025
#: Least useful work in a lease, in seconds: below this a lease costs more than it brings, and tasks are not spread
#: thinner.
WORTHWHILE_S: Final = 0.002
#: Most tasks in a lease: one page.
MAX_CHUNK: Final = 1024
#: Most tasks in a lease while several queues take turns: a turn of tiny tasks is no large part of a queue.
MAX_TURN: Final = 256
#: Most leases of a slot if batches are small, so that tasks of many batches are leased like those of one.
MAX_SMALL: Final = 48


def chunk(estimate_s: float | None, waiting: int, slots: int) -> int:
    """Most tasks of a lease."""
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
        "chains",
        "ending",
        "expires_at",
        "failed",
        "leases",
        "name",
        "quarantine",
        "queued",
        "queues",
        "room",
        "session",
        "settled_at",
        "spared",
        "spread",
        "succeeded",
    )

    def __init__(self, session: str, name: str, expires_at: float) -> None:
        self.session = session
        self.name = name
        self.queues: tuple[str, ...] = ()
        #: Slots that can run tasks; 0 while it drains, and until it reports.
        self.capacity = 0
        #: The specs that it failed to run; None without such failures.
        self.quarantine: Quarantine | None = None
        self.leases: dict[int, Lease] = {}
        #: The tokens of leases that a report ends which is being recorded: their slots are free.
        self.ending: frozenset[int] = frozenset()
        #: Whether it runs successors (`core.chains`), and the number of its leases that are behind others of its.
        self.chains = False
        self.queued = 0
        #: Its offer; None until its hello. And the slots that its leases have beyond one each.
        self.room: Room | None = None
        self.spread = 0
        #: Number of its newest message, and of the call that was under way beside that.
        self.call = self.beside = 0
        self.expires_at = expires_at
        #: When it last reported the end of a task: a lease that a slot went on to has started about then.
        self.settled_at = 0.0
        #: Whether it was given more time after a pause of the coordinator, and has not been heard since.
        self.spared = False
        #: Tasks that succeeded there, and attempts that did not.
        self.succeeded = self.failed = 0

    @property
    def held(self) -> int:
        """Number of its leases, without those that are behind others."""
        return len(self.leases) - self.queued

    @property
    def slots_held(self) -> int:
        """Number of slots that its leases take, or will take in their turn."""
        held = len(self.leases) - self.queued + self.spread
        return held - len(self.ending & self.leases.keys()) if self.ending else held

    def renew(self, expires_at: float) -> None:
        """Note that it was heard: its leases are renewed."""
        self.expires_at = expires_at
        self.spared = False

    def is_over(self, call: int) -> bool:
        """Whether one of its calls is over, by its newest message: nobody reads an answer to it any more."""
        return is_over(call, self.call, self.beside)


def is_over(call: int, newer: int, beside: int) -> bool:
    """Whether a call was over when a message was made: its answer had been seen, or never would be.

    Args:
        call: number of the call; 0 if it has none, and is never known to be over.
        newer: number of the message.
        beside: the call that was under way on the other connection then.
    """
    return 0 < call < newer and call != beside


class Chain:
    """Leases of one worker, each behind the one before (`core.chains`)."""

    __slots__ = ("queued",)

    def __init__(self) -> None:
        #: Number of its leases behind others.
        self.queued = 0


class Lease:
    """Tasks ``[lo, hi)`` of a batch that a worker holds."""

    __slots__ = (
        "alone",
        "attempt",
        "batch",
        "before",
        "behind",
        "call",
        "chain",
        "given",
        "granted_at",
        "hi",
        "lo",
        "since",
        "started",
        "successor",
        "token",
        "units",
        "worker",
    )

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
        #: Whether the task at ``lo`` is known to have started: blamed if the worker is lost. And since when it runs, as
        #: far as that is known.
        self.started = False
        self.since = granted_at
        #: The worker's resources that it holds; None if its task needs none.
        self.units: tuple[Portion, ...] | None = None
        #: Token of the lease behind which it was granted (`core.chains`), and the task of that; 0 and None for none.
        self.behind = 0
        self.given: tuple[int, int] | None = None
        #: That lease, and the lease behind this one: as long as both are held.
        self.before: Lease | None = None
        self.successor: Lease | None = None
        #: What it has in common with those, and with the leases that are behind them.
        self.chain: Chain | None = None
        #: Whether a lease behind this one has come back, so that none is granted there again.
        self.alone = False

    def put_behind(self, before: Lease) -> None:
        """Note that it was granted behind another lease of its worker's, of one task."""
        self.behind = before.token
        self.given = before.batch.number, before.lo
        self.before = before
        before.successor = self
        self.chain = before.chain = before.chain or Chain()
        self.chain.queued += 1
        self.worker.queued += 1

    def let_go(self) -> None:
        """Note that the lease behind it, if there is one, is behind no lease any more."""
        if self.successor is not None:
            self.successor.before = None
            self.successor = None
            self.worker.queued -= 1
            if self.chain is not None:
                self.chain.queued -= 1

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
