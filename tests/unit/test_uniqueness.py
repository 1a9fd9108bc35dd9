"""What a key stands for, where the coordinator looks nothing up: several live batches, and what is replaced."""

from __future__ import annotations

import pytest

from dtq.core import uniqueness
from dtq.core.changes import BatchFlow
from dtq.errors import KeyTaken, QueueFull
from dtq.model.messages import Conditions, Conflict, Unique
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.driver import Driver

PENDING = Conditions(unique=Unique.PENDING)
REPLACE = Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.REPLACE)


def test_task_that_was_given_back_unstarted_has_not_started(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(key="k", conditions=PENDING)
    lease = machine.lease_one()
    assert uniqueness.has_started(machine.live(batch))
    machine.release(lease)
    assert not uniqueness.has_started(machine.live(batch))
    assert machine.submit(key="k", conditions=PENDING) == batch


def test_task_that_waits_for_its_retry_has_started(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(key="k", conditions=PENDING)
    machine.fail(machine.lease_one())
    assert machine.state(batch) is State.SCHEDULED
    assert machine.submit(key="k", conditions=PENDING) == batch + 1


def test_key_stands_for_the_latest_of_several_and_for_an_older_one_when_that_has_ended(machine: Driver) -> None:
    machine.attach(capacity=3)
    first = machine.submit(key="k", conditions=PENDING)
    machine.lease_one()
    second = machine.submit(key="k", conditions=PENDING)
    assert machine.machine.queue_state.keys.all("k") == [second, first]
    machine.cancel(second)
    unfinished = Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.ERROR)
    with pytest.raises(KeyTaken) as raised:
        machine.submit(key="k", conditions=unfinished)
    assert raised.value.args == ("k", first)


def test_what_is_replaced_never_starts_and_what_runs_is_stopped_with_the_reason(machine: Driver) -> None:
    # Given a batch of which one task runs, one waits for its retry, and one is fresh
    machine.attach(capacity=2)
    first = machine.submit(3, key="k", conditions=REPLACE)
    failing, running = machine.lease()
    machine.fail(failing)

    second = machine.submit(key="k", conditions=REPLACE)

    assert machine.states(first, 3) == [State.CANCELLED, State.RUNNING, State.CANCELLED]
    assert machine.view(first, 1).cancelling
    machine.fail(running, outcome=Outcome.CANCELLED, exception="")
    machine.drain()
    why = f"it was replaced by {second}"
    assert {ended.why for ended in machine.told if ended.batch == first} == {why}
    runs = machine.store.ended(Selection(ids=((first, -1),), limit=0), machine.now)
    assert [run.why for run in runs] == [why] * 3


def test_nothing_is_replaced_by_what_is_refused() -> None:
    machine = Driver(max_tasks=1)
    first = machine.submit(key="k", conditions=REPLACE)
    with pytest.raises(QueueFull):
        machine.submit(key="k", conditions=REPLACE)
    assert machine.state(first) is State.PENDING


def test_restart_goes_on_with_what_was_to_be_replaced(machine: Driver) -> None:
    # Given one that has not taken the place of the one before it yet, and one that replaces it at once
    first = machine.submit(3, key="k", conditions=REPLACE)
    second = machine.submit(key="k", conditions=REPLACE, at_once=False)
    assert machine.state(first) is State.PENDING
    third = machine.submit(key="k", conditions=REPLACE)
    assert [machine.state(batch) for batch in (first, third)] == [State.PENDING] * 2
    machine.drain()

    machine.restart()
    machine.drain()

    runs = machine.store.ended(Selection(ids=((first, -1), (second, -1)), limit=0), machine.now)
    assert {(run.batch.row.batch, run.why) for run in runs} == {
        (first, f"it was replaced by {third}"),
        (second, f"it was replaced by {third}"),
    }
    assert machine.state(third) is State.PENDING
    # and only once: what is put back afterwards stays
    assert machine.live(third).flow == BatchFlow(submission=3)
