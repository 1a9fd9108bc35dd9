"""The buffer of a slot's unsent results.

Worker, inside a slot. Results of tiny tasks are sent together. A task that takes longer than those before it must not
hold them back, though: then a thread sends them, which sleeps otherwise. If a task holds the interpreter's lock all the
time, the thread cannot; then they wait in the `arena`, from which the supervisor takes them if the slot ends first.

The thread ends before a task forks. Python 3.12 and later warn in a process that forks while it has threads, and a task
must see such a warning only for threads of its own.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Final

from dtq.model import pages
from dtq.model.pages import PAGE_BLOBS
from dtq.model.values import is_description
from dtq.worker.arena import CAPACITY, SIZE, Arena
from dtq.worker.channel import Channel
from dtq.worker.reports import Returned, plain
from dtq.worker.resident import peak_memory

#: Age, in seconds, and size, in bytes, at which results are sent.
FLUSH_S: Final = 0.010
FLUSH_BYTES: Final = CAPACITY
#: The memory of the process is looked up again after results that took longer together, in seconds: in less time it
#: grows by a few megabytes at most.
GROWTH_S: Final = 0.001
#: Delay of the thread's look after a result, in seconds; it sends results of that age then, and else looks once more.
OVERDUE_S: Final = 0.05
#: Longest wait of a fork for the thread's end, in seconds; it takes a fraction of a millisecond.
END_S: Final = 1.0
#: Pause between two looks whether the thread has ended for the kernel, too, in seconds.
_LOOK_S: Final = 0.0001


class ResultBuffer:
    """The unsent results of one lease.

    Args:
        channel: to the supervisor.
        arena: holds them.
    """

    def __init__(self, channel: Channel, arena: Arena) -> None:
        self._channel = channel
        self._arena = arena
        self._token = 0
        #: When the task of the first one began, and when the last one was made.
        self._since = self._made = 0.0
        #: Held while results are sent and forgotten; not while a result is added, which only the slot's thread does.
        self._lock = threading.Lock()
        #: Set when results may become overdue.
        self._armed = False
        self._watch: _Watch | None = None
        self._clock = monotonic  # see `Slot`
        #: The highest resident memory when it was last looked up.
        self._peak = 0

    def describe(self) -> None:
        """Note that the next result is a description."""
        self._arena.described = True

    def begin(self, token: int, lo: int, now: float) -> None:
        """Begin the results of a lease, from a task on; nothing is unsent."""
        with self._lock:
            self._token = token
            self._since = now
            self._arena.clear(token, lo, now)

    def add(self, result: bytes, now: float, more: bool) -> bool:
        """Add the result of the next task.

        Args:
            result: the result.
            now: ``time.monotonic()``.
            more: whether another task is about to begin; else `flush` comes next.

        Returns:
            Whether it is time for `flush`.
        """
        arena = self._arena
        count = arena.count
        begin = arena.end
        end = begin + len(result)
        if end > SIZE or count == PAGE_BLOBS:
            return self._make_room(result, now, more)
        if end > begin:
            arena.memory[begin:end] = result
        arena.lengths[count] = end - begin
        arena.end = end
        arena.count = count + 1
        self._made = now
        if more and not self._armed:
            self._arm()
        return now - self._since > FLUSH_S or end == SIZE

    def _make_room(self, result: bytes, now: float, more: bool) -> bool:
        """Add a result that had no room; one that is larger than the whole arena is sent at once."""
        with self._lock:
            self._send(self._made)
            self._reset(self._arena.next)
            if len(result) > CAPACITY:
                lo = self._arena.next
                page = pages.pack([result], described=True)
                self._report(lo, page, now - self._since)
                self._since = now
                self._reset(lo + 1)
                return False
            self._arena.described = is_description(result)
        return self.add(result, now, more)

    def flush(self, now: float) -> None:
        """Send all results.

        Args:
            now: the end of their time, ``time.monotonic()``.

        Raises:
            OSError: the supervisor is gone.
        """
        with self._lock:
            self._send(now)
            self._reset(self._arena.next)

    def _send(self, now: float) -> None:
        arena = self._arena
        if arena.unsent:
            lo, page, upto = arena.page()
            self._report(lo, page, now - self._since)
            arena.sent(upto)
        self._since = now

    def _report(self, lo: int, page: bytes, seconds: float) -> None:
        if seconds > GROWTH_S or not self._peak:
            self._peak = peak_memory()
        self._channel.send(*plain(Returned(self._token, lo, page, seconds, self._peak)))

    def _reset(self, lo: int) -> None:
        self._arena.clear(self._token, lo, self._since)

    def before_fork(self) -> None:
        """End the thread before a task forks, in whichever thread of the process; waiting results are sent at once."""
        # A signal handler that forks may have interrupted the holder of the lock, in this thread.
        if self._watch is None or not self._lock.acquire(timeout=END_S):
            return
        try:
            watch = self._watch
            self._watch, self._armed = None, False
            with suppress(OSError):  # the supervisor is gone, or the task has closed the pipe
                self._send(self._made)
        finally:
            self._lock.release()
        if watch is not None:
            watch.end()

    def _arm(self) -> None:
        with self._lock:
            if self._watch is None:
                try:
                    self._watch = _Watch(self._overdue)
                except RuntimeError:
                    return  # no more threads can be started; results wait for those after them
            self._armed = True
            self._watch.alarm.set()

    def _overdue(self, watch: _Watch) -> bool:
        """Send overdue results; whether this thread has results left to watch."""
        with self._lock:
            if self._watch is not watch:
                return False
            if self._arena.unsent and self._clock() - self._made >= OVERDUE_S:
                try:
                    self._send(self._made)
                except OSError:
                    return False  # the supervisor is gone, or the task has closed the pipe
            self._armed = bool(self._arena.unsent)
            if not self._armed:
                watch.alarm.clear()
            return True


class _Watch:
    """A thread that looks a while after each alarm.

    Args:
        look: called then; returns whether to go on.
    """

    def __init__(self, look: Callable[[_Watch], bool]) -> None:
        self._look = look
        #: Set when results may become overdue.
        self.alarm = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dtq-unsent", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the tasks' business
        while True:
            self.alarm.wait()
            self._over.wait(OVERDUE_S)
            if not self._look(self):
                return

    def end(self) -> None:
        """End the thread, and wait for its end in the kernel, by which Python counts threads."""
        self._over.set()
        self.alarm.set()
        self._thread.join(END_S)
        entry = f"/proc/self/task/{self._thread.native_id}"
        for _ in range(int(END_S / _LOOK_S)):
            if not os.path.exists(entry):
                return
            sleep(_LOOK_S)
