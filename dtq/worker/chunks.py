"""Leases as the worker holds them, and the outcomes it owes the coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field

from dtq.model.messages import Failed, Grant, Holding, Progress, Released, Succeeded
from dtq.model.options import Spec


class Chunk:
    """A lease on its way through the worker: granted, bound to a slot, ended, acknowledged."""

    __slots__ = ("end", "grant", "granted_at", "next", "serial", "spec")

    def __init__(self, grant: Grant, spec: Spec, now: float) -> None:
        self.grant = grant
        self.spec = spec
        #: When it arrived, ``time.monotonic()``.
        self.granted_at = now
        #: Index of the first task that has not ended.
        self.next = grant.lo
        #: Index after the last task that is still its; those from here on were given back.
        self.end = grant.hi
        #: Serial of its first task in the slot it was sent to; -1 while it was not.
        self.serial = -1

    @property
    def token(self) -> int:
        """Its number."""
        return self.grant.token

    @property
    def ended(self) -> bool:
        """Whether all its tasks have, or were given back."""
        return self.next >= self.end

    def started(self, position: int) -> int | None:
        """Index of the task that runs, if one does.

        Args:
            position: serial of the task that the slot started last.
        """
        if self.serial < 0:
            return None
        index = self.grant.lo + position - self.serial
        return index if self.next <= index < self.end else None


@dataclass(slots=True)
class Outbox:
    """What has happened and was not acknowledged yet, in the order in which it happened for each lease."""

    succeeded: list[Succeeded] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    released: list[Released] = field(default_factory=list)
    progress: dict[int, Progress] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.succeeded or self.failed or self.released)

    def tokens(self) -> set[int]:
        """The leases that something is said of."""
        said: list[Succeeded | Failed | Released] = [*self.succeeded, *self.failed, *self.released]
        return {outcome.token for outcome in said}


class Holdings:
    """Every lease that the worker has, from the grant to the acknowledgement of its last outcome."""

    def __init__(self) -> None:
        self.chunks: dict[int, Chunk] = {}
        self.outbox = Outbox()
        #: Sent in the report that is under way.
        self.reporting = Outbox()

    @property
    def urgent(self) -> bool:
        """Whether there is more to report than results of leases that go on: those may wait for more of them."""
        box = self.outbox
        if box.failed or box.released or box.progress or self.reporting:
            return True
        return any(chunk.ended for s in box.succeeded if (chunk := self.chunks.get(s.token)) is not None)

    def add(self, chunk: Chunk) -> None:
        """A lease has arrived."""
        self.chunks[chunk.token] = chunk

    def forget(self, token: int) -> None:
        """A lease is no longer the worker's; nothing will be said of it."""
        self.chunks.pop(token, None)
        box = self.outbox
        box.succeeded = [s for s in box.succeeded if s.token != token]
        box.failed = [f for f in box.failed if f.token != token]
        box.released = [r for r in box.released if r.token != token]
        box.progress.pop(token, None)

    def take(self) -> Outbox:
        """What is to be reported now: what the last report did not get across, and what happened since."""
        old, new = self.reporting, self.outbox
        self.reporting = Outbox(
            old.succeeded + new.succeeded,
            old.failed + new.failed,
            old.released + new.released,
            {**old.progress, **new.progress},
        )
        self.outbox = Outbox()
        return self.reporting

    def acknowledged(self) -> None:
        """The report under way has arrived and is durable."""
        self.reporting = Outbox()
        unsaid = self.outbox.tokens()
        for token in [t for t, chunk in self.chunks.items() if chunk.ended and t not in unsaid]:
            del self.chunks[token]

    def say(self, started: dict[int, int]) -> tuple[Holding, ...]:
        """All of them.

        Args:
            started: index of the running task, by token.
        """
        return tuple(
            [Holding(token=t, started=started.get(t, -1), done=chunk.ended) for t, chunk in self.chunks.items()]
        )
