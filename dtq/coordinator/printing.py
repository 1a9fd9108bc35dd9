"""The followed tasks, the last of what they have printed, and the calls that wait for more.

All of this is used under the coordinator's lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from dtq.core.changes import Change, Stored
from dtq.core.leases import Lease
from dtq.model.messages import Followed, PrintedNow

#: Bytes of a running task's output that are kept for its followers.
_KEPT: Final = 256 << 10
#: Most tasks that are followed at once: beyond that, the one that was asked for longest ago is not any more.
MOST_FOLLOWED: Final = 256
#: Time after a follower's last call for which its task is followed, in seconds.
FOLLOWED_S: Final = 30.0


class LiveTask:
    """A running task that somebody follows.

    Args:
        session: its worker's.
        token: its lease.
        index: its index in its batch.
        attempt: which attempt it is.
    """

    __slots__ = ("_pieces", "_size", "attempt", "index", "known", "session", "token", "until")

    def __init__(self, session: str, token: int, index: int, attempt: int) -> None:
        self.session = session
        self.token = token
        self.index = index
        self.attempt = attempt
        #: Whether its worker has said what it had printed.
        self.known = False
        #: Until when it is followed, ``time.monotonic()``.
        self.until = 0.0
        #: The last of what it has printed: offset and bytes, in rising order.
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._size = 0

    @property
    def end(self) -> int:
        """The offset behind the last known byte."""
        return self._pieces[-1][0] + len(self._pieces[-1][1]) if self._pieces else 0

    def add(self, offset: int, data: bytes) -> None:
        """Add bytes that the worker reports; those before the end of the known ones are known."""
        self.known = True
        end = self.end
        data = data[max(0, end - offset) :]
        if data:
            self._pieces.append((max(offset, end), data))
            self._size += len(data)
        while self._size > _KEPT and len(self._pieces) > 1:
            self._size -= len(self._pieces.popleft()[1])

    def since(self, offset: int, room: int) -> tuple[int, bytes]:
        """The known bytes from an offset on, up to the next gap: the offset of the first one, and the bytes."""
        found: list[bytes] = []
        at = end = offset
        for begin, data in self._pieces:
            if begin + len(data) <= end:
                continue
            if not found:
                at = end = max(offset, begin)
            elif begin != end:
                break
            found.append(data[end - begin :])
            end = begin + len(data)
            if end - at >= room:
                break
        return at, b"".join(found)[:room]


class Printing:
    """Followed tasks, and waiting calls."""

    def __init__(self) -> None:
        #: By lease and index, in the order of their last calls.
        self._tasks: dict[tuple[int, int], LiveTask] = {}
        #: Calls that wait for news of a task, by its batch.
        self._waiting: dict[int, set[threading.Event]] = {}
        #: Sessions of workers that were not told of further followed tasks yet.
        self.untold: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks or self.untold)

    def follow(self, lease: Lease, index: int, now: float) -> LiveTask:
        """Follow a running task, or go on doing so.

        Args:
            lease: its lease.
            index: its index.
            now: ``time.monotonic()``.
        """
        for at in [at for at, task in self._tasks.items() if task.until < now]:
            self.untold.discard(self._tasks.pop(at).session)
        key = (lease.token, index)
        task = self._tasks.pop(key, None)
        if task is None or task.session != lease.worker.session:
            task = LiveTask(lease.worker.session, lease.token, index, lease.attempt)
            self.untold.add(task.session)
            while len(self._tasks) >= MOST_FOLLOWED:
                del self._tasks[next(iter(self._tasks))]
        self._tasks[key] = task
        task.until = now + FOLLOWED_S
        return task

    def tell(self, session: str, now: float) -> tuple[Followed, ...]:
        """The followed tasks of a worker, to which they are told now."""
        self.untold.discard(session)
        return tuple(
            [
                Followed(token=task.token, index=task.index, known=task.known, offset=task.end)
                for task in self._tasks.values()
                if task.session == session and task.until >= now
            ]
        )

    def told(self, session: str, said: Iterable[PrintedNow], leases: dict[int, Lease]) -> None:
        """Take what a worker reports of followed tasks.

        Args:
            session: the worker's.
            said: the report.
            leases: its leases: it cannot report of other workers' tasks.
        """
        for each in said:
            task = self._tasks.get((each.token, each.index))
            if task is not None and task.session == session and each.token in leases:
                task.add(each.offset, each.data)
                self._wake((leases[each.token].batch.number,))

    # -- waiting calls --------------------------------------------------------------------------------------------

    def wait(self, batch: int, woken: threading.Event) -> None:
        """Have an event set when there may be news of a task of a batch."""
        self._waiting.setdefault(batch, set()).add(woken)

    def waits_no_more(self, batch: int, woken: threading.Event) -> None:
        """Forget such an event."""
        waiting = self._waiting[batch]
        waiting.discard(woken)
        if not waiting:
            del self._waiting[batch]

    def committed(self, changes: Iterable[Change]) -> None:
        """Wake the calls that wait for tasks of batches with durable changes."""
        if self._waiting:
            self._wake({getattr(change.row, "batch", 0) for change in changes if type(change) is Stored})

    def wake_all(self) -> None:
        """Wake all waiting calls."""
        self._wake(list(self._waiting))

    def _wake(self, batches: Iterable[int]) -> None:
        for batch in batches:
            for woken in self._waiting.get(batch, ()):
                woken.set()
