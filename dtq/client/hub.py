"""The part that all faces of a client share: one session with its outbox, sender, watcher, and calls.

Client, below the faces. Nothing here is particular to threads or to an event loop: a face submits, and subscribes to
news (`Following.subscribe`). Threads start with the first submission; a hub survives restarts of the coordinator, and
becomes a hub of its own in a child made by `os.fork`.
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

from dtq.client.batches import Batch
from dtq.client.feeds import Feed
from dtq.client.following import Following, Target, Wake
from dtq.client.hub_values import HubValues, ValueLine
from dtq.client.links import AWAY, FATAL, Connector, Session
from dtq.client.marks import Mark
from dtq.client.notebook import Row
from dtq.client.outbox import Item, Outbox
from dtq.client.paging import cancel_all, whole_stats, whole_task
from dtq.client.references import Reference
from dtq.client.sender import Sender
from dtq.client.sharing import Shared
from dtq.client.watcher import Watcher
from dtq.errors import ClientClosed, DtqError, StoreReplaced, TooLarge, UnknownId, Unreachable
from dtq.model.messages import Ended
from dtq.model.service import Service
from dtq.model.snapshots import BatchView, CancelReport, Selection, TaskView
from dtq.transport import Backoff
from dtq.wording import counted

log = logging.getLogger("dtq.client")

R = TypeVar("R")

#: For how long a full queue may take nothing before submissions are refused, in seconds.
FULL_TIMEOUT_S: Final = 300.0
#: How long the coordinator may hold one call for room in a full queue, in seconds.
_HELD_S: Final = 2.0
#: How often it is looked whether a connection that nobody uses is still there, in seconds.
_LOOK_S: Final = 0.01
#: From how many seconds on a look that finds nobody is slow, and how long there is none then.
_SLOW_S: Final = 0.05
_SLOW_LOOK_S: Final = 600.0
#: How long a program that ends without closing its client waits for what it submitted, in seconds.
EXIT_S: Final = 5.0


class Hub:
    """One client.

    Args:
        connector: makes lines to the coordinator.
        timeout_s: how long a call may take while the coordinator is away, in seconds.
        full_timeout_s: for how long a full queue may take nothing before submissions are refused, in seconds; 0 to
            have them refused at once.

    Attributes:
        session: who this client is.
        following: what it waits for.
        outbox: what waits to be sent.
        sender: sends it.
        full_timeout_s: how long submissions wait for room in a full queue, in seconds.
    """

    def __init__(self, connector: Connector, timeout_s: float, full_timeout_s: float = FULL_TIMEOUT_S) -> None:
        self._connector = connector
        self._successor: Hub | None = None
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
    def now(self) -> Hub:
        """This hub; where the coordinator has another store now, one that begins anew with that. What belongs to this
        one ends with it."""
        if not isinstance(self.outbox.closed, StoreReplaced):
            return self
        with self._succeeding:
            if self._successor is None:
                self._successor = Hub(self._connector, self._timeout_s, self.full_timeout_s)
            self._successor = self._successor.now  # those in between are not to be kept
            return self._successor

    def looked(self) -> Hub:
        """As `now`, for something new, once it was seen whether the coordinator is still the one of before: a queue in
        memory that has begun anew is to be noticed before something is submitted to it, not by that."""
        hub, at = self.now, time.monotonic()
        if hub.started and at >= hub._look_at and hub.outbox.idle:
            hub._look_at = at + _LOOK_S
            try:
                hub.sender.link.connect()  # nothing, where the connection is as it was
            except AWAY as error:
                hub.session.lost(error)
                if time.monotonic() - at > _SLOW_S:  # nobody says no: others wait for it, and submissions gather
                    hub._look_at = at + _SLOW_LOOK_S
            except FATAL as error:
                hub.fail(error)
        return hub.now

    @property
    def started(self) -> bool:
        """Whether `start` has nothing more to do, and so does not wait."""
        return self._started

    def start(self) -> None:
        """Connect, unless connected: from then on a coordinator that is away is waited for.

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
        """Where what is large is written and read; None where the coordinator keeps no values, or is not known yet."""
        return None if self.session.values is None else self._values

    @property
    def settled(self) -> bool:
        """Whether everything that was submitted before is accepted or refused."""
        return not self._started or self.sender.settled

    def fail(self, error: DtqError) -> None:
        """Nothing works any more, and never will: tell everybody who waits."""
        self.outbox.close(error)
        self._ending.set()
        self.sender.end()
        self._watcher.end()
        self._calls.close()
        self.following.fail(error)
        self._drop([*self.sender.underway, *self.outbox.empty()], error)
        self._values.close()

    def close(self, timeout_s: float | None) -> None:
        """Send what was submitted, and end. Calling it twice does no harm.

        Args:
            timeout_s: how long sending may take, in seconds; None for ever.

        Raises:
            Unreachable: the coordinator was away until the time ran out; what was not accepted has been refused.
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

    def _drop(self, receivers: Sequence[Target | Feed], error: DtqError) -> None:
        wakes: list[Wake] = []
        with self.following.lock:
            for receiver in receivers:
                target = receiver.batch if isinstance(receiver, Feed) else receiver
                target._on_failed(error, wakes)
        for wake in wakes:
            wake()

    def after_fork(self) -> None:
        """In a child made by `os.fork`: be a client of its own, that still knows the handles of its parent."""
        if self.outbox.closed is not None:
            return
        lost: list[Target | Feed] = [*self.sender.underway, *self.outbox.empty_after_fork()]
        for link in (self.sender.link, self._watcher.link, self._calls):
            link.close()  # this process's copies of them
        following = Following(asleep=self.start)
        wakes: list[Wake] = []
        for batch, target in self.following.heirs():
            following.add(batch, target, wakes)
        self._make(following, Session(self._connector, self.session.store), inherited=True)
        self._drop(lost, ClientClosed("this task was being submitted when the process forked; its parent has it"))

    # -- calls ----------------------------------------------------------------------------------------------------

    def call(self, ask: Callable[[Service], R], *, again: bool = True) -> R:
        """Ask the coordinator something, in this thread.

        Args:
            ask: makes the call.
            again: whether it may be made again where its answer was lost.

        Raises:
            Unreachable: the coordinator is away, and did not come back in time.
            DtqError: what the call raises.
        """
        deadline = time.monotonic() + self._timeout_s
        backoff = Backoff()
        while True:
            if self.outbox.closed is not None:
                self._calls.close()
                raise self.outbox.closed
            known = self.session.generation > 0
            asked = False
            try:
                self._calls.connect()
                asked = True
                return ask(self._calls.service)
            except AWAY as error:
                left = deadline - time.monotonic()
                if not known or left <= 0 or (asked and not again):
                    raise
                self.session.lost(error)
                self._ending.wait(min(backoff.next_s(), left))
            except FATAL as error:
                self.fail(error)
                raise

    def call_behind(self, ask: Callable[[Service], R], *, more: Callable[[R], bool] = lambda _: False) -> list[R]:
        """As `call`, once all that was submitted before is accepted or refused.

        What a full queue has no room for is not waited for; but where the call may have made room, it is made again
        behind what has come in by that.

        Args:
            ask: makes the call.
            more: whether an answer says that there may be room now.

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

    def _await(self, mark: Mark) -> bool:
        """Wait for a mark, unless the coordinator is away for too long; whether it was passed."""
        while not mark.wait(self._timeout_s):
            if self.outbox.closed is not None or self.session.away:
                return True  # the call says so
        return mark.passed

    def standing(self) -> list[Row]:
        """How things stand, for people to look at; asks the coordinator only where it is known to be there."""
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

    def batch(self, batch: int) -> BatchView:
        """See `Service.batch`."""
        return self.call(lambda service: service.batch(batch))

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """See `Service.results`."""
        return self.call(lambda service: service.results(batch, lo, hi))

    def _hold(self, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        return self.call(lambda service: service.hold(digest, description, ttl_s))

    def put(self, value: object, ttl_s: float) -> Reference:
        """Have a value kept for calls that are submitted later; see `Shared.put`."""
        self.start()
        try:
            return self.shared.put(value, ttl_s)
        except TooLarge as error:
            raise TooLarge("the value that is put", *error.args[1:]) from None

    def cancel(self, ids: Sequence[tuple[int, int]]) -> CancelReport:
        """Stop tasks; see `Service.cancel`."""
        return self.call(partial(cancel_all, selection=Selection(ids=tuple(ids), limit=0)))

    def drop(self, item: Item) -> None:
        """A submission that was prepared is not sent after all."""
        if item.described:
            self._values.settle_blobs([item.blob])

    def follow(self, batch: Batch) -> None:
        """Have news of a batch sent from now on, and of what has ended already; once is enough.

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
                self.batch(batch.number)  # says whether it has expired, or never was
                raise UnknownId(str(batch.number))
        except DtqError:
            batch.followed = False
            raise


#: All hubs that are not closed.
_hubs: Final[weakref.WeakSet[Hub]] = weakref.WeakSet()


def hubs_of(connector: Connector) -> list[Hub]:
    """The clients of a connector that are not closed."""
    return [hub for hub in list(_hubs) if hub._connector is connector]


@atexit.register
def _close_all() -> None:
    for hub in list(_hubs):
        try:
            hub.close(EXIT_S)
        except Unreachable as lost:
            log.warning("%s", lost)


def _after_fork() -> None:
    for hub in list(_hubs):
        hub.after_fork()


os.register_at_fork(after_in_child=_after_fork)
