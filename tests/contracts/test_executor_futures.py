"""What an executor promises of its futures, and of waiting for several; for both executors, as in test_executor.py."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import pytest

import dtq
from tests.cluster import until
from tests.contracts.executor_kinds import DEADLINE_S, Gate, Kind
from tests.tasks import executor_work as work

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


@pytest.mark.parametrize("end", ["result", "exception"])
def test_callback_comes_at_once_where_the_call_has_ended(shared: Executor, end: str) -> None:
    future: Future[Any] = shared.submit(work.fail, "so") if end == "exception" else shared.submit(pow, 2, 3)
    wait([future], DEADLINE_S)
    told: list[object] = []
    future.add_done_callback(lambda ended: told.append(ended.exception() or ended.result()))
    assert [str(entry) for entry in told] == (["so"] if end == "exception" else ["8"])


def test_callback_comes_at_once_where_the_call_was_cancelled(executor: Executor, kind: Kind, gate: Gate) -> None:
    gate.fill(executor, kind)
    future = gate.submit(executor)
    assert future.cancel()
    told: list[bool] = []
    future.add_done_callback(lambda ended: told.append(ended.cancelled()))
    assert told == [True]
    gate.open()


@pytest.mark.parametrize("read", [Future.result, Future.exception])
def test_thread_that_waits_learns_that_the_call_was_cancelled(
    executor: Executor, kind: Kind, gate: Gate, read: Callable[..., object]
) -> None:
    # Given
    gate.fill(executor, kind)
    future = gate.submit(executor)
    caught: list[type[BaseException]] = []

    def wait_for_it() -> None:
        try:
            read(future, DEADLINE_S)
        except CancelledError as error:
            caught.append(type(error))

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    # When
    assert future.cancel()
    # Then
    waiting.join(DEADLINE_S)
    assert caught == [CancelledError]
    gate.open()


def test_future_says_how_it_stands(executor: Executor, kind: Kind, gate: Gate) -> None:
    futures = gate.fill(executor, kind)
    waits, cancelled = gate.submit(executor), gate.submit(executor)
    assert cancelled.cancel()
    assert "state=pending" in repr(waits)
    assert "state=cancelled" in repr(cancelled)
    until(futures[0].running, "the future to be running", lambda: futures[0])
    assert "state=running" in repr(futures[0])
    gate.open()
    waits.result(DEADLINE_S)
    assert "state=finished returned int" in repr(waits)
    failed: Future[int] = executor.submit(work.fail, "so")
    wait([failed], DEADLINE_S)
    assert "state=finished raised ValueError" in repr(failed)


def test_ended_future_cannot_be_set(shared: Executor) -> None:
    future = shared.submit(pow, 2, 3)
    future.result(DEADLINE_S)
    with pytest.raises(InvalidStateError):
        future.set_result(9)
    with pytest.raises(InvalidStateError):
        future.set_exception(ValueError())
    assert future.result() == 8


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


def elsewhere() -> tuple[Future[int], Future[int], Future[int], Future[int]]:
    """Futures of somebody else: with a result, with an exception, cancelled and told so, cancelled only."""
    found, failed, told, cancelled = Future[int](), Future[int](), Future[int](), Future[int]()
    found.set_result(42)
    failed.set_exception(OSError())
    told.cancel()
    told.set_running_or_notify_cancel()
    cancelled.cancel()
    return found, failed, told, cancelled


def test_wait_counts_a_future_once(shared: Executor) -> None:
    future = shared.submit(pow, 2, 3)
    assert wait([future, future], DEADLINE_S) == ({future}, set())


def test_wait_takes_futures_of_others_too(executor: Executor, gate: Gate) -> None:
    found, failed, told, cancelled = elsewhere()
    slow, quick = gate.submit(executor), executor.submit(pow, 2, 3)
    assert wait([cancelled, quick, slow], DEADLINE_S, FIRST_COMPLETED) == ({quick}, {cancelled, slow})
    assert wait([told, found, slow], DEADLINE_S, FIRST_COMPLETED) == ({told, found}, {slow})
    assert wait([failed, slow], DEADLINE_S, FIRST_EXCEPTION) == ({failed}, {slow})
    bad: Future[int] = executor.submit(work.fail, "so")
    wait([bad], DEADLINE_S)
    done, left = wait([found, cancelled, told, bad, slow], DEADLINE_S, FIRST_EXCEPTION)
    assert (done, left) == ({found, told, bad}, {cancelled, slow})
    assert wait([found, failed, told, slow], 0.01) == ({found, failed, told}, {slow})
    gate.open()
    assert wait([found, failed, told, bad, slow], DEADLINE_S) == ({found, failed, told, bad, slow}, set())


def test_as_completed_takes_futures_of_others_too(shared: Executor) -> None:
    others = set(elsewhere()[:3])
    mine = {shared.submit(pow, 2, 3), shared.submit(pow, 2, 4)}
    assert set(as_completed(others | mine, DEADLINE_S)) == others | mine


@pytest.mark.parametrize("timeout_s", [0, 0.05])
def test_as_completed_gives_what_there_is_before_its_time_runs_out(
    executor: Executor, gate: Gate, timeout_s: float
) -> None:
    others = set(elsewhere()[:3])
    found: set[Future[int]] = set()
    with pytest.raises(TimeoutError, match=r"1 \(of 4\) futures unfinished"):
        for future in as_completed(others | {gate.submit(executor)}, timeout_s):
            found.add(future)
    assert found == others


def test_as_completed_holds_no_future_that_it_gave(shared: Executor) -> None:
    futures = [shared.submit(pow, 2, n) for n in range(8)]
    for future in as_completed(futures, DEADLINE_S):
        futures.remove(future)
        reference = weakref.ref(future)
        del future
        until(lambda: gc.collect() >= 0 and reference() is None, "the future to be let go", reference)  # noqa: B023


def test_event_loop_runs_calls_in_it(shared: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(shared, work.square, n) for n in range(50)])

    assert asyncio.run(main()) == [n * n for n in range(50)]


def test_event_loop_that_is_closed_harms_nobody(
    executor: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a loop that ends while a call still runs
    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(executor, work.gated, *gate.paths())
        await asyncio.to_thread(gate.await_started, 1)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    # When the call ends
    gate.open()
    executor.shutdown(wait=True)
    # Then
    assert not caplog.records


def test_event_loop_cancels_calls_that_wait(executor: Executor, kind: Kind, gate: Gate, tmp_path: Path) -> None:
    futures = gate.fill(executor, kind)

    async def main() -> None:
        waiting = asyncio.get_running_loop().run_in_executor(executor, work.mark, str(tmp_path / "mark"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    if isinstance(executor, dtq.Executor):  # a loop does not wait for the coordinator, which is asked soon
        stats = executor.client.stats
        until(lambda: not stats().counts.pending, "the call to be cancelled", stats)
    gate.open()
    wait(futures, DEADLINE_S)
    executor.shutdown(wait=True)
    assert not (tmp_path / "mark").exists()
