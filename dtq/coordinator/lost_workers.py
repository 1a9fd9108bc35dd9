"""The workers that were lost of late: they are still told of, so that nobody wonders where they are."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from dtq.coordinator.sessions import SessionState
from dtq.model.dashboard import WorkerLine, WorkerState
from dtq.records import dataclass

#: How long a lost worker is told of, in seconds.
TOLD_S: Final = 600.0
#: Most lost workers that are told of.
_MOST: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LostWorker:
    """A worker that was lost.

    Attributes:
        at: when it was given up.
        leases: how many leases went back to the queue.
        line: the worker, as it was then.
    """

    at: float
    leases: int
    line: WorkerLine


class LostWorkers:
    """The lost workers by name, the latest last. Used under the coordinator's lock."""

    def __init__(self) -> None:
        #: How many were lost since the start.
        self.count = 0
        self._by_name: OrderedDict[str, LostWorker] = OrderedDict()

    def add(self, state: SessionState, leases: int, now: float) -> None:
        """Note a lost worker."""
        hello = state.hello
        self.count += 1
        line = WorkerLine(
            name=state.name,
            host=hello.host,
            pid=hello.pid,
            state=WorkerState.LOST,
            size=hello.slots,
            queues=hello.queues,
            since=state.connected_at,
            version=hello.version,
            python=hello.python,
        )
        self._by_name.pop(state.name, None)
        self._by_name[state.name] = LostWorker(at=now, leases=leases, line=line)
        if len(self._by_name) > _MOST:
            self._by_name.popitem(last=False)

    def back(self, name: str) -> None:
        """A worker of this name has come: the lost one is told of no more."""
        self._by_name.pop(name, None)

    def of_late(self, now: float) -> list[LostWorker]:
        """The lost workers of the last ten minutes, the latest first."""
        while self._by_name:
            first = next(iter(self._by_name.values()))
            if first.at >= now - TOLD_S:
                break
            self._by_name.popitem(last=False)
        return list(reversed(self._by_name.values()))
