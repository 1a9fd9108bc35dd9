"""How numbers stand in sentences: durations, counts with their nouns, and the sentences that have them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.errors import BatchTooLarge, QueueFull, TaskCrashed, TooLarge, WaitTimeout
from dtq.wording import counted, duration, percent, rate, utc


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0001, "less than 1 ms"),
        (0.035, "35 ms"),
        (0.49712500799978443, "497 ms"),
        (0.9999, "1 s"),
        (4.21, "4.2 s"),
        (5.0, "5 s"),
        (59.99, "1m"),
        (134, "2m 14s"),
        (3600, "1h"),
        (100_000, "1d 3h"),
        (86_400 * 3, "3d"),
        (86_400 * 3 + 5, "3d"),
        (-3, "-3 s"),
        (float("inf"), "for ever"),
    ],
)
def test_duration_shows_two_units_at_most_and_no_zeros(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (123_456.7, "123,457/s"), (99.97, "100/s"), (12.34, "12.3/s"), (4.0, "4/s"), (0.5, "30/min"),
        (0.02, "1.2/min"), (0.001, "3.6/h"), (0.0, "0/s"),
    ],
)  # fmt: skip
def test_rate_stands_in_a_unit_with_digits_before_its_point(per_s: float, text: str) -> None:
    assert rate(per_s) == text


def test_percent_is_a_hundred_only_of_all_of_it() -> None:
    assert [percent(*pair) for pair in ((0, 3), (1, 3), (999_999, 1_000_000), (3, 3), (0, 0))] == [
        "0%",
        "33%",
        "99%",
        "100%",
        "",
    ]


@given(st.floats(min_value=0, max_value=1e12))
def test_duration_is_always_short_and_never_empty(seconds: float) -> None:
    assert re.fullmatch(r"less than 1 ms|[\d.]{1,4} (ms|s)|\d+[dhm]( \d+[hms])?", duration(seconds))


def test_counted_puts_the_noun_in_its_number() -> None:
    assert [counted(n, "task") for n in (0, 1, 2000)] == ["0 tasks", "1 task", "2,000 tasks"]
    assert counted(2, "crash", "crashes") == "2 crashes"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WaitTimeout("task 1", 0.49712500799978443), "did not finish within 497 ms;"),
        (WaitTimeout("task 1", 90), "did not finish within 1m 30s;"),
        (WaitTimeout("task 1", "x"), "did not finish within x;"),
        (QueueFull(1, 1), "holds 1 task, its limit is 1."),
        (BatchTooLarge(2000, 10), "would have 2,000 tasks, more"),
        (TooLarge("it", 1, 0), "has 1 byte, more"),
        (TaskCrashed("6", "its process ended with exit code 3"), "letters: its process ended with exit code 3."),
    ],
)
def test_an_errors_sentence_has_its_numbers_in_words(error: Exception, words: str) -> None:
    assert words in str(error)


@given(st.integers(0, 10**11))
def test_moment_is_told_as_the_standard_library_does(seconds: int) -> None:
    assert utc(seconds) == f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    assert utc(seconds + 0.99) == utc(seconds)
