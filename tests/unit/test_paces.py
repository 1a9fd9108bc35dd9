"""Paces of queues: of the last minute, also soon after a start, and after a pause."""

from __future__ import annotations

import pytest

from dtq.coordinator.paces import Paces


def test_pace_is_that_of_the_last_minute() -> None:
    # Given five a second for ten minutes, and then one a second for two
    done = {"mail": 0}
    paces = Paces(0.0, done)
    for second in range(1, 721):
        done["mail"] += 5 if second <= 600 else 1
        paces.mark(float(second), done)
        if second == 5:
            assert paces.per_minute("mail", 5.0, done) == 300.0
        if second == 600:
            assert paces.per_minute("mail", 600.0, done) == pytest.approx(300.0, rel=0.2)
    assert paces.per_minute("mail", 720.0, done) == pytest.approx(60.0, rel=0.2)
    assert paces.per_minute("other", 720.0, done) == 0.0


def test_pace_after_a_pause_counts_what_came_since() -> None:
    done = {"mail": 5}
    paces = Paces(0.0, done)
    for second in (10.0, 20.0, 30.0):
        paces.mark(second, done)
    done["mail"] += 30
    assert paces.per_minute("mail", 5_000.0, done) == 30.0


def test_counts_that_begin_anew_are_no_negative_pace() -> None:
    paces = Paces(0.0, {"mail": 100})
    assert paces.per_minute("mail", 10.0, {"mail": 1}) == 0.0
