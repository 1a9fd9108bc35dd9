"""The order of work: by rank, then by acceptance, then by place in the batch."""

from __future__ import annotations

import random

from dtq.core.heap import DueHeap, Run, RunHeap, Tops, ahead


def heap_of(*runs: Run) -> RunHeap:
    heap = RunHeap()
    for run in runs:
        heap.push(run)
    return heap


def popped(heap: RunHeap) -> list[Run]:
    """All runs, in the order in which they come up."""
    found = []
    while (run := heap.top()) is not None:
        found.append(run)
        heap.advance(run.hi)
    return found


def test_heap_orders_by_rank_then_batch_then_place() -> None:
    runs = [Run(1, 7, 0, 5), Run(5, 2, 0, 1), Run(5, 2, 4, 9), Run(5, 3, 0, 1), Run(9, 1, 0, 1)]
    for seed in range(20):
        shuffled = random.Random(seed).sample(runs, len(runs))

        assert popped(heap_of(*shuffled)) == runs


def test_advance_takes_tasks_off_the_first_run_and_leaves_it_first() -> None:
    # Given
    heap = heap_of(Run(5, 1, 0, 10), Run(5, 1, 10, 12), Run(5, 2, 0, 3))

    # When
    heap.advance(4)

    # Then
    assert heap.top() == Run(5, 1, 4, 10)
    assert popped(heap) == [Run(5, 1, 4, 10), Run(5, 1, 10, 12), Run(5, 2, 0, 3)]


def test_advance_to_the_end_of_the_first_run_removes_it() -> None:
    heap = heap_of(Run(5, 1, 0, 10), Run(5, 2, 0, 3))

    heap.advance(10)

    assert heap.top() == Run(5, 2, 0, 3)
    assert len(heap) == 1


def test_a_task_that_comes_back_is_before_what_its_batch_has_left() -> None:
    # Given a batch of which three tasks are out
    heap = heap_of(Run(5, 1, 0, 10), Run(5, 2, 0, 1))
    heap.advance(3)

    # When one of them comes back
    heap.push(Run(5, 1, 1, 2))

    # Then
    assert popped(heap) == [Run(5, 1, 1, 2), Run(5, 1, 3, 10), Run(5, 2, 0, 1)]


def test_a_million_tasks_are_one_entry() -> None:
    heap = heap_of(Run(5, 1, 0, 1_000_000))

    for index in range(1, 1_000):
        heap.advance(index)

    assert len(heap) == 1


def test_runs_are_listed_in_order_and_stay() -> None:
    heap = heap_of(Run(5, 2, 0, 1), Run(1, 3, 0, 1), Run(5, 1, 0, 1))

    assert heap.runs() == [Run(1, 3, 0, 1), Run(5, 1, 0, 1), Run(5, 2, 0, 1)]
    assert len(heap) == 3


def test_empty_heap_has_no_top() -> None:
    assert RunHeap().top() is None


def test_ahead_counts_what_comes_before_a_place() -> None:
    heap = heap_of(Run(1, 9, 0, 4), Run(5, 1, 0, 10), Run(5, 2, 0, 100), Run(5, 3, 0, 1), Run(7, 1, 0, 1000))

    assert ahead([heap], Run(1, 9, 0, 0)) == (0, True)
    assert ahead([heap], Run(1, 9, 3, 3)) == (3, True)
    assert ahead([heap], Run(5, 2, 40, 40)) == (4 + 10 + 40, True)
    assert ahead([heap], Run(5, 3, 0, 0)) == (4 + 10 + 100, True)


def test_ahead_agrees_with_counting_one_by_one() -> None:
    chance = random.Random(1)
    tasks = [(chance.randrange(3), batch, 0) for batch in range(300)]
    heap = heap_of(*(Run(rank, batch, index, index + 1) for rank, batch, index in tasks))

    for rank, batch, index in tasks:
        assert ahead([heap], Run(rank, batch, index, index)) == (sorted(tasks).index((rank, batch, index)), True)


def test_ahead_stops_counting_in_a_long_queue() -> None:
    heap = heap_of(*(Run(5, batch, 0, 1) for batch in range(20_000)))

    count, exact = ahead([heap], Run(5, 19_999, 0, 0))

    assert not exact
    assert 1_000 < count < 20_000


def test_due_heap_gives_runs_when_their_time_has_come_in_the_order_of_their_times() -> None:
    # Given
    due = DueHeap()
    due.push(30.0, 1, 0, 1)
    due.push(10.0, 2, 0, 5)
    due.push(20.0, 3, 7, 8)

    # Then
    assert due.next_at() == 10.0
    assert due.pop_due(9.9) is None
    assert due.pop_due(20.0) == (10.0, 2, 0, 5)
    assert due.pop_due(20.0) == (20.0, 3, 7, 8)
    assert due.pop_due(20.0) is None
    assert due.next_at() == 30.0
    assert len(due) == 1


# -- many heaps -----------------------------------------------------------------------------------------------------


def test_ahead_counts_over_several_heaps() -> None:
    heaps = [RunHeap(), RunHeap()]
    heaps[0].push(Run(5, 1, 0, 4))
    heaps[1].push(Run(5, 2, 0, 6))
    heaps[1].push(Run(5, 4, 0, 9))

    assert ahead(heaps, Run(5, 3, 0, 0)) == (10, True)


def test_absorbed_heap_comes_in_its_order() -> None:
    one, other = RunHeap(), RunHeap()
    for batch in range(0, 40, 2):
        one.push(Run(5, batch, 0, 1))
    for batch in (7, 1, 3):
        other.push(Run(5, batch, 0, 1))

    one.absorb(other)

    assert [run.batch for run in one.runs()] == sorted([*range(0, 40, 2), 7, 1, 3])
    assert one.top() == Run(5, 0, 0, 1)


def test_most_urgent_of_many_heaps_is_found_as_by_looking_at_each() -> None:
    # Given heaps whose runs come and go in any order
    draw = random.Random(7)
    heaps = {name: RunHeap() for name in "abcde"}
    tops: Tops[str] = Tops()
    for batch in range(3_000):
        name = draw.choice("abcde")
        heap = heaps[name]
        if draw.random() < 0.5:
            run = Run(draw.randint(1, 9), batch, 0, draw.randint(1, 3))
            heap.push(run)
            tops.pushed(name, run[:3])
        elif (first := heap.top()) is not None:
            heap.advance(first.lo + 1)  # taken, or thrown away, without a word

        # Then
        found = _first(tops, heaps)
        firsts = [top for each in heaps.values() if (top := each.top()) is not None]
        assert (None if found is None else heaps[found].top()) == min(firsts, default=None)


def _first(tops: Tops[str], heaps: dict[str, RunHeap]) -> str | None:
    """The heap with the most urgent run, as `Tops` is to be asked."""
    while (first := tops.peek()) is not None:
        top = heaps[first[1]].top()
        if top is None:
            tops.remove_first()
        elif top[:3] == first[0]:
            return first[1]
        else:
            tops.moved(top[:3])
    return None


def test_entries_that_do_not_count_any_more_do_not_pile_up() -> None:
    tops: Tops[str] = Tops()

    for place in range(10_000, 0, -1):
        tops.pushed("a", (5, place, 0))
        tops.pushed("b", (5, place, 1))
        tops.discard("b")

    assert len(tops._entries) < 200
    assert tops.peek() == ((5, 1, 0), "a")


def test_heap_without_some_batches_keeps_the_others_in_their_order() -> None:
    heap = heap_of(*(Run(5, batch, 0, 2) for batch in (4, 1, 3, 2, 1)))

    heap.without({1, 4})

    assert [run.batch for run in popped(heap)] == [2, 3]
