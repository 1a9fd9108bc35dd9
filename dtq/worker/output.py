"""Output of a slot's process: a pipe that the supervisor reads, for its log and for the record of failed attempts.

Worker, below the supervisor. Standard output and standard error of a slot are the same pipe, so that lines stay in
their order and a task without output costs nothing. Lines go to the logger ``dtq.task`` with their task; a task that
floods is cut short there, and the omitted lines are counted. The last few kilobytes are kept for the next attempt that
fails.

The slot's position at the arrival of the bytes tells which task printed them: the last output of a task may be ascribed
to its successor, if that starts within the same moment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger("dtq.task")

#: Bytes of a slot's last output that are kept.
KEPT: Final = 4096
#: Bounds of a slot's logged output: bytes a second in the long run, and bytes at once.
LOG_RATE: Final = 16 << 10
LOG_BURST: Final = 128 << 10
#: Longest line in the log, in bytes.
LONGEST_LINE: Final = 2000
_READ: Final = 1 << 16
#: Characters that would move a terminal's cursor, or worse, and their replacements.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}


class Passed:
    """No pipe: the slot's output goes where the worker's own would go.

    The cluster of a program works like a pool of the standard library: output is in the program's order, on its
    terminal if it has one, and at the reader's pace.
    """

    #: The slot is given nothing: it has the streams of the worker.
    writing_end: None = None

    def given(self) -> None:
        """See `Output.given`."""

    def last_lines(self, serial: int) -> str:
        """See `Output.last_lines`; nothing is kept."""
        return ""

    def write(self) -> None:
        """See `Output.write`."""

    def close(self) -> None:
        """See `Output.close`."""


class Output:
    """The reading end.

    Args:
        slot: the slot's number.
        task: returns the id of the task that the slot has started last ("" before the first) and its serial.
    """

    def __init__(self, slot: int, task: Callable[[], tuple[str, int]]) -> None:
        self._slot = slot
        self._task = task
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._kept: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._budget = float(LOG_BURST)
        self._refilled_at = time.monotonic()
        self._line = b""
        self._left_out = 0
        #: Lines to be logged, each with its task's id.
        self._lines: deque[tuple[str, str]] = deque()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._read

    @property
    def writing_end(self) -> int | None:
        """The descriptor for the slot, until `given`."""
        return self._write

    def given(self) -> None:
        """Close the writing end here, after the slot has it."""
        os.close(self._write)

    def take(self) -> bool:
        """Take some of the arrived output, without waiting.

        Returns:
            Whether more may follow, now or later.
        """
        try:
            data = os.read(self._read, _READ)
        except BlockingIOError:
            return False
        task, serial = self._task()  # after the read: a task's output is never ascribed to an earlier one
        if data:
            self._keep(serial, data)
            self._log(task, data)
        return bool(data)

    def _keep(self, serial: int, data: bytes) -> None:
        kept = self._kept
        kept.append((serial, data[-KEPT - 1 :]))  # a byte more: it tells that something was before
        self._size += len(kept[-1][1])
        while self._size - len(kept[0][1]) > KEPT:
            self._size -= len(kept.popleft()[1])

    def last_lines(self, serial: int) -> str:
        """The end of the output since a task started, at most `KEPT` bytes; whole lines if possible.

        Args:
            serial: of the task.
        """
        for _ in range(4):  # at most a full pipe: a process that goes on printing is not waited for
            if not self.take():
                break
        data = b"".join([piece for at, piece in self._kept if at >= serial])
        if len(data) > KEPT:
            data = data[-KEPT:]
            _, newline, rest = data.partition(b"\n")
            data = rest if newline and rest else data
        return data.decode("utf-8", "replace")

    # -- the log --------------------------------------------------------------------------------------------------

    def _log(self, task: str, data: bytes) -> None:
        now = time.monotonic()
        self._budget = min(LOG_BURST, self._budget + (now - self._refilled_at) * LOG_RATE)
        self._refilled_at = now
        if self._budget < 1:
            self._left_out += len(data)
            return
        if self._left_out:
            self._say(task, f"[{self._left_out} bytes of output are left out here]")
            self._left_out = 0
        spent = min(len(data), int(self._budget))
        self._budget -= spent
        self._left_out += len(data) - spent
        *lines, self._line = (self._line + data[:spent]).split(b"\n")
        for line in lines:
            self._say(task, line[:LONGEST_LINE].decode("utf-8", "replace").rstrip("\r"))
        if len(self._line) > LONGEST_LINE:
            self._say(task, self._line[:LONGEST_LINE].decode("utf-8", "replace"))
            self._line = b""

    def _say(self, task: str, line: str) -> None:
        self._lines.append((task, line.translate(_CONTROLS)))

    def write(self) -> None:
        """Log the taken output; that may wait for the reader of the log."""
        while self._lines:
            task, line = self._lines.popleft()
            if log.hasHandlers() and log.isEnabledFor(logging.INFO):
                log.info("slot %d, task %s: %s", self._slot, task or "-", line)
                continue
            # A worker inside a program without such a log: its tasks' output must be visible all the same.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """Close the pipe after the slot's end; the rest is still to be written."""
        if self._line:
            self._log(self._task()[0], b"\n")
        if self._left_out:
            self._say(self._task()[0], f"[{self._left_out} bytes of output are left out here]")
        os.close(self._read)
