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

from dtq.client.bell import Bell
from dtq.client.current import looked, waiting
from dtq.client.read_ranges import ReadRanges
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
    """What news are for, and what may be waited for. All of this is used under the registry's lock."""

    _waiters: Waiters | None

    def _reached(self, level: int) -> bool:
        """Whether it has come so far; also where it never will, because of an error."""
        ...

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
        """Nobody will read them: hold no more of them.

        Returns:
            Which tasks have ended.
        """
        ...


#: Gives a target, or None where nobody has it any more.
Entry = Callable[[], Target | None]


def add_waiter(target: Target, level: int, wake: Wake) -> None:
    """Have something called once the target has come so far. Under the lock."""
    if target._waiters is None:
        target._waiters = []
    target._waiters.append((level, wake))


def wake_waiters(target: Target, level: int, wakes: list[Wake]) -> None:
    """Move those that waited for the target to come so far to the wakes. Under the lock."""
    waiters = target._waiters
    if waiters is not None:
        wakes += [wake for wanted, wake in waiters if wanted <= level]
        target._waiters = [waiter for waiter in waiters if waiter[0] > level] or None


class Following:
    """The registry.

    Attributes:
        lock: guards the targets.
        failure: why there will be no more news; None while there may be.
        read: what was read and nobody will ask for again.
        wanted: rings when there is something to watch or to tell, and nobody watches.
        asleep: what has to be called before anybody waits, in a child made by `os.fork`; else None.
    """

    def __init__(self, asleep: Wake | None = None) -> None:
        self.lock = threading.Lock()
        self.asleep = asleep
        self.failure: DtqError | None = None
        self.wanted = Bell()
        self.read = ReadRanges(self.wanted.ring)
        self._targets: dict[int, Entry | list[Entry]] = {}
        #: Batches that nobody will read, until they have ended.
        self._unwanted: set[Results] = set()
        #: News of batches that are unknown here while a submission is under way: its receipt may be overtaken by them.
        self._early: dict[int, list[Ended]] | None = None

    # -- by whoever waits -----------------------------------------------------------------------------------------

    def subscribe(self, target: Target, level: int, wake: Wake) -> bool:
        """Have something called once the target has come so far.

        Returns:
            False if it has already: nothing will be called.
        """
        if self.asleep is not None:
            self.asleep()
        with self.lock:
            if target._reached(level):
                return False
            add_waiter(target, level, wake)
        return True

    def unsubscribe(self, target: Target, wake: Wake) -> None:
        """Call it no more (it may just have been)."""
        with self.lock:
            if target._waiters is not None:
                target._waiters = [waiter for waiter in target._waiters if waiter[1] != wake] or None

    def wait(self, target: Target, level: int, timeout_s: float | None = None) -> bool:
        """Wait until the target has come so far.

        Args:
            target: what to wait for.
            level: how far.
            timeout_s: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.
        """
        bell = Bell()
        if not self.subscribe(target, level, bell.ring):
            return True
        with waiting() if level != ACCEPTED else nullcontext():
            if bell.wait(timeout_s):
                return True
            if level != ACCEPTED:
                looked()
        self.unsubscribe(target, bell.ring)
        return target._reached(level)

    # -- by whoever reads -----------------------------------------------------------------------------------------

    def disown(self, batch: Results) -> None:
        """Nobody will read (the rest of) a batch of which news are sent: let go of what has ended, and of the rest when
        that has ended."""
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

    # -- by the sender --------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """A submission is on its way: keep news of unknown batches."""
        self._early = {}

    def expected(self) -> None:
        """Its receipts have arrived, and their targets were added. Under the lock."""
        self._early = None

    def add(self, batch: int, target: Target, wakes: list[Wake], entry: Entry | None = None) -> None:
        """Pass on news of a batch. Under the lock.

        Args:
            batch: the batch.
            target: what the news are for.
            wakes: to be extended by what is to be called once the lock is released.
            entry: gives the target, where it is not to be held weakly.
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

    def _tell(self, entries: list[Entry], ended: Ended, wakes: list[Wake]) -> None:
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

    def heirs(self) -> list[tuple[int, Target]]:
        """The targets that live, with their batches; for the registry of a child made by `os.fork`."""
        return [(batch, target) for batch in list(self._targets) for target in self._take_out(batch)]

    def _take_out(self, batch: int) -> list[Target]:
        known = self._targets.pop(batch, None)
        entries = known if isinstance(known, list) else [] if known is None else [known]
        return [target for entry in entries if (target := entry()) is not None]
