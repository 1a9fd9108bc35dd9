"""Tasks with needs through the service: what workers offer, what leases get, what is said of those that wait."""

from __future__ import annotations

import pytest

from dtq.model.resources import Needs, Offers, Portion, needs
from dtq.model.snapshots import Selection
from tests.contracts.service_scene import SOON_S, House

GPUS = Offers(
    resources=(Portion(name="gpu", units=("0", "1"), amount=2), Portion(name="memory", amount=32)), tags=("cuda12",)
)
GPU = needs({"gpu": 1, "memory": 20}, 1, ("cuda12",))


def test_grant_says_what_it_has_got_and_the_worker_what_it_has_left(house: House) -> None:
    client, hand = house.client(), house.worker(slots=4, offers=GPUS)
    client.submit(2, needs=GPU)
    grant = hand.fetch_one()
    assert grant.units == (Portion(name="gpu", units=("0",), amount=1), Portion(name="memory", amount=20))
    assert hand.service.spec(grant.spec).options.needs == GPU
    (view,) = client.service.stats().workers
    assert [(r.name, r.free_units, r.free, r.amount) for r in view.resources] == [
        ("gpu", ("1",), 1, 2),
        ("memory", (), 12, 32),
    ]
    assert view.tags == ("cuda12",)


def test_task_without_needs_has_got_nothing(house: House) -> None:
    client, hand = house.client(), house.worker(offers=GPUS)
    client.submit()
    assert hand.fetch_one().units is None


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (
            needs({"gpu": 3}, 1, ()),
            r"no connected worker can ever run it: it needs gpu=3, and the most that one offers",
        ),
        (needs({"tpu": 1}, 1, ()), "none offers any tpu"),
        (needs({}, 9, ()), "it needs 9 slots, and the most slots of one are 4"),
        (needs({}, 1, ("rocm",)), "it needs the tag rocm, and none has the tag rocm"),
        (needs({"disk": 5, "memory": 9}, 1, ()), "none offers all of that together"),
        (
            needs({"gpu": 2}, 1, ()),
            "it needs gpu=2, and the worker that can run it has 1 of 2 gpu free; it is next in line, and what becomes"
            " free is kept for it",
        ),
        (
            needs({}, 4, ()),
            "it needs 4 slots, and the worker that can run it has 3 of 4 slots free; it is next in line",
        ),
    ],
)
def test_reason_says_at_once_what_no_worker_can_ever_run(house: House, wanted: Needs, why: str) -> None:
    client, hand = house.client(), house.worker(slots=4, offers=GPUS)
    house.worker("other", offers=Offers(resources=(Portion(name="disk", amount=5), Portion(name="memory", amount=5))))
    client.submit(needs=GPU)
    hand.fetch_one()
    batch = client.submit(needs=wanted)
    assert why in client.service.task(batch, 0).reason


def test_worker_that_comes_makes_that_untrue(house: House) -> None:
    client = house.client()
    batch = client.submit(needs=GPU)
    assert "no worker is connected at all" in client.service.task(batch, 0).reason
    hand = house.worker(offers=GPUS)
    assert hand.fetch_one().batch == batch


@pytest.mark.parametrize("how", ["elsewhere", "cancelled"])
def test_waiting_worker_gets_what_was_kept_when_that_is_needed_no_more(house: House, how: str) -> None:
    # Given a worker that keeps its free slot for a task of two, and waits
    client, hand, other = house.client(), house.worker(slots=2), house.worker("other", slots=2)
    client.submit()
    hand.fetch_one()
    client.submit()
    busy = other.fetch_one()
    wide = client.submit(needs=needs({}, 2, ()))
    plain = client.submit()
    fetching = house.begin_fetch(hand)
    # When the wide one starts elsewhere, or never will
    if how == "cancelled":
        client.service.cancel(Selection(ids=((wide, -1),)))
    else:
        other.succeed(busy)
        assert other.fetch_one().batch == wide
    # Then what was behind it starts
    (served,) = fetching.result(SOON_S).grants
    assert served.batch == plain


def test_leases_of_one_worker_have_units_of_their_own(house: House) -> None:
    client, hand = house.client(), house.worker(slots=4, offers=GPUS)
    client.submit(2, needs=needs({"gpu": 1}, 2, ()))
    assert [grant.units for grant in hand.fetch()] == [
        (Portion(name="gpu", units=("0",), amount=1),),
        (Portion(name="gpu", units=("1",), amount=1),),
    ]


@pytest.mark.parametrize(
    "offers",
    [
        Offers(
            resources=tuple(Portion(name=f"r{n}", amount=1) for n in range(32)), tags=tuple(f"t{n}" for n in range(64))
        ),
        Offers(),
    ],
    ids=["most", "none"],
)
def test_as_many_offers_as_there_may_be_are_taken(house: House, offers: Offers) -> None:
    hand = house.worker(offers=offers)
    house.client().submit()
    assert hand.fetch_one().units is None
