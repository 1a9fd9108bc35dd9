"""Restarts of the coordinator: what was promised before is kept after, by a new coordinator on the same store."""

from __future__ import annotations

import pytest

from dtq.model import pages
from dtq.model.messages import Exchange, Holding
from dtq.model.snapshots import Counts, Selection
from dtq.model.states import Outcome, State
from tests.contracts.service_scene import House, until


def test_restart_keeps_tasks_results_and_dead_letters(house: House) -> None:
    # Given one of each
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(4, max_retries=0)
    first, second = hand.fetch()
    hand.succeed(first, b"kept")
    hand.fail(second)
    hand.exchange(capacity=0)
    delayed = client.submit(submission={"delay_s": 60.0})

    # When
    house.restart()

    # Then
    client = house.client()
    assert client.welcome.epoch == 2
    assert client.states(batch, 4) == [State.SUCCEEDED, State.DEAD, State.PENDING, State.PENDING]
    assert client.states(delayed, 1) == [State.SCHEDULED]
    assert pages.unpack(client.service.results(batch, 0, 1)[0].results) == [b"kept"]
    stats = client.service.stats()
    assert stats.counts == Counts(pending=2, scheduled=1, succeeded=1, dead=1)
    assert (stats.submitted, stats.epoch, stats.losses) == (5, 2, ())


def test_restart_keeps_what_was_cancelled_cancelled(house: House) -> None:
    # Given tasks cancelled alone before anybody came to them, and a cancelled rest
    client = house.client()
    alone, whole = client.submit(4), client.submit(4)
    for index in (1, 3):
        client.service.cancel(Selection(ids=((alone, index),), limit=0))
    client.service.cancel(Selection(ids=((whole, -1),), limit=0))

    # When
    house.restart()

    # Then
    client, hand = house.client(), house.worker(slots=9)
    assert [(grant.batch, grant.lo) for grant in hand.fetch()] == [(alone, 0), (alone, 2)]
    assert client.service.batch(alone).counts == Counts(running=2, cancelled=2)
    assert client.service.batch(whole).counts == Counts(cancelled=4)


def test_worker_claims_what_it_runs_after_a_restart(house: House) -> None:
    # Given a worker in the middle of two tasks, one of which ends while the coordinator is away
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(3)
    first, second = hand.fetch()
    house.restart()

    # When it comes back
    again = house.worker(session=hand.session, slots=2)
    assert again.welcome.resumed
    again.held = {first.token: first, second.token: second}
    again.succeed(first, b"meanwhile")

    # Then nothing runs twice
    client = house.client()
    assert client.states(batch, 3) == [State.SUCCEEDED, State.RUNNING, State.PENDING]
    assert [grant.lo for grant in again.fetch()] == [2]
    again.succeed(second)
    assert client.service.stats().refused == 0
    assert client.service.task(batch, 1).history == ()


@pytest.mark.rules(lease_s=0.5)
def test_tasks_that_nobody_claims_run_elsewhere_after_a_lease_time(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    hand.fetch_one()
    house.restart()

    other = house.worker("other")
    (grant,) = until("the task is free", lambda: other.fetch(wait_s=0.1))

    assert (grant.batch, grant.attempt) == (batch, 2)
    (attempt,) = house.client().service.task(batch, 0).history
    assert attempt.outcome is Outcome.CRASHED


def test_lease_of_the_last_run_is_not_mistaken_for_one_of_this_run(house: House) -> None:
    # Given a lease that is no longer known after the restart
    client, hand = house.client(), house.worker()
    client.submit()
    grant = hand.fetch_one()
    hand.release(grant)
    house.restart()

    # Then
    again = house.worker(session=hand.session)
    assert again.exchange(holding=(Holding(token=grant.token),)).drop == (grant.token,)
    assert again.fetch_one().token != grant.token


def test_submission_whose_answer_was_lost_with_the_coordinator_is_not_accepted_twice(house: House) -> None:
    # Given
    client = house.client()
    submissions = [client.submission(2), client.submission(1, key="nightly"), client.submission(2, complete=False)]
    receipts = client.receipts(*submissions)

    # When
    house.restart()
    again = house.client(client.session)

    # Then
    assert not again.welcome.resumed
    assert again.receipts(*submissions, repeated=True) == receipts
    assert again.service.stats().submitted == 5
    assert again.service.stats().counts == Counts(pending=5)


def test_last_piece_whose_answer_was_lost_with_the_coordinator_is_answered(house: House) -> None:
    # Given a batch that was finished before its submitter heard that it is complete
    client, hand = house.client(), house.worker(slots=2)
    (first,) = client.receipts(client.submission(1, complete=False))
    last = client.submission(1, offset=1, batch=first.batch)
    client.receipts(last)
    for grant in hand.fetch():
        hand.succeed(grant)

    # When
    house.restart()

    # Then
    (receipt,) = house.client(client.session).receipts(last, repeated=True)
    assert (receipt.batch, receipt.size, receipt.code) == (first.batch, 2, "")


def test_batch_is_gone_on_with_after_a_restart(house: House) -> None:
    client = house.client()
    (receipt,) = client.receipts(client.submission(2, complete=False))
    house.restart()

    again = house.client(client.session)
    (receipt,) = again.receipts(again.submission(2, offset=2, batch=receipt.batch))

    assert (receipt.batch, receipt.size) == (1, 4)
    assert again.service.batch(1).complete


def test_batch_whose_submitter_does_not_come_back_after_a_restart_has_what_it_has(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = house.client()
    (gone,) = client.receipts(client.submission(2, complete=False))
    other = house.client()
    (back,) = other.receipts(other.submission(2, complete=False))
    monkeypatch.setattr("dtq.coordinator.service._ORPHANS_S", 0.2)

    house.restart()
    again = house.client(other.session)

    until("it is complete", lambda: again.service.batch(gone.batch).complete)
    assert not again.service.batch(back.batch).complete


def test_client_follows_again_after_a_restart_and_misses_nothing(house: House) -> None:
    # Given one task that ended before, one after
    client, hand = house.client(), house.worker()
    batch = client.submit(2)
    hand.succeed(hand.fetch_one(), b"before")
    cursor = client.watch().cursor
    assert cursor > 0
    house.restart()

    # When
    again, hand = house.client(client.session), house.worker("another")
    assert not again.welcome.resumed
    assert again.service.follow([batch]) == []
    hand.succeed(hand.fetch_one(), b"after")

    # Then
    news = again.watch_until(batch, 2)
    results = {ended.lo: pages.unpack(ended.results)[0] for ended in news}
    assert results == {0: b"before", 1: b"after"}


def test_expired_function_can_be_used_again(house: House) -> None:
    # Given a function all of whose batches have expired from the store, while the coordinator still knows it
    client, hand = house.client(), house.worker()
    client.submit()
    hand.succeed(hand.fetch_one())
    with house.coordinator.lock:
        house.coordinator.machine.queue_state.ledger.expired(house.coordinator.clock.now() + 1.0)
    house.coordinator.flush()
    assert house.engine.batches([1]) == []

    # When it is used again, and the coordinator restarted
    batch = client.submit()
    house.restart()

    # Then
    assert house.client().states(batch, 1) == [State.PENDING]


def test_restart_while_a_cancel_is_under_way_goes_on_with_it(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()
    client.service.cancel(Selection(ids=((batch, 0),), limit=0))
    house.restart()

    again = house.worker(session=hand.session)
    holding = (Holding(token=grant.token, started=0),)
    orders = again.service.exchange(Exchange(holding=holding, capacity=1))

    assert [cancellation.token for cancellation in orders.cancel] == [grant.token]
    again.fail(grant, Outcome.CANCELLED)
    assert house.client().states(batch, 1) == [State.CANCELLED]
