"""What happens between a look into the store and the lock: made to happen, one race a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dtq.core import invariants
from dtq.core.leases import CHUNK_S, Lease
from dtq.errors import InvalidValue, NotPermitted, ResultExpired
from dtq.model import pages
from dtq.model.messages import Conditions, Exchange, Hello, Role, Succeeded
from dtq.model.snapshots import Attempt, Counts, Selection
from dtq.model.states import State
from dtq.model.values import Value, describe
from tests.contracts.service_scene import DEADLINE_S, Caller, House, until
from tests.coordinator_scene import HeldEngine, HookedEngine

Hooked = tuple[House, HookedEngine]


@pytest.fixture
def hooked(tmp_path: Path) -> Iterator[Hooked]:
    """A house over an engine into which a test can put something between a look and what follows it."""
    engine = HookedEngine()
    house = House("memory", tmp_path, engine=lambda: engine)
    yield house, engine
    house.close()
    invariants.check(house.coordinator.machine)


# -- keys -----------------------------------------------------------------------------------------------------------


def test_key_whose_batch_comes_and_goes_while_it_is_looked_up_makes_no_second_batch(hooked: Hooked) -> None:
    # Given two schedulers that submit the same at the same time, and a worker that is quick
    house, engine = hooked
    one, other, hand = house.client(), house.client(), house.worker()
    batches = []

    def meanwhile() -> None:
        batches.append(one.submit(submission={"key": "nightly"}))
        hand.succeed(hand.fetch_one())

    engine.after_batches = meanwhile

    # When the second has looked into the store just before the first was accepted
    batches.append(other.submit(submission={"key": "nightly"}))

    # Then
    assert batches == [1, 1]
    assert other.service.stats().submitted == 1


def test_key_of_another_function_is_a_conflict_also_when_it_comes_and_goes_meanwhile(hooked: Hooked) -> None:
    house, engine = hooked
    one, other, hand = house.client(), house.client(), house.worker()

    def meanwhile() -> None:
        one.submit(submission={"key": "nightly"})
        hand.succeed(hand.fetch_one())

    engine.after_batches = meanwhile

    (receipt,) = other.receipts(other.submission(key="nightly"), function="work:other")

    assert (receipt.code, receipt.details) == ("key-conflict", ("nightly", 1))


def test_key_that_was_looked_up_is_not_watched_any_longer(hooked: Hooked) -> None:
    house, _ = hooked
    client = house.client()

    client.submit(submission={"key": "nightly"})
    with pytest.raises(InvalidValue):
        client.service.submit([], [client.submission(key="x")] * 100_001, False)

    assert house.coordinator.machine.queue_state.key_watchers == []


# -- values ---------------------------------------------------------------------------------------------------------


def test_values_are_synced_before_their_commit_and_hold_up_nobody(hooked: Hooked) -> None:
    # Given a client and a worker with values, and others
    house, engine = hooked
    client, hand, other = house.client(), house.worker(), house.client()
    synced: list[Value] = []

    def meanwhile(values: Sequence[Value]) -> None:
        # Others are served, and a worker is not taken for silent
        synced.extend(values)
        other.service.stats()
        assert other.submit(submission={"key": f"at {len(synced)}"})
        worker = house.coordinator.sessions.by_id[hand.session]
        assert worker.kept_waiting is (len(synced) > 1)

    # When the call of the one, and the result of the other, name a value that has to be synced
    for caller in (client, hand):
        caller.service.write_value(5 + len(synced), 0, b"x" * 100)
        engine.at_sync = meanwhile
        page = pages.pack([describe([Value(5 + len(synced), 0, 100)])], described=True)
        if caller is client:
            batch = client.submit(submission={"arguments": page}, priority=1)
        else:
            hand.exchange()
            grant = next(grant for grant in hand.fetch(DEADLINE_S) if grant.batch == batch)
            hand.exchange(succeeded=(Succeeded(token=grant.token, lo=grant.lo, results=page, seconds=1.0),))

    # Then it was, before the task was there, and before it had ended
    assert synced == [Value(5, 0, 100), Value(6, 0, 100)]
    assert client.watch_until(batch, 1)[0].results == page
    assert not house.coordinator.sessions.by_id[hand.session].kept_waiting


# -- dead letters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry_dead", "purge_dead"])
def test_batch_that_finishes_after_its_dead_letter_was_found_is_not_taken_for_what_it_was(
    hooked: Hooked, verb: str
) -> None:
    # Given a dead letter of a batch whose other task still runs
    house, engine = hooked
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(2, max_retries=0)
    first, second = hand.fetch()
    hand.fail(first)
    house.coordinator.flush()

    # When that one ends between the look into the store and the verb
    engine.after_ended = lambda: hand.succeed(second)
    assert getattr(client.service, verb)(Selection(ids=((batch, 0),), limit=0)) == 1

    # Then its success is not forgotten
    if verb == "retry_dead":
        hand.succeed(hand.fetch_one())
        assert client.service.batch(batch).counts == Counts(succeeded=2)
    else:
        assert client.service.batch(batch).counts == Counts(succeeded=1)
    assert client.service.batch(batch).finished_at is not None
    assert hand.fetch() == []


# -- looking --------------------------------------------------------------------------------------------------------


def test_task_that_is_put_back_while_it_is_looked_for_is_found(hooked: Hooked) -> None:
    # Given a dead letter that is put back when the look into memory has just missed it
    house, engine = hooked
    (batch,) = house.dead_letters()
    client, operator = house.client(), house.client()
    attempts = engine.attempts

    def put_back_first(batch: int, index: int, **few: Any) -> list[Attempt]:
        del engine.attempts  # only this once
        operator.service.retry_dead(Selection(ids=((batch, 0),), limit=0))
        return attempts(batch, index, **few)

    engine.attempts = put_back_first  # type: ignore[method-assign]  # see above

    # Then
    assert client.service.task(batch, 0).state is State.PENDING


def test_purged_task_is_gone_however_often_it_is_looked_for(hooked: Hooked) -> None:
    house, _ = hooked
    (batch,) = house.dead_letters()
    client = house.client()
    client.service.purge_dead(Selection(limit=0))

    with pytest.raises(ResultExpired):
        client.service.task(batch, 0)


# -- connections ----------------------------------------------------------------------------------------------------


def test_connection_says_hello_once_and_first(hooked: Hooked) -> None:
    house, _ = hooked
    client = house.client()

    with pytest.raises(NotPermitted):
        client.service.hello(client.hello)
    with pytest.raises(InvalidValue):
        Caller(house, Hello(session="s" * 65, role=Role.CLIENT))


def test_superseded_fetch_hands_on_nothing_that_was_taken_back(hooked: Hooked) -> None:
    # Given a fetch that was served, but whose thread has not come to answer it yet
    house, _ = hooked
    client, hand = house.client(), house.worker()
    coordinator = house.coordinator
    waiting = house.begin_fetch(hand)
    fetch = coordinator.sessions.fetching[hand.session]
    again = house.worker(session=hand.session)
    again.calls = hand.calls

    # When the worker has given up on it, and fetches anew
    with coordinator.lock:
        del coordinator.sessions.fetching[hand.session]
    client.submit()
    with coordinator.lock:
        leases = coordinator.machine.granting.lease(hand.session, coordinator.clock.now(), fetch.call)
    new = again.fetch_orders(holding=())
    fetch.serve(leases, [])

    # Then the task is granted once
    assert len(new.grants) == 1
    assert waiting.result(DEADLINE_S).grants == ()


def test_two_workers_that_ask_at_once_never_get_the_same(hooked: Hooked) -> None:
    # Given
    house, _ = hooked
    client = house.client()
    hands = [house.worker(str(number), slots=2) for number in range(4)]
    client.submit(200)

    def work(index: int) -> list[int]:
        done = []
        while grants := hands[index].fetch(wait_s=0.0):
            for grant in grants:
                done.append(grant.lo)
                hands[index].succeed(grant, seconds=1.0)
        return done

    # When
    calls = [house.begin(lambda index=index: work(index)) for index in range(4)]  # type: ignore[misc]  # bound now

    # Then
    done = [index for call in calls for index in call.result(DEADLINE_S)]
    assert sorted(done) == list(range(200))


def test_no_work_is_left_beside_idle_workers(hooked: Hooked) -> None:
    """Wake-ups are never lost: submitters, workers that wait and workers that are lost, all at once."""
    house, _ = hooked
    clients = [house.client() for _ in range(3)]
    hands = [house.worker(str(number)) for number in range(3)]
    total = 3 * 60
    done: list[int] = []

    def submit(index: int) -> None:
        for _ in range(60):
            clients[index].submit()

    def work(index: int) -> None:
        while len(done) < total:
            for grant in hands[index].fetch(wait_s=0.5):
                hands[index].succeed(grant)
                done.append(grant.batch)

    calls = [house.begin(lambda index=index: submit(index)) for index in range(3)]  # type: ignore[misc]  # bound now
    calls += [house.begin(lambda index=index: work(index)) for index in range(3)]  # type: ignore[misc]

    for call in calls:
        call.result(DEADLINE_S)
    assert sorted(done) == list(range(1, total + 1))
    until("nothing is left", lambda: clients[0].service.stats().counts == Counts(succeeded=total))


def test_goodbye_is_answered_without_waiting(hooked: Hooked) -> None:
    house, _ = hooked
    hand = house.worker()

    orders = hand.service.exchange(Exchange(fetch=True))

    assert (orders.grants, orders.cancel, orders.drop) == ((), (), ())


def test_workers_that_cannot_be_served_are_not_asked_again_and_again(hooked: Hooked) -> None:
    # Given many idle workers of one queue, work that waits in another, and a worker that does it
    house, _ = hooked
    client, hand = house.client(), house.worker("busy", queues=("gpu",))
    idle = [house.worker(str(number), queues=("cpu",)) for number in range(5)]
    for each in idle:
        house.begin_fetch(each)
    client.submit(10, queue="gpu")
    asked: list[str] = []
    lease = house.coordinator.machine.granting.lease

    def counted(session: str, now: float, call: int, **how: bool) -> list[Lease]:
        asked.append(session)
        return lease(session, now, call, **how)

    house.coordinator.machine.granting.lease = counted  # type: ignore[method-assign]  # counts

    # When that one fetches and reports
    for _ in range(10):
        hand.succeed(hand.fetch_one())

    # Then nobody else is looked at
    assert set(asked) == {hand.session}


# -- chains ---------------------------------------------------------------------------------------------------------


def test_chain_goes_on_while_the_disk_is_slow(tmp_path: Path) -> None:
    # Given a chain of which a worker has as much as it is given at once, and waits for more
    engine = HeldEngine()
    house = House("memory", tmp_path, engine=lambda: engine)
    client, hand = house.client(), house.worker(chains=True)
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=CHUNK_S / 4.5)
    first = client.submit()
    chain = client.receipts(
        client.submission(conditions=Conditions(after=((first, 0, 1, True),))),
        *[client.submission(conditions=Conditions(after=((-1, 0, 1, True),))) for _ in range(9)],
    )
    grants = hand.fetch()
    assert len(grants) == 5
    fetch = house.begin_fetch(hand)

    # When it reports, and the disk takes its time
    engine.hold()
    succeeded = Succeeded(token=grants[0].token, lo=0, results=grants[0].arguments, seconds=CHUNK_S / 4.5)
    report = house.begin(lambda: hand.exchange(succeeded=(succeeded,), more=True))
    assert engine.reached.wait(DEADLINE_S)

    # Then it is given the next, behind what it has, before that is written
    assert [grant.batch for grant in fetch.result(DEADLINE_S).grants] == [chain[4].batch]
    assert not report.done()
    engine.go_on()
    assert report.result(DEADLINE_S).grants == ()
    house.close()
    invariants.check(house.coordinator.machine)
