"""What an executor promises: the same tests for the standard library's and for dtq's.

They follow what CPython checks of its own executors; docs/executor.md lists what of that is left out, and why. Here:
submitting and mapping. Beside this: futures and waiting for them; what does not pickle, what dies, and the end.
"""

from __future__ import annotations

import gc
import math
import os
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import (
    Executor,
    Future,
    wait,
)
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.executor_kinds import DEADLINE_S, SLOTS, Gate, Kind
from tests.tasks import executor_work as work

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
    with pytest.raises(TypeError):
        shared.submit(fn=work.keywords, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        shared.submit(arg=1)  # type: ignore[call-arg]


def test_what_cannot_be_called_fails_in_the_future(shared: Executor) -> None:
    future: Future[Any] = shared.submit(7)  # type: ignore[arg-type]
    assert isinstance(future.exception(DEADLINE_S), TypeError)


def test_exception_comes_back_with_its_remote_traceback(shared: Executor) -> None:
    future = shared.submit(work.fail, "for a reason")
    error = future.exception(DEADLINE_S)
    assert type(error) is ValueError
    assert error.args == ("for a reason",)
    assert "in fail" in str(error.__cause__)
    assert "raise ValueError(text)" in "".join(traceback.format_exception(error))
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


def test_calls_beyond_what_runs_wait_and_run(executor: Executor, gate: Gate) -> None:
    futures = [gate.submit(executor, n) for n in range(15 * SLOTS)]
    gate.await_started(SLOTS)
    assert gate.started() == SLOTS
    gate.open()
    assert [future.result(DEADLINE_S) for future in futures] == list(range(15 * SLOTS))


def test_processes_are_used_again(shared: Executor) -> None:
    assert len({shared.submit(work.pid).result(DEADLINE_S) for _ in range(10 * SLOTS)}) <= SLOTS


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
    started = [str(tmp_path / f"started-{letter}") for letter in "abc"]
    gates = [os.devnull, os.devnull, str(tmp_path / "gate")]
    results = shared.map(work.gated, started, gates, [1, 2, 3], timeout=2.0)
    assert [next(results), next(results)] == [1, 2]
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


def test_map_can_be_read_after_a_shutdown_that_did_not_wait(kind: Kind) -> None:
    executor = kind.make()
    results = executor.map(work.square, range(50))
    executor.shutdown(wait=False)
    assert list(results) == [n * n for n in range(50)]


def test_map_can_be_read_where_its_executor_was_forgotten(kind: Kind) -> None:
    results = kind.make().map(work.square, range(50))
    gc.collect()
    assert list(results) == [n * n for n in range(50)]


def test_map_that_is_closed_cancels_what_has_not_begun(executor: Executor, kind: Kind, gate: Gate) -> None:
    futures = gate.fill(executor, kind)
    directory = gate._directory
    marks = [directory / f"mark-{n}" for n in range(3)]
    results = executor.map(work.gated, map(str, marks), [os.devnull] * 3, timeout=0)
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
