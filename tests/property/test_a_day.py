"""A day of a queue's life on a manual clock, in a second or two: invariants hold after every step of it.

Producers, workers, failures, deaths, restarts and operators come at random moments, drawn from a seed; every deadline
on the way is kept. The driver checks all invariants after each command. ``DTQ_PROPERTY_EXAMPLES=50`` lives so many
days, other ones each time.
"""

from __future__ import annotations

import heapq
import os
import random
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from dtq.core.leases import Lease
from dtq.model.messages import Holding
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.driver import Driver
from tests.property.comparing import state_of

EXAMPLES = os.environ.get("DTQ_PROPERTY_EXAMPLES")
SEEDS = [random.randrange(2**32) for _ in range(int(EXAMPLES))] if EXAMPLES else [24]
DAY_S = 86_400.0
#: Seconds between two submissions, on average, and between two heartbeats.
PAUSE_S = 240.0
BEAT_S = 120.0
LEASE_S = 300.0
QUEUES = ("a", "b")
WORKERS = {"w1": (), "w2": (), "w3": ("a",), "w4": ("b",)}


class Day:
    """One day.

    Args:
        seed: what it is drawn from.
    """

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.driver = Driver(lease_s=LEASE_S, keep_results_s=DAY_S / 4)
        self.begins_at = self.driver.now
        self.steps: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._working: dict[str, dict[int, Lease]] = {}
        self._life: Counter[str] = Counter()
        #: Tasks that were accepted.
        self.accepted = 0
        #: Dead letters that were thrown away.
        self.purged = 0
        self.soon(PAUSE_S, self.produce)
        self.soon(1_800.0, self.operate)
        self.soon(7_200.0, self.restart)
        for name in WORKERS:
            self.soon(60.0, lambda name=name: self.arrive(name))  # type: ignore[misc]  # a name each

    @property
    def open(self) -> bool:
        """Whether the day is not over."""
        return self.driver.now < self.begins_at + DAY_S

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.driver.now + seconds, next(self._numbers), act))

    def soon(self, mean_s: float, act: Callable[[], None]) -> None:
        self.after(self.draw.expovariate(1 / mean_s), act)

    def live(self) -> None:
        """Until the day is over and all its work is done."""
        driver = self.driver
        while self.open or driver.machine.queue_state.tally.unfinished:
            at = self._events[0][0]
            deadline = driver.machine.next_deadline()
            if deadline <= at:
                driver.tick(max(0.0, deadline - driver.now))
                self.steps["deadline"] += 1
            else:
                driver.clock.advance(max(0.0, at - driver.now))
                heapq.heappop(self._events)[2]()
            driver.drain()
            assert driver.now < self.begins_at + 3 * DAY_S, "work is left that nobody does"

    # -- who takes part ---------------------------------------------------------------------------------------------

    def produce(self) -> None:
        if not self.open:
            return
        draw = self.draw
        size = min(50, 1 + int(draw.expovariate(0.2)))
        self.driver.submit(
            size,
            queue=draw.choice(QUEUES),
            priority=draw.randint(1, 9),
            max_retries=draw.randint(0, 3),
            max_crashes=draw.randint(1, 3),
            delay_s=draw.choice([0.0, 0.0, 0.0, draw.uniform(1.0, 7_200.0)]),
        )
        self.accepted += size
        self.steps["submission"] += 1
        self.soon(PAUSE_S, self.produce)

    def arrive(self, name: str) -> None:
        self.driver.attach(name, 2, WORKERS[name])
        self._working[name] = {}
        self._life[name] += 1
        self.steps["arrival"] += 1
        self.turn(name, self._life[name])
        self.soon(7_200.0, lambda: self.die(name))

    def die(self, name: str) -> None:
        """Without a word, or with its connection."""
        self._life[name] += 1
        if self.draw.random() < 0.5:
            self.driver.lose(name)
        self.steps["death"] += 1
        self.soon(600.0, lambda: self.arrive(name))

    def turn(self, name: str, life: int) -> None:
        """A worker's heart beats, and it takes what there is."""
        if life != self._life[name]:
            return
        driver, held = self.driver, self._working[name]
        if name not in driver.machine.queue_state.workers:
            driver.attach(name, 2, WORKERS[name])
        known = driver.machine.queue_state.leases
        self._working[name] = held = {token: lease for token, lease in held.items() if token in known}
        driver.exchange(
            name, holding=tuple(Holding(token=token, started=known[token].lo) for token in held), fetch=True
        )
        for lease in driver.lease(name):
            assert lease.batch.due_at is None or lease.batch.due_at <= driver.now, "started before it was due"
            held[lease.token] = lease
            self.steps["lease"] += 1
            self.soon(20.0, lambda token=lease.token: self.end(name, life, token))  # type: ignore[misc]
        self.after(BEAT_S, lambda: self.turn(name, life))

    def end(self, name: str, life: int, token: int) -> None:
        """A worker reports how something ended."""
        lease = self.driver.machine.queue_state.leases.get(token)
        if life != self._life[name] or lease is None or name not in self.driver.machine.queue_state.workers:
            return
        chance = self.draw.random()
        if chance < 0.85:
            self.driver.succeed(lease, seconds=self.draw.choice([0.001, 0.1, 10.0]))
        elif chance < 0.95:
            self.driver.fail(lease, outcome=self.draw.choice([Outcome.FAILED, Outcome.TIMED_OUT]))
        else:
            self.driver.crash(lease)
        self.steps["report"] += 1

    def operate(self) -> None:
        """An operator cancels something, and looks after the dead letters."""
        if not self.open:
            return
        driver, draw = self.driver, self.draw
        live = list(driver.machine.queue_state.batches.values())
        if live:
            batch = draw.choice(live)
            driver.cancel(batch.number, draw.choice([None, draw.randrange(batch.size)]))
        dead = driver.store.ended(Selection(state=State.DEAD, limit=0), driver.now)
        for run in draw.sample(dead, len(dead) // 2):
            purge = draw.random() < 0.3
            assert (driver.purge if purge else driver.revive)(run.batch.row.batch, run.lo) == 1
            self.purged += purge
        self.steps["operation"] += 1
        self.soon(1_800.0, self.operate)

    def restart(self) -> None:
        """The coordinator is killed; its successor knows what it knew."""
        driver = self.driver
        driver.drain()
        before = state_of(driver.machine)
        driver.restart()
        after = state_of(driver.machine)
        for what, value in before.items():
            assert after[what] == value, f"the {what} are not the same after a restart"
        driver.tick()
        self.steps["restart"] += 1
        self.soon(7_200.0, self.restart)


@pytest.mark.parametrize("seed", SEEDS)
def test_day_of_simulated_work_keeps_every_invariant(seed: int) -> None:
    day = Day(seed)

    day.live()

    print(dict(day.steps), f"{day.accepted} tasks")
    counts = day.driver.machine.queue_state.tally.counts()
    queue_state = day.driver.machine.queue_state
    assert day.driver.now >= day.begins_at + DAY_S
    assert queue_state.submitted == day.accepted > 1_000
    # Every task has ended, in one state, and it was told
    assert counts.unfinished == 0
    assert counts.succeeded + counts.dead + counts.cancelled + day.purged == day.accepted
    told = {(ended.batch, index) for ended in day.driver.told for index in range(ended.lo, ended.hi)}
    assert len(told) == day.accepted
    # and the day had everything in it.
    for kind in ("submission", "arrival", "death", "lease", "report", "operation", "restart", "deadline"):
        assert day.steps[kind] > 5, kind
