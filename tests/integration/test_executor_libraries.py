"""Libraries that take an executor, with dtq's: joblib, dask, asyncio. Each is the real one.

A library that is not there skips its tests on somebody's machine, and fails them where the checks run for everybody.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dtq
from dtq.errors import DtqError, Unreachable
from tests.cluster import DEADLINE_S, free_port
from tests.tasks import executor_work
from tests.tasks import library_work as work


def library(name: str) -> Any:
    """A module, or the end of the test."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def executor() -> Iterator[dtq.Executor]:
    with dtq.Executor.local(2) as executor:
        yield executor


# -- joblib ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def joblib(executor: dtq.Executor) -> Iterator[Any]:
    """joblib with the backend, which the executor of these tests serves."""
    found = library("joblib")
    faces: ModuleType = importlib.import_module("dtq.joblib")
    faces.register(executor=executor)
    with found.parallel_config(backend="dtq"):
        yield found


def test_joblib_runs_calls_in_slots_and_keeps_their_order(joblib: Any) -> None:
    found = joblib.Parallel(n_jobs=-1)(joblib.delayed(sqrt)(n) for n in range(2000))
    processes = set(joblib.Parallel(n_jobs=2)(joblib.delayed(work.pid_of)(n) for n in range(20)))
    assert found == [sqrt(n) for n in range(2000)]
    assert os.getpid() not in processes


def test_slot_imports_no_client_for_joblib(joblib: Any) -> None:
    assert joblib.Parallel(n_jobs=2)([joblib.delayed(executor_work.loaded)("dtq.client.sync")]) == [False]


def test_joblib_knows_how_many_jobs_there_are(joblib: Any) -> None:
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(5) == 5
    with pytest.raises(ValueError, match="no meaning"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(sqrt)(n) for n in range(2))


def test_joblib_raises_what_a_call_raises(joblib: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        joblib.Parallel(n_jobs=2)(joblib.delayed(work.divide)(1, n) for n in (2, 1, 0, 1))
    assert joblib.Parallel(n_jobs=2)([joblib.delayed(work.divide)(1, 2)]) == [0.5]


@pytest.mark.parametrize("order", ["generator", "generator_unordered"])
def test_joblib_gives_results_as_they_come(joblib: Any, order: str) -> None:
    found = joblib.Parallel(n_jobs=2, return_as=order)(joblib.delayed(sqrt)(n) for n in range(50))
    assert sorted(found) == [sqrt(n) for n in range(50)]


def test_joblib_sends_functions_by_value(joblib: Any) -> None:
    offset = 3
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(lambda n: n + offset)(n) for n in range(3)) == [3, 4, 5]


def test_joblib_inside_a_call_works(joblib: Any) -> None:
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(work.nested)(n) for n in (3, 4)) == [3, 6]


def test_joblib_in_a_child_made_by_fork_is_not_parallel_and_says_so(joblib: Any) -> None:
    # When it is called where the executor is the parent's, as in the processes of joblib's "multiprocessing"
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = joblib.Parallel(n_jobs=2)(joblib.delayed(work.pid_of)(n) for n in range(4))
                jobs = joblib.effective_n_jobs(2)
            told = all("backed parallel loops cannot" in str(warning.message) for warning in said)
            code = 0 if found == [os.getpid()] * 4 and jobs == 1 and len(said) == 2 and told else 2
        finally:
            os._exit(code)
    # Then
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert os.getpid() not in joblib.Parallel(n_jobs=2)(joblib.delayed(work.pid_of)(n) for n in range(4))


def test_joblib_that_gives_up_frees_the_slots(joblib: Any, executor: dtq.Executor, tmp_path: Path) -> None:
    # When
    with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
        joblib.Parallel(n_jobs=2, timeout=1)(
            joblib.delayed(work.mark_and_wait)(str(tmp_path / str(n)), 600) for n in range(4)
        )
    # Then
    began = time.monotonic()
    assert executor.submit(sqrt, 4).result(DEADLINE_S) == 2
    assert time.monotonic() - began < DEADLINE_S


def test_joblib_gives_calls_terms(joblib: Any, executor: dtq.Executor) -> None:
    with joblib.parallel_config(backend="dtq", priority=2):
        joblib.Parallel(n_jobs=2, max_retries=1)(joblib.delayed(sqrt)(n) for n in range(3))
    name = "dtq.client.joblib_calls:run_batch"
    found = [view.spec for view in executor.client.tasks(limit=0) if view.spec.function.name == name]
    assert (2, 1) in {(spec.options.priority, spec.options.max_retries) for spec in found}
    with pytest.raises(TypeError, match="prioriy"), joblib.parallel_config(backend="dtq", prioriy=2):
        joblib.Parallel(n_jobs=2)(joblib.delayed(sqrt)(n) for n in range(3))


def test_joblib_begins_each_slot_with_its_initializer(joblib: Any) -> None:
    for value in ("first", "second"):
        with joblib.parallel_config(backend="dtq", initializer=work.remember, initargs=(value,)):
            found = joblib.Parallel(n_jobs=2)(joblib.delayed(work.remembered)() for _ in range(10))
        assert found == [value] * 10


def test_joblib_gives_calls_what_references_in_them_stand_for(joblib: Any, executor: dtq.Executor) -> None:
    # Given values that were put, in the arguments of calls and of an initializer
    number, text = executor.put(4.0), executor.put("of the initializer")
    with joblib.parallel_config(backend="dtq", initializer=work.remember, initargs=(text,)):
        # When joblib sends them in its batches; Then the calls have the values
        calls = (joblib.delayed(work.divide)(number, b=divisor) for divisor in (1, 2, number))
        assert joblib.Parallel(n_jobs=2)(calls) == [4.0, 2.0, 1.0]
        assert set(joblib.Parallel(n_jobs=2)(joblib.delayed(work.remembered)() for _ in range(10))) == {
            "of the initializer"
        }


def test_joblib_limits_the_threads_of_libraries(joblib: Any) -> None:
    share = max(1, joblib.cpu_count() // 2)
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(4))
    assert found == [os.environ.get("OMP_NUM_THREADS", str(share))] * 4
    with joblib.parallel_config(backend="dtq", inner_max_num_threads=3):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(4))
    assert found == ["3"] * 4


def test_joblib_shares_large_arrays_in_files_and_removes_them(joblib: Any, tmp_path: Path) -> None:
    numpy = library("numpy")
    arrays = [numpy.full(size, 7.0) for size in (10, 200_000)]
    with joblib.parallel_config(backend="dtq", temp_folder=str(tmp_path)):
        kinds = joblib.Parallel(n_jobs=2)(joblib.delayed(work.kind_and_sum)(array) for array in arrays)
        same = joblib.Parallel(n_jobs=2)(joblib.delayed(work.same)(array) for array in arrays)
        none = joblib.Parallel(n_jobs=2, max_nbytes=None)(joblib.delayed(work.kind_and_sum)(array) for array in arrays)
    assert kinds == [("ndarray", 70.0), ("memmap", 1_400_000.0)]
    assert [kind for kind, _ in none] == ["ndarray", "ndarray"]
    assert [type(array) for array in same] == [numpy.ndarray, numpy.ndarray]
    with joblib.parallel_config(backend="dtq", temp_folder=str(tmp_path), max_nbytes=1):
        (inner,) = joblib.Parallel(n_jobs=2)([joblib.delayed(work.same)((arrays[0].astype(">f8"), "and more"))])
    assert (type(inner[0]), inner[0].dtype.str, inner[1]) == (numpy.ndarray, ">f8", "and more")
    assert all(numpy.array_equal(*pair) for pair in zip(arrays, same, strict=True))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_joblib_with_one_job_runs_in_the_program(joblib: Any) -> None:
    assert joblib.Parallel(n_jobs=1)([joblib.delayed(os.getpid)()]) == [os.getpid()]


def test_joblib_knows_the_backend_by_its_class(joblib: Any) -> None:
    with joblib.parallel_config(backend="dtq"):
        active, _ = joblib.parallel.get_active_backend()
    assert type(active) is joblib.parallel.BACKENDS["dtq"]


def test_joblib_connects_by_itself_where_no_executor_is_given(joblib: Any, executor: dtq.Executor) -> None:
    cluster = executor._completer.cluster
    assert cluster is not None
    faces: ModuleType = importlib.import_module("dtq.joblib")
    faces.register()
    with joblib.parallel_config(backend="dtq", address=cluster.address, authkey_file=cluster.authkey_file):
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.Parallel(n_jobs=-1)(joblib.delayed(sqrt)(n) for n in (1, 4, 9)) == [1, 2, 3]
    nowhere = f"127.0.0.1:{free_port()}"
    with (
        joblib.parallel_config(backend="dtq", address=nowhere, authkey_file=cluster.authkey_file),
        pytest.raises(Unreachable),
    ):
        joblib.Parallel(n_jobs=2)(joblib.delayed(sqrt)(n) for n in range(3))


def test_joblib_refuses_another_kind_of_executor(joblib: Any) -> None:
    with joblib.parallel_config(backend="dtq", executor=7), pytest.raises(DtqError, match="executor"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(sqrt)(n) for n in range(3))


def test_joblib_that_is_not_there_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    monkeypatch.delitem(sys.modules, "dtq.joblib", raising=False)
    with pytest.raises(ImportError, match=r"dtq\[joblib\]"):
        importlib.import_module("dtq.joblib")


# -- dask -----------------------------------------------------------------------------------------------------------


def test_dask_runs_a_graph(executor: dtq.Executor) -> None:
    dask = library("dask")
    bag = importlib.import_module("dask.bag")
    with dask.config.set(scheduler=executor):
        # When
        squares = bag.from_sequence(range(200), npartitions=20).map(lambda n: n * n).sum()
        processes = {dask.delayed(work.pid_of)(n) for n in range(10)}
        # Then
        assert squares.compute() == sum(n * n for n in range(200))
        assert os.getpid() not in dask.compute(*processes)


def test_dask_computes_arrays(executor: dtq.Executor) -> None:
    dask = library("dask")
    numpy = library("numpy")
    array = importlib.import_module("dask.array")
    with dask.config.set(scheduler=executor):
        found = array.arange(10_000, chunks=1_000).reshape((100, 100)).T.sum(axis=0).compute()
    assert numpy.array_equal(found, numpy.arange(10_000).reshape((100, 100)).T.sum(axis=0))


def test_dask_raises_what_a_task_raises(executor: dtq.Executor) -> None:
    dask = library("dask")
    with dask.config.set(scheduler=executor), pytest.raises(ZeroDivisionError):
        dask.delayed(work.divide)(1, dask.delayed(work.divide)(0, 1)).compute()
