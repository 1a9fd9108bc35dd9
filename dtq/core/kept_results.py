"""Kept results: live batches are given results of others, which stay until then.

Rules:

1. Results that a live batch's function takes as arguments are kept, even if they are read or expire meanwhile; those
   that a single task takes, until that has ended.
2. A removal that is put off is made as soon as nobody needs the results any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dtq.model.coverage import Coverage

if TYPE_CHECKING:
    from dtq.core.queue_state import QueueState


class KeptResults:
    """The results that live batches need.

    Args:
        queue_state: the state of the queue.
    """

    def __init__(self, queue_state: QueueState) -> None:
        self._queue_state = queue_state
        #: By batch, the number of live batches, and of tasks by themselves, that are given results of it.
        self.needed: dict[int, int] = {}
        #: Removals put off until no batch needs the results: by batch, the part that was read (None for all of it), and
        #: the time at which its own time was over.
        self._read: dict[int, Coverage | None] = {}
        self._over: dict[int, float] = {}
        #: By batch, the dead letters that were thrown away, but for their last attempts: a restart forgets that these
        #: are only kept as long as their dependents need them, and then they go with the batch.
        self._purged: dict[int, list[int]] = {}

    def need(self, numbers: Iterable[int]) -> None:
        """A live batch, or a task by itself, is given results of these batches."""
        for number in numbers:
            self.needed[number] = self.needed.get(number, 0) + 1

    def need_no_more(self, numbers: Iterable[int]) -> None:
        """It is live no more: results that nobody else is given may go, if they were to go before."""
        for number in numbers:
            self.needed[number] -= 1
            if not self.needed[number]:
                del self.needed[number]
                self._let_go(number)

    def spare(self, batch: int, lo: int, hi: int) -> bool:
        """Whether live batches still need results that nobody will ask for again; if so, these are removed after those
        batches.
        """
        if batch not in self.needed:
            return False
        read = self._read.setdefault(batch, Coverage())
        if read is not None:
            read.add(lo, hi)
        return True

    def spare_whole(self, batch: int) -> bool:
        """As `spare`, for a finished batch."""
        if batch not in self.needed:
            return False
        self._read[batch] = None
        return True

    def spare_history(self, batch: int, index: int) -> bool:
        """Whether how a dead letter has ended that is thrown away is needed by others: it goes after those."""
        if batch not in self.needed:
            return False
        self._purged.setdefault(batch, []).append(index)
        return True

    def spared(self) -> tuple[int, ...]:
        """The finished batches that must not expire yet."""
        return tuple(sorted(number for number in self.needed if number not in self._queue_state.batches))

    def over(self, at: float) -> tuple[int, ...]:
        """As `spared`, after the own time of some has passed: they are removed as soon as no batch needs them."""
        spared = self.spared()
        for number in spared:
            self._over.setdefault(number, at)
        return spared

    def _let_go(self, number: int) -> None:
        queue_state = self._queue_state
        read = self._read.pop(number, Coverage())
        if read is None:
            queue_state.ledger.batches_read((number,))
        else:
            for lo, hi in read:
                queue_state.ledger.read(number, lo, hi)
        for index in self._purged.pop(number, ()):
            queue_state.ledger.task_forgotten(number, index, history=True)
        at = self._over.pop(number, None)
        if at is not None:
            queue_state.expiries.add(at)
