"""Random histories: the machine keeps its invariants, agrees with a naive model, and is what its rows say.

``DTQ_PROPERTY_EXAMPLES=2000`` runs so many histories, other ones each time; without it the same few run every time.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dtq.core import views
from dtq.core.batches import Batch
from dtq.core.changes import Change, Expired, OwnExpired, Stored, Totals
from dtq.core.leases import CHUNK_S, Lease
from dtq.errors import KeyTaken
from dtq.model.messages import Conditions, Conflict, Holding, Unique
from dtq.model.options import Options
from dtq.model.resources import Offers, Portion, needs
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.driver import Driver
from tests.property.comparing import state_of, states_shown, unfinished
from tests.property.model import Crew, Held, Job, Model, Shipment

EXAMPLES = os.environ.get("DTQ_PROPERTY_EXAMPLES")
KEEP_S = 200.0
SESSIONS = {"w1": (), "w2": ("a",), "w3": ("b", "a")}
#: What each offers beside three slots.
OFFERS = {
    "w1": Offers(
        resources=(Portion(name="gpu", units=("0", "1"), amount=2), Portion(name="memory", amount=8)), tags=("fast",)
    ),
    "w2": Offers(resources=(Portion(name="memory", amount=4),)),
    "w3": None,
}
SUBMITTERS = ("client 1", "client 2")
#: The names and globs that have a rate: the seconds between two starts, and how many may start together.
RATES = {"rate": (0.5, 2), "slow-*": (3.0, 1)}

counts = st.integers(0, 6) | st.sampled_from([1, 1, 1, 12, 30])
pick = st.integers(0, 1_000)
#: Those of tasks that need nothing but a slot.
PLAIN: list[dict[str, Any]] = [
    {"priority": 5, "queue": "a"},
    {"priority": 1, "queue": "a", "max_retries": 1, "max_crashes": 2},
    {"priority": 5, "queue": "b", "max_retries": 0, "max_crashes": 1},
]
#: Few, so that the durations of the same functions are learned again and again.
options = st.sampled_from(
    [
        {"priority": 5, "queue": "a"},
        {"priority": 1, "queue": "a", "max_retries": 1, "max_crashes": 2},
        {"priority": 9, "queue": "a", "max_retries": 0, "max_crashes": 1},
        {"priority": 9, "queue": "a", "max_retries": 0, "max_crashes": 1, "keep_results_s": 30.0},
        {"priority": 5, "queue": "b", "max_retries": 2},
        {"priority": 5, "queue": "b", "max_retries": 2, "keep_results_s": 2 * KEEP_S},
        {"priority": 1, "queue": "b", "max_retries": 0},
        {"priority": 5, "queue": "a", "limits": ("x",)},
        {"priority": 5, "queue": "b", "limits": ("x", "y-1")},
        {"priority": 1, "queue": "a", "limits": ("y-2",), "max_retries": 1},
        {"priority": 5, "queue": "a", "limits": ("y-1", "x")},
        {"priority": 5, "queue": "b", "limits": ("rate", "y-2")},
        {"priority": 5, "queue": "b", "limits": ("rate",)},
        {"priority": 5, "queue": "b", "limits": ("rate", "slow-1")},
        {"priority": 1, "queue": "a", "limits": ("slow-1",), "max_retries": 1},
        {"priority": 5, "queue": "a", "limits": ("x", "slow-2", "rate")},
        {"priority": 5, "queue": "a", "needs": needs({"gpu": 1}, 1, ())},
        {"priority": 5, "queue": "b", "needs": needs({"gpu": 2, "memory": 3}, 1, ("fast",))},
        {"priority": 1, "queue": "a", "needs": needs({"memory": 4}, 2, ()), "max_retries": 1},
        {"priority": 5, "queue": "a", "needs": needs({}, 3, ())},
        {"priority": 5, "queue": "b", "needs": needs({"memory": 2}, 1, ()), "limits": ("x",)},
        {"priority": 1, "queue": "b", "needs": needs({"memory": 2}, 1, ()), "limits": ("slow-1", "rate")},
        {"priority": 5, "queue": "a", "needs": needs({"gpu": 1}, 1, ()), "limits": ("rate",)},
    ]
)

Step = tuple[str, int, int, Outcome]
#: What a worker does, which of its leases with, how much of it, and how that ended.
work: st.SearchStrategy[Step] = st.tuples(
    st.sampled_from(["lease", "lease", "lease", "succeed", "succeed", "fail", "fail", "release", "hold", "lie"]),
    pick,
    pick,
    st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED]),
)


class Histories(RuleBasedStateMachine):
    """One history: everything is said to the machine and to the model, and then they are compared."""

    driver: Driver
    model: Model

    @initialize()
    def begin(self) -> None:
        self.driver = Driver(keep_results_s=KEEP_S)
        self.model = Model()
        for name, (per_s, burst) in RATES.items():
            self.driver.limit(name, starts=1, per_s=per_s, burst=burst)
            self.model.rates[name] = per_s, burst
        #: By worker without an answer to its last call for work, as there was none for it: the numbers of arrivals and
        #: of leavings then, which a coordinator looks at to see whether it may have some now.
        self.waiting: dict[str, tuple[int, int]] = {}
        #: The model as it was when the store was written last: what a restart leaves of it.
        self.written = copy.deepcopy(self.model)
        #: What could not be written, and waits to be written with what comes after it.
        self.backlog: list[Change] = []
        #: Batches that were accepted since the store was written last.
        self.unwritten: list[Batch] = []
        self.totals = Totals()
        self.driver.drain()
        for session in SESSIONS:
            self.attach(session, 2)
        self._have_it_known()

    def _have_it_known(self) -> None:
        """That plain tasks are tiny: else nothing is granted behind others until some have succeeded."""
        for terms in PLAIN:
            self._submit(1, terms, SUBMITTERS[0], True, 0.0, None)
        crew = self.model.crews["w1"]
        for _ in PLAIN:
            self._lease(crew, confirmed=False, lost=1)
            while crew.leases:
                self._succeed(crew, 0, 1, Outcome.FAILED)

    @property
    def now(self) -> float:
        return self.driver.now

    # -- submitters -------------------------------------------------------------------------------------------------

    @rule(
        count=counts,
        terms=options,
        session=st.sampled_from(SUBMITTERS),
        complete=st.sampled_from([True, True, True, False]),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, 1.0, 20.0]),
        expires_s=st.sampled_from([None, None, None, 1.0, 15.0]),
    )
    def submit(
        self,
        count: int,
        terms: dict[str, Any],
        session: str,
        complete: bool,
        delay_s: float,
        expires_s: float | None,
    ) -> None:
        conditions = None if expires_s is None else Conditions(expires_s=expires_s)
        self._submit(count, terms, session, complete, delay_s, None, conditions)

    @rule(count=counts, key=st.sampled_from(["k1", "k2"]), session=st.sampled_from(SUBMITTERS))
    def submit_with_key(self, count: int, key: str, session: str) -> None:
        # Given the key, the same submission whoever makes it
        terms: dict[str, Any] = {
            "priority": 5,
            "queue": "a" if key == "k1" else "b",
            "max_retries": 0,
            "max_crashes": 1,
        }
        known = [s for s in self.model.shipments.values() if s.key == key]
        if not known:
            self._submit(count, terms, session, True, 0.0, key)
        if not known or known[0].finished_at is not None:
            return  # whether a finished batch has the key is for the coordinator to look up
        size = len(known[0].jobs)
        number = self.driver.submit(size, session=session, key=key, **terms)
        assert number == known[0].number
        assert self.driver.live(number).size == size

    @rule(
        count=st.integers(1, 5),
        key=st.sampled_from(["u1", "u2"]),
        unique=st.sampled_from([Unique.PENDING, Unique.PENDING, Unique.UNFINISHED]),
        conflict=st.sampled_from(Conflict),
    )
    def submit_unique(self, count: int, key: str, unique: Unique, conflict: Conflict) -> None:
        terms: dict[str, Any] = {"priority": 5, "queue": "a", "max_retries": 1}
        conditions = Conditions(unique=unique, on_conflict=conflict)
        holder = self.model.holder(key)
        taken = holder is not None and self.model.is_taken(holder, unique)
        if holder is None or not taken:
            self._submit(count, terms, SUBMITTERS[0], True, 0.0, key, conditions)
        elif conflict is Conflict.ERROR:
            with pytest.raises(KeyTaken):
                self.driver.submit(count, key=key, conditions=conditions, **terms)
        elif conflict is Conflict.EXISTING:
            assert self.driver.submit(count, key=key, conditions=conditions, **terms) == holder.number
        else:
            self._submit(count, terms, SUBMITTERS[0], True, 0.0, key, conditions)
            self.model.cancel_all(holder, self.now)

    @precondition(lambda self: self._parents())
    @rule(
        count=counts,
        terms=options,
        parents=st.lists(st.tuples(pick, pick, pick, st.booleans()), min_size=1, max_size=3),
        run_anyway=st.sampled_from([False, False, True]),
        complete=st.sampled_from([True, True, True, False]),
        delay_s=st.sampled_from([0.0, 0.0, 2.0]),
        expires_s=st.sampled_from([None, None, None, 30.0]),
    )
    def submit_after(
        self,
        count: int,
        terms: dict[str, Any],
        parents: list[tuple[int, int, int, bool]],
        run_anyway: bool,
        complete: bool,
        delay_s: float,
        expires_s: float | None,
    ) -> None:
        """Something that waits for tasks, or whole batches, that are there."""
        self.commit()  # what has ended is looked up in the store
        if not self._parents():
            return
        conditions = None if expires_s is None else Conditions(expires_s=expires_s)
        after = []
        for which, lo, length, value in parents:
            shipment = self._one(self._parents(), which)
            size = len(shipment.jobs)
            lo = lo % size if size else 0
            hi = 0 if which % 3 == 0 or not size else min(size, lo + 1 + length % 3)
            after.append((shipment.number, lo if hi else 0, hi, value))
        self._submit(count, terms, SUBMITTERS[0], complete, delay_s, None, conditions, tuple(after), run_anyway)

    @rule(length=st.integers(2, 4), terms=st.sampled_from(PLAIN), delay_s=st.sampled_from([0.0, 0.0, 0.0, 2.0]))
    def submit_chain(self, length: int, terms: dict[str, Any], delay_s: float) -> None:
        """Tasks each of which waits for the one before; the first of them may be due later. A worker fetches then."""
        after: tuple[tuple[int, int, int, bool], ...] = ()
        for _ in range(length):
            self.commit()
            self._submit(1, terms, SUBMITTERS[0], True, 0.0 if after else delay_s, None, None, after)
            after = ((self.driver.machine.queue_state.last_batch, 0, 1, True),)
        if "w1" in self.model.crews:
            self.model.settle(self.now)
            self._lease(self.model.crews["w1"], confirmed=False, lost=1)

    def _parents(self) -> list[Shipment]:
        return [shipment for shipment in self.model.shipments.values() if not shipment.expired]

    @precondition(lambda self: self._parents())
    @rule(
        terms=options,
        over=st.lists(pick, min_size=1, max_size=2),
        parents=st.lists(pick, max_size=1),
        run_anyway=st.sampled_from([False, False, True]),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
        expires_s=st.sampled_from([None, None, None, 30.0]),
    )
    def submit_over(
        self,
        terms: dict[str, Any],
        over: list[int],
        parents: list[int],
        run_anyway: bool,
        delay_s: float,
        expires_s: float | None,
    ) -> None:
        """A map over what others return, task by task."""
        self.commit()
        complete = [shipment for shipment in self._parents() if shipment.complete]
        if not complete:
            return
        conditions = None if expires_s is None else Conditions(expires_s=expires_s)
        each = tuple(self._one(complete, which).number for which in over)
        after = tuple((self._one(self._parents(), which).number, 0, 0, False) for which in parents if which % 3 == 0)
        flow = (after, run_anyway, each)
        self._submit(0, terms, SUBMITTERS[0], True, delay_s, None, conditions, *flow)

    submit_over_more = submit_over

    @precondition(lambda self: self._parents())
    @rule(
        count=counts,
        terms=options,
        parents=st.lists(st.tuples(pick, pick, pick, pick, st.booleans()), min_size=1, max_size=4),
        run_anyway=st.sampled_from([False, False, True]),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
    )
    def submit_with_items(
        self,
        count: int,
        terms: dict[str, Any],
        parents: list[tuple[int, int, int, int, bool]],
        run_anyway: bool,
        delay_s: float,
    ) -> None:
        """A batch of which single tasks wait for others."""
        self.commit()
        if not self._parents():
            return
        items: dict[int, tuple[tuple[int, int, int, bool], ...]] = {}
        for place, which, lo, length, value in parents if count else ():
            shipment = self._one(self._parents(), which)
            size = len(shipment.jobs)
            lo = lo % size if size else 0
            hi = 0 if which % 3 == 0 or not size else min(size, lo + 1 + length % 3)
            at = place % count
            items[at] = (*items.get(at, ()), (shipment.number, lo if hi else 0, hi, value))
        self._submit(count, terms, SUBMITTERS[0], True, delay_s, None, None, (), run_anyway, (), items)

    # Much of what is new in a history is to wait for something.
    submit_after_more = submit_after

    def _submit(
        self,
        count: int,
        terms: dict[str, Any],
        session: str,
        complete: bool,
        delay_s: float,
        key: str | None,
        conditions: Conditions | None = None,
        after: tuple[tuple[int, int, int, bool], ...] = (),
        run_anyway: bool = False,
        each: tuple[int, ...] = (),
        items: dict[int, tuple[tuple[int, int, int, bool], ...]] | None = None,
    ) -> None:
        known = set(self.driver.machine.queue_state.batches)
        before = self.driver.machine.queue_state.last_batch
        flow: dict[str, Any] = {
            "conditions": conditions,
            "after": after,
            "run_anyway": run_anyway,
            "each": each,
            "items": items or {},
        }
        number = self.driver.submit(
            count, session=session, complete=complete, delay_s=delay_s, key=key, **flow, **terms
        )
        assert number == before + 1
        assert number not in known
        waits = (conditions, after, run_anyway, each)
        shipment = self.model.submit(number, Options(**terms), session, key, delay_s, self.now, *waits)
        self.model.append(shipment, count, complete, self.now, items)
        if self.driver.is_live(number):
            self.unwritten.append(self.driver.live(number))

    @precondition(lambda self: any(not s.complete for s in self.model.live()))
    @rule(which=pick, count=counts, repeated=st.integers(0, 3), complete=st.booleans())
    def append(self, which: int, count: int, repeated: int, complete: bool) -> None:
        shipment = self._one([s for s in self.model.live() if not s.complete], which)
        repeated = min(repeated, len(shipment.jobs))
        offset = len(shipment.jobs) - repeated
        self.driver.submit(
            repeated + count,
            batch=shipment.number,
            offset=offset,
            complete=complete,
            session=shipment.session,
            **self._terms(shipment),
        )
        self.model.append(shipment, count, complete, self.now)

    @staticmethod
    def _terms(shipment: Shipment) -> dict[str, Any]:
        asked = shipment.options
        names = ("priority", "queue", "max_retries", "max_crashes", "keep_results_s", "limits", "needs")
        return {name: getattr(asked, name) for name in names}

    @rule(session=st.sampled_from(SUBMITTERS))
    def abandon(self, session: str) -> None:
        self.driver.abandon(session)
        self.model.abandon(session, self.now)

    # -- workers ----------------------------------------------------------------------------------------------------

    @rule(session=st.sampled_from(sorted(SESSIONS)), capacity=st.integers(0, 3))
    def attach(self, session: str, capacity: int) -> None:
        self.waiting.pop(session, None)
        offers = OFFERS[session]
        chains = session != "w2"
        known = self.driver.attach(session, capacity, SESSIONS[session], slots=3, offers=offers, chains=chains)
        assert known == self.model.attach(session, SESSIONS[session], self.now)
        crew = self.model.crews[session]
        crew.capacity, crew.slots = capacity, 3
        if offers is not None:
            crew.resources = {portion.name: portion.amount for portion in offers.resources}
            crew.tags = offers.tags

    @rule(session=st.sampled_from(sorted(SESSIONS)), steps=st.lists(work, min_size=1, max_size=10))
    def work(self, session: str, steps: list[Step]) -> None:
        """A worker fetches and reports for a while."""
        if session not in self.model.crews or self.model.crews[session].capacity == 0:
            self.attach(session, 2)
        for do, which, share, outcome in steps:
            self.waiting.pop(session, None)  # with its next message the coordinator looks at it again
            if do == "lease":
                self._lease(self.model.crews[session], confirmed=share % 3 == 0, lost=which)
            elif self.model.crews[session].leases:
                getattr(self, f"_{do}")(self.model.crews[session], which, share, outcome)
            self.machine_agrees_with_model()

    # Most of what happens in a queue is this.
    work_on = work_more = work

    def _cut(self, lease: Lease, hi: int) -> None:
        """What of a lease of fresh tasks does not fit into the answer has never been leased."""
        if lease.hi == lease.batch.next and not lease.batch.records_in(lease.lo, lease.hi):
            self.driver.machine.granting.cut(lease, hi, self.now)
            self.driver.check()

    def _lease(self, crew: Crew, confirmed: bool, lost: int) -> None:
        older = self.driver.next_call()
        leases = self.driver.lease(crew.session)
        cut = bool(leases) and lost % 4 == 0 and not self._is_paced(leases[-1].batch.limits)
        if cut:
            self._cut(leases[-1], leases[-1].lo + lost % 3)
        leases = [lease for lease in leases if lease.token in self.driver.machine.queue_state.leases]
        for lease in leases:
            # Each task of each lease is one that the worker must be given next.
            count = lease.hi - lease.lo
            jobs = []
            for index in range(lease.lo, lease.hi):
                job = self.model.job(lease.batch.number, index)
                if job.state is State.BLOCKED and self.model.shipments[job.batch].each:
                    self.model.free(job, self.now)  # its turn has just come
                if lease.behind:
                    assert self.model.may_follow(crew, job, lease.behind, self.now)
                else:
                    assert job in self.model.next_for(crew, self.now)
                self.model.start(job, self.now)
                jobs.append(job)
            assert count == 1 or jobs[0].options.needs is None
            assert count == 1 or not self._is_paced(lease.batch.limits)
            assert count == 1 or count * (lease.batch.entry.estimate_s or 0.0) <= CHUNK_S
            self.model.lease(crew, lease.token, jobs, lease.behind)
            assert {job.attempt for job in jobs} == {lease.attempt}
        assert len(crew.in_line()) <= 2 * crew.capacity or not leases or self._are_small(crew, leases[-1])
        wanted = self.model.next_for(crew, self.now)
        assert cut or None in wanted or self.model.taken(crew) >= crew.capacity, "a slot is idle beside work"
        if confirmed:
            self._confirm(crew, {lease.token for lease in leases}, older, lost)
        elif not leases and not cut:
            lines = self.driver.machine.queue_state.lines
            self.waiting[crew.session] = lines.pushed, lines.left

    @staticmethod
    def _are_small(crew: Crew, last: Lease) -> bool:
        """Whether a worker has more than two leases a slot because they hold few tasks, and tiny ones."""
        before = sum(len(held.jobs) for held in crew.leases.values()) - (last.hi - last.lo)
        return before * (last.batch.entry.expected_s() or CHUNK_S) < 2 * crew.capacity * CHUNK_S

    def _is_paced(self, limits: tuple[str, ...]) -> bool:
        """Whether each lease of a task counts as a start, whatever becomes of it."""
        return any(self.model.rate_of(name) for name in limits)

    def _confirm(self, crew: Crew, news: set[int], older: int, lost: int) -> None:
        """An older call that could not know of the leases arrives, and a newer one says which of them are there."""
        before = crew.leases.keys() - news
        self.driver.exchange(crew.session, holding=tuple(Holding(token=token) for token in before), call=older)
        arrived = before | {token for place, token in enumerate(sorted(news)) if not lost >> place & 1}
        self.driver.exchange(crew.session, holding=tuple(Holding(token=token) for token in arrived))
        self.model.heard(crew.session, self.now)
        self.model.give_back_all_but(crew, arrived, self.now)

    def _held(self, crew: Crew, which: int) -> tuple[Held, Lease]:
        """A lease, on both sides."""
        held = self._one(list(crew.leases.values()), which)
        return held, self.driver.machine.queue_state.leases[held.token]

    def _succeed(self, crew: Crew, which: int, share: int, _: Outcome) -> None:
        held, lease = self._held(crew, which)
        count = 1 + share % len(held.jobs)
        refused = self.driver.machine.refused
        self.driver.succeed(lease, count, seconds=(0.0, 0.001, 0.015, 1.0)[share % 4] * count)
        self.model.heard(crew.session, self.now)
        if self.model.is_early(held):
            assert self.driver.machine.refused == refused + 1
        else:
            self.model.succeed(held, count, self.now)

    def _fail(self, crew: Crew, which: int, share: int, outcome: Outcome) -> None:
        held, lease = self._held(crew, which)
        offset = share % len(held.jobs) if share % 3 == 0 else 0
        refused = self.driver.machine.refused
        self.driver.fail(lease, lease.lo + offset, outcome, seconds=0.001)
        self.model.heard(crew.session, self.now)
        if self.model.is_early(held):
            assert self.driver.machine.refused == refused + 1
        else:
            self.model.fail(held, offset, outcome, self.now)

    def _release(self, crew: Crew, which: int, share: int, _: Outcome) -> None:
        held, lease = self._held(crew, which)
        count = 1 + share % len(held.jobs)
        self.driver.release(lease, lease.hi - count)
        self.model.heard(crew.session, self.now)
        self.model.release(held, count, self.now)

    def _lie(self, crew: Crew, which: int, share: int, _: Outcome) -> None:
        """A report that does not count, and is counted."""
        held, lease = self._held(crew, which)
        reporter, refused = crew, self.driver.machine.refused
        others = [other for other in self.model.crews.values() if other is not crew]
        if share % 4 == 0:
            self.driver.succeed(lease, len(held.jobs) + 1)
        elif share % 4 == 1:
            self.driver.fail(lease, lease.hi)
        elif share % 4 == 2:
            self.driver.release(lease, lease.lo, lease.hi + 1)
        elif others:
            reporter = others[0]
            worker = self.driver.machine.queue_state.workers[reporter.session]
            self.driver.succeed(Lease(lease.token, worker, lease.batch, lease.lo, lease.hi, 1, 0.0))
        else:
            return
        self.model.heard(reporter.session, self.now)
        assert self.driver.machine.refused == refused + 1

    def _hold(self, crew: Crew, which: int, share: int, _: Outcome) -> None:
        """A heartbeat, or a fetch: a lease that is not mentioned has never arrived."""
        kept = [held for place, held in enumerate(crew.leases.values()) if not share >> place & 1]
        said = []
        for place, held in enumerate(kept):
            runs = bool(which >> place & 1)
            said.append(Holding(token=held.token, started=held.jobs[0].index if runs else -1))
            held.started = held.started or runs
        answer = self.driver.exchange(crew.session, holding=(*said, Holding(token=1)), fetch=which % 3 == 0)
        assert answer.drop == [1]
        expected = {(h.token, job.index) for h in kept for job in h.jobs if job.cancelling}
        assert {(doomed.token, doomed.index) for doomed in answer.cancel} == expected
        self.model.heard(crew.session, self.now)
        self.model.give_back_all_but(crew, {held.token for held in kept}, self.now)

    @rule(session=st.sampled_from(sorted(SESSIONS)))
    def lose(self, session: str) -> None:
        self.waiting.pop(session, None)
        assert self.driver.lose(session) == self.model.lose(session, self.now)

    # -- time -------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0, 15.0, 60.0, KEEP_S]))
    def wait(self, seconds: float) -> None:
        """Time passes, and every deadline on the way is kept."""
        until = self.now + seconds
        while (deadline := self.driver.machine.next_deadline()) <= until:
            self.driver.tick(max(0.0, deadline - self.now))
            self.model.tick(self.now)
        self.driver.clock.advance(until - self.now)

    # -- operators --------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(s.jobs for s in self.model.live()))
    @rule(which=pick, index=pick)
    def cancel(self, which: int, index: int) -> None:
        shipment = self._one([s for s in self.model.live() if s.jobs], which)
        index %= len(shipment.jobs)
        state = self.model.cancel(shipment.jobs[index], self.now)
        expected = (int(state is State.CANCELLED), int(state is State.RUNNING))
        assert self.driver.cancel(shipment.number, index) == expected

    @precondition(lambda self: self.model.live())
    @rule(which=pick)
    def cancel_batch(self, which: int) -> None:
        shipment = self._one(self.model.live(), which)
        batch = self.driver.live(shipment.number)
        assert self.driver.cancel(shipment.number) == self.model.cancel_all(shipment, self.now)
        for job in shipment.jobs[batch.size if batch.cut is None else batch.cut :]:
            job.lost = False  # of all that is cancelled as a whole nothing comes back, whatever had cancelled it before

    @rule(
        name=st.sampled_from(["x", "x", "y-*", "y-1", "rate", "slow-*"]),
        concurrency=st.sampled_from([0, 1, 1, 2, 3, None]),
    )
    def limit(self, name: str, concurrency: int | None) -> None:
        if name in RATES:
            per_s, burst = RATES[name]
            self.driver.limit(name, starts=1, per_s=per_s, burst=burst, concurrency=concurrency)
            self.model.limits.pop(name, None)
            if concurrency is not None:
                self.model.limits[name] = concurrency
        elif concurrency is not None:
            self.driver.limit(name, concurrency=concurrency)
            self.model.limits[name] = concurrency
        else:
            assert self.driver.unlimit(name) == (self.model.limits.pop(name, None) is not None)

    @precondition(lambda self: self.model.live())
    @rule(which=pick, more=pick, priority=st.sampled_from([1, 5, 9]))
    def reprioritize(self, which: int, more: int, priority: int) -> None:
        chosen = {self._one(self.model.live(), each).number for each in (which, more)}
        assert self.driver.reprioritize(*chosen, priority=priority) == self.model.reprioritize(chosen, priority)

    @rule(queue=st.sampled_from("ab"), paused=st.sampled_from([True, False, False]), weight=st.sampled_from([1, 1, 3]))
    def steer(self, queue: str, paused: bool, weight: int) -> None:
        self.driver.steer(queue, paused=paused, weight=weight)
        if paused:
            self.model.paused.add(queue)
        else:
            self.model.paused.discard(queue)

    @precondition(lambda self: self.model.dead())
    @rule(which=pick, whole=st.booleans(), purge=st.sampled_from([False, False, True]))
    def operate_on_the_dead(self, which: int, whole: bool, purge: bool) -> None:
        self.commit()  # operators look at the store, so everything is in it first
        if not self.model.dead():
            return  # it was of a batch that had never been acknowledged
        job = self._one(self.model.dead(), which)
        jobs = [other for other in self.model.dead() if other.batch == job.batch] if whole else [job]
        verb = self.driver.purge if purge else self.driver.revive
        assert verb(job.batch, *[job.index for job in jobs]) == len(jobs)
        for each in jobs:
            if purge:
                self.model.purge(each)
            else:
                self.model.revive(each)
        if not purge:
            self.model.bring_back(job.batch, {each.index for each in jobs}, self.now)

    # -- the store --------------------------------------------------------------------------------------------------

    @rule()
    def commit(self) -> None:
        self.backlog += self._drain()
        self.driver.store.commit(self.backlog)
        for change in self.backlog:
            if isinstance(change, Expired):
                self.model.expire(change.before, change.spared)
            elif isinstance(change, OwnExpired):
                self.model.expire_by_own_time(change.at, change.spared)
            elif isinstance(change, Stored) and isinstance(change.row, Totals):
                self.totals = change.row
        self.backlog = []
        self.unwritten = []
        self.written = copy.deepcopy(self.model)
        self._compare_with_store()

    @rule()
    def fail_to_commit(self) -> None:
        """The disk is full: batches that were never acknowledged are taken back, all else is kept and tried again."""
        self.backlog += self._drain()
        for batch in self.unwritten:
            self.driver.withdraw(batch)
            self.model.withdraw(batch.number)
        self.unwritten = []

    def _drain(self) -> list[Change]:
        changes, _ = self.driver.machine.drain(self.now)
        return changes

    def _compare_with_store(self) -> None:
        # Then a coordinator that begins here goes on as if nothing had happened,
        self.driver._totals = self.totals
        machine = self.driver.restored()
        restored, live = state_of(machine), state_of(self.driver.machine)
        for what, value in live.items():
            assert restored[what] == value, f"the {what} are not the same after a restart"
        kept = [s for s in self.model.shipments.values() if s.expires_at is not None and not s.expired]
        own = {s.expires_at for s in kept if s.number not in self.model.overdue}
        assert own <= set(self.driver.machine.queue_state.expiries)
        assert own <= set(machine.queue_state.expiries)
        # and everything that has ended, and how, is in the store, once.
        ended = [
            (run.batch.row.batch, index, run.state)
            for run in self.driver.store.ended(Selection(limit=0), self.now)
            # That a batch was cancelled as a whole stands in its own row, which stays as long as its dead letters do.
            if run.task is not None
            or run.state is State.SUCCEEDED
            or not self.model.shipments[run.batch.row.batch].expired
            for index in range(run.lo, run.hi)
        ]
        expected = [(job.batch, job.index, job.state) for job in self.model.jobs() if job.state and job.over]
        assert sorted(ended, key=lambda at: at[:2]) == sorted(expected, key=lambda at: at[:2])
        for job in self.model.jobs():
            if job.state is not None:
                numbers = [attempt.number for attempt in self.driver.store.attempts(job.batch, job.index)]
                assert numbers == job.history

    @rule(written=st.sampled_from([True, True, True, False]))
    def restart(self, written: bool) -> None:
        """The coordinator is killed; what it had not written is as if it had never been."""
        if written:
            self.commit()
        self.driver._totals = self.totals
        self.driver.restart()
        self.backlog = []
        self.unwritten = []
        self.model = copy.deepcopy(self.written)
        self.waiting = {}
        for session, crew in list(self.model.crews.items()):
            if not crew.leases:
                del self.model.crews[session]
            crew.expires_at = self.now + 15.0
            crew.capacity = 0
            crew.queues = ()
            for held in crew.leases.values():
                held.started = True  # nobody knows, so the worst is assumed
        self.model.restart(self.now)
        self.driver.tick()
        self.model.tick(self.now)

    # -- always -----------------------------------------------------------------------------------------------------

    @invariant()
    def machine_agrees_with_model(self) -> None:
        self.model.settle(self.now)
        for shipment in self.model.live():
            if shipment.each:
                self._let_lag(shipment)
        assert set(self.driver.machine.queue_state.dependencies.kept.needed) == self.model.needed()
        expected = {
            (job.batch, job.index): (job.state, job.due_at, job.attempt, job.failures, job.crashes, job.cancelling)
            for job in self.model.jobs()
            if not job.over
        }
        found = unfinished(self.driver.machine)
        assert found == expected
        counts = views.counts(self.driver.machine)
        if counts != self.driver.machine.queue_state.tally.counts():  # something is held
            shown = states_shown(self.driver.machine)
            assert {state: getattr(counts, state.value) for state in shown} == shown
        queue_state = self.driver.machine.queue_state
        assert set(queue_state.batches) == {shipment.number for shipment in self.model.live()}
        assert set(queue_state.workers) == set(self.model.crews)
        assert queue_state.submitted == self.model.submitted
        for session, crew in self.model.crews.items():
            worker = queue_state.workers[session]
            assert worker.expires_at == crew.expires_at
            held = {token: lease.started for token, lease in worker.leases.items()}
            assert held == {token: lease.started for token, lease in crew.leases.items()}

    @invariant()
    def nobody_waits_beside_work(self) -> None:
        """A worker whose call waits for work has none to wait for, unless the coordinator knows to look at it again."""
        queue_state = self.driver.machine.queue_state
        for session, (pushed, left) in list(self.waiting.items()):
            crew = self.model.crews.get(session)
            kept = session in queue_state.keeping and queue_state.lines.left != left
            if crew is None or kept or queue_state.lines.pushed > pushed:
                del self.waiting[session]
                continue
            idle = self.model.taken(crew) < crew.capacity
            assert not idle or None in self.model.next_for(crew, self.now), f"nobody tells {session} of work"

    def _let_lag(self, shipment: Shipment) -> None:
        """Some tasks of a map over others wait although they need not (`core.elements`, rule 3): those behind one that
        is still to start, or waits for one that is not held up."""
        batch = self.driver.live(shipment.number)
        behind = False
        for job in shipment.jobs:
            view = None if job.over else views.task_view(self.driver.machine, batch, job.index)
            waits = job.state in (State.PENDING, State.SCHEDULED) and not job.attempt
            if waits and view is not None and view.state is State.BLOCKED:
                assert behind, f"{job.batch}.{job.index} waits for nothing"
                job.state, job.due_at = State.BLOCKED, None
            elif waits or (job.state is State.BLOCKED and batch.task(job.index) is None and not self._is_held_up(job)):
                behind = True

    def _is_held_up(self, job: Job) -> bool:
        """Whether all that a task waits for has left the common path, or is leased alone."""
        if self.model.shipments[job.batch].due_at is not None:
            return False
        queue_state = self.driver.machine.queue_state
        alone = {(lease.batch.number, lease.lo) for lease in queue_state.leases.values() if lease.hi - lease.lo == 1}
        for parent in self.model.own_parents(job):
            common = not parent.over and queue_state.batches[parent.batch].task(parent.index) is None
            if common and (parent.batch, parent.index) not in alone:
                return False
        return True

    @staticmethod
    def _one(choices: list[Any], which: int) -> Any:
        return choices[which % len(choices)]


Histories.TestCase.settings = settings(
    max_examples=int(EXAMPLES or 50),
    stateful_step_count=60,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = pytest.mark.timeout(3600 if EXAMPLES else 120)(Histories.TestCase)
