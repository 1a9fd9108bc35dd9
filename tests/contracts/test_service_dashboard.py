"""`Service.dashboard`: the first screen says what is so, with the remedy, and in few words."""

from __future__ import annotations

import time

import pytest

from dtq.model.dashboard import Attention, Dashboard, SlotUse, WorkerState
from dtq.model.messages import Progress
from dtq.model.queues import SteeringChange
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome
from tests.contracts.service_scene import SOON_S, Caller, House, until


def kinds(seen: Dashboard) -> list[str]:
    return [said.kind for said in seen.attention]


def attention(caller: Caller, kind: str) -> Attention:
    def found() -> Attention | None:
        said = caller.service.dashboard(0.0).attention
        return next((one for one in said if one.kind == kind), None)

    one = until(f"attention of the kind {kind}", found)
    assert one is not None
    return one


def test_empty_queue_has_nothing_to_look_at(house: House) -> None:
    seen = house.client().service.dashboard(0.0)

    assert (seen.attention, seen.queues, seen.workers, seen.failures) == ((), (), (), ())
    assert (seen.counts.total, seen.oldest_s, seen.longest, seen.slots) == (0, None, None, 0)
    assert [history.step_s for history in seen.history] == [1, 60]


def test_waiting_tasks_are_counted_by_queue_and_priority(house: House) -> None:
    # Given tasks of three priorities in one queue, and some in another
    client = house.client()
    client.submit(3, priority=5)
    client.submit(2, priority=1)
    client.submit(4, priority=9)
    gone = client.submit(5, priority=2)
    client.submit(1, queue="mail")
    client.service.cancel(Selection(ids=((gone, -1),), limit=0))

    # Then
    seen = client.service.dashboard(0.0)
    first, second = seen.queues
    assert (first.name, first.ready, second.name, second.ready) == ("default", 9, "mail", 1)
    assert [(depth.priority, depth.count, depth.rest) for depth in first.depths] == [
        (1, 2, False),
        (5, 3, False),
        (9, 4, False),
    ]
    assert first.oldest_s is not None
    assert seen.oldest_s == pytest.approx(first.oldest_s, abs=0.5)


def test_queue_without_a_worker_is_told_with_the_command_that_helps(house: House) -> None:
    # Given
    client = house.client()
    client.submit(2, queue="gpu")

    # Then nobody is there at all; and then somebody who serves another queue
    assert attention(client, "no-worker").remedy == "dtq worker"
    house.worker("rack-7", queues=("mail",))
    told = attention(client, "no-worker")
    until("the queue to be named", lambda: "'gpu'" in attention(client, "no-worker").text)
    told = attention(client, "no-worker")
    assert (told.text, told.remedy) == (
        "2 tasks wait in the queue 'gpu', which no worker serves",
        "dtq worker --queue gpu",
    )

    # And a paused queue is told as paused, not as unserved
    client.service.steer_queue("gpu", SteeringChange(paused=True))
    assert kinds(client.service.dashboard(0.0)) == ["paused"]
    assert attention(client, "paused").remedy == "dtq queue resume gpu"


def test_worker_is_shown_with_what_its_slots_run_and_use(house: House) -> None:
    # Given a worker of two slots, one of which runs a task that tells its progress
    client, hand = house.client(), house.worker("rack-7", slots=2)
    batch = client.submit()
    grant = hand.fetch_one()
    hand.exchange(progress=(Progress(token=grant.token, index=0, done=3.0, total=12.0),))

    # Then the task is in one of the slots, at once
    (worker,) = client.service.dashboard(0.0).workers
    assert (worker.name, worker.state, worker.size, worker.busy) == ("rack-7", WorkerState.WORKING, 2, 1)
    assert [slot.task for slot in worker.slots] == [str(batch), ""]

    # When the worker accounts for its slots
    uses = [
        SlotUse(number=1, memory=1 << 20),
        SlotUse(number=2, token=grant.token, index=0, seconds=30.0, cpu=0.97, memory=5 << 20),
    ]
    hand.service.note_slots(time.time() + 3_600, uses)

    # Then the task is in the slot that the worker has named, for as long as it says
    seen = client.service.dashboard(0.0)
    (worker,) = seen.workers
    idle, busy = worker.slots
    assert (idle.task, idle.memory, busy.task, busy.cpu, busy.memory) == ("", 1 << 20, str(batch), 0.97, 5 << 20)
    assert (busy.function, busy.attempt, busy.progress) == ("work:shop", 1, (3.0, 12.0))
    assert 30.0 <= busy.seconds < 60.0
    assert (worker.cpu, worker.memory) == (0.97, 6 << 20)
    assert (seen.slots, seen.busy, seen.alive, seen.longest_worker) == (2, 1, 1, "rack-7")

    # And its clock, which is an hour ahead, is told
    told = attention(client, "clock")
    assert told.text == "the clock of the worker rack-7 is 1h ahead of the coordinator's"


def test_worker_that_is_lost_is_told_until_it_is_back(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker("rack-7")
    client.submit()
    hand.fetch_one()

    # When it dies
    hand.hang_up()

    # Then it is shown as lost, and what to do
    until("the worker to be lost", lambda: client.service.dashboard(0.0).lost)
    seen = client.service.dashboard(0.0)
    assert [(w.name, w.state, w.busy) for w in seen.workers] == [("rack-7", WorkerState.LOST, 0)]
    assert (seen.alive, seen.slots) == (0, 0)
    assert "dtq worker" in attention(client, "worker-lost").remedy

    # When another one of its name comes
    house.worker("rack-7")

    # Then it is not told of any more
    seen = client.service.dashboard(0.0)
    assert (seen.lost, [w.state for w in seen.workers]) == (0, [WorkerState.IDLE])


def test_latest_failures_say_which_attempt_of_how_many(house: House) -> None:
    # Given a task that fails, and one that dies
    client, hand = house.client(), house.worker("rack-7")
    batch = client.submit(max_retries=2, retry_delay_s=600.0)
    hand.fail(hand.fetch_one(), exception="OSError", message="disk " * 100)
    poison = client.submit(max_crashes=1)
    hand.fail(hand.fetch_one(), Outcome.CRASHED, exception="", signal=9)

    # Then
    seen = client.service.dashboard(0.0)
    newest, older = seen.failures
    assert (str(newest.id), newest.outcome, newest.dead) == (str(poison), Outcome.CRASHED, True)
    assert (str(older.id), older.attempt, older.most, older.dead) == (str(batch), 1, 3, False)
    assert (older.exception, older.worker, len(older.message)) == ("OSError", "rack-7", 200)
    assert attention(client, "dead-letters").remedy == "dtq dlq list"
    (worker,) = seen.workers
    assert (worker.done, worker.failed) == (0, 2)

    # And another one of the same kind shares its line
    client.submit(max_crashes=1)
    hand.fail(hand.fetch_one(), Outcome.CRASHED, exception="", signal=9)
    assert [line.count for line in client.service.dashboard(0.0).failures] == [2, 1]

    # And dead letters are still among them after a restart, which forgets attempts
    house.restart()
    seen = house.client().service.dashboard(0.0)
    assert (str(poison), True) in [(str(f.id), f.dead) for f in seen.failures]


def test_history_counts_what_happened_by_the_second(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker("rack-7")
    client.submit(2)
    hand.succeed(hand.fetch_one())

    # Then it is in the rates at once, and in the history as soon as the second is over
    seen = client.service.dashboard(0.0)
    assert seen.rates.submitted > 0
    assert seen.rates.done > 0
    assert seen.hour_done == 1
    assert [(queue.name, queue.done_per_min > 0) for queue in seen.queues] == [("default", True)]

    def recorded() -> bool:
        seconds = client.service.dashboard(0.0).history[0]
        return (sum(seconds.submitted), sum(seconds.done), sum(seconds.failed)) == (2, 1, 0)

    until("the second to be over", recorded, SOON_S)
    seconds = client.service.dashboard(0.0).history[0]
    assert seconds.backlog[-1] == 1
    assert 0 < seconds.oldest_ms[-1] < 1_000 * SOON_S
    # And who asks for what is newer gets no more
    assert client.service.dashboard(seconds.end + 100).history[0].done == ()
