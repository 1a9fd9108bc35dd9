"""``dtq logs``: what a task has printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, NamedTuple, overload

import click

from dtq.cli import options
from dtq.cli.calling import core as connected
from dtq.cli.click_classes import Command
from dtq.cli.output import say, write, write_json
from dtq.cli.waiting import interruptible
from dtq.client.client_core import ClientCore
from dtq.client.output import WAIT_S, OutputCursor
from dtq.errors import InvalidValue
from dtq.model.ids import TaskId, parse_named
from dtq.model.snapshots import OutputPart
from dtq.model.text import printable
from dtq.wording import counted

#: What a terminal does not show any more: a progress bar goes back to the begin of its line, and writes over it.
_WRITTEN_OVER: Final = re.compile(r"[^\n]*\r(?=[^\n\r])")


class _Piece(NamedTuple):
    """A part of the output.

    Attributes:
        part: the part.
        text: its text.
        left_out: number of bytes that are left out before it.
    """

    part: OutputPart
    text: str
    left_out: int


class Screen:
    """Standard output, for what a task has printed.

    Args:
        raw: whether bytes go there as they are.
    """

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._attempt = 0
        #: Whether the last line has begun.
        self._begun = False

    def show(self, piece: _Piece) -> None:
        """Show a piece, and a new attempt's number on standard error."""
        if self._attempt and piece.part.attempt != self._attempt:
            self.end_line()
            say(f"dtq: attempt {piece.part.attempt}")
        self._attempt = piece.part.attempt
        if self._raw:
            if piece.left_out:  # nothing that passes for all of the output is printed in silence
                say(f"dtq: {counted(piece.left_out, 'byte')} of output are left out before what follows")
            sys.stdout.buffer.write(piece.part.data)
        else:
            self.write(piece.text)
        sys.stdout.flush()

    def write(self, text: str) -> None:
        """Write foreign text, escaped."""
        if text.startswith("\r") and self._begun:
            text = f"\n{text[1:]}"
        text = printable(_WRITTEN_OVER.sub("", text.replace("\r\n", "\n")).replace("\r", ""))
        if text:
            self._begun = not text.endswith("\n")
            sys.stdout.write(text)

    def end_line(self) -> None:
        """End a line that has begun, so that the next one is no part of it."""
        if self._begun and not self._raw:
            sys.stdout.write("\n")
        self._begun = False


def _tasks(core: ClientCore, text: str) -> Sequence[TaskId]:
    """The tasks that an id names, one by one: a batch may have millions.

    Raises:
        UnknownId: it does not exist.
    """
    named = parse_named(text)
    if named.index is not None:
        return (core.task(named.batch, named.index).id,)
    if named.run is not None:
        core.task(named.batch, named.run[-1])  # all of it exists
        return _Tasks(named.batch, named.run)
    view = core.batch(named.batch)
    if view.size == 1 and view.complete:
        return (TaskId(named.batch, 0, single=True),)
    return _Tasks(named.batch, range(view.size))


class _Tasks(Sequence[TaskId]):
    """Several tasks of a batch."""

    def __init__(self, batch: int, indexes: range) -> None:
        self._batch = batch
        self._indexes = indexes

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, at: int) -> TaskId: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[TaskId]: ...
    def __getitem__(self, at: int | slice) -> TaskId | Sequence[TaskId]:
        found = self._indexes[at]
        return _Tasks(self._batch, found) if isinstance(found, range) else TaskId(self._batch, found)


class _Reading:
    """Reads what a task prints.

    Args:
        core: the client.
        task: the task.
        attempt: which attempt; None for the last one, and those behind it.
    """

    def __init__(self, core: ClientCore, task: TaskId, attempt: int | None) -> None:
        self._core = core
        self._task = task
        self._cursor = OutputCursor(attempt)

    def so_far(self) -> list[_Piece]:
        """What it has printed in one attempt so far; at least one piece, which may be empty."""
        found: list[_Piece] = []
        while True:
            part = self._cursor.ask(self._core, self._task.batch, self._task.index, 0.0)
            found.append(self._piece(part))
            if part.over or not part.data:
                return found

    def further(self) -> Iterator[_Piece]:
        """What it prints from now on, until it has ended."""
        with closing(self._core.session.link()) as link:
            while not self._cursor.over:
                part = self._cursor.next(self._core, self._task.batch, self._task.index, WAIT_S, link)
                if part is None:
                    return
                if part.data or part.over:
                    yield self._piece(part)

    def _piece(self, part: OutputPart) -> _Piece:
        left_out = self._cursor.left_out(part)
        return _Piece(part, self._cursor.text(part), left_out)


def _last_lines(pieces: list[_Piece], count: int | None) -> str:
    text = "".join(piece.text for piece in pieces)
    if count is None:
        return text
    lines = text.splitlines(keepends=True)
    return "".join(lines[max(0, len(lines) - count) :])


@click.command(
    cls=Command,
    examples=(
        ("dtq logs 17", "what the task printed, in its last attempt"),
        ("dtq logs -f 17.3", "the same, and what it goes on to print"),
        ("dtq logs 18", "what the tasks of a batch printed, one after the other"),
        ("dtq logs 17 --attempt 1 --raw > log.txt", "its first attempt, byte by byte"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended, further attempts included.")
@click.option("--attempt", metavar="N", type=click.IntRange(1, 1_000_000), help="Of this attempt, from 1.  [the last]")
@click.option("--tail", metavar="N", type=click.IntRange(0), help="Begin with the last N lines.")
@click.option("--raw", is_flag=True, help="Print bytes as they are: no escapes, remarks on standard error.")
@options.connecting
@options.as_json
def logs(
    task_id: str,
    follow: bool,
    attempt: int | None,
    tail: int | None,
    raw: bool,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
) -> None:
    """Show what a task has printed, standard output and error together.

    A worker keeps the beginning and the end of each attempt's output (`dtq worker --keep-output`), as long as the
    task's result is kept.
    """
    if raw and (as_json or tail is not None):
        raise click.UsageError("--raw goes with neither --json nor --tail.", click.get_current_context())
    with connected(addresses, authkey_file, 0.0) as core, interruptible(task_id):
        tasks = _tasks(core, task_id)
        if follow and len(tasks) != 1:
            raise InvalidValue("a task to follow", task_id, f"it names {len(tasks):,}; name one of them")
        for task in tasks:
            reading = _Reading(core, task, attempt)
            so_far = reading.so_far()
            if len(tasks) > 1 and not any(piece.part.data for piece in so_far):
                continue
            further = reading.further() if follow else None
            if as_json:
                _print_json(task, so_far, further, tail)
                continue
            if len(tasks) > 1 and not raw:
                write(f"==> {task} <==")
            _print(task, so_far, further, Screen(raw), tail)


def _print(
    task: TaskId, so_far: list[_Piece], further: Iterator[_Piece] | None, screen: Screen, tail: int | None
) -> None:
    if tail is not None:
        screen.write(_last_lines(so_far, tail))
        so_far = [so_far[-1]._replace(text="")]
    for piece in so_far:
        screen.show(piece)
    if further is None and so_far[-1].part.attempt == 0 and not so_far[-1].part.over:
        say(f"dtq: task {task} has not started")
    for piece in further or ():
        screen.show(piece)
    screen.end_line()


def _print_json(task: TaskId, so_far: list[_Piece], further: Iterator[_Piece] | None, tail: int | None) -> None:
    write_json(_json(task, so_far, tail))
    for piece in further or ():
        write_json(_json(task, [piece], None))
        sys.stdout.flush()


def _json(task: TaskId, pieces: list[_Piece], tail: int | None) -> dict[str, object]:
    """Pieces of one attempt's output, as JSON has them."""
    part = pieces[-1].part
    return {
        "id": str(task),
        "attempt": part.attempt,
        "state": part.state.value,
        "worker": part.worker or None,
        "output": _last_lines(pieces, tail),
        "bytes": part.offset + len(part.data),
        "left_out": sum(piece.left_out for piece in pieces),
        "over": part.over,
    }
