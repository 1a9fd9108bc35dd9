"""What has to start by a moment: what has not is cancelled with that reason, and what has goes on."""

from __future__ import annotations

import pytest

from dtq.core.heap import Moments
from dtq.core.ledger import EndedRange
from dtq.model.messages import Conditions
from dtq.model.states import State
from tests.driver import Driver

WHY = "it had not started by 1970-01-12 13:47:40 UTC"
MINUTE = Conditions(expires_s=60.0)


@pytest.fixture
def machine(machine: Driver) -> Driver:
    assert machine.now == 1_000_000.0
    return machine


def test_waiting_tasks_are_cancelled_as_a_whole_when_their_moment_has_come(machine: Driver) -> None:
    # Given a batch that has to start within a minute, and no worker
    batch = machine.submit(1000, conditions=MINUTE)
    machine.drain()

    # When nothing is due before, they still wait
    assert machine.tick(59.0) == machine.now + 1.0
    assert machine.state(batch, 999) is State.PENDING

    # Then at the moment all of them are cancelled, and everybody is told why
    machine.tick(1.0)
    assert not machine.is_live(batch)
    assert machine.states(batch, 1000) == [State.CANCELLED] * 1000
    assert machine.told == [EndedRange(batch, 0, 1000, State.CANCELLED, "client", WHY)]
    assert machine.batch(batch).reason == WHY


def test_delayed_tasks_are_cancelled_before_they_are_due(machine: Driver) -> None:
    batch = machine.submit(3, delay_s=100.0, conditions=MINUTE)
    machine.tick(60.0)
    assert machine.states(batch, 3) == [State.CANCELLED] * 3


def test_what_has_started_goes_on_with_its_retries(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(2, conditions=MINUTE, max_retries=1)
    lease = machine.lease_one()
    machine.tick(60.0)
    assert machine.states(batch, 2) == [State.RUNNING, State.CANCELLED]
    machine.attach("w2")  # the first is silent
    machine.fail(lease)
    machine.tick(5.0)

    # Then it is tried again, as an attempt of it had started
    machine.attach()
    machine.succeed(machine.lease_one())
    assert machine.states(batch, 2) == [State.SUCCEEDED, State.CANCELLED]


def test_what_comes_back_unstarted_after_its_moment_is_cancelled(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(conditions=MINUTE)
    lease = machine.lease_one()
    machine.tick(60.0)
    machine.release(lease)

    machine.drain()
    assert machine.state(batch) is State.CANCELLED
    assert machine.told[-1].why == WHY


def test_what_came_back_unstarted_before_is_cancelled_at_the_moment(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(2, conditions=MINUTE)
    machine.release(machine.lease_one())
    machine.tick(60.0)
    assert machine.states(batch, 2) == [State.CANCELLED] * 2
    assert {ended.why for ended in machine.told} == {WHY}


def test_nothing_is_handed_out_after_its_moment_though_no_tick_came(machine: Driver) -> None:
    # Given one that is late, before one that is not
    machine.attach()
    late = machine.submit(conditions=MINUTE)
    other = machine.submit()
    machine.clock.advance(60.0)

    assert machine.take() == [(other, 0)]
    assert machine.state(late) is State.CANCELLED


def test_moment_that_has_passed_already_lets_nothing_start(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(conditions=Conditions(start_by=machine.now - 1.0))
    deadline = machine.machine.next_deadline()
    assert deadline == machine.now  # not before: or the coordinator would seem to have been stopped
    assert machine.take() == []
    assert machine.state(batch) is State.CANCELLED


def test_pieces_that_come_after_the_moment_are_left_out(machine: Driver) -> None:
    batch = machine.submit(2, complete=False, conditions=MINUTE)
    machine.tick(60.0)
    assert machine.batch(batch).complete
    assert machine.batch(batch).size == 2


def test_one_that_somebody_has_cancelled_has_no_reason(machine: Driver) -> None:
    batch = machine.submit(conditions=MINUTE)
    machine.cancel(batch)
    machine.drain()
    assert [ended.why for ended in machine.told] == [""]


@pytest.mark.parametrize("after_s", [0.0, 61.0])
def test_moment_stays_what_it_was_over_a_restart(machine: Driver, after_s: float) -> None:
    batch = machine.submit(2, conditions=MINUTE)
    machine.drain()
    machine.clock.advance(after_s)
    machine.restart()
    machine.tick(60.0 - after_s if after_s < 60.0 else 0.0)
    assert machine.states(batch, 2) == [State.CANCELLED] * 2
    assert machine.batch(batch).reason == WHY


def test_clock_that_was_set_back_leaves_as_much_time_as_there_was(machine: Driver) -> None:
    batch = machine.submit(conditions=MINUTE)
    machine.drain()
    machine.clock._now -= 1000.0
    machine.restart()
    machine.tick(59.0)
    assert machine.state(batch) is State.PENDING
    machine.tick(1.0)
    assert machine.state(batch) is State.CANCELLED


def test_moments_of_what_has_finished_do_not_gather() -> None:
    # Given moments far away, of batches of which few are live at a time
    moments, live = Moments(), set[int]()
    for number in range(20_000):
        live = {number - 1, number}
        moments.add(1e9 + number, number, live)
    assert len(moments) < 3000
    assert moments.pop_due(1e8) is None


def test_what_waits_for_others_is_cancelled_too_and_takes_along_what_waits_for_it(machine: Driver) -> None:
    # Given one that waits for a task that does not end, and one that waits for that
    parent = machine.submit()
    child = machine.submit(conditions=MINUTE, after=[(parent, 0, 0, False)])
    grandchild = machine.submit(after=[(child, 0, 0, False)])
    assert machine.state(child) is State.BLOCKED

    machine.tick(60.0)

    assert [machine.state(batch) for batch in (parent, child, grandchild)] == [
        State.PENDING,
        State.CANCELLED,
        State.CANCELLED,
    ]
    assert machine.batch(child).reason == WHY
    assert machine.batch(grandchild).reason == f"parent {child} is cancelled"
