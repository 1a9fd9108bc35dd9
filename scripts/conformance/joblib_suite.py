"""Which of joblib's own tests of `joblib.Parallel` pass where dtq stands for joblib's own processes?

Usage: python scripts/conformance/joblib_suite.py [words for pytest]

``"loky"`` is dtq's backend here, with a cluster of its own; all of joblib's ``test_parallel.py`` runs. Of some tests a
parameter says what a kind of backend does, and is set to what dtq's does (`ADJUSTED`). To leave out the tests of
joblib's other backends: ``-k "not multiprocessing and not threading and not sequential"``. Needs pytest, numpy and the
extra ``joblib``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import joblib
import pytest
from joblib import parallel

import dtq.joblib
from dtq import Executor

#: Parameters that say of the backend under test what it does: test, parameter, its value here, of which backends, and
#: why that is so.
ADJUSTED = (
    (
        "test_multiple_generator_call_separated_gc",
        {"error": False},
        {"backend": "loky"},
        "the calls of two Parallel objects are apart, as with threads: dropping the one's generator ends not the other",
    ),
    (
        "test_nested_parallel_warnings",
        {"expected": False},
        {"parent_backend": "threading", "child_backend": "loky"},
        "dtq's backend is parallel in threads, too",
    ),
    (
        "test_nested_parallel_warnings",
        {"expected": False},
        {"parent_backend": "loky", "child_backend": "multiprocessing"},
        "what joblib nests in a slot is parallel",
    ),
)


class Plugin:
    """Puts dtq's backend in the place of joblib's own.

    Args:
        executor: runs the calls.
        slots: how many at once. For joblib this machine has as many cores: it expects that of every backend.
    """

    def __init__(self, executor: Executor, slots: int) -> None:
        self._executor = executor
        self._slots = slots
        self._adjusted: list[str] = []

    def pytest_configure(self) -> None:
        """Before joblib's tests are imported, which look at what there is."""
        dtq.joblib.register(executor=self._executor, make_default=True)
        backend = parallel.BACKENDS["loky"] = parallel.BACKENDS.pop("dtq")
        parallel.DEFAULT_BACKEND = "loky"
        backend.__name__ = "LokyBackend"  # the name that the tests expect
        joblib._parallel_backends.LokyBackend = backend
        for module in (joblib, parallel, joblib._parallel_backends):
            module.cpu_count = lambda *_, **__: self._slots

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Adjust what is in `ADJUSTED`."""
        for item in items:
            assert isinstance(item, pytest.Function)
            for name, values, where, why in ADJUSTED:
                given = item.callspec.params if item.originalname == name else {}
                if given and where.items() <= given.items():
                    given.update(values)
                    self._adjusted.append(f"{item.name} with {values}: {why}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was adjusted."""
        for line in self._adjusted:
            terminalreporter.write_line(f"  adjusted: {line}")


def main(words: list[str]) -> int:
    """Run them."""
    print(f"joblib {joblib.__version__}, Python {sys.version.split()[0]}")
    os.chdir(os.path.dirname(joblib.__file__))  # joblib's tests know nothing of this project's settings
    slots = max(4, joblib.cpu_count())  # some tests have 4 calls wait for each other
    with Executor.local(slots) as executor:
        own: list[Any] = [Plugin(executor, slots)]
        what = [
            "--pyargs",
            "joblib.test.test_parallel",
            "-c",
            os.devnull,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:dtq",
            "-p",
            "no:randomly",
            "-q",
            "-rfEs",
        ]
        return int(pytest.main([*what, "--tb=short", *words], plugins=own))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
