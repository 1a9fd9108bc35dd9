"""What an executor promises: the same tests for the standard library's and for dtq's.

They follow what CPython checks of its own executors: submitting, cancelling, waiting, the end of a program, what does
not pickle.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)
from functools import partial
from itertools import count
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest

from tests.cluster import until
from tests.contracts.executor_kinds import DEADLINE_S, KINDS, SLOTS, Gate, Kind, closing
from tests.tasks import executor_work as work


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = KINDS[request.param]()
    yield kind
    kind.close()


@pytest.fixture(scope="module")
def shared(kind: Kind) -> Iterator[Executor]:
    """One that many tests use, none of which ends it."""
    with closing(kind.make()) as executor:
        yield executor


@pytest.fixture
def executor(kind: Kind) -> Iterator[Executor]:
    """One of the test's own."""
    with closing(kind.make()) as executor:
        yield executor


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open()


# -- submit ---------------------------------------------------------------------------------------------------------


def test_submit_gives_the_result(shared: Executor) -> None:
    future = shared.submit(pow, 2, 8)
    assert isinstance(future, Future)
    assert future.result(DEADLINE_S) == 256
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None


def test_submit_passes_all_keywords_to_the_function(shared: Executor) -> None:
    future = shared.submit(work.keywords, 1, self=2, fn=3, priority=4, timeout=5)
    assert future.result(DEADLINE_S) == ((1,), {"self": 2, "fn": 3, "priority": 4, "timeout": 5})


@pytest.mark.parametrize("function", [time.sleep, math.sqrt, work.Plain(0).double, partial(work.add, 0)])
def test_submit_takes_whatever_can_be_called(shared: Executor, function: partial[int]) -> None:
    shared.submit(function, 0).result(DEADLINE_S)


def test_submit_needs_a_function(shared: Executor) -> None:
    with pytest.raises(TypeError):
        shared.submit()  # type: ignore[call-arg]


def test_what_cannot_be_called_fails_in_the_future(shared: Executor) -> None:
    future: Future[Any] = shared.submit(7)  # type: ignore[arg-type]
    assert isinstance(future.exception(DEADLINE_S), TypeError)


def test_exception_comes_back_with_its_remote_traceback(shared: Executor) -> None:
    future = shared.submit(work.fail, "for a reason")
    error = future.exception(DEADLINE_S)
    assert type(error) is ValueError
    assert error.args == ("for a reason",)
    assert "in fail" in str(error.__cause__)
    with pytest.raises(ValueError, match="for a reason"):
        future.result()


def test_failed_call_is_not_tried_again(shared: Executor, tmp_path: Path) -> None:
    shared.submit(work.mark, str(tmp_path / "no" / "such" / "place")).exception(DEADLINE_S)
    (tmp_path / "no" / "such").mkdir(parents=True)
    shared.submit(pow, 1, 1).result(DEADLINE_S)
    assert list((tmp_path / "no" / "such").iterdir()) == []


def test_calls_run_at_once_and_in_other_processes(executor: Executor, gate: Gate, kind: Kind) -> None:
    futures = gate.fill(executor, kind)
    gate.open()
    assert [future.result(DEADLINE_S) for future in futures] == list(range(len(futures)))
    assert executor.submit(work.pid).result(DEADLINE_S) != os.getpid()


def test_many_threads_submit_at_once(shared: Executor) -> None:
    found: list[int] = []

    def submit(start: int) -> None:
        futures = [shared.submit(work.square, n) for n in range(start, start + 100)]
        found.extend(future.result(DEADLINE_S) for future in futures)

    threads = [threading.Thread(target=submit, args=(start,)) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(found) == [n * n for n in range(400)]


# -- map ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 10, 100])
def test_map_gives_results_in_order(shared: Executor, chunksize: int) -> None:
    results = shared.map(work.add, range(10), count(100), chunksize=chunksize)
    assert iter(results) is results
    assert list(results) == [100 + 2 * n for n in range(10)]
    assert list(results) == []


def test_map_of_nothing_gives_nothing(shared: Executor) -> None:
    assert list(shared.map(work.square, [])) == []
    assert list(shared.map(work.square, [], chunksize=5)) == []


def test_map_takes_its_timeout_from_the_call_on(shared: Executor, gate: Gate, tmp_path: Path) -> None:
    started = [str(tmp_path / "started-a"), str(tmp_path / "started-b")]
    results = shared.map(work.gated, started, [os.devnull, str(tmp_path / "gate")], [1, 2], timeout=1.0)
    assert next(results) == 1
    with pytest.raises(TimeoutError):
        next(results)
    assert list(results) == []


def test_map_raises_in_the_place_of_the_exception_and_ends_there(shared: Executor) -> None:
    results = shared.map(work.inverse, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_map_raises_what_an_iterable_raises(shared: Executor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        shared.map(work.square, items())


def test_map_item_that_cannot_be_pickled_fails_in_its_place(shared: Executor) -> None:
    results = shared.map(work.keywords, [1, threading.Lock(), 3])
    assert next(results) == ((1,), {})
    with pytest.raises(TypeError, match="lock"):
        next(results)


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_chunks_of_less_than_one(shared: Executor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        shared.map(work.square, [1], chunksize=chunksize)


def test_map_runs_also_where_nobody_reads(kind: Kind, tmp_path: Path) -> None:
    marks = [tmp_path / str(n) for n in range(5)]
    executor = kind.make()
    executor.map(work.mark, map(str, marks))
    executor.shutdown(wait=True)
    assert all(mark.exists() for mark in marks)


def test_map_can_be_read_after_the_shutdown(kind: Kind) -> None:
    with kind.make() as executor:
        results = executor.map(work.square, range(3000))
        assert next(results) == 0
    assert list(results) == [n * n for n in range(1, 3000)]


def test_map_that_is_closed_cancels_what_has_not_begun(executor: Executor, kind: Kind, gate: Gate) -> None:
    futures = gate.fill(executor, kind)
    directory = gate._directory
    marks = [directory / f"mark-{n}" for n in range(3)]
    results = executor.map(work.mark, map(str, marks), timeout=0)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
    wait(futures, DEADLINE_S)
    executor.shutdown(wait=True)
    assert not any(mark.exists() for mark in marks[kind.waits_ahead :])


def test_map_with_a_buffer_reads_no_further(executor: Any, kind: Kind) -> None:
    if not kind.buffersize:
        pytest.skip("this Python's map has no buffersize")
    items = count()
    results = executor.map(work.square, items, buffersize=4)
    assert next(items) == 4
    assert [next(results), next(results)] == [0, 1]
    assert next(items) == 7
    with pytest.raises(TypeError):
        executor.map(work.square, items, buffersize="4")
    with pytest.raises(ValueError):
        executor.map(work.square, items, buffersize=0)


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("buffersize", [1, 2, 100])
def test_map_with_a_buffer_gives_the_same(executor: Any, kind: Kind, buffersize: int, chunksize: int) -> None:
    if not kind.buffersize:
        pytest.skip("this Python's map has no buffersize")
    results = executor.map(work.square, range(10), buffersize=buffersize, chunksize=chunksize)
    assert list(results) == [n * n for n in range(10)]
    assert list(executor.map(work.square, [], buffersize=buffersize)) == []


# -- futures --------------------------------------------------------------------------------------------------------


def test_running_says_whether_it_runs(executor: Executor, gate: Gate) -> None:
    future = gate.submit(executor)
    gate.await_started(1)
    until(future.running, "the future to be running", lambda: future)
    assert not future.done()
    gate.open()
    future.result(DEADLINE_S)
    assert not future.running()
    assert future.done()


def test_cancelled_call_never_runs(executor: Executor, kind: Kind, gate: Gate, tmp_path: Path) -> None:
    # Given
    futures = gate.fill(executor, kind)
    future = executor.submit(work.mark, str(tmp_path / "mark"))
    told: list[Future[None]] = []
    future.add_done_callback(told.append)
    # When
    assert future.cancel()
    # Then
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert not future.running()
    assert told == [future]
    with pytest.raises(CancelledError):
        future.result(0)
    with pytest.raises(CancelledError):
        future.exception(0)
    gate.open()
    wait(futures, DEADLINE_S)
    executor.submit(pow, 1, 1).result(DEADLINE_S)
    assert not (tmp_path / "mark").exists()


def test_running_call_cannot_be_cancelled(executor: Executor, gate: Gate) -> None:
    future = gate.submit(executor, 7)
    gate.await_started(1)
    until(future.running, "the future to be running", lambda: future)
    assert not future.cancel()
    assert not future.cancelled()
    gate.open()
    assert future.result(DEADLINE_S) == 7


def test_ended_call_cannot_be_cancelled(shared: Executor) -> None:
    future = shared.submit(pow, 2, 2)
    future.result(DEADLINE_S)
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 4


def test_result_and_exception_give_up_after_their_time(executor: Executor, gate: Gate) -> None:
    future = gate.submit(executor, 7)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    gate.open()
    assert future.result(DEADLINE_S) == 7


def test_callbacks_are_called_in_order_and_once(executor: Executor, gate: Gate) -> None:
    future = gate.submit(executor)
    told: list[int] = []
    for n in range(3):
        future.add_done_callback(lambda _, n=n: told.append(n))  # type: ignore[misc]
    gate.open()
    executor.shutdown(wait=True)
    assert told == [0, 1, 2]
    future.add_done_callback(lambda _: told.append(3))
    assert told == [0, 1, 2, 3]


def test_callback_that_raises_is_logged_and_harms_nobody(
    executor: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    future = gate.submit(executor)
    told: list[Future[int]] = []

    def raises(_: Future[int]) -> None:
        raise LookupError("in a callback")

    future.add_done_callback(raises)
    future.add_done_callback(told.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        executor.shutdown(wait=True)
    assert told == [future]
    assert "in a callback" in caplog.text


def test_callback_may_submit(executor: Executor) -> None:
    second: Future[Future[int]] = Future()
    first = executor.submit(work.square, 3)
    first.add_done_callback(lambda future: second.set_result(executor.submit(work.square, future.result())))
    assert second.result(DEADLINE_S).result(DEADLINE_S) == 81


def test_forgotten_futures_callback_is_called(executor: Executor, gate: Gate) -> None:
    told = threading.Event()
    gate.submit(executor).add_done_callback(lambda _: told.set())
    gc.collect()
    gate.open()
    assert told.wait(DEADLINE_S)


# -- waiting for several --------------------------------------------------------------------------------------------


def test_wait_for_the_first(executor: Executor, gate: Gate) -> None:
    slow, quick = gate.submit(executor), executor.submit(work.square, 2)
    done, left = wait([slow, quick], DEADLINE_S, FIRST_COMPLETED)
    assert (done, left) == ({quick}, {slow})
    assert wait([slow, quick], 0, FIRST_COMPLETED) == (done, left)


def test_wait_for_the_first_exception(executor: Executor, gate: Gate) -> None:
    slow, fine = gate.submit(executor), executor.submit(work.square, 2)
    bad: Future[int] = executor.submit(work.fail, "so")
    done, left = wait([slow, fine, bad], DEADLINE_S, FIRST_EXCEPTION)
    assert bad in done
    assert left == {slow}


def test_wait_for_all_and_run_out_of_time(executor: Executor, gate: Gate) -> None:
    slow, quick = gate.submit(executor), executor.submit(work.square, 2)
    quick.result(DEADLINE_S)
    assert wait([slow, quick], 0.01, ALL_COMPLETED) == ({quick}, {slow})
    gate.open()
    assert wait([slow, quick], DEADLINE_S, ALL_COMPLETED) == ({slow, quick}, set())


def test_wait_counts_a_cancelled_future_as_done(executor: Executor, kind: Kind, gate: Gate) -> None:
    futures = gate.fill(executor, kind)
    future = executor.submit(work.square, 2)
    waiting = threading.Thread(target=lambda: wait([future]))
    waiting.start()
    future.cancel()
    gate.open()
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()
    wait(futures)


def test_as_completed_gives_each_once_as_it_ends(executor: Executor, gate: Gate) -> None:
    slow, quick = gate.submit(executor), executor.submit(work.square, 2)
    found = as_completed([slow, quick, slow], DEADLINE_S)
    assert next(found) is quick
    gate.open()
    assert list(found) == [slow]


def test_as_completed_runs_out_of_time(executor: Executor, gate: Gate) -> None:
    slow, quick = gate.submit(executor), executor.submit(work.square, 2)
    quick.result(DEADLINE_S)
    found: list[Future[int]] = []
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        found.extend(as_completed([slow, quick], 0.05))


def test_two_thousand_futures_all_end(shared: Executor) -> None:
    futures = [shared.submit(work.square, n) for n in range(2000)]
    assert sum(future.result(DEADLINE_S) for future in as_completed(futures, DEADLINE_S)) == sum(
        n * n for n in range(2000)
    )


def test_event_loop_runs_calls_in_it(shared: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(shared, work.square, n) for n in range(50)])

    assert asyncio.run(main()) == [n * n for n in range(50)]


def test_event_loop_cancels_calls_that_wait(executor: Executor, kind: Kind, gate: Gate, tmp_path: Path) -> None:
    futures = gate.fill(executor, kind)

    async def main() -> None:
        waiting = asyncio.get_running_loop().run_in_executor(executor, work.mark, str(tmp_path / "mark"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    gate.open()
    wait(futures, DEADLINE_S)
    executor.shutdown(wait=True)
    assert not (tmp_path / "mark").exists()


# -- what does not pickle, and what dies ----------------------------------------------------------------------------


def test_argument_that_cannot_be_pickled_fails_in_the_future(shared: Executor) -> None:
    future = shared.submit(work.square, threading.Lock())  # type: ignore[arg-type]
    assert isinstance(future.exception(DEADLINE_S), TypeError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


def test_result_that_cannot_be_pickled_fails_in_the_future(shared: Executor) -> None:
    assert isinstance(shared.submit(work.lock).exception(DEADLINE_S), TypeError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


def test_exception_that_does_not_come_back_is_an_exception_still(executor: Executor, kind: Kind) -> None:
    assert isinstance(executor.submit(work.raise_awkward).exception(DEADLINE_S), Exception)


def test_function_that_cannot_be_pickled_fails_in_the_future(shared: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # as if the extra were not installed
    error = shared.submit(lambda: 1).exception(DEADLINE_S)
    assert isinstance(error, PicklingError | AttributeError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


@pytest.mark.parametrize("call", ["argument", "result", "result that exits"])
def test_what_cannot_be_unpickled_fails_in_the_future(executor: Executor, kind: Kind, call: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "argument": partial(executor.submit, work.keywords, work.NotHere()),
        "result": partial(executor.submit, work.not_here),
        "result that exits": partial(executor.submit, work.exits),
    }
    future: Any = calls[call]()
    assert isinstance(future.exception(DEADLINE_S), Exception)
    if not kind.crash_breaks:
        assert executor.submit(work.square, 2).result(DEADLINE_S) == 4


def test_call_whose_process_dies_fails_in_the_future(executor: Executor, kind: Kind) -> None:
    future = executor.submit(work.leave, 3)
    assert isinstance(future.exception(DEADLINE_S), kind.crash)
    if kind.crash_breaks:
        with pytest.raises(BrokenExecutor):
            executor.submit(work.square, 2)
    else:
        assert executor.submit(work.square, 2).result(DEADLINE_S) == 4


@pytest.mark.skipif(sys.version_info < (3, 14), reason="this Python's own futures swallow such exceptions")
def test_exception_that_is_no_true_value_is_raised(shared: Executor) -> None:
    with pytest.raises(work.Falsey):
        shared.submit(work.raise_falsey).result(DEADLINE_S)


# -- memory ---------------------------------------------------------------------------------------------------------


def test_result_is_let_go_with_its_future(shared: Executor) -> None:
    reference = weakref.ref(shared.submit(work.plain, 1).result(DEADLINE_S))
    until(
        lambda: gc.collect() >= 0 and reference() is None,
        "the result to be let go",
        lambda: gc.get_referrers(reference()),
    )


def test_argument_is_let_go_when_the_call_has_ended(shared: Executor) -> None:
    thing = work.Plain(4)
    reference = weakref.ref(thing)
    future = shared.submit(thing.double)
    del thing
    assert future.result(DEADLINE_S) == 8
    until(lambda: gc.collect() >= 0 and reference() is None, "the argument to be let go", reference)


def test_results_of_a_map_are_let_go_one_by_one(shared: Executor) -> None:
    for thing in shared.map(work.plain, range(10)):
        reference = weakref.ref(thing)
        del thing
        until(lambda: gc.collect() >= 0 and reference() is None, "the result to be let go", reference)  # noqa: B023


def test_exception_makes_no_cycle(shared: Executor) -> None:
    future = shared.submit(work.fail, "so")
    with pytest.raises(ValueError) as caught:
        future.result(DEADLINE_S)
    reference = weakref.ref(future)
    del caught, future
    until(lambda: gc.collect() >= 0 and reference() is None, "the future to be let go", reference)


# -- the end --------------------------------------------------------------------------------------------------------


def test_nothing_is_taken_after_the_shutdown(kind: Kind) -> None:
    executor = kind.make()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(pow, 2, 2)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(work.square, [1])
    executor.shutdown()


def test_shutdown_waits_for_what_was_submitted(kind: Kind, gate: Gate) -> None:
    executor = kind.make()
    futures = [gate.submit(executor, n) for n in range(2 * SLOTS)]
    threading.Timer(0.1, gate.open).start()
    executor.shutdown(wait=True)
    assert [future.result(0) for future in futures] == list(range(2 * SLOTS))


def test_shutdown_without_waiting_lets_everything_end(kind: Kind, gate: Gate) -> None:
    executor = kind.make()
    futures = [gate.submit(executor, n) for n in range(2 * SLOTS)]
    executor.shutdown(wait=False)
    assert not all(future.done() for future in futures)
    gate.open()
    assert [future.result(DEADLINE_S) for future in futures] == list(range(2 * SLOTS))


def test_shutdown_can_cancel_what_has_not_begun(kind: Kind, gate: Gate) -> None:
    executor = kind.make()
    futures = gate.fill(executor, kind, extra=20)
    threading.Timer(0.3, gate.open).start()
    executor.shutdown(wait=True, cancel_futures=True)
    assert all(future.done() for future in futures)
    cancelled = [future for future in futures if future.cancelled()]
    assert len(cancelled) >= 20
    assert len([future for future in futures if not future.cancelled()]) >= SLOTS
    assert len(cancelled) + gate.started() == len(futures)


def test_shutdown_without_waiting_can_cancel(kind: Kind, gate: Gate) -> None:
    executor = kind.make()
    futures = gate.fill(executor, kind, extra=5)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    until(lambda: all(future.done() for future in futures), "all futures to be done", lambda: futures)
    assert sum(future.cancelled() for future in futures) >= 5
    assert len(futures) - sum(future.cancelled() for future in futures) >= SLOTS


def test_with_block_waits(kind: Kind) -> None:
    with kind.make() as executor:
        futures = [executor.submit(work.square, n) for n in range(20)]
    assert [future.result(0) for future in futures] == [n * n for n in range(20)]
    with pytest.raises(RuntimeError):
        executor.submit(pow, 1, 1)


def test_forgotten_executor_finishes_what_it_has(kind: Kind, gate: Gate) -> None:
    executor = kind.make()
    futures = [gate.submit(executor, n) for n in range(2 * SLOTS)]
    del executor
    gc.collect()
    gate.open()
    assert [future.result(DEADLINE_S) for future in futures] == list(range(2 * SLOTS))


def test_shutdown_from_a_callback_does_not_hang(kind: Kind) -> None:
    executor = kind.make()
    ended = threading.Event()

    def end(_: Future[int]) -> None:
        executor.shutdown(wait=False)
        ended.set()

    executor.submit(work.square, 2).add_done_callback(end)
    assert ended.wait(DEADLINE_S)
    executor.shutdown(wait=True)


#: A program that leaves its executor as it is; `make` is given by the test.
PROGRAM = """
import sys, time
from tests.tasks import executor_work as work
from tests.contracts.executor_kinds import KINDS

def tell(future):
    print(future.result(), flush=True)

if __name__ == "__main__":
    kind = KINDS[sys.argv[1]]()
    executor = kind.make()
    for n in range(5):
        executor.submit(work.square, n).add_done_callback(tell)
    print("end", flush=True)
"""


@pytest.mark.parametrize("name", list(KINDS))
def test_program_ends_when_its_futures_are_done(name: str, tmp_path: Path) -> None:
    # Given a program that ends without shutting down
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    # When
    done = subprocess.run(
        [sys.executable, str(script), name], capture_output=True, text=True, timeout=DEADLINE_S, env=environment
    )
    # Then
    assert done.stderr == ""
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == sorted(["end", "0", "1", "4", "9", "16"])
