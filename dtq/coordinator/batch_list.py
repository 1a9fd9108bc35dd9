"""Lists of batches: their order from the engine, the numbers of unfinished ones from the machine.

The engine has every accepted batch, in the order of the numbers, so nothing here walks all of the live ones. One call
looks at a bounded number of batches, whatever matches; the caller goes on from there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.service import Coordinator
from dtq.core import views
from dtq.core.held import held
from dtq.engines.base import StoredBatch
from dtq.errors import ResultExpired, UnknownId
from dtq.model.fields import INT_END
from dtq.model.globs import Glob, glob
from dtq.model.snapshots import BatchList, BatchSelection, BatchView
from dtq.model.weight import first_within

#: Most batches in one answer.
MOST: Final = 1_000
#: Batches that are read at once, and that are looked at under one lock: each of them costs by its retried tasks.
_STRETCH: Final = 500
_AT_ONCE: Final = 50
#: Most batches that one call looks at.
_LOOKS: Final = 10_000


def batches(c: Coordinator, selection: BatchSelection) -> BatchList:
    """See `Service.batches`."""
    queries.settle(c)
    wanted = _Wanted(selection, c.clock.now())
    room = min(selection.limit or MOST, MOST)
    found: list[BatchView] = []
    before, looked = selection.before or INT_END - 1, 0
    while before and room > len(found) and looked < _LOOKS:
        size = _STRETCH if wanted.few else min(_STRETCH, room - len(found))
        stretch = c.engine.newest(before, size)
        looked += len(stretch)
        for view in _views(c, [stored for stored in stretch if wanted.stored(stored)]):
            if wanted.state(view) and len(found) < room:
                found.append(view)
        before = stretch[-1].row.batch if len(stretch) == size else 0
    if len(found) == room and wanted.few:
        before = found[-1].batch  # those behind it in its stretch may match, too
    few = tuple(first_within(found, c.setup.answer_bytes))
    return BatchList(batches=few, before=few[-1].batch if len(few) < len(found) else before)


def _views(c: Coordinator, stretch: list[StoredBatch]) -> list[BatchView]:
    """The batches of a stretch as they are now."""
    alive: dict[int, BatchView] = {}
    for at in range(0, len(stretch), _AT_ONCE):
        numbers = [stored.row.batch for stored in stretch[at : at + _AT_ONCE]]
        with c.lock:
            now, live, waiting = c.clock.now(), c.machine.queue_state.batches, held(c.machine.queue_state)
            alive |= {
                number: views.batch_view(live[number], now, waiting.get(number, 0))
                for number in numbers
                if number in live
            }
    found: list[BatchView] = []
    for stored in stretch:
        view = alive.get(stored.row.batch)
        if view is not None:
            found.append(queries.lean(view))
        elif stored.row.finished_at is not None:
            found.append(queries.lean(views.finished_batch_view(stored.row, stored.spec)))
        else:  # it finished between the two reads
            with suppress(UnknownId, ResultExpired):
                found.append(queries.batch(c, stored.row.batch))
    return found


class _Wanted:
    """Tells which batches match.

    Args:
        selection: the selection.
        now: the time.
    """

    def __init__(self, selection: BatchSelection, now: float) -> None:
        self._selection = selection
        self._function: Glob | None = None if selection.function is None else glob(selection.function)
        self._latest = None if selection.older_than_s is None else now - selection.older_than_s

    @property
    def few(self) -> bool:
        """Whether some batches do not match."""
        return self._selection != BatchSelection(before=self._selection.before, limit=self._selection.limit)

    def stored(self, stored: StoredBatch) -> bool:
        """Whether a batch matches, by what never changes."""
        selection, function = self._selection, self._function
        return (
            (selection.queue is None or stored.spec.options.queue == selection.queue)
            and (selection.label is None or stored.row.label == selection.label)
            and (self._latest is None or stored.row.submitted_at <= self._latest)
            and (function is None or function.matches(stored.spec.function.name))
        )

    def state(self, view: BatchView) -> bool:
        """Whether one of its tasks is in the wanted state."""
        state = self._selection.state
        return state is None or getattr(view.counts, state.value) > 0
