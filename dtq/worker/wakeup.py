"""Wakes the supervisor's loop: a pipe that threads and signals write to.

Worker, below the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Final

#: Pause between two looks for slots that have died without closing their pipe, if no signal tells, in seconds.
LOOK_S: Final = 0.25


class Wakeup:
    """The pipe.

    Attributes:
        look_s: longest sleep of the loop without a deadline, in seconds; None for ever.
    """

    def __init__(self) -> None:
        self.look_s: float | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._read

    def ring(self) -> None:
        """Wake the loop, if it still runs; any thread."""
        with self._lock, contextlib.suppress(BlockingIOError):  # the pipe is full: it is awake already
            if not self._closed:
                os.write(self._write, b"\0")

    def clear(self) -> None:
        """Empty the pipe: the loop is awake."""
        while len(os.read(self._read, 4096)) == 4096:
            pass

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        """Let signals wake the loop, the end of a child too. Only the main thread gets signals; in others the loop
        polls.
        """
        if threading.current_thread() is not threading.main_thread():
            self.look_s = LOOK_S
            yield
            return
        previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        handler = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, handler)
            signal.set_wakeup_fd(previous)

    def close(self) -> None:
        """Close the pipe."""
        with self._lock:  # or a byte for the loop would go to the descriptor's next owner
            self._closed = True
            os.close(self._read)
            os.close(self._write)
