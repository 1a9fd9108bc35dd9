"""`Service.output`: what tasks have printed, of ended attempts and of running ones."""

from __future__ import annotations

import pytest

from dtq.core.changes import OutputPage
from dtq.errors import InvalidValue, ResultExpired, UnknownId
from dtq.model.messages import Failed, Failure, Followed, Grant, PrintedNow, Succeeded, TaskRange
from dtq.model.printed import Printed
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.contracts.service_scene import DEADLINE_S, Hand, House, until


def printed(index: int, data: bytes, **parts: object) -> Printed:
    return Printed(index=index, head=data, **parts)  # type: ignore[arg-type]


def fail_saying(hand: Hand, grant: Grant, data: bytes) -> None:
    """Report that a lease of one task failed, with its output."""
    hand.held.pop(grant.token, None)
    failure = Failure(exception="ValueError")
    said = (printed(grant.lo, data),)
    outcome = Outcome.FAILED
    hand.exchange(
        failed=(Failed(token=grant.token, index=grant.lo, outcome=outcome, failure=failure, seconds=1.0, printed=said),)
    )


def succeed_saying(hand: Hand, grant: Grant, *said: Printed) -> None:
    hand.held.pop(grant.token, None)
    report = Succeeded(token=grant.token, lo=grant.lo, results=grant.arguments, seconds=0.01, printed=said)
    hand.exchange(succeeded=(report,))


def test_each_attempt_has_its_output_also_after_a_restart(house: House) -> None:
    # Given a task that failed once, and then succeeded
    client, hand = house.client(), house.worker()
    number = client.submit(retry_delay_s=0.0)
    fail_saying(hand, hand.fetch_one(), b"first try\nno luck\n")
    succeed_saying(hand, hand.fetch_one(), printed(0, b"begin\n", left_out=100, tail=b"end\n"))

    for _ in range(2):
        # Then
        last = client.service.output(number, 0, 0, 0, 0.0)
        assert (last.attempt, last.offset, last.data, last.over) == (2, 0, b"begin\n", False)
        behind = client.service.output(number, 0, 2, 6, 0.0)
        assert (behind.offset, behind.data, behind.over, behind.last) == (106, b"end\n", True, True)
        assert client.service.output(number, 0, 2, 110, 0.0).data == b""
        first = client.service.output(number, 0, 1, 0, 0.0)
        assert (first.data, first.over, first.last) == (b"first try\nno luck\n", True, False)
        # And the record of the failure has its last lines
        (attempt,) = client.service.task(number, 0).history
        assert attempt.failure.output == "first try\nno luck\n"
        house.restart()
        client = house.client()


def test_output_of_one_lease_is_each_tasks_own_and_silent_ones_have_none(house: House) -> None:
    client, hand = house.client(), house.worker()
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=0.0001)
    number = client.submit(5)
    (grant, *_) = hand.fetch()
    assert (grant.lo, grant.hi) == (0, 5)
    # When two have printed, and the worker says so of a task that is not of the lease, too
    succeed_saying(hand, grant, printed(3, b"three"), printed(1, b"one"), printed(9, b"nine"))
    # Then
    found = [client.service.output(number, index, 0, 0, 0.0).data for index in range(5)]
    assert found == [b"", b"one", b"", b"three", b""]


def test_output_goes_with_the_result_and_with_the_dead_letter(house: House) -> None:
    client, hand = house.client(), house.worker()
    # Given a result that was read, and a dead letter that was purged
    read, dead = client.submit(), client.submit(max_retries=0)
    succeed_saying(hand, hand.fetch_one(), printed(0, b"read"))
    fail_saying(hand, hand.fetch_one(), b"dead")
    assert client.service.output(dead, 0, 0, 0, 0.0).data == b"dead"
    client.service.let_go([TaskRange(batch=read, lo=0, hi=1)])
    client.service.purge_dead(Selection(ids=((dead, 0),)))
    # Then neither has output
    house.coordinator.flush()
    for number in (read, dead):
        with pytest.raises(ResultExpired):
            client.service.output(number, 0, 0, 0, 0.0)
        assert house.coordinator.engine.pages(OutputPage, number, 0, 1) == []


def test_attempt_that_a_task_never_had_and_unknown_tasks_are_said_so(house: House) -> None:
    client, hand = house.client(), house.worker()
    number = client.submit()
    waiting = client.service.output(number, 0, 0, 0, 0.0)
    assert (waiting.attempt, waiting.over, waiting.state) == (0, False, State.PENDING)
    hand.succeed(hand.fetch_one())
    with pytest.raises(InvalidValue, match="an attempt cannot be 2"):
        client.service.output(number, 0, 2, 0, 0.0)
    with pytest.raises(UnknownId):
        client.service.output(number, 1, 0, 0, 0.0)


def test_worker_is_asked_only_while_somebody_follows_and_what_it_says_arrives(house: House) -> None:
    # Given a running task whose output nobody has asked for
    client, hand = house.client(), house.worker()
    number = client.submit()
    grant = hand.fetch_one()
    assert hand.exchange().follow == ()
    fetch = house.begin_fetch(hand)
    until("the worker to wait for work", lambda: house.waits(hand))

    # When somebody follows
    asked = house.begin(lambda: client.service.output(number, 0, 0, 0, DEADLINE_S))

    # Then the worker is told at once, and by each answer to a report
    wanted = (Followed(token=grant.token, index=0),)
    assert fetch.result(DEADLINE_S).follow == wanted
    said = PrintedNow(token=grant.token, index=0, offset=0, data=b"hello ")
    known = (Followed(token=grant.token, index=0, known=True, offset=6),)
    assert hand.exchange(printed=(said,)).follow == known
    part = asked.result(DEADLINE_S)
    assert (part.attempt, part.data, part.over, part.state) == (1, b"hello ", False, State.RUNNING)

    # And a repeated report, or another worker's, adds nothing
    stranger = house.worker("stranger")
    stranger.exchange(printed=(PrintedNow(token=grant.token, index=0, offset=6, data=b"lies"),))
    hand.exchange(printed=(said, PrintedNow(token=grant.token, index=0, offset=6, data=b"world")))
    assert client.service.output(number, 0, 1, 0, 0.0).data == b"hello world"

    # And a follower that waits is told when the attempt is over
    more = house.begin(lambda: client.service.output(number, 0, 1, 11, DEADLINE_S))
    succeed_saying(hand, grant, printed(0, b"hello world!"))
    part = more.result(DEADLINE_S)
    assert (part.offset, part.data, part.over, part.last) == (11, b"!", True, True)


def test_follower_of_a_silent_task_is_told_by_its_worker(house: House) -> None:
    client, hand = house.client(), house.worker()
    number = client.submit()
    grant = hand.fetch_one()
    asked = house.begin(lambda: client.service.output(number, 0, 0, 0, 0.0))
    until("the follower", lambda: hand.exchange().follow)
    hand.exchange(printed=(PrintedNow(token=grant.token, index=0, offset=0, data=b""),))
    assert asked.result(DEADLINE_S).data == b""
