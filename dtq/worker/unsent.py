"""Results that a slot has made and not sent yet.

Worker, inside a slot. Results of tiny tasks are sent together. A task that takes longer than those before it must not
hold them back, though: then a thread sends them, which sleeps otherwise. It cannot where a task holds the interpreter's
lock all the time.
"""

from __future__ import annotations

import signal
import threading
from time import monotonic, sleep
from typing import Final

from dtq.model import pages
from dtq.worker.channel import Channel

#: Results are sent when they are so old, in seconds, or so large, in bytes.
FLUSH_S: Final = 0.010
FLUSH_BYTES: Final = 1 << 20
#: When the thread looks, in seconds after a result; it sends what is so old then, and else looks once more.
OVERDUE_S: Final = 0.05


class Unsent:
    """The results of one lease, as far as they were not sent.

    Args:
        channel: to the supervisor.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._results: list[bytes] = []
        self._size = 0
        self._token = 0
        #: The task of the first one.
        self._lo = 0
        #: When the task of the first one began, and when the last one was made.
        self._since = self._made = 0.0
        #: Held while anything is sent and forgotten; not while a result is added, which only the slot's thread does.
        self._lock = threading.Lock()
        #: There may be something that becomes overdue.
        self._armed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, token: int, lo: int, now: float) -> None:
        """What comes are the results of a lease, from a task on; nothing is unsent."""
        self._token = token
        self._lo = lo
        self._since = now

    def add(self, result: bytes, now: float, more: bool) -> bool:
        """The result of the next task.

        Args:
            result: what it is.
            now: ``time.monotonic()``.
            more: whether another task is about to begin; else `flush` comes next.

        Returns:
            Whether it is time for `flush`.
        """
        self._made = now
        self._results.append(result)
        self._size += len(result)
        if more and not self._armed.is_set():
            self._arm()
        return now - self._since > FLUSH_S or self._size > FLUSH_BYTES

    def flush(self, now: float) -> None:
        """Send all.

        Args:
            now: up to when they took their time, ``time.monotonic()``.

        Raises:
            OSError: the supervisor is gone.
        """
        with self._lock:
            self._send(now)

    def _send(self, now: float) -> None:
        if count := len(self._results):
            page = pages.pack(self._results[:count])
            self._channel.send("succeeded", self._token, self._lo, page, now - self._since)
            del self._results[:count]
            self._lo += count
            self._size = 0
        self._since = now

    def _arm(self) -> None:
        self._armed.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="dtq-unsent", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the tasks' business
        while True:
            self._armed.wait()
            sleep(OVERDUE_S)
            with self._lock:
                if self._results and monotonic() - self._made >= OVERDUE_S:
                    try:
                        self._send(self._made)
                    except OSError:
                        return  # the supervisor is gone, or the task has closed the pipe
                self._armed.clear()
                if self._results:
                    self._armed.set()
