"""What an executor promises of what does not pickle, what dies and what is forgotten, and of its end.

For both executors, as in test_executor.py.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
)
from functools import partial
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest

from tests.cluster import until
from tests.contracts.executor_kinds import DEADLINE_S, SLOTS, Gate, Kind
from tests.tasks import executor_work as work

# -- what does not pickle, and what dies ----------------------------------------------------------------------------


def test_argument_that_cannot_be_pickled_fails_in_the_future(shared: Executor) -> None:
    future = shared.submit(work.square, threading.Lock())  # type: ignore[arg-type]
    assert isinstance(future.exception(DEADLINE_S), TypeError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


def test_result_that_cannot_be_pickled_fails_in_the_future(shared: Executor) -> None:
    assert isinstance(shared.submit(work.lock).exception(DEADLINE_S), TypeError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


def test_error_of_pickling_itself_is_in_the_future(shared: Executor) -> None:
    assert isinstance(shared.submit(id, work.NotThere()).exception(DEADLINE_S), PicklingError)
    assert isinstance(shared.submit(work.not_there).exception(DEADLINE_S), PicklingError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


def test_error_of_pickling_is_in_the_future_also_after_a_shutdown(kind: Kind) -> None:
    executor = kind.make()
    future = executor.submit(id, work.NotThere())
    executor.shutdown(wait=False)
    assert isinstance(future.exception(DEADLINE_S), PicklingError)
    executor.shutdown(wait=True)


def test_exception_that_does_not_come_back_is_an_exception_still(executor: Executor, kind: Kind) -> None:
    assert isinstance(executor.submit(work.raise_awkward).exception(DEADLINE_S), Exception)


def test_function_that_cannot_be_pickled_fails_in_the_future(shared: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # as if the extra were not installed
    error = shared.submit(lambda: 1).exception(DEADLINE_S)
    assert isinstance(error, PicklingError | AttributeError)
    assert shared.submit(work.square, 2).result(DEADLINE_S) == 4


def test_closure_over_what_cannot_be_pickled_fails_in_the_future(shared: Executor) -> None:
    lock = threading.Lock()
    error = shared.submit(lambda: lock.locked()).exception(DEADLINE_S)
    assert isinstance(error, PicklingError | AttributeError | TypeError)
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


@pytest.mark.parametrize("at", ["argument", "result"])
def test_process_that_dies_while_it_pickles_fails_its_call(executor: Executor, kind: Kind, at: str) -> None:
    future: Future[Any] = executor.submit(id, work.Ends()) if at == "argument" else executor.submit(work.not_there, 5)
    assert isinstance(future.exception(DEADLINE_S), kind.crash)


def test_calls_with_much_data_whose_processes_die_fail(executor: Executor, kind: Kind) -> None:
    results = executor.map(work.leave_over, ["x" * 300_001] * 5)
    with pytest.raises(kind.crash):
        next(results)


def test_call_whose_process_is_killed_fails_or_runs_again(executor: Executor, kind: Kind, gate: Gate) -> None:
    # Given
    future = gate.submit(executor, 7)
    (pid,) = until(gate.pids, "the call to begin")
    # When
    os.kill(pid, signal.SIGKILL)
    # Then
    if kind.crash_breaks:
        assert isinstance(future.exception(DEADLINE_S), kind.crash)
    else:
        until(lambda: gate.pids() - {pid}, "the call to begin again", gate.pids)
        gate.open()
        assert future.result(DEADLINE_S) == 7


def test_shutdown_ends_although_a_process_dies_after_it(kind: Kind, gate: Gate) -> None:
    # Given
    executor = kind.make()
    futures = [gate.submit(executor), executor.submit(work.leave, 3)]
    # When
    executor.shutdown(wait=False)
    gate.open()
    executor.shutdown(wait=True)
    # Then
    assert isinstance(futures[1].exception(DEADLINE_S), kind.crash)


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


def test_argument_is_let_go_although_the_future_was_never_kept(shared: Executor) -> None:
    thing = work.Plain(4)
    reference = weakref.ref(thing)
    shared.submit(thing.double)
    del thing
    until(lambda: gc.collect() >= 0 and reference() is None, "the argument to be let go", reference)


def test_argument_is_let_go_in_its_process(shared: Executor, tmp_path: Path) -> None:
    departed = tmp_path / "departed"
    shared.submit(id, work.Departing(str(departed))).result(DEADLINE_S)
    until(departed.exists, "the argument to be let go")


def test_results_of_a_map_are_let_go_one_by_one(shared: Executor) -> None:
    for thing in shared.map(work.plain, range(3)):
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


def test_shutdown_waits_for_nothing_that_was_cancelled_a_moment_ago(kind: Kind) -> None:
    executor = kind.make()
    executor.submit(int).result(DEADLINE_S)
    future = executor.submit(int)
    future.cancel()
    executor.shutdown(wait=True)
    assert future.done()


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


#: A program that leaves its executor as it is, or asks for more when it is too late.
PROGRAM = """
import atexit, sys, time
from tests.tasks import executor_work as work

def tell(future):
    print(future.result(), flush=True)

def too_late():
    try:
        executor.submit(work.square, 2)
    except RuntimeError as error:
        print("refused" if "cannot schedule new futures after" in str(error) else error, flush=True)

if __name__ == "__main__":
    if sys.argv[2] == "asks":
        atexit.register(too_late)  # runs after what is registered later, by the executors' modules
    from tests.contracts.executor_kinds import KINDS

    kind = KINDS[sys.argv[1]]()
    executor = kind.make()
    for n in range(5):
        executor.submit(work.square, n).add_done_callback(tell)
    if sys.argv[2] == "shuts down":
        executor.shutdown(wait=False)
    print("end", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("standard", "leaves"),
        ("dtq", "leaves"),
        ("dtq", "shuts down"),  # the standard library's may hang there
        ("standard", "asks"),
        ("dtq", "asks"),
    ],
)
def test_program_ends_when_its_futures_are_done(name: str, way: str, tmp_path: Path) -> None:
    # Given a program that ends without waiting
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    # When
    done = subprocess.run(
        [sys.executable, str(script), name, way], capture_output=True, text=True, timeout=DEADLINE_S, env=environment
    )
    # Then
    said = ["end", "0", "1", "4", "9", "16"] + ["refused"] * (way == "asks")
    assert done.stderr == ""
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == sorted(said)
