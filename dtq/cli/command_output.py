"""Prints what commands have printed, as if they had run here, and tells how they ended."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Any, Final, TextIO

from dtq.cli.failures import BROKEN_PIPE, complain
from dtq.cli.logs import Screen
from dtq.cli.output import write_json
from dtq.cli.values import command_json
from dtq.client.commands import CommandResult
from dtq.client.handle import TaskHandle
from dtq.errors import CommandFailed, DtqError
from dtq.model.text import printable

#: Time for the last output of a task that has ended, in seconds.
_LAST_S: Final = 5.0
#: The exit code of a run with more failed commands than this is one more; as GNU parallel has it.
MOST_FAILED: Final = 100


class Printer:
    """Prints the outputs of commands.

    Args:
        raw: whether control characters go to a terminal as they are.
        as_json: whether a line of JSON is printed for each.
    """

    def __init__(self, raw: bool, as_json: bool) -> None:
        self._raw = raw
        self._as_json = as_json

    def command(self, task: str, result: CommandResult, tag: str | None = None) -> None:
        """Print the output of a command.

        Args:
            task: its task's id.
            result: how it ended.
            tag: a text before each line of it; None for none.
        """
        if self._as_json:
            write_json({"id": task, **command_json(result)})
            return
        for stream, data in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            if data:
                self._write(stream, data if tag is None else _tagged(data, tag))

    def _write(self, stream: TextIO, data: bytes) -> None:
        if self._raw or not stream.isatty():
            stream.flush()
            stream.buffer.write(data)
        else:
            stream.write(printable(data.decode(errors="backslashreplace")))
        stream.flush()

    def trouble(self, task: str, error: BaseException) -> None:
        """Tell why a task has no result of a command."""
        if self._as_json:
            write_json({"id": task, "error": {"exception": type(error).__name__, "message": str(error)}})
        else:
            complain(f"task {task}: {error}" if task not in str(error) else str(error))


class LiveOutput:
    """Prints what a command prints, as it comes: both outputs together, as they arrive.

    Args:
        handle: of its task.
        raw: whether control characters go to a terminal as they are.
    """

    def __init__(self, handle: TaskHandle[Any], raw: bool) -> None:
        self._handle = handle
        self._raw = raw
        #: Whether anything was printed.
        self.printed = False
        self._thread = threading.Thread(target=self._follow, name="dtq-live", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        screen = Screen(self._raw)
        try:
            with suppress(DtqError):  # the waiting code gets the error; what was not printed is printed at the end
                for text in self._handle.follow_output():
                    self.printed = True
                    if self._raw:
                        sys.stdout.write(text)
                    else:
                        screen.write(text)
                    sys.stdout.flush()
            screen.end_line()
        except BrokenPipeError:  # the main thread waits for the task, which may go on for ever
            os._exit(BROKEN_PIPE)

    def close(self) -> None:
        """Wait until all of it is printed; the task has ended."""
        self._thread.join(_LAST_S)


def _tagged(data: bytes, tag: str) -> bytes:
    before = tag.encode(errors="surrogateescape") + b"\t"
    return b"".join([before + line.rstrip(b"\n") + b"\n" for line in data.splitlines(keepends=True)])


def result_of(outcome: object) -> CommandResult | None:
    """How a command ended, from a task's result or exception; None if it says nothing of a command."""
    found = outcome.result if isinstance(outcome, CommandFailed) else outcome
    return found if isinstance(found, CommandResult) else None


def has_started(outcome: object) -> bool:
    """Whether the command of such a task was started; else its exception has the reason."""
    result = result_of(outcome)
    return result is not None and (not isinstance(outcome, CommandFailed) or result.seconds > 0)
