"""What this client waits for: the targets behind its handles, by batch, and how news reaches them.

Client, between the handles and the threads. The registry holds its targets weakly: when nobody has a handle to a batch
any more, the news of it are dropped. One lock guards all targets; what news set off (waking a thread, a callback of
an event loop) is called outside of it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from dtq.client.bell import Bell
from dtq.errors import DtqError
from dtq.model.messages import Ended

#: What to wait for: that the submission is accepted or refused; that anything is new; that it has ended.
ACCEPTED: Final = 0
NEWS: Final = 1
ENDED: Final = 2

Wake = Callable[[], None]
#: Who waits for a target: since which of the above, and whom to call.
Waiters = list[tuple[int, Wake]]


class Target(Protocol):
    """What news of a batch are for. All of this is called under the registry's lock."""

    def _on_ended(self, ended: Ended, wakes: list[Wake]) -> bool:
        """Tasks of the batch have ended; may be told twice.

        Args:
            ended: which, and how.
            wakes: to be extended by what is to be called once the lock is released.

        Returns:
            Whether nothing more is of interest.
        """
        ...

    def _on_failed(self, error: DtqError, wakes: list[Wake]) -> None:
        """No more news will come."""
        ...


def due(waiters: Waiters, level: int, wakes: list[Wake]) -> Waiters | None:
    """Move those that waited for a level to the wakes; the others, or None, remain."""
    rest = []
    for waiter in waiters:
        if waiter[0] <= level:
            wakes.append(waiter[1])
        else:
            rest.append(waiter)
    return rest or None


class Following:
    """The registry.

    Attributes:
        lock: guards the targets.
        failure: why there will be no more news; None while there may be.
        wanted: rings when there is something to watch, and nobody watches.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.failure: DtqError | None = None
        self.wanted = Bell()
        self._targets: dict[int, weakref.ref[Target] | list[weakref.ref[Target]]] = {}
        #: News of batches that are unknown here while a submission is under way: its receipt may be overtaken by them.
        self._early: dict[int, list[Ended]] | None = None

    # -- by the sender --------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """A submission is on its way: keep news of unknown batches."""
        self._early = {}

    def expected(self) -> None:
        """Its receipts have arrived, and their targets were added. Under the lock."""
        self._early = None

    def add(self, batch: int, target: Target, wakes: list[Wake]) -> None:
        """Pass on news of a batch. Under the lock."""
        if self.failure is not None:
            target._on_failed(self.failure, wakes)
            return
        if self._early is not None:
            over = [target._on_ended(ended, wakes) for ended in self._early.get(batch, ())]
            if any(over):
                return
        known = self._targets.get(batch)
        entry = weakref.ref(target)
        if known is None:
            self._targets[batch] = entry
            if len(self._targets) == 1:
                self.wanted.ring()
        elif isinstance(known, list):
            known.append(entry)
        else:
            self._targets[batch] = [known, entry]

    # -- by the watcher -------------------------------------------------------------------------------------------

    def on_news(self, news: Iterable[Ended]) -> None:
        """Tasks have ended."""
        wakes: list[Wake] = []
        targets = self._targets
        with self.lock:
            for ended in news:
                known = targets.get(ended.batch)
                if known is None:
                    if self._early is not None:
                        self._early.setdefault(ended.batch, []).append(ended)
                elif isinstance(known, list):
                    self._tell(known, ended, wakes)
                else:
                    target = known()
                    if target is None or target._on_ended(ended, wakes):
                        del targets[ended.batch]
        for wake in wakes:
            wake()

    def _tell(self, entries: list[weakref.ref[Target]], ended: Ended, wakes: list[Wake]) -> None:
        """Several targets of one batch."""
        for entry in list(entries):
            target = entry()
            if target is None or target._on_ended(ended, wakes):
                entries.remove(entry)
        if not entries:
            del self._targets[ended.batch]

    def unfinished(self) -> list[int]:
        """The batches of which news are still wanted."""
        with self.lock:
            for batch, known in list(self._targets.items()):
                entries = known if isinstance(known, list) else [known]
                if all(entry() is None for entry in entries):
                    del self._targets[batch]
            return list(self._targets)

    @property
    def idle(self) -> bool:
        """Whether nothing is waited for, and no receipt is expected."""
        return not self._targets and self._early is None

    # -- the end --------------------------------------------------------------------------------------------------

    def lose(self, batches: Iterable[int], error: Callable[[int], DtqError]) -> None:
        """No more news of these batches will come."""
        wakes: list[Wake] = []
        with self.lock:
            for batch in batches:
                for target in self._take_out(batch):
                    target._on_failed(error(batch), wakes)
        for wake in wakes:
            wake()

    def fail(self, error: DtqError) -> None:
        """No more news at all; also for targets to come."""
        with self.lock:
            if self.failure is None:
                self.failure = error
        self.lose(list(self._targets), lambda _: error)
        self.wanted.ring()

    def _take_out(self, batch: int) -> list[Target]:
        known = self._targets.pop(batch, None)
        entries = known if isinstance(known, list) else [] if known is None else [known]
        return [target for entry in entries if (target := entry()) is not None]
