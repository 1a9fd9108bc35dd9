"""What people are shown of tasks that have not ended."""

from __future__ import annotations

import pytest

from dtq.core import views
from dtq.model.messages import Holding
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.driver import Driver


def listed(machine: Driver, **selection: object) -> list[tuple[State, int, int, int]]:
    """State, batch, first index and count of each run."""
    found = views.live_tasks(machine.machine, Selection(**selection), machine.now)  # type: ignore[arg-type]  # as given
    return [(view.state, view.batch, view.index, view.count) for view in found]


def why(machine: Driver, batch: int, index: int = 0) -> str:
    return views.why_waiting(machine.machine, machine.view(batch, index), machine.now)


def test_tasks_are_listed_as_runs_running_first_then_in_the_order_they_will_run(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    machine.submit(1000, priority=5)
    machine.lease()
    machine.submit(3, priority=9)
    machine.submit(2, priority=1)
    machine.submit(2, priority=1, delay_s=10.0)

    # Then
    assert listed(machine) == [
        (State.RUNNING, 1, 0, 1),
        (State.RUNNING, 1, 1, 1),
        (State.PENDING, 3, 0, 2),
        (State.PENDING, 1, 2, 998),
        (State.PENDING, 2, 0, 3),
        (State.SCHEDULED, 4, 0, 2),
    ]


def test_running_tasks_are_listed_however_many_urgent_ones_wait(machine: Driver) -> None:
    machine.attach()
    slow = machine.submit(priority=9)
    machine.lease()
    for _ in range(50):
        machine.submit(priority=1)

    assert listed(machine, limit=3) == [(State.RUNNING, slow, 0, 1), (State.PENDING, 2, 0, 1), (State.PENDING, 3, 0, 1)]


def test_tasks_off_the_common_path_are_listed_one_by_one(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    machine.submit(10)
    first, second = machine.lease()
    machine.fail(first)
    machine.release(second)
    machine.cancel(1, 5)

    # Then
    assert listed(machine) == [
        (State.PENDING, 1, 1, 1),
        (State.PENDING, 1, 2, 3),
        (State.PENDING, 1, 6, 4),
        (State.SCHEDULED, 1, 0, 1),
    ]


@pytest.mark.parametrize(
    ("selection", "batches"),
    [
        ({"queue": "gpu"}, {2}),
        ({"function": "work:*"}, {1, 2}),
        ({"function": "*paint"}, {3}),
        ({"state": State.SCHEDULED}, {4}),
        ({"ids": ((2, -1), (3, 0))}, {2, 3}),
        ({"ids": ((99, -1),)}, set()),
        ({"older_than_s": 5.0}, {1, 2}),
        ({"exception": "Value*"}, {4}),
        ({"queue": "default", "function": "work:*"}, {1}),
    ],
)
def test_selection_narrows_the_list(machine: Driver, selection: dict[str, object], batches: set[int]) -> None:
    # Given
    machine.submit()
    machine.submit(queue="gpu")
    machine.clock.advance(10.0)
    machine.submit(function="art:paint")
    machine.attach("w1", queues=("fail",))
    machine.submit(function="art:print", queue="fail")
    machine.fail(machine.lease_one())

    # Then
    assert {batch for _, batch, _, _ in listed(machine, **selection)} == batches


def test_batch_view_counts_every_task_once(machine: Driver) -> None:
    # Given
    machine.attach(capacity=5)
    batch = machine.submit(10, max_retries=1)
    done, failed, released, _, _ = machine.lease()
    machine.succeed(done)
    machine.fail(failed)
    machine.release(released)
    machine.cancel(batch, 9)

    # Then
    counts = machine.batch(batch).counts
    assert (counts.succeeded, counts.scheduled, counts.pending, counts.running, counts.cancelled) == (1, 1, 5, 2, 1)
    assert counts.total == 10


def test_view_of_a_task_says_what_is_known_of_it(machine: Driver) -> None:
    machine.attach()
    machine.submit(2)
    leased_at = machine.now
    machine.lease()

    running, waiting = machine.view(1, 0), machine.view(1, 1)

    assert (running.worker, running.started_at, running.attempt) == ("name of w1", leased_at, 1)
    assert (waiting.worker, waiting.started_at, waiting.attempt) == ("", None, 0)


@pytest.mark.parametrize("index", [0, 1, 7])
def test_view_of_a_task_that_has_ended_or_never_was_is_none(machine: Driver, index: int) -> None:
    machine.attach()
    machine.submit(3)
    machine.succeed(machine.lease_one())
    machine.cancel(1, 1)

    assert views.task_view(machine.machine, machine.live(1), index) is None


# -- why a task does not run ----------------------------------------------------------------------------------------


def test_reason_names_the_delay(machine: Driver) -> None:
    machine.submit(delay_s=60.0)
    machine.clock.advance(20.0)

    assert why(machine, 1) == "submitted with a delay; due in 40 s"


def test_reason_names_the_backoff(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.fail(machine.lease_one())

    assert why(machine, 1) == "backing off after 1 failed attempt; due in 2 s"


def test_reason_names_missing_workers(machine: Driver) -> None:
    machine.submit(queue="gpu")
    assert why(machine, 1) == "no worker serves the queue 'gpu' (no worker is connected at all)"

    machine.attach("w1", queues=("cpu",))
    assert why(machine, 1) == "no worker serves the queue 'gpu'"

    machine.attach("w2", capacity=0)
    assert why(machine, 1) == "every worker that serves the queue 'gpu' is draining or has no slot ready"


def test_reason_counts_what_is_ahead(machine: Driver) -> None:
    # Given two slots, both busy
    machine.attach(capacity=2)
    machine.submit(10)
    leases = machine.lease()
    machine.submit(5, priority=1)
    last = machine.submit(3)
    machine.fetch("w1", *[Holding(token=lease.token) for lease in leases])

    # Then
    assert why(machine, 2, 0) == "next in line for 2 busy slots"
    assert why(machine, 1, 4) == "7 tasks are ahead of it, for 2 slots"
    assert why(machine, last, 2) == "15 tasks are ahead of it, for 2 slots"


def test_reason_counts_only_what_still_waits(machine: Driver) -> None:
    # Given a busy slot, and a task behind three batches
    machine.attach()
    machine.submit()
    first = machine.lease_one()
    returned, whole, some = machine.submit(1, priority=1), machine.submit(100), machine.submit(10)
    last = machine.submit()
    machine.succeed(first)
    machine.release(machine.lease_one())  # one that comes back
    assert why(machine, last) == "111 tasks are ahead of it, for 1 slot"

    # When one of them is cancelled, and tasks of another
    machine.cancel(whole)
    for index in (3, 4):
        machine.cancel(some, index)

    # Then these are not ahead of it any more
    assert why(machine, last) == "9 tasks are ahead of it, for 1 slot"
    machine.cancel(returned)
    assert why(machine, last) == "8 tasks are ahead of it, for 1 slot"


def test_reason_of_what_its_worker_was_unable_to_run_is_no_delay_of_its_submission(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit()
    machine.fail(machine.lease_one(), exception="ModuleNotFoundError", unable=True)

    assert why(machine, batch) == "backing off after 1 failed attempt; due in 300 ms"


def test_reason_of_a_running_task_is_none(machine: Driver) -> None:
    machine.attach()
    machine.submit()
    machine.lease()

    assert why(machine, 1) == ""


def test_queues_are_those_with_unfinished_tasks_or_workers_of_their_own(machine: Driver) -> None:
    # Given
    machine.attach("w1", capacity=1, queues=("a", "idle"))
    machine.attach("w2", capacity=0)
    machine.submit(3, queue="a")
    machine.submit(1, queue="b", delay_s=9.0)
    machine.lease("w1")

    # Then
    shown = [(q.name, q.pending, q.scheduled, q.running, q.workers) for q in views.queues(machine.machine)]
    assert shown == [("a", 2, 0, 1, 2), ("b", 0, 1, 0, 1), ("idle", 0, 0, 0, 2)]


def test_reason_counts_what_is_ahead_in_all_queues_that_its_workers_serve(machine: Driver) -> None:
    # Given a worker of all queues, one of two, and urgent work in three
    machine.attach(capacity=1, queues=("a", "b"))
    for queue, count in (("a", 2), ("b", 3), ("c", 4)):
        machine.submit(count, queue=queue, priority=1)
    last = machine.submit(1, queue="a", priority=9)

    # Then only what its own worker does before counts
    assert why(machine, last) == "5 tasks are ahead of it, for 1 slot"
    machine.attach("w2", capacity=1)
    assert why(machine, last) == "9 tasks are ahead of it, for 2 slots"
