"""Workers that lack what a task needs: it is tried elsewhere, and who lacks what others have leaves."""

from __future__ import annotations

import pytest

from dtq.core.quarantine import MOST_ERRORS, PROBE_S
from dtq.core.retry import ELSEWHERE_S
from dtq.errors import WorkerBroken
from dtq.model.states import State
from tests.driver import Driver


def unable(machine: Driver, session: str) -> tuple[int, int]:
    """Have a worker be unable to run what it is given, and say what that was."""
    lease = machine.lease_one(session)
    place = lease.batch.number, lease.lo
    machine.fail(lease, exception="dtq.errors.CannotImport", message="no module", unable=True)
    return place


def test_task_is_tried_again_soon_without_costing_a_retry(machine: Driver) -> None:
    machine.attach("w1")
    batch = machine.submit(max_retries=0, max_crashes=2)
    unable(machine, "w1")
    view = machine.view(batch)
    assert (view.state, view.failures, view.crashes) == (State.SCHEDULED, 0, 1)
    machine.tick(ELSEWHERE_S)
    # Nobody else is there, so the same worker has it again, and then it is enough
    unable(machine, "w1")
    assert machine.state(batch) is State.DEAD


def test_task_goes_to_a_worker_that_was_not_unable_to_run_it(machine: Driver) -> None:
    machine.attach("w1")
    machine.attach("w2")
    batch = machine.submit(max_retries=0)
    assert unable(machine, "w1") == (batch, 0)
    machine.tick(ELSEWHERE_S + PROBE_S)
    # The one that failed is given nothing, however long that is ago
    assert machine.lease("w1") == []
    (lease,) = machine.lease("w2")
    machine.succeed(lease)
    assert machine.batch(batch).counts.succeeded == 1


def test_worker_is_kept_from_a_spec_for_a_moment_while_others_may_run_it(machine: Driver) -> None:
    machine.attach("w1", capacity=4)
    machine.attach("w2")
    batch = machine.submit(10)
    first = machine.lease("w1")
    machine.fail(first[0], exception="ImportError", unable=True)
    for lease in first[1:]:
        machine.release(lease)
    assert machine.lease("w1") == []
    deadline = machine.tick()
    assert deadline <= machine.now + PROBE_S
    # After that it may try one task, not four
    pushed = machine.machine.queue_state.lines.pushed
    machine.tick(PROBE_S)
    assert machine.machine.queue_state.lines.pushed > pushed, "those that wait for work are asked again"
    assert machine.take("w1") == [(batch, 1)]


def test_other_specs_are_not_held_back(machine: Driver) -> None:
    machine.attach("w1")
    machine.attach("w2")
    machine.submit(function="work:missing")
    unable(machine, "w1")
    other = machine.submit(function="work:there")
    assert machine.take("w1") == [(other, 0)]


def test_tasks_behind_one_that_is_held_back_for_long_are_not(machine: Driver) -> None:
    # Given a task that only a worker can run that is busy for long
    machine.attach("w1")
    machine.attach("w2")
    machine.submit(function="work:missing")
    unable(machine, "w1")
    machine.submit(1, priority=1)
    busy = machine.lease_one("w2")
    behind = machine.submit(2, limits=("x",), function="work:there")
    # Then the other one is given what is behind it
    machine.tick(ELSEWHERE_S)
    assert machine.take("w1") == [(behind, 0)]
    # And the task is where it was
    machine.succeed(busy)
    assert machine.take("w2") == [(1, 0)]


def test_worker_that_nobody_could_stand_in_for_is_not_held_back(machine: Driver) -> None:
    machine.attach("w1")
    machine.attach("elsewhere", queues=("red",))
    machine.attach("draining", capacity=0)
    machine.attach("w2")
    batch = machine.submit(3)
    unable(machine, "w2")
    unable(machine, "w1")
    assert machine.take("w1") == [(batch, 2)]


def test_worker_that_runs_other_things_for_long_is_given_more_of_them(machine: Driver) -> None:
    machine.attach("w1", capacity=4)
    machine.attach("w2")
    there = machine.submit(function="work:there")
    (held,) = machine.lease("w1")
    missing = machine.submit(function="work:missing")
    unable(machine, "w1")
    more = machine.submit(2, function="work:there")
    # While one task goes on, and nothing has come to an end since it was unable to run another
    assert machine.take("w1") == [(more, 0), (more, 1)]
    machine.tick(ELSEWHERE_S)
    machine.succeed(machine.lease_one("w2"))
    machine.succeed(held)
    assert [machine.batch(batch).counts.succeeded for batch in (there, missing)] == [1, 1]


def test_worker_that_lacks_one_thing_is_tried_with_it_less_and_less(machine: Driver) -> None:
    machine.attach("w1")
    machine.attach("w2")
    machine.submit(100, function="work:missing", max_crashes=1)
    waits = []
    for _ in range(MOST_ERRORS + 5):
        unable(machine, "w1")
        begun = machine.now
        while not (leases := machine.lease("w1")):
            machine.tick(PROBE_S)
        waits.append(machine.now - begun)
        machine.release(leases[0])
    assert waits[0] == pytest.approx(PROBE_S)
    assert waits[-1] > 8 * PROBE_S


def prove(machine: Driver, function: str = "work:shop") -> None:
    """Have a function run somewhere."""
    machine.attach("sound")
    machine.submit(function=function, max_crashes=1)
    machine.succeed(machine.lease_one("sound"))


def test_worker_that_spoils_ten_in_a_row_is_told_to_leave(machine: Driver) -> None:
    prove(machine)
    machine.attach("broken")
    batch = machine.submit(50, max_crashes=1)
    for count in range(MOST_ERRORS):
        assert machine.machine.broken("broken") is None, count
        unable(machine, "broken")
        machine.tick(PROBE_S)
    verdict = machine.machine.broken("broken")
    assert isinstance(verdict, WorkerBroken)
    assert "10 tasks in a row" in str(verdict)
    assert "no module" in str(verdict)
    # And it is given nothing more, while the others go on
    assert machine.lease("broken") == []
    assert machine.machine.broken("sound") is None
    assert machine.batch(batch).counts.dead == MOST_ERRORS


@pytest.mark.parametrize("sign", ["result", "exception"])
def test_task_that_comes_to_its_own_code_clears_its_worker(machine: Driver, sign: str) -> None:
    machine.attach("half")
    for function in ("work:one", "work:two", "work:three"):
        prove(machine, function)
        machine.submit(MOST_ERRORS - 1, function=function, max_crashes=1)
        for _ in range(MOST_ERRORS - 1):
            unable(machine, "half")
            machine.tick(PROBE_S)
        machine.submit(function="work:there", max_retries=0)
        lease = machine.lease_one("half")
        if sign == "result":
            machine.succeed(lease)
        else:
            machine.fail(lease)
        assert machine.machine.broken("half") is None


def test_function_that_runs_nowhere_breaks_no_worker(machine: Driver) -> None:
    machine.attach("w1")
    batch = machine.submit(3 * MOST_ERRORS, function="work:mistyped", max_crashes=1)
    for _ in range(3 * MOST_ERRORS):
        unable(machine, "w1")
    assert machine.machine.broken("w1") is None
    assert machine.batch(batch).counts.dead == 3 * MOST_ERRORS
