"""What is due at a moment of the wall clock: then, whoever sets the clock meanwhile."""

from __future__ import annotations

import pytest

from dtq.core import views
from dtq.model.messages import Conditions
from dtq.model.states import State
from tests.driver import Driver

HOUR = Conditions(at=1_003_600.0)


def test_tasks_become_due_at_their_moment_and_not_before(machine: Driver) -> None:
    batch = machine.submit(3, conditions=HOUR)
    machine.tick(3599.9)
    assert machine.states(batch, 3) == [State.SCHEDULED] * 3
    machine.tick(0.1)
    assert machine.states(batch, 3) == [State.PENDING] * 3
    assert machine.machine.next_on_wall() is None


@pytest.mark.parametrize("at", [1_000_000.0, 1.0])
def test_moment_that_has_come_is_none(machine: Driver, at: float) -> None:
    assert machine.state(machine.submit(conditions=Conditions(at=at), delay_s=5.0)) is State.PENDING


def test_clock_that_is_set_ahead_makes_them_due_at_once(machine: Driver) -> None:
    batch, delayed = machine.submit(conditions=HOUR), machine.submit(delay_s=3600.0)
    machine.set_wall(1_003_601.0)
    machine.tick()
    assert (machine.state(batch), machine.state(delayed)) == (State.PENDING, State.SCHEDULED)


def test_clock_that_is_set_back_keeps_them_waiting(machine: Driver) -> None:
    batch, delayed = machine.submit(conditions=HOUR), machine.submit(delay_s=3600.0)
    machine.set_wall(999_000.0)
    machine.tick(3600.0)
    assert (machine.state(batch), machine.state(delayed)) == (State.SCHEDULED, State.PENDING)
    machine.tick(1000.0)
    assert machine.state(batch) is State.PENDING


def test_moment_counts_by_the_clock_as_it_is_when_they_are_submitted(machine: Driver) -> None:
    machine.set_wall(1_003_600.0)
    assert machine.state(machine.submit(conditions=HOUR)) is State.PENDING


def test_restart_leaves_the_moment_also_where_the_clock_was_set_back(machine: Driver) -> None:
    batch, delayed = machine.submit(2, conditions=HOUR), machine.submit(delay_s=3600.0)
    machine.tick(1000.0)
    machine.drain()
    machine.clock = type(machine.clock)(1_000_500.0)
    machine.restart()
    assert (machine.live(batch).due_at, machine.live(delayed).due_at) == (1_003_600.0, 1_003_100.0)
    machine.tick(3100.0)
    assert machine.states(batch, 2) == [State.PENDING] * 2


def test_further_pieces_wait_for_the_same_moment(machine: Driver) -> None:
    batch = machine.submit(2, conditions=HOUR, complete=False)
    machine.submit(2, batch=batch, offset=2)
    assert machine.states(batch, 4) == [State.SCHEDULED] * 4
    machine.tick(3600.0)
    assert machine.states(batch, 4) == [State.PENDING] * 4


def test_first_piece_that_comes_after_the_moment_does_not_wait(machine: Driver) -> None:
    batch = machine.submit(0, conditions=HOUR, complete=False)
    machine.tick(3600.0)
    machine.submit(1, batch=batch)
    assert machine.state(batch) is State.PENDING


def test_waiting_task_is_cancelled_like_any(machine: Driver) -> None:
    batch = machine.submit(2, conditions=HOUR)
    assert machine.cancel(batch) == (2, 0)
    machine.tick(3600.0)
    assert machine.states(batch, 2) == [State.CANCELLED] * 2


def test_retries_go_by_the_steady_clock(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(conditions=Conditions(at=1_000_001.0))
    machine.tick(1.0)
    machine.fail(machine.lease_one())
    machine.set_wall(2_000_000.0)
    machine.tick()
    assert machine.state(batch) is State.SCHEDULED
    assert views.why_waiting(machine.machine, machine.view(batch), machine.now).startswith("backing off")
    machine.tick(2.0)
    assert machine.state(batch) is State.PENDING


def test_reason_says_the_moment_and_how_long_it_is_until_then(machine: Driver) -> None:
    batch = machine.submit(conditions=HOUR)
    machine.set_wall(1_003_000.0)
    view = machine.view(batch)
    assert view.due_at == 1_003_600.0
    said = views.why_waiting(machine.machine, view, machine.now)
    assert said == "submitted for 1970-01-12 14:46:40 UTC; due in 10m"
