"""Bars as text: parts of a whole, and shares of the largest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.cli.bars import share, stacked


@pytest.mark.parametrize(
    ("numbers", "most", "bar"),
    [
        ((2, 2, 0), 4, "aaaaabbbbb"),
        ((1, 1, 0), 4, "aaabb"),
        ((1, 0, 999_999), 1_000_000, "accccccccc"),
        ((1, 0, 1), 1_000_000, "ac"),
        ((0, 0, 0), 5, ""),
        ((0, 0, 0), 0, ""),
    ],
)
def test_bar_of_parts_shows_each_that_is_not_zero(numbers: tuple[int, ...], most: int, bar: str) -> None:
    assert stacked(list(zip(numbers, "abc", strict=True)), most, 10) == bar


@given(st.lists(st.integers(0, 10**15), min_size=4, max_size=4), st.integers(4, 60), st.integers(1, 5))
def test_bar_of_parts_keeps_to_its_width(numbers: list[int], width: int, times: int) -> None:
    total = sum(numbers)
    bar = stacked(list(zip(numbers, "abcd", strict=True)), total * times, width)
    assert len(bar) <= width
    assert len(bar) == width or times > 1 or not total
    assert [bar.count(c) > 0 for c in "abcd"] == [number > 0 for number in numbers]
    assert bar == "".join(sorted(bar))


def test_share_is_full_for_all_and_empty_for_none_only() -> None:
    shares = [share(part, 1_000, 4) for part in (0, 1, 500, 999, 1_000, 2_000)]
    assert shares == ["....", "#...", "##..", "###.", "####", "####"]
    assert share(0, 0, 4) == "...."
