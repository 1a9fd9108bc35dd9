"""What nobody can ask for any more is kept no longer: results that an executor has read, and maps that are given up."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from dtq import AsyncClient, Executor, State
from dtq.client import watcher
from dtq.client.executor_calls import opened
from dtq.client.submitting import order
from dtq.core.changes import ResultPage
from dtq.engines.base import StoredBatch
from tests.client_scene import DEADLINE_S, Queue
from tests.cluster import until
from tests.looping import looped
from tests.tasks import numbers_work as work


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """A queue whose clients have nothing else to do soon, and so tell soon what they have read."""
    monkeypatch.setattr(watcher, "WAIT_S", 0.02)
    with Queue(wire=True) as made:
        yield made


@pytest.fixture
def executor(queue: Queue) -> Iterator[Executor]:
    made = Executor.__new__(Executor)
    made._begin(opened(queue.client(), None, order()))
    yield made
    made.shutdown(cancel_futures=True)


def kept(queue: Queue) -> list[StoredBatch]:
    """The batches that the coordinator has, live ones too."""
    assert queue.coordinator is not None
    queue.coordinator.flush()
    return queue.coordinator.engine.batches(range(1, 100))


def is_empty(queue: Queue) -> bool:
    return not kept(queue)


def pages_of(queue: Queue, batch: int) -> list[tuple[int, int]]:
    """Which pages of results are there."""
    assert queue.coordinator is not None
    return [(page.lo, page.hi) for page in queue.coordinator.engine.pages(ResultPage, batch, 0, 99_999)]


# -- futures ------------------------------------------------------------------------------------------------------


def test_small_calls_that_travelled_together_go_when_all_have_ended(queue: Queue, executor: Executor) -> None:
    # Given small calls that gather while the coordinator is away, and so reach it as few batches
    queue.stop()
    futures = [executor.submit(work.square, n) for n in range(500)]
    queue.start()
    until(lambda: executor.client.stats().submitted == 500, "all are accepted")
    assert max(stored.row.size for stored in kept(queue)) > 1

    # When all have ended, Then none is kept
    with queue.working():
        assert [future.result(DEADLINE_S) for future in futures] == [n * n for n in range(500)]
        until(lambda: is_empty(queue), "they are let go")


def test_lone_small_call_goes_when_it_has_ended(queue: Queue, executor: Executor) -> None:
    with queue.working():
        for n in range(3):
            assert executor.submit(work.square, n).result(DEADLINE_S) == n * n
        until(lambda: is_empty(queue), "they are let go")


def test_call_whose_future_was_dropped_goes_too(queue: Queue, executor: Executor) -> None:
    executor.submit(work.square, 3)
    with queue.working():
        until(lambda: executor.client.stats().counts.succeeded == 1 and is_empty(queue), "it has ended and is let go")


def test_calls_of_a_plain_client_stay(queue: Queue, executor: Executor) -> None:
    # Given a task that an executor's own client submits, and one with a key that anybody may ask for
    with queue.working():
        handle = executor.client.submit(work.square, 4)
        keyed = executor.options(key="mine").submit(work.square, 5)
        assert (handle.result(DEADLINE_S), keyed.result(DEADLINE_S)) == (16, 25)
        # When a call of the executor has gone meanwhile
        assert executor.submit(work.square, 6).result(DEADLINE_S) == 36
        until(lambda: len(kept(queue)) == 2, "it is let go")
    # Then the others are there
    assert executor.client.get(handle.id).result(DEADLINE_S) == 16
    assert executor.client.submit(work.square, 5, max_retries=0, key="mine").result(DEADLINE_S) == 25


def test_failed_call_is_a_dead_letter_as_ever(queue: Queue, executor: Executor) -> None:
    with queue.working():
        assert isinstance(executor.submit(work.inverse, 0).exception(DEADLINE_S), ZeroDivisionError)
        assert executor.submit(work.inverse, 1).result(DEADLINE_S) == 1.0
        until(lambda: len(kept(queue)) == 1, "the other one is let go")
    assert [letter.exception for letter in executor.client.dead_letters()] == ["ZeroDivisionError"]


# -- maps that are given up -----------------------------------------------------------------------------------------


def given_up(queue: Queue, results: Any, how: str) -> None:
    """Read a few results, and give the map up."""
    if how != "never read":
        assert next(results) == 0
    if how == "closed":
        results.close()
    del results
    gc.collect()


@pytest.mark.parametrize("how", ["closed", "forgotten", "never read"])
def test_map_that_is_given_up_goes_with_what_has_ended_of_it(queue: Queue, how: str) -> None:
    # Given a map of which some tasks have ended
    client = queue.client()
    results = client.map(work.square, range(3000))
    hand = queue.worker()
    while not hand.work():
        pass
    until(lambda: client.stats().counts.succeeded > 0, "some of it is told")

    # When nobody reads on
    given_up(queue, results, how)
    del results
    gc.collect()

    # Then all of it goes, also what ends later
    with queue.working():
        until(lambda: is_empty(queue), "it is let go")
    assert client.stats().counts.unfinished == 0


@pytest.mark.parametrize("how", ["closed", "forgotten", "never read"])
def test_map_that_is_given_up_after_all_has_ended_goes(queue: Queue, how: str) -> None:
    client = queue.client()
    with queue.working():
        results = client.map(work.square, range(3000))
        until(lambda: client.stats().counts.succeeded == 3000, "it has ended")
        given_up(queue, results, how)
        del results
        gc.collect()
        until(lambda: is_empty(queue), "it is let go")


def test_map_that_was_read_to_its_end_stays(queue: Queue) -> None:
    client = queue.client()
    with queue.working():
        assert list(client.map(work.square, range(10))) == [n * n for n in range(10)]
        # When another one, that was given up, has gone
        results = client.map(work.square, range(10))
        assert next(results) == 0
        results.close()
        until(lambda: not [stored for stored in kept(queue) if stored.row.batch == 2], "the other one is let go")
    # Then the first is there, for whoever has its id
    assert list(client.get_batch(1).results()) == [n * n for n in range(10)]


def test_map_with_a_failure_goes_but_for_its_dead_letter(queue: Queue) -> None:
    client = queue.client()
    with queue.working():
        with pytest.raises(ZeroDivisionError):
            list(client.map(work.inverse, [3, 2, 1, 0], max_retries=0))
        until(lambda: kept(queue) and not pages_of(queue, 1), "its results are let go")
    (letter,) = client.dead_letters()
    assert str(letter.id) == "1.3"
    assert client.retry_dead("1.3") == 1


def test_map_goes_also_where_the_coordinator_was_away(queue: Queue) -> None:
    # Given a map that is given up while there is no coordinator
    client = queue.client()
    results = client.map(work.square, range(2000))
    hand = queue.worker()
    assert hand.work()
    assert next(results) == 0
    queue.stop()
    results.close()

    # When it is back, Then the map is cancelled and let go
    queue.start()
    with queue.working():
        until(lambda: is_empty(queue), "it is let go")


@looped
async def test_asynchronous_map_that_is_given_up_goes(queue: Queue) -> None:
    async with AsyncClient(connector=queue) as client:
        with queue.working():
            results = client.map(work.square, range(3000))
            assert await anext(results) == 0
            await results.aclose()
            read = [value async for value in client.map(work.square, range(10))]
            assert read == [n * n for n in range(10)]
            until(lambda: len(kept(queue)) == 1, "it is let go, and the one that was read stays")


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_executor_map_that_is_given_up_goes(queue: Queue, executor: Executor, how: str) -> None:
    # Given a map of an executor's of which some has ended, and some runs
    results: Any = executor.map(work.square, range(3000))
    hand = queue.worker()
    while not hand.work():
        pass
    given_up(queue, results, how)
    del results
    gc.collect()

    # Then all of it goes
    with queue.working():
        until(lambda: is_empty(queue), "it is let go")


def test_executor_map_that_nobody_began_to_read_runs_and_goes(queue: Queue, executor: Executor) -> None:
    executor.map(work.square, range(3000))
    gc.collect()
    with queue.working():
        until(lambda: executor.client.stats().counts.succeeded == 3000, "it has run")
        until(lambda: is_empty(queue), "it is let go")


def test_executor_map_that_was_read_goes(queue: Queue, executor: Executor) -> None:
    with queue.working():
        assert len(list(executor.map(work.square, range(3000)))) == 3000
        until(lambda: is_empty(queue), "it is let go")


def test_executor_map_with_a_failure_goes_but_for_its_dead_letter(queue: Queue, executor: Executor) -> None:
    with queue.working():
        with pytest.raises(ZeroDivisionError):
            list(executor.map(work.inverse, [1, 0, 1, 2]))
        until(lambda: kept(queue) and not pages_of(queue, 1), "its results are let go")
    assert [letter.state for letter in executor.client.tasks(state=State.DEAD)] == [State.DEAD]
