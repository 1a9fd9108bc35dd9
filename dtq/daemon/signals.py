"""The signals that end a process of dtq's: none is lost, whenever it comes.

Daemon. The handlers are there before anything else is done, and only write down which signal came: a handler runs
between two steps of the main thread, which may hold any lock. `Signals` acts on what was written down in a thread of
its own, as soon as there is something to act on; `up` reads it in its loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final, Protocol

#: Exit code of a process that a third signal ends in the middle of what it does.
INTERRUPTED: Final = 130
#: The signals that ask for an end: by whoever stops services, by Ctrl-C, by a terminal that closes.
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Written instead of a signal's number where nothing more is to be read.
_OVER: Final = 0


def ignore_from_now_on() -> None:
    """All is done, and the interpreter about to end: it takes its handlers back first, and a signal that came then made
    an error of an end that is none."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


class SignalPipe:
    """Signals, written down in the order in which they came. Made in the main thread.

    Args:
        numbers: which ones. SIGHUP stays ignored where it was (nohup).
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
        if os.getpid() == self._owner:  # a child that is about to become another program has the pipe too
            self._note(number)

    def _note(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):  # as many were written down as anybody could want
            os.write(self._write, bytes([number]))

    def fileno(self) -> int:
        """The descriptor that can be read when a signal has come."""
        return self._read

    def read(self) -> list[int]:
        """The numbers of what has come; waits for one."""
        return list(os.read(self._read, 1 << 10))

    def restore(self) -> None:
        """Let those handle the signals again who did before, and have `read` answer once more, with 0."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._note(_OVER)

    def close(self) -> None:
        """Let go of the pipe, after `restore`."""
        os.close(self._read)
        os.close(self._write)


class Ending(Protocol):
    """What is to be ended."""

    def drain(self) -> None:
        """Let what runs finish, then end."""
        ...

    def end(self) -> None:
        """Give back what runs, and end."""
        ...


class Signals:
    """What SIGTERM, SIGINT and SIGHUP do to a worker or coordinator. In the main thread only.

    Of SIGTERM and SIGINT the first lets what runs finish, the second gives it back, the third ends the process. SIGHUP
    gives back at once: with the terminal, whoever could send a second one is gone.

    Args:
        numbers: those that it handles.
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
        """Say what is to be ended: what has come before is done to it now, and from now on what comes."""
        with self._lock:
            self._ending = ending
        self._act()

    def restore(self) -> None:
        """Let those handle them again who did before."""
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
                # What is told to end may keep this waiting; the third signal does not wait for that.
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
