"""`Service.exchange` and `spec`: fetching, reporting, and what becomes of workers that are gone."""

from __future__ import annotations

import pytest

from dtq.core.changes import ResultPage
from dtq.errors import NotPermitted, SessionUnknown, ShuttingDown, UnknownId
from dtq.model import pages
from dtq.model.messages import Exchange, Holding, Succeeded
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.contracts.service_scene import DEADLINE_S, SOON_S, Caller, House, spec, until

# -- grants ---------------------------------------------------------------------------------------------------------


def test_grant_has_what_a_slot_needs(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    single = client.submit(function="work:sell", timeout_s=9.0)
    several = client.submit(2)

    # When
    first = hand.fetch_one()
    hand.succeed(first)
    second = hand.fetch_one()

    # Then
    assert (first.batch, first.lo, first.hi, first.single, first.attempt) == (single, 0, 1, True, 1)
    assert (second.batch, second.lo, second.hi, second.single, second.attempt) == (several, 0, 1, False, 1)
    assert pages.unpack(second.arguments) == [b"0"]
    assert hand.service.spec(first.spec) == spec("work:sell", timeout_s=9.0)
    assert first.token != second.token


def test_grant_of_a_piece_in_the_middle_has_its_own_arguments(house: House) -> None:
    # Given tiny tasks in two pages
    client, hand = house.client(), house.worker()
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=0.005)
    (first,) = client.receipts(client.submission(7, complete=False))
    client.receipts(client.submission(3, offset=7, batch=first.batch))

    # When
    grants = hand.fetch()

    # Then
    assert [(grant.lo, grant.hi) for grant in grants] == [(0, 5), (5, 7), (7, 10)]
    arguments = [pages.unpack(grant.arguments) for grant in grants]
    assert arguments == [[b"0", b"1", b"2", b"3", b"4"], [b"5", b"6"], [b"7", b"8", b"9"]]


def test_spec_that_no_live_batch_has_is_unknown(house: House) -> None:
    with pytest.raises(UnknownId, match="spec 99"):
        house.worker().service.spec(99)


def test_fetch_without_work_and_without_patience_is_answered_at_once(house: House) -> None:
    assert house.worker().fetch(wait_s=0.0) == []


def test_answer_to_a_report_brings_more_where_it_may(house: House) -> None:
    # Given a worker with one task, a fetching call that waits, and more to do
    client, hand = house.client(), house.worker(slots=1)
    client.submit()
    first = hand.fetch_one()
    fetching = house.begin_fetch(hand)
    batch = client.submit(2)

    # When it reports, and says that it may be given more
    results = pages.pack([b"done"])
    done = Succeeded(token=first.token, lo=0, results=results, seconds=60.0)
    orders = hand.exchange(succeeded=(done,), more=True)

    # Then it is, and the other call goes on waiting
    (grant,) = orders.grants
    assert (grant.batch, grant.lo, pages.unpack(grant.arguments)) == (batch, 0, [b"0"])
    assert house.waits(hand)
    house.coordinator.quiesce()
    assert fetching.result(DEADLINE_S).grants == ()


def test_report_that_does_not_ask_brings_nothing(house: House) -> None:
    client, hand = house.client(), house.worker(slots=1)
    client.submit(2)

    assert hand.succeed(hand.fetch_one()).grants == ()


def test_fetch_ends_empty_when_its_wait_has_run_out(house: House) -> None:
    hand = house.worker()

    assert hand.fetch(wait_s=0.05) == []
    assert not house.waits(hand)


def test_client_may_not_exchange(house: House) -> None:
    with pytest.raises(NotPermitted):
        house.client().service.exchange(Exchange(fetch=True))


# -- handing over ---------------------------------------------------------------------------------------------------


def test_waiting_fetch_is_served_by_a_submission_on_another_connection(house: House) -> None:
    hand = house.worker()
    fetching = house.begin_fetch(hand)

    batch = house.client().submit()

    (grant,) = fetching.result(SOON_S).grants
    assert (grant.batch, grant.lo) == (batch, 0)


def test_only_the_fetch_that_can_be_served_wakes(house: House) -> None:
    # Given workers that wait: two for anything, one for another queue
    first, second, third = house.worker("1"), house.worker("2"), house.worker("3", queues=("gpu",))
    waiting = [house.begin_fetch(hand) for hand in (first, third, second)]

    # When one task comes
    house.client().submit()

    # Then the one that has waited longest has it, and the others wait
    assert len(waiting[0].result(SOON_S).grants) == 1
    assert house.waits(second)
    assert house.waits(third)
    house.client().submit(queue="gpu")
    assert len(waiting[1].result(SOON_S).grants) == 1
    assert house.waits(second)


def test_one_submission_serves_as_many_fetches_as_it_has_work_for(house: House) -> None:
    hands = [house.worker(str(number)) for number in range(3)]
    waiting = [house.begin_fetch(hand) for hand in hands]

    house.client().submit(2)

    assert [len(fetch.result(SOON_S).grants) for fetch in waiting[:2]] == [1, 1]
    assert house.waits(hands[2])


@pytest.mark.parametrize("how", ["delay", "retry", "crash", "release", "lost", "revived", "piece"])
def test_waiting_fetch_is_served_by_whatever_brings_work(house: House, how: str) -> None:
    # Given a worker that waits
    client, other = house.client(), house.worker("other")
    if how == "revived":
        (batch,) = house.dead_letters()
    elif how == "delay":
        batch = 0
    else:
        (receipt,) = client.receipts(client.submission(complete=how != "piece"), retry_delay_s=0.05)
        batch = receipt.batch
        grant = other.fetch_one()
    hand = house.worker()
    fetching = house.begin_fetch(hand)

    # When
    if how == "delay":
        batch = client.submit(submission={"delay_s": 0.05})
    elif how == "retry":
        other.fail(grant)
    elif how == "crash":
        other.fail(grant, Outcome.CRASHED)
    elif how == "release":
        other.release(grant)
    elif how == "lost":
        other.hang_up()
    elif how == "revived":
        client.service.retry_dead(Selection(ids=((batch, 0),), limit=0))
    else:
        client.receipts(client.submission(offset=1, batch=batch))

    # Then
    (served,) = fetching.result(SOON_S).grants
    assert (served.batch, served.attempt) == (batch, 1 if how in ("delay", "piece", "release") else 2)


def test_fetch_waits_while_the_slots_are_full_and_is_served_when_one_is_free(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    client.submit(2)
    grant = hand.fetch_one()
    fetching = house.begin_fetch(hand)

    # When
    hand.succeed(grant)

    # Then
    assert [g.lo for g in fetching.result(SOON_S).grants] == [1]


def test_newer_fetch_supersedes_the_one_that_waits(house: House) -> None:
    # Given a fetch whose connection broke without a word
    hand = house.worker()
    old = house.begin_fetch(hand)
    again = house.worker(session=hand.session)

    # When
    new = house.begin_fetch(again)

    # Then the old one is let go, and work goes to the new one
    assert old.result(SOON_S).grants == ()
    house.client().submit()
    assert len(new.result(SOON_S).grants) == 1


def test_grant_that_never_arrived_is_granted_again_unblamed(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit()
    lost = hand.fetch_one()

    # When the worker fetches again, and does not hold it
    orders = hand.fetch_orders(holding=())

    # Then
    (grant,) = orders.grants
    assert (grant.batch, grant.lo, grant.attempt) == (batch, 0, 1)
    assert grant.token != lost.token
    view = client.service.task(batch, 0)
    assert (view.crashes, view.failures, view.history) == (0, 0, ())


def test_stopping_coordinator_lets_fetches_go_and_grants_nothing(house: House) -> None:
    # Given
    hand, client = house.worker(queues=("gpu",)), house.client()
    fetching = house.begin_fetch(hand)
    client.submit()

    # When
    house.coordinator.quiesce()

    # Then
    assert fetching.result(SOON_S).grants == ()
    with pytest.raises(ShuttingDown):
        hand.fetch()


def test_stopping_coordinator_still_takes_reports(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()

    house.coordinator.quiesce()
    hand.succeed(grant, b"in time")

    assert pages.unpack(client.service.results(batch, 0, 1)[0].results) == [b"in time"]


# -- reports --------------------------------------------------------------------------------------------------------


def test_reported_outcomes_are_on_disk_when_the_report_is_answered(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(2)
    first, second = hand.fetch()

    # When
    hand.succeed(first, b"result")
    hand.fail(second, message="broken", traceback="Traceback ...", signal=None)

    # Then
    (page,) = house.engine.pages(ResultPage, batch, 0, 1)
    assert pages.unpack(page.data) == [b"result"]
    (attempt,) = house.engine.attempts(batch, 1)
    assert (attempt.outcome, attempt.failure.message, attempt.worker) == (Outcome.FAILED, "broken", "hand")


def test_outcomes_that_come_with_a_fetch_are_on_disk_too(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()

    success = Succeeded(token=grant.token, lo=0, results=pages.pack([b"r"]), seconds=1.0)
    hand.fetcher.service.exchange(Exchange(succeeded=(success,), capacity=1, fetch=True))

    assert len(house.engine.pages(ResultPage, batch, 0, 1)) == 1


def test_repeated_report_changes_nothing_and_is_counted(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()
    hand.succeed(grant, b"first")

    hand.succeed(grant, b"again")

    assert client.service.stats().refused == 1
    assert pages.unpack(client.service.results(batch, 0, 1)[0].results) == [b"first"]


def test_progress_is_shown_while_the_task_runs(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(2)
    grant = hand.fetch_one()

    hand.progress(grant, 3.0, 10.0)

    assert client.service.task(batch, 0).progress == (3.0, 10.0)
    assert client.service.task(batch, 1).progress is None


# -- orders ---------------------------------------------------------------------------------------------------------


def test_cancel_reaches_a_worker_that_waits_for_work(house: House) -> None:
    # Given a worker with one busy and one idle slot
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit()
    grant = hand.fetch_one()
    fetching = house.begin_fetch(hand)

    # When
    client.service.cancel(Selection(ids=((batch, 0),), limit=0))

    # Then it hears of it at once on the call that waits, and on every report until it has stopped the task
    assert [(d.token, d.index) for d in fetching.result(SOON_S).cancel] == [(grant.token, 0)]
    assert [d.token for d in hand.exchange().cancel] == [grant.token]
    hand.fail(grant, Outcome.CANCELLED)
    assert hand.exchange().cancel == ()
    assert client.service.task(batch, 0).state is State.CANCELLED


def test_cancel_is_told_once_on_fetches_so_that_they_can_wait(house: House) -> None:
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit()
    hand.fetch_one()
    client.service.cancel(Selection(ids=((batch, 0),), limit=0))
    assert len(hand.fetch_orders().cancel) == 1

    house.begin_fetch(hand)

    assert house.waits(hand)


def test_lease_that_is_no_longer_the_worker_s_is_to_be_dropped(house: House) -> None:
    hand = house.worker()
    house.client().submit()

    orders = hand.fetch_orders(holding=(Holding(token=12345, started=0),))

    # What there is to be had comes with it.
    assert orders.drop == (12345,)
    assert len(orders.grants) == 1
    assert hand.exchange(holding=(Holding(token=12345),)).drop == (12345,)


# -- workers that are gone ------------------------------------------------------------------------------------------


def test_task_of_a_worker_whose_reporting_connection_ended_runs_elsewhere_within_a_second(house: House) -> None:
    # Given
    client, dead, alive = house.client(), house.worker("dead"), house.worker("alive")
    batch = client.submit()
    dead.fetch_one()
    fetching = house.begin_fetch(alive)

    # When
    dead.hang_up()

    # Then
    (grant,) = fetching.result(2.0).grants
    assert (grant.batch, grant.attempt) == (batch, 2)
    (attempt,) = client.service.task(batch, 0).history
    assert (attempt.outcome, attempt.worker) == (Outcome.CRASHED, "dead")


def test_worker_that_reconnects_keeps_its_leases(house: House) -> None:
    # Given a connection that was reset
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()
    hand.hang_up()

    # When
    again = house.worker(session=hand.session)

    # Then
    assert again.welcome.resumed
    deadline = house.coordinator.sessions.by_id[hand.session].lost_at
    assert deadline is None
    again.succeed(grant, b"kept")
    assert client.service.task(batch, 0).state is State.SUCCEEDED


def test_end_of_a_connection_that_was_replaced_already_costs_nothing(house: House) -> None:
    # Given a worker that has a new reporting connection before the end of the old one is noticed
    client, hand = house.client(), house.worker()
    batch = client.submit()
    hand.fetch_one()
    house.worker(session=hand.session)
    sessions = house.coordinator.sessions

    # When
    hand.hang_up()
    until("the old connection has ended", lambda: sessions.by_id[hand.session].primaries == 1)

    # Then
    assert sessions.by_id[hand.session].lost_at is None
    assert client.service.task(batch, 0).state is State.RUNNING


def test_worker_that_may_be_dead_is_given_nothing_until_it_is_back(house: House) -> None:
    # Given a worker whose fetch waits while its reporting connection is gone
    hand = house.worker("half")
    fetching = house.begin_fetch(hand)
    Caller.hang_up(hand)
    until("it is missed", lambda: house.coordinator.sessions.by_id[hand.session].away)

    # When work comes
    batch = house.client().submit()

    # Then it gets it only when it says hello again
    assert house.coordinator.machine.queue_state.leases == {}
    assert house.worker(session=hand.session).welcome.resumed
    (grant,) = fetching.result(SOON_S).grants
    assert (grant.batch, grant.attempt) == (batch, 1)


def test_worker_that_was_given_up_has_to_say_hello_again(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()
    Caller.hang_up(hand)
    until("it is given up", lambda: hand.session not in house.coordinator.sessions.by_id)

    # Then
    with pytest.raises(SessionUnknown):
        hand.fetch()
    again = house.worker(session=hand.session)
    assert not again.welcome.resumed
    assert again.exchange(holding=(Holding(token=grant.token),)).drop == (grant.token,)
    assert client.service.task(batch, 0).state is State.PENDING


def test_old_connections_of_a_worker_that_was_given_up_are_refused(house: House) -> None:
    # Given a worker that was given up, and has come back; its old fetching connection is still open
    hand = house.worker()
    Caller.hang_up(hand)
    until("it is given up", lambda: hand.session not in house.coordinator.sessions.by_id)
    house.worker(session=hand.session)

    # Then
    with pytest.raises(SessionUnknown):
        hand.fetch()


def test_fetch_of_a_worker_that_may_be_dead_is_given_nothing(house: House) -> None:
    # Given a worker whose reporting connection is gone, and work that waits
    hand = house.worker()
    house.client().submit()
    Caller.hang_up(hand)
    until("it is missed", lambda: house.coordinator.sessions.by_id[hand.session].away)

    # Then
    assert hand.fetch(wait_s=0.0) == []


def test_fetch_of_a_worker_that_is_given_up_is_let_go(house: House) -> None:
    # Given
    hand = house.worker()
    fetching = house.begin_fetch(hand)

    # When
    Caller.hang_up(hand)

    # Then, and what comes later is not for it
    assert fetching.result(SOON_S).grants == ()
    client = house.client()
    assert client.states(client.submit(), 1) == [State.PENDING]


def test_worker_that_gave_everything_back_leaves_without_blame(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit()
    hand.fetch_one()

    # When it says goodbye: it holds nothing, and has no slots
    hand.exchange(holding=(), capacity=0, fetch=True)
    hand.hang_up()

    # Then
    until("it has left", lambda: not client.service.stats().workers)
    view = client.service.task(batch, 0)
    assert (view.state, view.crashes) == (State.PENDING, 0)


@pytest.mark.rules(lease_s=0.4)
def test_task_of_a_worker_that_falls_silent_runs_elsewhere(house: House) -> None:
    # Given a worker whose connections stay, but who says nothing
    client, silent, alive = house.client(), house.worker("silent"), house.worker("alive")
    batch = client.submit()
    silent.fetch_one()

    # When
    grants = alive.fetch(0.0)
    while not grants:
        grants = alive.fetch(0.1)

    # Then
    assert (grants[0].batch, grants[0].attempt) == (batch, 2)
    with pytest.raises(SessionUnknown):
        silent.exchange()


def test_worker_that_draws_no_work_is_shown_as_draining(house: House) -> None:
    client, hand = house.client(), house.worker()
    client.submit()
    hand.exchange(capacity=0)

    assert hand.fetcher.service.exchange(Exchange(fetch=True, capacity=0)).grants == ()

    (shown,) = client.service.stats().workers
    assert shown.draining
