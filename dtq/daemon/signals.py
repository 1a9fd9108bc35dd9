"""The signals that end a process of dtq's: none is lost, at any moment.

Daemon. The handlers are installed before anything else, and only record which signal came: a handler runs between two
steps of the main thread, which may hold any lock. `Signals` acts on the records in a thread of its own, once the
process can be ended; `up` reads them in its loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final, Protocol

#: Exit code of a process that a third signal ends at once.
INTERRUPTED: Final = 130
#: The signals that request an end: from a service manager, Ctrl-C, a closing terminal.
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Written instead of a signal's number when no more signals are read.
_OVER: Final = 0


def ignore_from_now_on() -> None:
    """Ignore signals during shutdown, after Python restores the default handlers."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


class SignalPipe:
    """Signals, recorded in their order. Made in the main thread.

    Args:
        numbers: the recorded ones. SIGHUP stays ignored if it was (nohup).
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._owner = os.getpid()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before: dict[signal.Signals, Any] = {}
        for number in numbers:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._owner:  # a child that is about to become another program has the pipe, too
            self._note(number)

    def _note(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):  # enough are recorded already
            os.write(self._write, bytes([number]))

    def fileno(self) -> int:
        """The descriptor that is readable when a signal has come."""
        return self._read

    def read(self) -> list[int]:
        """The numbers of the signals so far; waits for one."""
        return list(os.read(self._read, 1 << 10))

    def restore(self) -> None:
        """Restore the previous handlers, and make `read` return once more, with 0."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._note(_OVER)

    def close(self) -> None:
        """Close the pipe, after `restore`."""
        os.close(self._read)
        os.close(self._write)


class Ending(Protocol):
    """A process's end, as signals request it."""

    def drain(self) -> None:
        """Let running tasks finish, then end."""
        ...

    def end(self) -> None:
        """Give running tasks back, and end."""
        ...


class Signals:
    """Acts on SIGTERM, SIGINT and SIGHUP in a worker or coordinator. In the main thread only.

    Of SIGTERM and SIGINT the first lets running tasks finish, the second gives them back, the third ends the process.
    SIGHUP gives them back at once: without the terminal, no user can send a second one.

    Args:
        numbers: the handled ones.
    """

    def __init__(self, numbers: Iterable[signal.Signals] = ENDING) -> None:
        self._lock = threading.Lock()
        self._ending: Ending | None = None
        self._asked = 0
        self._urgent = False
        self._pipe = SignalPipe(numbers)
        self._thread = threading.Thread(target=self._obey, name="dtq-signal", daemon=True)
        self._thread.start()

    def attach(self, ending: Ending) -> None:
        """Set the process's end: past signals are applied to it now, and later ones as they come."""
        with self._lock:
            self._ending = ending
        self._act()

    def restore(self) -> None:
        """Restore the previous handlers."""
        self._pipe.restore()
        self._thread.join()
        self._pipe.close()

    def _obey(self) -> None:
        while True:
            for number in self._pipe.read():
                if number == _OVER:
                    return
                with self._lock:
                    if number == signal.SIGHUP:
                        self._urgent = True  # the kernel and the shell may both send it: it never counts as one more
                    else:
                        self._asked += 1
                if self._asked > 2:
                    os._exit(INTERRUPTED)
                # The end may keep this thread waiting; the third signal does not wait for that.
                threading.Thread(target=self._act, name="dtq-ending", daemon=True).start()

    def _act(self) -> None:
        with self._lock:
            ending, urgent, asked = self._ending, self._urgent or self._asked > 1, self._asked
        if ending is None:
            return
        if urgent:
            ending.end()
        elif asked:
            ending.drain()
