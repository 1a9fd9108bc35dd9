"""Prints what commands have printed, as if they had run here, and tells how they ended."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from dtq.cli.failures import complain
from dtq.cli.output import write_json
from dtq.cli.values import command_json
from dtq.client.commands import CommandResult
from dtq.errors import CommandFailed
from dtq.model.text import printable

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
