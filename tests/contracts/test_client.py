"""What the client promises, against a real coordinator: in this process, and across a socket."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dtq import Client, ClientClosed, State, TaskCancelled, TaskHandle, Unreachable, WaitTimeout
from dtq.client import batches, client_core
from dtq.client.batch_handle import BatchHandle
from dtq.client.outcomes import RemoteTraceback
from dtq.core.queue_state import Rules
from dtq.errors import (
    CannotPickle,
    InvalidId,
    InvalidValue,
    KeyConflict,
    QueueFull,
    ScheduleExists,
    StoreReplaced,
    TooLarge,
    UnknownId,
    UnknownSchedule,
    WrongKey,
)
from dtq.model.schedules import Rule
from tests.client_scene import DEADLINE_S, Queue
from tests.cluster import until
from tests.tasks import numbers_work as work


@pytest.fixture(params=["in process", "wire"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue(wire=request.param == "wire") as made:
        yield made


@pytest.fixture
def near() -> Iterator[Queue]:
    """A queue whose lines the test can cut."""
    with Queue() as made:
        yield made


# -- one task -----------------------------------------------------------------------------------------------------


def test_result_comes_back(queue: Queue) -> None:
    # Given a worker
    client = queue.client()
    with queue.working():
        # When tasks are submitted; Then their results come back, each to its handle
        handles = [client.submit(work.add, n, b=1) for n in range(100)]
        assert [handle.result(DEADLINE_S) for handle in handles] == list(range(1, 101))
        assert all(handle.done() and handle.state is State.SUCCEEDED for handle in handles)


def test_status_of_a_task_says_how_it_ran(queue: Queue) -> None:
    with queue.working():
        client = queue.client()
        good, bad = client.submit(work.add, 1, 2), client.submit(work.inverse, 0, max_retries=0)
        assert good.result(DEADLINE_S) == 3
        assert bad.exception(DEADLINE_S) is not None

        for view in (good.status(), bad.status(), client.status(good.id)):
            assert view.worker
            assert view.run_s is not None
            assert view.started_at is not None
            assert view.ended_at is not None
            assert view.submitted_at <= view.started_at <= view.ended_at
            assert (view.held, view.about) == (False, False)


def test_own_exception_is_raised_with_the_remote_traceback(queue: Queue) -> None:
    # Given a task that raises
    with queue.working():
        handle = queue.client().submit(work.inverse, 0, max_retries=0)
        # When its result is asked for
        with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
            handle.result(DEADLINE_S)
    # Then it is its own exception, with the line where it was raised
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "return 1 / n" in "".join(traceback.format_exception(caught.value))
    assert handle.state is State.DEAD
    assert handle.exception() is caught.value


def test_handle_says_accepted_only_when_the_coordinator_has_it(near: Queue) -> None:
    # Given a coordinator that is away after the first contact
    client = near.client()
    client.stats()
    near.stop()
    # When something is submitted
    handle = client.submit(work.add, 1)
    # Then it is not accepted, and looks like it
    assert not handle.accepted(0.02)
    assert not handle.done()
    assert repr(handle) == "<TaskHandle tests.tasks.numbers_work:add submitted>"
    # When the coordinator is back; Then it is
    near.start()
    assert handle.accepted(DEADLINE_S)
    assert handle.id == "1"
    assert repr(handle) == "<TaskHandle 1 tests.tasks.numbers_work:add accepted>"
    assert handle.state is State.PENDING


def test_refusal_is_raised_by_everything_that_asks(near: Queue) -> None:
    # Given a queue that is full
    with Queue(rules=Rules(max_tasks=1)) as full, Client(connector=full, when_full="fail") as client:
        assert client.submit(work.add, 1).accepted(DEADLINE_S)
        # When one more is submitted
        handle = client.submit(work.add, 2)
        # Then every way to ask says why it was refused
        for ask in (handle.accepted, handle.result, lambda: handle.id, handle.cancel, handle.status):
            with pytest.raises(QueueFull, match="its limit is 1"):
                ask()
        assert isinstance(handle.exception(), QueueFull)
        assert repr(handle).endswith("refused>")


def test_refusal_that_nobody_can_ask_about_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    # Given a queue that is full
    with Queue(rules=Rules(max_tasks=1)) as full, Client(connector=full, when_full="fail") as client:
        assert client.submit(work.add, 1).accepted(DEADLINE_S)
        # When one more is submitted, and its handle thrown away
        with caplog.at_level(logging.WARNING, "dtq.client"):
            client.submit(work.add, 2)
            client.close()
    # Then the log says so
    assert "1 submission was refused that nobody has a handle of" in caplog.text


def test_result_in_time_or_not_at_all(queue: Queue) -> None:
    # Given a task that nobody runs
    handle = queue.client().submit(work.add, 1)
    # When its result is waited for
    with pytest.raises(WaitTimeout, match=r"task .* did not finish within 10 ms"):
        handle.result(0.01)
    # Then it goes on, and can be waited for again
    assert not handle.wait(0.01)
    with queue.working():
        assert handle.result(DEADLINE_S) == 1


def test_wrong_argument_is_raised_at_the_caller_and_nothing_is_submitted(queue: Queue) -> None:
    # Given arguments and options that cannot be
    client = queue.client()
    # When they are submitted; Then the caller gets the error
    with pytest.raises(CannotPickle, match=r"argument 1 \(lock\)"):
        client.submit(work.add, threading.Lock())
    with pytest.raises(InvalidValue, match="priority"):
        client.submit(work.add, 1, priority=11)
    with pytest.raises(InvalidValue, match="delay"):
        client.submit(work.add, 1, delay=-1)
    for at in (5.0, datetime(1, 1, 1)):
        with pytest.raises(InvalidValue, match="at cannot be"):
            client.submit(work.add, 1, at=at)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="not both"):
        client.submit(work.add, 1, at=datetime(2030, 1, 1), delay=5)
    with pytest.raises(InvalidValue, match="a key"):
        client.submit(work.add, 1, key="")
    assert client.stats().submitted == 0


def test_moment_is_kept_by_every_way_to_submit(queue: Queue) -> None:
    # Given a moment, in local time and in another zone
    client = queue.client()
    local, utc = datetime(2030, 1, 1, 8), datetime(2030, 1, 1, 8, tzinfo=UTC)
    # When calls, maps and presets are submitted with it
    handle = client.submit(work.add, 1, at=local)
    batch = client.submit_map(work.add, [1, 2], at=utc)
    preset = client.options(at=local, priority=1).submit(work.add, 1)
    preset.accepted(DEADLINE_S)
    # Then that is when they are due
    assert handle.status().due_at == local.timestamp()
    assert handle.status().reason.startswith("submitted for 20")
    assert client.tasks(batch)[0].due_at == utc.timestamp()
    assert preset.status().due_at == local.timestamp()
    # And what is past is due at once.
    assert client.submit(work.add, 1, at=datetime(2020, 1, 1)).status().state is State.PENDING


def test_schedules_are_defined_steered_and_run(queue: Queue) -> None:
    # Given a client, and schedules of functions that travel by name and by value
    schedules = queue.client().schedules
    at = datetime(2030, 1, 1, 8)
    assert schedules.add("a", {"every": timedelta(hours=1)}, work.add, 1, 2, options={"priority": 2}) == "added"
    assert schedules.add("a", {"every": 3600}, work.add, 1, 2, options={"priority": 2}) == "unchanged"
    with pytest.raises(ScheduleExists):
        schedules.add("a", {"every": 3600}, work.add, 1, 3)
    for timing, why in (
        ({"evry": 5}, "'evry' is no part"),
        ({"every": 5, "overlp": 1}, "'overlp'"),
        ("@daily", "a dict"),
    ):
        with pytest.raises(TypeError, match=why):
            schedules.add("b", timing, work.add, 1, 2)  # type: ignore[arg-type]
    assert schedules.add("a", {"every": 3600}, work.add, 1, 3, replace=True) == "changed"
    schedules.add(
        "b", {"at": at, "tz": "Europe/Prague", "jitter": 5, "until": at + timedelta(1)}, "work:later", deep=True
    )
    # When they are looked at, then each is as it was defined
    a, b = schedules.list()
    assert (a.schedule.rule, len(a.upcoming)) == (Rule(every_s=3600.0), 3)
    prague = at.replace(tzinfo=ZoneInfo("Europe/Prague"))
    assert b.upcoming == (prague.timestamp(),)
    assert b.schedule.rule.until == (prague + timedelta(1)).timestamp()
    # And they are steered.
    schedules.pause("a")
    assert schedules.get("a").paused
    handle = schedules.run("a")
    with queue.working():
        assert handle.result(DEADLINE_S) == 4
    assert handle.status().key == f"schedule/a/run/{handle.id}"
    schedules.resume("a")
    assert schedules.get("a").upcoming == a.upcoming
    schedules.remove("b")
    with pytest.raises(UnknownSchedule):
        schedules.get("b")
    assert queue.client().stats().schedules == 1


@pytest.mark.parametrize(
    "timing",
    [
        {},
        {"every": 5, "cron": "* * * * *"},
        {"every": -5},
        {"every": "often"},
        {"every": 5, "overlap": "sometimes"},
        {"every": 5, "tz": "Europe Prague"},
        {"every": 5, "until": 7},
        {"at": datetime(2030, 1, 1), "tz": "Europe/Nowhere"},
        {"cron": "x" * 300},
    ],
)
def test_schedule_that_cannot_be_is_refused_before_it_is_sent(queue: Queue, timing: Any) -> None:
    with pytest.raises(InvalidValue):
        queue.client().schedules.add("x", timing, work.add, 1)
    assert queue.client().schedules.list() == []


def test_schedule_takes_terms_of_calls_and_nothing_else(queue: Queue) -> None:
    with pytest.raises(TypeError, match="'delay' is no option"):
        queue.client().schedules.add("x", {"every": 5}, work.add, 1, options={"delay": 5})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(InvalidValue, match="65,536 bytes"):
        queue.client().schedules.add("x", {"every": 5}, work.add, bytes(70_000))
    with pytest.raises(InvalidValue, match="which are kept for a time only"):
        queue.client().schedules.add("x", {"every": 5}, work.add, queue.client().put(b"x" * 100_000))


def test_task_over_the_limit_is_refused_at_the_caller() -> None:
    # Given a coordinator that takes small values
    with Queue(max_value=100_000) as small:
        client = small.client()
        # When a task is larger; Then the caller learns so, and the client goes on
        with pytest.raises(TooLarge, match="more than the limit of"):
            client.submit(work.nothing, b"x" * 100_000)
        with pytest.raises(TooLarge):
            list(client.map(work.nothing, [b"x", b"x" * 100_000]))
        with small.working():
            assert client.submit(work.nothing, b"x" * 90_000).result(DEADLINE_S) is None
            assert list(client.map(work.nothing, [b"x" * 60_000] * 9)) == [None] * 9


def test_options_leave_all_keywords_to_the_function(queue: Queue) -> None:
    # Given a function whose keywords are those of submit
    client = queue.client()
    with queue.working():
        # When options are set beforehand
        preset = client.options(priority=2, timeout=30)
        handle = preset.submit(work.with_own_names, timeout=5, priority="low")
        # Then the function gets its own
        assert handle.result(DEADLINE_S) == "5 low"
        options = handle.status().spec.options
        assert (options.priority, options.timeout_s) == (2, 30.0)
        assert list(preset.options(priority=1).map(work.square, [2])) == [4]


def test_each_submission_says_how_long_its_results_are_kept(queue: Queue) -> None:
    # Given a client; When something is submitted in each of its ways
    client = queue.client()
    with queue.working():
        handles = [
            client.submit(work.square, 2, keep_results=60),
            client.options(keep_results=timedelta(minutes=1)).submit(work.square, 2),
            client.submit(work.kept_briefly, 2),
            client.submit(work.kept_briefly, 2, keep_results=None),
        ]
        mapped = client.submit_map(work.square, [1, 2], keep_results=60)
        assert list(client.map(work.square, [3], keep_results=60)) == [9]
        assert [handle.result(DEADLINE_S) for handle in handles] == [4] * 4
        # Then the coordinator knows: as long as others where nothing is said
        kept = [handle.status().spec.options.keep_results_s for handle in handles]
        assert kept == [60.0, 60.0, 60.0, None]
        assert mapped.status().spec.options.keep_results_s == 60.0


@pytest.mark.parametrize("wrong", [-1, float("nan"), 1e12, "1h", True])
def test_time_to_keep_results_that_is_none_is_refused_at_the_caller(near: Queue, wrong: Any) -> None:
    client = near.client()
    with pytest.raises(InvalidValue, match="keep_results"):
        client.submit(work.square, 2, keep_results=wrong)
    with pytest.raises(InvalidValue, match="keep_results"):
        client.map(work.square, [2], keep_results=wrong)


def test_terms_of_the_function_hold(queue: Queue) -> None:
    # Given a decorated function; When it is submitted with and without options; Then its own hold below the call's
    client = queue.client()
    assert client.submit(work.urgent, 1).status().spec.options.priority == 1
    assert client.submit(work.urgent, 1, priority=8).status().spec.options.priority == 8


def test_cancelled_task_never_runs(queue: Queue) -> None:
    # Given a task that waits
    client = queue.client()
    handle = client.submit(work.add, 1)
    # When it is cancelled
    assert handle.cancel()
    # Then that is its end
    with pytest.raises(TaskCancelled, match="was cancelled"):
        handle.result(DEADLINE_S)
    assert handle.state is State.CANCELLED
    assert not handle.cancel()


# -- keys ---------------------------------------------------------------------------------------------------------


def test_key_names_one_task_whoever_submits_it_and_when(queue: Queue) -> None:
    # Given a task with a key
    first, second = queue.client(), queue.client()
    handle = first.submit(work.add, 1, key="k")
    assert handle.accepted(DEADLINE_S)
    # When others submit the same before and after it has run
    again = first.submit(work.add, 1, key="k")
    elsewhere = second.submit(work.add, 1, key="k")
    with queue.working():
        assert handle.result(DEADLINE_S) == 1
    late = second.submit(work.add, 1, key="k")
    # Then there is one task, and all have its result
    assert {h.id for h in (handle, again, elsewhere, late)} == {"1"}
    assert [h.result(DEADLINE_S) for h in (again, elsewhere, late)] == [1, 1, 1]
    assert first.stats().submitted == 1


def test_key_of_another_function_is_a_conflict(queue: Queue) -> None:
    # Given a key that is taken; When another function comes with it; Then it is refused
    client = queue.client()
    client.submit(work.add, 1, key="k")
    with pytest.raises(KeyConflict, match="already belongs to batch 1"):
        client.submit(work.square, 1, key="k").result(DEADLINE_S)


def test_key_of_other_arguments_is_a_conflict_also_when_its_task_has_ended(queue: Queue) -> None:
    # Given a key that is taken; When other arguments come with it, in the same call and later; Then they are refused
    client = queue.client()
    handle = client.submit(work.add, 1, key="k")
    with pytest.raises(KeyConflict, match="already belongs to batch 1"):
        client.submit(work.add, 2, key="k").result(DEADLINE_S)
    with queue.working():
        assert handle.result(DEADLINE_S) == 1
    with pytest.raises(KeyConflict, match="already belongs to batch 1"):
        queue.client().submit(work.add, 2, key="k").result(DEADLINE_S)
    # and the same ones are not
    assert queue.client().submit(work.add, 1, key="k").result(DEADLINE_S) == 1


# -- maps ---------------------------------------------------------------------------------------------------------


def test_map_gives_results_in_order_as_one_batch(queue: Queue) -> None:
    # Given a worker
    client = queue.client()
    with queue.working():
        # When functions are mapped over few and many items, and several iterables
        assert list(client.map(work.square, range(10))) == [n * n for n in range(10)]
        assert list(client.map(work.square, iter(range(5000)))) == [n * n for n in range(5000)]
        assert list(client.map(work.add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    # Then the results are in order, and each map was one batch
    assert client.batch_status("2").size == 5000
    assert client.stats().submitted == 5013


def test_map_over_nothing_is_nothing(queue: Queue) -> None:
    # Given no items; When they are mapped; Then there is no batch
    client = queue.client()
    assert list(client.map(work.square, [])) == []
    assert list(client.map(work.square, iter(()))) == []
    empty = client.submit_map(work.square, [])
    assert empty.wait(DEADLINE_S)
    assert list(empty.results()) == []
    with pytest.raises(InvalidValue, match="has no id"):
        _ = empty.id
    with pytest.raises(TypeError, match="at least one iterable"):
        client.map(work.square)


def test_batch_of_nothing_has_ended_for_what_waits_for_it(queue: Queue) -> None:
    client = queue.client()
    empty = client.submit_map(work.square, iter(()))
    with queue.working():
        assert client.submit(work.square, 3, after=empty).result(DEADLINE_S) == 9
        assert client.submit_map(work.square, [3], after=[empty]).wait(DEADLINE_S)
        assert client.submit(len, empty).result(DEADLINE_S) == 0
        assert client.submit(sorted, empty, key="a key").result(DEADLINE_S) == []


def test_map_over_the_handle_of_a_batch_is_given_its_results_one_by_one(queue: Queue) -> None:
    client = queue.client()
    batch = client.submit_map(work.square, [1, 2, 3])
    again = client.submit_map(work.square, batch)
    with queue.working():
        assert list(client.map(work.add, batch, again)) == [2, 20, 90]
        assert list(client.map(work.add, [1, client.submit(work.square, 5)], batch)) == [2, 29]
    with Queue() as elsewhere, pytest.raises((InvalidValue, StoreReplaced)):
        elsewhere.client().submit_map(work.square, batch)


def test_nothing_waits_for_a_task_that_another_coordinator_has(queue: Queue) -> None:
    client = queue.client()
    client.submit(work.square, 1).accepted(DEADLINE_S)  # which has the same number here
    with Queue() as elsewhere:
        others = elsewhere.client()
        for foreign in (others.submit(work.square, 2), others.submit_map(work.square, [2])):
            with pytest.raises((InvalidValue, StoreReplaced)):
                client.submit(work.square, 3, after=[foreign])
            with pytest.raises((InvalidValue, StoreReplaced)):
                client.submit_map(work.square, [3], after=foreign)
            with pytest.raises((InvalidValue, StoreReplaced)):
                client.submit(work.square, foreign)
    assert client.stats().submitted == 1


def test_unordered_map_gives_every_result_once(queue: Queue) -> None:
    # Given a worker; When results are taken as they end; Then all come, once
    with queue.working():
        results = list(queue.client().map(work.square, iter(range(3000)), ordered=False))
    assert sorted(results) == [n * n for n in range(3000)]


def test_map_pulls_no_further_than_it_may(queue: Queue) -> None:
    # Given an endless iterable
    pulled: list[int] = []

    def endless() -> Iterator[int]:
        for n in itertools.count():
            pulled.append(n)
            yield n

    client = queue.client()
    with queue.working():
        # When some of its results are taken
        results = client.map(work.square, endless(), read_ahead=500)
        taken = list(itertools.islice(results, 2000))
        # Then it was pulled little further, and ends when the reader does
        assert taken == [n * n for n in range(2000)]
        assert len(pulled) <= 2000 + 500 + 200
        results.close()


def test_map_gives_results_while_its_items_are_still_being_made(queue: Queue) -> None:
    # Given an iterable that makes its next item only from the last result
    answers: list[int] = [2]
    ready = threading.Semaphore(1)

    def feedback() -> Iterator[int]:
        for _ in range(4):
            assert ready.acquire(timeout=DEADLINE_S)
            yield answers[-1]

    with queue.working():
        # When it is mapped
        for result in queue.client().map(work.square, feedback()):
            answers.append(result)
            ready.release()
    # Then every result came before the next item
    assert answers == [2, 4, 16, 256, 65536]


def test_map_raises_where_the_failure_is_and_cancels_the_rest(queue: Queue) -> None:
    # Given a map in which the third fails
    client = queue.client()
    worker = queue.worker()
    got: list[float] = []
    results = client.map(work.inverse, [1, 2, 0, 4], max_retries=0)
    while worker.work() == 0 or len(worker.held):
        pass
    # When it is read
    with pytest.raises(ZeroDivisionError):
        for result in results:
            got.append(result)
            worker.work(0.05)
    # Then the results before it came
    assert got == [1.0, 0.5]


def test_map_gives_exceptions_in_their_place_where_asked_to(queue: Queue) -> None:
    # Given a map in which one fails
    with queue.working():
        # When exceptions are to be results
        results = list(queue.client().map(work.inverse, [1, 0, 4], max_retries=0, return_exceptions=True))
    # Then they are, in their place
    assert (results[0], results[2]) == (1.0, 0.25)
    assert isinstance(results[1], ZeroDivisionError)  # type: ignore[unreachable]


def test_iterable_that_raises_ends_the_map_after_its_results(queue: Queue) -> None:
    # Given an iterable that breaks
    def breaking() -> Iterator[int]:
        yield from range(1500)
        raise OSError("the tape tore")

    got: list[int] = []
    with queue.working(), pytest.raises(OSError, match="the tape tore"):
        # When it is mapped
        for result in queue.client().map(work.square, breaking()):
            got.append(result)
    # Then what it gave was done before the error came
    assert got == [n * n for n in range(1500)]


def test_map_that_nobody_reads_any_more_is_cancelled(queue: Queue) -> None:
    # Given a map that is not read to its end
    client = queue.client()
    results = client.map(work.square, iter(range(100_000)), read_ahead=5000)
    worker = queue.worker()
    worker.work()
    assert next(results) == 0
    # When its reader goes away
    del results
    gc.collect()
    # Then what is left of it is cancelled, and the batch ends
    client.close()
    stats = queue.client().stats()
    assert stats.counts.cancelled == stats.submitted - stats.counts.succeeded - stats.counts.running > 0
    assert queue.coordinator is not None
    assert not queue.coordinator.machine.queue_state.open


def test_results_beyond_the_bound_are_fetched(near: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given room for a few results at the client, and many large ones that arrive before they are read
    monkeypatch.setattr(batches, "UNREAD_BYTES", 50_000)
    client = near.client()
    for ordered in (True, False):
        results = client.map(work.large, [10_000] * 100, ordered=ordered)
        with near.working():
            number = 1 if ordered else 2
            until(lambda n=number: client.stats().counts.succeeded == 100 * n or None, "all to succeed")  # type: ignore[misc]
            client.get_batch(number).wait(DEADLINE_S)
            # When they are read
            assert [len(result) for result in results] == [10_000] * 100
    # Then most were asked for again
    assert near.count("results") > 2


def test_submitted_map_waits_for_nobody_and_can_be_read_twice(queue: Queue) -> None:
    # Given no worker yet
    client = queue.client()
    # When a map is submitted
    batch = client.submit_map(work.square, range(3000), priority=3)
    # Then its handle is there, with id and size
    assert batch.id == "1"
    assert not batch.wait(0.01)
    with queue.working():
        assert batch.wait(DEADLINE_S)
        # And its results can be read in order, as often as one likes
        assert list(batch.results()) == [n * n for n in range(3000)]
        assert list(batch.results()) == [n * n for n in range(3000)]
        assert batch.task(2999).result(DEADLINE_S) == 2999 * 2999
        assert batch.status().counts.succeeded == 3000
        assert repr(batch) == "<BatchHandle 1 tests.tasks.numbers_work:square: 3,000 tasks, 3,000 ended>"
        with pytest.raises(InvalidValue, match="the batch has 3,000 tasks"):
            batch.task(3000)


def test_submitted_map_whose_items_fail_is_cancelled(queue: Queue) -> None:
    # Given items of which a late one cannot be pickled
    client = queue.client()
    items: list[Any] = [*range(5000), threading.Lock()]
    # When they are submitted; Then the caller gets the error, and what was sent is cancelled
    with pytest.raises(CannotPickle):
        client.submit_map(work.square, items)
    client.close()
    counts = queue.client().stats().counts
    assert counts.unfinished == 0


def test_batch_of_a_key_is_submitted_once(queue: Queue) -> None:
    # Given a map with a key; When it is submitted again; Then it is the same batch
    client = queue.client()
    first = client.submit_map(work.square, range(3000), key="k")
    assert first.accepted(DEADLINE_S)
    assert client.submit_map(work.square, range(3000), key="k").id == first.id
    client.close()
    assert queue.client().stats().submitted == 3000


def test_cancelled_batch_ends(queue: Queue) -> None:
    # Given a batch that waits
    batch = queue.client().submit_map(work.square, range(3000))
    # When it is cancelled; Then all of it ends, and each task says so
    batch.accepted(DEADLINE_S)
    assert batch.cancel().cancelled > 0
    assert batch.wait(DEADLINE_S)
    with pytest.raises(TaskCancelled, match=r"task 1\.0 was cancelled"):
        next(iter(batch.results()))


# -- several handles ----------------------------------------------------------------------------------------------


def test_as_completed_gives_each_handle_once_when_it_ends(queue: Queue) -> None:
    # Given handles, one of which has ended
    client = queue.client()
    worker = queue.worker()
    first = client.submit(work.add, 0)
    assert worker.work()
    assert first.result(DEADLINE_S) == 0
    handles = [first, *(client.submit(work.add, n) for n in range(1, 50))]
    batch = client.submit_map(work.square, range(10))
    with queue.working():
        # When they are taken as they end, named twice
        everything: list[TaskHandle[int] | BatchHandle[int]] = [*handles, *handles, batch]
        ended = list(client.as_completed(everything, DEADLINE_S))
    # Then each comes once, the ended one first
    assert ended[0] is first
    assert len(ended) == 51
    assert set(ended) == {*handles, batch}


def test_as_completed_says_how_many_are_missing(queue: Queue) -> None:
    # Given a handle that does not end; When the time is up; Then the error says how many
    client = queue.client()
    handles = [client.submit(work.add, n) for n in range(3)]
    with pytest.raises(WaitTimeout, match="3 of 3 handles"):
        list(client.as_completed(handles, 0.01))
    assert all(handle._waiters is None for handle in handles)


def test_wait_for_all_the_first_or_the_first_failure(queue: Queue) -> None:
    # Given three tasks of which the second fails, run one after the other
    client = queue.client()
    handles = [client.submit(work.inverse, n, max_retries=0, priority=n + 1) for n in (1, 0, 2)]
    assert client.wait(handles, 0.01) == (set(), set(handles))
    worker = queue.worker()
    failing, one, two = handles[1], handles[0], handles[2]
    # When they end one by one; Then each way of waiting ends at its moment
    assert worker.work() == 1
    assert client.wait(handles, DEADLINE_S, "FIRST_COMPLETED") == ({failing}, {one, two})
    assert client.wait([one, failing], DEADLINE_S, "FIRST_EXCEPTION").done == {failing}
    with queue.working():
        assert client.wait(handles, DEADLINE_S).done == set(handles)
    with pytest.raises(InvalidValue, match="return_when"):
        client.wait(handles, 0, "SOMETIMES")  # type: ignore[arg-type]


def test_many_threads_wait_for_their_own(queue: Queue) -> None:
    # Given threads that submit and wait
    client = queue.client()
    results: dict[int, list[int]] = {}

    def use(thread: int) -> None:
        results[thread] = [client.submit(work.add, thread, n).result(DEADLINE_S) for n in range(20)]

    threads = [threading.Thread(target=use, args=(100 * n,)) for n in range(8)]
    with queue.working():
        # When they run at once
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    # Then each has its own results
    assert results == {100 * t: [100 * t + n for n in range(20)] for t in range(8)}


# -- by id, and operating -----------------------------------------------------------------------------------------


def test_task_is_found_by_its_id_from_elsewhere(queue: Queue) -> None:
    # Given a lone task, and tasks of a batch
    client, other = queue.client(), queue.client()
    lone = client.submit(work.add, 5)
    assert lone.id == "1"
    batch = client.submit_map(work.square, range(10))
    assert batch.id == "2"
    # When another client asks for them before and after they end
    early = [other.get("1"), other.get("2.3"), other.get(lone)]
    with queue.working():
        assert [handle.result(DEADLINE_S) for handle in early] == [5, 9, 5]
    # Then they are found, and keep their names
    assert other.get(1).result(DEADLINE_S) == 5
    assert other.get("2.4").result(DEADLINE_S) == 16
    assert list(other.get_batch("2").results()) == [n * n for n in range(10)]
    assert [handle.id for handle in early] == ["1", "2.3", "1"]


@pytest.mark.parametrize(
    ("id", "error", "sentence"),
    [
        ("abc", InvalidId, "'abc' is not a task id"),
        ("2", InvalidId, "a batch of 10 tasks"),
        ("99", UnknownId, "no task 99 is known"),
        ("2.10", UnknownId, r"no task 2\.10 is known"),
    ],
)
def test_wrong_id_is_refused_with_a_sentence(queue: Queue, id: str, error: type[Exception], sentence: str) -> None:
    # Given a queue with a task and a batch
    client = queue.client()
    assert client.submit(work.add, 5).id == "1"
    assert client.submit_map(work.square, range(10)).id == "2"
    # When something else is asked for; Then the sentence says what is wrong
    with pytest.raises(error, match=sentence):
        client.get(id)
    with pytest.raises(error, match=sentence):
        client.status(id)


def test_dead_letters_are_listed_put_back_and_purged(queue: Queue) -> None:
    # Given three dead letters
    client = queue.client()
    with queue.working():
        handles = [client.submit(work.inverse, 0, max_retries=0, key=str(n)) for n in range(3)]
        client.wait(handles, DEADLINE_S)
    assert {str(letter.id) for letter in client.dead_letters(function="tests.tasks.numbers_work:*")} == {"1", "2", "3"}
    assert client.dead_letters(function="elsewhere:*") == []
    # When nothing is selected; Then nothing is touched
    with pytest.raises(InvalidValue, match="give ids"):
        client.retry_dead()
    with pytest.raises(InvalidValue, match="give ids"):
        client.purge_dead()
    with pytest.raises(InvalidValue, match="give ids"):
        client.cancel()
    with pytest.raises(UnknownId):
        client.retry_dead("99")
    # When one is put back, and the others purged; Then that is what happens
    assert client.retry_dead(handles[0]) == 1
    assert client.status("1").state is State.PENDING
    assert client.purge_dead(exception="ZeroDivisionError") == 2
    assert client.dead_letters() == []
    assert [view.state for view in client.tasks(state="pending")] == [State.PENDING]
    assert client.cancel(function="tests.tasks.numbers_work:*").cancelled == 1
    with pytest.raises(InvalidValue, match="a state cannot be 'asleep'"):
        client.tasks(state="asleep")


def test_batches_are_listed_with_their_progress(queue: Queue) -> None:
    # Given a batch that has ended, and one that waits
    client = queue.client()
    ended = client.submit_map(work.square, range(3), label="nightly")
    with queue.working():
        assert list(ended.results()) == [0, 1, 4]
    waiting = client.submit_map(work.square, range(5))
    waiting.accepted(10)
    # Then both are there, the newest first, or those that are asked for
    newest, before = client.batches()
    assert (str(newest.batch), newest.ended, newest.size) == (waiting.id, 0, 5)
    assert (str(before.batch), before.ended, before.finished) == (ended.id, 3, True)
    assert client.batches(limit=1) == [newest]
    assert client.batches(before=waiting) == client.batches(label="nightly") == client.batches(state="succeeded")
    assert [view.batch for view in client.batches(function="*:square", older_than=60.0)] == []
    with pytest.raises(InvalidValue, match="a state cannot be 'asleep'"):
        client.batches(state="asleep")
    with pytest.raises(TypeError, match="unexpected keyword argument 'exception'; the filters are state, queue"):
        client.batches(exception="OSError")  # type: ignore[call-arg]  # that is a property of tasks


# -- a coordinator that comes and goes ----------------------------------------------------------------------------


def test_first_connection_fails_at_once() -> None:
    # Given nobody who listens
    with Queue() as gone:
        gone.stop()
        client = gone.client(timeout=DEADLINE_S)
        began = time.monotonic()
        # When the client is used; Then each way says so, and does not wait
        with pytest.raises(Unreachable):
            client.submit(work.add, 1)
        with pytest.raises(Unreachable):
            client.stats()
        with pytest.raises(Unreachable), client:
            pass
        assert time.monotonic() - began < DEADLINE_S / 2


def test_waiting_clients_survive_a_restart(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    # Given handles of all kinds, some of them ended, some waited for
    client = queue.client()
    with caplog.at_level(logging.INFO, "dtq.client"):
        done = client.submit(work.add, 1)
        worker = queue.worker()
        assert worker.work() == 1
        assert done.result(DEADLINE_S) == 1
        lone = client.submit(work.add, 2)
        assert lone.accepted(DEADLINE_S)
        many = [client.submit(work.add, n) for n in range(100)]
        batch = client.submit_map(work.square, range(2000))
        mapped = client.map(work.square, iter(range(2000)))
        waited: list[int] = []
        waiting = threading.Thread(target=lambda: waited.append(lone.result(DEADLINE_S)))
        waiting.start()
        # When the coordinator goes and comes back, twice
        for _ in range(2):
            queue.stop()
            queue.start()
        with queue.working():
            # Then everything ends as if nothing had happened
            assert [handle.result(DEADLINE_S) for handle in many] == list(range(100))
            assert list(mapped) == [n * n for n in range(2000)]
            assert list(batch.results()) == [n * n for n in range(2000)]
            waiting.join(DEADLINE_S)
        assert waited == [2]
        assert client.stats().submitted == 1 + 1 + 100 + 2000 + 2000
    # And the log says it at most once each time
    assert caplog.text.count("lost the coordinator at") <= 2


def test_submission_whose_answer_was_lost_is_not_a_second_one(near: Queue) -> None:
    # Given an answer that gets lost
    client = near.client()
    client.stats()
    near.lose_answer("submit")
    # When a task is submitted, and has ended before the call is repeated
    handle = client.submit(work.add, 4)
    with near.working():
        # Then there is one, with its result
        assert handle.result(DEADLINE_S) == 4
    assert client.stats().submitted == 1
    assert near.count("submit") == 2


def test_submission_whose_answer_was_lost_with_the_coordinator_is_not_a_second_one(near: Queue) -> None:
    # Given a submission that was accepted, finished, and whose answer got lost with the coordinator
    client = near.client()
    assert client.submit(work.add, 0).accepted(DEADLINE_S)
    near.lose_answer("submit", then=Unreachable("x", "the network is down"))
    handle = client.submit(work.add, 4)
    until(lambda: near.refusal, "the answer to be lost")
    worker = near.worker()
    assert worker.work() + worker.work() == 2
    near.stop()
    near.start()
    # When the client gets through again
    near.refusal = None
    # Then the task is the same, and its end is told although it was before
    assert handle.result(DEADLINE_S) == 4
    assert client.stats().submitted == 2


def test_last_piece_of_a_map_whose_answer_was_lost_and_that_has_ended_counts(near: Queue) -> None:
    # Given a map whose last piece was accepted, its answer lost, and all of it done before the repeat
    client = near.client()
    assert client.submit(work.add, 0).accepted(DEADLINE_S)
    near.stop()
    batch = client.submit_map(work.square, range(1500))
    near.lose_answer("submit", skip=1, then=Unreachable("x", "the network is down"))
    near.start()
    with near.working():
        other = near.worker("other").service
        until(lambda: near.refusal and other.stats().counts.succeeded == 1501, "the map to end", other.stats)
        near.stop()
        near.start()
        # When the client gets through again, to a coordinator that only knows the store
        near.refusal = None
        # Then its handle has all of it
        assert list(batch.results()) == [n * n for n in range(1500)]
    assert (batch.size, client.stats().submitted) == (1500, 1501)


def test_outage_is_logged_once_however_many_lines_notice(near: Queue, caplog: pytest.LogCaptureFixture) -> None:
    # Given a client that waits on one line and submits on another
    client = near.client()
    with caplog.at_level(logging.INFO, "dtq.client"):
        assert client.submit(work.add, 0).accepted(DEADLINE_S)
        near.stop()
        # When the coordinator is away for both, for several attempts
        handle = client.submit(work.add, 1)
        assert not handle.accepted(0.3)
        near.start()
        assert handle.accepted(DEADLINE_S)
    # Then the log says once that it was lost, and once that it is back
    assert caplog.text.count("lost the coordinator at the queue of this test, trying again") == 1
    assert caplog.text.count("the coordinator at the queue of this test is back after") == 1


def test_lost_news_are_told_again(near: Queue) -> None:
    # Given news that get lost on their way
    client = near.client()
    near.lose_answer("watch")
    with near.working():
        # When tasks end; Then their handles learn it all the same
        assert [client.submit(work.add, n).result(DEADLINE_S) for n in range(20)] == list(range(20))


def test_handles_of_a_store_that_was_replaced_know_nothing_of_the_one_in_its_place(near: Queue) -> None:
    # Given a task that is waited for, and one that has ended
    client = near.client()
    with near.working():
        ended = client.submit(work.add, 3)
        assert ended.result(DEADLINE_S) == 3
    waiting = client.submit(work.add, 4)
    assert waiting.id == "2"
    # When the coordinator comes back with another store, and somebody else's tasks have their numbers there
    near.stop()
    near.forget_everything()
    near.start()
    other = near.client()
    theirs = []
    for number, argument in enumerate((50, 60), 1):
        theirs.append(other.submit(work.add, argument))
        assert theirs[-1].id == str(number)
    # Then whoever waits learns that it is not known any more, and nothing of the others
    with pytest.raises(StoreReplaced, match="has another store now"):
        waiting.result(DEADLINE_S)
    for ask in (waiting.status, waiting.cancel, ended.status, ended.cancel):
        with pytest.raises(StoreReplaced):
            ask()
    assert ended.result() == 3
    with near.working():
        assert [handle.result(DEADLINE_S) for handle in theirs] == [50, 60]
        # And the client goes on with the store that is there
        assert client.submit(work.add, 5).result(DEADLINE_S) == 5
        assert list(client.options(priority=1).map(work.square, range(3))) == [0, 1, 4]
        assert client.get("1").result(DEADLINE_S) == 50


def test_client_that_only_submits_something_new_goes_on_with_another_store(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a client all of whose tasks have ended; here a store is replaced sooner than the client looks again
    monkeypatch.setattr(client_core, "_LOOK_S", 0.0)
    client = queue.client()
    with queue.working():
        ended = client.submit(work.add, 3)
        assert ended.result(DEADLINE_S) == 3
    # When another store takes the place of the one that it has used; Then it hears nothing of that
    new = (
        lambda: client.submit(work.add, 5).result(DEADLINE_S) == 5,
        lambda: list(client.map(work.square, range(3))) == [0, 1, 4],
        lambda: list(client.submit_map(work.square, range(3)).results()) == [0, 1, 4],
        lambda: client.submit(work.add, client.put(7)).result(DEADLINE_S) == 7,
        lambda: client.options(priority=1).submit(work.add, b"x" * 100_000, b"y").result(DEADLINE_S)[-2:] == b"xy",
    )
    for act in new:
        until(lambda: client._core.outbox.idle, "the sender to wait")
        queue.stop()
        queue.forget_everything()
        queue.start()
        with queue.working():
            assert act()
    # And what it had submitted to the first is not taken for anything of the last
    with pytest.raises(StoreReplaced):
        client.submit(work.add, ended)
    with pytest.raises(StoreReplaced):
        ended.status()


def test_batch_of_a_store_that_was_replaced_is_not_read_from_the_one_in_its_place(near: Queue) -> None:
    # Given a batch whose results nobody has read, and a map that is being read
    client = near.client()
    with near.working():
        batch = client.submit_map(work.square, range(3000))
        assert batch.wait(DEADLINE_S)
    reading = client.map(work.add, range(3000))
    # When another store, with batches of others, takes its place
    near.stop()
    near.forget_everything()
    near.start()
    other = near.client()
    with near.working():
        theirs = [other.submit_map(work.add, range(7000, 10_000)) for _ in range(2)]
        # Then neither gives what others have there
        with pytest.raises(StoreReplaced):
            list(batch.results())
        with pytest.raises(StoreReplaced):
            list(reading)
        assert [next(iter(one.results())) for one in theirs] == [7000, 7000]


def test_wrong_key_reaches_everybody_who_waits(near: Queue) -> None:
    # Given threads that wait for a result, an id, a map and room
    client = near.client()
    accepted = client.submit(work.add, 1)
    assert accepted.accepted(DEADLINE_S)
    mapped = client.map(work.square, iter(range(10)))
    errors: list[BaseException] = []

    def catch(ask: Any) -> threading.Thread:
        def run() -> None:
            try:
                ask()
            except WrongKey as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [catch(accepted.result), catch(lambda: list(mapped))]
    # When the coordinator comes back with another key
    near.refusal = WrongKey("x", "y")
    near.stop()
    near.start()
    threads.append(catch(lambda: client.submit(work.add, 2).result()))
    # Then all of them get the error
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(errors) == 3


def test_calls_wait_for_a_coordinator_that_is_away_and_then_give_up(near: Queue) -> None:
    # Given a client that was connected
    client = near.client(timeout=0.1)
    client.stats()
    near.stop()
    # When the coordinator stays away; Then the call gives up after the time set
    with pytest.raises(Unreachable):
        client.stats()
    # When it comes back while a call is repeated; Then the call is answered
    patient = near.client()
    patient._core.session.generation = 1
    threading.Timer(0.1, near.start).start()
    assert patient.stats().submitted == 0


def test_verbs_that_must_not_be_repeated_are_not(near: Queue) -> None:
    # Given a dead letter, and an answer that gets lost
    client = near.client()
    with near.working():
        client.wait([client.submit(work.inverse, 0, max_retries=0)], DEADLINE_S)
    near.lose_answer("retry_dead")
    # When it is put back; Then the caller learns that it is not known what happened
    with pytest.raises(Unreachable):
        client.retry_dead("1")
    assert near.count("retry_dead") == 1


# -- the end ------------------------------------------------------------------------------------------------------


def test_close_sends_what_was_submitted(queue: Queue) -> None:
    # Given many submissions, none of which was waited for
    with queue.client() as client:
        handles = [client.submit(work.add, n) for n in range(5000)]
        client.submit_map(work.square, range(5000))
    # When the client has ended; Then all are accepted
    assert all(handle.accepted(0) for handle in handles)
    assert queue.client().stats().submitted == 10_000


def test_closed_client_says_so(queue: Queue) -> None:
    # Given a client with a task that has ended, and one that has not
    client = queue.client()
    with queue.working():
        ended = client.submit(work.add, 1)
        assert ended.result(DEADLINE_S) == 1
    waiting = client.submit(work.add, 2)
    results = client.map(work.square, iter(range(10)))
    client.close()
    client.close()
    # When it is used; Then everything says that it is closed, but what is known
    for ask in (
        lambda: client.submit(work.add, 1),
        lambda: client.map(work.add, [1]),
        lambda: client.submit_map(work.add, [1]),
        client.stats,
        waiting.result,
        waiting.status,
        lambda: list(results),
    ):
        with pytest.raises(ClientClosed, match="this client is closed"):
            ask()
    assert ended.result() == 1
    assert waiting.id == "2"


def test_close_while_the_coordinator_is_away_says_what_was_lost(near: Queue) -> None:
    # Given a submission that cannot be delivered
    client = near.client()
    client.stats()
    near.stop()
    handle = client.submit(work.add, 1)
    # When the client is closed, and the time runs out; Then closing says so, and so does the handle
    with pytest.raises(Unreachable, match="was not accepted"):
        client.close(0.05)
    with pytest.raises((Unreachable, ClientClosed)):
        handle.result(DEADLINE_S)


def test_exception_in_the_block_is_not_hidden_by_closing(
    near: Queue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a block that raises while the coordinator is away
    client = near.client()
    monkeypatch.setattr(client, "close", lambda: client._core.close(0.05))
    with pytest.raises(KeyError), client:
        near.stop()
        client.submit(work.add, 1)
        # When it ends; Then the exception is the block's, and the log has what was lost
        raise KeyError
    assert "was not accepted" in caplog.text


def test_handles_that_are_thrown_away_leave_nothing_behind(queue: Queue) -> None:
    # Given tasks whose handles nobody kept
    client = queue.client()
    for n in range(2000):
        client.submit(work.add, n)
    last = client.submit(work.add, 1, delay=0.001)
    with queue.working():
        assert last.result(DEADLINE_S) == 1
        assert client.wait([client.submit(work.add, 1)], DEADLINE_S).not_done == set()
        last_batch = client.submit_map(work.square, [1])
        assert last_batch.wait(DEADLINE_S)
    # When they have ended; Then the client has forgotten them
    assert client._core.following.unfinished() == []


def test_batch_handle_is_what_submit_map_gives(queue: Queue) -> None:
    assert isinstance(queue.client().submit_map(work.square, [1]), BatchHandle)
