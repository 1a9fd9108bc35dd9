"""What a submission may ask for in its conditions: a moment until which it starts, and what its key stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtq.engines.memory import MemoryEngine
from dtq.errors import StoreFull
from dtq.model import pages
from dtq.model.messages import Cancellation, Conditions, Conflict, Receipt, Unique
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from dtq.testing import FailingEngine
from tests.contracts.service_scene import Caller, House, until

PENDING = Conditions(unique=Unique.PENDING)
UNFINISHED = Conditions(unique=Unique.UNFINISHED)


def with_key(client: Caller, conditions: Conditions | None, argument: int = 0) -> Receipt:
    """Submit a task with the key "k"."""
    arguments = pages.pack([b'{"args": [%d]}' % argument])
    submission = client.submission(key="k", conditions=conditions, arguments=arguments)
    (receipt,) = client.receipts(submission)
    return receipt


# -- a moment until which it starts ---------------------------------------------------------------------------------


def test_what_has_not_started_by_its_moment_is_cancelled_and_all_are_told_why(house: House) -> None:
    client = house.client()
    batch = client.submit(3, submission={"conditions": Conditions(start_by=1.0)})

    (ended,) = client.watch_until(batch, 3)
    assert (ended.lo, ended.hi, ended.state) == (0, 3, State.CANCELLED)
    assert ended.failure is not None
    why = ended.failure.message
    assert why.startswith("it had not started by ")
    assert {client.service.task(batch, index).reason for index in range(3)} == {why}
    assert client.service.batch(batch).reason == why
    (again,) = client.service.results(batch, 0, 3)
    assert again == ended


def test_task_that_waits_says_until_when_it_may_start(house: House) -> None:
    client = house.client()
    batch = client.submit(2, submission={"conditions": Conditions(expires_s=3600.0)})
    view = client.service.task(batch, 0)
    assert view.start_by == pytest.approx(view.submitted_at + 3600.0)


# -- what a key stands for ------------------------------------------------------------------------------------------


def test_key_stands_for_the_batch_until_that_has_started(house: House) -> None:
    client, worker = house.client(), house.worker()
    first = with_key(client, PENDING).batch
    assert with_key(client, PENDING).batch == first

    # When it runs
    grant = worker.fetch_one()

    # Then the key is free, for one that waits
    second = with_key(client, PENDING).batch
    assert second != first
    assert with_key(client, PENDING).batch == second
    # and the end of the first frees it for no other
    worker.succeed(grant)
    assert with_key(client, PENDING).batch == second
    # but one that is for as long as anything is unfinished finds it, and one that is kept, too
    assert with_key(client, UNFINISHED).batch == with_key(client, None).batch == second


def test_key_stands_for_the_batch_until_that_has_ended(house: House) -> None:
    client, worker = house.client(), house.worker()
    first = with_key(client, UNFINISHED).batch
    grant = worker.fetch_one()
    assert with_key(client, UNFINISHED).batch == first
    worker.succeed(grant)
    assert with_key(client, None).batch == first
    assert with_key(client, UNFINISHED).batch == first + 1


def test_key_stands_for_the_batch_for_some_seconds_from_its_acceptance_on(house: House) -> None:
    client, worker = house.client(), house.worker()
    first = with_key(client, Conditions(unique_s=3600.0)).batch
    worker.succeed(worker.fetch_one())
    assert with_key(client, Conditions(unique_s=3600.0)).batch == first
    assert with_key(client, Conditions(unique_s=0.0)).batch == first + 1


def test_repeat_with_other_arguments_is_told_apart(house: House) -> None:
    client = house.client()
    first = with_key(client, PENDING)
    other = with_key(client, PENDING, 1)
    assert (other.code, other.details) == ("key-conflict", ("k", first.batch))


@pytest.mark.parametrize(("unique", "ended"), [(Unique.KEPT, False), (Unique.KEPT, True), (Unique.PENDING, False)])
def test_repeat_that_waits_for_something_else_is_told_apart(house: House, unique: Unique, ended: bool) -> None:
    # Given one that waits for a task
    client, worker = house.client(), house.worker()
    one, other, many = client.submit(), client.submit(), client.submit(3)
    keyed = with_key(client, Conditions(unique=unique, after=((one, 0, 1, False),)))
    if ended:
        client.service.cancel(Selection(ids=((keyed.batch, -1),)))
        worker.succeed(worker.fetch_one())

    # When it is repeated, named otherwise; Then it is that one
    for same in ((one, 0, 1, False), (one, 0, 0, False)):
        assert with_key(client, Conditions(unique=unique, after=(same,))).batch == keyed.batch

    # but what waits for something else, for nothing, or goes on without a result is not
    for after in ((other, 0, 0, False),), ((one, 0, 0, False), (many, 0, 1, False)), ():
        told = with_key(client, Conditions(unique=unique, after=after))
        assert (told.code, told.details) == ("key-conflict", ("k", keyed.batch))
    told = with_key(client, Conditions(unique=unique, after=((one, 0, 0, False),), run_anyway=True))
    assert told.code == "key-conflict"


def test_repeat_is_an_error_where_it_is_to_be_one(house: House) -> None:
    client = house.client()
    error = Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.ERROR)
    first = with_key(client, error)
    again = with_key(client, error)
    assert (again.code, again.details) == ("key-taken", ("k", first.batch))
    assert client.service.stats().counts.pending == 1


def test_one_that_replaces_takes_the_place_of_one_that_waits(house: House) -> None:
    client = house.client()
    replace = Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.REPLACE)
    first = with_key(client, replace).batch
    second = with_key(client, replace, 2).batch
    assert second == first + 1
    view = client.service.task(first, 0)
    assert (view.state, view.reason) == (State.CANCELLED, f"it was replaced by {second}")
    (ended,) = client.watch_until(first, 1)
    assert ended.failure is not None
    assert ended.failure.message == view.reason
    assert client.service.task(second, 0).state is State.PENDING


def test_one_that_replaces_stops_one_that_runs(house: House) -> None:
    client, worker = house.client(), house.worker()
    replace = Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.REPLACE)
    first = with_key(client, replace).batch
    grant = worker.fetch_one()
    waiting = house.begin_fetch(worker)

    second = with_key(client, replace).batch

    # Then its worker is told at once
    assert waiting.result().cancel == (Cancellation(token=grant.token, index=0),)
    worker.fail(grant, Outcome.CANCELLED, exception="", message="")
    view = client.service.task(first, 0)
    assert (view.state, view.reason) == (State.CANCELLED, f"it was replaced by {second}")


def test_one_that_replaces_leaves_what_has_ended_as_it_is(house: House) -> None:
    client, worker = house.client(), house.worker()
    first = with_key(client, None).batch
    worker.succeed(worker.fetch_one())
    second = with_key(client, Conditions(on_conflict=Conflict.REPLACE)).batch
    assert second == first + 1
    assert client.service.task(first, 0).state is State.SUCCEEDED
    # and from now on the key stands for the later one
    assert with_key(client, None).batch == second


def test_nothing_is_replaced_by_what_cannot_be_written(tmp_path: Path) -> None:
    # Given a disk that is full when one is to take the place of another
    engine = FailingEngine(MemoryEngine())
    house = House("memory", tmp_path, engine=lambda: engine)
    try:
        client, worker = house.client(), house.worker()
        replace = Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.REPLACE)
        first = client.submit(2, submission={"key": "k", "conditions": replace})
        grant = worker.fetch_one()
        engine.fail(1)
        with pytest.raises(StoreFull):
            with_key(client, replace)

        # Then the other goes on
        until("it can be written again", lambda: house.coordinator.committer.trouble is None)
        assert client.states(first, 2) == [State.RUNNING, State.PENDING]
        assert worker.exchange().cancel == ()
        worker.succeed(grant)

        # and is replaced by what can be written
        second = with_key(client, replace).batch
        assert client.service.task(first, 1).reason == f"it was replaced by {second}"
    finally:
        house.close()


def test_submission_whose_answer_was_lost_is_accepted_once_whatever_its_conditions(house: House) -> None:
    # Given some whose answers were lost with the coordinator, and whose batches have ended or begun since
    client, worker = house.client(), house.worker(slots=4)
    asked = [
        PENDING,
        Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.ERROR),
        Conditions(unique=Unique.UNFINISHED, on_conflict=Conflict.REPLACE),
        Conditions(unique_s=0.0),
    ]
    submissions = [client.submission(key=f"k{place}", conditions=conditions) for place, conditions in enumerate(asked)]
    receipts = client.receipts(*submissions)
    grants = worker.fetch()
    worker.succeed(grants[0])
    worker.succeed(grants[3])
    house.restart()

    # When they are repeated
    again = house.client(client.session).receipts(*submissions, repeated=True)

    # Then each finds its own batch
    assert again == receipts
    assert house.client().service.stats().submitted == 4


def test_what_a_key_stands_for_is_the_same_after_a_restart(house: House) -> None:
    client, worker = house.client(), house.worker()
    first = with_key(client, PENDING).batch
    worker.fetch_one()
    second = with_key(client, PENDING).batch
    house.restart()
    again = house.client()
    assert with_key(again, PENDING).batch == second
    assert house.coordinator.machine.queue_state.keys.all("k") == [second, first]


def test_two_at_once_with_one_key_are_one(house: House) -> None:
    client = house.client()
    submissions = [client.submission(key="k", conditions=UNFINISHED) for _ in range(3)]
    receipts = client.receipts(*submissions)
    assert {receipt.batch for receipt in receipts} == {1}


def test_map_with_a_key_that_is_free_again_is_a_new_batch(house: House) -> None:
    # Given a map of two pieces that has begun
    client, worker = house.client(), house.worker()
    (first,) = client.receipts(client.submission(2, key="k", conditions=PENDING, complete=False))
    worker.fetch_one()
    client.receipts(client.submission(2, offset=2, batch=first.batch, key="k", conditions=PENDING))

    # When it is submitted again
    (second,) = client.receipts(client.submission(2, key="k", conditions=PENDING, complete=False))
    client.receipts(client.submission(2, offset=2, batch=second.batch, key="k", conditions=PENDING))

    # Then both are there, whole
    until("both are whole", lambda: client.service.batch(second.batch).complete)
    assert second.batch == first.batch + 1
    assert client.service.batch(first.batch).size == client.service.batch(second.batch).size == 4
