"""Adds results of other tasks to the calls that take them as arguments."""

from __future__ import annotations

from dtq.coordinator.queries import task_name
from dtq.coordinator.results import how_ended, purged
from dtq.coordinator.sequences import sequence
from dtq.coordinator.service import Coordinator
from dtq.core.batches import Batch
from dtq.core.changes import Parent, ResultPage
from dtq.errors import ResultExpired
from dtq.model import pages
from dtq.model.inputs import PREVIOUS, RESULT, elements_call, failure_input, with_inputs
from dtq.model.states import State


def has_inputs(batch: Batch, lo: int, hi: int) -> bool:
    """Whether any of the tasks ``[lo, hi)`` of a batch is given results of others."""
    if batch.flow is None:
        return False
    if batch.flow.each or any([parent[3] for parent in batch.flow.after]):
        return True
    return batch.flow.given != () and any([_own(batch, index) for index in range(lo, hi)])


def calls_of_elements(batch: Batch, count: int) -> bytes | None:
    """The calls of tasks that have no arguments but what they are given; None where they have others."""
    if batch.flow is None or not batch.flow.each:
        return None
    return pages.pack([elements_call([is_json for _, _, is_json in batch.flow.each])] * count)


def with_results(
    c: Coordinator, batch: Batch, lo: int, page: bytes, room: int | None, given: tuple[int, int] | None = None
) -> bytes:
    """Calls of tasks that are given results of others, with these: of as many of the first as there is room for.

    Args:
        c: the coordinator; not under its lock.
        batch: their batch.
        lo: index of the first.
        page: the calls.
        room: how many bytes there is room for; None to have the first whatever it takes, and no other that does not fit
            beside it in what answers gather.
        given: the task whose result they are given where they run (`Lease.given`); None for none.

    Raises:
        ResultExpired: one of the results of the first is no longer kept.
        StoreError: one cannot be read.
    """
    assert batch.flow is not None
    few = _single_elements(c, batch, lo, page, room)
    if few is not None:
        return few
    calls = pages.unpack(page)
    left = c.setup.rules.grant_bytes if room is None else room
    shared = [_input(c, parent, batch, given) for parent in batch.flow.after if parent[3]]
    elements = [_elements(c, number, lo, lo + len(calls), left) for number, _, _ in batch.flow.each]
    made: list[bytes] = []
    for place, (call, *found) in enumerate(zip(calls, *elements, strict=False)):
        own = [_input(c, parent, batch) for parent in _own(batch, lo + place) if parent[3]]
        made.append(with_inputs(call, [*shared, *found, *own]))
        left -= len(made[-1])
        if left < 0 and (room is not None or place):
            made.pop()
            break
    return pages.pack(made, described=True)


def _single_elements(c: Coordinator, batch: Batch, lo: int, page: bytes, room: int | None) -> bytes | None:
    """Calls that are given one small result each, and have no other arguments, as far as these lie one behind the
    other: as nearly all calls of a map over a map. None where they do not."""
    flow = batch.flow
    if flow is None or len(flow.each) != 1 or any([parent[3] for parent in flow.after]):
        return None
    number, _, is_json = flow.each[0]
    first = elements_call([is_json]) + RESULT
    hi = lo + pages.count(page)
    left = (c.setup.rules.grant_bytes if room is None else room) - (hi - lo) * len(first)
    made: list[bytes] = []
    for found in c.cache.find(ResultPage, number, lo, hi, max(1, left)):
        if not found.lo <= lo < found.hi or pages.has_descriptions(found.data):
            break
        end = pages.fitting(found.data, lo - found.lo, min(hi, found.hi) - found.lo, left) + found.lo
        part = pages.cut(found.data, lo - found.lo, end - found.lo)
        made += [first + blob for blob in pages.unpack(part)]
        left -= len(part)
        lo = end
        if lo < found.hi:
            break
    return pages.pack(made) if made else None


def _own(batch: Batch, index: int) -> tuple[Parent, ...]:
    """What a task waited for by itself."""
    task = batch.task(index)
    return () if task is None else task.after


def _elements(c: Coordinator, number: int, lo: int, hi: int, room: int) -> list[bytes]:
    """The inputs that are the results of tasks ``[lo, hi)`` of a batch: of at least the first, and of others as long as
    there is room."""
    found: list[bytes] = []
    while lo < hi and (room > 0 or not found):
        page = c.cache.held(ResultPage, number, lo) or next(iter(c.cache.find(ResultPage, number, lo, lo + 1)), None)
        if page is None:
            found.append(_result(c, number, lo))
            room -= len(found[-1])
            lo += 1
            continue
        end = min(hi, page.hi)
        part = pages.cut(page.data, lo - page.lo, end - page.lo)
        found += [RESULT + blob for blob in pages.unpack(part)]
        room -= len(part)
        lo = end
    return found


def _input(c: Coordinator, parent: Parent, batch: Batch, given: tuple[int, int] | None = None) -> bytes:
    number, lo, hi, _ = parent
    if hi and (number, lo) == given:
        return PREVIOUS
    return _result(c, number, lo) if hi else sequence(c, batch, number)


def _result(c: Coordinator, number: int, index: int) -> bytes:
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
