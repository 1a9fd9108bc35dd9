"""The soft time limit of one call: where it is raised, and where it is not."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from dtq.errors import SoftTimeout
from dtq.worker.soft_timeout import softly
from tests.tasks import term_work


@pytest.fixture(autouse=True)
def timer() -> Iterator[None]:
    """The timer that pytest's own time limit uses is as it was."""
    before = signal.getsignal(signal.SIGALRM)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    yield
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


@pytest.mark.parametrize("function", [term_work.sleep, term_work.spin])
def test_call_that_takes_longer_ends_with_it(function: object) -> None:
    begun = time.monotonic()
    with pytest.raises(SoftTimeout, match=r"^the task has run for 50 ms, its soft_timeout\.$"):
        softly(function, 0.05)(30.0)  # type: ignore[arg-type]  # one of several
    assert time.monotonic() - begun < 10.0


def test_call_that_catches_it_ends_in_order() -> None:
    assert softly(term_work.tidy, 0.05)(30.0) == "tidied up"


def test_it_is_raised_once() -> None:
    assert softly(term_work.stubborn, 0.01)(0.1) == "went on"

    def work() -> int:
        caught = 0
        for _ in range(3):
            try:
                signal.raise_signal(signal.SIGALRM)
            except SoftTimeout:
                caught += 1
        return caught

    assert softly(work, 10.0)() == 1


def test_one_that_comes_just_as_the_call_has_returned_leaves_its_result() -> None:
    limited = softly(lambda: "done", 10.0)

    def tracer(frame: FrameType, event: str, argument: object) -> Any:
        """Send the signal where the call has returned, and its limit is still to be lifted."""
        if frame.f_code is limited.__code__ and event == "line" and frame.f_locals.get("value") == "done":
            sys.settrace(None)
            signal.raise_signal(signal.SIGALRM)
        return tracer

    sys.settrace(tracer)
    try:
        assert limited() == "done"
    finally:
        sys.settrace(None)


def test_one_that_the_call_raises_itself_is_its_own() -> None:
    def work() -> None:
        raise SoftTimeout(7)

    with pytest.raises(SoftTimeout, match="run for 7 s"):
        softly(work, 10.0)()


def test_moment_just_as_the_call_ends_hits_nothing_but_the_call() -> None:
    """The race, many times: whatever comes out is the call's result or the limit, never anything later."""
    outcomes = set()
    begun = time.monotonic()
    for step in range(2000):
        limit = 0.0002 + (step % 100) * 1e-6

        def work(limit: float = limit) -> str:
            until = time.perf_counter() + limit
            while time.perf_counter() < until:
                pass
            return "done"

        try:
            outcomes.add(softly(work, limit)())
        except SoftTimeout:
            outcomes.add("limit")
        if outcomes == {"done", "limit"} and step > 500 and time.monotonic() - begun > 2.0:
            break
    for _ in range(1000):  # a signal that is late hits this
        time.sleep(0)
    assert outcomes <= {"done", "limit"}


def test_handler_and_timer_of_the_call_itself_are_put_back() -> None:
    def work() -> str:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 100.0)
        return "done"

    assert softly(work, 10.0)() == "done"
