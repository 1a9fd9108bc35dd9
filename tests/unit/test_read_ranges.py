"""What a client has read and tells the coordinator of."""

from __future__ import annotations

from dtq.client.read_ranges import DUE_BATCHES, DUE_BYTES, ReadRanges
from dtq.model.messages import TaskRange


def test_neighbours_are_told_as_one_range() -> None:
    # Given a map that was read in order, and a single task
    read = ReadRanges()
    for at in range(0, 100, 10):
        read.add(7, at, at + 10, 0)
    read.add(9, 0, 1, 0)

    # When it is time, Then each is one range, once
    told = read.take()
    assert sorted((r.batch, r.lo, r.hi) for r in told) == [(7, 0, 100), (9, 0, 1)]
    assert not read
    assert read.take() == []


def test_it_is_time_when_it_is_much_or_many() -> None:
    read = ReadRanges()
    read.add(1, 0, 1, DUE_BYTES - 1)
    assert not read.due
    read.add(1, 1, 2, 1)
    assert read.due

    read.take()
    for batch in range(DUE_BATCHES - 1):
        read.add(batch, 0, 1, 0)
    assert not read.due
    read.add(DUE_BATCHES, 0, 1, 0)
    assert read.due


def test_somebody_is_woken_when_there_is_something_to_tell() -> None:
    # Given a batch of which a result is still to be read where it lies
    woken: list[bool] = []
    read = ReadRanges(lambda: woken.append(bool(read)))
    read.pin(3)
    # When it is let go, Then there is nothing to tell before that result was read
    read.add(3, 0, 2, 0.0)
    assert (woken, bool(read)) == ([False], False)
    read.unpin(3)
    assert (woken, bool(read)) == ([False, True], True)


def test_what_could_not_be_told_is_told_the_next_time() -> None:
    read = ReadRanges()
    read.put_back([TaskRange(batch=3, lo=0, hi=4)])
    read.add(3, 4, 5, 0)

    assert read.take() == [TaskRange(batch=3, lo=0, hi=5)]


def test_what_is_still_to_be_read_where_it_lies_is_not_told() -> None:
    # Given two batches of which one has two results that lie elsewhere
    read = ReadRanges()
    for batch in (1, 2):
        read.add(batch, 0, 4, 10)
    read.pin(1)
    read.pin(1)

    # Then it is told of when both have been read
    assert read.take() == [TaskRange(batch=2, lo=0, hi=4)]
    read.unpin(1)
    assert not read
    assert read.take() == []
    read.unpin(1)
    assert read
    assert read.take() == [TaskRange(batch=1, lo=0, hi=4)]
