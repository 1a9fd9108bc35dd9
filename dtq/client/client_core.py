"""The part that all faces of a client share: one session with its outbox, sender, watcher, and calls.

Client, below the faces. Nothing here is particular to threads or to an event loop: a face submits, and subscribes to
news (`Following.subscribe`). Threads start with the first submission; a client core survives restarts of the
coordinator, and becomes a client core of its own in a child made by `os.fork`.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from dtq.client.batch_uploads import BatchUpload
from dtq.client.batches import Batch
from dtq.client.client_values import HubValues, ValueLine
from dtq.client.following import Following, Target, Wake
from dtq.client.html_repr import Row
from dtq.client.links import AWAY, FATAL, Connector, Link, Session
from dtq.client.marks import CommitMarker
from dtq.client.outbox import Item, Outbox
from dtq.client.paging import cancel_all, whole_stats, whole_task
from dtq.client.references import Reference
from dtq.client.sender import Sender
from dtq.client.sharing import Shared
from dtq.client.watcher import Watcher
from dtq.errors import ClientClosed, DtqError, StoreReplaced, TooLarge, UnknownId, Unreachable
from dtq.model.messages import Ended
from dtq.model.service import Service
from dtq.model.snapshots import BatchView, CancelReport, OutputPart, Selection, TaskView
from dtq.transport import Backoff
from dtq.wording import counted

log = logging.getLogger("dtq.client")

R = TypeVar("R")

#: Time without acceptance in a full queue after which submissions are refused, in seconds.
FULL_TIMEOUT_S: Final = 300.0
#: Longest time that the coordinator may hold one call for room in a full queue, in seconds.
_HELD_S: Final = 2.0
#: Pause between two checks of an unused connection, in seconds.
_LOOK_S: Final = 0.01
#: A failed check of at least this many seconds counts as slow, and the pause in seconds after one.
_SLOW_S: Final = 0.05
_SLOW_LOOK_S: Final = 600.0
#: Longest wait of an ending program for the submissions of an unclosed client, in seconds.
EXIT_S: Final = 5.0


class ClientCore:
    """One client.

    Args:
        connector: makes connections to the coordinator.
        timeout_s: longest time of a call while the coordinator is away, in seconds.
        full_timeout_s: how long a full queue may accept nothing before submissions are refused, in seconds; 0 to refuse
            them at once.

    Attributes:
        session: this client's session.
        following: the registry of followed tasks.
        outbox: submissions that wait to be sent.
        sender: sends it.
        full_timeout_s: how long submissions wait for room in a full queue, in seconds.
    """

    def __init__(self, connector: Connector, timeout_s: float, full_timeout_s: float = FULL_TIMEOUT_S) -> None:
        self._connector = connector
        self._successor: ClientCore | None = None
        self._succeeding = threading.Lock()
        self.full_timeout_s = full_timeout_s
        self._timeout_s = timeout_s
        self._make(Following(), Session(connector), inherited=False)
        _hubs.add(self)

    def _make(self, following: Following, session: Session, *, inherited: bool) -> None:
        self.following = following
        self.session = session
        self.outbox = Outbox(min(_HELD_S, self.full_timeout_s))
        self._ending = threading.Event()
        up, down = (
            ValueLine(self.session, lambda: self.outbox.closed, self._ending, self._timeout_s) for _ in range(2)
        )
        self._values = HubValues(self.session, up, down)
        self.sender = Sender(
            self.session, self.outbox, following, self.fail, self._values, full_timeout_s=self.full_timeout_s
        )
        self.shared = Shared(
            self._hold, lambda: self.values, self.following.wanted.ring, lambda: self.session.generation
        )
        self._watcher = Watcher(self.session, following, self.fail, self.shared, inherited=inherited)
        self._calls = self.session.link()
        self._look_at = 0.0
        self._starting = threading.Lock()
        self._started = False

    # -- beginning and end ----------------------------------------------------------------------------------------

    @property
    def now(self) -> ClientCore:
        """This core; or, if the coordinator has another store now, a new core for that. This one ends together with its
        tasks.
        """
        if not isinstance(self.outbox.closed, StoreReplaced):
            return self
        with self._succeeding:
            if self._successor is None:
                self._successor = ClientCore(self._connector, self._timeout_s, self.full_timeout_s)
            self._successor = self._successor.now  # intermediate ones must not be kept
            return self._successor

    def looked(self) -> ClientCore:
        """As `now`, for new submissions, after a check that the coordinator is still the same: a restarted queue in
        memory must be noticed before a submission to it.
        """
        at = time.monotonic()
        if self.outbox.closed is None and (at < self._look_at or not self.outbox.idle):
            return self
        core = self.now
        if core.started and at >= core._look_at and core.outbox.idle:
            core._look_at = at + _LOOK_S
            try:
                core.sender.link.connect()  # no effect on an unchanged connection
            except AWAY as error:
                core.session.lost(error)
                if time.monotonic() - at > _SLOW_S:  # no refusal: calls wait for it, submissions gather
                    core._look_at = at + _SLOW_LOOK_S
            except FATAL as error:
                core.fail(error)
        return core.now

    @property
    def started(self) -> bool:
        """Whether `start` has nothing left to do, and so does not wait."""
        return self._started

    def start(self) -> None:
        """Connect, unless connected: from then on the client waits for a coordinator that is away.

        Raises:
            Unreachable, WrongKey, ProtocolMismatch: the first connection does not work.
            ClientClosed: the client was closed.
        """
        if not self._started:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._started:
                return
            if self.outbox.closed is not None:
                raise self.outbox.closed
            if not self.session.generation:
                self.sender.link.connect()
            self.sender.start()
            self._watcher.start()
            self.following.asleep = None
            self._started = True

    @property
    def values(self) -> HubValues | None:
        """The store of large values; None if the coordinator keeps no values, or is not known yet."""
        return None if self.session.values is None else self._values

    @property
    def settled(self) -> bool:
        """Whether all earlier submissions are accepted or refused."""
        return not self._started or self.sender.settled

    def fail(self, error: DtqError) -> None:
        """Fail for good: tell all waiters."""
        self.outbox.close(error)
        self._ending.set()
        self.sender.end()
        self._watcher.end()
        self._calls.close()
        self.following.fail(error)
        self._drop([*self.sender.underway, *self.outbox.empty()], error)
        self._values.close()

    def close(self, timeout_s: float | None) -> None:
        """Send the remaining submissions, and end. Calling it twice does no harm.

        Args:
            timeout_s: longest time for that, in seconds; None for ever.

        Raises:
            Unreachable: the coordinator was away until the time ran out; the unaccepted submissions are refused.
        """
        if self._ending.is_set():
            return
        error = ClientClosed(f"it was connected to {self.session.place}")
        self.outbox.close(error)
        flushed = self.sender.flush(timeout_s)
        self.fail(error)
        _hubs.discard(self)
        if not flushed:
            raise Unreachable(self.session.place, "what was submitted last was not accepted; its handles say so")

    def _drop(self, receivers: Sequence[Target | BatchUpload], error: DtqError) -> None:
        wakes: list[Wake] = []
        with self.following.lock:
            for receiver in receivers:
                target = receiver.batch if isinstance(receiver, BatchUpload) else receiver
                target._on_failed(error, wakes)
        for wake in wakes:
            wake()

    def after_fork(self) -> None:
        """In a child made by `os.fork`: become a client of its own, which still knows its parent's handles."""
        if self.outbox.closed is not None:
            return
        lost: list[Target | BatchUpload] = [*self.sender.underway, *self.outbox.empty_after_fork()]
        for link in (self.sender.link, self._watcher.link, self._calls):
            link.close()  # this process's copies of them
        following = Following(asleep=self.start)
        wakes: list[Wake] = []
        for batch, target in self.following.heirs():
            following.add(batch, target, wakes)
        self._make(following, Session(self._connector, self.session.store), inherited=True)
        self._drop(lost, ClientClosed("this task was being submitted when the process forked; its parent has it"))

    # -- calls ----------------------------------------------------------------------------------------------------

    def call(self, ask: Callable[[Service], R], *, again: bool = True, link: Link | None = None) -> R:
        """Make a call to the coordinator, in this thread.

        Args:
            ask: makes the call.
            again: whether it may be repeated if its answer was lost.
            link: a connection for calls that wait; None for the one that all other calls share.

        Raises:
            Unreachable: the coordinator is away, and did not come back in time.
            DtqError: the call's error.
        """
        deadline: float | None = None if link is not None else time.monotonic() + self._timeout_s
        link = link or self._calls
        backoff = Backoff()
        while True:
            if self.outbox.closed is not None:
                link.close()
                raise self.outbox.closed
            known = self.session.generation > 0
            asked = False
            try:
                link.connect()
                asked = True
                return ask(link.service)
            except AWAY as error:
                deadline = deadline or time.monotonic() + self._timeout_s  # a call that waited may have waited long
                left = deadline - time.monotonic()
                if not known or left <= 0 or (asked and not again):
                    raise
                self.session.lost(error)
                self._ending.wait(min(backoff.next_s(), left))
            except FATAL as error:
                self.fail(error)
                raise

    def call_behind(self, ask: Callable[[Service], R], *, more: Callable[[R], bool] = lambda _: False) -> list[R]:
        """As `call`, once all earlier submissions are accepted or refused.

        Submissions that wait for room in a full queue are not waited for; but if the call may have made room, it is
        repeated after the submissions that this let in.

        Args:
            ask: makes the call.
            more: whether an answer shows that there may be room now.

        Returns:
            The answers, one or several.

        Raises:
            As `call`.
        """
        mark = self.outbox.mark() if self._started else None
        answers: list[R] = []
        while True:
            passed = mark is None or self._await(mark)
            answers.append(self.call(ask))
            if mark is None or passed or not more(answers[-1]):
                return answers
            self.outbox.watch(mark)

    def _await(self, mark: CommitMarker) -> bool:
        """Wait for a mark, unless the coordinator is away for too long; whether it was passed."""
        while not mark.wait(self._timeout_s):
            if self.outbox.closed is not None or self.session.away:
                return True  # the call raises the error
        return mark.passed

    def standing(self) -> list[Row]:
        """The client's state for people; asks the coordinator only if that is known to be connected."""
        if self.outbox.closed is not None:
            return [("state", "closed")]
        if not self.session.generation:
            return [("state", "not connected yet")]
        if self.session.away:
            return [("state", "the coordinator is away")]
        try:
            stats = whole_stats(self._calls.service)
        except DtqError as error:
            return [("state", str(error))]
        counts = ((name, getattr(stats.counts, name)) for name in stats.counts.__slots__)
        return [
            ("state", "connected"),
            ("workers", f"{len(stats.workers)}, {counted(sum(worker.slots for worker in stats.workers), 'slot')}"),
            *((name, f"{count:,}") for name, count in counts if count),
        ]

    def task(self, batch: int, index: int) -> TaskView:
        """See `Service.task`."""
        return self.call(lambda service: whole_task(service, batch, index))

    def output(
        self, batch: int, index: int, attempt: int, offset: int, wait_s: float, link: Link | None = None
    ) -> OutputPart:
        """See `Service.output`; with a connection of its own for a call that waits."""
        return self.call(lambda service: service.output(batch, index, attempt, offset, wait_s), link=link)

    def batch(self, batch: int) -> BatchView:
        """See `Service.batch`."""
        return self.call(lambda service: service.batch(batch))

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """See `Service.results`."""
        return self.call(lambda service: service.results(batch, lo, hi))

    def _hold(self, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        return self.call(lambda service: service.hold(digest, description, ttl_s))

    def put(self, value: object, ttl_s: float) -> Reference:
        """Keep a value for later calls; see `Shared.put`."""
        self.start()
        try:
            return self.shared.put(value, ttl_s)
        except TooLarge as error:
            raise TooLarge("the value that is put", *error.args[1:]) from None

    def cancel(self, ids: Sequence[tuple[int, int]]) -> CancelReport:
        """Stop tasks; see `Service.cancel`."""
        return self.call(partial(cancel_all, selection=Selection(ids=tuple(ids), limit=0)))

    def drop(self, item: Item) -> None:
        """Drop a prepared submission."""
        if item.described:
            self._values.settle_blobs([item.blob])

    def follow(self, batch: Batch) -> None:
        """Subscribe to news of a batch, past ends included; once is enough.

        Raises:
            UnknownId: it was never accepted.
            ResultExpired: it is no longer kept.
        """
        self.start()
        wakes: list[Wake] = []
        with self.following.lock:
            if batch.followed:
                return
            batch.followed = True
            self.following.add(batch.number, batch, wakes)
        for wake in wakes:
            wake()
        try:
            if self.call(lambda service: service.follow([batch.number])):
                self.batch(batch.number)  # raises whether it has expired, or never existed
                raise UnknownId(str(batch.number))
        except DtqError:
            batch.followed = False
            raise


#: All hubs that are not closed.
_hubs: Final[weakref.WeakSet[ClientCore]] = weakref.WeakSet()


def hubs_of(connector: Connector) -> list[ClientCore]:
    """The clients of a connector that are not closed."""
    return [core for core in list(_hubs) if core._connector is connector]


@atexit.register
def _close_all() -> None:
    for core in list(_hubs):
        try:
            core.close(EXIT_S)
        except Unreachable as lost:
            log.warning("%s", lost)


def _after_fork() -> None:
    for core in list(_hubs):
        core.after_fork()


os.register_at_fork(after_in_child=_after_fork)
