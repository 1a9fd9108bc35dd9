"""The in-process queue of the testing kit: what is due runs when the test says so, and what was submitted is known."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest

from dtq import AsyncClient, Client, NotInTask, State, TaskCancelled, Unreachable, current_task, task
from dtq.engines.memory import MemoryEngine
from dtq.errors import CannotImport, CannotPickle, KeyConflict, NotImportable, ReturnedFalse, StoreFull
from dtq.model.values import named
from dtq.testing import FailingEngine, InProcessQueue
from tests.looping import looped
from tests.tasks import async_work, numbers_work, work

#: What the tasks of a test did, in their order.
done: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


@pytest.fixture
def queue() -> Iterator[InProcessQueue]:
    with InProcessQueue() as made:
        yield made


def note(value: object) -> object:
    done.append(value)
    return value


@task(priority=2, max_retries=2)
def flaky(attempts: int) -> int:
    """Fails so many times."""
    attempt = current_task().attempt
    done.append(attempt)
    if attempt <= attempts:
        raise OSError(f"attempt {attempt}")
    return attempt


@task(name="kit.mail")
def mail(payload: dict[str, Any]) -> bool:
    done.append(payload)
    return "@" in payload["to"]


async def slowly(value: int) -> int:
    await asyncio.sleep(0)
    return value


def order(number: int, size: int = 1, *, colour: str = "red") -> str:
    return f"{number} {size} {colour}"


# -- running ------------------------------------------------------------------------------------------------------


def test_nothing_runs_until_it_is_told_to(queue: InProcessQueue) -> None:
    # Given code that submits with a client like any other
    handles = [queue.client.submit(note, n) for n in range(3)]
    assert len(queue.submitted()) == 3
    assert queue.client.stats().counts.pending == 3
    assert done == []
    # When what is due is run
    ran = queue.run_due()
    # Then it ran here, in its order, and every handle knows
    assert done == [0, 1, 2]
    assert [handle.done() for handle in handles] == [True] * 3
    assert [handle.result() for handle in handles] == [0, 1, 2]
    assert [(one.function, one.args, one.attempt, one.value, one.succeeded) for one in ran] == [
        (f"{__name__}:note", (n,), 1, n, True) for n in range(3)
    ]
    assert [one.id for one in ran] == [handle.id for handle in handles]
    # And nothing is left to run
    assert queue.run_due() == []


def test_priorities_are_strict_from_one_task_to_the_next(queue: InProcessQueue) -> None:
    # Given tasks of one function, so tiny that a worker would be given many at once
    queue.client.submit_map(note, range(50), priority=7)
    queue.run_due(at_most=10)
    # When a more urgent one comes
    queue.client.submit(note, "now", priority=1)
    # Then it is next
    assert [one.value for one in queue.run_due(at_most=2)] == ["now", 10]


def test_higher_numbers_first_where_it_is_made_so() -> None:
    with InProcessQueue(highest_first=True) as queue:
        for priority in (1, 10, 5):
            queue.client.submit(note, priority, priority=priority)
        queue.run_due()
    assert done == [10, 5, 1]


def test_failed_task_is_tried_again_when_its_time_has_come(queue: InProcessQueue) -> None:
    # Given a task that fails twice
    handle = queue.client.submit(flaky, 2)
    (first,) = queue.run_due()
    assert isinstance(first.error, OSError)
    # When its time has not come; Then it waits
    assert queue.due_in() == 2.0
    queue.advance(1.9)
    assert queue.run_due() == []
    assert handle.state is State.SCHEDULED
    # When it has; Then it runs
    queue.advance(0.2)
    assert [one.attempt for one in queue.run_due()] == [2]
    queue.advance(4)
    assert [one.value for one in queue.run_due()] == [3]
    assert handle.result() == 3
    # And its history is that of the coordinator, by the clock of the test
    assert [attempt.ended_at - queue.clock.now() for attempt in handle.status().history] == pytest.approx([-6.1, -4.0])


def test_run_all_moves_the_clock_to_what_is_due_next(queue: InProcessQueue) -> None:
    # Given tasks that are delayed, fail, and are given up
    began = queue.clock.now()
    late = queue.client.submit(note, "late", delay=3600)
    dead = queue.client.submit(flaky, 9)
    # When all is run
    ran = queue.run_all()
    # Then it took the time that it would have taken, in no time
    assert [one.attempt for one in ran] == [1, 2, 3, 1]
    assert queue.clock.now() - began == pytest.approx(3600)
    assert late.result() == "late"
    with pytest.raises(OSError, match="attempt 3"):
        dead.result()
    assert [letter.message for letter in queue.client.dead_letters()] == ["attempt 3"]
    # When a dead letter is put back; Then it runs again
    assert queue.client.retry_dead(all=True) == 1
    assert len(queue.run_all()) == 3


def test_moments_of_the_wall_clock_come_as_the_clock_is_moved_or_set(queue: InProcessQueue) -> None:
    at = datetime.fromtimestamp(queue.clock.now() + 3600, UTC)
    soon, late = queue.client.submit(note, "soon", at=at), queue.client.submit(note, "late", at=at + timedelta(hours=9))
    queue.assert_submitted(note, "soon", at=at)
    assert queue.run_due() == []
    assert queue.due_in() == pytest.approx(3600)
    queue.advance(3600)
    assert len(queue.run_due()) == 1
    assert soon.result() == "soon"
    queue.clock.set_wall(late.status().due_at or 0.0)
    assert len(queue.run_due()) == 1
    assert late.result() == "late"


def test_schedules_come_by_as_the_clock_is_moved(queue: InProcessQueue) -> None:
    queue.client.schedules.add("often", {"every": 60, "catch_up": "none"}, note, "tick")
    queue.client.schedules.add("daily", {"cron": "0 0 * * *"}, note, "day")
    queue.advance(599)
    assert len(queue.run_all()) == 9
    queue.advance(86_400)
    assert queue.client.schedules.get("often").made == 9 + 1440
    assert queue.client.schedules.get("daily").made == 1


def test_results_are_kept_for_their_time(queue: InProcessQueue) -> None:
    handle = queue.client.submit(note, 1)
    queue.run_due()
    queue.advance(90_000)
    assert queue.client.stats().counts.succeeded == 1
    with pytest.raises(LookupError):
        queue.client.status(handle.id)


def test_tasks_that_submit_have_theirs_run_too(queue: InProcessQueue) -> None:
    # Given a task that submits, with the client that it finds
    def parent() -> None:
        queue.client.submit(note, "child")

    client = queue.client
    queue.register_handler("parent", lambda: client.submit(note, "child") and None)
    queue.client.submit("parent")
    # When what is due is run; Then what that submits is too
    assert [one.function for one in queue.run_due()] == ["parent", f"{__name__}:note"]


def test_handlers_and_registered_tasks_run(queue: InProcessQueue) -> None:
    # Given a handler of this test, and a function registered by its module
    queue.register_handler("double", lambda payload: payload["n"] * 2)
    double = queue.client.submit("double", {"n": 4})
    fine = queue.client.submit(mail, {"to": "a@b"})
    bad = queue.client.submit("kit.mail", {"to": "nobody"}, max_retries=0)
    # When they run; Then their answers count as with a worker
    queue.run_due()
    assert (double.result(), fine.result()) == (8, True)
    with pytest.raises(ReturnedFalse):
        bad.result()


def test_tasks_see_their_own_task_and_log_with_it(queue: InProcessQueue, caplog: pytest.LogCaptureFixture) -> None:
    # Given a task that looks at itself
    seen: dict[str, Any] = {}

    def look() -> None:
        me = current_task()
        me.progress(1, 4)
        seen.update(id=me.id, worker=me.worker, progress=queue.client.status(me.id).progress)
        logging.getLogger("shop").warning("working")

    queue.register_handler("look", look)
    handle = queue.client.submit("look")
    # When it runs; Then it is a task to itself
    queue.run_due()
    assert seen == {"id": handle.id, "worker": "in-process", "progress": (1.0, 4.0)}
    # And its log records say which one it is, as in a slot, and no others do
    (record,) = [record for record in caplog.records if record.name == "shop"]
    assert (record.task_id, record.attempt) == (handle.id, 1)  # type: ignore[attr-defined]
    logging.getLogger("shop").warning("afterwards")
    assert not hasattr(caplog.records[-1], "task_id")
    with pytest.raises(NotInTask):
        current_task()


def test_coroutine_functions_and_values_travel_as_with_a_worker(queue: InProcessQueue) -> None:
    # Given a coroutine function, a closure, and a result that no pickle takes
    factor = 3
    handles = [queue.client.submit(slowly, 4), queue.client.submit(lambda x: x * factor, 4)]
    awkward = queue.client.submit(lambda: (lambda: iter(()), (n for n in ())), max_retries=0)
    # When they run; Then so does what travels, and the rest fails as it would
    queue.run_due()
    assert [handle.result() for handle in handles] == [4, 12]
    assert "cannot be pickled" in str(awkward.exception())


def first_and_write(array: Any, plus: int = 0) -> float:
    """The first element, which it then changes."""
    first, array[0] = float(array[0]), 7.0
    return first + plus


def test_what_was_put_is_in_calls_as_with_a_worker(queue: InProcessQueue) -> None:
    # Given an array and something small that were put
    numpy = pytest.importorskip("numpy")
    array = numpy.full(100_000, 2.0)
    reference, small = queue.client.put(array), queue.client.put({"a": 1})
    # When calls have them in their arguments, by themselves and in something else
    results = queue.client.submit_map(first_and_write, [reference] * 20, range(20))
    nested = queue.client.submit(note, {"both": [small, reference]})
    queue.run_due()
    # Then each has had its own, whatever the others wrote to theirs
    assert list(results.results()) == [2.0 + n for n in range(20)]
    assert nested.result()["both"][0] == {"a": 1}  # type: ignore[index]
    assert nested.result()["both"][1].tolist() == array.tolist()  # type: ignore[index]
    # And what was submitted is known still when nothing needs it, written as it was or as the worker had it
    reference.release()
    queue.advance(100_000)
    assert len(queue.assert_submitted(first_and_write, reference, 3)) == 1
    queue.assert_submitted(first_and_write, array, plus=4)
    queue.assert_submitted(note, {"both": [{"a": 1}, array]})
    queue.assert_not_submitted(first_and_write, numpy.zeros(100_000), 3)


def test_what_was_submitted_is_kept_when_all_who_need_it_have_gone(queue: InProcessQueue) -> None:
    # Given a task with something that was put
    with queue.client as client:
        client.submit(note, client.put([1, 2]))
        queue.run_due()
    # When the time of its result and of what its client has put is over
    queue.advance(100_000)
    queue.advance(100_000)
    queue.coordinator.flush()
    # Then the record of submissions has it still
    (task,) = queue.assert_submitted(note, [1, 2])
    assert queue.coordinator.engine.holds(named(task.blob))


def test_what_is_large_is_no_other_than_small(queue: InProcessQueue) -> None:
    # Given more than a message may have, a function that has something large in it, and the same again with each call
    data, numbers = bytes(20_000_000), list(range(100_000))

    def biggest(offset: int) -> int:
        return max(numbers) + offset

    handle = queue.client.submit(len, data)
    again = [queue.client.submit(note, (numbers, n)) for n in range(3)]
    called = queue.client.submit(biggest, 2)
    partly = queue.client.submit(partial(max, numbers), [-1])
    # When they run; Then it is as with small ones
    queue.run_due()
    assert handle.result() == len(data)
    assert [done.result() for done in again] == [(numbers, n) for n in range(3)]
    assert called.result() == 100_001
    assert partly.result() == numbers
    queue.assert_submitted(len, data)
    assert len(queue.assert_submitted(note)) == 3
    queue.assert_submitted(biggest, 2)
    queue.assert_submitted(partial(max, numbers), [-1])
    queue.assert_not_submitted(partial(max, numbers[1:]))
    queue.assert_not_submitted(lambda n: n, 2)


def test_queue_that_keeps_no_values_makes_no_directories_for_them(queue: InProcessQueue) -> None:
    queue.client.submit(note, "x" * 100_000)
    queue.run_due()
    assert queue.coordinator.values is None


def test_values_of_a_failing_store_are_its_own() -> None:
    with InProcessQueue(engine=FailingEngine(MemoryEngine())) as queue:
        assert queue.client.submit(note, queue.client.put("kept")).id
        assert [one.args for one in queue.run_due()] == [("kept",)]


def test_arguments_are_copies(queue: InProcessQueue) -> None:
    # Given a list that is changed after it was submitted
    value = [1]
    queue.client.submit(note, value)
    value.append(2)
    # When the task runs; Then it has what was submitted
    queue.run_due()
    assert done == [[1]]


def test_map_is_read_while_tasks_run_by_themselves(queue: InProcessQueue) -> None:
    # Given code that waits for its results
    with queue.working() as ran:
        assert list(queue.client.map(numbers_work.square, range(200))) == [n * n for n in range(200)]
        assert queue.client.submit(note, 1).result(timeout=20) == 1
        # When something else is to run meanwhile; Then it cannot
        with pytest.raises(RuntimeError, match="one at a time"):
            queue.run_due()
    # Then all of it is known
    assert len(ran) == 201


def test_wait_of_the_tests_own_thread_is_none_of_the_task_that_runs(queue: InProcessQueue) -> None:
    # Given a task that runs in another thread, and looks at what it is
    started, go_on = threading.Event(), threading.Event()

    def look() -> str:
        started.set()
        go_on.wait(20)
        return current_task().id

    queue.register_handler("look", look)
    handle = queue.client.submit("look")
    other = queue.client.submit(note, 1)
    with queue.working():
        started.wait(20)
        # When the test waits for it meanwhile
        with pytest.raises(TimeoutError):
            other.result(timeout=0.01)
        # Then nothing else has run in the task's place, and the task is still itself
        assert done == []
        go_on.set()
        assert handle.result(timeout=20) == handle.id
        assert other.result(timeout=20) == 1
    # And afterwards no task runs here
    with pytest.raises(NotInTask):
        current_task()


def test_map_that_is_read_afterwards_was_run_whole(queue: InProcessQueue) -> None:
    # Given a map whose items come from a generator, longer than a page
    results = queue.client.map(numbers_work.square, (n for n in range(3_000)))
    # When what is due is run; Then it is the whole map
    assert len(queue.run_due()) == 3_000
    assert sum(results) == sum(n * n for n in range(3_000))


def test_a_verdict_of_the_test_in_a_task_is_one_of_the_test(queue: InProcessQueue) -> None:
    # Given a task that fails the test, between two others
    def verdict() -> None:
        pytest.fail("seen in a task")

    queue.register_handler("verdict", verdict)
    queue.client.submit(note, 1)
    handle = queue.client.submit("verdict")
    queue.client.submit(note, 2)
    # When it runs; Then the test has failed, and the task waits again
    with pytest.raises(pytest.fail.Exception, match="seen in a task"):
        queue.run_due()
    assert handle.state is State.PENDING
    assert done == [1]
    with pytest.raises(pytest.fail.Exception), queue.working():
        handle.wait(0.2)
    # An exit in a task is an outcome, as in a slot
    queue.register_handler("verdict", lambda: exit(3))
    (ran, _) = queue.run_due()
    assert isinstance(ran.error, SystemExit)


def test_queues_are_run_apart(queue: InProcessQueue) -> None:
    queue.client.submit(note, "slow", queue="slow")
    queue.client.submit(note, "fast", queue="fast")
    assert [one.value for one in queue.run_due("fast")] == ["fast"]
    assert [one.value for one in queue.run_all()] == ["slow"]


def test_time_does_not_go_back(queue: InProcessQueue) -> None:
    with pytest.raises(ValueError, match="does not advance"):
        queue.advance(-1)


def test_task_that_feeds_itself_is_ended(queue: InProcessQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a task that submits itself
    monkeypatch.setattr("dtq.testing.queue.MOST_TASKS", 25)
    queue.register_handler("again", lambda: queue.client.submit("again") and None)
    queue.client.submit("again")
    # When all is run; Then there is an end to it
    with pytest.raises(AssertionError, match="there is no end to them"):
        queue.run_due(at_most=25)


def test_store_that_fails_is_passed_on() -> None:
    # Given a queue over a store that has no room for one commit
    engine = FailingEngine(MemoryEngine())
    with InProcessQueue(engine=engine) as queue:
        queue.client.stats()
        engine.fail(1)
        # When something is submitted; Then it is refused as it would be, and so was not submitted
        with pytest.raises(StoreFull):
            queue.client.submit(note, 1).accepted()
        queue.assert_nothing_submitted()


def test_closed_queue_leaves_nothing_behind(queue: InProcessQueue) -> None:
    handle = queue.client.submit(note, 1)
    queue.close()
    queue.close()
    with pytest.raises((RuntimeError, Unreachable)):
        handle.result(timeout=1)


def test_code_that_closes_its_client_gets_a_new_one_next_time(queue: InProcessQueue) -> None:
    # Given code that makes a client for itself, and closes it: here it is given one of the queue
    def program() -> str:
        with queue.client as client:
            handle = client.submit(note, 1)
            return handle.id

    # When it has run, twice
    ids = [program(), program()]
    # Then all of it was submitted, and can be asked for
    assert len(queue.run_due()) == 2
    assert [queue.client.status(id).state for id in ids] == [State.SUCCEEDED] * 2
    assert queue.client is queue.client


def test_further_clients_are_clients_of_the_same_queue(queue: InProcessQueue) -> None:
    # Given a second client, made by the code under test
    with Client(connector=queue) as other:
        handle = other.submit(note, 1)
        # When what is due is run; Then it is its too
        queue.run_due()
        assert handle.done()
        assert queue.client.get(handle.id).result() == 1


# -- coroutines ---------------------------------------------------------------------------------------------------


@looped
async def test_client_for_coroutines_is_one_like_any_other() -> None:
    with InProcessQueue() as queue:
        async with queue.async_client() as client:
            assert isinstance(client, AsyncClient)
            # Given tasks that were submitted by coroutines
            handles = await asyncio.gather(*[client.submit(slowly, n) for n in range(5)])
            # When they are run, where an event loop runs; Then they can be awaited
            assert len(queue.run_due()) == 5
            assert await asyncio.gather(*handles) == list(range(5))
            reference = await client.put([1, 2], ttl=60)
            awaited = await client.submit(note, reference)
            with queue.working():
                assert await awaited == [1, 2]
                assert [value async for value in client.map(async_work.plus_one, range(5))] == [1, 2, 3, 4, 5]


# -- what was submitted -------------------------------------------------------------------------------------------


def test_assertions_are_written_as_submissions_are(queue: InProcessQueue) -> None:
    # Given some submissions
    queue.client.submit(order, 1, 2, colour="blue", priority=1, key="one")
    queue.client.submit(order, 3, 4, priority=1, key="one")  # the same by its key
    queue.client.submit(order, 7, delay=60, max_retries=0)
    queue.client.submit(flaky, 1)
    queue.client.submit_map(mail, [{"to": "a"}, {"to": "b"}])
    # When they are asserted, with all or little of what they have; Then they are found
    (first,) = queue.assert_submitted(order, 1, 2, colour="blue", priority=1, key="one")
    assert (first.args, first.kwargs, first.options.priority) == ((1, 2), {"colour": "blue"}, 1)
    assert len(queue.assert_submitted(order)) == 2
    queue.assert_submitted(order, number=1, size=2, colour="blue")
    queue.assert_submitted(order, 7, delay=60)
    queue.assert_submitted(order, ANY, delay=60, max_retries=0)
    queue.assert_submitted(f"{__name__}:order", 7)
    queue.assert_submitted(flaky, 1, priority=2, max_retries=2)  # the terms of its decorator
    queue.assert_submitted("kit.mail", {"to": "b"})
    assert [one.args for one in queue.submitted(mail)] == [({"to": "a"},), ({"to": "b"},)]
    assert len(queue.submitted()) == 5
    # And what was not is not
    queue.assert_not_submitted(order, 2)
    queue.assert_not_submitted(note)


def test_failed_assertion_says_what_there_is(queue: InProcessQueue) -> None:
    # Given nothing, then other things than expected
    with pytest.raises(AssertionError, match=re.escape("order was not submitted; nothing was.")):
        queue.assert_submitted(order)
    queue.assert_nothing_submitted()
    queue.client.submit(order, 3, priority=5)
    queue.client.submit(order, 4, colour="blue")
    queue.client.submit(note, "x")
    # When an assertion fails; Then it says what was submitted, and how that differs
    with pytest.raises(AssertionError) as failed:
        queue.assert_submitted(order, 3, priority=2, timeout=9, delay=9)
    name = f"{__name__}:order"
    terms = "priority is 5, not 2, timeout is None, not 9.0, delay is 0.0, not 9.0"
    assert str(failed.value).splitlines() == [
        f"{name}(3) with priority=2, timeout=9, delay=9 was not submitted. Of that function there is:",
        f"  1  {name}(3): {terms}",
        f"  2  {name}(4, colour='blue'): other arguments, {terms}",
    ]
    with pytest.raises(AssertionError, match=rf"flaky was not submitted; what was: {name} \(2\), .*note \(1\)"):
        queue.assert_submitted(flaky)
    with pytest.raises(AssertionError, match=r"order\(3\) was submitted, 1 times:\n  1  .*order\(3\)"):
        queue.assert_not_submitted(order, 3)
    with pytest.raises(AssertionError, match="3 tasks were submitted"):
        queue.assert_nothing_submitted()
    # And an option that there is not is a mistake of the test
    with pytest.raises(TypeError):
        queue.assert_submitted(3)  # type: ignore[arg-type]


def test_arrays_are_compared_by_what_they_hold(queue: InProcessQueue) -> None:
    numpy = pytest.importorskip("numpy")
    queue.client.submit(note, numpy.arange(3))
    queue.assert_submitted(note, numpy.arange(3))
    queue.assert_not_submitted(note, numpy.arange(4))


def test_what_was_refused_was_not_submitted(queue: InProcessQueue) -> None:
    lock = threading.Lock()
    with pytest.raises(NotImportable):
        queue.client.submit(lambda: lock.locked())
    with pytest.raises(CannotPickle):
        queue.client.submit(note, lock)
    queue.assert_nothing_submitted()
    # Nor was what the coordinator refuses
    queue.client.submit(note, 1, key="mine")
    with pytest.raises(KeyConflict):
        queue.client.submit(order, 1, key="mine").accepted()
    assert [one.name for one in queue.submitted()] == [f"{__name__}:note"]


def test_function_that_is_not_there_fails_as_with_a_worker(queue: InProcessQueue) -> None:
    queue.client.submit("nowhere:work", max_retries=0)
    (ran,) = queue.run_due()
    assert isinstance(ran.error, CannotImport)
    assert "cannot be imported by the worker in-process" in str(ran.error)


# -- tasks that wait for tasks --------------------------------------------------------------------------------------

#: The queue whose client the tasks below use.
nested: list[InProcessQueue] = []


def sum_of_parts(parts: int) -> int:
    client = nested[-1].client
    first = client.submit(note, 0).result()
    assert current_task().id == "1"
    return int(str(first)) + sum(client.map(abs, range(parts)))


async def sum_of_awaited(parts: int) -> int:
    async with nested[-1].async_client() as client:
        return sum([value async for value in client.map(abs, range(parts))])


@pytest.mark.parametrize("work", [sum_of_parts, sum_of_awaited])
def test_task_that_waits_has_those_run_that_it_waits_for(queue: InProcessQueue, work: Any) -> None:
    # Given a task that submits others and waits for them
    nested.append(queue)
    handle = queue.client.submit(work, 4, max_retries=0)
    # When it is run; Then they run in its place, and it goes on
    ran = queue.run_due()
    assert handle.result(0) == 6
    assert ran[-1].id == handle.id
    assert len(ran) >= 5


def test_task_that_waits_while_tasks_run_as_they_come_goes_on(queue: InProcessQueue) -> None:
    nested.append(queue)
    with queue.working():
        assert queue.client.submit(sum_of_parts, 4, max_retries=0).result(20) == 6


def test_what_a_task_submits_goes_before_its_like(queue: InProcessQueue) -> None:
    nested.append(queue)
    queue.client.submit(sum_of_parts, 1)
    queue.client.submit(note, "another")
    queue.run_due()
    assert done == [0, "another"]
    assert {submitted.options.priority for submitted in queue.submitted()} == {5}


def test_tasks_are_given_the_results_of_others_and_wait_for_them() -> None:
    with InProcessQueue() as queue:
        one = queue.client.submit(work.add, 1, 2)
        two = queue.client.submit(work.add, one, b=one, after=one, on_failed="run")
        bad = queue.client.submit(work.fail, "no", max_retries=0)
        lost, told = queue.client.submit(work.echo, bad), queue.client.submit(work.echo, bad, on_failed="run")

        assert [ran.id for ran in queue.run_due()] == [one.id, two.id, bad.id, told.id]

        assert two.result() == 6
        assert isinstance(told.result(), ValueError)
        with pytest.raises(TaskCancelled, match=f"parent {bad.id} is dead"):
            lost.result()
        queue.assert_submitted(work.echo, ANY, on_failed="run")
        queue.assert_submitted(work.add, one, b=one, after=one, on_failed="run")
        assert queue.submitted(work.echo)[0].args == (bad,)
        with pytest.raises(AssertionError, match="result of another task"):
            queue.assert_submitted(work.echo, 5)


@task(resources={"gpu": 2, "memory": "1GB"}, slots=64, tags="cuda12")
def needy() -> dict[str, object]:
    return current_task().resources


def test_task_has_whatever_it_needs(queue: InProcessQueue) -> None:
    handle = queue.client.submit(needy)
    queue.run_all()
    assert handle.result(0) == {"gpu": ("0", "1"), "memory": 10**9}
    plain = queue.client.submit(note, 1)
    queue.run_all()
    assert plain.result(0) == 1


# -- limits and queues --------------------------------------------------------------------------------------------


def test_limits_rates_and_pauses_hold_in_the_queue_in_process() -> None:
    # Given
    with InProcessQueue() as queue:
        client = queue.client
        client.limits.set("api", rate="1/m")
        client.queues.pause("mail")
        first, second = (client.submit(math.sqrt, n, limits="api") for n in (4, 9))
        paused = client.submit(math.sqrt, 16, queue="mail")

        # When / Then
        assert len(queue.run_due()) == 1
        assert first.result(0) == 2.0
        assert queue.due_in() == pytest.approx(60.0)
        queue.advance(60.0)
        assert len(queue.run_due()) == 1
        assert second.result(0) == 3.0
        client.queues.resume("mail")
        assert len(queue.run_due()) == 1
        assert paused.result(0) == 4.0


def test_maps_over_maps_and_handles_among_items_run_here_too(queue: InProcessQueue) -> None:
    numbers = queue.client.submit_map(note, [1, 2])
    doubled = queue.client.submit_map(work.add, numbers, numbers)
    mixed = queue.client.submit_map(note, [queue.client.submit(note, 7), 8])
    named = queue.client.submit_map("kit.mail", queue.client.submit_map(note, [{"to": "a@b"}]))

    queue.run_due()

    assert list(doubled.results()) == [2, 4]
    assert list(mixed.results()) == [7, 8]
    assert list(named.results()) == [True]
    assert queue.submitted(work.add)[0].args == (ANY, ANY)


def say(word: str, fails: bool = False) -> None:
    print("out", word)
    print("error", word, file=sys.stderr)
    if fails:
        raise ValueError(word)


def test_what_tasks_print_is_shown_and_kept(queue: InProcessQueue, capsys: pytest.CaptureFixture[str]) -> None:
    silent = queue.client.submit(note, 1)
    first, second = queue.client.submit(say, "1"), queue.client.submit(say, "2", True, max_retries=0)
    assert first.output() == ""
    queue.run_due()
    assert [handle.output() for handle in (silent, first, second)] == ["", "out 1\nerror 1\n", "out 2\nerror 2\n"]
    assert "".join(first.follow_output()) == "out 1\nerror 1\n"
    assert second.status().history[0].failure.output == "out 2\nerror 2\n"
    assert capsys.readouterr().out == "out 1\nout 2\n"
