"""Depths: exact for few runs, bounded for many, and true whatever is stale."""

from __future__ import annotations

from dtq.core.changes import Totals
from dtq.core.depths import Depths
from dtq.core.heap import Run, RunHeap
from dtq.core.machine import Machine
from dtq.core.queue_state import Rules
from dtq.model import pages
from dtq.model.messages import Submission
from dtq.model.options import Function, Options, Spec
from dtq.model.states import State

NOW = 1_000.0


def machine_with(*submissions: tuple[int, str, int], highest_first: bool = False) -> Machine:
    """A machine with submissions of a priority, a queue and a size, one a second."""
    machine = Machine(1, Rules(highest_first=highest_first), Totals())
    for number, (priority, queue, size) in enumerate(submissions):
        spec = Spec(function=Function(name="m:f"), options=Options(priority=priority, queue=queue))
        submission = Submission(spec=0, number=number, arguments=pages.pack([b""] * size))
        machine.submit(spec, submission, "session", NOW + number)
    return machine


def told(machine: Machine, looks: int, queue: str = "default") -> list[tuple[int, int, bool]]:
    waiting = machine.queue_state.tally.queues()[queue][State.PENDING]
    depths = Depths(machine.queue_state, [queue], looks).of(queue, waiting)
    return [(depth.priority, depth.count, depth.rest) for depth in depths]


def test_few_runs_are_counted_by_priority_in_their_order() -> None:
    waiting = [(5, "default", 100), (1, "default", 2), (9, "mail", 3), (5, "default", 1)]
    assert told(machine_with(*waiting), 10) == [(1, 2, False), (5, 101, False)]
    assert told(machine_with(*waiting), 10, "mail") == [(9, 3, False)]
    assert told(machine_with(*waiting, highest_first=True), 10) == [(5, 101, False), (1, 2, False)]


def test_many_runs_are_looked_at_as_far_as_allowed_and_the_rest_is_one_number() -> None:
    waiting = [(5, "default", 1)] * 50 + [(1, "default", 1)] * 3 + [(9, "default", 1)] * 50
    assert told(machine_with(*waiting), 10) == [(1, 3, False), (5, 100, True)]
    assert told(machine_with(*waiting), 0) == [(1, 103, True)]


def test_oldest_task_is_found_behind_more_urgent_ones() -> None:
    # Given an old task of low priority behind many urgent ones, and one queue more
    machine = machine_with((9, "default", 1), *[(1, "default", 1)] * 40, (5, "mail", 1))
    depths = Depths(machine.queue_state, ["default", "mail", "none"], 100)
    assert (depths.oldest_at("default"), depths.oldest_at("mail"), depths.oldest_at("none")) == (NOW, NOW + 41, None)
    # With too few looks, the first in line stands for it
    assert Depths(machine.queue_state, ["default"], 0).oldest_at("default") == NOW + 1


def test_first_runs_of_a_heap_are_in_order_and_no_more_than_asked_for() -> None:
    heap = RunHeap()
    runs = [Run(rank, batch, 0, 1) for batch, rank in enumerate([7, 3, 9, 1, 5, 3, 8, 2])]
    for run in runs:
        heap.push(run)
    assert list(heap.first(3)) == sorted(runs)[:3]
    assert list(heap.first(8)) == list(heap.first(99)) == sorted(runs)
    assert list(heap.first(0)) == []
