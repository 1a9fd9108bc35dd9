"""What one worker was unable to run; the rules stand in `core.ability`."""

from __future__ import annotations

from typing import Final

from dtq.core.batches import SpecEntry
from dtq.errors import WorkerBroken
from dtq.wording import counted

#: How long a worker is kept from what it was unable to run, in seconds: at first, and at most, when it was unable to
#: run it more than `MOST_ERRORS` times, and runs other things well enough.
PROBE_S: Final = 0.2
LONGEST_PROBE_S: Final = 60.0
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

    __slots__ = ("_name", "_proven", "_why", "errors", "specs")

    def __init__(self, name: str) -> None:
        self._name = name
        #: Attempts in a row that did not come to the task's own code; and those of them with functions that ran.
        self.errors = 0
        self._proven = 0
        self._why = ""
        #: By number of the spec: until when it is kept from it, and how often it was unable to run it.
        self.specs: dict[int, tuple[float, int]] = {}

    def failed(self, entry: SpecEntry, why: str, now: float) -> None:
        """It was unable to run a task.

        Args:
            entry: the spec of the task.
            why: what it lacks; empty where that says nothing against it.
            now: the time.
        """
        if why:
            self.errors += 1
            self._proven += entry.estimate_s is not None
            self._why = why
        _, times = self.specs.pop(entry.number, (0.0, 0))
        pause_s = min(LONGEST_PROBE_S, PROBE_S * 2.0 ** min(20, max(0, times - MOST_ERRORS)))
        self.specs[entry.number] = now + pause_s, times + 1
        while len(self.specs) > _MOST_SPECS:
            del self.specs[next(iter(self.specs))]

    def kept_from(self, entry: SpecEntry) -> float:
        """Until when it is kept from a spec."""
        return self.specs.get(entry.number, (0.0, 0))[0]

    def ran(self, entry: SpecEntry) -> None:
        """A task came to its own code."""
        self.errors = self._proven = 0
        self.specs.pop(entry.number, None)

    def verdict(self) -> WorkerBroken | None:
        """That it is broken, where it is."""
        if self.errors < MOST_ERRORS or self._proven < PROVEN:
            return None
        tasks = counted(self.errors, "task")
        why = f"{tasks} in a row, of functions that run elsewhere, could not be run there ({self._why})"
        return WorkerBroken(self._name, why)
