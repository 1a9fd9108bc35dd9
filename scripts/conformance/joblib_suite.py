"""Which of joblib's own tests of `joblib.Parallel` pass where dtq stands for joblib's own processes?

Usage: python scripts/conformance/joblib_suite.py [words for pytest]

``"loky"`` is dtq's backend here, with a cluster of its own; all of joblib's ``test_parallel.py`` runs that names it,
or no backend. Needs pytest, numpy and the extra ``joblib``.
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


class Plugin:
    """Puts dtq's backend in the place of joblib's own."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def pytest_configure(self) -> None:
        """Before joblib's tests are imported, which look at what there is."""
        dtq.joblib.register(executor=self._executor, make_default=True)
        backend = parallel.BACKENDS["loky"] = parallel.BACKENDS.pop("dtq")
        parallel.DEFAULT_BACKEND = "loky"
        backend.__name__ = "LokyBackend"  # the name that the tests expect
        joblib._parallel_backends.LokyBackend = backend


def main(words: list[str]) -> int:
    """Run them."""
    print(f"joblib {joblib.__version__}, Python {sys.version.split()[0]}")
    os.chdir(os.path.dirname(joblib.__file__))  # joblib's tests know nothing of this project's settings
    with Executor.local(max(4, joblib.cpu_count())) as executor:  # some tests have 4 calls wait for each other
        own: list[Any] = [Plugin(executor)]
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
            "-rfE",
        ]
        return int(pytest.main([*what, "--tb=short", *words], plugins=own))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
