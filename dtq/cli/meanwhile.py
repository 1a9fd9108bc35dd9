"""Progress of awaited tasks on standard error: bars, failed attempts, and the reasons for waiting.

Where standard error is a terminal, a bar for each awaited id; elsewhere lines of text, the first after less than two
seconds and then less and less often. There and here a line for each event that concerns the waiting user.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final, Protocol

from dtq.cli.failures import complain
from dtq.cli.looks import Look, Step
from dtq.errors import DtqError
from dtq.model.text import printable_line
from dtq.wording import counted

#: Pause between two looks of progress bars, in seconds.
_LOOK_S: Final = 0.25
#: Without bars: delay of the first look, and the pause between two, in seconds.
_FIRST_S: Final = 1.8
_SELDOM_S: Final = 1.8
#: Lines about one id at every look; then the pause between two grows to this many seconds. A log file is not to fill
#: with progress.
_OFTEN: Final = 10
_LONGEST_S: Final = 30.0
#: Looks pause at least so many times as long as they take: they must not be the coordinator's work.
_SHARE: Final = 20
#: Most awaited ids that are looked at, and shown, at once.
_SHOWN: Final = 10
#: Width of a bar, in characters.
_BAR: Final = 20


class _Display(Protocol):
    """Shows steps."""

    #: Delay of the first look, and the pause between two, in seconds.
    first_s: float
    pause_s: float

    def show(self, look: Look, step: Step) -> None:
        """Show the progress of a look's tasks, and say its news."""
        ...

    def drop(self, look: Look) -> None:
        """Show the tasks of a look no longer: they have ended."""
        ...

    def rest(self, number: int) -> None:
        """Show how many further ids are awaited."""
        ...


@contextmanager
def telling(*looks: Look, quiet: bool, news_only: bool = False) -> Iterator[None]:
    """Report progress while the block runs.

    Args:
        looks: at what is awaited; of many, the first ones that have not ended.
        quiet: whether to write nothing.
        news_only: whether to write lines for events only, because the terminal shows something else meanwhile.
    """
    if quiet:
        yield
        return
    over = threading.Event()
    with nullcontext(_News()) if news_only else _display(len(looks) > 1) as display:
        watch = threading.Thread(target=_watch, args=(list(looks), display, over), name="dtq-meanwhile", daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()


def _watch(looks: list[Look], display: _Display, over: threading.Event) -> None:
    pause_s = display.first_s
    while looks and not over.wait(pause_s):
        began = time.monotonic()
        for look in looks[:_SHOWN]:
            with suppress(DtqError):  # the waiting code gets the error, and a lost coordinator may come back
                step = look()
                if over.is_set():
                    return
                display.show(look, step)
                if step.over and len(looks) > 1:
                    looks.remove(look)
                    display.drop(look)
        display.rest(len(looks) - _SHOWN)
        pause_s = max(display.pause_s, _SHARE * (time.monotonic() - began))


def _display(several: bool) -> AbstractContextManager[_Display]:
    return _bars(several) if sys.stderr.isatty() else nullcontext(_Lines())


class _Lines:
    """Shows steps as lines of text."""

    first_s, pause_s = _FIRST_S, _SELDOM_S

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By look, the number of its lines, and when the next one is due.
        self._lines: dict[Look, tuple[int, float]] = {}

    def show(self, look: Look, step: Step) -> None:
        """See `_Display.show`."""
        for sentence in step.news:
            complain(sentence)
        now = self._clock()
        number, due = self._lines.get(look, (0, 0.0))
        if step.news or step.over or now < due:
            return
        pause_s = 0.0 if number < _OFTEN else min(_LONGEST_S, _SELDOM_S * 1.5 ** (number - _OFTEN))
        self._lines[look] = (min(number + 1, 2 * _OFTEN), now + pause_s)
        complain(f"{look.name}: {step.line}")

    def drop(self, look: Look) -> None:
        """See `_Display.drop`."""

    def rest(self, number: int) -> None:
        """See `_Display.rest`."""


class _News(_Lines):
    """Shows events only."""

    def show(self, look: Look, step: Step) -> None:
        """See `_Display.show`."""
        for sentence in step.news:
            complain(sentence)


class _Bars:
    """Shows steps as bars.

    Args:
        progress: the bars, of rich.
        several: whether each is named.
    """

    first_s, pause_s = _LOOK_S / 5, _LOOK_S

    def __init__(self, progress: Any, several: bool) -> None:
        self._progress = progress
        self._several = several
        self._bars: dict[Look, Any] = {}
        self._rest: Any = None

    def show(self, look: Look, step: Step) -> None:
        """See `_Display.show`."""
        for sentence in step.news:
            self._progress.console.print(printable_line(sentence), markup=False, highlight=False, soft_wrap=True)
        if look not in self._bars:
            self._bars[look] = self._progress.add_task("", total=None, number="")
        text = printable_line(step.text)
        self._progress.update(
            self._bars[look],
            completed=step.ended + step.begun,
            total=step.total or None,
            number=f"{step.ended:,}/{step.total:,}" if step.total else "",
            description=f"{look.name}  {text}" if self._several else text,
        )

    def drop(self, look: Look) -> None:
        """See `_Display.drop`."""
        self._progress.remove_task(self._bars.pop(look))

    def rest(self, number: int) -> None:
        """See `_Display.rest`."""
        if self._rest is None and number > 0:
            self._rest = self._progress.add_task("", total=None, number="")
        if self._rest is not None:
            text = f"and {counted(number, 'more id')}"
            self._progress.update(self._rest, visible=number > 0, description=text)


@contextmanager
def _bars(several: bool) -> Iterator[_Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    number = TextColumn("{task.fields[number]}", markup=False, table_column=Column(no_wrap=True))
    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    with Progress(
        BarColumn(bar_width=_BAR),
        number,
        text,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # into a file, results go as they are
    ) as progress:
        yield _Bars(progress, several)
