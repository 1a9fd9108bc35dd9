"""The worker's two connections to the coordinator: one that may wait for work, one that never waits.

Each has a thread of its own. The reporting one is the session's primary connection: when it ends, the coordinator gives
the worker half a second to come back. Both reconnect for ever while the coordinator is away; outcomes of that time are
kept and reported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from dtq.errors import (
    DtqError,
    ProtocolMismatch,
    RoleMissing,
    SessionUnknown,
    StoreError,
    UnknownId,
    WorkerBroken,
    WrongKey,
)
from dtq.model.dashboard import SlotUse
from dtq.model.lru import SizedLru
from dtq.model.messages import Exchange, Grant, Orders, Welcome, WorkerOrder, largest_outcome
from dtq.model.options import Spec
from dtq.records import replace
from dtq.transport.backoff import Backoff
from dtq.worker.measuring import Measures
from dtq.worker.supervisor import Supervisor

log = logging.getLogger("dtq.worker")

#: Longest wait of a fetching call for work at the coordinator, in seconds.
FETCH_WAIT_S: Final = 10.0
#: Longest wait of outcomes for others while all slots are busy, in seconds: if they end a lease, so that the worker can
#: be given more, a moment in which the others may end too; if not, the time of a lease of tiny tasks.
GATHER_S: Final = 0.004
GATHER_PARTS_S: Final = 0.02
#: Bytes of outcomes in one report, if messages may be so large; a larger outcome goes alone. Reports are short for the
#: sake of heartbeats.
REPORT_BYTES: Final = 2 << 20
#: Failures of a thread soon after its start before the worker ends; and the limit of soon, in seconds.
MAX_STUMBLES: Final = 10
STEADY_S: Final = 60.0
#: Orders, as the log tells them.
_ORDERED: Final = {
    WorkerOrder.WORK: "take tasks again",
    WorkerOrder.STAY: "finish its running tasks, and take no others for now",
    WorkerOrder.DRAIN: "finish its running tasks, and end",
    WorkerOrder.STOP: "give its running tasks back, and end",
}
#: Most remembered specs, and most bytes of functions that travelled by value.
MAX_SPECS: Final = 1_000
MAX_SPEC_BYTES: Final = 8 << 20


def _refusal(error: Exception) -> bool:
    """Whether the error refuses the message itself: a repetition would be refused again."""
    # After a first acceptance, a refusal of the worker's key rather comes from another program on the coordinator's
    # port.
    return not isinstance(error, WrongKey) and not (isinstance(error, DtqError) and error.retryable)


class Line(Protocol):
    """A connection to the coordinator, as `transport.Proxy` is one."""

    def exchange(self, exchange: Exchange) -> Orders:
        """See `Service.exchange`."""
        ...

    def spec(self, number: int) -> Spec:
        """See `Service.spec`."""
        ...

    def note_slots(self, wall: float, slots: list[SlotUse]) -> None:
        """See `Service.note_slots`."""
        ...

    def reconnect(self) -> None:
        """Begin the next call with a new connection and hello."""
        ...

    def close(self) -> None:
        """End a call that is under way, from any thread; no more calls."""
        ...


class Link:
    """Carries messages between a supervisor and the coordinator.

    Args:
        supervisor: the supervisor.
        reporting: the primary connection.
        fetching: the other one.
        heartbeat_s: longest time between two reports, in seconds.
        where: the coordinator's address, for the log.
        fetch_wait_s: longest wait of a fetching call at the coordinator, in seconds.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        reporting: Line,
        fetching: Line,
        *,
        heartbeat_s: float,
        where: str,
        fetch_wait_s: float = FETCH_WAIT_S,
    ) -> None:
        self._supervisor = supervisor
        self._reporting = reporting
        self._fetching = fetching
        self._heartbeat_s = heartbeat_s
        self._where = where
        self._fetch_wait_s = fetch_wait_s
        self._specs: SizedLru[int, Spec] = SizedLru(MAX_SPEC_BYTES, MAX_SPECS)
        #: Guards that, as both threads use it.
        self._specs_lock = threading.Lock()
        #: The coordinator's epoch that they belong to.
        self._epoch = 0
        self._away = False
        self._unrecorded = False
        self._refused = False
        #: Number of the next reports that have one outcome each, after one of them was refused.
        self._singly = 0
        self._report_bytes = self._largest = REPORT_BYTES
        self._measures = Measures()
        #: When the slots are accounted for next, ``time.monotonic()``.
        self._account_at = 0.0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), name=f"dtq-{name}", daemon=True)
            for name, run in (("report", self._report), ("fetch", self._fetch))
        ]

    def on_welcome(self, welcome: Welcome) -> None:
        """Note a hello's answer: the coordinator may be another one now, with other limits. Any thread."""
        self._heartbeat_s = welcome.heartbeat_s
        if welcome.epoch != self._epoch:
            self._epoch = welcome.epoch
            with self._specs_lock:  # a coordinator with a new store counts specs anew
                self._specs = SizedLru(MAX_SPEC_BYTES, MAX_SPECS)
        self._report_bytes = min(REPORT_BYTES, welcome.max_message // 4)
        self._largest = largest_outcome(welcome.max_message)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, and say goodbye: all leases at the coordinator go back at once."""
        self._stopping.set()
        self._fetching.close()
        with self._supervisor.lock:
            self._supervisor.announce()
        for thread in self._threads:
            thread.join(5.0)
        with self._supervisor.lock:
            farewell = self._supervisor.exchanges.farewell()
        try:
            self._reporting.exchange(farewell)
        except DtqError as error:
            log.info("could not say goodbye to the coordinator (%s); it will notice", error)
        self._reporting.close()

    def _guard(self, run: Callable[[], None]) -> None:
        """The edge of a thread: an unexpected error is logged, and the thread goes on. A worker whose thread fails
        again and again is unfit, and ends.
        """
        backoff = Backoff()
        stumbles = 0
        while stumbles < MAX_STUMBLES:
            began = time.monotonic()
            try:
                return run()
            except Exception:
                log.exception("a thread of the worker failed, and goes on")
            if time.monotonic() - began > STEADY_S:
                stumbles = 0
                backoff.reset()
            stumbles += 1
            self._stopping.wait(backoff.next_s())
        self._fatal(DtqError("the worker failed again and again at something of its own; its log has the tracebacks"))

    def _fatal(self, error: DtqError) -> None:
        self._supervisor.lifecycle.fatal = error
        self._stopping.set()
        self._supervisor.wake()

    def _call(self, line: Line, exchange: Exchange, backoff: Backoff) -> Orders | None:
        """One exchange; None if it failed and the caller should build a new message.

        A refusal concerns this message, and the next one may be accepted. So the worker only ends if it is told to, or
        if the coordinator will never accept it.
        """
        try:
            orders = line.exchange(exchange)
        except Exception as error:  # noqa: BLE001 - also what is no message at all, for a defect or a slot's words
            with self._supervisor.lock:
                self._supervisor.calls.over(exchange.call)
            self._on_failure(exchange, line, error, backoff)
            return None
        backoff.reset()
        self._note_success(line)
        return orders

    def _on_failure(self, exchange: Exchange, line: Line, error: Exception, backoff: Backoff) -> None:
        if isinstance(error, SessionUnknown):
            log.warning("the coordinator at %s does not know this worker any more; introducing it again", self._where)
            line.reconnect()
        elif isinstance(error, WorkerBroken):
            self._supervisor.leave(error)
        elif self._stopping.is_set():
            return
        elif isinstance(error, ProtocolMismatch | RoleMissing):
            self._fatal(error)
        else:
            self._note_failure(error)
            if _refusal(error):
                self._on_refused(exchange, error)
            else:
                self._keep_progress(exchange)
            self._stopping.wait(backoff.next_s())

    # -- refused messages -----------------------------------------------------------------------------------------

    def _on_refused(self, exchange: Exchange, error: Exception) -> None:
        """Handle a refused message: from now on its outcomes go one by one. An outcome that is refused alone, while an
        empty message is accepted, has failed.
        """
        outcomes = len(exchange.succeeded) + len(exchange.failed) + len(exchange.released)
        if exchange.fetch:
            return
        self._singly = max(1, outcomes)
        if outcomes == 1 and not exchange.progress and self._heard_without(exchange):
            log.error("the outcome of a task cannot be reported, it fails with the reason: %s", error)
            with self._supervisor.lock:
                self._supervisor.holdings.refuse(error)

    def _heard_without(self, exchange: Exchange) -> bool:
        """Whether the same message is accepted without its outcomes."""
        try:
            orders = self._reporting.exchange(replace(exchange, succeeded=(), failed=(), released=(), more=False))
        except Exception as error:  # noqa: BLE001 - as above: it is the message, or the coordinator
            log.debug("neither is a message without outcomes taken: %s", error)
            return False
        with self._supervisor.lock:
            self._obey(orders)
        return True

    def _keep_progress(self, exchange: Exchange) -> None:
        with self._supervisor.lock:
            self._supervisor.holdings.keep_progress(exchange.progress)

    @property
    def hindrance(self) -> str:
        """The reason why results are not reported now; "" while they are."""
        if self._away:
            return f"results wait for the coordinator at {self._where}, which is away"
        return "results cannot be recorded by the coordinator yet" if self._unrecorded else ""

    def _note_failure(self, error: Exception) -> None:
        """Log the first of several failures."""
        if _refusal(error):
            if not self._refused:
                self._refused = True
                log.error("the coordinator at %s refused a message: %s Tasks go on.", self._where, error)
        elif isinstance(error, StoreError):
            if not self._unrecorded:
                self._unrecorded = True
                log.warning("outcomes cannot be recorded yet: %s Tasks go on; reporting again.", error)
        elif not self._away:
            self._away = True
            log.warning("lost the coordinator: %s Tasks go on; trying again.", error)

    def _note_success(self, line: Line) -> None:
        self._refused = self._refused and line is not self._reporting
        if self._away:
            self._away = False
            log.warning("the coordinator at %s is back", self._where)
        if self._unrecorded and line is self._reporting:
            self._unrecorded = False
            log.warning("outcomes are recorded again")

    # -- reporting ------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        supervisor = self._supervisor
        backoff = Backoff()
        said: tuple[object, ...] = ()
        while not self._stopping.is_set():
            with supervisor.lock:
                deadline = time.monotonic() + self._heartbeat_s
                while not self._something_to_say(said) and not self._stopping.is_set():
                    due_at = supervisor.live.due_at
                    left = min(deadline, deadline if due_at is None else due_at) - time.monotonic()
                    if left <= 0:
                        break
                    supervisor.news.wait(left)
                self._gather()
                singly, self._singly = self._singly, max(0, self._singly - 1)
                room = 0 if singly else self._report_bytes
                exchange = supervisor.exchange(fetch=False, room=room, largest=self._largest, quiet=singly > 0)
            said = ()
            orders = self._call(self._reporting, exchange, backoff)
            if orders is None:
                with supervisor.lock:
                    supervisor.live.failed()
                continue
            said = exchange.capacity, exchange.trouble, exchange.follows
            granted = self._with_specs(orders.grants, self._reporting)
            with supervisor.lock:
                burdened = supervisor.holdings.burdened
                supervisor.exchanges.acknowledged()
                if orders.follow or supervisor.live:
                    supervisor.live.only(orders.follow)
                if burdened:
                    supervisor.announce()  # more work may be asked for, once fewer outcomes wait
                self._obey(orders)
                if granted:
                    supervisor.leases.granted(granted)
                supervisor.calls.over(exchange.call)
            self._follow(orders)
            if supervisor.lifecycle.draining:
                supervisor.wake()
            if time.monotonic() >= self._account_at:
                self._account()

    def _account(self) -> None:
        """Say what the slots run and use: for people, so seldom, and without a second try."""
        with self._supervisor.lock:
            slots = self._supervisor.exchanges.slots_in_use()
        self._account_at = time.monotonic() + self._heartbeat_s
        self._supervisor.shortage.look()
        try:
            self._reporting.note_slots(time.time(), self._measures.of(slots))
        except Exception as error:  # noqa: BLE001 - as above: nothing of it may end the worker
            log.debug("the slots were not accounted for: %s", error)

    def _gather(self) -> None:
        """While all slots are busy, wait a moment for further outcomes: each report costs the coordinator a commit."""
        since = time.monotonic()
        while self._supervisor.exchanges.saturated and not self._stopping.is_set():
            longest_s = GATHER_S if self._supervisor.holdings.urgent else GATHER_PARTS_S
            left = since + longest_s - time.monotonic()
            if left <= 0:
                return
            self._supervisor.pressing.wait(left)

    def _something_to_say(self, said: tuple[object, ...]) -> bool:
        """Whether there is news.

        Args:
            said: the last reported state of the worker: how many slots can run tasks, why others do not start, and the
                order that it follows.
        """
        holdings = self._supervisor.holdings
        return bool(
            holdings.outbox
            or holdings.reporting
            or holdings.outbox.progress
            or (self._supervisor.capacity, self._supervisor.lifecycle.trouble, self._supervisor.lifecycle.follows)
            != said
        )

    def _obey(self, orders: Orders) -> None:
        if orders.follow:
            self._supervisor.live.add(orders.follow)
            self._supervisor.announce()
        for cancellation in orders.cancel:
            self._supervisor.leases.cancel(cancellation)
        for token in orders.drop:
            self._supervisor.leases.drop(token)
        if orders.cancel or orders.drop:
            self._supervisor.wake()

    def _follow(self, orders: Orders) -> None:
        """Follow an operator's order, if there is one."""
        if orders.order is not None and not self._stopping.is_set():
            log.warning("an operator orders this worker to %s", _ORDERED[orders.order])
            self._supervisor.follow(orders.order)

    # -- fetching -------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        supervisor = self._supervisor
        backoff = Backoff()
        while not self._stopping.is_set():
            with supervisor.lock:
                while not self._stopping.is_set() and not supervisor.lifecycle.listens:
                    if supervisor.capacity and not supervisor.holdings.burdened:
                        break
                    supervisor.news.wait()
                exchange = supervisor.exchange(fetch=True, wait_s=self._fetch_wait_s)
            if self._stopping.is_set():
                return
            orders = self._call(self._fetching, exchange, backoff)
            if orders is None:
                continue
            granted = self._with_specs(orders.grants, self._fetching)
            with supervisor.lock:
                self._obey(orders)
                if granted:
                    supervisor.leases.granted(granted)
                supervisor.calls.over(exchange.call)
            self._follow(orders)

    def _with_specs(self, grants: tuple[Grant, ...], line: Line) -> list[tuple[Grant, Spec]]:
        return [(grant, spec) for grant in grants if (spec := self._spec_of(grant, line)) is not None]

    def _spec_of(self, grant: Grant, line: Line) -> Spec | None:
        """The grant's spec; None if it cannot be had: then the lease is not mentioned again, and so taken back; or,
        after a refusal, its tasks fail with that.
        """
        with self._specs_lock:
            spec = self._specs.get(grant.spec)
        if spec is not None:
            return spec
        try:
            spec = line.spec(grant.spec)
        except UnknownId:
            return None
        except Exception as error:  # noqa: BLE001 - also one that nobody thought of is of this lease alone
            log.warning("cannot fetch the function of task %d.%d: %s", grant.batch, grant.lo, error)
            if _refusal(error):  # taken back, it would be granted again, and refused again
                with self._supervisor.lock:
                    self._supervisor.holdings.unknown(grant, error)
            return None
        with self._specs_lock:
            self._specs.put(grant.spec, spec, len(spec.function.body))
        return spec
