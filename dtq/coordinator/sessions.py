"""Sessions: the connected peers, the batches they follow, and the calls in which they wait.

A session outlives its connections: it is the caller's random name, and a caller that comes back with it finds its
followed batches and leases. All of this is used under the coordinator's lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from dtq.coordinator.committer import Generation
from dtq.core.changes import BatchRow, Change, Stored
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.errors import SessionUnknown
from dtq.model.coverage import Coverage
from dtq.model.dashboard import SlotUse
from dtq.model.messages import Cancellation, Hello, Receipt, Role, WorkerOrder
from dtq.records import replace

log = logging.getLogger("dtq.coordinator")

#: Time without a connection for which a client's session is kept, in seconds.
CLIENT_GRACE_S: Final = 60.0
#: Time for a worker to come back after its reporting connection ended, before its tasks run elsewhere, in seconds. A
#: reconnect after a reset takes milliseconds; a killed worker's connection is closed by its kernel at once.
WORKER_GRACE_S: Final = 0.5
#: Most sessions of a kind that are kept without a connection: beyond that, the oldest are forgotten sooner.
MOST_AWAY: Final = 10_000
#: Longest wait of `watch` after another connection of the session has ended, in seconds. A closing client ends its
#: connections one after the other, and a waiting call does not see the end of its own.
PARTING_WAIT_S: Final = 0.5
#: Most ranges in one answer of `watch`.
_WATCHED: Final = 4_096


class Fetch:
    """A fetching call of a worker.

    Args:
        leases: its answer's new leases.
        cancel: its answer's cancellations.
        waits: whether the answer is still empty.
        call: its number (`Exchange.call`).
        ticket: the commit after which the leases are durable; None if nothing is to be written.
    """

    __slots__ = ("_served", "call", "cancel", "leases", "ticket")

    def __init__(
        self,
        leases: list[Lease],
        cancel: list[Cancellation],
        *,
        waits: bool,
        call: int = 0,
        ticket: Generation | None = None,
    ) -> None:
        self.call = call
        self.leases = leases
        self.cancel = cancel
        self.ticket = ticket
        self._served = threading.Event() if waits else None

    def serve(self, leases: list[Lease], cancel: list[Cancellation], ticket: Generation | None = None) -> None:
        """Answer the waiting call."""
        assert self._served is not None
        self.leases = leases
        self.ticket = ticket
        self.cancel = cancel
        self._served.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the answer, outside of the lock."""
        return self._served is None or self._served.wait(timeout_s)


class SessionState:
    """One session.

    Args:
        hello: the caller's latest hello.
        now: the time.
        max_unread: most ended ranges that are kept until the client asks for them.
    """

    def __init__(self, hello: Hello, now: float, max_unread: int) -> None:
        self.hello = hello
        #: Its name for people; see `Sessions.enter`.
        self.name = hello.name
        self.connected_at = now
        self.seen_at = now
        self.connections = 0
        #: Number of the primary ones: for a moment two, if a reconnect is seen before the end of the old connection.
        self.primaries = 0
        #: Whether one of them has ended, and none has come since: the client may be closing.
        self.parting = False
        #: When the session is given up unless it comes back; None while it is connected.
        self.lost_at: float | None = None
        #: Receipts of the last submit call, by the submission's number: the answers to a repeat.
        self.receipts: dict[int, Receipt] = {}
        #: Highest repeated submission number; a late original up to it is ignored.
        self.repeated: int | None = None
        #: The generation that the answer to the worker's last report waits for, or waited.
        self.reported: Generation | None = None
        #: Number of its calls that wait until values are on the disk.
        self.syncing = 0
        #: Cancellations that a fetching call has told the worker.
        self.told: set[tuple[int, int]] = set()
        self.draining = False
        #: The order that a worker follows, as it says.
        self.follows = WorkerOrder.WORK
        #: Why slots of a worker do not start; empty if they do.
        self.trouble = ""
        #: The slots of a worker by its last account, when that came, and how far its wall clock was ahead then.
        self.slots: tuple[SlotUse, ...] = ()
        self.slots_at = 0.0
        self.ahead_s: float | None = None
        #: Batches that it follows beside those it has submitted.
        self.following: set[int] = set()
        #: Latest progress of running tasks, by batch and index.
        self.progress: dict[tuple[int, int], tuple[float, float]] = {}
        #: The tasks it has read of batches that it has not read whole, by batch.
        self._read: dict[int, Coverage] = {}
        #: Whether more ranges had ended than are kept for it: then it must say hello again, and follow anew.
        self.overrun = False
        self._max_unread = max_unread
        #: Ranges kept beyond the bound, because the session asked for them.
        self._asked = 0
        #: Batches whose past ends are all in there because the session asked for them, and the cursor of the first
        #: range of each.
        self._past: dict[int, int] = {}
        #: The cursor behind the last answer of `watch`.
        self._sent = 0
        self._ended: deque[tuple[int, EndedRange]] = deque()
        self._last = 0
        self._watching: threading.Event | None = None

    @property
    def is_worker(self) -> bool:
        """Whether it is a worker's."""
        return self.hello.role is Role.WORKER

    @property
    def kept_waiting(self) -> bool:
        """Whether it is a worker whose report is on its way to the disk, or values in it are."""
        return bool(self.syncing) or (self.reported is not None and not self.reported.over)

    @property
    def away(self) -> bool:
        """Whether it has no connection at the moment, and is about to be given up."""
        return self.lost_at is not None

    @property
    def news(self) -> int:
        """The cursor behind the last ended task: the number of ended tasks."""
        return self._last

    def publish_past(self, batch: int, runs: list[EndedRange]) -> None:
        """Tell `watch` of ends before the session asked to follow a batch; not again while none of these has been
        answered, however often it asks.
        """
        if self._past.get(batch, 0) > self._sent:
            return
        self._past[batch] = self._last + 1
        for run in runs:
            self.publish(run, asked=True)

    def publish(self, ended: EndedRange, *, asked: bool = False) -> None:
        """Tell `watch` of ended tasks.

        Args:
            ended: the ended tasks.
            asked: whether the session has just asked for them: then they are always kept.
        """
        self._asked += asked
        if self.overrun or len(self._ended) >= self._max_unread + self._asked:
            if not self.overrun:
                self.overrun = True
                self._ended.clear()
                log.warning(
                    "client %s has left %d results unread, the limit of --max-unread (DTQ_MAX_UNREAD); "
                    "they are kept in the store, and it is told to ask anew",
                    self.hello.name,
                    self._max_unread,
                )
            return self.wake()
        self._last += ended.hi - ended.lo
        self._ended.append((self._last, ended))
        self.wake()

    def read_of(self, batch: int) -> Coverage:
        """The tasks of a batch that it has read and let go; to be added to."""
        return self._read.setdefault(batch, Coverage())

    def read_whole(self, batch: int) -> None:
        """Note that it has read all of a batch."""
        self._read.pop(batch, None)

    def wake(self) -> None:
        """Wake a waiting `watch`."""
        if self._watching is not None:
            self._watching.set()
            self._watching = None

    def since(self, cursor: int) -> list[tuple[int, EndedRange]]:
        """The ends after the cursor, each with its own cursor; earlier ones have arrived and are dropped.

        Raises:
            SessionUnknown: more tasks have ended than are kept.
        """
        if self.overrun:
            raise SessionUnknown(self.hello.session)
        while self._ended and self._ended[0][0] <= cursor:
            self._ended.popleft()
        if not self._ended:
            self._asked = 0
            self._past.clear()
        few = list(islice(self._ended, _WATCHED))
        if few:
            self._sent = few[-1][0]
            upto, first = few[0]
            if (lo := first.hi - (upto - cursor)) > first.lo:  # some of it has arrived
                few[0] = upto, replace(first, lo=lo)
        return few

    def watch(self) -> threading.Event:
        """An event that is set when further tasks have ended; an earlier waiting call is released."""
        self.wake()
        self._watching = threading.Event()
        return self._watching


class Sessions:
    """All sessions, and the batches that each follows.

    Args:
        max_unread: most ended ranges kept for each.
    """

    def __init__(self, max_unread: int) -> None:
        self._max_unread = max_unread
        self.by_id: dict[str, SessionState] = {}
        self._followers: dict[int, list[SessionState]] = {}
        #: Fetching calls that wait for work, longest waiting first, by session.
        self.fetching: dict[str, Fetch] = {}
        #: The latest order for each worker, by session: a session that is given up may come back, and a worker that
        #: says that it follows an order may be about to hear of another.
        self.orders: dict[str, WorkerOrder] = {}

        # Sessions without a connection, by kind, in the order in which they left, which is that of their deadlines.
        self._away: dict[Role, dict[str, SessionState]] = {role: {} for role in Role}

    def enter(self, hello: Hello, now: float) -> tuple[SessionState, bool]:
        """Handle a connection's hello. A worker with the name of another present one is named by its process, too.

        Returns:
            Its session, and whether it was known.
        """
        state = self.by_id.get(hello.session)
        known = state is not None and not state.overrun
        if state is None:
            state = SessionState(hello, now, self._max_unread)
            if state.is_worker and self._is_taken(hello.name):
                state.name = f"{hello.name} ({hello.host}, pid {hello.pid})"
                log.warning("there is a worker %s already; the one that joins is shown as %s", hello.name, state.name)
            self.by_id[hello.session] = state
        state.overrun = False
        state.hello = hello
        state.seen_at = now
        state.connections += 1
        state.parting = False
        state.primaries += hello.primary
        if hello.primary or not state.is_worker:
            state.lost_at = None
            self._away[hello.role].pop(hello.session, None)
        return state, known

    def _is_taken(self, name: str) -> bool:
        return any(state.is_worker and not state.away and state.name == name for state in self.by_id.values())

    def leave(self, state: SessionState, *, primary: bool, now: float) -> None:
        """Handle the end of a connection."""
        state.connections -= 1
        state.primaries -= primary
        if state.is_worker and primary and state.primaries == 0:
            self._wait_for(state, now + WORKER_GRACE_S)
        elif not state.is_worker:
            if state.connections == 0:
                self._wait_for(state, now + CLIENT_GRACE_S)
            else:
                state.parting = True
                state.wake()  # its answer finds out whether the peer is alive

    def _wait_for(self, state: SessionState, until: float) -> None:
        if self.by_id.get(state.hello.session) is not state:
            return  # given up before its last connection ended
        away = self._away[state.hello.role]
        away.pop(state.hello.session, None)
        away[state.hello.session] = state
        state.lost_at = until

    def expired(self, now: float) -> list[SessionState]:
        """Remove the sessions that did not come back in time, and the oldest of too many; returns them."""
        gone = []
        for away in self._away.values():
            for state in list(away.values()):
                assert state.lost_at is not None
                if state.lost_at > now and len(away) <= MOST_AWAY:
                    break
                self.remove(state)
                gone.append(state)
        return gone

    def remove(self, state: SessionState) -> None:
        """Forget a session."""
        self.by_id.pop(state.hello.session, None)
        self._away[state.hello.role].pop(state.hello.session, None)
        fetch = self.fetching.pop(state.hello.session, None)
        if fetch is not None:
            fetch.serve([], [])
        for batch in list(state.following):
            self.unfollow(batch, state)

    def next_deadline(self) -> float | None:
        """When the next session is given up."""
        first = [next(iter(away.values())).lost_at for away in self._away.values() if away]
        if any(len(away) > MOST_AWAY for away in self._away.values()):
            return 0.0
        return min((at for at in first if at is not None), default=None)

    def order(self, state: SessionState, order: WorkerOrder) -> WorkerOrder:
        """Note an order for a worker, and have it hear of it; returns the order that holds for it now."""
        session = state.hello.session
        if not self.order_of(state).holds_against(order):
            self.orders.pop(session, None)
            self.orders[session] = order
            if len(self.orders) > MOST_AWAY:
                del self.orders[next(iter(self.orders))]
            fetch = self.fetching.pop(session, None)
            if fetch is not None:
                fetch.serve([], [])
        return self.order_of(state)

    def order_of(self, state: SessionState) -> WorkerOrder:
        """The order that holds for a worker, whether it follows it already or not."""
        return self.untold_order(state) or state.follows

    def untold_order(self, state: SessionState) -> WorkerOrder | None:
        """The order that a worker does not follow yet; None for none."""
        order = self.orders.get(state.hello.session) if self.orders else None
        return None if order is None or state.follows.holds_against(order) else order

    def may_take(self, state: SessionState) -> bool:
        """Whether a worker may be given tasks. One that may be dead is given none; its next hello serves it again."""
        return not state.away and (not self.orders or self.order_of(state) is WorkerOrder.WORK)

    def follow(self, batch: int, state: SessionState) -> None:
        """Note that a session follows a batch that it did not submit on its present connection."""
        if batch not in state.following:
            state.following.add(batch)
            self._followers.setdefault(batch, []).append(state)

    def unfollow(self, batch: int, state: SessionState) -> None:
        """Note that a session needs no (more) news of a batch."""
        if batch in state.following:
            state.following.remove(batch)
            self._followers[batch].remove(state)
            if not self._followers[batch]:
                del self._followers[batch]

    def publish(self, ended: EndedRange) -> None:
        """Tell the followers of the batch."""
        submitter = self.by_id.get(ended.session)
        if submitter is not None:
            submitter.publish(ended)
        for state in self._followers.get(ended.batch, ()):
            if state is not submitter:
                state.publish(ended)

    def batches_finished(self, changes: Iterable[Change]) -> None:
        """Note that batches are finished by these changes, and have no more news."""
        if not self._followers:
            return
        for change in changes:
            row = change.row if type(change) is Stored else None
            if type(row) is BatchRow and row.finished_at is not None:
                for state in self._followers.pop(row.batch, ()):
                    state.following.discard(row.batch)
