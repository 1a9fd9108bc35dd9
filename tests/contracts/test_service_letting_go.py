"""`Service.let_go`: what its only reader has read is kept no longer, and nothing else goes."""

from __future__ import annotations

import pytest

from dtq.core.changes import ArgumentPage, ResultPage
from dtq.errors import ResultExpired
from dtq.model import pages
from dtq.model.messages import Ended, TaskRange
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.contracts.service_scene import Caller, House


def results(caller: Caller, batch: int, count: int) -> list[bytes]:
    """The results that are kept, of a batch of so many tasks."""
    found: list[Ended] = caller.service.results(batch, 0, count)
    return [blob for ended in found for blob in pages.unpack(ended.results) if ended.results]


def stored(house: House, batch: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Which pages of arguments and of results are in the store."""
    house.coordinator.flush()
    engine = house.coordinator.engine
    arguments = [(page.lo, page.hi) for page in engine.pages(ArgumentPage, batch, 0, 99)]
    return arguments, [(page.lo, page.hi) for page in engine.pages(ResultPage, batch, 0, 99)]


def finished(house: House, count: int = 1, **submission: object) -> tuple[Caller, int]:
    """A batch whose tasks have all succeeded, one by one, and been told."""
    client, hand = house.client(), house.worker(slots=count)
    batch = client.submit(count, submission=submission)
    for grant in hand.fetch():
        hand.succeed(grant, b"result")
    client.watch_until(batch, count)
    return client, batch


def let_go(caller: Caller, *ranges: tuple[int, int, int]) -> None:
    caller.service.let_go([TaskRange(batch=batch, lo=lo, hi=hi) for batch, lo, hi in ranges])


def test_what_was_read_goes_and_the_rest_stays(house: House) -> None:
    # Given a finished batch of one page of arguments and four of results
    client, batch = finished(house, 4)
    assert stored(house, batch) == ([(0, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)])

    # When two of its tasks have been read
    let_go(client, (batch, 1, 3))

    # Then their results are gone, the arguments are still needed for nothing but are one page
    assert stored(house, batch) == ([(0, 4)], [(0, 1), (3, 4)])
    assert client.service.batch(batch).size == 4
    with pytest.raises(ResultExpired):
        client.service.task(batch, 1)


def test_batch_that_was_read_whole_is_not_known_any_more(house: House) -> None:
    client, batch = finished(house, 4)

    let_go(client, (batch, 2, 4), (batch, 0, 1))
    let_go(client, (batch, 1, 2))

    assert stored(house, batch) == ([], [])
    with pytest.raises(ResultExpired):
        client.service.batch(batch)


def test_arguments_of_a_batch_that_goes_on_go_with_the_last_task_of_their_page(house: House) -> None:
    # Given a batch of two pages, of which all but the last task have ended
    client, hand = house.client(), house.worker(slots=4)
    batch = client.submit(2, submission={"complete": False})
    client.receipts(client.submission(2, offset=2, batch=batch))
    first, second, third, last = hand.fetch()
    for grant in (first, second, third):
        hand.succeed(grant, b"result")
    hand.release(last)
    client.watch_until(batch, 3)

    # When what has ended is read
    let_go(client, (batch, 0, 1))
    let_go(client, (batch, 1, 3))

    # Then the page goes of which all has been read, and a restart finds the rest as it was
    assert stored(house, batch) == ([(2, 4)], [])
    house.restart()
    hand = house.worker(slots=4)
    hand.succeed(hand.fetch_one(), b"the last")
    assert results(house.client(), batch, 4) == [b"the last"]


@pytest.mark.parametrize("whose", ["another session", "a key of the user's"])
def test_what_others_may_ask_for_stays(house: House, whose: str) -> None:
    # Given a batch that somebody else submitted, or one that a program may ask for again by its key
    client, batch = finished(house, 2, **({"key": "nightly"} if whose == "a key of the user's" else {}))
    caller = house.client() if whose == "another session" else client

    # When it is let go, Then it stays
    let_go(caller, (batch, 0, 2))
    assert results(client, batch, 2) == [b"result"] * 2


def test_what_has_not_ended_stays(house: House) -> None:
    # Given a task that runs, one that waits, and one that waits to be tried again
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(3, retry_delay_s=60.0)
    running, failed = hand.fetch()
    hand.fail(failed)

    # When all is let go
    let_go(client, (batch, 0, 3))

    # Then the arguments are there, and the results when they come
    assert stored(house, batch) == ([(0, 3)], [])
    hand.succeed(running, b"here")
    client.watch_until(batch, 1)
    assert results(client, batch, 3) == [b"here"]


def test_dead_letter_stays_with_its_arguments_and_runs_again(house: House) -> None:
    # Given a batch with a success and a dead letter
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(2, max_retries=0)
    good, bad = hand.fetch()
    hand.succeed(good, b"result")
    hand.fail(bad)
    client.watch_until(batch, 2)

    # When it is read whole
    let_go(client, (batch, 0, 2))
    assert stored(house, batch) == ([(0, 2)], [])

    # Then the dead letter is still one, and runs again with what it was called with
    assert [(letter.batch, letter.index) for letter in client.service.dead_letters(Selection())] == [(batch, 1)]
    assert client.service.retry_dead(Selection(limit=0)) == 1
    again = hand.fetch_one()
    assert pages.unpack(again.arguments) == [b"1"]
    hand.succeed(again, b"late")
    assert client.service.task(batch, 1).state is State.SUCCEEDED


def test_ranges_that_are_none_do_no_harm(house: House) -> None:
    client, batch = finished(house, 2)

    let_go(client, (batch, 2, 2), (batch, 1, 0), (batch, 7, 9), (batch + 5, 0, 1), (0, 0, 1))
    let_go(client)

    assert results(client, batch, 2) == [b"result"] * 2


def test_cancelled_tasks_are_read_like_others(house: House) -> None:
    # Given a batch of which one task has succeeded and the rest was cancelled
    client, hand = house.client(), house.worker()
    batch = client.submit(3)
    hand.succeed(hand.fetch_one(), b"result")
    house.client().service.cancel(Selection(ids=((batch, -1),), limit=0))
    client.watch_until(batch, 3)

    # When all of it is read, Then nothing of it is kept
    let_go(client, (batch, 0, 3))
    with pytest.raises(ResultExpired):
        client.service.batch(batch)
