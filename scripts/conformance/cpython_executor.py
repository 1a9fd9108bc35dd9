"""Which of CPython's own tests of `ProcessPoolExecutor` does `dtq.Executor` pass?

Usage: python scripts/conformance/cpython_executor.py [--tests DIR] [-k WORD]

Takes the tests from this Python, or from a directory with ``test_concurrent_futures`` where this Python came without
them. Tests that reach into the innards of the standard pool are left out, and named; what is left runs as it stands,
with two replacements: the name of the class, and `BrokenProcessPool`, for which stands what `dtq.Executor` raises when
a call's process dies (docs/executor.md says why that is no `BrokenProcessPool`).
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import time
import unittest
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
_PROCESSES = "it looks into `_processes` of the pool; slots belong to a worker"
_PARTS = "it replaces or awaits a part inside of ProcessPoolExecutor"
#: What is left out, and why.
LEFT_OUT = {
    "test_max_workers_too_large": "it is about Windows",
    "test_killed_child": _PROCESSES,
    "test_saturation": _PROCESSES,
    "test_idle_process_reuse_one": _PROCESSES,
    "test_idle_process_reuse_multiple": _PROCESSES,
    "test_processes_terminate": _PROCESSES,
    "test_context_manager_shutdown": _PROCESSES,
    "test_del_shutdown": _PROCESSES,
    "test_shutdown_no_wait": _PROCESSES,
    "test_max_tasks_per_child": "a worker's own option: --max-tasks-per-slot",
    "test_max_tasks_per_child_defaults_to_spawn_context": "there is no context of multiprocessing",
    "test_max_tasks_early_shutdown": "a worker's own option: --max-tasks-per-slot",
    "test_python_finalization_error": _PARTS,
    "test_shutdown_deadlock_pickle": _PARTS,
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": _PARTS,
    "test_hang_gh83386": "left out for process pools by the test itself",
}


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


class Mixin:
    """What stands for CPython's own mixin for one kind of executor."""

    executor_type = standard_names.DtqExecutor

    @staticmethod
    def get_context() -> Any:
        """Of what the tests make beside the executor."""
        return multiprocessing.get_context("spawn")


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
    failed = [test.id().partition(".")[2] for test, _ in [*result.failures, *result.errors]]
    print(f"\nPython {sys.version.split()[0]}: {len(result.passed)} of {result.testsRun} passed", end=" ")
    print(f"({len(result.skipped)} skipped by themselves) in {time.monotonic() - begun:.0f} s")
    for name in failed:
        print(f"  failed: {name}")
    for name in left_out:
        print(f"  left out: {name}: {LEFT_OUT[name]}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
