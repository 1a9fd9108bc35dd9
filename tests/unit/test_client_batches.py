"""What the client keeps of a batch: intervals, and a bounded number of results."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.client import batches
from dtq.client.batches import Batch
from dtq.client.following import ACCEPTED, ENDED, NEWS, Wake, add_waiter
from dtq.errors import ClientClosed
from dtq.model import pages
from dtq.model.coverage import Coverage
from dtq.model.messages import Ended
from dtq.model.states import State


def succeeded(lo: int, hi: int, size: int = 1) -> Ended:
    return Ended(batch=1, lo=lo, hi=hi, state=State.SUCCEEDED, results=pages.pack([b"x" * size] * (hi - lo)))


def tell(batch: Batch, *news: Ended) -> list[Wake]:
    wakes: list[Wake] = []
    for ended in news:
        batch._on_ended(ended, wakes)
    return wakes


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=30))
def test_coverage_is_a_set_of_indices(ranges: list[tuple[int, int]]) -> None:
    # Given a coverage, and a plain set beside it
    coverage = Coverage()
    plain: set[int] = set()
    # When ranges are added to both
    for lo, length in ranges:
        new = coverage.add(lo, lo + length)
        # Then what was new is what the set did not have
        added = {index for start, end in new for index in range(start, end)}
        assert added == set(range(lo, lo + length)) - plain
        plain |= added
    # And both have the same, as few intervals as possible
    assert {index for lo, hi in coverage for index in range(lo, hi)} == plain
    assert coverage.count == len(plain)
    intervals = list(coverage)
    assert all(before[1] < after[0] for before, after in pairwise(intervals))
    for index in range(60):
        assert coverage.end(index) == next((hi for lo, hi in intervals if lo <= index < hi), None)


def test_results_of_a_shuffled_batch_are_read_in_order_whatever_is_told_twice() -> None:
    # Given a batch whose tasks end in any order, some of it told twice and cut differently
    batch = Batch(1, 100, complete=True)
    batch.keep_results(ordered=True)
    news = [succeeded(lo, lo + 10) for lo in range(0, 100, 10)] + [succeeded(5, 25), succeeded(33, 34)]
    random.Random(7).shuffle(news)
    tell(batch, *news)
    # When a reader takes from the start
    at, taken = 0, []
    while (part := batch.take(at)) is not None:
        taken.append((part.lo, part.hi))
        at = part.hi
    # Then every index comes once
    assert [index for lo, hi in taken for index in range(lo, hi)] == list(range(100))
    assert batch.finished
    assert batch.unread == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_results_beyond_the_bound_are_fetched_later(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given room for three results
    monkeypatch.setattr(batches, "UNREAD_BYTES", 3 * len(succeeded(0, 1, 100).results))
    batch = Batch(1, 10, complete=True)
    batch.keep_results(ordered)
    # When ten end unread
    tell(batch, *(succeeded(index, index + 1, 100) for index in range(10)))
    # Then three are here, and the others are known to be fetched
    assert batch.unread == 3 * len(succeeded(0, 1, 100).results)
    here = {(batch.take(i) if ordered else batch.take_any()) is not None for i in range(3)}
    assert here == {True}
    assert batch.take(3) is None
    far: set[int] = set()
    while (found := batch.far_from(3 + len(far)) if ordered else batch.far_any()) is not None:
        far |= set(range(*found))
    assert far == set(range(3, 10))
    assert batch.unread == 0


def test_large_cancelled_batch_is_read_piece_by_piece() -> None:
    # Given ten million tasks that were cancelled at once
    batch = Batch(1, 10_000_000, complete=True)
    batch.keep_results(ordered=True)
    tell(batch, Ended(batch=1, lo=0, hi=10_000_000, state=State.CANCELLED))
    # When a reader takes the first of them
    part = batch.take(0)
    # Then it gets a few thousand, and the rest waits
    assert part is not None
    assert part.hi == batches.FETCHED
    assert batch.take(part.hi) is not None


def test_waiters_are_woken_at_their_level() -> None:
    # Given one who waits for each
    batch = Batch()
    seen: list[str] = []
    for level, name in ((ACCEPTED, "accepted"), (NEWS, "news"), (ENDED, "ended")):
        add_waiter(batch, level, lambda name=name: seen.append(name))  # type: ignore[misc]
    wakes: list[Wake] = []

    def woken() -> list[str]:
        for wake in wakes:
            wake()
        wakes.clear()
        found, seen[:] = list(seen), []
        return found

    # When it is accepted, a task ends, and the last one ends; Then each is woken once, at its moment
    batch.on_accepted(1, 2, True, wakes)
    assert woken() == ["accepted", "news"]
    wakes += tell(batch, succeeded(0, 1))
    assert woken() == []
    wakes += tell(batch, succeeded(1, 2))
    assert woken() == ["ended"]


def test_error_wakes_everybody() -> None:
    # Given somebody who waits
    batch = Batch(1, 2)
    seen: list[str] = []
    add_waiter(batch, ENDED, lambda: seen.append("woken"))
    # When the client ends
    wakes: list[Wake] = []
    batch._on_failed(ClientClosed("x"), wakes)
    for wake in wakes:
        wake()
    # Then they are woken, and the error is there
    assert seen == ["woken"]
    assert batch._reached(ENDED)
