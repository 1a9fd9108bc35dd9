"""A worker's two connections: whatever arrives late, twice or never, nothing that the worker has is handed out again.

The worker numbers its calls as the product does. The wire between it and the coordinator keeps, repeats, reorders and
loses; the coordinator restarts. ``DTQ_PROPERTY_EXAMPLES=2000`` runs so many histories, other ones each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dtq.core.leases import Lease
from dtq.model import pages
from dtq.model.messages import Exchange, Holding, Released, Succeeded
from dtq.model.states import State
from dtq.worker.calls import Calls
from tests.driver import Driver

EXAMPLES = os.environ.get("DTQ_PROPERTY_EXAMPLES")

pick = st.integers(0, 1_000)
lines = st.booleans()


@dataclass(slots=True)
class Held:
    """A lease at the worker: its tasks ``[next, end)`` have not ended."""

    next: int
    end: int

    @property
    def ended(self) -> bool:
        return self.next >= self.end


@dataclass(slots=True)
class Sent:
    """An exchange as the worker has made it up, or the answer to it."""

    exchange: Exchange
    grants: list[tuple[int, int, int]] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)


class TwoLines(RuleBasedStateMachine):
    """One history of one worker; a line is known by whether it fetches."""

    @initialize()
    def begin(self) -> None:
        self.driver = Driver(lease_s=1e9)
        self.driver.attach("w1", 2)
        self.driver.submit(1)
        self.driver.succeed(self.driver.lease_one(), seconds=0.005)  # tiny: leases of some tasks, and ahead of need
        self.calls = Calls()
        for _ in range(self.driver.next_call()):
            self.calls.over(self.calls.begin(fetch=True)[0])
        self.held: dict[int, Held] = {}
        self.succeeded: list[Succeeded] = []
        self.released: list[Released] = []
        #: The call of each line, while its answer is waited for.
        self.under_way: dict[bool, Exchange] = {}
        self.requests: list[Sent] = []
        self.answers: list[Sent] = []
        #: Fetching calls that wait at the coordinator.
        self.waiting: list[Sent] = []

    @rule(count=st.sampled_from([1, 1, 3, 8]))
    def submit(self, count: int) -> None:
        self.driver.submit(count)

    # -- the worker -------------------------------------------------------------------------------------------------

    @rule(fetch=lines, capacity=st.sampled_from([2, 2, 2, 0, 1]))
    def send(self, fetch: bool, capacity: int) -> None:
        if fetch not in self.under_way:
            self._send(fetch, capacity)

    def _send(self, fetch: bool, capacity: int) -> None:
        call, beside = self.calls.begin(fetch=fetch)
        holding = tuple(Holding(token=token, done=held.ended) for token, held in self.held.items())
        exchange = Exchange(
            holding=holding, capacity=capacity, fetch=fetch, more=not fetch, wait_s=9.0, call=call, beside=beside
        )
        if not fetch:
            exchange = replace(exchange, succeeded=tuple(self.succeeded), released=tuple(self.released))
        self.under_way[fetch] = exchange
        self.requests.append(Sent(exchange))

    @rule(fetch=lines, count=st.sampled_from([0, 1, 2]))
    def talk(self, fetch: bool, count: int) -> None:
        """One call from end to end, while those of the other line lie where they are."""
        if fetch in self.under_way:
            self.give_up(fetch)
        self.submit(count)
        self._send(fetch, 2)
        self._deliver(self.requests.pop())
        for answer in [each for each in self.answers if each.exchange is self.under_way.get(fetch)]:
            self.answers.remove(answer)
            self._receive(answer)

    talk_on = talk

    @rule(which=pick, count=st.integers(1, 4))
    def finish(self, which: int, count: int) -> None:
        """Tasks of a lease have returned."""
        at_work = [(token, held) for token, held in self.held.items() if not held.ended]
        if at_work:
            token, held = at_work[which % len(at_work)]
            count = min(count, held.end - held.next)
            results = pages.pack([b"done"] * count)
            self.succeeded.append(Succeeded(token=token, lo=held.next, results=results, seconds=0.005 * count))
            held.next += count

    @rule(which=pick)
    def give_back(self, which: int) -> None:
        """The last task of a lease goes back."""
        at_work = [(token, held) for token, held in self.held.items() if not held.ended]
        if at_work:
            token, held = at_work[which % len(at_work)]
            held.end -= 1
            self.released.append(Released(token=token, lo=held.end, hi=held.end + 1))

    @rule(fetch=lines)
    def give_up(self, fetch: bool) -> None:
        """The connection is lost, and with it the answer; what was sent may still arrive."""
        exchange = self.under_way.pop(fetch, None)
        if exchange is not None:
            self.calls.over(exchange.call)

    @rule(which=pick)
    def receive(self, which: int) -> None:
        if self.answers:
            self._receive(self.answers.pop(which % len(self.answers)))

    def _receive(self, answer: Sent) -> None:
        exchange = answer.exchange
        if self.under_way.get(exchange.fetch) is not exchange:
            return  # nobody waits for it any more
        del self.under_way[exchange.fetch]
        if not exchange.fetch:
            self.succeeded = self.succeeded[len(exchange.succeeded) :]
            self.released = self.released[len(exchange.released) :]
            unsaid = {said.token for said in (*self.succeeded, *self.released)}
            self.held = {t: held for t, held in self.held.items() if not held.ended or t in unsaid}
        for token in answer.drop:
            assert token not in self.held or self.held[token].ended, "the worker is told to drop what it runs"
        for token, lo, hi in answer.grants:
            self.held[token] = Held(lo, hi)
        self.calls.over(exchange.call)

    # -- the wire and the coordinator -------------------------------------------------------------------------------

    @rule(which=pick, again=st.sampled_from([False, False, False, True]))
    def deliver(self, which: int, again: bool) -> None:
        """Any request arrives; it may do so once more."""
        if self.requests:
            sent = self.requests[which % len(self.requests)]
            if not again:
                self.requests.remove(sent)
            self._deliver(sent)

    def _deliver(self, sent: Sent) -> None:
        exchange, machine = sent.exchange, self.driver.machine
        answer = machine.reporting.exchange("w1", exchange, self.driver.now)
        self.driver.check()
        reply = Sent(exchange, drop=answer.drop)
        if answer.over:
            self.answers.append(reply)
        elif exchange.fetch:
            self.waiting.append(reply)
        else:
            self._grant(reply)
        for each in [each for each in self.waiting if machine.is_over("w1", each.exchange.call)]:
            self.waiting.remove(each)
            self.answers.append(each)
        self._hand_out()

    def _grant(self, reply: Sent) -> None:
        leases: list[Lease] = self.driver.lease(call=reply.exchange.call)
        reply.grants = [(lease.token, lease.lo, lease.hi) for lease in leases]
        self.answers.append(reply)

    def _hand_out(self) -> None:
        for each in list(self.waiting):
            if self.driver.machine.queue_state.tally[State.PENDING]:
                self.waiting.remove(each)
                self._grant(each)

    @rule(which=pick)
    def lose_request(self, which: int) -> None:
        if self.requests:
            self.requests.pop(which % len(self.requests))

    @rule(which=pick)
    def lose_answer(self, which: int) -> None:
        if self.answers:
            self.answers.pop(which % len(self.answers))

    @rule()
    def restart(self) -> None:
        """Another coordinator goes on; answers of the first are still on their way, and requests find the second."""
        self.driver.drain()
        self.driver.restart()
        self.driver.machine.attach("w1", "name of w1", (), self.driver.now)
        self.waiting = []

    # -- always -----------------------------------------------------------------------------------------------------

    @invariant()
    def what_the_worker_has_is_handed_out_to_nobody_else(self) -> None:
        leases = self.driver.machine.queue_state.leases
        for token, held in self.held.items():
            assert held.ended or token in leases, f"lease {token} runs, and was taken back"
        for answer in self.answers:
            if self.under_way.get(answer.exchange.fetch) is answer.exchange:
                assert all(token in leases for token, _, _ in answer.grants), "a lease is about to arrive, and is not"

    def teardown(self) -> None:
        """All that was lost comes back, unblamed, with the next message on one line."""
        if not hasattr(self, "driver"):
            return
        self.requests, self.answers = [], []
        for fetch in (True, False):
            self.give_up(fetch)
        self._send(fetch=False, capacity=0)
        self._deliver(self.requests.pop())
        self._receive(self.answers.pop())
        queue_state = self.driver.machine.queue_state
        assert set(queue_state.leases) == set(self.held)
        for batch in queue_state.batches.values():
            assert all(task.crashes == 0 for task in (batch.tasks or {}).values())


TwoLines.TestCase.settings = settings(
    max_examples=int(EXAMPLES or 40),
    stateful_step_count=50,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestTwoLines = pytest.mark.timeout(3600 if EXAMPLES else 120)(TwoLines.TestCase)
