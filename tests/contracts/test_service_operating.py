"""`Service.batch`, `task`, `tasks`, `stats`, and the verbs of operators: cancel, dead letters, stop."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dtq.client.paging import all_dead_letters, all_tasks, whole_summary
from dtq.coordinator import last_attempts, operating
from dtq.errors import NotDead, ResultExpired, UnknownId
from dtq.model.messages import Failed, Failure, Grant, Succeeded
from dtq.model.snapshots import CancelReport, Counts, GroupBy, Selection
from dtq.model.states import Outcome, State
from tests.contracts.service_scene import SOON_S, Caller, Hand, House, spec, until

# -- looking --------------------------------------------------------------------------------------------------------


def test_task_that_waits_says_why(house: House) -> None:
    # Given
    client = house.client()
    batch = client.submit(2, queue="gpu")
    delayed = client.submit(submission={"delay_s": 60.0})

    # Then
    waiting = client.service.task(batch, 1)
    assert (waiting.state, waiting.attempt, str(waiting.id)) == (State.PENDING, 0, f"{batch}.1")
    assert waiting.spec == spec(queue="gpu")
    assert waiting.reason == "no worker serves the queue 'gpu' (no worker is connected at all)"
    scheduled = client.service.task(delayed, 0)
    assert (scheduled.state, str(scheduled.id)) == (State.SCHEDULED, str(delayed))
    assert scheduled.reason.startswith("submitted with a delay; due in ")
    assert scheduled.due_at == pytest.approx(scheduled.submitted_at + 60.0)


def test_task_that_runs_says_where_and_since_when(house: House) -> None:
    client, hand = house.client(), house.worker("rack-7")
    batch = client.submit()
    hand.fetch_one()

    view = client.service.task(batch, 0)

    assert (view.state, view.worker, view.attempt, view.reason) == (State.RUNNING, "rack-7", 1, "")
    assert view.started_at is not None
    assert view.started_at >= view.submitted_at


def test_task_that_has_ended_says_how_long_it_ran_where_and_with_what_memory(house: House) -> None:
    # Given one that succeeded, several that were reported together, one that died, and one that was never started
    client, hand = house.client(), house.worker("rack-7")
    alone = client.submit(max_retries=0)
    report(hand, hand.fetch_one(), seconds=0.0005, peak_memory=30 << 20)
    several = client.submit(8, max_retries=0)
    for grant in hand.fetch():
        report(hand, grant, seconds=0.0005 * (grant.hi - grant.lo))
    dead = client.submit(max_retries=0)
    hand.fail(hand.fetch_one(), message="disk", peak_memory=40 << 20)
    never = client.submit(submission={"delay_s": 60.0})
    client.service.cancel(Selection(ids=((never, 0),)))

    # Then its view says so, and its line in a list; after a restart too
    for _ in range(2):
        listed = {view.batch: view for view in client.service.tasks(Selection())[::-1]}
        for number, run_s, about, peak in (
            (alone, 0.0005, False, 30 << 20),
            (several, 0.0005, True, None),
            (dead, 60.0, False, 40 << 20),
            (never, None, False, None),
        ):
            for view in (client.service.task(number, 0), listed[number]):
                assert (view.run_s, view.about, view.peak_memory) == (pytest.approx(run_s), about, peak)
                assert (view.worker, view.started_at is None) == (("", True) if run_s is None else ("rack-7", False))
                assert view.ended_at is not None
                assert (view.started_at or 0.0) <= view.ended_at
        assert listed[several].count > 1
        house.restart()
        client = house.client(client.session)


def test_lists_of_what_failed_read_a_bounded_part_of_the_attempts(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given dead letters with long tracebacks, each of more than an answer may read
    client, hand = house.client(), house.worker()
    client.submit(5, max_retries=0)
    for _ in range(5):
        hand.fail(hand.fetch_one(), traceback="x" * 2_000)
    monkeypatch.setattr(last_attempts, "_MOST_READ", 3_000)

    # Then an answer ends early, and the list goes on behind it
    assert len(client.service.dead_letters(Selection())) == 2
    assert len(client.service.tasks(Selection())) == 2
    letters = all_dead_letters(client.service, Selection(limit=0))
    assert [letter.index for letter in letters] == [4, 3, 2, 1, 0]
    assert all(letter.run_s == pytest.approx(60.0) for letter in letters)
    assert len(all_tasks(client.service, Selection(limit=4))) == 4


def report(hand: Hand, grant: Grant, seconds: float, peak_memory: int = 0) -> None:
    """Report all of a lease."""
    succeeded = Succeeded(
        token=grant.token, lo=grant.lo, results=grant.arguments, seconds=seconds, peak_memory=peak_memory
    )
    hand.held.pop(grant.token, None)
    hand.exchange(succeeded=(succeeded,))


def test_task_that_has_ended_says_how_and_what_went_before(house: House) -> None:
    # Given a task that failed, crashed, and succeeded; and one that died
    client, hand = house.client(), house.worker("rack-7")
    lucky = client.submit(retry_delay_s=0.0, max_crashes=2)
    hand.fail(hand.fetch_one(), exception="OSError", message="disk")
    hand.fail(hand.fetch_one(), Outcome.CRASHED, exception="", signal=9)
    hand.succeed(hand.fetch_one())
    poison = client.submit(max_crashes=2)
    for _ in range(2):
        hand.fail(hand.fetch_one(), Outcome.CRASHED, exit_code=1)

    # Then
    succeeded, dead = client.service.task(lucky, 0), client.service.task(poison, 0)
    assert (succeeded.state, succeeded.attempt, succeeded.worker) == (State.SUCCEEDED, 3, "rack-7")
    history = [(a.number, a.outcome, a.failure.exception, a.failure.signal) for a in succeeded.history]
    assert history == [(1, Outcome.FAILED, "OSError", None), (2, Outcome.CRASHED, "", 9)]
    assert (dead.state, dead.attempt, dead.crashes, len(dead.history)) == (State.DEAD, 2, 2, 2)
    assert dead.ended_at is not None


def test_task_is_found_at_every_moment_of_its_life(house: House) -> None:
    # Given somebody who looks at a task all the time
    client, looker, hand = house.client(), house.client(), house.worker()

    def look(batch: int) -> list[State]:
        seen = [State.PENDING]
        while not seen[-1].final:
            seen.append(looker.service.task(batch, 0).state)
            assert looker.service.batch(batch).counts.total == 1
        return seen

    # When tasks are submitted, run and end meanwhile
    for _ in range(20):
        batch = client.submit()
        looking = house.begin(lambda batch=batch: look(batch))  # type: ignore[misc]  # bound now
        hand.succeed(hand.fetch_one())

        # Then it is never unknown, and never goes back
        order = [State.PENDING, State.RUNNING, State.SUCCEEDED]
        seen = looking.result(SOON_S)
        assert seen == sorted(seen, key=order.index)


def test_batch_counts_where_its_tasks_stand(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker(slots=4)
    (receipt,) = client.receipts(client.submission(6, complete=False, key="mine"), max_retries=0)
    grants = hand.fetch()
    hand.succeed(grants[0])
    hand.fail(grants[1])
    client.service.cancel(Selection(ids=((receipt.batch, 5),), limit=0))

    # Then
    view = client.service.batch(receipt.batch)
    assert (view.size, view.complete, view.finished_at, view.key) == (6, False, None, "mine")
    assert view.counts == Counts(pending=1, running=2, succeeded=1, dead=1, cancelled=1)

    # When it is done
    client.receipts(client.submission(0, offset=6, batch=receipt.batch))
    for grant in grants[2:]:
        hand.succeed(grant)
    hand.succeed(hand.fetch_one())

    # Then
    view = client.service.batch(receipt.batch)
    assert (view.complete, view.counts) == (True, Counts(succeeded=4, dead=1, cancelled=1))
    assert view.finished_at is not None


@pytest.mark.parametrize(
    ("batch", "index", "named"), [(99, 0, "99"), (99, 2, "99.2"), (1, 3, "1.3"), (1, 1_000_000, "1.1000000")]
)
def test_unknown_task_is_an_error_that_names_it(house: House, batch: int, index: int, named: str) -> None:
    client = house.client()
    client.submit(3)

    with pytest.raises(UnknownId, match=f"no task {re.escape(named)} "):
        client.service.task(batch, index)


def test_unknown_batch_is_an_error_that_names_it(house: House) -> None:
    with pytest.raises(UnknownId, match="99"):
        house.client().service.batch(99)


SELECTIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"running 1", "pending 2", "pending 3", "scheduled 4", "succeeded 5", "dead 6", "cancelled 7"}),
    ({"state": State.RUNNING}, {"running 1"}),
    ({"state": State.PENDING}, {"pending 2", "pending 3"}),
    ({"state": State.DEAD}, {"dead 6"}),
    ({"state": State.CANCELLED}, {"cancelled 7"}),
    ({"queue": "gpu"}, {"pending 3"}),
    ({"function": "art:*"}, {"pending 2", "dead 6"}),
    ({"function": "art:paint", "state": State.DEAD}, set()),
    ({"exception": "shop.*"}, {"dead 6"}),
    ({"ids": ((2, -1), (5, 0))}, {"pending 2", "succeeded 5"}),
    ({"older_than_s": 3600.0}, set()),
]


@pytest.mark.parametrize(("selection", "expected"), SELECTIONS)
def test_tasks_are_selected_by_everything_that_is_given(
    house: House, selection: dict[str, Any], expected: set[str]
) -> None:
    # Given one task in each state, and two that wait
    client, hand = house.client(), house.worker("hand", slots=1, queues=("default",))
    running = client.submit()
    hand.fetch_one()
    client.submit(function="art:paint")
    client.submit(queue="gpu")
    client.submit(submission={"delay_s": 99.0})
    other = house.worker("other", queues=("other",))
    client.submit(queue="other")
    other.succeed(other.fetch_one())
    client.submit(queue="other", function="art:print", max_retries=0)
    other.fail(other.fetch_one(), exception="shop.SoldOut")
    client.service.cancel(Selection(ids=((client.submit(queue="other"), -1),), limit=0))
    assert running == 1

    # Then
    found = client.service.tasks(Selection(**selection))
    assert {f"{view.state.value} {view.batch}" for view in found} == expected


def test_tasks_are_listed_as_they_will_run_then_as_they_ended(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    for _ in range(2):
        client.submit()
        hand.succeed(hand.fetch_one())
    client.submit(1000, priority=5)
    hand.fetch_one()
    client.submit(3, priority=1)

    # Then
    found = [(view.state, view.batch, view.index, view.count) for view in client.service.tasks(Selection())]
    assert found == [
        (State.RUNNING, 3, 0, 1),
        (State.PENDING, 4, 0, 3),
        (State.PENDING, 3, 1, 999),
        (State.SUCCEEDED, 2, 0, 1),
        (State.SUCCEEDED, 1, 0, 1),
    ]
    assert [view.batch for view in client.service.tasks(Selection(limit=2))] == [3, 4]


def test_stats_are_the_coordinator_in_one_look(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker("rack-7", slots=2, queues=("default", "gpu"))
    client.submit(4, max_retries=0)
    client.submit(2, submission={"delay_s": 60.0}, queue="later")
    first, second = hand.fetch()
    hand.succeed(first)
    hand.fail(second)
    hand.fetch()
    hand.succeed(first)

    # Then
    stats = client.service.stats()
    assert stats.counts == Counts(scheduled=2, running=2, succeeded=1, dead=1)
    assert (stats.submitted, stats.retries, stats.refused, stats.dead_letters) == (6, 0, 1, 1)
    assert (stats.clients, stats.epoch, stats.durability, stats.highest_first) == (1, 1, "fsync", False)
    queues = [(q.name, q.pending, q.scheduled, q.running, q.workers) for q in stats.queues]
    assert queues == [("default", 0, 0, 2, 1), ("gpu", 0, 0, 0, 1), ("later", 0, 2, 0, 0)]
    (worker,) = stats.workers
    assert (worker.name, worker.slots, worker.busy, worker.queues) == ("rack-7", 2, 2, ("default", "gpu"))
    assert worker.running == ("1.2", "1.3")
    assert stats.started_at <= stats.now


def test_workers_of_one_name_are_told_apart_by_their_process(house: House) -> None:
    # Given three workers that were given the same name, on two machines
    client = house.client()
    hands = [house.worker("lab", host=host, pid=pid) for host, pid in (("a", 7), ("a", 8), ("b", 7))]
    # Then each has one of its own, everywhere
    names = ["lab", "lab (a, pid 8)", "lab (b, pid 7)"]
    assert [worker.name for worker in client.service.stats().workers] == names
    client.submit(1)
    hands[1].fetch_one()
    assert client.service.task(1, 0).worker == names[1]
    # And a name that is free again is given again
    hands[0].exchange(holding=(), capacity=0, fetch=True)
    hands[0].hang_up()
    until("it has left", lambda: len(client.service.stats().workers) == 2)
    house.worker("lab", host="c", pid=9)
    assert "lab" in [worker.name for worker in client.service.stats().workers]


def test_clients_that_have_ended_are_not_counted(house: House) -> None:
    client = house.client()
    for _ in range(3):
        house.client().hang_up()
    until("they are gone", lambda: client.service.stats().clients == 1)


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_cancel_of_a_batch_reports_what_it_did(house: House) -> None:
    # Given one task that succeeded, two that run, and five that wait
    client, hand = house.client(), house.worker(slots=3)
    batch = client.submit(8)
    hand.succeed(hand.fetch()[0])

    # When
    report = client.service.cancel(Selection(ids=((batch, -1),), limit=0))

    # Then
    assert report == CancelReport(cancelled=5, stopping=2, finished=1)
    assert client.service.batch(batch).counts == Counts(succeeded=1, running=2, cancelled=5)
    assert client.service.task(batch, 1).cancelling


def test_cancel_of_a_finished_batch_changes_nothing(house: House) -> None:
    client, hand = house.client(), house.worker(slots=3)
    batch = client.submit(3)
    for grant in hand.fetch():
        hand.succeed(grant)

    assert client.service.cancel(Selection(ids=((batch, -1),), limit=0)) == CancelReport(
        cancelled=0, stopping=0, finished=3
    )


def test_cancel_of_single_tasks_reports_each_once(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(5)
    hand.succeed(hand.fetch()[0])

    # When some are named twice
    ids = ((batch, 0), (batch, 1), (batch, 3), (batch, 3))
    report = client.service.cancel(Selection(ids=ids, limit=0))

    # Then
    assert report == CancelReport(cancelled=1, stopping=1, finished=1)
    assert client.states(batch, 5) == [
        State.SUCCEEDED,
        State.RUNNING,
        State.PENDING,
        State.CANCELLED,
        State.PENDING,
    ]


def test_cancel_is_on_disk_when_it_is_answered(house: House) -> None:
    client = house.client()
    batch = client.submit(3)

    client.service.cancel(Selection(ids=((batch, 1),), limit=0))

    ended = house.engine.ended(Selection(ids=((batch, 1),)), 0.0)
    assert [run.state for run in ended] == [State.CANCELLED]


@pytest.mark.parametrize("unknown", [(99, -1), (99, 0), (1, 3)])
def test_cancel_of_an_unknown_id_cancels_nothing(house: House, unknown: tuple[int, int]) -> None:
    client = house.client()
    batch = client.submit(3)

    with pytest.raises(UnknownId):
        client.service.cancel(Selection(ids=((batch, -1), unknown), limit=0))

    assert client.states(batch, 3) == [State.PENDING] * 3


def test_cancel_by_queue_and_function_cancels_what_matches(house: House) -> None:
    # Given
    client = house.client()
    paint, gpu = client.submit(4, function="art:paint"), client.submit(4, function="art:paint", queue="gpu")
    shop = client.submit(4)

    # When
    report = client.service.cancel(Selection(function="art:*", queue="default", limit=0))

    # Then
    assert report.cancelled == 4
    assert client.service.batch(paint).counts.cancelled == 4
    assert client.service.batch(gpu).counts.cancelled == client.service.batch(shop).counts.cancelled == 0


def test_cancel_by_state_leaves_the_others_alone(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit(4)
    hand.fetch_one()
    later = client.submit(2, submission={"delay_s": 60.0})

    # When
    report = client.service.cancel(Selection(state=State.PENDING, limit=0))

    # Then
    assert (report.cancelled, report.stopping) == (3, 0)
    assert not client.service.task(batch, 0).cancelling
    assert client.states(later, 2) == [State.SCHEDULED] * 2


def test_cancel_by_exception_cancels_what_failed_so(house: House) -> None:
    client, hand = house.client(), house.worker(slots=3)
    batch = client.submit(4)
    first, second, _ = hand.fetch()
    hand.fail(first, exception="OSError")
    hand.fail(second, exception="ValueError")

    report = client.service.cancel(Selection(exception="OS*", limit=0))

    assert report.cancelled == 1
    assert client.service.task(batch, 0).state is State.CANCELLED
    assert client.service.task(batch, 1).state is State.SCHEDULED


def test_cancel_of_a_million_tasks_by_queue_is_quick_and_small(house: House) -> None:
    # Given
    client = house.client()
    (receipt,) = client.receipts(client.submission(1024, complete=False))
    for piece in range(1, 100):
        client.receipts(client.submission(1024, offset=1024 * piece, batch=receipt.batch, complete=False))

    # When
    report = client.service.cancel(Selection(queue="default", limit=0))

    # Then nothing is kept for each task
    assert report.cancelled == 102_400
    assert len(house.engine.ended(Selection(ids=((receipt.batch, -1),), limit=0), 0.0)) == 1


# -- dead letters ---------------------------------------------------------------------------------------------------


def letters(client: Caller, **selection: Any) -> list[int]:
    return [letter.batch for letter in client.service.dead_letters(Selection(**selection))]


def test_dead_letter_says_what_died_and_why(house: House) -> None:
    (batch,) = house.dead_letters(exception="shop.SoldOut", function="work:sell", queue="shop")

    (letter,) = house.client().service.dead_letters(Selection())

    assert (letter.batch, letter.index, str(letter.id)) == (batch, 0, str(batch))
    assert (letter.function, letter.queue, letter.attempts) == ("work:sell", "shop", 1)
    assert (letter.outcome, letter.exception, letter.message) == (Outcome.FAILED, "shop.SoldOut", "for good")
    assert letter.died_at >= letter.submitted_at


def test_dead_letters_are_listed_latest_first_and_by_everything_that_is_given(house: House) -> None:
    # Given
    one, two = house.dead_letters(2, exception="shop.SoldOut", function="work:sell")
    (three,) = house.dead_letters(exception="OSError", queue="gpu")
    client = house.client()

    # Then
    assert letters(client) == [three, two, one]
    assert letters(client, limit=2) == [three, two]
    assert letters(client, exception="shop.*") == [two, one]
    assert letters(client, queue="gpu") == [three]
    assert letters(client, function="*:sell", exception="OSError") == []
    assert letters(client, ids=((one, 0), (three, -1))) == [three, one]
    assert letters(client, older_than_s=3600.0) == []
    assert letters(client, older_than_s=0.0) == [three, two, one]


def test_retried_dead_letter_runs_again_with_its_history_kept(house: House) -> None:
    # Given
    (batch,) = house.dead_letters()
    client, hand = house.client(), house.worker()

    # When
    assert client.service.retry_dead(Selection(ids=((batch, 0),), limit=0)) == 1

    # Then
    assert letters(client) == []
    grant = hand.fetch_one()
    assert (grant.batch, grant.attempt) == (batch, 2)
    hand.succeed(grant)
    view = client.service.task(batch, 0)
    assert (view.state, view.failures, len(view.history)) == (State.SUCCEEDED, 0, 1)
    assert client.service.batch(batch).counts == Counts(succeeded=1)


def test_dead_letters_are_retried_by_filter_all_of_them(house: House) -> None:
    # Given more than a list shows by default
    client, hand = house.client(), house.worker(slots=60)
    client.submit(120, max_retries=0)
    for _ in range(2):
        for grant in hand.fetch():
            hand.fail(grant, exception="OSError")
    house.dead_letters(exception="ValueError")
    assert client.service.stats().dead_letters == 121

    # When
    assert client.service.retry_dead(Selection(exception="OS*")) == 120

    # Then
    assert client.service.stats().dead_letters == 1


def test_dead_letter_of_a_batch_that_goes_on_is_retried(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(2, max_retries=0)
    hand.fail(hand.fetch_one())

    assert client.service.retry_dead(Selection(ids=((batch, -1),), limit=0)) == 1

    assert hand.fetch_one().lo == 0


def test_purged_dead_letter_is_gone_for_good(house: House) -> None:
    # Given
    one, two = house.dead_letters(2)
    client = house.client()

    # When
    assert client.service.purge_dead(Selection(ids=((one, 0),), limit=0)) == 1

    # Then
    assert letters(client) == [two]
    with pytest.raises(ResultExpired):
        client.service.task(one, 0)
    assert client.service.stats().dead_letters == 1


def test_dead_letters_are_purged_by_filter(house: House) -> None:
    house.dead_letters(3, exception="OSError")
    (kept,) = house.dead_letters()
    client = house.client()

    assert client.service.purge_dead(Selection(exception="OSError", limit=0)) == 3

    assert letters(client) == [kept]


@pytest.mark.parametrize("verb", ["retry_dead", "purge_dead"])
def test_verb_with_an_id_that_is_no_dead_letter_does_nothing(house: House, verb: str) -> None:
    # Given a dead letter, and a task that is none
    (batch,) = house.dead_letters()
    client = house.client()
    alive = client.submit(queue="elsewhere")

    # Then
    for unknown, why in (
        ((alive, 0), f"task {alive} is pending, not a dead letter"),
        ((alive, -1), f"task {alive} is pending, not a dead letter"),
        ((99, 0), "no task 99 is known"),
        ((batch, 1), f"no task {batch}.1 is known"),
    ):
        with pytest.raises((NotDead, UnknownId), match=why):
            getattr(client.service, verb)(Selection(ids=((batch, 0), unknown), limit=0))
    assert letters(client) == [batch]


@pytest.mark.parametrize("verb", ["retry_dead", "purge_dead"])
def test_verb_that_matches_nothing_says_so(house: House, verb: str) -> None:
    house.dead_letters()

    assert getattr(house.client().service, verb)(Selection(exception="Other", limit=0)) == 0


def test_dead_letters_are_retried_while_their_batches_come_to_an_end(house: House) -> None:
    # Given a batch whose last task runs while a dead letter of it is put back, again and again
    client, operator, hand = house.client(), house.client(), house.worker(slots=2)
    for _ in range(10):
        batch = client.submit(2, max_retries=0)
        first, second = hand.fetch()
        hand.fail(first)

        # When both happen at once
        putting_back = house.begin(
            lambda batch=batch: operator.service.retry_dead(Selection(ids=((batch, 0),), limit=0))  # type: ignore[misc]
        )
        hand.succeed(second)

        # Then no task is lost and none runs twice
        assert putting_back.result(SOON_S) == 1
        grant = hand.fetch_one()
        assert (grant.batch, grant.lo) == (batch, 0)
        hand.succeed(grant)
        assert client.service.batch(batch).counts == Counts(succeeded=2)
        assert client.service.batch(batch).finished_at is not None


# -- stopping -------------------------------------------------------------------------------------------------------


def test_stop_is_passed_on_once(house: House) -> None:
    one, other = house.client(), house.client()

    one.service.stop()
    other.service.stop()

    assert house.stops_asked == 1


def test_stopped_coordinator_has_everything_on_disk(house: House) -> None:
    client, hand = house.client(), house.worker()
    client.submit(2)
    hand.fetch_one()

    assert house.stop()

    house.start()
    assert house.client().states(1, 2) == [State.RUNNING, State.PENDING]


def test_worker_that_is_idle_says_goodbye_and_is_not_listed(house: House) -> None:
    client, hand = house.client(), house.worker()
    hand.exchange(holding=(), capacity=0, fetch=True)

    hand.hang_up()

    until("it has left", lambda: client.service.stats().workers == ())


@pytest.mark.parametrize("house", ["sqlite"], indirect=True)
def test_ten_thousand_dead_letters_are_all_kept_and_all_put_back(house: House) -> None:
    """Row 64."""
    # Given tiny tasks that all fail for good
    count = 10_000
    client, hand = house.client(), house.worker()
    batches = [client.submit(1_000, max_retries=0) for _ in range(count // 1_000)]
    failure = Failure(exception="ValueError", message="poison")
    while grants := hand.fetch():
        failed = [
            Failed(token=grant.token, index=index, outcome=Outcome.FAILED, failure=failure, seconds=0.000_001)
            for grant in grants
            for index in range(grant.lo, grant.hi)
        ]
        hand.held.clear()
        hand.exchange(failed=tuple(failed))
    assert client.service.stats().dead_letters == count

    # When one is thrown away and the rest put back
    assert client.service.purge_dead(Selection(ids=((batches[3], 77),), limit=0)) == 1
    assert client.service.retry_dead(Selection(limit=0)) == count - 1

    # Then they wait, and none is dead
    stats = client.service.stats()
    assert (stats.counts.pending, stats.dead_letters) == (count - 1, 0)


def test_dead_letters_are_put_back_before_any_is_handed_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given dead letters of several priorities, the most urgent and the oldest of which died first; an idle worker
    monkeypatch.setattr(operating, "_PAGE", 2)
    client, hand = house.client(), house.worker()
    batches = [client.submit(max_retries=0, priority=priority) for priority in (9, 1, 5, 1, 9)]
    for _ in batches:
        hand.fail(hand.fetch_one())
    fetching = house.begin_fetch(hand)

    # When
    assert client.service.retry_dead(Selection(limit=0)) == 5

    # Then
    (grant,) = fetching.result(SOON_S).grants
    order = [grant.batch]
    hand.succeed(grant)
    for _ in range(4):
        grant = hand.fetch_one()
        order.append(grant.batch)
        hand.succeed(grant)
    assert order == [batches[at] for at in (1, 3, 2, 0, 4)]


def test_time_limits_are_found_among_the_dead_by_their_name(house: House) -> None:
    # Given a task that ran into its time limit, and one that crashed
    client, hand = house.client(), house.worker()
    late = client.submit(max_retries=0)
    hand.fail(hand.fetch_one(), Outcome.TIMED_OUT, exception="")
    crashed = client.submit(max_crashes=1)
    hand.fail(hand.fetch_one(), Outcome.CRASHED, exception="")

    # Then the help's own example finds it, and every verb does
    (letter,) = client.service.dead_letters(Selection(exception="*TimeoutError"))
    assert (letter.batch, letter.exception) == (late, "TimeoutError")
    (letter,) = client.service.dead_letters(Selection(exception="*TaskCrashed"))
    assert letter.batch == crashed
    assert client.service.purge_dead(Selection(exception="*TimeoutError", limit=0)) == 1
    assert letters(client) == [crashed]


def test_batch_expires_by_a_time_of_its_own(house: House) -> None:
    # Given results that are kept as briefly as can be, for a while, and as long as others
    client, hand = house.client(), house.worker()
    briefly = client.submit(keep_results_s=0.0)
    hand.succeed(hand.fetch_one())
    for_a_while = client.submit(keep_results_s=3600.0)
    hand.succeed(hand.fetch_one())
    usually = client.submit()
    hand.succeed(hand.fetch_one())

    # When the coordinator was restarted
    house.restart()

    # Then the first goes, and the others are there
    until("it has expired", lambda: not list(house.engine.batches([briefly])))
    with pytest.raises(ResultExpired, match="no longer kept"):
        house.client().service.batch(briefly)
    assert [stored.row.batch for stored in house.engine.batches([for_a_while, usually])] == [for_a_while, usually]


@pytest.mark.rules(keep_results_s=0.05)
def test_what_has_expired_is_told_from_what_never_was(house: House) -> None:
    # Given a task whose result is no longer kept
    client, hand = house.client(), house.worker()
    batch = client.submit()
    hand.succeed(hand.fetch_one())
    until("it has expired", lambda: not list(house.engine.batches([batch])))

    # Then
    for look in (
        lambda: client.service.batch(batch),
        lambda: client.service.task(batch, 0),
        lambda: client.service.results(batch, 0, 1),
        lambda: client.service.retry_dead(Selection(ids=((batch, 0),), limit=0)),
        lambda: client.service.cancel(Selection(ids=((batch, -1),), limit=0)),
    ):
        with pytest.raises(ResultExpired, match="no longer kept"):
            look()
    with pytest.raises(UnknownId):
        client.service.batch(batch + 1)


def summed(house: House, by: str = "exception", **selection: Any) -> list[tuple[str, int, int]]:
    """The groups of dead letters: name, count and the batch of the latest."""
    found = whole_summary(house.client().service, Selection(**selection), GroupBy(by))
    return [(group.name, group.count, group.batch) for group in found]


def test_dead_letters_are_summed_up_by_exception_or_function(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given dead letters of several kinds, of which one call looks at few
    monkeypatch.setattr("dtq.coordinator.queries._SUMMED", 2)
    first = house.dead_letters(3, exception="OSError", function="work:read")
    other = house.dead_letters(1, exception="ValueError", function="work:sell", queue="shop")
    last = house.dead_letters(2, exception="OSError", function="work:sell")

    # When, Then
    assert summed(house) == [("OSError", 5, last[-1]), ("ValueError", 1, other[0])]
    assert summed(house, "function") == [("work:sell", 3, last[-1]), ("work:read", 3, first[-1])]
    assert summed(house, queue="shop") == [("ValueError", 1, other[0])]
    assert summed(house, queue="nothing") == []


def test_outcome_of_the_last_attempt_selects(house: House) -> None:
    # Given tasks that failed and crashed, for good and not
    client, hand = house.client(), house.worker()
    failed, crashed = client.submit(max_retries=0), client.submit(max_crashes=1)
    hand.fail(hand.fetch_one())
    hand.fail(hand.fetch_one(), Outcome.CRASHED, exception="")
    waits = client.submit(retry_delay_s=500.0)
    hand.fail(hand.fetch_one(), Outcome.TIMED_OUT, exception="")
    succeeded = client.submit()
    hand.succeed(hand.fetch_one())
    until("the result is stored", lambda: client.service.task(succeeded, 0).state is State.SUCCEEDED)

    def found(outcome: Outcome) -> list[int]:
        return [view.batch for view in client.service.tasks(Selection(outcome=outcome))]

    # When, Then
    assert found(Outcome.FAILED) == [failed]
    assert found(Outcome.CRASHED) == [crashed]
    assert found(Outcome.TIMED_OUT) == [waits]
    assert client.service.retry_dead(Selection(outcome=Outcome.CRASHED, limit=0)) == 1
    assert client.service.cancel(Selection(outcome=Outcome.TIMED_OUT, limit=0)).cancelled == 1
    assert client.service.batch(failed).counts.dead == 1
