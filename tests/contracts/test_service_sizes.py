"""Answers of bounded size: whatever there is to tell, no message is larger than it may be, and nothing is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from dtq.client.paging import all_dead_letters, all_tasks, cancel_all, purge_all, retry_all, whole_stats, whole_task
from dtq.core import invariants
from dtq.core.queue_state import Rules
from dtq.errors import InvalidValue
from dtq.model import pages
from dtq.model.messages import Ended, Succeeded
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.service import Service
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.transport import safepickle
from dtq.transport.calls import METHODS
from tests.contracts.service_scene import KINDS, Caller, House, spec

#: Largest message, in bytes: the least that there is.
LIMIT = 64 << 10
LONG = "m:" + "f" * 500


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    rules = Rules(grant_bytes=LIMIT // 4, max_blob=LIMIT - 1024)
    built = House(request.param, tmp_path, rules, max_message=LIMIT)
    yield built
    built.close()
    invariants.check(built.coordinator.machine)


class Measured:
    """A service, each of whose answers is weighed."""

    def __init__(self, caller: Caller) -> None:
        self._service = caller.service
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = getattr(self._service, name)(*arguments)
            size = len(safepickle.dumps(("#RETURN", METHODS[name].encode_result(result))))
            assert size <= LIMIT, f"{name} answered {size} bytes"
            self.calls.append(name)
            return result

        return call


def measured(caller: Caller) -> tuple[Service, list[str]]:
    """The service of a caller, and the names of the calls that it has answered."""
    service = Measured(caller)
    return cast(Service, service), service.calls


def test_grants_are_cut_to_what_an_answer_holds_and_go_on_where_they_were_cut(house: House) -> None:
    # Given tasks that are known to be tiny, but not to have large arguments
    client, hand = house.client(), house.worker(slots=2)
    client.submit()
    hand.succeed(hand.fetch_one(), seconds=1e-5)
    for count, size in ((20, 2_000), (1, 60_000), (3, 20_000), (40, 1_000)):
        client.submit(count, submission={"size": size})

    # When they are fetched and done, Then each is handed out once, in order
    seen: list[tuple[int, int]] = []
    while len(seen) < 64:
        grants = hand.fetch()
        assert grants, seen
        assert sum(len(grant.arguments) for grant in grants) <= LIMIT // 4 or len(grants) == grants[0].hi - grants[0].lo
        for grant in grants:
            assert pages.count(grant.arguments) == grant.hi - grant.lo
            seen += [(grant.batch, index) for index in range(grant.lo, grant.hi)]
            hand.succeed(grant, *[b""] * (grant.hi - grant.lo), seconds=1e-5)
    assert seen == sorted(seen)
    assert client.service.stats().retries == 0
    assert all(client.service.batch(number).counts.succeeded for number in (2, 3, 4, 5))


def test_answer_to_a_report_brings_no_large_arguments(house: House) -> None:
    # Given a worker that may be given more with the answer to a report, and a large task
    client, hand = house.client(), house.worker(slots=1)
    for _ in range(2):
        client.submit()
        hand.succeed(hand.fetch_one(), seconds=1e-5)
    client.submit()
    hand.fetch_one()
    client.submit(submission={"size": 50_000})

    # When it reports, Then that is not in the answer; and a fetching call brings it
    assert hand.exchange(more=True).grants == ()
    assert len(hand.fetch_one().arguments) > 50_000


def test_watched_results_come_in_parts_and_again_if_they_were_lost(house: House) -> None:
    # Given more results than an answer holds, of one lease
    client, hand = house.client(), house.worker()
    client.submit(2)
    hand.succeed(hand.fetch_one(), seconds=1e-5)
    hand.succeed(hand.fetch_one(), seconds=1e-5)
    batch = client.submit(1000)
    service, calls = measured(client)
    cursor = service.watch(0, 0.0).cursor
    done = 0
    while done < 1000:
        for grant in hand.fetch():
            for lo in range(grant.lo, grant.hi, 400):
                some = [b"%d" % index + bytes(90) for index in range(lo, min(grant.hi, lo + 400))]
                said = Succeeded(token=grant.token, lo=lo, results=pages.pack(some), seconds=1e-5)
                hand.exchange(succeeded=(said,))
            del hand.held[grant.token]
            done = grant.hi

    # When they are watched, each answer twice
    told: list[Ended] = []
    while sum(ended.hi - ended.lo for ended in told) < 1000:
        watched = service.watch(cursor, 0.0)
        assert service.watch(cursor, 0.0) == watched
        assert watched.cursor > cursor
        told += watched.ended
        cursor = watched.cursor

    # Then each is told, in order
    assert [index for ended in told for index in range(ended.lo, ended.hi)] == list(range(1000))
    blobs = [blob for ended in told for blob in pages.unpack(ended.results)]
    assert [int(blob.split(b"\0")[0]) for blob in blobs] == list(range(1000))
    assert len(calls) > 6

    # And asking for them gives them, too
    found: list[Ended] = []
    while (at := found[-1].hi if found else 0) < 1000:
        found += service.results(batch, at, 1000)
    assert [blob for ended in found for blob in pages.unpack(ended.results)] == blobs


def test_results_and_failures_of_a_batch_come_in_parts_in_order(house: House) -> None:
    # Given a batch of which every third has failed with much to say, and one was cancelled
    client, hand = house.client(), house.worker()
    batch = client.submit(30, max_retries=0)
    client.service.cancel(Selection(ids=((batch, 29),), limit=0))
    for index in range(29):
        grant = hand.fetch_one()
        if index % 3:
            hand.succeed(grant, b"%d" % index + bytes(5_000))
        else:
            hand.fail(grant, message="m" * 4_000, traceback="t" * 20_000)

    # When they are asked for
    service, calls = measured(client)
    found: list[Ended] = []
    while (at := found[-1].hi if found else 0) < 30:
        found += service.results(batch, at, 30)

    # Then
    assert [(ended.lo, ended.hi) for ended in found] == [(index, index + 1) for index in range(30)]
    expected = [State.SUCCEEDED if index % 3 else State.DEAD for index in range(29)]
    assert [ended.state for ended in found] == [*expected, State.CANCELLED]
    assert len(calls) > 3


def test_history_of_many_long_attempts_is_told_whole(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit(max_retries=40, retry_delay_s=0.0)
    for number in range(40):
        hand.fail(hand.fetch_one(), message=f"number {number} " + "m" * 3_000, traceback="t" * 3_000)

    # When
    service, calls = measured(client)
    few = service.task(batch, 0)
    view = whole_task(service, batch, 0)

    # Then
    assert few.more
    assert len(few.history) < 10
    assert [attempt.failure.message.split()[1] for attempt in view.history] == [str(n) for n in range(40)]
    assert calls.count("attempts") > 3
    assert not view.more


def test_dead_letters_are_listed_whole_or_as_many_as_were_asked_for(house: House) -> None:
    # Given three hundred with long names and much to say, most of which died at the same moment
    client, hand = house.client(), house.worker(slots=10)
    batch = client.submit(300, function=LONG, max_retries=0)
    while grants := hand.fetch():
        for grant in grants:
            hand.fail(grant, message=f"{grant.lo} " + "m" * 4_000)

    # When
    service, calls = measured(client)
    letters = all_dead_letters(service, Selection(limit=0))

    # Then
    assert sorted(letter.index for letter in letters) == list(range(300))
    assert [letter.place for letter in letters] == sorted((letter.place for letter in letters), reverse=True)
    assert len(calls) > 5
    assert all_dead_letters(service, Selection(limit=77)) == letters[:77]
    assert [x.index for x in all_dead_letters(service, Selection(ids=((batch, 5),), limit=0))] == [5]


@pytest.mark.parametrize("state", [None, State.PENDING, State.SUCCEEDED])
def test_tasks_are_listed_whole_in_their_order(house: House, state: State | None) -> None:
    # Given tasks with long names in every state
    client, hand = house.client(), house.worker(slots=4)
    for number in range(60):
        client.submit(2, function=f"{LONG[:400]}{number}", priority=1 + number % 3)
    for number in range(20):
        client.submit(1, function=LONG, submission={"delay_s": 60.0 + number})
    for _ in range(40):
        hand.succeed(hand.fetch()[0])
    hand.fetch()
    everything = [*queries_order(house, client, state)]

    # When
    service, calls = measured(client)
    found = all_tasks(service, Selection(state=state, limit=0))

    # Then
    assert [(view.state, view.id, view.count) for view in found] == everything
    assert len(calls) > 2
    assert all_tasks(service, Selection(state=state, limit=7)) == found[:7]


def queries_order(house: House, client: Caller, state: State | None) -> Iterator[tuple[State, object, int]]:
    """What is listed where an answer holds everything."""
    setup = house.coordinator.setup
    house.coordinator.setup = type(setup)(rules=setup.rules, max_message=1 << 30)
    views = client.service.tasks(Selection(state=state, limit=0)) if house.server is None else []
    if house.server is not None:
        from dtq.coordinator import queries

        views = queries.tasks(house.coordinator, Selection(state=state, limit=0))
    house.coordinator.setup = setup
    return ((view.state, view.id, view.count) for view in views)


def test_functions_that_travelled_by_value_are_listed_without_their_bodies(house: House) -> None:
    client = house.client()
    for number in range(5):
        function = Function(kind=FunctionKind.VALUE, name=f"m:f{number}", body=b"any\n" + bytes(40_000))
        spec = Spec(function=function, options=Options())
        (receipt,) = client.service.submit([spec], [client.submission()], False)
        assert not receipt.code

    service, _ = measured(client)

    assert [view.spec.function.name for view in all_tasks(service, Selection())] == [f"m:f{n}" for n in range(5)]


def test_all_queues_and_workers_are_in_the_statistics(house: House) -> None:
    # Given more of them than an answer holds
    client = house.client()
    queues = [f"queue-{number:04}-{'q' * 50}" for number in range(500)]
    for queue in queues:
        client.submit(queue=queue)
    for number in range(60):
        house.worker(f"worker-{number % 50:03}-{'w' * 150}", queues=tuple(queues[number : number + 20]))

    # When
    service, calls = measured(client)
    few, seen = service.stats(), whole_stats(service)

    # Then
    assert few.more_queues
    assert few.more_workers
    assert [queue.name for queue in seen.queues] == queues
    assert [queue.workers for queue in seen.queues[:3]] == [1, 2, 3]
    assert len({worker.session for worker in seen.workers}) == len(seen.workers) == 60
    assert [worker.name for worker in seen.workers] == sorted(worker.name for worker in seen.workers)
    assert {"queues", "workers"} <= set(calls)


def test_more_ids_than_a_message_names_are_cancelled_and_put_back(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(1000, max_retries=0)
    more = [client.submit(1000) for _ in range(4)]
    hand.fail(hand.fetch_one())

    service, calls = measured(client)
    ids = tuple((number, index) for number in more for index in range(1000))
    done = cancel_all(service, Selection(ids=ids, limit=0))

    assert (done.cancelled, done.stopping, done.finished) == (4000, 0, 0)
    assert calls.count("cancel") > 1
    assert retry_all(service, Selection(ids=((batch, 0),), limit=0)) == 1
    assert purge_all(service, Selection(limit=0)) == 0


def test_many_refused_submissions_have_receipts_that_an_answer_holds(house: House) -> None:
    client = house.client()
    service, _ = measured(client)
    keys = ["k" * 400 + str(number) for number in range(120)]
    for key in keys:
        client.submit(submission={"key": key})

    receipts = service.submit([spec("work:other")], [client.submission(key=key) for key in keys], False)

    assert {receipt.code for receipt in receipts} == {"key-conflict"}
    with pytest.raises(InvalidValue, match="a call has at most 128"):
        service.submit([spec()], [client.submission() for _ in range(129)], False)
