"""Soft time limits and hooks in real slots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dtq
from dtq.errors import SoftTimeout, TaskTimedOut
from tests.tasks import term_work as work

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hooks") / "marks"


@pytest.fixture(scope="module")
def executor(marks: Path) -> Iterator[dtq.Executor]:
    patch = pytest.MonkeyPatch()
    patch.setenv(work.HOOKED, str(marks))
    with dtq.Executor.local(1) as executor:
        yield executor
    patch.undo()


def outcome(executor: dtq.Executor, function: Any, *args: Any, **options: Any) -> Any:
    future = executor.options(max_retries=0, **options).submit(function, *args)
    error = future.exception(DEADLINE_S)
    return future.result() if error is None else type(error)


def test_soft_limit_is_raised_in_the_task(executor: dtq.Executor) -> None:
    assert outcome(executor, work.sleep, 30.0, soft_timeout=0.1) is SoftTimeout
    assert outcome(executor, work.spin, 30.0, soft_timeout=0.1) is SoftTimeout
    assert outcome(executor, work.nap, 30.0, soft_timeout=0.1) is SoftTimeout
    assert outcome(executor, work.tidy, 30.0, soft_timeout=0.1) == "tidied up"
    # One that takes no notice is killed by the hard one
    assert outcome(executor, work.stubborn, 30.0, soft_timeout=0.1, timeout=0.5) is TaskTimedOut
    # and what comes after it is not hit
    assert outcome(executor, work.sleep, 0.3, soft_timeout=20.0) == "slept"
    assert outcome(executor, work.sleep, 0.3) == "slept"


def test_soft_limit_holds_for_each_of_many_tiny_tasks(executor: dtq.Executor) -> None:
    limited = executor.options(max_retries=0, soft_timeout=0.2)
    futures = [limited.submit(work.tiny, 30.0 if n == 700 else 0.0) for n in range(1000)]
    errors = {n: type(f.exception(DEADLINE_S)) for n, f in enumerate(futures) if f.exception(DEADLINE_S) is not None}
    assert errors == {700: SoftTimeout}


def test_retry_follows_a_soft_limit_as_any_failure(executor: dtq.Executor) -> None:
    begun = time.monotonic()
    again = executor.options(max_retries=1, retry_delay=0, soft_timeout=0.1).submit(work.sleep, 30.0)
    assert isinstance(again.exception(DEADLINE_S), SoftTimeout)
    assert time.monotonic() - begun > 0.2


def test_hook_of_a_task_s_own_module_runs_around_it(executor: dtq.Executor, marks: Path) -> None:
    executor.options(queue="default").submit(work.tiny, 0.0).result(DEADLINE_S)
    assert marks.read_text().splitlines()[-1].split()[::2] == ["tests.tasks.term_work:tiny", "1"]
