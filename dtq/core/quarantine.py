"""The specs that one worker has failed to run; `core.quarantining` has the rules."""

from __future__ import annotations

from typing import Final

from dtq.core.batches import SpecEntry
from dtq.errors import WorkerBroken
from dtq.wording import counted

#: Time for which a worker is not offered a spec it could not run, in seconds: 0.2 s, and after ten failures doubling up
#: to 60 s.
PROBE_S: Final = 0.2
LONGEST_PROBE_S: Final = 60.0
#: Failed attempts in a row after which a broken worker leaves; and how many of them must be the worker's fault for
#: sure.
MOST_ERRORS: Final = 10
PROVEN: Final = 3
#: Most specs that are remembered of a worker.
_MOST_SPECS: Final = 1_000


class Quarantine:
    """The specs that one worker has failed to run.

    Args:
        name: the worker's name.
    """

    __slots__ = ("_name", "_proven", "_why", "errors", "specs")

    def __init__(self, name: str) -> None:
        self._name = name
        #: Attempts in a row that did not reach the task's own code; and those of them whose functions have run
        #: elsewhere.
        self.errors = 0
        self._proven = 0
        self._why = ""
        #: By number of the spec: the end of its pause, and the number of failures to run it.
        self.specs: dict[int, tuple[float, int]] = {}

    def failed(self, entry: SpecEntry, why: str, now: float) -> None:
        """Record that the worker was unable to run a task.

        Args:
            entry: the spec of the task.
            why: the worker's lack; empty if the failure does not count against the worker.
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
        """The end of the pause in which the worker is not offered a spec."""
        return self.specs.get(entry.number, (0.0, 0))[0]

    def ran(self, entry: SpecEntry) -> None:
        """Record that a task reached its own code."""
        self.errors = self._proven = 0
        self.specs.pop(entry.number, None)

    def verdict(self) -> WorkerBroken | None:
        """The error that tells a broken worker to leave; None for a sound worker."""
        if self.errors < MOST_ERRORS or self._proven < PROVEN:
            return None
        tasks = counted(self.errors, "task")
        why = f"{tasks} in a row, of functions that run elsewhere, could not be run there ({self._why})"
        return WorkerBroken(self._name, why)
