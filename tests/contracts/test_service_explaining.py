"""`Service.explain`: each reason why a task does not run, or why it died, and what helps."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from dtq.errors import UnknownId
from dtq.model.explanations import Explanation
from dtq.model.limits import Limit
from dtq.model.messages import Conditions, Holding, WorkerOrder
from dtq.model.queues import SteeringChange
from dtq.model.resources import Needs, Offers, Portion, Quantity
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.contracts.service_scene import House, until


def explained(house: House, batch: int, index: int = 0) -> Explanation:
    """The explanation of one task."""
    (found,) = house.client().service.explain(batch, index)
    return found


def commands(found: Explanation) -> list[str]:
    return [remedy.command for remedy in found.remedies]


def same_as_status(house: House, batch: int) -> str:
    """The first reason, which is that of the status."""
    found = explained(house, batch)
    assert found.reasons[0] == house.client().service.task(batch, 0).reason
    return found.reasons[0]


def test_paused_queue_without_a_worker_has_two_obstacles(house: House) -> None:
    client = house.client()
    batch = client.submit(queue="mail")
    client.service.steer_queue("mail", SteeringChange(paused=True))
    found = explained(house, batch)
    assert found.reasons == (
        "the queue 'mail' is paused",
        "no worker serves the queue 'mail' (no worker is connected at all)",
    )
    assert commands(found) == ["dtq queue resume mail", "dtq worker"]
    assert same_as_status(house, batch) == "the queue 'mail' is paused"


def test_queue_that_no_worker_serves_names_those_that_are_connected(house: House) -> None:
    house.worker("lab-1", queues=("default", "slow"))
    batch = house.client().submit(queue="mail")
    found = explained(house, batch)
    assert found.reasons == (
        "no worker serves the queue 'mail'",
        "of the connected workers lab-1 serves default, slow",
    )
    assert commands(found) == ["dtq worker --queue mail"]


def test_needs_that_no_worker_meets_tell_what_is_lacking(house: House) -> None:
    house.worker("lab-1", offers=Offers(resources=(Portion(name="gpu", amount=1),)))
    needs = Needs(resources=(Quantity(name="gpu", amount=2),), tags=("ssd",))
    batch = house.client().submit(needs=needs)
    found = explained(house, batch)
    assert (
        "it needs gpu=2 and the tag ssd, and the most that one offers of gpu is 1, none has the tag ssd"
        in (found.reasons[0])
    )
    assert commands(found) == ["dtq worker --resource gpu=2 --tag ssd"]


def test_worker_that_takes_no_tasks_tells_why(house: House) -> None:
    client = house.client()
    paused, ending, starting = house.worker("lab 1"), house.worker("lab-2"), house.worker("lab-3")
    client.service.order_workers(["lab 1"], WorkerOrder.STAY)
    paused.exchange(capacity=0, follows=WorkerOrder.STAY)
    ending.exchange(capacity=0, follows=WorkerOrder.DRAIN)
    starting.exchange(capacity=0)
    batch = client.submit()
    found = explained(house, batch)
    assert found.reasons[1:] == (
        "an operator has lab 1 take no tasks",
        "lab-2 takes no more tasks, and ends",
        "the slots of lab-3 are starting",
    )
    assert commands(found) == ["dtq workers resume 'lab 1'"]
    starting.exchange(capacity=0, trouble="no memory")
    found = explained(house, batch)
    assert found.reasons[3] == "slots of lab-3 do not start: no memory"
    assert commands(found) == ["dtq workers resume 'lab 1'", "dtq worker"]


def test_limit_that_is_reached_names_those_who_use_it(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1", slots=2)
    client.service.set_limit(Limit(name="api", concurrency=1))
    first = client.submit(function="work:call", limits=("api",))
    hand.fetch_one()
    batch = client.submit(limits=("api",))
    found = explained(house, batch)
    assert found.reasons == (
        "the limit 'api' is reached: 1 of 1 run",
        f"tasks that count against 'api' now: {first} (work:call on lab-1)",
    )
    assert commands(found) == ["dtq limit set api --concurrency N"]
    client.service.set_limit(Limit(name="api", concurrency=0))
    assert explained(house, batch).reasons[0] == "the limit 'api' is closed"


def test_task_in_line_tells_what_is_ahead_and_what_keeps_the_slots_busy(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1")
    first = client.submit(function="work:long")
    hand.exchange(holding=(Holding(token=hand.fetch_one().token, started=0),))
    client.submit(3)
    batch = client.submit()
    found = explained(house, batch)
    assert found.reasons[0] == "3 tasks are ahead of it, for 1 slot"
    assert found.reasons[1].startswith(f"busy: 1 slot with work:long; longest {first}, for ")
    assert commands(found) == [f"dtq reprioritize {batch} -p 1", "dtq worker"]


def test_blocked_task_tells_the_standing_of_those_it_waits_for(house: House) -> None:
    # Given a task that waits for one that runs, one that waits, and a whole batch; and nobody will serve its queue
    client, hand = house.client(), house.worker("lab-1", queues=("default",))
    runs, many = client.submit(), client.submit(3, queue="away")
    hand.fetch_one()
    waits = client.submit(queue="mail")
    after = tuple((number, 0, 0, False) for number in (runs, waits, many))
    batch = client.submit(submission={"conditions": Conditions(after=after)}, queue="mail")

    # When, Then
    found = explained(house, batch)
    assert found.reasons[0] == f"waits for {runs}, {waits}, all of {many}"
    assert found.reasons[1].startswith(f"{runs} runs on lab-1 for ")
    assert found.reasons[2:] == (
        f"{waits} is pending: no worker serves the queue 'mail'",
        f"of batch {many} are 3 pending, of 3",
        "after that: no worker serves the queue 'mail'",
        "of the connected workers lab-1 serves default",
    )
    assert commands(found)[:3] == [f"dtq explain {number}" for number in (runs, waits, many)]


def test_task_that_backs_off_tells_until_when_and_why(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1")
    batch = client.submit(retry_delay_s=500.0, submission={"conditions": Conditions(expires_s=9_000.0)})
    hand.fail(hand.fetch_one(), exception="OSError", message="no route")
    found = explained(house, batch)
    assert found.task.state is State.SCHEDULED
    assert found.reasons[0].startswith("backing off after 1 failed attempt; due in 8m")
    assert found.outlook.startswith("it is due at 2")
    assert found.reasons[-1].startswith("attempt 1 failed after 1m")
    assert found.reasons[-1].endswith(" on lab-1: OSError: no route")
    # And one that has not begun tells by when it must
    other = client.submit(submission={"conditions": Conditions(expires_s=9_000.0), "delay_s": 99.0})
    assert explained(house, other).reasons[-1].startswith("it is cancelled unless it starts by 2")


def test_running_task_tells_where_and_how_long_it_may(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1")
    batch = client.submit(timeout_s=600.0)
    grant = hand.fetch_one()
    hand.exchange(holding=(Holding(token=grant.token, started=0),))
    found = explained(house, batch)
    assert found.reasons[0].startswith("it runs on lab-1 for ")
    assert found.reasons[1].startswith("its time limit of 10m ends it in about ")
    client.service.cancel(Selection(ids=((batch, -1),), limit=0))
    assert explained(house, batch).reasons[1:] == ("it is being stopped: its process is killed",)
    house.coordinator.sessions.by_id[hand.session].seen_at -= 12.0
    assert "after 15 s of silence the task runs elsewhere" in explained(house, batch).reasons[-1]


@pytest.mark.parametrize(
    ("options", "outcome", "failure", "why", "more"),
    [
        ({"max_retries": 0}, Outcome.FAILED, {"exception": "ValueError", "message": "no"},
         "it was given up: it is never tried again (max_retries is 0)", None),
        ({"never_retry": ("ValueError",)}, Outcome.FAILED, {"exception": "ValueError"},
         "it was given up: after ValueError it is never tried again (never_retry)", None),
        ({"max_crashes": 1}, Outcome.CRASHED, {"exception": "", "signal": int(signal.SIGSEGV), "peak_memory": 3 << 20},
         "it was given up after 1 crash: it may have 1 (max_crashes)",
         "SIGSEGV: its process touched memory that is not its own"),
        ({"max_crashes": 1}, Outcome.FAILED, {"exception": "ModuleNotFoundError", "unable": True},
         "it was given up after 1 attempt that could not begin: it may have 1 (max_crashes)",
         "a worker lacks a module or a task type that it needs"),
        ({"max_retries": 0}, Outcome.FAILED, {"final": True, "exception": "dtq.errors.TooLarge"},
         "it was given up: it returned what can never be sent", None),
    ],
    ids=["no retry", "never again", "crash", "unable", "final"],
)  # fmt: skip
def test_dead_task_tells_by_which_rule_and_from_what_it_died(
    house: House, options: dict[str, Any], outcome: Outcome, failure: dict[str, Any], why: str, more: str | None
) -> None:
    client, hand = house.client(), house.worker("lab-1")
    batch = client.submit(**options)
    hand.fail(hand.fetch_one(), outcome, **failure)
    found = explained(house, batch)
    assert found.task.state is State.DEAD
    assert found.reasons[0] == why
    assert found.reasons[1].startswith("attempt 1 ")
    assert more is None or any(reason.startswith(more) for reason in found.reasons)
    assert ("peak_memory" in failure) == any(" 3 MiB of memory" in reason for reason in found.reasons)
    assert commands(found) == [f"dtq dlq show {batch}", f"dtq dlq retry {batch}"]


def test_task_that_used_up_its_retries_tells_the_last_attempts(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1")
    batch = client.submit(max_retries=4, retry_delay_s=0.0)
    for number in range(5):
        hand.fail(hand.fetch_one(), message=f"no {number}")
    found = explained(house, batch)
    assert found.reasons[0] == "it was given up after 5 failures: it may have 4 retries (max_retries)"
    assert [reason.split(" ")[1] for reason in found.reasons[1:4]] == ["3", "4", "5"]
    assert found.reasons[4].startswith("it died at ")


def test_ended_tasks_tell_how_they_ended(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1")
    done = client.submit()
    hand.succeed(hand.fetch_one())
    cancelled = client.submit()
    client.service.cancel(Selection(ids=((cancelled, -1),), limit=0))
    until("the result is stored", lambda: client.service.task(done, 0).state is State.SUCCEEDED)
    assert explained(house, done).reasons[0].startswith("it succeeded at ")
    assert commands(explained(house, done)) == [f"dtq result {done}"]
    assert explained(house, cancelled).reasons[0].startswith("it was cancelled on request at ")
    with pytest.raises(UnknownId):
        client.service.explain(99, 0)


def test_batch_is_explained_by_one_task_of_each_state(house: House) -> None:
    client, hand = house.client(), house.worker("lab-1", slots=2)
    batch = client.submit(10, max_retries=0)
    first, _ = hand.fetch()
    hand.fail(first, message="no")
    found = client.service.explain(batch, -1)
    assert [(each.task.state, each.count) for each in found] == [
        (State.PENDING, 8),
        (State.RUNNING, 1),
        (State.DEAD, 1),
    ]


def test_worker_that_could_not_run_the_function_is_named(house: House) -> None:
    # Given a worker that lacks a module, and another one that is busy
    client, lacking, busy = house.client(), house.worker("lab-1"), house.worker("lab-2")
    first = client.submit(function="work:long")
    grant = busy.fetch_one()
    busy.exchange(holding=(Holding(token=grant.token, started=0),))
    batch = client.submit(function="work:rare")
    lacking.fail(lacking.fetch_one(), exception="ModuleNotFoundError", unable=True)

    # When the task waits for the other one, Then the first one is named
    until("the task is due again", lambda: client.service.task(batch, 0).state is State.PENDING)
    assert "lab-1 could not run work:rare of late: other workers come first" in explained(house, batch).reasons
    assert not any("could not run" in reason for reason in explained(house, first).reasons)
