"""What one worker was unable to run; the rules stand in `core.ability`."""

from __future__ import annotations

from typing import Final

from dtq.core.batches import SpecEntry
from dtq.errors import WorkerBroken

#: How long a worker is kept from what it was unable to run, in seconds.
PROBE_S: Final = 0.2
#: How many attempts in a row a broken worker spoils before it leaves; and how many of them count against it for sure.
MOST_ERRORS: Final = 10
PROVEN: Final = 3
#: How many specs are remembered of a worker.
_MOST_SPECS: Final = 1_000


class Lacking:
    """What one worker was unable to run.

    Args:
        name: the worker's name.
    """

    __slots__ = ("_name", "_proven", "_why", "errors", "until")

    def __init__(self, name: str) -> None:
        self._name = name
        #: Attempts in a row that did not come to the task's own code; and those of them with functions that ran.
        self.errors = 0
        self._proven = 0
        self._why = ""
        #: By number of the spec: until when it is kept from it.
        self.until: dict[int, float] = {}

    def failed(self, entry: SpecEntry, why: str, now: float) -> None:
        """It was unable to run a task."""
        self.errors += 1
        self._proven += entry.estimate_s is not None
        self._why = why
        self.until.pop(entry.number, None)
        self.until[entry.number] = now + PROBE_S
        while len(self.until) > _MOST_SPECS:
            del self.until[next(iter(self.until))]

    def ran(self, entry: SpecEntry) -> None:
        """A task came to its own code."""
        self.errors = self._proven = 0
        self.until.pop(entry.number, None)

    def verdict(self) -> WorkerBroken | None:
        """That it is broken, where it is."""
        if self.errors < MOST_ERRORS or self._proven < PROVEN:
            return None
        why = f"{self.errors} tasks in a row, of functions that run elsewhere, could not be run there ({self._why})"
        return WorkerBroken(self._name, why)
