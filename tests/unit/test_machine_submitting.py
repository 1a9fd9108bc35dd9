"""Submitting: batches and their pieces, keys, limits, the gone and the withdrawn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dtq.core.changes import ArgumentPage, BatchRow, BatchWithdrawn, SpecRow, Stored
from dtq.core.ledger import EndedRange
from dtq.core.queue_state import IDLE_BYTES, IDLE_SPECS
from dtq.errors import BadMessage, FunctionsFull, InvalidValue, KeyConflict, QueueFull, UnknownId
from dtq.model import pages
from dtq.model.messages import Submission
from dtq.model.options import Function, FunctionKind
from dtq.model.states import State
from tests.driver import Driver, spec


def stored_batch(machine: Driver, number: int) -> BatchRow:
    machine.drain()
    (stored,) = machine.store.batches([number])
    return stored.row


def stored_arguments(machine: Driver, number: int) -> list[bytes]:
    machine.drain()
    return [blob for page in machine.store.pages(ArgumentPage, number, 0, 1 << 20) for blob in pages.unpack(page.data)]


# -- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_numbered_in_the_order_of_their_acceptance(machine: Driver) -> None:
    assert [machine.submit(), machine.submit(1000), machine.submit()] == [1, 2, 3]


def test_submitted_tasks_are_pending_and_counted(machine: Driver) -> None:
    batch = machine.submit(3)

    assert machine.states(batch, 3) == [State.PENDING] * 3
    assert machine.count(State.PENDING) == 3
    assert machine.machine.queue_state.submitted == 3


def test_batch_is_written_as_one_row_with_its_arguments_as_one_page(machine: Driver) -> None:
    # When
    machine.submit(1000, priority=2)

    # Then: a spec, a batch, a page, and the totals
    kinds = [type(change.row).__name__ for change in machine.drain() if isinstance(change, Stored)]
    assert kinds == ["SpecRow", "BatchRow", "ArgumentPage", "Totals"]


def test_batches_of_one_function_and_options_share_a_spec(machine: Driver) -> None:
    machine.submit(priority=2)
    machine.submit(priority=2)
    machine.submit(priority=3)

    specs = [change.row for change in machine.drain() if isinstance(change, Stored) and isinstance(change.row, SpecRow)]

    assert len(specs) == 2


def test_spec_is_stored_again_when_it_is_used_after_its_last_batch_has_expired() -> None:
    # Given a function whose only batch has expired
    machine = Driver(keep_results_s=10.0)
    machine.attach()
    machine.submit()
    machine.succeed(machine.lease_one())
    machine.drain()
    machine.tick(20.0)
    machine.drain()
    assert machine.store.batches([1]) == []

    # When it is used again
    batch = machine.submit()

    # Then the store knows the function: the queue can be restored
    assert stored_batch(machine, batch).batch == batch
    machine.restart()
    assert machine.state(batch) is State.PENDING


def by_value(name: str, size: int) -> Function:
    return Function(kind=FunctionKind.VALUE, name=name, body=name.encode().ljust(size, b"."))


def test_functions_by_value_are_forgotten_when_their_batches_have_ended(machine: Driver) -> None:
    # Given what is known of a function by name
    queue_state = machine.machine.queue_state
    by_name = queue_state.intern(spec())
    machine.attach(capacity=1)
    machine.submit(1)
    machine.succeed(machine.lease_one())
    assert by_name.estimate_s == 60.0
    # When many closures come and go, while one of them waits
    first = machine.submit(function=by_value("waits", IDLE_BYTES))
    for number in range(50):
        batch = machine.submit(function=by_value(f"closure {number}", IDLE_BYTES // 8))
        machine.cancel(batch)
    # Then no more of them are kept than may be, and the one is there
    bodies = [len(entry.spec.function.body) for entry in queue_state.specs.values()]
    assert sum(bodies) <= 2 * IDLE_BYTES
    assert queue_state.specs_by_number.keys() == {entry.number for entry in queue_state.specs.values()}
    assert machine.live(first).entry.spec.function.body.startswith(b"waits")
    assert queue_state.intern(spec()) is by_name
    # And one that comes again is stored again, under a number that is not mistaken for the other
    machine.drain()
    again = machine.submit(function=by_value("closure 0", IDLE_BYTES // 8))
    (row,) = [c.row for c in machine.drain() if isinstance(c, Stored) and isinstance(c.row, SpecRow)]
    assert row == SpecRow(number=machine.live(again).entry.number, spec=machine.live(again).entry.spec)
    assert row.number == 53


def test_number_of_idle_functions_is_bounded(machine: Driver) -> None:
    queue_state = machine.machine.queue_state
    for number in range(IDLE_SPECS + 20):
        machine.cancel(machine.submit(function=f"work:f{number}"))
    assert len(queue_state.specs) == len(queue_state.specs_by_number) == IDLE_SPECS


def test_memory_engine_keeps_a_body_while_it_may_be_needed(machine: Driver) -> None:
    # Given a dead letter, a success and a task that waits, of one closure
    machine.attach(capacity=1)
    closure = by_value("closure", 1000)
    dead, fine, waiting = (machine.submit(function=closure, never_retry=("Hopeless",)) for _ in range(3))
    machine.kill(dead)
    machine.succeed(machine.lease_one())
    machine.drain()

    def body(batch: int) -> int:
        (stored,) = machine.store.batches([batch])
        return len(stored.spec.function.body)

    # When others finish, then the body stays as long as one is live or has a dead letter
    assert [body(batch) for batch in (dead, fine, waiting)] == [1000] * 3
    machine.cancel(waiting)
    machine.drain()
    assert body(fine) == 1000
    machine.purge(dead)
    machine.drain()
    assert body(fine) == 0
    # And is back with the next batch, also where another one ends in the same commit
    last = machine.submit(function=closure, never_retry=("Hopeless",))
    machine.drain()
    machine.cancel(last)
    latest = machine.submit(function=closure, never_retry=("Hopeless",))
    machine.drain()
    assert body(latest) == body(dead) == 1000
    machine.restart()
    assert machine.live(latest).entry.spec.function == closure


def test_empty_batch_is_finished_when_it_is_accepted(machine: Driver) -> None:
    batch = machine.submit(0)

    assert not machine.is_live(batch)
    assert stored_batch(machine, batch).finished_at == machine.now


@pytest.mark.parametrize("delay_s", [-1.0, math.nan, math.inf, 1e12])
def test_delay_that_is_none_is_refused_and_nothing_accepted(machine: Driver, delay_s: float) -> None:
    with pytest.raises(InvalidValue):
        machine.submit(delay_s=delay_s)

    assert machine.drain() == []


def test_page_with_too_many_blobs_is_refused(machine: Driver) -> None:
    machine.submit(pages.PAGE_BLOBS)

    with pytest.raises(BadMessage, match="at most 1024"):
        machine.submit(pages.PAGE_BLOBS + 1)

    assert machine.count(State.PENDING) == pages.PAGE_BLOBS


def test_page_that_is_none_is_refused_and_nothing_accepted(machine: Driver) -> None:
    submission = Submission(spec=0, number=1, arguments=b"\0\0\0\2\1\0\0\0")

    with pytest.raises(BadMessage):
        machine.machine.submit(spec(), submission, "client", machine.now)

    assert machine.drain() == []


# -- pieces ---------------------------------------------------------------------------------------------------------


def test_pieces_make_one_batch(machine: Driver) -> None:
    # When
    batch = machine.submit(3, complete=False)
    again = machine.submit(2, batch=batch, offset=3, complete=False)
    last = machine.submit(1, batch=batch, offset=5)

    # Then
    assert batch == again == last
    assert stored_arguments(machine, batch) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert machine.live(batch).complete


def test_tasks_run_before_the_batch_is_complete_and_it_stays_open(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.submit(1, complete=False)

    # When all it has so far has ended
    machine.succeed(machine.lease_one())

    # Then it waits for the rest
    assert machine.is_live(batch)
    machine.submit(1, batch=batch, offset=1)
    machine.succeed(machine.lease_one())
    assert not machine.is_live(batch)


def test_repeated_piece_is_not_added_again(machine: Driver) -> None:
    batch = machine.submit(3, complete=False)
    machine.submit(2, batch=batch, offset=3, complete=False)

    machine.submit(2, batch=batch, offset=3, complete=False)
    machine.submit(3, batch=batch, offset=0, complete=False)

    assert stored_arguments(machine, batch) == [b"0", b"1", b"2", b"3", b"4"]
    assert machine.count(State.PENDING) == 5


def test_overlapping_piece_adds_only_what_is_new(machine: Driver) -> None:
    batch = machine.submit(3, complete=False)

    machine.submit(4, batch=batch, offset=1)

    assert stored_arguments(machine, batch) == [b"0", b"1", b"2", b"3", b"4"]


def test_repeated_last_piece_completes_the_batch(machine: Driver) -> None:
    batch = machine.submit(3, complete=False)

    machine.submit(3, batch=batch, offset=0, complete=True)

    assert machine.live(batch).complete
    assert machine.live(batch).size == 3


def test_piece_that_leaves_a_gap_is_refused(machine: Driver) -> None:
    batch = machine.submit(3, complete=False)

    with pytest.raises(BadMessage, match="begins at 4, the batch has 3"):
        machine.submit(1, batch=batch, offset=4)
    with pytest.raises(BadMessage):
        machine.submit(1, offset=1)
    with pytest.raises(BadMessage):
        machine.submit(1, batch=batch, offset=-1)

    assert machine.live(batch).size == 3
    assert machine.count(State.PENDING) == 3


def test_piece_of_an_unknown_batch_is_refused(machine: Driver) -> None:
    with pytest.raises(UnknownId, match="17"):
        machine.submit(1, batch=17, offset=0)


def test_piece_for_a_batch_that_was_cancelled_meanwhile_is_left_out(machine: Driver) -> None:
    # Given a batch that is still being submitted, with a task that runs
    machine.attach()
    batch = machine.submit(3, complete=False)
    lease = machine.lease_one()
    machine.cancel(batch)

    # When
    machine.submit(2, batch=batch, offset=3)

    # Then
    assert machine.live(batch).size == 3
    machine.crash(lease)
    assert machine.states(batch, 3) == [State.CANCELLED] * 3


def test_first_piece_without_tasks_makes_a_batch_that_is_written(machine: Driver) -> None:
    # When
    batch = machine.submit(0, complete=False)

    # Then its number outlives a restart
    assert stored_batch(machine, batch).complete is False
    machine.restart()
    machine.submit(2, batch=batch, offset=0)
    assert machine.states(batch, 2) == [State.PENDING] * 2


def test_pieces_of_a_delayed_batch_become_due_together(machine: Driver) -> None:
    # Given
    batch = machine.submit(2, complete=False, delay_s=10.0)
    machine.clock.advance(4.0)
    machine.submit(2, batch=batch, offset=2, delay_s=10.0)

    # When the first piece's time has come
    machine.tick(6.0)

    # Then
    assert machine.states(batch, 4) == [State.PENDING] * 4


def test_piece_that_arrives_after_the_delay_is_due_at_once(machine: Driver) -> None:
    batch = machine.submit(2, complete=False, delay_s=10.0)
    machine.tick(10.0)

    machine.submit(2, batch=batch, offset=2, delay_s=10.0)

    assert machine.states(batch, 4) == [State.PENDING] * 4


def test_first_task_that_arrives_after_the_delay_is_due_at_once(machine: Driver) -> None:
    # Given a delayed batch without a task
    batch = machine.submit(0, complete=False, delay_s=10.0)
    machine.tick(10.0)

    # When
    machine.submit(1, batch=batch, offset=0)

    # Then nothing has to be waited for
    assert machine.state(batch) is State.PENDING
    assert machine.machine.queue_state.waiting.next_at() is None


# -- keys -----------------------------------------------------------------------------------------------------------


def test_second_submission_with_a_key_is_the_first(machine: Driver) -> None:
    first = machine.submit(2, key="nightly")
    second = machine.submit(2, key="nightly", session="another client")

    assert first == second
    assert machine.count(State.PENDING) == 2


def test_key_of_another_function_or_other_options_is_a_conflict(machine: Driver) -> None:
    batch = machine.submit(key="nightly")

    with pytest.raises(KeyConflict, match=f"batch {batch}"):
        machine.submit(key="nightly", function="work:other")
    with pytest.raises(KeyConflict):
        machine.submit(key="nightly", max_retries=1)


def test_repeat_with_another_priority_is_the_first_as_an_operator_may_have_changed_that(machine: Driver) -> None:
    batch = machine.submit(key="nightly", priority=7)

    assert machine.submit(key="nightly", priority=1) == batch

    assert machine.count(State.PENDING) == 1


def test_key_names_one_batch_from_wherever_it_is_submitted(machine: Driver) -> None:
    assert machine.submit(key="k") == machine.submit(key="k", depth=1)


def test_key_is_free_again_when_its_batch_has_left_memory(machine: Driver) -> None:
    # Given; that a batch with this key is still kept is the coordinator's to find, in the store
    machine.attach()
    first = machine.submit(key="nightly")
    machine.succeed(machine.lease_one())

    # Then
    assert machine.submit(key="nightly") != first


@pytest.mark.parametrize("key", ["", "k" * 513])
def test_key_that_is_none_is_refused(machine: Driver, key: str) -> None:
    with pytest.raises(BadMessage, match="key"):
        machine.submit(key=key)


# -- limits ---------------------------------------------------------------------------------------------------------


def test_queue_is_full_at_its_limit_and_has_room_again_when_tasks_end() -> None:
    # Given
    machine = Driver(max_tasks=3)
    machine.attach()
    machine.submit(2)

    # Then nothing of a batch that does not fit is accepted
    with pytest.raises(QueueFull, match="already holds 2 tasks, its limit is 3"):
        machine.submit(2)
    assert machine.count(State.PENDING) == 2
    machine.submit(1)

    # When
    machine.succeed(machine.lease_one())

    # Then
    machine.submit(1)


def test_piece_that_does_not_fit_leaves_the_batch_as_it_is() -> None:
    # Given
    machine = Driver(max_tasks=3)
    machine.attach()
    batch = machine.submit(2, complete=False)

    # When
    with pytest.raises(QueueFull):
        machine.submit(2, batch=batch, offset=2)

    # Then the same piece fits later
    assert not machine.live(batch).complete
    machine.succeed(machine.lease_one())
    machine.submit(2, batch=batch, offset=2)
    assert machine.live(batch).complete


def test_delayed_and_running_tasks_count_against_the_limit() -> None:
    machine = Driver(max_tasks=2)
    machine.attach()
    machine.submit(delay_s=10.0)
    machine.submit()
    machine.lease_one()

    with pytest.raises(QueueFull):
        machine.submit()


# -- submitters that are gone ---------------------------------------------------------------------------------------


def test_abandoned_batch_has_what_it_has(machine: Driver) -> None:
    # Given one batch in the middle, one of somebody else, and one that is complete
    machine.attach()
    half = machine.submit(2, complete=False, session="gone")
    other = machine.submit(2, complete=False, session="here")
    machine.submit(2, session="gone")

    # When
    machine.abandon("gone")

    # Then
    assert machine.live(half).complete
    assert not machine.live(other).complete
    for _ in range(2):
        machine.succeed(machine.lease_one())
    assert not machine.is_live(half)


def test_abandoned_batch_whose_tasks_have_all_ended_is_finished(machine: Driver) -> None:
    machine.attach()
    batch = machine.submit(1, complete=False)
    machine.succeed(machine.lease_one())

    machine.abandon("client")

    assert not machine.is_live(batch)


def test_sealed_batch_is_finished_when_nothing_is_left(machine: Driver) -> None:
    batch = machine.submit(0, complete=False)

    machine.seal(batch)

    assert not machine.is_live(batch)


# -- withdrawals ----------------------------------------------------------------------------------------------------


def test_withdrawn_batch_leaves_no_trace(machine: Driver) -> None:
    # Given
    other = machine.submit(2)
    machine.drain()
    before = machine.machine.queue_state.totals()
    batch = machine.submit(5)

    # When
    machine.withdraw(machine.live(batch))

    # Then it is never handed out, and nothing counts it; its number is not used again
    machine.attach(capacity=10)
    assert machine.take() == [(other, 0), (other, 1)]
    machine.drain()
    assert machine.store.batches([batch]) == []
    after = machine.machine.queue_state.totals()
    assert (after.submitted, after.succeeded, after.dead, after.cancelled) == (before.submitted, 0, 0, 0)
    assert machine.submit() > batch


def test_withdrawal_is_written_even_if_nothing_else_has_changed(machine: Driver) -> None:
    # Given a batch whose commit failed in a way that leaves it open whether it is on disk
    batch = machine.live(machine.submit(2))
    machine.drain()

    # When
    machine.withdraw(batch)

    # Then
    changes = machine.drain()
    assert BatchWithdrawn(1) in changes
    assert machine.restored().queue_state.submitted == 0


def test_withdrawn_batch_is_taken_from_the_worker_that_runs_it(machine: Driver) -> None:
    # Given
    machine.attach(capacity=2)
    batch = machine.submit(3)
    lease, _ = machine.lease()

    # When
    machine.withdraw(machine.live(batch))

    # Then what the worker says of it is refused, and it is told to stop
    assert machine.count(State.RUNNING) == 0
    machine.succeed(lease)
    assert machine.machine.refused == 1
    assert machine.fetch("w1", lease).drop == [lease.token]


def test_withdrawn_batch_takes_back_what_has_already_come_of_it(machine: Driver) -> None:
    # Given a worker that has been quicker than the disk: every kind of end, and of waiting
    machine.attach(capacity=4)
    batch = machine.submit(9, max_retries=0)
    succeeded, died, running, returned = machine.lease()
    machine.succeed(succeeded)
    machine.fail(died)
    machine.release(returned)
    machine.cancel(batch, 7)
    assert machine.count(State.SUCCEEDED) == machine.count(State.DEAD) == machine.count(State.CANCELLED) == 1

    # When
    machine.withdraw(machine.live(batch))

    # Then
    assert machine.machine.queue_state.totals().submitted == 0
    assert all(machine.count(state) == 0 for state in State)
    machine.drain()
    assert machine.told == []
    assert machine.store.batches([batch]) == []
    assert machine.store.attempts(batch, 1) == []
    machine.restored()
    assert running.token not in machine.machine.queue_state.leases


def test_withdrawn_batch_may_have_finished_already(machine: Driver) -> None:
    # Given
    machine.attach()
    batch = machine.live(machine.submit(1, key="nightly"))
    machine.succeed(machine.lease_one())
    assert not machine.is_live(batch.number)

    # When
    machine.withdraw(batch)

    # Then
    assert machine.count(State.SUCCEEDED) == 0
    machine.drain()
    assert machine.told == []
    assert machine.store.batches(keys=["nightly"]) == []


def test_withdrawn_batch_may_be_in_the_middle_of_its_submission(machine: Driver) -> None:
    batch = machine.submit(2, complete=False)

    machine.withdraw(machine.live(batch))

    assert machine.machine.queue_state.open == {}
    machine.abandon("client")
    machine.drain()
    assert machine.store.batches([batch]) == []


def test_withdrawal_does_not_touch_what_else_has_changed(machine: Driver) -> None:
    # Given
    machine.attach()
    kept = machine.submit(1)
    lease = machine.lease_one()
    batch = machine.submit(1)
    machine.succeed(lease)

    # When
    machine.withdraw(machine.live(batch))

    # Then
    assert machine.state(kept) is State.SUCCEEDED
    assert machine.told == [EndedRange(kept, 0, 1, State.SUCCEEDED, "client")]


def test_functions_of_unfinished_tasks_take_no_more_memory_than_they_may(machine: Driver) -> None:
    # Given room for three functions of 10 kB
    machine.machine.queue_state.rules = replace(machine.machine.rules, max_spec_bytes=30_000)

    def submit(number: int) -> int:
        return machine.submit(function=Function(kind=FunctionKind.VALUE, name=f"f{number}", body=bytes(10_000)))

    first = [submit(number) for number in range(3)]

    # When there is one more, Then it is refused; one of those that are there is not
    with pytest.raises(FunctionsFull, match="take 33,"):
        submit(3)
    assert submit(0) > first[-1]
