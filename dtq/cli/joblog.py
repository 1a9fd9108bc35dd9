"""The log of commands in the columns of GNU parallel: written as they end, read to go on where a run has stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, NamedTuple

from dtq.cli.command_lines import Job, shown
from dtq.client.commands import SIGNALLED, CommandResult
from dtq.errors import BadFile, BadInput
from dtq.model.text import printable_line

_COLUMNS: Final = ("Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command")
HEADING: Final = "\t".join(_COLUMNS)


class Entry(NamedTuple):
    """What is known of an earlier run of a command: whether it succeeded, and the command."""

    succeeded: bool
    command: str


class Joblog:
    """A log that is written.

    Args:
        file: the open file.
        sent: bytes of each command's standard input.
    """

    def __init__(self, file: IO[str], sent: int) -> None:
        self._file = file
        self._sent = sent

    def add(self, job: Job, result: CommandResult) -> None:
        """Add a command that has ended."""
        killed = bool(result.signal) and result.exit_code == SIGNALLED + result.signal
        fields = (
            str(job.sequence),
            result.worker or ":",
            f"{result.started_at:.3f}",
            f"{result.seconds:10.3f}",
            str(self._sent),
            str(result.printed),
            "0" if killed else str(result.exit_code),
            str(result.signal),
            command_text(job),
        )
        self._file.write("\t".join(fields) + "\n")
        self._file.flush()


def command_text(job: Job) -> str:
    """A command in one line, as the log has it."""
    return printable_line(shown(job.words))


@contextmanager
def written(path: str, sent: int, *, going_on: bool) -> Iterator[Joblog]:
    """Open a log.

    Args:
        path: its path.
        sent: bytes of each command's standard input.
        going_on: whether to add to it; else it begins anew.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "a" if going_on else "w", encoding="utf-8") as file:
        if going_on:
            file.truncate(_whole(path))
        if not file.seek(0, os.SEEK_END):
            file.write(f"{HEADING}\n")
            file.flush()
        yield Joblog(file, sent)


def _whole(path: str) -> int:
    """Bytes of a log's whole lines: the last one may have been cut by a kill."""
    with open(path, "rb") as file:
        return file.read().rfind(b"\n") + 1


def read(path: str) -> dict[int, Entry]:
    """The commands of a log by their number; none if there is no such file. The last line of a number counts.

    Raises:
        BadFile: it is no such log.
        OSError: it cannot be read.
        BadInput: a line of it is malformed; names the line.
    """
    found: dict[int, Entry] = {}
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and line.rstrip("\n") != HEADING:
                    raise BadFile(path, f"it does not begin with the columns of such a log ({HEADING!r})")
                if number > 1 and line.endswith("\n"):
                    _add(found, line.rstrip("\n"), path, number)
    except FileNotFoundError:
        return {}
    return found


def _add(found: dict[int, Entry], line: str, path: str, number: int) -> None:
    fields = line.split("\t", len(_COLUMNS) - 1)
    try:
        sequence, exit_value, killed_by = int(fields[0]), int(fields[6]), int(fields[7])
        found[sequence] = Entry(not exit_value and not killed_by, fields[8])
    except (ValueError, IndexError):
        raise BadInput(path, number, "it is no line of such a log") from None


def unfinished(jobs: Iterator[Job], logged: dict[int, Entry], path: str, *, failed_too: bool) -> Iterator[Job]:
    """The commands that are left to run.

    Args:
        jobs: all commands.
        logged: those of the log.
        path: its path, for the sentence.
        failed_too: whether those that failed run again.

    Raises:
        BadInput: the log is of other commands.
    """
    for job in jobs:
        entry = logged.get(job.sequence)
        if entry is not None and entry.command != command_text(job):
            was, now = entry.command[:80], command_text(job)[:80]
            raise BadInput(path, job.sequence, f"number {job.sequence} was the command {was!r}, and is {now!r} now")
        if entry is None or (failed_too and not entry.succeeded):
            yield job
