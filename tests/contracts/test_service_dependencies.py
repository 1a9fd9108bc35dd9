"""Submissions that wait for others: over every way to the coordinator."""

from __future__ import annotations

from typing import Any

import pytest

from dtq.errors import KeyTaken, UnknownId
from dtq.model import pages
from dtq.model.inputs import RESULT, ended_of, inputs_of, sequence_of, with_previous
from dtq.model.messages import Conditions, Unique
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.contracts.service_scene import Caller, House, until


def waiting(*after: tuple[int, int, int, bool], run_anyway: bool = False) -> dict[str, Any]:
    """The part of a submission that says what it waits for."""
    return {"conditions": Conditions(after=after, run_anyway=run_anyway)}


def on(batch: int, index: int | None = None) -> tuple[int, int, int, bool]:
    return (batch, 0, 0, False) if index is None else (batch, index, index + 1, False)


def refused(client: Caller, *after: tuple[int, int, int, bool]) -> tuple[str, str]:
    """The code and the sentence's first argument of a submission that is refused."""
    (receipt,) = client.receipts(client.submission(**waiting(*after)))
    return receipt.code, str(receipt.details[0])


def test_task_waits_for_others_and_says_so(house: House) -> None:
    client, hand = house.client(), house.worker(slots=4)
    parent = client.submit(2)
    child = client.submit(3, submission=waiting(on(parent, 1)))

    view = client.service.task(child, 0)
    assert (view.state, view.reason) == (State.BLOCKED, f"waits for {parent}.1")
    assert client.service.batch(child).counts.blocked == 3
    assert client.service.stats().counts.blocked == 3
    assert [queue.blocked for queue in client.service.stats().queues] == [3]
    (run,) = client.service.tasks(Selection(state=State.BLOCKED))
    assert (run.batch, run.count) == (child, 3)

    first, second = hand.fetch()
    hand.succeed(first)
    assert client.states(child, 1) == [State.BLOCKED]
    hand.succeed(second)
    assert {grant.batch for grant in hand.fetch()} == {child}


def test_what_is_submitted_in_one_call_may_wait_for_what_is_before_it(house: House) -> None:
    client, hand = house.client(), house.worker()
    receipts = client.receipts(
        client.submission(2), client.submission(**waiting(on(-1, 1))), client.submission(**waiting(on(-2), on(-1)))
    )
    first, second, third = [receipt.batch for receipt in receipts]

    assert client.service.task(second, 0).reason == f"waits for {first}.1"
    assert client.service.task(third, 0).reason == f"waits for all of {first}, {second}"
    order = []
    for _ in range(4):
        grant = hand.fetch_one()
        order.append(grant.batch)
        hand.succeed(grant)
    assert order == [first, first, second, third]


def test_chain_of_tiny_tasks_is_handed_out_at_once_to_who_runs_it_as_one(house: House) -> None:
    # Given tasks that are known to be tiny
    client, hand = house.client(), house.worker(chains=True)
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=0.0001)
    receipts = client.receipts(
        client.submission(), client.submission(**waiting((-1, 0, 1, True))), client.submission(**waiting(on(-1, 0)))
    )
    first, second, third = [receipt.batch for receipt in receipts]

    # When they are fetched
    grants = hand.fetch()

    # Then each is behind the one before; the second is given what that returns, where it runs, and the third nothing
    assert [grant.batch for grant in grants] == [first, second, third]
    assert [grant.behind for grant in grants] == [0, grants[0].token, grants[1].token]
    (blob,) = pages.unpack(grants[1].arguments)
    assert (inputs_of(with_previous(blob, b"it")) or ())[1:] == ([RESULT + b"it"],)
    assert inputs_of(pages.unpack(grants[2].arguments)[0]) is None
    # and what comes back once that has ended is as any other
    hand.succeed(grants[0], b"it")
    assert (client.states(second, 1), client.states(third, 1)) == ([State.RUNNING], [State.BLOCKED])
    hand.succeed(grants[1])
    hand.release(grants[2])
    assert client.states(third, 1) == [State.PENDING]
    (grant,) = hand.fetch()
    assert (grant.batch, grant.behind, grant.attempt) == (third, 0, 1)


def test_call_that_is_repeated_makes_nothing_twice(house: House) -> None:
    client = house.client()
    call = [client.submission(), client.submission(**waiting(on(-1)))]
    once = client.receipts(*call)
    assert client.receipts(*call, repeated=True) == once
    house.restart()
    again = house.client(client.session)
    assert again.receipts(*call, repeated=True) == once


def test_parents_that_have_ended_count_by_how_they_did(house: House) -> None:
    client, hand = house.client(), house.worker(slots=3)
    done, half, dead = client.submit(), client.submit(2), client.submit(max_retries=0)
    grants = {(grant.batch, grant.lo): grant for grant in hand.fetch()}
    hand.succeed(grants[done, 0])
    hand.succeed(grants[half, 0])
    (grant,) = [grant for grant in hand.fetch() if grant.batch == dead]
    hand.fail(grant)

    assert client.states(client.submit(submission=waiting(on(done), on(half, 0))), 1) == [State.PENDING]
    assert client.states(client.submit(submission=waiting(on(dead), run_anyway=True)), 1) == [State.PENDING]
    lost = client.submit(submission=waiting(on(done), on(dead)))
    view = client.service.task(lost, 0)
    assert (view.state, view.reason) == (State.CANCELLED, f"parent {dead} is dead")
    (news,) = client.watch_until(lost, 1)
    assert news.state is State.CANCELLED
    assert news.failure is not None
    assert news.failure.message == f"parent {dead} is dead"


def test_what_is_not_there_cannot_be_waited_for(house: House) -> None:
    client = house.client()
    batch = client.submit(2)
    assert refused(client, on(batch + 7)) == ("parent-unknown", str(batch + 7))
    assert refused(client, on(batch, 2)) == ("parent-unknown", f"{batch}.2")
    assert refused(client, on(-3)) == ("parent-unknown", "a task of the same call")
    assert refused(client, (batch, 1, 1, False))[0] == "parent-unknown"
    (receipt,) = client.receipts(client.submission(**waiting(on(0))))
    assert receipt.details == ("0", "it was never accepted")
    assert client.states(client.submit(submission=waiting(on(batch, 1))), 1) == [State.BLOCKED]


def test_what_waited_for_one_of_the_same_call_that_is_refused_is_refused(house: House) -> None:
    client = house.client()
    wrong, child, fine = client.receipts(
        client.submission(**waiting(on(99))), client.submission(**waiting(on(-1))), client.submission()
    )
    assert (wrong.code, child.code, fine.code) == ("parent-unknown", "parent-unknown", "")


def test_what_is_no_longer_kept_cannot_be_waited_for(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(max_retries=0)
    hand.fail(hand.fetch_one())
    assert client.service.purge_dead(Selection(ids=((batch, 0),))) == 1
    assert refused(client, on(batch, 0)) == ("parent-unknown", f"{batch}")


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_what_runs_without_a_result_is_given_the_exception_of_a_dead_letter_that_was_thrown_away(
    house: House, restart: bool, whole: bool
) -> None:
    # Given a dead letter whose exception a task that waits for another one is to be given
    client, hand = house.client(), house.worker()
    parent, other = client.submit(max_retries=0), client.submit()
    given = (parent, 0, 0, True) if whole else (parent, 0, 1, True)
    child = client.submit(submission=waiting(given, on(other), run_anyway=True))
    hand.fail(hand.fetch_one(), message="for good")
    assert client.service.purge_dead(Selection(ids=((parent, 0),))) == 1
    if restart:
        house.restart()
        client, hand = house.client(), house.worker()

    hand.succeed(hand.fetch_one())
    grant = hand.fetch_one()
    assert grant.batch == child
    (call,) = pages.unpack(grant.arguments)
    found = inputs_of(call)
    assert found is not None
    (given_to_it,) = found[1]
    if whole:
        _, _, _, body = sequence_of(given_to_it[1:])
        (given_to_it,) = pages.unpack(body[2:-16])
    ended, task = ended_of(given_to_it[1:])
    assert (task, ended.failure and ended.failure.message) == (str(parent), "for good")

    # Then what it ended with goes as soon as that has run
    assert house.engine.attempts(parent, 0)
    hand.succeed(grant)
    client.service.stats()
    until("it is gone", lambda: restart or not house.engine.attempts(parent, 0))


@pytest.mark.parametrize("restart", [False, True])
def test_dead_parent_that_is_put_back_brings_its_children_back(house: House, restart: bool) -> None:
    client, hand = house.client(), house.worker()
    one, other = client.submit(max_retries=0), client.submit(max_retries=0)
    child = client.submit(submission=waiting(on(one)))
    both = client.submit(submission=waiting(on(one), on(other)))
    last = client.submit(submission=waiting(on(child), on(both)))
    for _ in range(2):
        hand.fail(hand.fetch_one())
    assert [client.service.task(b, 0).state for b in (child, both, last)] == [State.CANCELLED] * 3
    if restart:
        house.restart()
        client, hand = house.client(), house.worker()

    assert client.service.retry_dead(Selection(ids=((one, 0),))) == 1
    states = [client.service.task(b, 0).state for b in (one, child, both, last)]
    assert states == [State.PENDING, State.BLOCKED, State.CANCELLED, State.CANCELLED]
    assert client.service.task(both, 0).reason == f"parent {other} is dead"
    assert client.service.retry_dead(Selection()) == 1
    assert [client.service.task(b, 0).state for b in (both, last)] == [State.BLOCKED] * 2
    for batch in (one, other, child, both, last):
        grant = hand.fetch_one()
        assert grant.batch == batch
        hand.succeed(grant)
    assert client.service.task(last, 0).state is State.SUCCEEDED


def test_what_has_a_successor_with_its_key_is_not_put_back_beside_it(house: House) -> None:
    # Given a parent that is dead, a child that its death has cancelled, and a later task with that one's key
    client, hand = house.client(), house.worker(slots=4)
    unique = {"key": "k", "conditions": Conditions(unique=Unique.UNFINISHED, after=(on(1, 0),))}
    parent = client.submit(max_retries=0)
    child = client.submit(submission=unique)
    last = client.submit(submission=waiting(on(child)))
    hand.fail(hand.fetch_one())
    later = client.submit(submission={"key": "k", "conditions": Conditions(unique=Unique.UNFINISHED)}, max_retries=0)
    assert later not in (parent, child)

    # When the parent is put back, while that waits and after it has ended
    for _ in range(2):
        assert client.service.retry_dead(Selection(ids=((parent, 0),))) == 1

        # Then the child stays as it is, and says so
        view = client.service.task(child, 0)
        assert (view.state, view.reason) == (State.CANCELLED, f"batch {later} was submitted with its key 'k' since")
        assert client.service.task(last, 0).reason == f"parent {child} is cancelled"
        for grant in hand.fetch():
            hand.fail(grant, exception="Hopeless")
    # and a dead letter is not put back as long as a later one has not ended
    newest = client.submit(submission={"key": "k", "conditions": Conditions(unique=Unique.UNFINISHED)})
    with pytest.raises(KeyTaken, match=f"'k' is taken by batch {newest}"):
        client.service.retry_dead(Selection(ids=((later, 0),)))
    assert client.service.retry_dead(Selection()) == 1  # the parent
    client.service.cancel(Selection(ids=((newest, -1),)))
    assert client.service.retry_dead(Selection(ids=((later, 0),))) == 1


def test_graph_shows_what_waits_for_what_the_nearest_first(house: House) -> None:
    client, hand = house.client(), house.worker()
    first = client.submit(2)
    second = client.submit(submission=waiting(on(first, 1)))
    third = client.submit(submission=waiting(on(first), (second, 0, 1, False)))
    last = client.submit(submission=waiting(on(third)))
    alone = client.submit()
    for _ in range(2):
        hand.succeed(hand.fetch_one())

    nodes = client.service.graph(second, 100)

    assert [(node.batch, node.after) for node in nodes] == [
        (second, ((first, 1, 2),)),
        (first, ()),
        (third, ((first, 0, 0), (second, 0, 1))),
        (last, ((third, 0, 0),)),
    ]
    assert [node.counts.succeeded for node in nodes] == [0, 2, 0, 0]
    assert [node.counts.blocked for node in nodes] == [0, 0, 1, 1]
    assert [node.batch for node in client.service.graph(second, 3)] == [second, first, third]
    assert [node.batch for node in client.service.graph(alone, 0)] == [alone]
    with pytest.raises(UnknownId):
        client.service.graph(99, 10)
