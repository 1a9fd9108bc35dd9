"""What the suites share."""

from __future__ import annotations

import gc
import re
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.cluster import DEADLINE_S
from tests.driver import Driver

# How long an example takes says how busy the machine is.
settings.register_profile("dtq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dtq")


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would every process that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What there is now stays: no collection of garbage is to look through thousands of tests again."""
    gc.collect()
    gc.freeze()


_FAILED: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what has failed: its directory is kept."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True, scope="module")
def directories_of_passed() -> Iterator[list[Path]]:
    """Those of a module's tests that passed go when its clusters have ended: a task of an earlier test may still look
    there for the file that lets it end, and holds its slot until it sees it."""
    passed: list[Path] = []
    yield passed
    for path in passed:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, directories_of_passed: list[Path]
) -> Iterator[Path]:
    """A directory of the test's own, as pytest has it, but for when it goes."""
    made = tmp_path_factory.mktemp(re.sub(r"\W", "_", request.node.name)[:30])
    yield made
    if _FAILED not in request.node.stash:
        directories_of_passed.append(made)


@pytest.fixture(autouse=True, scope="module")
def no_thread_left_behind() -> Iterator[None]:
    """Whatever a room's tests open, they close: no thread of ours outlives the module that started it."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("dtq")]
    if left:
        gc.collect()  # what nobody can close any more ends when it is collected
    for thread in left:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), f"{thread.name} is still running"


@pytest.fixture
def machine() -> Iterator[Driver]:
    """A machine with default rules; its invariants hold after every command, and at the end."""
    driver = Driver()
    yield driver
    driver.check()
