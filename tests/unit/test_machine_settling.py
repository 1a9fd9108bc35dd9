"""Settling: a report counts if its lease is the reporter's and it continues where the last one ended."""

from __future__ import annotations

import pytest

from dtq.core.changes import LeaseEnded, LeaseRow, ResultPage, Stored, TaskForgotten
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.errors import BadMessage, SessionUnknown
from dtq.model import pages
from dtq.model.messages import Failed, Failure, Holding, Released, Succeeded
from dtq.model.states import Outcome, State
from tests.driver import Driver, places


@pytest.fixture
def chunk(machine: Driver) -> Lease:
    """A lease of tasks 2.0 to 2.7, and nothing else in the queue."""
    machine.attach()
    machine.submit(1)
    machine.succeed(machine.lease_one(), seconds=0.001)
    machine.submit(8)
    machine.drain()
    machine.told.clear()
    return machine.lease_one()


def succeeded(lease: Lease, lo: int, *results: bytes) -> Succeeded:
    return Succeeded(token=lease.token, lo=lo, results=pages.pack(results), seconds=0.001)


def failed(lease: Lease, index: int, outcome: Outcome = Outcome.FAILED) -> Failed:
    return Failed(token=lease.token, index=index, outcome=outcome, failure=Failure(exception="ValueError"), seconds=0.0)


# -- successes ------------------------------------------------------------------------------------------------------


def test_success_of_the_whole_lease_ends_it_and_keeps_the_results(machine: Driver, chunk: Lease) -> None:
    # When
    answer = machine.exchange(succeeded=(succeeded(chunk, 0, *[b"r%d" % index for index in range(8)]),))

    # Then
    assert machine.states(2, 8) == [State.SUCCEEDED] * 8
    (page,) = machine.store.pages(ResultPage, 2, 0, 8)
    assert pages.unpack(page.data) == [b"r%d" % index for index in range(8)]
    assert (page.worker, page.ended_at) == ("name of w1", machine.now)
    assert answer.pages == [page]
    assert not machine.is_live(2)
    assert machine.told == [EndedRange(2, 0, 8, State.SUCCEEDED, "client")]


def test_success_of_the_front_leaves_the_rest_running(machine: Driver, chunk: Lease) -> None:
    machine.succeed(chunk, 3)

    assert machine.states(2, 8) == [State.SUCCEEDED] * 3 + [State.RUNNING] * 5
    assert (chunk.lo, chunk.hi) == (3, 8)


def test_front_after_front_settles_the_lease(machine: Driver, chunk: Lease) -> None:
    for count in (1, 4, 3):
        machine.succeed(chunk, count)

    assert machine.states(2, 8) == [State.SUCCEEDED] * 8
    assert machine.machine.refused == 0
    assert machine.machine.queue_state.leases == {}


@pytest.mark.parametrize(("lo", "count"), [(1, 2), (2, 6), (7, 2), (0, 9), (8, 1), (-1, 1)])
def test_success_that_does_not_continue_the_lease_is_refused(
    machine: Driver, chunk: Lease, lo: int, count: int
) -> None:
    machine.exchange(succeeded=(succeeded(chunk, lo, *[b""] * count),))

    assert machine.machine.refused == 1
    assert machine.states(2, 8) == [State.RUNNING] * 8


def test_success_of_nothing_is_refused(machine: Driver, chunk: Lease) -> None:
    machine.exchange(succeeded=(succeeded(chunk, 0),))

    assert machine.machine.refused == 1
    assert machine.count(State.RUNNING) == 8


def test_repeated_success_is_refused_and_changes_nothing(machine: Driver, chunk: Lease) -> None:
    # Given
    machine.exchange(succeeded=(succeeded(chunk, 0, b"first", b"first"),))

    # When the answer was lost, and the worker says it again
    machine.exchange(succeeded=(succeeded(chunk, 0, b"again", b"again"),))

    # Then
    assert machine.machine.refused == 1
    assert machine.count(State.SUCCEEDED) == 1 + 2
    machine.drain()
    (page,) = machine.store.pages(ResultPage, 2, 0, 8)
    assert pages.unpack(page.data) == [b"first", b"first"]


def test_report_for_a_lease_that_was_taken_back_is_refused(machine: Driver, chunk: Lease) -> None:
    # Given a worker that was lost, and its tasks at another one
    machine.lose()
    machine.attach("w2")
    machine.lease("w2")
    machine.attach("w1")

    # When the first comes back and reports
    machine.exchange(succeeded=(succeeded(chunk, 0, *[b""] * 8),), failed=(failed(chunk, 0),))

    # Then only the second's word counts
    assert machine.machine.refused == 2
    assert machine.state(2, 0) is State.RUNNING
    assert machine.count(State.SUCCEEDED) == 1


def test_report_for_the_lease_of_another_worker_is_refused(machine: Driver, chunk: Lease) -> None:
    machine.attach("w2")

    machine.exchange("w2", succeeded=(succeeded(chunk, 0, b""),))

    assert machine.machine.refused == 1
    assert machine.count(State.RUNNING) == 8


def test_report_for_an_invented_lease_is_refused(machine: Driver, chunk: Lease) -> None:
    machine.exchange(
        succeeded=(Succeeded(token=12345, lo=0, results=pages.pack([b""]), seconds=0.0),),
        failed=(Failed(token=12345, index=0, outcome=Outcome.FAILED, failure=Failure(), seconds=0.0),),
        released=(Released(token=12345, lo=0, hi=1),),
    )

    assert machine.machine.refused == 3
    assert machine.count(State.RUNNING) == 8


def test_report_of_an_unknown_worker_is_refused_as_a_whole(machine: Driver) -> None:
    with pytest.raises(SessionUnknown):
        machine.exchange("nobody")


def test_malformed_page_refuses_the_whole_report(machine: Driver, chunk: Lease) -> None:
    # When
    with pytest.raises(BadMessage):
        machine.exchange(
            succeeded=(
                succeeded(chunk, 0, b"fine"),
                Succeeded(token=chunk.token, lo=1, results=b"\0\0\0\1\0\0\0\5", seconds=0.0),
            )
        )

    # Then
    assert machine.states(2, 8) == [State.RUNNING] * 8
    assert machine.machine.refused == 0


# -- failures -------------------------------------------------------------------------------------------------------


def test_failure_in_the_middle_of_a_lease_is_settled_in_its_turn(machine: Driver, chunk: Lease) -> None:
    # When results and a failure come in one report, in whatever order they stand in it
    machine.exchange(
        succeeded=(succeeded(chunk, 3, b"", b""), succeeded(chunk, 0, b"", b"")), failed=(failed(chunk, 2),)
    )

    # Then
    assert machine.machine.refused == 0
    expected = [State.SUCCEEDED] * 2 + [State.SCHEDULED] + [State.SUCCEEDED] * 2 + [State.RUNNING] * 3
    assert machine.states(2, 8) == expected


def test_failure_gives_back_what_the_slot_had_done_but_not_reported(machine: Driver, chunk: Lease) -> None:
    # When the slot died in the fourth task, and with it the results of three
    machine.exchange(failed=(failed(chunk, 3, Outcome.CRASHED),))

    # Then they run again, unblamed
    assert machine.states(2, 8) == [State.PENDING] * 4 + [State.RUNNING] * 4
    crashes = [machine.view(2, index).crashes for index in range(4)]
    assert crashes == [0, 0, 0, 1]


def test_failure_of_the_last_task_ends_the_lease(machine: Driver, chunk: Lease) -> None:
    machine.succeed(chunk, 7)
    machine.fail(chunk)

    assert machine.machine.queue_state.leases == {}
    assert machine.state(2, 7) is State.SCHEDULED


def test_repeated_failure_is_refused_and_counted_once(machine: Driver, chunk: Lease) -> None:
    machine.exchange(failed=(failed(chunk, 0),))
    machine.exchange(failed=(failed(chunk, 0),))

    assert machine.machine.refused == 1
    assert machine.view(2, 0).failures == 1


def test_failure_that_says_it_succeeded_is_refused(machine: Driver, chunk: Lease) -> None:
    machine.exchange(failed=(failed(chunk, 0, Outcome.SUCCEEDED),))

    assert machine.machine.refused == 1
    assert machine.states(2, 8) == [State.RUNNING] * 8


# -- giving back ----------------------------------------------------------------------------------------------------


def test_released_end_of_a_lease_goes_back_unblamed(machine: Driver, chunk: Lease) -> None:
    # When
    machine.release(chunk, 5)

    # Then
    assert (chunk.lo, chunk.hi) == (0, 5)
    assert machine.states(2, 8) == [State.RUNNING] * 5 + [State.PENDING] * 3
    assert [machine.view(2, index).crashes for index in (5, 6, 7)] == [0, 0, 0]
    machine.attach("w2", capacity=10)
    assert machine.take("w2") == [(2, 5), (2, 6), (2, 7)]


def test_released_whole_ends_the_lease(machine: Driver, chunk: Lease) -> None:
    machine.release(chunk)

    assert machine.machine.queue_state.leases == {}
    assert machine.states(2, 8) == [State.PENDING] * 8


@pytest.mark.parametrize(("lo", "hi"), [(0, 4), (2, 7), (8, 8), (8, 9), (-1, 8)])
def test_release_of_anything_but_the_end_is_refused(machine: Driver, chunk: Lease, lo: int, hi: int) -> None:
    machine.release(chunk, lo, hi)

    assert machine.machine.refused == 1
    assert machine.states(2, 8) == [State.RUNNING] * 8


def test_results_and_the_release_of_the_rest_come_in_one_report(machine: Driver, chunk: Lease) -> None:
    machine.exchange(
        succeeded=(succeeded(chunk, 0, b"", b""),),
        failed=(failed(chunk, 2, Outcome.CRASHED),),
        released=(Released(token=chunk.token, lo=3, hi=8),),
    )

    assert machine.machine.refused == 0
    assert machine.states(2, 8) == [State.SUCCEEDED] * 2 + [State.PENDING] * 6
    assert machine.machine.queue_state.leases == {}


@pytest.mark.parametrize("order", [(5, 3), (3, 5)])
def test_parts_of_a_lease_are_released_in_any_order(machine: Driver, chunk: Lease, order: tuple[int, int]) -> None:
    # What a slot had not begun goes back when the slot is known to have stopped, the rest when that is stopped
    parts = {3: Released(token=chunk.token, lo=3, hi=5), 5: Released(token=chunk.token, lo=5, hi=8)}

    machine.exchange(succeeded=(succeeded(chunk, 0, b"", b"", b""),), released=tuple(parts[lo] for lo in order))

    assert machine.machine.refused == 0
    assert machine.states(2, 8) == [State.SUCCEEDED] * 3 + [State.PENDING] * 5
    assert machine.machine.queue_state.leases == {}


# -- what a worker holds --------------------------------------------------------------------------------------------


def test_lease_that_is_not_mentioned_in_a_fetch_goes_back_unblamed(machine: Driver, chunk: Lease) -> None:
    # Given a second lease whose grant got lost on the way
    machine.submit(1)
    machine.exchange(capacity=2)
    lost = machine.lease_one()
    assert places([lost]) == [(3, 0)]

    # When
    machine.fetch("w1", chunk)

    # Then
    assert machine.state(3) is State.PENDING
    assert machine.view(3).crashes == 0
    assert machine.count(State.RUNNING) == 8


def test_lease_that_is_not_mentioned_in_a_report_goes_back_unblamed(machine: Driver, chunk: Lease) -> None:
    machine.exchange(holding=())

    assert machine.count(State.RUNNING) == 0
    assert machine.state(2) is State.PENDING


def test_lease_that_arrives_while_an_older_call_is_on_its_way_stays(machine: Driver) -> None:
    # Given a lease, and a fetching call that says so and is slow on its way
    machine.attach(capacity=2)
    machine.submit(1)
    first = machine.lease_one()
    fetching = machine.next_call()
    slow = (Holding(token=first.token),)
    # and a report whose answer brings a second lease, and one that says that both run
    machine.submit(1)
    report = machine.next_call()
    machine.exchange(holding=slow, call=report, beside=fetching)
    (second,) = machine.lease(call=report)
    both = tuple(Holding(token=lease.token, started=0) for lease in (first, second))
    machine.exchange(holding=both, call=machine.next_call(), beside=fetching)

    # When the fetching call arrives
    answer = machine.exchange(holding=slow, call=fetching, beside=report, fetch=True)

    # Then nothing is taken back or handed out again
    assert answer.drop == []
    assert machine.lease(call=fetching) == []
    assert machine.count(State.RUNNING) == 2


def test_lease_whose_answer_was_lost_goes_back_with_the_next_message_on_either_connection(machine: Driver) -> None:
    # Given a fetching call that has failed at the worker, and whose answer had a lease
    machine.attach(capacity=2)
    machine.submit(1)
    fetching = machine.next_call()
    machine.exchange(call=fetching, fetch=True)
    (lost,) = machine.lease(call=fetching)

    # When a report comes that was made up before that; then it says nothing of the lease
    machine.exchange(holding=(), call=machine.next_call(), beside=fetching)
    assert machine.count(State.RUNNING) == 1

    # When one comes that was made up after it
    machine.exchange(holding=(), call=machine.next_call())

    # Then
    assert machine.state(1) is State.PENDING
    assert machine.view(1).crashes == 0
    assert lost.token not in machine.machine.queue_state.leases


def test_what_an_overtaken_message_says_of_the_present_does_not_count(machine: Driver) -> None:
    # Given a fetching call that is on its way while the worker begins to drain
    machine.attach(capacity=2)
    machine.submit(1)
    fetching = machine.next_call()
    machine.exchange(capacity=0, call=machine.next_call(), beside=fetching)

    # When it arrives
    answer = machine.exchange(capacity=2, call=fetching, fetch=True)

    # Then nothing is handed to the worker
    assert answer.overtaken
    assert not answer.over
    assert machine.lease(call=fetching) == []


def test_call_that_the_worker_has_given_up_is_over(machine: Driver) -> None:
    machine.attach()
    given_up = machine.next_call()
    machine.exchange(call=machine.next_call(), fetch=True)

    assert machine.exchange(call=given_up, fetch=True).over


def test_lease_of_an_unnumbered_call_is_never_missed(machine: Driver) -> None:
    machine.attach()
    machine.submit(1)
    machine.lease(call=0)

    machine.exchange(holding=())

    assert machine.count(State.RUNNING) == 1


def test_lease_that_the_worker_holds_wrongly_is_to_be_dropped(machine: Driver, chunk: Lease) -> None:
    machine.lose()
    machine.attach("w1")

    assert machine.exchange(holding=(Holding(token=chunk.token),)).drop == [chunk.token]


def test_lease_that_has_ended_and_is_about_to_be_reported_is_not_to_be_dropped(machine: Driver, chunk: Lease) -> None:
    # Given a lease whose outcomes have overtaken the fetch that still holds it
    machine.succeed(chunk)

    # Then
    assert machine.fetch("w1", Holding(token=chunk.token, done=True)).drop == []


# -- what is written ------------------------------------------------------------------------------------------------


def test_common_path_writes_no_row_for_a_task(machine: Driver, chunk: Lease) -> None:
    # When a lease is granted and succeeds between two commits
    machine.succeed(chunk)

    # Then a batch, a page of results, the lease's end, the totals
    kinds = [type(c.row).__name__ if isinstance(c, Stored) else type(c).__name__ for c in machine.drain()]
    assert kinds == ["BatchRow", "ResultPage", "LeaseEnded", "Totals"]


def test_settled_front_is_written_as_a_shorter_lease(machine: Driver, chunk: Lease) -> None:
    machine.drain()
    machine.succeed(chunk, 3)
    machine.succeed(chunk, 2)

    leases = [c.row for c in machine.drain() if isinstance(c, Stored) and isinstance(c.row, LeaseRow)]

    assert [(row.lo, row.hi) for row in leases] == [(5, 8)]


def test_success_of_a_retried_task_removes_its_row_and_keeps_its_history(machine: Driver) -> None:
    # Given a task that failed once
    machine.attach()
    batch = machine.submit(1)
    machine.fail(machine.lease_one())
    machine.tick(2.0)
    machine.drain()

    # When
    lease = machine.lease_one()
    machine.succeed(lease)

    # Then
    changes = machine.drain()
    assert TaskForgotten(batch, 0, history=False) in changes
    assert LeaseEnded(lease.token) in changes
    (attempt,) = machine.store.attempts(batch, 0)
    assert (attempt.number, attempt.outcome) == (1, Outcome.FAILED)
    assert machine.state(batch) is State.SUCCEEDED


def test_nothing_is_written_where_nothing_changed(machine: Driver, chunk: Lease) -> None:
    machine.drain()

    machine.exchange(holding=(Holding(token=chunk.token, started=0),))

    assert machine.drain() == []
    assert machine.machine.queue_state.ledger.empty


def test_submitter_that_does_not_follow_is_not_told(machine: Driver) -> None:
    machine.attach()
    machine.submit(follow=False)
    machine.succeed(machine.lease_one())
    machine.drain()

    assert machine.told == [EndedRange(1, 0, 1, State.SUCCEEDED, "")]
