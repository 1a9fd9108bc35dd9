"""Which of CPython's own tests of `ProcessPoolExecutor` does `dtq.Executor` pass?

Usage: python scripts/conformance/cpython_executor.py [--tests DIR] [-k WORD]

Takes the tests from this Python, or from a directory with ``test_concurrent_futures`` where this Python came without
them. Tests of what only the standard pool has are left out, and named; what is left runs as it stands, with two
replacements: the name of the class, and `BrokenProcessPool`, for which stands what `dtq.Executor` raises when a call's
process dies (docs/executor.md says why that is no `BrokenProcessPool`). What tests look at inside of the pool, its
processes and threads, are the slots' processes and the executor's threads (`standard_names`).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib
import multiprocessing
import os
import sys
import time
import unittest
import unittest.mock
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import standard_names

#: What may stand for `BrokenProcessPool`: the call's own failure, as the others go on.
CRASHED = ("TaskCrashed", "CannotUnpickle", "TaskFailed")
#: The groups: module and class.
GROUPS = (
    ("test_process_pool", "ProcessPoolExecutorTest"),
    ("test_shutdown", "ProcessPoolShutdownTest"),
    ("test_deadlock", "ExecutorDeadlockTest"),
    ("test_init", "InitializerMixin"),
    ("test_init", "FailingInitializerMixin"),
    ("test_wait", "WaitTests"),
    ("test_as_completed", "AsCompletedTests"),
)
#: What is left out, and why.
LEFT_OUT = {
    "test_max_workers_too_large": "it is about Windows",
    "test_idle_process_reuse_one": "processes are not started on demand; it skips the pools of which that is true",
    "test_idle_process_reuse_multiple": "processes are not started on demand; it skips the pools of which that is true",
    "test_max_tasks_per_child_defaults_to_spawn_context": "there is no context of multiprocessing",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "it replaces parts of the pool that are not here",
}
#: What is run and does not pass, and why.
DIFFERENT = {
    "test_killed_child": "a call whose process dies runs again; it does not break the executor",
    "test_python_finalization_error": "where no thread can be started, making the executor says so, not the first call",
}
#: Tests that expect of pools of the start method "fork" that all processes are started at once, as slots are.
AT_ONCE = {"test_processes_terminate"}


def load(name: str) -> ModuleType:
    """One of CPython's modules; before 3.12 there is one for all."""
    package = importlib.import_module("test.test_concurrent_futures")
    if hasattr(package, "__path__"):
        return importlib.import_module(f"test.test_concurrent_futures.{name}")
    return package


def adapt(module: ModuleType) -> None:
    """Have a module's tests expect what docs/executor.md says, and start programs that use dtq."""
    from dtq import errors

    if hasattr(module, "BrokenProcessPool"):
        kinds = tuple(getattr(errors, name) for name in CRASHED)
        module.BrokenProcessPool = (BrokenExecutor, *kinds)  # type: ignore[attr-defined]
    if hasattr(module, "ProcessPoolShutdownTest"):
        for name in BY_NAME:
            setattr(
                module.ProcessPoolShutdownTest, name, with_dtq(module, getattr(module.ProcessPoolShutdownTest, name))
            )
    run: Any = getattr(module, "assert_python_ok", None)
    if run is None or hasattr(run, "adapted"):
        return

    def assert_python_ok(*words: str, **environment: str) -> Any:
        old = f"from concurrent.futures import {standard_names.DtqExecutor.__name__}"
        new = f"from standard_names import {standard_names.DtqExecutor.__name__}"
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        return run(*[word.replace(old, new) for word in words], **environment)

    assert_python_ok.adapted = True  # type: ignore[attr-defined]
    module.assert_python_ok = assert_python_ok  # type: ignore[attr-defined]


#: Tests that make a ``futures.ProcessPoolExecutor`` whatever they are asked of.
BY_NAME = ("test_context_manager_shutdown", "test_del_shutdown", "test_shutdown_no_wait")


def with_dtq(module: ModuleType, test: Any) -> Any:
    """One of them, with the name standing for `dtq.Executor`."""
    if hasattr(test, "adapted"):
        return test
    names = ModuleType("futures")
    vars(names).update(vars(concurrent.futures), ProcessPoolExecutor=standard_names.DtqExecutor)

    @functools.wraps(test)
    def run(case: unittest.TestCase) -> None:
        with unittest.mock.patch.object(module, "futures", names):
            test(case)

    run.adapted = True  # type: ignore[attr-defined]
    return run


class Mixin:
    """What stands for CPython's own mixin for one kind of executor."""

    executor_type = standard_names.DtqExecutor

    def get_context(self) -> Any:
        """Of what the tests make beside the executor; and by which they say how a pool starts its processes."""
        assert isinstance(self, unittest.TestCase)
        return multiprocessing.get_context("fork" if self._testMethodName in AT_ONCE else "spawn")


class Outcome(unittest.TextTestResult):
    """Counts, and names as it goes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        """See `unittest.TestResult`."""
        super().addSuccess(test)
        self.passed.append(test.id())


def suite_of(word: str) -> tuple[unittest.TestSuite, list[str]]:
    """The tests, and the names of those left out."""
    suite, left_out = unittest.TestSuite(), []
    for module_name, name in GROUPS:
        module = load(module_name)
        adapt(module)
        util = load("util")
        group = getattr(module, name)
        own = (Mixin,) if issubclass(group, util.ExecutorMixin) else (Mixin, util.ExecutorMixin)
        # The mixin's own attributes first, then the group, which may make the executor its own way.
        case = type(f"Dtq{name}", (Mixin, group, *own[1:], util.BaseTestCase), {})
        if hasattr(group, "_test_traceback"):  # to be found by its name, as a class of the module is
            case._test_traceback = staticmethod(group._test_traceback)  # type: ignore[attr-defined]
        for method in unittest.defaultTestLoader.getTestCaseNames(case):
            if method in LEFT_OUT:
                left_out.append(method)
            elif word in f"{name}.{method}":
                suite.addTest(case(method))
    return suite, left_out


def main() -> int:
    """Run them, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tests", metavar="DIR", type=Path, help="the directory that has test_concurrent_futures")
    parser.add_argument("-k", default="", metavar="WORD", help="only tests with this in their name")
    arguments = parser.parse_args()
    if arguments.tests:
        os.environ[standard_names.TESTS] = str(arguments.tests.resolve())
        standard_names.test.__path__.append(str(arguments.tests.resolve()))
    suite, left_out = suite_of(arguments.k)
    begun = time.monotonic()
    result = unittest.TextTestRunner(resultclass=Outcome, verbosity=2).run(suite)
    assert isinstance(result, Outcome)
    failed = [test.id().rpartition(".")[2] for test, _ in [*result.failures, *result.errors]]
    print(f"\nPython {sys.version.split()[0]}: {len(result.passed)} of {result.testsRun} passed", end=" ")
    print(f"({len(result.skipped)} skipped by themselves) in {time.monotonic() - begun:.0f} s")
    for name in failed:
        print(f"  failed: {name}{': ' * (name in DIFFERENT)}{DIFFERENT.get(name, '')}")
    for name in left_out:
        print(f"  left out: {name}: {LEFT_OUT[name]}")
    return bool(set(failed) - set(DIFFERENT))


if __name__ == "__main__":
    sys.exit(main())
