"""Maps over what other maps return, and items that wait by themselves: over every way to the coordinator."""

from __future__ import annotations

from typing import Any

import pytest

from dtq.model import pages
from dtq.model.inputs import RESULT, ended_of, inputs_of
from dtq.model.messages import Conditions, Grant, TaskRange
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.contracts.service_scene import Caller, Hand, House

B, P, R, S = State.BLOCKED, State.PENDING, State.RUNNING, State.SUCCEEDED
C, D = State.CANCELLED, State.DEAD


def over(*batches: int, run_anyway: bool = False) -> dict[str, Any]:
    """The parts of a submission of a map over batches."""
    each = tuple((batch, False) for batch in batches)
    return {"arguments": pages.pack(()), "conditions": Conditions(each=each, run_anyway=run_anyway)}


def given(grant: Grant) -> list[list[bytes]]:
    """What each call of a grant is given."""
    found: list[list[bytes]] = []
    for blob in pages.unpack(grant.arguments):
        inputs = inputs_of(blob)
        assert inputs is not None
        found.append(
            [each[1:] if each.startswith(RESULT) else ended_of(each[1:])[0].state.value.encode() for each in inputs[1]]
        )
    return found


def refused(client: Caller, **parts: Any) -> tuple[str, tuple[Any, ...]]:
    """The code of a submission that is refused, and what it says."""
    (receipt,) = client.receipts(client.submission(**parts))
    return receipt.code, receipt.details


def run(hand: Hand, *results: bytes) -> Grant:
    """Have the next grant succeed."""
    grant = hand.fetch_one()
    hand.succeed(grant, *results)
    return grant


def test_each_task_of_a_map_over_a_map_is_given_the_result_of_its_index(house: House) -> None:
    client, hand = house.client(), house.worker()
    parent, other = client.submit(3), client.submit(2)
    child = client.submit(submission=over(parent))
    both = client.submit(submission=over(parent, other))
    assert [client.service.batch(batch).size for batch in (child, both)] == [3, 2]
    assert client.states(child, 3) == [B, B, B]
    assert client.service.task(child, 1).reason == f"waits for {parent}.1"

    for result in (b"0", b"1", b"2", b"x", b"y"):
        run(hand, result)

    assert [given(run(hand)) for _ in range(5)] == [[[b"0"]], [[b"1"]], [[b"2"]], [[b"0", b"x"]], [[b"1", b"y"]]]
    assert client.states(both, 2) == [S, S]


def test_map_over_what_has_ended_is_given_that_and_loses_what_has_no_result(house: House) -> None:
    client, hand = house.client(), house.worker()
    parent = client.submit(3, max_retries=0)
    run(hand, b"0")
    hand.fail(hand.fetch_one(), exception="ValueError")
    run(hand, b"2")

    child = client.submit(submission=over(parent))
    anyway = client.submit(submission=over(parent, run_anyway=True))

    assert client.states(child, 3) == [P, C, P]
    assert client.service.task(child, 1).reason == f"parent {parent}.1 is dead"
    assert [given(run(hand)) for _ in range(5)] == [[[b"0"]], [[b"2"]], [[b"0"]], [[b"dead"]], [[b"2"]]]
    assert client.states(anyway, 3) == [S, S, S]


@pytest.mark.parametrize("restart", [False, True])
def test_dead_task_that_is_put_back_brings_back_those_of_its_index(house: House, restart: bool) -> None:
    client, hand = house.client(), house.worker()
    parent = client.submit(2, max_retries=0)
    child = client.submit(submission=over(parent))
    last = client.submit(submission=over(child))
    hand.fail(hand.fetch_one())
    for _ in range(3):
        run(hand)
    assert client.states(last, 2) == [C, S]
    if restart:
        house.restart()
        client, hand = house.client(), house.worker()

    assert client.service.retry_dead(Selection(ids=((parent, 0),))) == 1

    assert client.states(parent, 1) == [P]
    assert client.states(child, 2) == client.states(last, 2) == [B, S]
    for _ in range(3):
        run(hand, b"again")
    assert client.states(last, 2) == [S, S]


def test_map_is_over_batches_that_are_there_and_complete(house: House) -> None:
    client, hand = house.client(), house.worker()
    incomplete = client.submit(submission={"complete": False})
    assert refused(client, **over(999)) == ("parent-unknown", ("999", "it was never accepted"))
    why = "not all of its tasks have been accepted yet"
    assert refused(client, **over(incomplete)) == ("parent-unknown", (str(incomplete), why))
    parent = client.submit()
    parts = over(parent)
    assert refused(client, **{**parts, "arguments": pages.pack([b"x"])})[0] == "bad-message"

    run(hand)
    run(hand)
    client.service.purge_dead(Selection())
    assert client.receipts(client.submission(**parts))[0].code == ""


def test_map_that_is_repeated_is_made_once_and_a_key_tells_other_maps_apart(house: House) -> None:
    client = house.client()
    parent, other = client.submit(2), client.submit(2)
    once = client.submission(**over(parent))
    (first,) = client.receipts(once)
    assert client.receipts(once, repeated=True)[0].batch == first.batch
    (named,) = client.receipts(client.submission(key="k", **over(parent)))
    assert client.receipts(client.submission(key="k", **over(parent)))[0].batch == named.batch
    assert refused(client, key="k", **over(other))[0] == "key-conflict"


@pytest.mark.parametrize("restart", [False, True])
def test_items_that_wait_by_themselves_are_given_what_they_wait_for(house: House, restart: bool) -> None:
    client, hand = house.client(), house.worker()
    one, other = client.submit(2), client.submit(max_retries=0)
    items = ((0, ((one, 0, 1, True), (one, 1, 2, True))), (2, ((other, 0, 1, True),)))
    child = client.submit(3, submission={"items": items})
    assert client.states(child, 3) == [B, P, B]
    assert client.service.task(child, 0).reason == f"waits for {one}.0, {one}.1"
    run(hand, b"a")
    run(hand, b"b")
    if restart:
        house.restart()
        client, hand = house.client(), house.worker()
    hand.fail(hand.fetch_one())

    assert client.states(child, 3) == [P, P, C]
    grant = run(hand)
    assert (grant.lo, given(grant)) == (0, [[b"a", b"b"]])
    assert pages.unpack(run(hand).arguments) == [b"1"]
    client.service.retry_dead(Selection(ids=((other, 0),)))
    run(hand, b"c")
    assert given(run(hand)) == [[b"c"]]
    assert client.states(child, 3) == [S, S, S]


def test_item_of_what_is_not_there_is_refused(house: House) -> None:
    client = house.client()
    parent = client.submit()
    assert refused(client, items=((0, ((999, 0, 1, True),)),))[0] == "parent-unknown"
    assert refused(client, items=((0, ((parent, 5, 6, True),)),))[0] == "parent-unknown"
    assert refused(client, items=((1, ((parent, 0, 1, True),)),))[0] == "bad-message"


def test_graph_shows_maps_over_maps_and_items(house: House) -> None:
    client = house.client()
    parent = client.submit(2)
    child = client.submit(submission=over(parent))
    mixed = client.submit(2, submission={"items": ((1, ((child, 0, 1, True),)),)})

    nodes = {node.batch: node for node in client.service.graph(child, 0)}

    assert nodes.keys() == {parent, child, mixed}
    assert nodes[child].each == (parent,)
    assert nodes[mixed].given == (child,)


def test_map_over_results_that_are_no_longer_kept_is_refused(house: House) -> None:
    client, hand = house.client(), house.worker()
    parent = client.submit(2)
    run(hand)
    client.service.let_go([TaskRange(batch=parent, lo=0, hi=1)])
    client.submit()  # what is let go goes with the next commit

    why = "its results are no longer kept"
    assert refused(client, **over(parent)) == ("parent-unknown", (str(parent), why))
