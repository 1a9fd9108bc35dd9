"""The latest attempts that did not succeed, in one line each: they are kept in memory, for the first screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dtq.model.dashboard import LatestFailure
from dtq.model.messages import Failure
from dtq.model.states import Outcome, exception_name

if TYPE_CHECKING:
    from dtq.core.leases import Lease

#: Number of them.
MOST_LATEST: Final = 10
#: Longest message, in characters.
_MESSAGE: Final = 200


def latest_failure(
    lease: Lease, index: int, outcome: Outcome, failure: Failure, now: float, dead: bool
) -> LatestFailure:
    """An attempt that did not succeed.

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
    return LatestFailure(
        at=now,
        batch=batch.number,
        index=index,
        single=batch.single,
        function=spec.function.name,
        queue=batch.queue,
        attempt=lease.attempt,
        most=spec.options.max_retries + 1,
        outcome=outcome,
        exception=exception_name(outcome, failure.exception),
        message=failure.message[:_MESSAGE],
        worker=lease.worker.name,
        dead=dead,
    )
