"""Adds results of other tasks to the calls that take them as arguments."""

from __future__ import annotations

from dtq.coordinator.queries import task_name
from dtq.coordinator.results import how_ended, purged
from dtq.coordinator.sequences import sequence
from dtq.coordinator.service import Coordinator
from dtq.core.batches import Batch
from dtq.core.changes import ResultPage
from dtq.errors import ResultExpired
from dtq.model import pages
from dtq.model.inputs import PREVIOUS, RESULT, failure_input, with_inputs
from dtq.model.states import State


def has_inputs(batch: Batch) -> bool:
    """Whether a batch's function is given results of other tasks."""
    flow = batch.flow
    return flow is not None and any([parent[3] for parent in flow.after])


def with_results(c: Coordinator, batch: Batch, page: bytes, given: tuple[int, int] | None = None) -> bytes:
    """Add the results of other tasks to a batch's calls.

    Args:
        c: the coordinator; not under its lock.
        batch: the batch.
        page: the calls.
        given: the task whose result they are given where they run (`Lease.given`); None for none.

    Raises:
        ResultExpired: one of the results is no longer kept.
        StoreError: one cannot be read.
    """
    assert batch.flow is not None
    inputs = [
        PREVIOUS if (number, lo) == given and hi else _input(c, number, lo) if hi else sequence(c, batch, number)
        for number, lo, hi, is_value in batch.flow.after
        if is_value
    ]
    return pages.pack([with_inputs(call, inputs) for call in pages.unpack(page)], described=True)


def _input(c: Coordinator, number: int, index: int) -> bytes:
    page = c.cache.held(ResultPage, number, index)
    if page is None:
        c.flush()
        page = next(iter(c.engine.pages(ResultPage, number, index, index + 1)), None)
    if page is not None:
        return RESULT + pages.unpack(pages.cut(page.data, index - page.lo, index - page.lo + 1))[0]
    for ended in how_ended(c, number, index, index + 1):
        if ended.state is not State.SUCCEEDED:
            return failure_input(ended, task_name(c, number, index))
    if (gone := purged(c, number, index)) is not None:
        return failure_input(gone, task_name(c, number, index))
    raise ResultExpired(task_name(c, number, index))
