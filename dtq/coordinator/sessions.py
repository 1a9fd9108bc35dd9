"""Who is connected: sessions, what they follow, and what they wait for.

A session outlives its connections: it is the caller's random name, and whoever comes back with it finds what it
followed and held. All of this is used under the coordinator's lock.
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
from dtq.model.messages import Doomed, Hello, Receipt, Role
from dtq.records import replace

log = logging.getLogger("dtq.coordinator")

#: How long a client's session is kept without a connection, in seconds.
CLIENT_GRACE_S: Final = 60.0
#: How long a worker whose reporting connection ended may take to come back before its tasks run elsewhere, in seconds.
#: A reconnect after a reset takes milliseconds; a killed worker's connection is closed by its kernel at once.
WORKER_GRACE_S: Final = 0.5
#: Most sessions of a kind that are kept without a connection: who comes and goes faster is forgotten sooner.
MOST_AWAY: Final = 10_000
#: How long `watch` waits at most where another connection of the session has ended, in seconds. A client that closes
#: ends one after the other, and a call that waits does not see the end of its own.
PARTING_WAIT_S: Final = 0.5
#: Most ranges in one answer of `watch`.
_WATCHED: Final = 4_096


class Fetch:
    """A fetching call of a worker.

    Args:
        leases: what it is answered with.
        cancel: likewise.
        waits: whether there is nothing yet.
        call: its number (`Exchange.call`).
    """

    __slots__ = ("_served", "call", "cancel", "leases")

    def __init__(self, leases: list[Lease], cancel: list[Doomed], *, waits: bool, call: int = 0) -> None:
        self.call = call
        self.leases = leases
        self.cancel = cancel
        self._served = threading.Event() if waits else None

    def serve(self, leases: list[Lease], cancel: list[Doomed]) -> None:
        """Answer the call that waits."""
        assert self._served is not None
        self.leases = leases
        self.cancel = cancel
        self._served.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the answer, outside of the lock."""
        return self._served is None or self._served.wait(timeout_s)


class SessionState:
    """One session.

    Args:
        hello: what the caller said last.
        now: the time.
        max_unread: how many ranges that have ended are kept until they are asked for.
    """

    def __init__(self, hello: Hello, now: float, max_unread: int) -> None:
        self.hello = hello
        #: What people call it; see `Sessions.enter`.
        self.name = hello.name
        self.connected_at = now
        self.seen_at = now
        self.connections = 0
        #: How many of them are primary: for a moment two, where a reconnect is seen before the end of what it replaces.
        self.primaries = 0
        #: Whether one of them has ended, and none has come since: the client may be closing.
        self.parting = False
        #: When the session is given up, if it does not come back before; None while it is connected.
        self.lost_at: float | None = None
        #: Receipts of the last submit call, by the submission's number: what a repeat is answered with.
        self.receipts: dict[int, Receipt] = {}
        #: Highest number of a submission that was repeated: up to it, a first time that comes late does not count.
        self.repeated: int | None = None
        #: What the answer to the worker's last report waits for, or waited.
        self.reported: Generation | None = None
        #: Cancellations that the worker has been told on its fetching call.
        self.told: set[tuple[int, int]] = set()
        self.draining = False
        #: Why slots of a worker do not start; empty where they do.
        self.trouble = ""
        #: Batches that it follows beside those that it has submitted.
        self.following: set[int] = set()
        #: Latest progress of running tasks, by batch and index.
        self.progress: dict[tuple[int, int], tuple[float, float]] = {}
        #: What it has read of batches that it has not read whole, by batch.
        self._read: dict[int, Coverage] = {}
        #: Whether more had ended than is kept for it: then it has to say hello again, and to follow anew.
        self.overrun = False
        self._max_unread = max_unread
        #: How much more is kept because it was asked for.
        self._asked = 0
        #: Batches of which all that had ended is in there because it was asked for, and the cursor of its first range.
        self._past: dict[int, int] = {}
        #: The cursor of what an answer of `watch` has brought last.
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
        """Whether it is a worker whose report is on its way to the disk."""
        return self.reported is not None and not self.reported.over

    @property
    def away(self) -> bool:
        """Whether nobody is there at the moment, and it is about to be given up."""
        return self.lost_at is not None

    @property
    def news(self) -> int:
        """The cursor of what ended last: how many tasks have."""
        return self._last

    def publish_past(self, batch: int, runs: list[EndedRange]) -> None:
        """Tell `watch` what had ended when the session asked to follow a batch; not once more while none of that is on
        its way yet, however often it asks.
        """
        if self._past.get(batch, 0) > self._sent:
            return
        self._past[batch] = self._last + 1
        for run in runs:
            self.publish(run, asked=True)

    def publish(self, ended: EndedRange, *, asked: bool = False) -> None:
        """Tell `watch`.

        Args:
            ended: what has ended.
            asked: whether the session has just asked for it: then there is always room.
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
        """Which tasks of a batch it has read and let go; to be added to."""
        return self._read.setdefault(batch, Coverage())

    def read_whole(self, batch: int) -> None:
        """It has read all of a batch."""
        self._read.pop(batch, None)

    def wake(self) -> None:
        """Let a waiting `watch` look again."""
        if self._watching is not None:
            self._watching.set()
            self._watching = None

    def since(self, cursor: int) -> list[tuple[int, EndedRange]]:
        """What ended after the cursor, with the cursor of each; what is before it has arrived and is dropped.

        Raises:
            SessionUnknown: more has ended than is kept.
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
        """An event that is set when something more has ended; a call that watched before is let go."""
        self.wake()
        self._watching = threading.Event()
        return self._watching


class Sessions:
    """All sessions, and who follows which batch.

    Args:
        max_unread: how many ended ranges are kept for each.
    """

    def __init__(self, max_unread: int) -> None:
        self._max_unread = max_unread
        self.by_id: dict[str, SessionState] = {}
        self._followers: dict[int, list[SessionState]] = {}
        #: Fetching calls that wait for work, longest waiting first, by session.
        self.fetching: dict[str, Fetch] = {}

        # Those that nobody is there of, by kind, in the order in which they left, which is that of their deadlines.
        self._away: dict[Role, dict[str, SessionState]] = {role: {} for role in Role}

    def enter(self, hello: Hello, now: float) -> tuple[SessionState, bool]:
        """A connection said hello. A worker with the name of another one that is there is called by its process, too.

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
        """A connection ended."""
        state.connections -= 1
        state.primaries -= primary
        if state.is_worker and primary and state.primaries == 0:
            self._wait_for(state, now + WORKER_GRACE_S)
        elif not state.is_worker:
            if state.connections == 0:
                self._wait_for(state, now + CLIENT_GRACE_S)
            else:
                state.parting = True
                state.wake()  # what it answers finds out whether anybody is there

    def _wait_for(self, state: SessionState, until: float) -> None:
        if self.by_id.get(state.hello.session) is not state:
            return  # given up before its last connection ended
        away = self._away[state.hello.role]
        away.pop(state.hello.session, None)
        away[state.hello.session] = state
        state.lost_at = until

    def expired(self, now: float) -> list[SessionState]:
        """The sessions that did not come back in time, and the first of too many; they are gone now."""
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

    def follow(self, batch: int, state: SessionState) -> None:
        """A session wants to know how the tasks of a batch end that it did not submit on its present connection."""
        if batch not in state.following:
            state.following.add(batch)
            self._followers.setdefault(batch, []).append(state)

    def unfollow(self, batch: int, state: SessionState) -> None:
        """There is nothing (more) to be told about a batch."""
        if batch in state.following:
            state.following.remove(batch)
            self._followers[batch].remove(state)
            if not self._followers[batch]:
                del self._followers[batch]

    def publish(self, ended: EndedRange) -> None:
        """Tell those who follow the batch."""
        submitter = self.by_id.get(ended.session)
        if submitter is not None:
            submitter.publish(ended)
        for state in self._followers.get(ended.batch, ()):
            if state is not submitter:
                state.publish(ended)

    def batches_finished(self, changes: Iterable[Change]) -> None:
        """Nothing more will be told about the batches that are finished by these changes."""
        if not self._followers:
            return
        for change in changes:
            row = change.row if type(change) is Stored else None
            if type(row) is BatchRow and row.finished_at is not None:
                for state in self._followers.pop(row.batch, ()):
                    state.following.discard(row.batch)
