"""`Service.follow`, `watch` and `results`: who hears how tasks end, and when."""

from __future__ import annotations

import pytest

from dtq.coordinator.sessions import PARTING_WAIT_S
from dtq.errors import UnknownId
from dtq.model import pages
from dtq.model.messages import Ended
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.contracts.service_scene import SOON_S, House, until


def told(news: list[Ended] | tuple[Ended, ...]) -> list[tuple[int, int, int, State]]:
    return [(ended.batch, ended.lo, ended.hi, ended.state) for ended in news]


def blobs(news: list[Ended] | tuple[Ended, ...]) -> list[bytes]:
    return [blob for ended in news for blob in pages.unpack(ended.results)]


# -- watching what one has submitted --------------------------------------------------------------------------------


def test_submitter_is_told_how_its_tasks_end_in_the_order_in_which_they_do(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker(slots=3)
    batch = client.submit(3, max_retries=0)
    first, second, third = hand.fetch()

    # When
    hand.succeed(third, b"c")
    hand.fail(second, exception="shop.SoldOut", message="no more", bases=("LookupError",))
    hand.succeed(first, b"a")

    # Then
    news = client.watch_until(batch, 3)
    assert told(news) == [
        (batch, 2, 3, State.SUCCEEDED),
        (batch, 1, 2, State.DEAD),
        (batch, 0, 1, State.SUCCEEDED),
    ]
    assert blobs([news[0], news[2]]) == [b"c", b"a"]
    assert news[1].outcome is Outcome.FAILED
    assert news[1].failure is not None
    assert (news[1].failure.exception, news[1].failure.message) == ("shop.SoldOut", "no more")


def test_retries_are_no_news(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(retry_delay_s=0.0)
    hand.fail(hand.fetch_one())

    hand.succeed(hand.fetch_one())

    assert told(client.watch_until(batch, 1)) == [(batch, 0, 1, State.SUCCEEDED)]


def test_cancelled_tasks_are_told_as_one_range(house: House) -> None:
    client = house.client()
    batch = client.submit(1000)

    house.client().service.cancel(Selection(ids=((batch, -1),), limit=0))

    assert told(client.watch().ended) == [(batch, 0, 1000, State.CANCELLED)]


def test_watch_waits_until_something_ends(house: House) -> None:
    # Given a watch that waits
    client, hand = house.client(), house.worker()
    batch = client.submit()
    watching = house.begin_watch(client)

    # When
    hand.succeed(hand.fetch_one(), b"done")

    # Then
    assert told(watching.result(SOON_S).ended) == [(batch, 0, 1, State.SUCCEEDED)]


def test_watch_tells_what_has_ended_while_nobody_watched(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    hand.succeed(hand.fetch_one())

    assert told(client.watch(wait_s=0.0).ended) == [(batch, 0, 1, State.SUCCEEDED)]


def test_watch_ends_empty_when_its_wait_has_run_out(house: House) -> None:
    client = house.client()
    client.submit()

    watched = client.watch(7, wait_s=0.05)

    assert (watched.cursor, watched.ended) == (7, ())


def test_watch_with_the_old_cursor_tells_the_same_again(house: House) -> None:
    # Given an answer that was lost
    client, hand = house.client(), house.worker()
    first = client.submit()
    hand.succeed(hand.fetch_one(), b"1")
    lost = client.watch(0)
    second = client.submit()
    hand.succeed(hand.fetch_one(), b"2")

    # When
    again = client.watch(0)

    # Then
    assert again.ended[:1] == lost.ended
    assert told(again.ended) == [(first, 0, 1, State.SUCCEEDED), (second, 0, 1, State.SUCCEEDED)]


def test_cursor_says_what_has_arrived(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    client.submit()
    hand.succeed(hand.fetch_one())
    cursor = client.watch(0).cursor

    # Then it is not told again, nor kept
    assert client.watch(cursor, wait_s=0.0).ended == ()
    assert client.watch(0, wait_s=0.0).ended == ()
    second = client.submit()
    hand.succeed(hand.fetch_one())
    assert told(client.watch(cursor).ended) == [(second, 0, 1, State.SUCCEEDED)]


def test_tasks_that_are_not_followed_are_no_news(house: House) -> None:
    client, hand = house.client(), house.worker()
    client.submit(submission={"follow": False})
    followed = client.submit()
    for _ in range(2):
        hand.succeed(hand.fetch_one())

    assert told(client.watch_until(followed, 1)) == [(followed, 0, 1, State.SUCCEEDED)]
    assert client.watch(wait_s=0.0).ended[0].batch == followed


def test_session_that_comes_back_finds_its_news(house: House) -> None:
    # Given a client that is away while its task ends
    client, hand = house.client(), house.worker()
    batch = client.submit()
    client.hang_up()
    hand.succeed(hand.fetch_one(), b"meanwhile")

    # When
    again = house.client(client.session)

    # Then
    assert again.welcome.resumed
    assert blobs(again.watch_until(batch, 1)) == [b"meanwhile"]


def test_second_watch_of_a_session_lets_the_first_go(house: House) -> None:
    client = house.client()
    other = house.client(client.session)
    first = house.begin_watch(client)

    second = house.begin_watch(other)

    assert first.result(SOON_S).ended == ()
    assert not second.done()


def test_watch_is_let_go_when_another_connection_of_its_session_ends(house: House) -> None:
    # Given a client with a watch that waits, and another connection
    client = house.client()
    other = house.client(client.session)
    watching = house.begin_watch(client)

    # When that one ends, as all of a client that closes do, one after the other
    other.hang_up()

    # Then the call that waits ends, and so sees whether anybody waits for it; and so does one that has just begun
    assert watching.result(SOON_S).ended == ()
    assert house.begin_watch(client).result(SOON_S).ended == ()
    # But where it has come back, watches wait as always
    house.client(client.session)
    with pytest.raises(TimeoutError):
        house.begin_watch(client).result(2 * PARTING_WAIT_S)


def test_large_results_come_in_several_answers_in_their_order(house: House) -> None:
    # Given 24 MB of results
    client, hand = house.client(), house.worker()
    batch = client.submit(12)
    for index in range(12):
        hand.succeed(hand.fetch_one(), b"%d" % index + bytes(2_000_000))

    # When
    cursor = 0
    answers: list[tuple[Ended, ...]] = []
    while sum(map(len, map(blobs, answers))) < 12:
        watched = client.watch(cursor)
        cursor = watched.cursor
        answers.append(watched.ended)

    # Then no answer is much larger than what one may carry
    assert [ended.lo for answer in answers for ended in answer] == list(range(12))
    assert max(sum(len(ended.results) for ended in answer) for answer in answers) < 5 << 20
    assert all(ended.batch == batch for answer in answers for ended in answer)


def test_stopping_coordinator_lets_watches_go(house: House) -> None:
    client = house.client()
    watching = house.begin_watch(client)

    house.coordinator.quiesce()

    assert watching.result(SOON_S).ended == ()


# -- following others -----------------------------------------------------------------------------------------------


def test_follower_is_told_what_has_ended_and_what_ends(house: House) -> None:
    # Given a batch of somebody else: one task has succeeded, one died, one was cancelled
    client, follower, hand = house.client(), house.client(), house.worker()
    batch = client.submit(5, max_retries=0)
    hand.succeed(hand.fetch_one(), b"0")
    hand.fail(hand.fetch_one())
    client.service.cancel(Selection(ids=((batch, 4),), limit=0))

    # When
    assert follower.service.follow([batch]) == []

    # Then
    news = follower.watch(0)
    assert told(sorted(news.ended, key=lambda ended: ended.lo)) == [
        (batch, 0, 1, State.SUCCEEDED),
        (batch, 1, 2, State.DEAD),
        (batch, 4, 5, State.CANCELLED),
    ]
    watching = house.begin_watch(follower, news.cursor)
    hand.succeed(hand.fetch_one(), b"2")
    assert told(watching.result(SOON_S).ended) == [(batch, 2, 3, State.SUCCEEDED)]


def test_follower_of_a_finished_batch_is_told_all_of_it(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker(slots=3)
    batch = client.submit(3)
    for grant in hand.fetch():
        hand.succeed(grant)

    # When
    follower = house.client()
    assert follower.service.follow([batch]) == []

    # Then
    news = follower.watch_until(batch, 3)
    assert blobs(sorted(news, key=lambda ended: ended.lo)) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("rest", ["waits", "has ended"])
def test_follower_is_told_of_a_dead_letter_that_was_thrown_away(house: House, rest: str) -> None:
    # Given a batch whose second task died and was purged, while its submitter was away
    client, hand = house.client(), house.worker()
    batch = client.submit(4, max_retries=0)
    hand.succeed(hand.fetch_one())
    hand.fail(hand.fetch_one())
    assert client.service.purge_dead(Selection(ids=((batch, 1),), limit=0)) == 1
    running = hand.fetch_one()
    if rest == "has ended":
        hand.succeed(running)
        hand.succeed(hand.fetch_one())

    # When
    follower = house.client()
    follower.service.follow([batch])

    # Then it is told of that end too, and of none that is still to come
    expected = [(0, 1, State.SUCCEEDED), (1, 2, State.DEAD)]
    if rest == "has ended":
        expected += [(2, 3, State.SUCCEEDED), (3, 4, State.SUCCEEDED)]
    news = follower.watch(0)
    assert sorted((ended.lo, ended.hi, ended.state) for ended in news.ended) == expected


def test_follower_of_expired_results_is_told_that_they_were(house: House) -> None:
    # Given a finished batch of which only the dead letter is still kept
    client, hand = house.client(), house.worker()
    batch = client.submit(2, max_retries=0)
    hand.succeed(hand.fetch_one())
    hand.fail(hand.fetch_one())
    coordinator = house.coordinator
    with coordinator.lock:
        coordinator.machine.queue_state.ledger.expired(coordinator.clock.now() + 1.0)
    coordinator.flush()

    # When
    follower = house.client()
    follower.service.follow([batch])

    # Then nobody waits for ever
    news = follower.watch_until(batch, 2)
    assert sorted((ended.lo, ended.state) for ended in news) == [(0, State.SUCCEEDED), (1, State.DEAD)]


def test_follow_names_the_batches_that_are_not_known(house: House) -> None:
    client = house.client()
    batch = client.submit()

    assert house.client().service.follow([77, batch, 78]) == [77, 78]


def test_submitter_that_follows_its_own_batch_is_told_each_end(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit()
    client.service.follow([batch])

    hand.succeed(hand.fetch_one())

    news = client.watch_until(batch, 1)
    assert {(ended.lo, ended.state) for ended in news} == {(0, State.SUCCEEDED)}


def test_followers_of_finished_batches_are_forgotten(house: House) -> None:
    # Given batches, unfinished, finished and unknown, that somebody follows
    client, follower, hand = house.client(), house.client(), house.worker()
    live, finished = client.submit(), client.submit(0)
    follower.service.follow([live, finished, 77])

    # When
    hand.succeed(hand.fetch_one())
    follower.watch_until(live, 1)

    # Then nothing of them is left
    until("nobody is remembered", lambda: not house.coordinator.sessions._followers)


# -- results --------------------------------------------------------------------------------------------------------


def test_results_tell_how_each_task_ended_in_rising_order(house: House) -> None:
    # Given tasks that ended in another order, and some that have not
    client, hand = house.client(), house.worker(slots=5)
    batch = client.submit(9, max_retries=0)
    grants = hand.fetch()
    hand.succeed(grants[3], b"three")
    hand.fail(grants[1], message="oh")
    hand.succeed(grants[0], b"zero")
    client.service.cancel(Selection(ids=((batch, 7),), limit=0))

    # When
    ended = client.service.results(batch, 0, 9)

    # Then
    assert told(ended) == [
        (batch, 0, 1, State.SUCCEEDED),
        (batch, 1, 2, State.DEAD),
        (batch, 3, 4, State.SUCCEEDED),
        (batch, 7, 8, State.CANCELLED),
    ]
    assert blobs([ended[0], ended[2]]) == [b"zero", b"three"]
    assert ended[1].failure is not None
    assert ended[1].failure.message == "oh"


@pytest.mark.parametrize(
    ("lo", "hi", "expected"), [(2, 5, [2, 3, 4]), (5, 99, [5]), (0, 1, [0]), (4, 4, []), (6, 9, [])]
)
def test_results_are_cut_to_what_was_asked_for(house: House, lo: int, hi: int, expected: list[int]) -> None:
    # Given all results on one page
    client, hand = house.client(), house.worker()
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=0.0001)
    batch = client.submit(6)
    (grant,) = hand.fetch()
    assert (grant.lo, grant.hi) == (0, 6)
    hand.succeed(grant)

    # When
    ended = client.service.results(batch, lo, hi)

    # Then
    assert blobs(ended) == [b"%d" % index for index in expected]
    assert [index for e in ended for index in range(e.lo, e.hi)] == expected


def test_results_of_a_cancelled_batch_are_few_ranges(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit(1000)
    hand.succeed(hand.fetch_one(), b"first")
    client.service.cancel(Selection(ids=((batch, 500),), limit=0))
    client.service.cancel(Selection(ids=((batch, -1),), limit=0))

    # Then every task once
    assert told(client.service.results(batch, 0, 1000)) == [
        (batch, 0, 1, State.SUCCEEDED),
        (batch, 1, 1000, State.CANCELLED),
    ]
    assert told(client.service.results(batch, 300, 400)) == [(batch, 300, 400, State.CANCELLED)]


def test_large_results_are_cut_off_and_go_on_where_they_were(house: House) -> None:
    # Given 30 MB of results
    client, hand = house.client(), house.worker()
    batch = client.submit(30)
    for index in range(30):
        hand.succeed(hand.fetch_one(), b"%d" % index + bytes(1_000_000))

    # When
    lo, sizes = 0, []
    while lo < 30:
        ended = client.service.results(batch, lo, 30)
        assert ended[0].lo == lo
        sizes.append(sum(len(e.results) for e in ended))
        lo = ended[-1].hi

    # Then
    assert len(sizes) > 5
    assert max(sizes) < 5 << 20


def test_results_of_an_unknown_batch_are_an_error(house: House) -> None:
    with pytest.raises(UnknownId, match="17"):
        house.client().service.results(17, 0, 1)
