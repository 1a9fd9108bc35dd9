"""What SIGTERM and SIGINT do to a worker: the first lets running tasks finish, the second gives them back, the third
ends the process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, Protocol

log = logging.getLogger("dtq.daemon")


def ignore_from_now_on() -> None:
    """All is done, and the interpreter about to end: it takes its handlers back first, and a signal that came then made
    an error of an end that is none."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Ending(Protocol):
    """What is to be ended."""

    def drain(self) -> None:
        """Let what runs finish, then end."""
        ...

    def end(self) -> None:
        """Give back what runs, and end."""
        ...


class Signals:
    """Handles both signals from now on; in the main thread only.

    Args:
        ending: what they end.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._count = 0
        self._before: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def restore(self) -> None:
        """Let those handle them again who did before."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(130)
        # A handler runs between two steps of the main thread, which may hold the worker's lock: act from elsewhere.
        act = self._ending.drain if self._count == 1 else self._ending.end
        threading.Thread(target=act, name="dtq-signal", daemon=True).start()
        if self._count == 1:
            log.info("finishing what runs; a second signal gives it back to the queue at once")
