"""The arguments of tasks, for people: as they are stored, bounded, and never opened here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.service import Coordinator
from dtq.core.changes import ArgumentPage, BatchFlow, Parent
from dtq.model import pages
from dtq.model.fields import MAX_CALL
from dtq.model.inputs import elements_call
from dtq.model.snapshots import Selection, TaskArguments
from dtq.model.weight import first_within

#: Most results of other tasks that are named: of one task, and in one answer. Each name may take a read.
_MOST_GIVEN: Final = 50
_MOST_NAMES: Final = 2_000


def arguments(c: Coordinator, tasks: list[tuple[int, int]], most: int) -> list[TaskArguments]:
    """See `Service.arguments`."""
    queries.settle(c)
    return list(first_within(_found(c, tasks, min(most, MAX_CALL)), c.setup.answer_bytes))


def _found(c: Coordinator, tasks: list[tuple[int, int]], most: int) -> Iterator[TaskArguments]:
    """The arguments of one task after the other. Neighbours are in one page, which is read once."""
    page: ArgumentPage | None = None
    flows: dict[int, BatchFlow | None] = {}
    left = _MOST_NAMES
    for number, index in tasks:
        if number not in flows:
            flows[number] = _flow_of(c, number)
        flow = flows[number]
        if page is None or page.batch != number or not page.lo <= index < page.hi:
            page = next(iter(c.cache.find(ArgumentPage, number, index, index + 1, 1)), None)
        blob = None
        if page is not None and page.lo <= index < page.hi:
            (blob,) = pages.unpack(pages.cut(page.data, index - page.lo, index - page.lo + 1))
        elif flow is not None and flow.each:  # then there are no pages: a task has no arguments but these
            blob = elements_call([is_json for _, _, is_json in flow.each])
        given = () if flow is None else tuple(islice(_given(c, number, index, flow), min(left, _MOST_GIVEN)))
        left -= len(given)
        yield TaskArguments(
            batch=number,
            index=index,
            kept=blob is not None,
            blob=(blob or b"")[:most],
            size=len(blob or b""),
            given=given,
        )


def _flow_of(c: Coordinator, number: int) -> BatchFlow | None:
    with c.lock:
        live = c.machine.queue_state.batches.get(number)
        if live is not None:
            return live.flow
    stored = next(iter(c.engine.batches([number])), None)
    return None if stored is None else stored.row.flow


def _given(c: Coordinator, number: int, index: int, flow: BatchFlow) -> Iterator[str]:
    """The results that a task is given, in words, in the order in which its call has them (`coordinator.inputs`)."""
    for parent in flow.after:
        yield from _result_of(c, parent)
    for each, _, _ in flow.each:
        yield f"result of {queries.task_name(c, each, index)}"
    for parent in _own(c, number, index) if flow.given else ():
        yield from _result_of(c, parent)


def _result_of(c: Coordinator, parent: Parent) -> Iterator[str]:
    number, lo, hi, is_argument = parent
    if is_argument:
        yield f"result of {queries.task_name(c, number, lo)}" if hi else f"results of {number}"


def _own(c: Coordinator, number: int, index: int) -> tuple[Parent, ...]:
    """The tasks that a task waited for by itself; unknown once it has succeeded."""
    with c.lock:
        live = c.machine.queue_state.batches.get(number)
        task = None if live is None else live.task(index)
        if task is not None:
            return task.after
    for run in c.engine.ended(Selection(ids=((number, index),), limit=1), c.clock.now()):
        if run.task is not None:
            return run.task.after
    return ()
