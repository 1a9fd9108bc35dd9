"""What the suites share."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator

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
