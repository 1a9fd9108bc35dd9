"""The latest attempts that did not succeed, a line for those that failed alike: in memory, for the first screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dtq.model.dashboard import LatestFailure
from dtq.model.messages import Failure
from dtq.model.states import Outcome, exception_name

if TYPE_CHECKING:
    from dtq.core.leases import Lease

#: Most lines.
_MOST: Final = 10
#: Longest message, in characters.
_MESSAGE: Final = 200


class LatestFailures:
    """The latest failures, the newest last. Attempts with the same function, exception and message share a line: a
    thousand failures of one kind do not hide another.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, Outcome, str, str], LatestFailure] = {}

    def __iter__(self) -> Iterator[LatestFailure]:
        return iter(self._lines.values())

    def add(self, lease: Lease, index: int, outcome: Outcome, failure: Failure, now: float, dead: bool) -> None:
        """Add an attempt.

        Args:
            lease: the attempt's.
            index: the task's.
            outcome: how it ended.
            failure: why.
            now: the time.
            dead: whether the task is a dead letter now.
        """
        batch = lease.batch
        spec = batch.entry.spec
        name, message = exception_name(outcome, failure.exception), failure.message[:_MESSAGE]
        alike = spec.function.name, outcome, name, message
        known = self._lines.pop(alike, None)
        self._lines[alike] = LatestFailure(
            at=now,
            batch=batch.number,
            index=index,
            single=batch.single,
            function=spec.function.name,
            queue=batch.queue,
            attempt=lease.attempt,
            most=spec.options.max_retries + 1,
            outcome=outcome,
            exception=name,
            message=message,
            worker=lease.worker.name,
            dead=dead,
            count=1 if known is None else known.count + 1,
        )
        if len(self._lines) > _MOST:
            del self._lines[next(iter(self._lines))]
