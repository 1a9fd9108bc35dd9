"""The history: fixed memory, right counts over pauses, and nothing to do while nothing happens."""

from __future__ import annotations

import pytest

from dtq.coordinator.history import SERIES, Recorder, Totals

T = 1_000_020.0  # a full minute


def test_seconds_and_minutes_have_what_happened_in_them() -> None:
    # Given a sample a second for three minutes
    recorder = Recorder(T, Totals())
    for second in range(1, 181):
        recorder.wake(T + second - 0.5)
        recorder.sample(T + second, Totals(submitted=3 * second, done=2 * second, failed=second // 60, backlog=second))
    seconds, minutes = recorder.since(0.0)

    # Then each second has its own, and each minute the sum
    assert (seconds.step_s, seconds.end, len(seconds.done)) == (1, T + 180, 180)
    assert set(seconds.submitted) == {3}
    assert set(seconds.done) == {2}
    assert (sum(seconds.failed), seconds.backlog[-1]) == (3, 180)
    assert (minutes.done, minutes.backlog) == ((120, 120, 120), (60, 120, 180))
    assert recorder.since(T + 178)[0].done == (2, 2)
    assert recorder.since(T + 180)[0].done == ()


def test_pause_counts_for_its_end_and_is_filled() -> None:
    recorder = Recorder(T, Totals(backlog=7))
    recorder.sample(T + 10, Totals(submitted=5, backlog=12, oldest_ms=4_000))
    seconds = recorder.since(0.0)[0]
    assert seconds.submitted == (0,) * 9 + (5,)
    assert seconds.backlog == (7,) * 9 + (12,)
    assert seconds.oldest_ms == (0,) * 6 + (1_000, 2_000, 3_000, 4_000)


def test_memory_is_fixed_and_long_pauses_do_no_harm() -> None:
    recorder = Recorder(T, Totals())
    for hours in (1, 30, 5_000):
        recorder.sample(T + hours * 3_600, Totals(done=hours))
    seconds, minutes = recorder.since(0.0)
    assert [(1, len(seconds.done)), (60, len(minutes.done))] == [*SERIES]
    assert seconds.done[-1] == 4_970
    assert sum(seconds.done) == 4_970


def test_nothing_is_due_while_nothing_happens() -> None:
    recorder = Recorder(T, Totals())
    assert recorder.due_at is None
    assert recorder.wake(T + 3.2) == T + 4
    recorder.sample(T + 4, Totals(done=1))
    assert recorder.due_at == T + 5
    recorder.sample(T + 5, Totals(done=1))
    assert recorder.due_at is None


def test_rates_are_of_the_last_ten_seconds() -> None:
    recorder = Recorder(T, Totals())
    for second in range(1, 31):
        recorder.sample(T + second, Totals(done=40 * second))
    assert recorder.rates(T + 30, Totals(done=1_200)).done == 40.0
    assert recorder.rates(T + 30.5, Totals(done=1_220)).done == pytest.approx(40.0)
    # and none when nothing has happened for so long
    assert recorder.rates(T + 50, Totals(done=1_200)).done == 0.0


def test_hour_and_late_deaths_count_what_is_not_sampled_yet() -> None:
    recorder = Recorder(T, Totals())
    recorder.sample(T + 61, Totals(done=10, failed=4, died=2))
    now = Totals(done=13, failed=5, died=3)
    assert recorder.last_hour(now)[1:] == (13, 5)
    assert recorder.died_of_late(now, 10) == 3
    recorder.sample(T + 3_600, now)
    assert recorder.died_of_late(now, 10) == 1


def test_totals_that_fall_are_no_negative_counts() -> None:
    recorder = Recorder(T, Totals(submitted=9))
    recorder.sample(T + 1, Totals(submitted=4))
    assert recorder.since(0.0)[0].submitted == (0,)
