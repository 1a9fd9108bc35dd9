"""`Service.order_workers`: who takes no more tasks, who takes them again, and who ends."""

from __future__ import annotations

import pytest

from dtq.errors import UnknownWorker
from dtq.model.messages import WorkerOrder
from tests.contracts.service_scene import House, until


def order(house: House, names: list[str], which: WorkerOrder) -> dict[str, WorkerOrder]:
    """Give an order; the orders that hold now."""
    return {each.name: each.order for each in house.client().service.order_workers(names, which)}


def test_waiting_worker_hears_its_order_at_once_and_is_given_nothing(house: House) -> None:
    # Given a worker that waits for work
    client, hand = house.client(), house.worker("lab-1")
    waits = house.begin_fetch(hand)

    # When it is ordered to drain, Then its call is answered with the order
    assert order(house, ["lab-*"], WorkerOrder.DRAIN) == {"lab-1": WorkerOrder.DRAIN}
    orders = waits.result(5.0)
    assert (orders.grants, orders.order) == ((), WorkerOrder.DRAIN)

    # And it is given no tasks from then on, whether it asks or reports; it is told until it follows
    client.submit(3)
    assert hand.fetch_orders(5.0).grants == ()
    report = hand.exchange(more=True)
    assert (report.grants, report.order) == ((), WorkerOrder.DRAIN)
    assert hand.exchange(follows=WorkerOrder.DRAIN, capacity=0).order is None
    (shown,) = client.service.workers("", "")
    assert (shown.order, shown.state) == (WorkerOrder.DRAIN, "draining")


def test_order_survives_a_reconnect_and_the_loss_of_the_session(house: House) -> None:
    # Given a worker that is away when it is ordered to drain
    hand = house.worker("lab-1")
    hand.hang_up()
    assert order(house, [], WorkerOrder.DRAIN) == {"lab-1": WorkerOrder.DRAIN}

    # When it comes back after it was given up
    until("the worker is given up", lambda: hand.session not in house.coordinator.sessions.by_id)
    again = house.worker("lab-1", session=hand.session)

    # Then it hears of it
    assert again.fetch_orders(5.0).order is WorkerOrder.DRAIN


def test_resumed_worker_is_given_tasks_whatever_it_has_heard_before(house: House) -> None:
    # Given a worker that has been told to stay, and has not said yet that it follows
    client, hand = house.client(), house.worker("lab-1")
    order(house, ["lab-1"], WorkerOrder.STAY)
    assert hand.exchange().order is WorkerOrder.STAY

    # When it is resumed meanwhile
    order(house, ["lab-1"], WorkerOrder.WORK)
    client.submit()

    # Then it hears of that when it follows the first order, and takes tasks
    assert hand.exchange(follows=WorkerOrder.STAY, capacity=0).order is WorkerOrder.WORK
    assert hand.exchange().order is None
    hand.fetch_one()


def test_worker_that_ends_cannot_be_called_back(house: House) -> None:
    # Given one that a signal has told to end, and one that is ordered to
    hand, other = house.worker("lab-1"), house.worker("lab-2")
    hand.exchange(follows=WorkerOrder.DRAIN, capacity=0)
    order(house, ["lab-2"], WorkerOrder.DRAIN)

    # When both are called back, Then the orders still hold
    held = {"lab-1": WorkerOrder.DRAIN, "lab-2": WorkerOrder.DRAIN}
    assert order(house, [], WorkerOrder.WORK) == held
    assert order(house, [], WorkerOrder.STAY) == held
    assert hand.exchange(follows=WorkerOrder.DRAIN, capacity=0).order is None

    # But one may be stopped that drains
    assert order(house, ["lab-2"], WorkerOrder.STOP) == {"lab-2": WorkerOrder.STOP}
    assert other.exchange(follows=WorkerOrder.DRAIN, capacity=0).order is WorkerOrder.STOP


def test_paused_worker_stays_paused_when_the_coordinator_restarts(house: House) -> None:
    hand = house.worker("lab-1")
    hand.exchange(follows=WorkerOrder.STAY, capacity=0)
    house.restart()
    again = house.worker("lab-1", session=hand.session)
    assert again.exchange(follows=WorkerOrder.STAY, capacity=0).order is None
    (shown,) = house.client().service.workers("", "")
    assert shown.state == "drained"


def test_unknown_worker_is_an_error_and_no_other_is_ordered(house: House) -> None:
    hand = house.worker("[lab]")
    with pytest.raises(UnknownWorker, match="no worker is named 'lib-"):
        house.client().service.order_workers(["[lab]", "lib-*"], WorkerOrder.STOP)
    assert hand.exchange().order is None

    # A name with the characters of a glob is a name, too; and so is that of the session
    assert order(house, ["[lab]"], WorkerOrder.STAY) == {"[lab]": WorkerOrder.STAY}
    (shown,) = house.client().service.workers("", "")
    assert order(house, [shown.session], WorkerOrder.STOP) == {"[lab]": WorkerOrder.STOP}
    assert order(house, [], WorkerOrder.STOP) == {"[lab]": WorkerOrder.STOP}
