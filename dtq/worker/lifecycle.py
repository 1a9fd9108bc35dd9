"""Whether a worker works, pauses, drains or stops, and why it ends.

Worker, below the supervisor; everything here under its lock. Orders come from signals, from an operator by way of the
coordinator, and from errors; they end in the fields below, which everything else only reads.

Rules:

1. A drain is never taken back; neither is a stop, which is also a drain.
2. A worker takes work unless it pauses, drains or stops.
3. A fatal error ends the worker at once; a parting error, when its drain is over.
"""

from __future__ import annotations

from dtq.errors import DtqError
from dtq.model.messages import WorkerOrder


class Lifecycle:
    """The state of a worker as a whole.

    Attributes:
        draining: whether it takes no more work, and ends when it holds none.
        paused: whether it takes no work until it is told to.
        ending: whether everything must stop now.
        drain_until: when a drain becomes a stop, ``time.monotonic()``; None for never.
        fatal: the error with which it ends at once.
        parting: the error with which it ends after a drain.
        trouble: why slots do not start at the moment; empty if they do.
    """

    def __init__(self) -> None:
        self.draining = self.paused = self.ending = False
        self.drain_until: float | None = None
        self.fatal: DtqError | None = None
        self.parting: DtqError | None = None
        self.trouble = ""

    @property
    def takes(self) -> bool:
        """Whether the worker takes work."""
        return not (self.draining or self.paused or self.ending)

    @property
    def follows(self) -> WorkerOrder:
        """The order that the worker follows, of a signal or an operator."""
        if self.ending:
            return WorkerOrder.STOP
        return WorkerOrder.DRAIN if self.draining else WorkerOrder.STAY if self.paused else WorkerOrder.WORK

    @property
    def listens(self) -> bool:
        """Whether the worker waits at the coordinator, for work or for orders."""
        return (self.paused or self.draining) and not self.ending

    @property
    def error(self) -> DtqError | None:
        """The error with which the worker ends, if any."""
        return self.fatal or self.parting

    def drain(self, now: float, grace_s: float | None) -> bool:
        """Begin a drain; whether it is the first order to do so.

        Args:
            now: ``time.monotonic()``.
            grace_s: seconds after which it becomes a stop; None for never.
        """
        if self.draining:
            return False
        self.draining = True
        if grace_s is not None:
            self.drain_until = now + grace_s
        return True

    def stop(self) -> None:
        """Have everything stop now."""
        self.draining = self.ending = True

    def grace_is_over(self, now: float) -> bool:
        """Whether a drain has become a stop by now, ``time.monotonic()``; true once."""
        if self.drain_until is None or now < self.drain_until:
            return False
        self.drain_until = None
        self.ending = True
        return True
