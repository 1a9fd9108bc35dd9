"""`Service.set_limit`, `limits`, `remove_limit`, `steer_queue`, `reprioritize`: what is held back, and what is next."""

from __future__ import annotations

import pytest

from dtq.client.steering import purge_queue
from dtq.core.changes import LeaseRow
from dtq.errors import DtqError, InvalidValue, UnknownId, UnknownLimit, WholeBatchOnly
from dtq.model.limits import Limit
from dtq.model.queues import Steering, SteeringChange
from dtq.model.snapshots import CancelReport, Selection
from dtq.model.states import State
from tests.contracts.service_scene import House

#: How long a worker may wait that is to be told, in seconds: less than it takes until deadlines are looked at anyway.
AT_ONCE_S = 3.0

# -- limits ---------------------------------------------------------------------------------------------------------


def test_limit_is_kept_to_and_told(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker(slots=4)
    client.service.set_limit(Limit(name="api-*", concurrency=1))
    held = client.submit(3, limits=("api-1", "other"))

    # When a worker with four slots asks
    grant = hand.fetch_one()

    # Then one runs, and the others say why they do not
    assert (grant.lo, grant.hi) == (0, 1)
    waiting = client.service.task(held, 1)
    assert waiting.reason == "the limit 'api-1' (api-*) is reached: 1 of 1 run"
    (view,) = client.service.limits("")
    assert (view.limit, view.names, view.running, view.waiting) == (Limit(name="api-*", concurrency=1), 1, 1, 2)
    # and the next one starts when that one ends
    hand.succeed(grant)
    assert hand.fetch_one().lo == 1


@pytest.mark.parametrize("waits", [False, True])
def test_lease_that_counts_against_a_limit_is_on_disk_before_its_worker_begins(house: House, waits: bool) -> None:
    # Given a worker that asks before or after a task of a limit has come, and a commit that comes by itself never
    client, hand = house.client(), house.worker()
    client.service.set_limit(Limit(name="api", concurrency=1))
    house.coordinator.committer.soon = lambda: None  # type: ignore[method-assign]
    asking = house.begin_fetch(hand) if waits else None
    client.submit(limits=("api",))
    grant = hand.fetch_one() if asking is None else asking.result().grants[0]
    assert grant.token in [row.token for row in house.engine.restore() if isinstance(row, LeaseRow)]


def test_what_waits_for_a_limit_starts_when_it_is_removed(house: House) -> None:
    # Given a worker that waits, and a task that may not start
    client, hand = house.client(), house.worker()
    client.service.set_limit(Limit(name="api", concurrency=0))
    batch = client.submit(limits=("api",))
    fetching = house.begin_fetch(hand)
    assert client.service.task(batch, 0).reason == "the limit 'api' is closed"

    # When
    client.service.remove_limit("api")

    # Then
    assert [grant.batch for grant in fetching.result(AT_ONCE_S).grants] == [batch]
    assert client.service.limits("") == []


def test_rate_starts_the_next_task_in_its_time_though_nobody_asks_again(house: House) -> None:
    client, hand = house.client(), house.worker()
    client.service.set_limit(Limit(name="api", starts=5, per_s=1.0))
    batch = client.submit(2, limits=("api",))
    hand.succeed(hand.fetch_one())

    fetching = house.begin_fetch(hand)

    assert [grant.lo for grant in fetching.result(AT_ONCE_S).grants] == [1]
    first, second = client.service.task(batch, 0), client.service.task(batch, 1)
    assert first.ended_at is not None
    assert second.started_at is not None
    assert second.started_at - first.submitted_at >= 0.2 - 0.001


def test_limit_that_is_not_there_cannot_be_removed(house: House) -> None:
    with pytest.raises(UnknownLimit, match="no limit 'api'"):
        house.client().service.remove_limit("api")


def test_limit_that_bounds_nothing_is_refused(house: House) -> None:
    with pytest.raises(InvalidValue, match="a concurrency, a rate, or both"):
        house.client().service.set_limit(Limit(name="api"))


def test_limits_are_there_after_a_restart(house: House) -> None:
    client = house.client()
    limits = [Limit(name="a", concurrency=3), Limit(name="b-*", starts=100, per_s=60.0, burst=5)]
    for limit in limits:
        client.service.set_limit(limit)

    house.restart()

    assert [view.limit for view in house.client().service.limits("")] == limits
    assert [view.limit for view in house.client().service.limits("a")] == limits[1:]


# -- queues ---------------------------------------------------------------------------------------------------------


def test_paused_queue_takes_tasks_and_starts_none_until_it_is_resumed(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    assert client.service.steer_queue("mail", SteeringChange(paused=True)) == Steering(paused=True)
    batch = client.submit(queue="mail")
    fetching = house.begin_fetch(hand)
    assert client.service.task(batch, 0).reason == "the queue 'mail' is paused"
    assert [(view.name, view.paused, view.pending) for view in client.service.queues("")] == [("mail", True, 1)]

    # When
    client.service.steer_queue("mail", SteeringChange(paused=False))

    # Then
    assert [grant.batch for grant in fetching.result(AT_ONCE_S).grants] == [batch]


def test_draining_queue_takes_no_new_tasks_and_works_off_what_it_has(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit(queue="mail", submission={"complete": False})
    client.service.steer_queue("mail", SteeringChange(draining=True))

    # Then a new batch is refused with one sentence, and one that has begun is taken whole
    (refused,) = client.receipts(client.submission(), queue="mail")
    assert (refused.code, refused.details) == ("queue-draining", ("mail",))
    client.receipts(client.submission(1, batch=batch, offset=1), queue="mail")
    for index in range(2):
        grant = hand.fetch_one()
        assert (grant.batch, grant.lo) == (batch, index)
        hand.succeed(grant)
    client.service.steer_queue("mail", SteeringChange(draining=False))
    assert client.submit(queue="mail") > batch


def test_what_was_said_of_a_queue_is_there_after_a_restart(house: House) -> None:
    client = house.client()
    client.service.steer_queue("mail", SteeringChange(paused=True, weight=7))
    client.service.steer_queue("mail", SteeringChange(draining=True))

    house.restart()

    (view,) = house.client().service.queues("")
    assert (view.name, view.paused, view.draining, view.weight) == ("mail", True, True, 7)


def test_weight_has_bounds(house: House) -> None:
    with pytest.raises(DtqError):
        house.client().service.steer_queue("mail", SteeringChange(weight=0))


# -- priorities -----------------------------------------------------------------------------------------------------


def test_what_waits_gets_another_priority_in_whole_batches(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    first, second = client.submit(3), client.submit(2)
    running = hand.fetch_one()

    # When
    assert client.service.reprioritize(Selection(ids=((second, -1),), limit=0), 1) == 2

    # Then
    hand.succeed(running)
    order = []
    for _ in range(4):
        grant = hand.fetch_one()
        order.append((grant.batch, grant.lo))
        hand.succeed(grant)
    assert order == [(second, 0), (second, 1), (first, 1), (first, 2)]


def test_priority_is_changed_of_what_matches(house: House) -> None:
    client = house.client()
    mail, other = client.submit(2, queue="mail"), client.submit(queue="other", label="nightly")
    late = client.submit(queue="mail", submission={"delay_s": 60.0})

    assert client.service.reprioritize(Selection(queue="mail", limit=0), 2) == 3
    assert client.service.reprioritize(Selection(label="nightly", limit=0), 3) == 1
    assert client.service.reprioritize(Selection(label="daily", limit=0), 3) == 0

    assert [client.service.task(n, 0).spec.options.priority for n in (mail, late, other)] == [2, 2, 3]


def test_one_task_of_a_batch_has_no_priority_of_its_own(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(3)

    with pytest.raises(WholeBatchOnly, match=f"{batch}.1 is one task of a batch"):
        client.service.reprioritize(Selection(ids=((batch, 1), (batch, 2)), limit=0), 1)
    with pytest.raises(UnknownId):
        client.service.reprioritize(Selection(ids=((batch + 1, -1),), limit=0), 1)

    # All that waits of it, as a list names it, is the batch
    hand.fetch_one()
    assert client.service.reprioritize(Selection(ids=((batch, 1), (batch, 2)), limit=0), 1) == 2


def test_repeated_submission_finds_its_batch_whatever_priority_that_has_now(house: House) -> None:
    client = house.client()
    batch = client.submit(submission={"key": "nightly"})
    client.service.reprioritize(Selection(ids=((batch, -1),), limit=0), 1)

    assert client.submit(submission={"key": "nightly"}) == batch


def test_verbs_take_labels(house: House) -> None:
    client, hand = house.client(), house.worker()
    nightly, daily = client.submit(2, label="nightly"), client.submit(label="daily")
    assert [view.batch for view in client.service.tasks(Selection(label="nightly"))] == [nightly]

    report = client.service.cancel(Selection(label="nightly", limit=0))

    assert report == CancelReport(cancelled=2, stopping=0, finished=0)
    assert {view.batch for view in client.service.tasks(Selection(label="nightly", state=State.CANCELLED))} == {nightly}
    assert hand.fetch_one().batch == daily


def test_purge_of_a_queue_takes_what_a_worker_holds_and_leaves_what_it_runs(house: House) -> None:
    # Given a lease of several tasks, of which the first runs, and others that wait
    client, hand = house.client(), house.worker()
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=0.0005)
    batch = client.submit(200)
    grants = hand.fetch()
    assert grants[0].hi > grants[0].lo + 1

    assert purge_queue(client.service, "default") == 199

    views = [client.service.task(batch, index) for index in range(200)]
    assert [view.index for view in views if not view.state.final and not view.cancelling] == [0]
    assert views[0].state is State.RUNNING
