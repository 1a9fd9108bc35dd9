"""The resource tracker that a worker's slots share; started with the first message of a slot for it.

Worker, below the supervisor. It is multiprocessing's own program at the reading end of a pipe, and ends when the worker
and the last of its slots have.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Final

#: Time for its end, in seconds: it removes resources that slots have left.
END_S: Final = 2.0
_PROGRAM: Final = "from multiprocessing.resource_tracker import main; main({0})"


def start_tracker(read: int) -> subprocess.Popen[bytes]:
    """Start a resource tracker.

    Args:
        read: descriptor of the pipe to it, which stays the caller's, too.

    Raises:
        OSError: the machine has no process, memory or descriptor left.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM.format(read)],
        pass_fds=(read,),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # it outlives what ends the worker, for a moment
    )


class Tracker:
    """The pipe, and the process at its end."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None

    def fileno(self) -> int:
        """The descriptor to wait for: once it is readable, `start` is called, and the wait ends."""
        return self._read

    @property
    def writing_end(self) -> int:
        """The descriptor for the slots."""
        return self._write

    @property
    def pid(self) -> int | None:
        """The process; None before it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: the machine has no process, memory or descriptor left.
        """
        self._process = start_tracker(self._read)

    def close(self) -> None:
        """After the end of all slots, have it clean up and end."""
        os.close(self._write)
        os.close(self._read)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
