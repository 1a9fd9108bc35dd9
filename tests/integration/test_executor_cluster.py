"""The executor where it is more than the standard library's: its own cluster, terms, a coordinator that comes back."""

from __future__ import annotations

import concurrent.futures.process
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

import dtq
import dtq.client.executor_calls
from dtq.client import watcher
from dtq.client.completing import ExecutorBroken
from dtq.client.futures import TaskFuture
from dtq.client.local import LocalCluster
from dtq.errors import ClusterEnded, InvalidAddress, InvalidValue, TaskCancelled, TaskTimedOut, Unreachable, WrongKey
from tests.cluster import DEADLINE_S, TASKS, Cluster, free_port, until
from tests.contracts.executor_kinds import Gate
from tests.tasks import executor_work as work
from tests.tasks import numbers_work
from tests.tasks import work as real_work


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    directory = tmp_path / "gate"
    directory.mkdir()
    gate = Gate(directory)
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """With one slot, for all tests that leave it as it is."""
    with LocalCluster(1, paths=[TASKS]) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster: LocalCluster) -> Iterator[dtq.Executor]:
    # With terms of its own nothing is known of how long its calls take, and so none are handed out ahead.
    with dtq.Executor(cluster.address, authkey_file=cluster.authkey_file, retry_delay=next(_delays)) as executor:
        yield executor
        executor.shutdown(wait=False, cancel_futures=True)


_delays = count(10)


def marks(directory: Path) -> list[str]:
    return [path.name.partition("-")[2] for path in sorted(directory.iterdir())]


# -- its own cluster ------------------------------------------------------------------------------------------------


def test_own_cluster_ends_with_the_executor() -> None:
    # Given
    executor = dtq.Executor.local(2)
    cluster = executor._completer.cluster
    assert cluster is not None
    processes = [psutil.Process(pid) for pid in cluster.pids.values()]
    # When
    futures = [executor.submit(work.square, n) for n in range(50)]
    executor.shutdown()
    # Then
    assert [future.result(0) for future in futures] == [n * n for n in range(50)]
    assert not any(process.is_running() for process in processes)


def test_dropped_executor_ends_its_cluster() -> None:
    executor = dtq.Executor.local(1)
    cluster = executor._completer.cluster
    assert cluster is not None
    processes = [psutil.Process(pid) for pid in cluster.pids.values()]
    future = executor.submit(work.square, 3)
    del executor, cluster
    assert future.result(DEADLINE_S) == 9
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE_S)
    assert not alive


@pytest.mark.parametrize("name", ["coordinator", "worker"])
def test_executor_whose_cluster_dies_is_broken(gate: Gate, name: str) -> None:
    # Given
    executor = dtq.Executor.local(1)
    cluster = executor._completer.cluster
    assert cluster is not None
    futures = [gate.submit(executor) for _ in range(3)]
    gate.await_started(1)
    results = executor.map(work.square, range(5))
    # When
    os.kill(cluster.pids[name], signal.SIGKILL)
    # Then
    errors = [future.exception(DEADLINE_S) for future in futures]
    for error in errors:
        assert isinstance(error, ExecutorBroken)
        assert isinstance(error, BrokenExecutor)
        assert name in str(error)
    assert len(set(map(id, errors))) == len(futures)  # or their tracebacks would grow into each other
    with pytest.raises(BrokenExecutor):
        next(results)
    with pytest.raises(BrokenExecutor):
        executor.submit(work.square, 2)
    with pytest.raises(BrokenExecutor):
        executor.map(work.square, [2])
    executor.shutdown()


def test_executor_whose_client_is_closed_is_broken(cluster: LocalCluster, gate: Gate) -> None:
    executor = dtq.Executor(cluster.address, authkey_file=cluster.authkey_file)
    future = gate.submit(executor)
    gate.await_started(1)
    executor.client.close()
    assert isinstance(future.exception(DEADLINE_S), BrokenExecutor)
    with pytest.raises(BrokenExecutor):
        executor.submit(work.square, 2)
    executor.shutdown()


def test_executor_that_cannot_start_its_thread_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a program that can start no more threads at the moment the executor starts its own
    before = set(threading.enumerate())
    processes: list[psutil.Process] = []

    def refuse(_: object, cluster: LocalCluster) -> None:
        processes.extend(psutil.Process(pid) for pid in cluster.pids.values())
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(dtq.client.executor_calls, "Completer", refuse)
    # When
    with pytest.raises(RuntimeError, match="can't start new thread"):
        dtq.Executor.local(1)
    # Then neither the client's threads nor the cluster's processes are left
    assert processes
    assert not any(process.is_running() for process in processes)
    until(lambda: set(threading.enumerate()) <= before, "the threads to end", threading.enumerate)


@pytest.mark.parametrize("slots", [0, -1])
def test_executor_needs_a_slot(slots: int) -> None:
    # In the words of the standard library, in whichever way the number is given
    for make in (lambda: dtq.Executor.local(slots), lambda: dtq.Executor.local(max_workers=slots)):
        with pytest.raises(ValueError, match=r"^max_workers must be greater than 0$"):
            make()
    with pytest.raises(TypeError, match="the same"):
        dtq.Executor.local(1, max_workers=1)


def test_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_worker'"):
        dtq.Executor.local(1, max_worker=1)  # type: ignore[call-arg]


def test_what_is_asked_of_the_processes_of_others_is_refused_and_the_way_to_it_is_named() -> None:
    executor: Any = dtq.Executor
    for asked, way in (
        ({"initializer": print}, "dtq worker --init module:function"),
        ({"initargs": (1,)}, "dtq worker --init"),
        ({"max_workers": 4}, "dtq worker --slots N"),
        ({"max_tasks_per_child": 4}, "dtq worker --max-tasks-per-slot N"),
        ({"mp_context": None}, "fresh processes"),
    ):
        with pytest.raises(TypeError, match=re.escape(way)):
            executor("127.0.0.1:1", **asked)
    with pytest.raises(TypeError, match=re.escape("Executor.local(4)")):
        executor(4)
    with pytest.raises(InvalidAddress, match="4"):
        dtq.Client(4)  # type: ignore[arg-type]


def test_local_cluster_takes_the_standard_librarys_arguments_and_its_own_limits(tmp_path: Path) -> None:
    with dtq.Executor.local(
        max_workers=2, initializer=work.init, initargs=(str(tmp_path), "slot"), max_message="32MiB", keep_results=60
    ) as executor:
        assert executor.submit(len, b"x" * (20 << 20)).result(DEADLINE_S) == 20 << 20
        assert executor._max_workers == 2
        until(lambda: len(list(tmp_path.iterdir())) == 2, "both slots to begin")
    wrongs: list[dict[str, Any]] = [{"max_message": "much"}, {"keep_results": "long"}]
    for wrong in wrongs:
        with pytest.raises(InvalidValue, match=next(iter(wrong))):
            dtq.Executor.local(1, **wrong)
    with pytest.raises(TypeError, match="callable"):
        dtq.Executor.local(1, initializer=3)  # type: ignore[arg-type]


def test_slot_is_replaced_after_so_many_calls() -> None:
    with dtq.Executor.local(1, max_tasks_per_child=3) as executor:
        pids = [executor.submit(work.pid).result(DEADLINE_S) for _ in range(7)]
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert pids[3] == pids[4] == pids[5] != pids[6]


@pytest.mark.parametrize(
    ("count", "kind", "words"),
    [
        (0, ValueError, "max_tasks_per_child must be >= 1"),
        (-1, ValueError, "max_tasks_per_child must be >= 1"),
        (1.5, TypeError, "max_tasks_per_child must be an integer"),
    ],
)
def test_number_of_calls_of_a_slot_is_refused_as_by_the_standard_library(
    count: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=f"^{words}$"):
        dtq.Executor.local(1, max_tasks_per_child=count)
    with pytest.raises(kind, match=f"^{words}$"):
        concurrent.futures.ProcessPoolExecutor(1, max_tasks_per_child=count)


def test_initializer_that_fails_breaks_the_executor_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with dtq.Executor.local(1, initializer=work.fail_to_init) as executor:
        with pytest.raises(BrokenExecutor, match="there is nothing to begin with"):
            executor.submit(work.square, 2).result(DEADLINE_S)
        with pytest.raises(BrokenExecutor):
            executor.submit(work.square, 2)
        assert executor._broken
    assert any(
        record.name == "concurrent.futures" and "LookupError: there is nothing" in record.getMessage()
        for record in caplog.records
    )


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_exceptions_that_end_programs_are_in_the_future(executor: dtq.Executor, kind: type[BaseException]) -> None:
    error = executor.submit(work.raise_at_once, kind).exception(DEADLINE_S)
    assert type(error) is kind
    with pytest.raises(kind):
        next(executor.map(work.raise_at_once, [kind]))
    assert executor.submit(work.square, 2).result(DEADLINE_S) == 4


def test_cause_of_an_exception_is_the_standard_librarys(executor: dtq.Executor) -> None:
    error = executor.submit(work.raise_at_once, LookupError).exception(DEADLINE_S)
    assert error is not None
    assert type(error.__cause__) is concurrent.futures.process._RemoteTraceback
    assert "on its way out" in error.__cause__.tb


def test_cluster_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterEnded, match=r"queue\.db"):
        dtq.Executor.local(1, db=tmp_path / "file" / "queue.db")


def test_store_keeps_what_an_earlier_executor_left(tmp_path: Path, gate: Gate) -> None:
    # Given an executor with a store, whose program is killed before its calls have run
    store = tmp_path / "queue.db"
    executor = dtq.Executor.local(1, db=store)
    gate.submit(executor)
    gate.await_started(1)
    future = executor.submit(work.mark, str(tmp_path / "mark"))
    assert isinstance(future, TaskFuture)
    assert future.task is not None
    id = future.task.id
    assert future.task.accepted(DEADLINE_S)
    assert executor._completer.cluster is not None
    os.kill(executor._completer.cluster.pids["coordinator"], signal.SIGKILL)
    executor.shutdown()
    gate.open()
    # When
    with dtq.Executor.local(1, db=store) as again:
        # Then
        again.client.get(id).result(DEADLINE_S)
    assert (tmp_path / "mark").exists()


def test_child_made_by_fork_cannot_use_it_and_does_not_end_it(executor: dtq.Executor) -> None:
    # When
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            executor.submit(work.square, 2)
        except RuntimeError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            executor.shutdown()
            os._exit(code)
    # Then
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert executor.submit(work.square, 2).result(DEADLINE_S) == 4


def test_end_is_not_taken_for_a_death_while_a_child_made_by_fork_lives(caplog: pytest.LogCaptureFixture) -> None:
    # Given a child that has all descriptors of the program
    before = set(threading.enumerate())
    executor = dtq.Executor.local(1)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            signal.pause()
        finally:
            os._exit(0)
    # When
    try:
        executor.shutdown()
        until(lambda: set(threading.enumerate()) <= before, "the threads to end", threading.enumerate)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # Then
    assert not executor._broken
    assert "unexpectedly" not in caplog.text


# -- terms ----------------------------------------------------------------------------------------------------------


def test_options_give_terms_for_some_calls(executor: dtq.Executor, gate: Gate, tmp_path: Path) -> None:
    # Given a slot that is busy
    gate.submit(executor)
    gate.await_started(1)
    directory = tmp_path / "marks"
    directory.mkdir()
    # When
    futures: list[Future[str]] = [
        executor.submit(real_work.note, str(directory), "usual"),
        executor.options(priority=9).submit(real_work.note, str(directory), "late"),
        executor.options(priority=9).options(priority=1, max_retries=2).submit(real_work.note, str(directory), "early"),
    ]
    wait(futures, 0.05)
    gate.open()
    # Then
    assert [future.result(DEADLINE_S) for future in futures] == ["usual", "late", "early"]
    assert marks(directory) == ["early", "usual", "late"]


def test_options_view_is_an_executor_that_shares_everything(executor: dtq.Executor) -> None:
    view = executor.options(priority=2)
    assert isinstance(view, Executor)
    assert list(view.map(work.square, range(5), chunksize=2)) == [0, 1, 4, 9, 16]
    assert list(view.map(work.square, range(5), buffersize=2)) == [0, 1, 4, 9, 16]
    view.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(work.square, 1)


@pytest.mark.parametrize("options", [{"priority": 0}, {"max_retries": -1}, {"timeout": "soon"}, {"delay": -1}])
def test_wrong_options_are_refused_where_they_are_given(executor: dtq.Executor, options: dict[str, int]) -> None:
    with pytest.raises(InvalidValue):
        executor.options(**options)  # type: ignore[arg-type]


def test_first_failure_is_final_unless_told_otherwise(executor: dtq.Executor, tmp_path: Path) -> None:
    once = executor.submit(real_work.flaky, str(tmp_path), "once", 1)
    assert isinstance(once.exception(DEADLINE_S), ConnectionError)
    patient = executor.options(max_retries=1, retry_delay=0)
    assert patient.submit(real_work.flaky, str(tmp_path), "twice", 1).result(DEADLINE_S) == "twice"


def test_functions_own_terms_hold(executor: dtq.Executor) -> None:
    for future in (
        executor.submit(numbers_work.urgent, 1),
        executor.options(queue="default").submit(numbers_work.urgent, 1),
    ):
        future.result(DEADLINE_S)
        assert isinstance(future, TaskFuture)
        assert future.task is not None
        options = future.task.status().spec.options
        assert (options.priority, options.max_retries, options.timeout_s) == (1, 0, 60)


def test_functions_own_terms_hold_in_chunks(executor: dtq.Executor) -> None:
    list(executor.map(numbers_work.urgent, range(4), chunksize=2))
    (view, *_) = [view for view in executor.client.tasks(limit=0) if "run_chunk" in view.spec.function.name]
    assert (view.spec.options.priority, view.spec.options.timeout_s) == (1, 60)


def test_results_do_not_wait_for_a_long_call_behind_them(executor: dtq.Executor, tmp_path: Path) -> None:
    # Given calls that are known to be tiny, so that many are leased together
    nothing, started, gate = os.devnull, str(tmp_path / "started"), tmp_path / "long"
    assert sum(executor.map(work.gated, [nothing] * 500, [nothing] * 500, [1] * 500)) == 500
    # When the last of them takes long
    paths = [nothing] * 5, [nothing] * 5
    results = executor.map(work.gated, [*paths[0], started], [*paths[1], str(gate)], range(6), timeout=DEADLINE_S)
    # Then the others' results are there while it runs
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    gate.touch()
    assert list(results) == [5]


def test_slot_imports_no_client_for_a_chunk(executor: dtq.Executor) -> None:
    assert list(executor.map(work.square, range(4), chunksize=2)) == [0, 1, 4, 9]
    assert executor.submit(work.loaded, "dtq.client.bundles").result(DEADLINE_S)
    assert not executor.submit(work.loaded, "dtq.client.executor_map").result(DEADLINE_S)
    assert not executor.submit(work.loaded, "dtq.client.sync").result(DEADLINE_S)


def test_time_limit_ends_the_call(executor: dtq.Executor) -> None:
    future = executor.options(timeout=0.2).submit(time.sleep, 60)
    assert isinstance(future.exception(DEADLINE_S), TaskTimedOut)


def test_running_task_can_be_stopped_by_its_handle(executor: dtq.Executor, gate: Gate) -> None:
    # Given
    future = gate.submit(executor)
    gate.await_started(1)
    assert isinstance(future, TaskFuture)
    assert future.task is not None
    until(future.running, "the future to be running")
    # When
    assert not future.cancel()
    assert future.task.cancel()
    # Then
    assert isinstance(future.exception(DEADLINE_S), TaskCancelled)


def test_task_that_somebody_else_cancels_is_a_cancelled_future(executor: dtq.Executor, gate: Gate) -> None:
    # Given
    gate.submit(executor)
    gate.await_started(1)
    future = executor.submit(work.square, 2)
    assert isinstance(future, TaskFuture)
    assert future.task is not None
    # When
    assert future.task.cancel()
    # Then
    until(future.cancelled, "the future to be cancelled")


def test_max_workers_is_the_number_of_slots(executor: dtq.Executor, cluster: LocalCluster) -> None:
    assert executor._max_workers == executor.options(priority=1)._max_workers == cluster.slots


# -- somebody else's cluster ----------------------------------------------------------------------------------------


def test_coordinator_that_is_killed_and_comes_back_costs_no_future(tmp_path: Path, gate: Gate) -> None:
    with Cluster(tmp_path) as cluster:
        # Given
        coordinator = cluster.coordinator()
        cluster.worker("--path", str(Path(__file__).parents[2]), slots=2)
        with dtq.Executor(cluster.address, authkey_file=cluster.key_file) as executor:
            futures = [gate.submit(executor, n) for n in range(5)]
            results = executor.map(work.square, range(100))
            gate.await_started(2)
            # When
            coordinator.kill()
            late = executor.submit(work.square, 12)
            cluster.coordinator()
            gate.open()
            # Then
            assert [future.result(DEADLINE_S) for future in futures] == [0, 1, 2, 3, 4]
            assert late.result(DEADLINE_S) == 144
            assert list(results) == [n * n for n in range(100)]


def test_coordinator_that_comes_back_with_another_key_breaks_the_executor(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        # Given
        coordinator = cluster.coordinator()
        executor = dtq.Executor(cluster.address, authkey_file=cluster.key_file)
        future = executor.submit(work.square, 2)
        assert isinstance(future, TaskFuture)
        assert future.task is not None
        assert future.task.accepted(DEADLINE_S)
        # When
        coordinator.kill()
        cluster.key_file.write_text("fedcba9876543210" * 2)
        cluster.coordinator()
        # Then
        error = future.exception(DEADLINE_S)
        assert isinstance(error, ExecutorBroken)
        assert "key" in str(error)
        executor.shutdown()


def test_nobody_there_and_a_wrong_key_are_said_at_once(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 2)
    key.chmod(0o600)
    with pytest.raises(Unreachable):
        dtq.Executor(f"127.0.0.1:{free_port()}", authkey_file=key, connect_timeout=2)
    with Cluster(tmp_path) as cluster:
        cluster.coordinator()
        with pytest.raises(WrongKey):
            dtq.Executor(cluster.address, authkey_file=key)


def test_program_ends_although_its_coordinator_never_comes_back(tmp_path: Path) -> None:
    # Given a program that waits at its end for a future that nobody runs
    program = """
import sys
import dtq.client.completing
from dtq import Executor
dtq.client.completing.AWAY_AT_EXIT_S = 0.5
executor = Executor(sys.argv[1], authkey_file=sys.argv[2])
executor.submit(abs, -1).task.accepted()
print("accepted", flush=True)
sys.stdin.read()
"""
    with Cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator()
        words = [sys.executable, "-c", program, cluster.address, str(cluster.key_file)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=cluster.environment) as popen:
            assert popen.stdin is not None
            assert popen.stdout is not None
            assert popen.stdout.readline() == b"accepted\n"
            # When the coordinator is gone for good
            coordinator.kill()
            popen.stdin.close()
            # Then the program ends all the same
            popen.wait(DEADLINE_S)


# -- what is kept -------------------------------------------------------------------------------------------------


def test_what_an_executor_has_read_is_kept_no_longer(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given clients that soon ask for news again, with which they tell what they have read
    monkeypatch.setattr(watcher, "WAIT_S", 0.2)
    # And more results than it is worth waiting with, read by futures and by a map; and a small one
    big = 3 << 20
    key = cluster.authkey_file
    with (
        dtq.Client(cluster.address, authkey_file=key) as client,
        dtq.Executor(cluster.address, authkey_file=key) as ours,
    ):
        small = ours.submit(work.square, 1)
        futures = [ours.submit(bytes, big) for _ in range(3)]
        assert [len(future.result()) for future in futures] == [big] * 3
        assert [len(result) for result in ours.map(bytes, [big] * 3)] == [big] * 3
        ids = [_id(future) for future in (small, *futures[:2])]
        until(lambda: [_is_kept(client, id) for id in ids] == [False] * 3, "three results have been let go")

        # Then futures still have them
        assert [len(future.result()) for future in futures] == [big] * 3
        assert small.result() == 1


def _id(future: Future[Any]) -> str:
    assert isinstance(future, TaskFuture)
    assert future.task is not None
    return str(future.task.id)


def _is_kept(client: dtq.Client, id: str) -> bool:
    try:
        client.status(id)
    except dtq.errors.ResultExpired:
        return False
    return True
