"""A progress bar, in a terminal or a notebook only.

Client, above the handles. With tqdm installed the bar is tqdm's, else one line that is overwritten. Off a terminal (a
pipe, a log file, a service) nothing is written at all.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Generator, Iterable, Sized
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO, TypeVar

from dtq.client.batch_handle import BatchHandle
from dtq.client.handle import TaskHandle
from dtq.client.waiting import H, Waited

T = TypeVar("T")

#: Shortest time between two updates of the bar, in seconds.
STROKE_S: Final = 0.1
_WIDTH: Final = 30


class Bar(Protocol):
    """A progress display; used in a ``with`` block."""

    def advance(self, steps: int) -> None:
        """Count this many more as done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LineBar:
    """One line of text, written over.

    Args:
        total: their number; None if unknown.
        stream: its output; None for no display.
    """

    def __init__(self, total: int | None, stream: TextIO | None) -> None:
        self._total = total
        self._stream = stream
        self._done = 0
        self._began = time.monotonic()
        self._next = 0.0
        self._longest = 0

    def advance(self, steps: int) -> None:
        """See `Bar`."""
        self._done += steps
        if self._stream is not None and time.monotonic() >= self._next:
            self._draw()

    def line(self) -> str:
        """Its present text."""
        seconds = time.monotonic() - self._began
        rate = f"{self._done / seconds:,.0f}/s" if seconds > 0 else ""
        if not self._total:
            return f"{self._done:,} done, {rate}"
        full = _WIDTH * min(self._done, self._total) // self._total
        left = (self._total - self._done) * seconds / self._done if self._done else 0.0
        return f"[{'#' * full}{'.' * (_WIDTH - full)}] {self._done:,}/{self._total:,} {rate}, {left:.0f} s left"

    def _draw(self, end: str = "") -> None:
        assert self._stream is not None
        self._next = time.monotonic() + STROKE_S
        line = self.line()
        self._longest = max(self._longest, len(line))
        self._stream.write(f"\r{line.ljust(self._longest)}{end}")
        self._stream.flush()

    def __enter__(self) -> Self:
        if self._stream is not None:
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._draw("\n")


class TqdmBar:
    """tqdm's bar.

    Args:
        made: tqdm's object.
    """

    def __init__(self, made: Any) -> None:
        self._tqdm = made

    def advance(self, steps: int) -> None:
        """See `Bar`."""
        self._tqdm.update(steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tqdm.close()


def bar(total: int | None) -> Bar:
    """A bar that fits this program's output.

    Args:
        total: their number; None if unknown.
    """
    notebook = _in_notebook()
    if not notebook and not sys.stderr.isatty():
        return LineBar(total, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning that it is experimental, or that there are no widgets
            return TqdmBar(import_module("tqdm.auto" if notebook else "tqdm").tqdm(total=total))
    except ImportError:
        return LineBar(total, sys.stdout if notebook else sys.stderr)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def expected(iterables: Iterable[object]) -> int | None:
    """Number of tasks of a map over these iterables, if that can be known."""
    sizes = [len(iterable) if isinstance(iterable, Sized) else None for iterable in iterables]
    known = [size for size in sizes if size is not None]
    return min(known) if sizes and len(known) == len(sizes) else None


def shown(results: Generator[T, None, None], total: int | None) -> Generator[T, None, None]:
    """Results, with a bar while they are read."""
    with bar(total) as drawn:
        try:
            for result in results:
                drawn.advance(1)
                yield result
        finally:
            results.close()


def progress(handles: Iterable[H] | H, timeout: float | None = None) -> Waited[H]:
    """Wait for handles, and show a bar meanwhile: in a terminal or a notebook; elsewhere without output.

    Args:
        handles: of tasks or batches, or one of a batch; a batch counts as its tasks.
        timeout: how long at most, in seconds; None for ever.

    Returns:
        The handles that have ended, and those that have not.
    """
    wanted = {handles} if isinstance(handles, TaskHandle | BatchHandle) else set(handles)
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: SimpleQueue[H] = SimpleQueue()
    waiting = {handle: partial(ended.put, handle) for handle in wanted}
    done: set[H] = set()
    counted = 0
    try:
        for handle, put in waiting.items():
            if not handle.on_end(put):
                put()
        with bar(sum(map(_size, wanted))) as drawn:
            while waiting:
                left = STROKE_S if deadline is None else min(STROKE_S, max(0.0, deadline - time.monotonic()))
                for handle in _gathered(ended, left):
                    del waiting[handle]
                    done.add(handle)
                count = sum(map(_size, done)) + sum(map(_part, waiting))
                drawn.advance(count - counted)
                counted = count
                if deadline is not None and time.monotonic() >= deadline:
                    break
    finally:
        for handle, put in waiting.items():
            handle.forget(put)
    return Waited(done, wanted - done)


def _gathered(queue: SimpleQueue[H], timeout_s: float) -> list[H]:
    """All items of a queue, after a wait for the first."""
    found: list[H] = []
    try:
        found.append(queue.get(timeout=timeout_s))
        while True:
            found.append(queue.get_nowait())
    except Empty:
        return found


def _size(handle: TaskHandle[Any] | BatchHandle[Any]) -> int:
    return handle.size if isinstance(handle, BatchHandle) else 1


def _part(handle: TaskHandle[Any] | BatchHandle[Any]) -> int:
    """Number of ended tasks of an unfinished handle."""
    return handle.ended if isinstance(handle, BatchHandle) else 0
