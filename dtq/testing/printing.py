"""Records what a task prints in this process, while it goes where it would have gone.

Testing, below `inline`. Only what goes through ``sys.stdout`` and ``sys.stderr`` is recorded: no process of its own has
the task, so nothing stands between it and the descriptors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dtq.model.printed import USUAL_KEPT, Printed
from dtq.worker.task_output import TaskOutput


class _Tee:
    """A stream that also records what is written.

    Args:
        stream: where it goes.
        record: takes the bytes.
    """

    def __init__(self, stream: Any, record: Callable[[bytes], None]) -> None:
        # Of a task that waits for this one: what this one prints is not that one's.
        self._stream: Any = stream._stream if isinstance(stream, _Tee) else stream
        self._record = record

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`."""
        self._record(text.encode("utf-8", "surrogateescape"))
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        """See `io.IOBase.writelines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def recorded() -> Iterator[Callable[[int], tuple[Printed, ...]]]:
    """Record what is printed meanwhile.

    Returns:
        A function that returns it, as the output of the task with an index; nothing if nothing was printed.
    """
    output = TaskOutput(USUAL_KEPT)
    before = sys.stdout, sys.stderr
    tees: tuple[Any, Any] = _Tee(sys.stdout, output.add), _Tee(sys.stderr, output.add)
    sys.stdout, sys.stderr = tees
    try:
        yield lambda index: (output.printed(index),) if output.size else ()
    finally:
        # A task may have put others in their place, which is its own fault, and stays as it left it.
        sys.stdout = before[0] if sys.stdout is tees[0] else sys.stdout
        sys.stderr = before[1] if sys.stderr is tees[1] else sys.stderr
