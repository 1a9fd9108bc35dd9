"""Cancelling what is in one state: the others are left alone, also where they moved a moment ago."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dtq.client.sync import Client
from dtq.core import operators
from dtq.model.snapshots import CancelReport, Selection
from dtq.model.states import State
from tests.client_scene import Queue
from tests.driver import Driver
from tests.tasks import numbers_work

PENDING, SCHEDULED, RUNNING, CANCELLED = State.PENDING, State.SCHEDULED, State.RUNNING, State.CANCELLED


@pytest.fixture
def queue() -> Iterator[Queue]:
    with Queue() as queue:
        yield queue


def cancel(client: Client, *ids: tuple[int, int], state: State | None = None, queue: str | None = None) -> CancelReport:
    selection = Selection(ids=ids, state=state, queue=queue, limit=0)
    return client._core.call(lambda service: service.cancel(selection))


@pytest.mark.parametrize("index", [0, None], ids=["task", "batch"])
def test_running_task_goes_on_where_only_waiting_ones_are_cancelled(machine: Driver, index: int | None) -> None:
    # Given
    machine.attach()
    batch = machine.submit(3)
    lease = machine.lease_one()
    # When
    if index is None:
        assert operators.cancel_batch(machine.machine, machine.live(batch), machine.now, PENDING) == (2, 0)
    else:
        assert operators.cancel_task(machine.machine, machine.live(batch), index, machine.now, PENDING) is None
    machine.check()
    # Then
    assert machine.state(batch) is RUNNING
    machine.succeed(lease)
    assert machine.states(batch, 3) == [State.SUCCEEDED, *[CANCELLED if index is None else PENDING] * 2]


def test_waiting_tasks_stay_where_only_running_ones_are_cancelled(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(2)
    lease = machine.lease_one()
    # When
    assert operators.cancel_batch(machine.machine, machine.live(batch), machine.now, RUNNING) == (0, 1)
    machine.check()
    # Then
    machine.release(lease)
    assert machine.states(batch, 2) == [CANCELLED, PENDING]


@pytest.mark.parametrize("delay_s", [0.0, 5.0])
@pytest.mark.parametrize("only", [PENDING, SCHEDULED])
def test_delayed_tasks_are_scheduled_and_others_pending(machine: Driver, delay_s: float, only: State) -> None:
    # Given
    batch = machine.submit(3, delay_s=delay_s)
    meant = (only is SCHEDULED) == bool(delay_s)
    # When
    one = operators.cancel_task(machine.machine, machine.live(batch), 1, machine.now, only)
    all = operators.cancel_batch(machine.machine, machine.live(batch), machine.now, only)
    machine.check()
    # Then
    assert (one, all) == ((CANCELLED, (2, 0)) if meant else (None, (0, 0)))


def test_task_that_backs_off_is_not_pending(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit()
    machine.fail(machine.lease_one())
    # Then
    assert operators.cancel_task(machine.machine, machine.live(batch), 0, machine.now, PENDING) is None
    assert operators.cancel_task(machine.machine, machine.live(batch), 0, machine.now, SCHEDULED) is CANCELLED
    machine.check()


def test_report_counts_what_was_cancelled_and_nothing_else(queue: Queue) -> None:
    # Given a batch of which one task runs
    client = queue.client()
    batch = int(client.submit_map(numbers_work.square, range(3)).id)
    worker = queue.worker()
    worker.fetch()
    # When
    running = cancel(client, (batch, 0), state=PENDING)
    waiting = cancel(client, (batch, -1), state=PENDING)
    # Then
    assert running == CancelReport(cancelled=0, stopping=0, finished=0)
    assert waiting == CancelReport(cancelled=2, stopping=0, finished=0)


def test_an_id_and_a_filter_cancel_that_task_alone(queue: Queue) -> None:
    # Given tasks of one batch that stand alike
    client = queue.client()
    batch = int(client.submit_map(numbers_work.square, range(5)).id)
    # When
    report = cancel(client, (batch, 2), queue="default")
    # Then
    assert report.cancelled == 1
    assert [client.status(f"{batch}.{index}").state for index in range(5)] == [PENDING] * 2 + [CANCELLED] + [
        PENDING
    ] * 2
