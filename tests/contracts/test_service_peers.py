"""What a peer with a key can say of what is somebody else's, and what comes of it: nothing."""

from __future__ import annotations

import math

import pytest

from dtq.errors import BadMessage
from dtq.model import pages
from dtq.model.messages import Exchange, Progress, Succeeded
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.contracts.service_scene import House


def test_piece_for_a_batch_of_another_session_is_refused(house: House) -> None:
    # Given somebody in the middle of a batch, and somebody who guesses its number
    one, other = house.client(), house.client()
    batch = one.submit(2, submission={"complete": False})

    # When that one appends to it, or ends it
    receipts = other.receipts(
        other.submission(1, offset=2, batch=batch), other.submission(0, offset=2, batch=batch, complete=True)
    )

    # Then it may not, and the first one goes on
    assert [receipt.code for receipt in receipts] == ["not-permitted"] * 2
    (receipt,) = one.receipts(one.submission(1, offset=2, batch=batch))
    assert (receipt.code, receipt.size) == ("", 3)


def test_who_has_the_key_of_a_batch_may_go_on_with_it(house: House) -> None:
    # Given a submitter that died in the middle of a batch with a key
    one, other = house.client(), house.client()
    batch = one.submit(2, submission={"complete": False, "key": "nightly"})
    one.hang_up()

    # When its successor submits the same
    first = other.submit(2, submission={"complete": False, "key": "nightly"})
    (receipt,) = other.receipts(other.submission(1, offset=2, batch=first, key="nightly"))

    # Then it is one batch
    assert (first, receipt.batch, receipt.size) == (batch, batch, 3)


def test_progress_of_anothers_task_is_not_overwritten(house: House) -> None:
    # Given a task that says how far it is, and a worker that knows the lease
    client, hand, mean = house.client(), house.worker(), house.worker("mean")
    batch = client.submit()
    grant = hand.fetch_one()
    hand.progress(grant, 3.0, 10.0)

    # When the other says something else of it, and of tasks that are none
    said = [Progress(token=grant.token, index=index, done=9.0, total=9.0) for index in range(1000)]
    mean.exchange(progress=tuple(said), holding=())

    # Then it stays as it was said by who runs it, and nothing of it is kept
    assert client.service.task(batch, 0).progress == (3.0, 10.0)
    assert house.coordinator.sessions.by_id[mean.session].progress == {}


def test_durations_that_are_none_keep_nobody_from_being_served(house: House) -> None:
    # Given a worker that reports such durations as no clock has
    client, mean, hand = house.client(), house.worker("mean"), house.worker()
    batch = client.submit(40)
    for seconds in (0.0, 1.7e308, 0.0, math.nan, math.inf):
        for grant in mean.fetch_orders().grants:
            results = pages.pack([b"r"] * (grant.hi - grant.lo))
            mean.held.clear()
            mean.exchange(succeeded=(Succeeded(token=grant.token, lo=grant.lo, results=results, seconds=seconds),))
    mean.hang_up()

    # When others work
    for _ in range(20):
        for grant in hand.fetch_orders().grants:
            hand.succeed(grant)

    # Then they are served, and every task ends
    counts = client.service.batch(batch).counts
    assert counts.unfinished == counts.scheduled
    assert client.service.stats().counts.running == 0


def test_following_again_and_again_takes_no_room(house: House) -> None:
    # Given a batch whose tasks ended, each by itself
    client, hand = house.client(), house.worker()
    batch = client.submit(5, submission={"follow": False})
    for _ in range(5):
        hand.succeed(hand.fetch_one(), seconds=10.0)

    # When somebody asks for its news a hundred times and does not read them, and for such as there are not
    state = house.coordinator.sessions.by_id[client.session]
    for _ in range(20):
        assert client.service.follow([batch] * 5 + [10**6 + 1, 10**6 + 2]) == [10**6 + 1, 10**6 + 2]

    # Then they are kept once, and of the others nothing
    assert len(state._ended) == 5
    assert state.following == set()

    # And who has read them can have them again
    assert len(client.watch_until(batch, 5)) == 5
    client.service.follow([batch])
    assert len(client.watch_until(batch, 5)) >= 1


@pytest.mark.parametrize("pattern", ["[" * 200, "*a" * 100, "[!a]*" * 40])
def test_glob_that_is_meant_to_take_long_is_answered(house: House, pattern: str) -> None:
    client = house.client()
    client.submit(function="m:" + "a" * 400 + "c")
    for selection in (Selection(function=pattern), Selection(exception=pattern)):
        assert client.service.tasks(selection) == []
        assert client.service.cancel(selection).cancelled == 0


def test_glob_over_its_limit_is_refused_on_the_wire(house: House) -> None:
    if house.server is None:
        pytest.skip("what is called in process is not read from the wire")
    with pytest.raises(BadMessage, match=r"Selection\.function has 20,000 characters"):
        house.client().service.tasks(Selection(function="[" * 20_000))


def test_report_of_many_bad_items_harms_only_their_leases(house: House) -> None:
    # Given two workers with a lease each
    client, mean, hand = house.client(), house.worker("mean"), house.worker()
    batch = client.submit(2, max_retries=0)
    theirs, grant = mean.fetch_one(), hand.fetch_one()

    # When one reports for its own, and for the other's, what cannot be
    done = [
        Succeeded(token=token, lo=lo, results=pages.pack([b"r"]), seconds=-1.0)
        for token, lo in ((theirs.token, theirs.lo), (grant.token, grant.lo), (1 << 62, 5))
    ]
    mean.held.clear()
    mean.service.exchange(Exchange(succeeded=tuple(done), capacity=1))

    # Then the other's task is not touched, and ends as it is said by its worker
    hand.succeed(grant)
    assert client.service.task(batch, grant.lo).state is State.SUCCEEDED
