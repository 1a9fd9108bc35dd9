"""Random histories of schedules and of moments: restarts, kills and a wall clock that jumps, against a naive model.

The model keeps a list of the due times that there have been, looks at all of them each time, and knows no heap.
``DTQ_PROPERTY_EXAMPLES=2000`` runs so many histories, other ones each time.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from itertools import count, takewhile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dtq.model.messages import Conditions
from dtq.model.schedules import CatchUp, Overlap
from dtq.model.states import State
from tests.driver import Driver
from tests.property.comparing import state_of

EXAMPLES = os.environ.get("DTQ_PROPERTY_EXAMPLES")
MOST = 1_000_000.0 + 5000
ON_TIME_S = 10.0


@dataclass
class Table:
    """A schedule."""

    name: str
    every_s: float
    overlap: Overlap
    catch_up: CatchUp
    anchor: float
    next: float = 0.0
    paused: bool = False
    last: int = 0
    made: int = 0
    skipped: int = 0
    #: The due times that count: each once, whatever happens.
    done: list[float] = field(default_factory=list)

    def after(self, moment: float) -> float:
        return next(due for n in count(1) if (due := round(self.anchor + n * self.every_s, 3)) > moment)

    def until(self, wall: float) -> list[float]:
        dues = (round(self.next + n * self.every_s, 3) for n in count())
        return list(takewhile(lambda due: due <= wall, dues))


@dataclass
class Model:
    """What there is: schedules, live batches with their keys, and batches that wait for a moment."""

    tables: dict[str, Table] = field(default_factory=dict)
    live: dict[int, str | None] = field(default_factory=dict)
    moments: dict[int, float] = field(default_factory=dict)
    last: int = 0

    def submit(self, key: str | None) -> int:
        self.last += 1
        self.live[self.last] = key
        return self.last

    def tick(self, wall: float) -> None:
        self.moments = {number: at for number, at in self.moments.items() if at > wall}
        while ready := [(t.next, t.name) for t in self.tables.values() if not t.paused and t.next <= wall]:
            self.come(self.tables[min(ready)[1]], wall)

    def come(self, table: Table, wall: float) -> None:
        dues = table.until(wall)
        if dues[0] < wall - ON_TIME_S and table.catch_up is not CatchUp.ALL:
            dues = dues[-1:]
            if table.catch_up is CatchUp.NONE and dues[0] < wall - ON_TIME_S:
                table.next = table.after(wall)
                return
        self.make(table, dues[0])
        table.next = table.after(dues[0])

    def make(self, table: Table, due: float) -> None:
        if table.last in self.live and table.overlap is Overlap.SKIP:
            table.skipped += 1
            return
        key = f"schedule/{table.name}/{due:.3f}".rstrip("0").rstrip(".")
        taken = [number for number, held in self.live.items() if held == key]
        number = taken[0] if taken else self.submit(key)
        table.made += not taken
        if table.overlap is Overlap.REPLACE and table.last != number:
            self.live.pop(table.last, None)
        table.last = number
        table.done.append(due)


class Histories(RuleBasedStateMachine):
    """One history: everything is said to the machine and to the model, and then they are compared."""

    driver: Driver

    @initialize()
    def begin(self) -> None:
        self.driver = Driver(lease_s=1e9, keep_results_s=1e9)
        self.driver.drain()
        self.model = Model()
        self.written = copy.deepcopy(self.model)
        self.totals = self.driver._totals

    @property
    def wall(self) -> float:
        return self.driver.clock.wall()

    @rule(
        name=st.sampled_from(["one", "two"]),
        every_s=st.sampled_from([7.0, 40.0]),
        overlap=st.sampled_from(Overlap),
        catch_up=st.sampled_from(CatchUp),
    )
    def define(self, name: str, every_s: float, overlap: Overlap, catch_up: CatchUp) -> None:
        self.driver.schedule(name, every_s=every_s, overlap=overlap, catch_up=catch_up)
        known = self.model.tables.get(name)
        if known is not None and known.every_s == every_s:
            known.overlap, known.catch_up = overlap, catch_up
            return
        table = Table(name, every_s, overlap, catch_up, anchor=round(self.wall, 3))
        table.next = table.after(self.wall)
        if known is not None:
            table.paused, table.last, table.made, table.skipped = known.paused, known.last, known.made, known.skipped
        self.model.tables[name] = table

    @precondition(lambda self: self.model.tables)
    @rule(which=st.integers(0, 1), paused=st.booleans())
    def steer(self, which: int, paused: bool) -> None:
        table = list(self.model.tables.values())[which % len(self.model.tables)]
        entry = self.driver.machine.schedules.get(table.name)
        self.driver.machine.schedules.pause(entry, self.wall, paused=paused)
        if table.paused and not paused and table.next <= self.wall:
            table.next = table.after(self.wall)
        table.paused = paused

    @precondition(lambda self: self.model.tables)
    @rule(which=st.integers(0, 1))
    def remove(self, which: int) -> None:
        name = list(self.model.tables)[which % len(self.model.tables)]
        self.driver.machine.schedules.remove(self.driver.machine.schedules.get(name))
        del self.model.tables[name]

    @rule(in_s=st.sampled_from([-5.0, 3.0, 30.0, 300.0]))
    def submit(self, in_s: float) -> None:
        at = self.wall + in_s
        number = self.driver.submit(conditions=Conditions(at=at))
        assert number == self.model.submit(None)
        if in_s > 0:
            self.model.moments[number] = at

    @precondition(lambda self: self.model.live)
    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        """A batch ends, one way or another."""
        number = list(self.model.live)[which % len(self.model.live)]
        self.driver.cancel(number)
        del self.model.live[number]
        self.model.moments.pop(number, None)

    @precondition(lambda self: self.wall < MOST)
    @rule(seconds=st.sampled_from([0.5, 3.0, 8.0, 60.0, 300.0]), exact=st.booleans())
    def wait(self, seconds: float, exact: bool) -> None:
        """Time passes; what is due on the way is noticed at once, or at the end: the machine was slow."""
        until = self.wall + seconds
        while exact and (at := self.driver.machine.next_on_wall()) is not None and at <= until:
            self._tick(max(0.0, at - self.wall))
        self._tick(max(0.0, until - self.wall))

    def _tick(self, seconds: float) -> None:
        self.driver.tick(seconds)
        self.model.tick(self.wall)

    @precondition(lambda self: self.wall < MOST)
    @rule(ahead_s=st.sampled_from([-400.0, -30.0, 0.0, 20.0, 500.0]))
    def set_clock(self, ahead_s: float) -> None:
        self.driver.set_wall(self.driver.now + ahead_s)
        self._tick(0.0)

    @rule()
    def commit(self) -> None:
        self.driver.drain()
        self.written = copy.deepcopy(self.model)
        self.totals = self.driver._totals
        live, restored = state_of(self.driver.machine), state_of(self.driver.restored())
        for what, value in live.items():
            assert restored[what] == value, f"the {what} are not the same after a restart"

    @rule(written=st.booleans(), away_s=st.sampled_from([0.0, 5.0, 100.0]))
    def restart(self, written: bool, away_s: float) -> None:
        """The coordinator is killed; what it had not written is as if it had never been."""
        if written:
            self.commit()
        self.driver._totals = self.totals
        self.driver.clock.advance(away_s)
        self.driver.restart()
        self.model = copy.deepcopy(self.written)
        self._tick(0.0)

    @invariant()
    def machine_agrees_with_model(self) -> None:
        queue_state = self.driver.machine.queue_state
        assert {n: batch.key for n, batch in queue_state.batches.items()} == self.model.live
        scheduled = {
            n: batch.due_at for n, batch in queue_state.batches.items() if State.SCHEDULED in dict(batch.fresh_counts())
        }
        assert scheduled == self.model.moments
        found = {
            e.schedule.name: (e.next_at, e.paused, e.last_batch, e.made, e.skipped)
            for e in self.driver.machine.schedules
        }
        assert found == {t.name: (t.next, t.paused, t.last, t.made, t.skipped) for t in self.model.tables.values()}
        for table in self.model.tables.values():
            assert table.done == sorted(set(table.done)), "a due time has come twice"


Histories.TestCase.settings = settings(
    max_examples=int(EXAMPLES or 40),
    stateful_step_count=40,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = pytest.mark.timeout(3600 if EXAMPLES else 120)(Histories.TestCase)
