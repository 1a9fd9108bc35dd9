"""The ticker wakes at the next deadline, and no bug in what it calls ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dtq.clock import SteadyClock
from dtq.coordinator.ticker import Ticker

DEADLINE_S = 20.0
NEVER = float("inf")


class Ticks:
    """What a ticker calls: notes when, and answers with the next deadline."""

    def __init__(self) -> None:
        self.clock = SteadyClock()
        self.at: list[float] = []
        self.answers: list[float | Exception] = []
        self._came = threading.Condition()
        self.ticker = Ticker(self.clock, self._tick)

    def _tick(self) -> float:
        with self._came:
            self.at.append(self.clock.now())
            answer = self.answers.pop(0) if self.answers else NEVER
            self._came.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait_for(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.at) >= count, DEADLINE_S), f"{len(self.at)} ticks came"


@pytest.fixture
def ticks() -> Iterator[Ticks]:
    made = Ticks()
    yield made
    made.ticker.stop()


def test_ticker_ticks_at_its_start_and_at_each_deadline(ticks: Ticks) -> None:
    # Given
    due = ticks.clock.now() + 0.05
    ticks.answers = [due]

    # When
    ticks.ticker.start()
    ticks.wait_for(2)

    # Then
    assert ticks.at[1] >= due
    assert len(ticks.at) == 2


def test_earlier_deadline_wakes_the_ticker(ticks: Ticks) -> None:
    ticks.answers = [ticks.clock.now() + 3600.0]
    ticks.ticker.start()
    ticks.wait_for(1)

    ticks.ticker.by(ticks.clock.now() + 0.01)

    ticks.wait_for(2)


def test_later_deadline_or_none_does_not_wake_the_ticker(ticks: Ticks) -> None:
    ticks.answers = [ticks.clock.now() + 0.1, NEVER]
    ticks.ticker.start()
    ticks.wait_for(1)

    ticks.ticker.by(ticks.clock.now() + 3600.0)
    ticks.ticker.by(None)

    ticks.wait_for(2)
    assert len(ticks.at) == 2


def test_deadline_that_is_named_during_a_tick_is_kept() -> None:
    # Given a tick during which something becomes due
    ticks = Ticks()
    calls: list[float] = []
    reached = threading.Event()

    def tick() -> float:
        calls.append(ticks.clock.now())
        if len(calls) == 1:
            ticks.ticker.by(ticks.clock.now() + 0.01)
        else:
            reached.set()
        return NEVER

    ticks.ticker = Ticker(ticks.clock, tick)

    # Then
    ticks.ticker.start()
    assert reached.wait(DEADLINE_S)
    ticks.ticker.stop()


def test_tick_that_fails_is_logged_and_comes_again(ticks: Ticks, caplog: pytest.LogCaptureFixture) -> None:
    ticks.answers = [ZeroDivisionError("a bug")]
    ticks.ticker.start()

    ticks.wait_for(2)

    assert ticks.at[1] - ticks.at[0] >= 0.9
    assert "a tick failed" in caplog.text


def test_stop_ends_the_thread_at_once(ticks: Ticks) -> None:
    ticks.answers = [NEVER]
    ticks.ticker.start()
    ticks.wait_for(1)
    begun = time.monotonic()

    ticks.ticker.stop()

    assert not ticks.ticker._thread.is_alive()
    assert time.monotonic() - begun < 4.0
