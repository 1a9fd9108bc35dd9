"""How tasks without a result ran: their last attempts, for lists.

An attempt's row has its traceback and its pickled exception, of which a list shows nothing. So an answer ends early
when it has read many bytes of them, and the caller asks for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

from dtq.core.changes import TaskRow
from dtq.engines.base import Engine
from dtq.model.weight import weight

T = TypeVar("T")

#: Bytes of attempts that are read for one answer.
_MOST_READ: Final = 32 << 20


class LastAttempts:
    """Reads the last attempts of tasks for one answer.

    Args:
        engine: has the attempts.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left = _MOST_READ

    def how_it_ran(self, task: TaskRow) -> dict[str, Any]:
        """The fields of a `TaskView` or `DeadLetter` that a task's last attempt determines; none if it had none, or it
        is not kept.
        """
        last = next(iter(self._engine.attempts(task.batch, task.index, first=-1)), None) if task.attempt else None
        if last is None or last.number < task.attempt:
            return {}
        self._left -= weight(last.failure)
        return {
            "started_at": last.started_at,
            "run_s": max(0.0, last.ended_at - last.started_at),
            "worker": last.worker,
            "peak_memory": last.failure.peak_memory,
        }

    def within(self, items: Iterable[T]) -> Iterator[T]:
        """The first of some items, each of which may read an attempt: up to the one that has read too much."""
        for item in items:
            yield item
            if self._left < 0:
                return
