"""The registry of followed tasks: the targets behind a client's handles, by batch, and the delivery of news to them.

Client, between the handles and the threads. The registry holds its targets weakly: when the last handle to a batch is
gone, news of the batch are dropped. One lock guards all targets; the effects of news (waking a thread, a callback of an
event loop) happen outside the lock.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Final, Protocol

from dtq.client.current import looked, waiting
from dtq.client.read_ranges import ReadRanges
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import DtqError
from dtq.model.messages import Ended

#: Levels to wait for: the submission is accepted or refused; any news; the end.
ACCEPTED: Final = 0
NEWS: Final = 1
ENDED: Final = 2

Wake = Callable[[], None]
#: (level, callback) pairs.
Waiters = list[tuple[int, Wake]]


class Target(Protocol):
    """A target of news, which a caller may wait for. All of this is used under the registry's lock."""

    _waiters: Waiters | None

    def _reached(self, level: int) -> bool:
        """Whether it has reached a level; also if it never will, because of an error."""
        ...

    def _on_ended(self, ended: Ended, wakes: list[Wake]) -> bool:
        """Note that tasks of the batch have ended; may be called twice.

        Args:
            ended: the tasks and their end.
            wakes: extended by the callbacks to call once the lock is released.

        Returns:
            Whether the target needs no more news.
        """
        ...

    def _on_failed(self, error: DtqError, wakes: list[Wake]) -> None:
        """Note that no more news will come."""
        ...


class Results(Target, Protocol):
    """A batch whose results wait for a reader."""

    number: int
    size: int
    error: DtqError | None

    @property
    def finished(self) -> bool:
        """Whether all of its tasks have ended."""
        ...

    def drop_results(self) -> list[tuple[int, int]]:
        """Drop the results: they have no reader.

        Returns:
            The tasks that have ended.
        """
        ...


#: Returns a target, or None once it is garbage-collected.
Entry = Callable[[], Target | None]


def add_waiter(target: Target, level: int, wake: Wake) -> None:
    """Add a callback for the time when the target reaches a level. Under the lock."""
    if target._waiters is None:
        target._waiters = []
    target._waiters.append((level, wake))


def wake_waiters(target: Target, level: int, wakes: list[Wake]) -> None:
    """Move the callbacks of a reached level to the wakes. Under the lock."""
    waiters = target._waiters
    if waiters is not None:
        wakes += [wake for wanted, wake in waiters if wanted <= level]
        target._waiters = [waiter for waiter in waiters if waiter[0] > level] or None


class Following:
    """The registry.

    Attributes:
        lock: guards the targets.
        failure: why no more news will come; None while they may.
        read: results that were read for the last time.
        wanted: rings when a batch must be followed, or the coordinator told of read results, and no call is waiting.
        asleep: in a child made by `os.fork`, a function to call before the first wait; else None.
    """

    def __init__(self, asleep: Wake | None = None) -> None:
        self.lock = threading.Lock()
        self.asleep = asleep
        self.failure: DtqError | None = None
        self.wanted = ThreadWakeup()
        self.read = ReadRanges(self.wanted.ring)
        self._targets: dict[int, Entry | list[Entry]] = {}
        #: Batches without a reader, until they have ended.
        self._unwanted: set[Results] = set()
        #: News of unknown batches while a submission is under way: they may overtake its receipt.
        self._early: dict[int, list[Ended]] | None = None

    # -- waiting callers ------------------------------------------------------------------------------------------

    def subscribe(self, target: Target, level: int, wake: Wake) -> bool:
        """Call a function when the target reaches a level.

        Returns:
            False if it has already: then the function is not called.
        """
        if self.asleep is not None:
            self.asleep()
        with self.lock:
            if target._reached(level):
                return False
            add_waiter(target, level, wake)
        return True

    def unsubscribe(self, target: Target, wake: Wake) -> None:
        """Cancel such a call (it may just have happened)."""
        with self.lock:
            if target._waiters is not None:
                target._waiters = [waiter for waiter in target._waiters if waiter[1] != wake] or None

    def wait(self, target: Target, level: int, timeout_s: float | None = None) -> bool:
        """Wait until the target has come so far.

        Args:
            target: the target.
            level: the level.
            timeout_s: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.
        """
        wakeup = ThreadWakeup()
        if not self.subscribe(target, level, wakeup.ring):
            return True
        with waiting() if level != ACCEPTED else nullcontext():
            if wakeup.wait(timeout_s):
                return True
            if level != ACCEPTED:
                looked()
        self.unsubscribe(target, wakeup.ring)
        return target._reached(level)

    # -- readers --------------------------------------------------------------------------------------------------

    def disown(self, batch: Results) -> None:
        """Let go of a followed batch without a reader: of ended tasks now, and of the others at their end."""
        with self.lock:
            ended = batch.drop_results()
            if batch.error is not None:
                return
            if not batch.finished:
                self._unwanted.add(batch)
                add_waiter(batch, ENDED, partial(self._on_unwanted_end, batch))
        for lo, hi in ended:
            self.read.add(batch.number, lo, hi, 0.0)

    def _on_unwanted_end(self, batch: Results) -> None:
        self._unwanted.discard(batch)
        if batch.error is None and batch.size:
            self.read.add(batch.number, 0, batch.size, 0.0)

    # -- the sender -----------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """Note that a submission is on its way: keep news of unknown batches."""
        self._early = {}

    def expected(self) -> None:
        """Note that its receipts have arrived, and their targets were added. Under the lock."""
        self._early = None

    def add(self, batch: int, target: Target, wakes: list[Wake], entry: Entry | None = None) -> None:
        """Add a target for news of a batch. Under the lock.

        Args:
            batch: the batch.
            target: the target.
            wakes: extended by the callbacks to call once the lock is released.
            entry: returns the target, if it must not be held weakly.
        """
        if self.failure is not None:
            target._on_failed(self.failure, wakes)
            return
        if self._early is not None:
            over = [target._on_ended(ended, wakes) for ended in self._early.get(batch, ())]
            if any(over):
                return
        known = self._targets.get(batch)
        entry = entry or weakref.ref(target)
        if known is None:
            self._targets[batch] = entry
            if len(self._targets) == 1:
                self.wanted.ring()
        elif isinstance(known, list):
            known.append(entry)
        else:
            self._targets[batch] = [known, entry]

    # -- the watcher ----------------------------------------------------------------------------------------------

    def on_news(self, news: Iterable[Ended]) -> None:
        """Pass on ended tasks."""
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

    def _tell(self, entries: list[Entry], ended: Ended, wakes: list[Wake]) -> None:
        """Pass news to several targets of one batch."""
        for entry in list(entries):
            target = entry()
            if target is None or target._on_ended(ended, wakes):
                entries.remove(entry)
        if not entries:
            del self._targets[ended.batch]

    def unfinished(self) -> list[int]:
        """The batches with targets that need news."""
        with self.lock:
            for batch, known in list(self._targets.items()):
                entries = known if isinstance(known, list) else [known]
                if all(entry() is None for entry in entries):
                    del self._targets[batch]
            return list(self._targets)

    @property
    def idle(self) -> bool:
        """Whether no caller waits, and no receipt is expected."""
        return not self._targets and self._early is None

    # -- the end --------------------------------------------------------------------------------------------------

    def lose(self, batches: Iterable[int], error: Callable[[int], DtqError]) -> None:
        """Fail the targets of these batches: no more news of them will come."""
        wakes: list[Wake] = []
        with self.lock:
            for batch in batches:
                for target in self._take_out(batch):
                    target._on_failed(error(batch), wakes)
        for wake in wakes:
            wake()

    def fail(self, error: DtqError) -> None:
        """Fail all targets, present and future: no more news will come."""
        with self.lock:
            if self.failure is None:
                self.failure = error
        self.lose(list(self._targets), lambda _: error)
        self.wanted.ring()

    def heirs(self) -> list[tuple[int, Target]]:
        """The live targets, with their batches; for the registry of a child made by `os.fork`."""
        return [(batch, target) for batch in list(self._targets) for target in self._take_out(batch)]

    def _take_out(self, batch: int) -> list[Target]:
        known = self._targets.pop(batch, None)
        entries = known if isinstance(known, list) else [] if known is None else [known]
        return [target for entry in entries if (target := entry()) is not None]
