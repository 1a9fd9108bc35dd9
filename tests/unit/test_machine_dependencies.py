"""Tasks that wait for others: when they start, when they never do, and what puts them back."""

from __future__ import annotations

import pytest

from dtq.core import views
from dtq.core.changes import OwnExpired, Parent, ResultPage
from dtq.errors import EdgesFull
from dtq.model.states import Outcome, State
from tests.driver import Driver


def of(batch: int, index: int | None = None, *, value: bool = False) -> Parent:
    """A task to wait for, or a whole batch."""
    return (batch, 0, 0, value) if index is None else (batch, index, index + 1, value)


@pytest.fixture
def machine() -> Driver:
    made = Driver()
    made.attach(capacity=10)
    return made


def run(machine: Driver, count: int = 1) -> None:
    """Have the next so many leases succeed."""
    leases = machine.lease()
    assert len(leases) >= count
    for lease in leases[:count]:
        machine.succeed(lease)
    for lease in leases[count:]:
        machine.release(lease)


def die(machine: Driver, batch: int, index: int = 0) -> None:
    """Have a task that is leased next die."""
    for lease in machine.lease():
        if (lease.batch.number, lease.lo) == (batch, index):
            machine.fail(lease, exception="Hopeless")
        else:
            machine.release(lease)


HOPELESS = ("Hopeless",)


# -- waiting --------------------------------------------------------------------------------------------------------


def test_task_waits_until_its_parent_has_a_result(machine: Driver) -> None:
    parent = machine.submit()
    child = machine.submit(3, after=[of(parent)])

    assert machine.states(child, 3) == [State.BLOCKED] * 3
    assert machine.count(State.BLOCKED) == machine.batch(child).counts.blocked == 3
    assert views.why_waiting(machine.machine, machine.view(child), machine.now) == f"waits for {parent}"
    assert machine.take() == [(parent, 0)]
    machine.succeed(*machine.machine.queue_state.leases.values())
    assert machine.states(child, 3) == [State.PENDING] * 3
    assert len(machine.take()) == 3


def test_task_waits_for_all_of_its_parents(machine: Driver) -> None:
    several = machine.submit(4)
    other = machine.submit()
    child = machine.submit(after=[of(several, 1), (several, 2, 4, False), of(other)])
    assert views.why_waiting(machine.machine, machine.view(child), machine.now) == (
        f"waits for {several}.1, {several}.2-3, {other}"
    )

    leases = machine.lease()
    for lease in leases[1:]:
        assert machine.state(child) is State.BLOCKED
        machine.succeed(lease)

    assert machine.state(child) is State.PENDING


def test_tasks_that_are_waited_for_together_may_end_together() -> None:
    machine = Driver()
    machine.attach(capacity=1)
    machine.submit()
    machine.succeed(machine.lease_one(), seconds=0.0)  # such tasks are known to be tiny now
    tiny = machine.submit(30)
    child = machine.submit(after=[(tiny, 5, 25, False)])
    lease = machine.lease()[0]
    assert (lease.lo, lease.hi) == (0, 30)

    machine.succeed(lease, 15, seconds=0.0)
    assert machine.state(child) is State.BLOCKED
    machine.succeed(lease, 10, seconds=0.0)

    assert machine.state(child) is State.PENDING


def test_what_has_ended_before_is_not_waited_for(machine: Driver) -> None:
    finished, half = machine.submit(), machine.submit(2)
    leases = machine.lease()
    machine.succeed(leases[0])
    machine.succeed(leases[1])

    child = machine.submit(after=[of(finished), of(half, 0)])

    assert machine.state(child) is State.PENDING


def test_batch_that_is_still_submitted_is_waited_for_until_its_last_piece(machine: Driver) -> None:
    parent = machine.submit(complete=False)
    child = machine.submit(after=[of(parent)])
    run(machine)
    assert machine.state(child) is State.BLOCKED

    machine.submit(batch=parent, offset=1)
    run(machine)

    assert machine.state(child) is State.PENDING


def test_pieces_wait_with_their_batch_and_those_that_come_later_do_not(machine: Driver) -> None:
    parent = machine.submit()
    child = machine.submit(2, after=[of(parent)], complete=False)
    machine.submit(batch=child, offset=2, complete=False)
    assert machine.count(State.BLOCKED) == 3

    run(machine)
    machine.submit(batch=child, offset=3)

    assert machine.states(child, 4) == [State.PENDING] * 4


def test_delay_counts_from_the_submission(machine: Driver) -> None:
    parent = machine.submit()
    late = machine.submit(after=[of(parent)], delay_s=10.0)
    due = machine.submit(after=[of(parent)], delay_s=1.0)
    machine.tick(2.0)

    run(machine)

    assert (machine.state(late), machine.state(due)) == (State.SCHEDULED, State.PENDING)
    machine.tick(8.0)
    assert machine.state(late) is State.PENDING


def test_task_that_waits_can_be_cancelled_alone_and_the_others_go_on(machine: Driver) -> None:
    parent = machine.submit()
    child = machine.submit(3, after=[of(parent)])
    assert machine.cancel(child, 1) == (1, 0)

    run(machine)

    assert machine.states(child, 3) == [State.PENDING, State.CANCELLED, State.PENDING]
    assert machine.take() == [(child, 0), (child, 2)]


def test_what_was_cancelled_while_it_waited_stays_so(machine: Driver) -> None:
    parent = machine.submit()
    child = machine.submit(2, after=[of(parent)])
    grandchild = machine.submit(after=[of(child, 1)], run_anyway=True)
    assert machine.cancel(child) == (2, 0)

    run(machine)

    assert machine.states(child, 2) == [State.CANCELLED] * 2
    assert machine.state(grandchild) is State.PENDING


def test_chain_of_many_ends_without_recursion(machine: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "check", lambda: None)  # each would look at all of them
    first = last = machine.submit(never_retry=HOPELESS)
    for _ in range(2_000):
        last = machine.submit(after=[of(last)])

    die(machine, first)

    monkeypatch.undo()
    machine.check()
    assert machine.count(State.CANCELLED) == 2_000
    assert machine.state(last) is State.CANCELLED


def test_all_that_is_waited_for_is_bounded() -> None:
    machine = Driver(max_edges=2)
    parent = machine.submit()
    machine.submit(after=[of(parent)])
    with pytest.raises(EdgesFull):
        machine.submit(after=[of(parent), of(parent)])
    machine.submit(after=[of(parent)])


# -- parents without a result ---------------------------------------------------------------------------------------


def test_parent_that_dies_cancels_what_waits_for_it_and_so_on(machine: Driver) -> None:
    parent = machine.submit(2, never_retry=HOPELESS)
    child = machine.submit(3, after=[of(parent, 1)])
    grandchild = machine.submit(after=[of(child, 2)])
    other = machine.submit(after=[of(parent, 0)])

    die(machine, parent, 1)

    assert machine.states(child, 3) == [State.CANCELLED] * 3
    assert machine.state(grandchild) is State.CANCELLED
    assert machine.state(other) is State.BLOCKED
    assert why(machine, child) == f"parent {parent}.1 is dead"
    assert why(machine, grandchild) == f"parent {child}.2 is cancelled"


def test_batch_is_lost_to_what_waits_for_all_of_it_with_its_first_dead_letter(machine: Driver) -> None:
    parent = machine.submit(3, never_retry=HOPELESS)
    child = machine.submit(after=[of(parent)])
    span = machine.submit(after=[(parent, 0, 2, False)])

    die(machine, parent, 1)

    assert machine.state(child) is machine.state(span) is State.CANCELLED
    assert why(machine, span) == f"parent {parent}.1 is dead"


def test_batch_that_is_cancelled_cancels_what_waits_for_it(machine: Driver) -> None:
    parent = machine.submit(3)
    child = machine.submit(after=[of(parent)])

    machine.cancel(parent)

    assert machine.state(child) is State.CANCELLED
    assert why(machine, child) == f"parent {parent} is cancelled"


def test_what_runs_anyway_waits_for_the_end_only(machine: Driver) -> None:
    parent = machine.submit(2, never_retry=HOPELESS)
    one = machine.submit(after=[of(parent, 0)], run_anyway=True)
    every = machine.submit(after=[of(parent)], run_anyway=True)

    die(machine, parent)

    assert (machine.state(one), machine.state(every)) == (State.PENDING, State.BLOCKED)
    machine.cancel(one)
    run(machine)
    assert machine.state(every) is State.PENDING


def test_what_is_submitted_after_its_parent_has_died_never_starts(machine: Driver) -> None:
    parent = machine.submit(never_retry=HOPELESS)
    die(machine, parent)

    child = machine.submit(2, after=[of(parent)])
    anyway = machine.submit(after=[of(parent)], run_anyway=True)

    assert machine.states(child, 2) == [State.CANCELLED] * 2
    assert why(machine, child) == f"parent {parent} is dead"
    assert machine.state(anyway) is State.PENDING


def test_batch_whose_pieces_still_come_is_cancelled_with_the_last_of_them(machine: Driver) -> None:
    parent, other = machine.submit(never_retry=HOPELESS), machine.submit()
    child = machine.submit(2, after=[of(parent), of(other)], complete=False)
    die(machine, parent)
    run(machine)
    assert machine.states(child, 2) == [State.BLOCKED] * 2

    machine.drain()
    machine.restart()
    machine.submit(batch=child, offset=2)

    assert machine.states(child, 3) == [State.CANCELLED] * 3


def test_withdrawn_parent_takes_what_waits_for_it_along(machine: Driver) -> None:
    parent = machine.submit()
    child = machine.submit(after=[of(parent)])
    machine.withdraw(machine.live(parent))
    assert not machine.is_live(child)
    assert machine.count(State.CANCELLED) == 1


# -- put back -------------------------------------------------------------------------------------------------------


def test_dead_parent_that_is_put_back_brings_back_what_its_death_had_cancelled(machine: Driver) -> None:
    parent = machine.submit(never_retry=HOPELESS)
    child = machine.submit(2, after=[of(parent)])
    grandchild = machine.submit(after=[of(child, 0)])
    stopped = machine.submit(after=[of(parent)])
    machine.cancel(stopped)
    die(machine, parent)
    machine.drain()
    machine.restart()

    machine.revive(parent)

    assert machine.states(child, 2) == [State.BLOCKED] * 2
    assert machine.state(grandchild) is State.BLOCKED
    assert machine.state(stopped) is State.CANCELLED
    machine.drain()
    machine.restart()
    machine.attach(capacity=10)
    run(machine)
    assert machine.states(child, 2) == [State.PENDING] * 2
    run(machine, 2)
    assert machine.state(grandchild) is State.PENDING


def test_what_has_another_dead_parent_stays_cancelled_until_that_is_put_back_too(machine: Driver) -> None:
    one, other = (machine.submit(never_retry=HOPELESS) for _ in range(2))
    child = machine.submit(after=[of(one), of(other)])
    die(machine, one)
    die(machine, other)

    machine.revive(one)
    assert machine.state(child) is State.CANCELLED
    assert why(machine, child) == f"parent {other} is dead"
    machine.revive(other)

    assert machine.state(child) is State.BLOCKED
    run(machine, 2)
    assert machine.state(child) is State.PENDING


def test_what_runs_anyway_waits_again_for_a_parent_that_is_put_back(machine: Driver) -> None:
    parent, other = machine.submit(2, never_retry=HOPELESS), machine.submit()
    child = machine.submit(after=[of(parent, 0), (parent, 0, 2, False), of(parent), of(other)], run_anyway=True)
    die(machine, parent)
    die(machine, parent, 1)

    machine.revive(parent)

    waits = machine.machine.queue_state.dependencies.waits
    assert waits == {child: 4} == machine.restored().queue_state.dependencies.waits
    run(machine, 3)
    assert machine.state(child) is State.PENDING


def test_span_that_still_waits_counts_what_is_put_back(machine: Driver) -> None:
    parent = machine.submit(3, never_retry=HOPELESS)
    child = machine.submit(after=[(parent, 0, 3, False)], run_anyway=True)
    die(machine, parent)

    machine.revive(parent, 0)

    run(machine, 2)
    assert machine.state(child) is State.BLOCKED
    run(machine)
    assert machine.state(child) is State.PENDING


# -- restarts -------------------------------------------------------------------------------------------------------


def test_restart_forgets_nothing_of_what_is_waited_for(machine: Driver) -> None:
    several = machine.submit(4)
    ended = machine.submit()
    leases = machine.lease()
    child = machine.submit(2, after=[of(several, 3), (several, 0, 3, True), of(ended, 0)])
    machine.succeed(leases[0])
    machine.succeed(leases[4])
    machine.fail(leases[1], outcome=Outcome.CRASHED)

    machine.drain()
    machine.restart()

    assert machine.states(child, 2) == [State.BLOCKED] * 2
    assert machine.machine.queue_state.dependencies.waits == {child: 2}
    machine.attach(capacity=10)
    for lease in [*machine.machine.queue_state.leases.values()]:
        machine.succeed(lease)
    run(machine)
    assert machine.states(child, 2) == [State.PENDING] * 2


# -- results that are needed ----------------------------------------------------------------------------------------


def kept(machine: Driver, batch: int) -> int:
    machine.drain()
    return len(machine.store.pages(ResultPage, batch, 0, 1 << 20))


def test_results_stay_until_what_is_given_them_has_ended_whatever_is_read_meanwhile(machine: Driver) -> None:
    parent, alone = machine.submit(2), machine.submit()
    child = machine.submit(after=[of(parent, 0, value=True), of(alone)])
    run(machine, 3)

    machine.machine.read(parent, 0, 1)
    machine.machine.batches_read([alone])
    assert (kept(machine, parent), kept(machine, alone)) == (2, 0)
    machine.machine.batches_read([parent])
    assert kept(machine, parent) == 2
    (lease,) = machine.lease()
    assert lease.batch.number == child
    machine.succeed(lease)

    assert kept(machine, parent) == 0


def test_results_do_not_expire_before_what_is_given_them_has_ended() -> None:
    machine = Driver(keep_results_s=10.0)
    machine.attach(capacity=10)
    parent, own = machine.submit(), machine.submit(keep_results_s=10.0)
    child = machine.submit(after=[of(parent, value=True), of(own, value=True)])
    run(machine, 2)

    machine.tick(60.0)
    machine.attach(capacity=10)
    assert (kept(machine, parent), kept(machine, own)) == (1, 1)
    (lease,) = machine.lease()
    machine.succeed(lease)
    assert lease.batch.number == child
    machine.tick(2.0)

    assert (kept(machine, parent), kept(machine, own)) == (0, 0)
    assert not any(isinstance(change, OwnExpired) for change in machine.drain())


def why(machine: Driver, batch: int) -> str:
    machine.drain()
    (stored,) = machine.store.batches([batch])
    return stored.row.flow.why if stored.row.flow is not None else ""


def test_parent_that_is_named_more_than_once_is_waited_for_again_as_often(machine: Driver) -> None:
    bad, other = machine.submit(2, max_retries=0), machine.submit()
    whole = machine.submit(after=[of(bad), of(bad), of(other)], run_anyway=True)
    spans = machine.submit(after=[(bad, 0, 2, False), (bad, 0, 2, True), of(other)], run_anyway=True)
    leases = machine.lease()
    machine.fail(leases[0])
    machine.fail(leases[1])

    machine.revive(bad, 0)

    for batch in (whole, spans):
        assert machine.state(batch) is State.BLOCKED
    machine.succeed(leases[2])
    machine.succeed(machine.lease_one())
    assert machine.states(whole, 1) == machine.states(spans, 1) == [State.PENDING]
