"""Output of a slot's process: a pipe that the supervisor reads, for its log and for the record of each attempt.

Worker, below the supervisor. Standard output and standard error of a slot are the same pipe, so that lines stay in
their order and a task without output costs nothing. Lines go to the logger ``dtq.task`` with their task; a task that
floods is cut short there, and the omitted lines are counted. Of each attempt the first and the last bytes are kept
(`task_output`), until its outcome is reported.

Python code marks its output with its task (`marked_stream`). Other output is ascribed to the task that had started last
when it was read: the last such output of a task may be its successor's, if that starts within the same moment, and what
a process prints that has outlived its task is the next task's, or nobody's while none runs: then it is logged only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dtq.model.printed import USUAL_KEPT, Printed
from dtq.worker.marked_stream import Marks
from dtq.worker.task_output import TaskOutput

log = logging.getLogger("dtq.task")
_dtq = logging.getLogger("dtq")

#: Bounds of a slot's logged output: bytes a second in the long run, and bytes at once.
LOG_RATE: Final = 16 << 10
LOG_BURST: Final = 128 << 10
#: Bytes that there must be room for before output is logged again, once some was left out: or a line about that would
#: come with every few bytes.
LOG_AGAIN: Final = 256
#: Longest line in the log, in bytes.
LONGEST_LINE: Final = 2000
_READ: Final = 1 << 16
#: Most reads at the end of a task: what the pipe holds. A process that goes on printing is not waited for.
_READS: Final = 4
#: No bytes wait in the pipe, as the system says it.
_EMPTY: Final = bytes(4)
#: Characters that would move a terminal's cursor, or worse, and their replacements.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}


class Passed:
    """No pipe: the slot's output goes where the worker's own would go.

    The cluster of a program works like a pool of the standard library: output is in the program's order, on its
    terminal if it has one, and at the reader's pace.
    """

    #: The slot is given nothing: it has the streams of the worker.
    writing_end: None = None
    #: See `Output.waits`.
    waits: bool = False

    def given(self) -> None:
        """See `Output.given`."""

    def drain(self) -> None:
        """See `Output.drain`."""

    def keep(self, most: int) -> None:
        """See `Output.keep`."""

    def printed(self, serial: int, index: int, count: int) -> tuple[Printed, ...]:
        """See `Output.printed`; nothing is kept."""
        return ()

    def kept(self, serial: int) -> TaskOutput | None:
        """See `Output.kept`."""
        return None

    def write(self) -> None:
        """See `Output.write`."""

    def close(self) -> None:
        """See `Output.close`."""


class Output:
    """The reading end.

    Args:
        slot: the slot's number.
        running: returns the serial of the task that the slot has started last.
        name: returns the id of the task with a serial, "" if it is not known.
    """

    def __init__(self, slot: int, running: Callable[[], int], name: Callable[[int], str]) -> None:
        self._slot = slot
        self._running = running
        self._name = name
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._marks = Marks()
        self._most = USUAL_KEPT
        #: The output of tasks whose outcome was not derived yet, by serial; and the serial of the first such task.
        self._kept: dict[int, TaskOutput] = {}
        self._first = 0
        self._budget = float(LOG_BURST)
        self._refilled_at = time.monotonic()
        #: The line that has begun, and its task.
        self._line, self._line_of = b"", -1
        self._left_out = 0
        #: Lines to be logged, each with its task's id.
        self._lines: deque[tuple[str, str]] = deque()

    def keep(self, most: int) -> None:
        """Set how many bytes of each task are kept from now on; 0 for none."""
        self._most = most

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

    def take(self) -> int:
        """Take some of the arrived output, without waiting.

        Returns:
            Number of its bytes; 0 for none, now or ever.
        """
        try:
            data = os.read(self._read, _READ)
        except BlockingIOError:
            return 0
        running = self._running()  # after the read: a task's output is never ascribed to an earlier one
        for serial, piece in self._marks.divided(data, running, running):
            self._add(serial, piece)
        return len(data)

    def _add(self, serial: int, data: bytes) -> None:
        if self._most and serial >= self._first:
            kept = self._kept.get(serial)
            if kept is None:
                kept = self._kept[serial] = TaskOutput(self._most)
            kept.add(data)
        self._log(serial, data)

    def drain(self) -> None:
        """Take the output that has arrived, before outcomes of tasks are derived."""
        for _ in range(_READS):
            if fcntl.ioctl(self._read, termios.FIONREAD, _EMPTY) == _EMPTY:
                if rest := self._marks.rest():
                    self._add(self._running(), rest)
                return
            if not self.take():
                return

    def kept(self, serial: int) -> TaskOutput | None:
        """The output of a task whose outcome was not derived yet; None if it has printed nothing."""
        return self._kept.get(serial)

    def printed(self, serial: int, index: int, count: int) -> tuple[Printed, ...]:
        """The output of tasks that have ended, of those that printed anything; it is not kept here any longer.

        Args:
            serial: of the first task.
            index: of the first task, in its batch.
            count: number of the tasks.
        """
        self._first = max(self._first, serial + count)
        if not self._kept:
            return ()
        over = sorted(at for at in self._kept if at < self._first)
        found = [(at, self._kept.pop(at)) for at in over]
        return tuple([kept.printed(index + at - serial) for at, kept in found if at >= serial])

    # -- the log --------------------------------------------------------------------------------------------------

    def _log(self, serial: int, data: bytes) -> None:
        now = time.monotonic()
        self._budget = min(LOG_BURST, self._budget + (now - self._refilled_at) * LOG_RATE)
        self._refilled_at = now
        if self._budget < (LOG_AGAIN if self._left_out else 1):
            self._left_out += len(data)
            return
        if self._line and serial != self._line_of:  # the last line of a task, without its end
            self._say(self._line_of, self._line[:LONGEST_LINE])
            self._line = b""
        self._line_of = serial
        if self._left_out:
            self._note_left_out(serial)
        spent = min(len(data), int(self._budget))
        self._budget -= spent
        self._left_out += len(data) - spent
        *lines, self._line = (self._line + data[:spent]).split(b"\n")
        for line in lines:
            self._say(serial, line[:LONGEST_LINE])
        if len(self._line) > LONGEST_LINE:
            self._say(serial, self._line[:LONGEST_LINE])
            self._line = b""

    def _say(self, serial: int, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r").translate(_CONTROLS)
        self._lines.append((self._name(serial), text))

    def _note_left_out(self, serial: int) -> None:
        self._say(serial, b"[%d bytes of output are left out here]" % self._left_out)
        self._left_out = 0

    @property
    def waits(self) -> bool:
        """Whether lines are to be logged."""
        return bool(self._lines)

    def write(self) -> None:
        """Log the taken output; that may wait for the reader of the log."""
        while self._lines:
            task, line = self._lines.popleft()
            if log.hasHandlers() and log.isEnabledFor(logging.INFO):
                log.info("slot %d, task %s: %s", self._slot, task or "-", line, extra={"task_id": task})
                continue
            if not _dtq.propagate:  # a process of dtq's own, whose log is told to be quieter
                continue
            # A worker inside a program without such a log: its tasks' output must be visible all the same.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """Close the pipe after the slot's end; the rest is still to be written."""
        if self._line:
            self._log(self._line_of, b"\n")
        if self._left_out:
            self._note_left_out(self._line_of)
        os.close(self._read)
