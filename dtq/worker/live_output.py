"""The output of running tasks that somebody follows, on its way to the coordinator.

Worker, above `output`; everything here under the supervisor's lock. The coordinator names the followed tasks in its
orders; without one, nothing here is ever done. What such a task has printed goes with the next report, at most a few
times a second, and from where the last report that arrived has ended: so it survives a coordinator that restarts.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from typing import Final

from dtq.model.messages import Followed, PrintedNow
from dtq.worker.child import Child

#: Least time between two reports of live output, in seconds; and most bytes of it in one.
EVERY_S: Final = 0.2
MOST: Final = 256 << 10
#: Most tasks that are followed at once.
MOST_FOLLOWED: Final = 1_000


class LiveOutput:
    """Reports what followed tasks print."""

    def __init__(self) -> None:
        #: By lease and index: how many bytes of it have been reported; None before the first report.
        self._followed: dict[tuple[int, int], int | None] = {}
        #: What the report under way says.
        self._saying: tuple[PrintedNow, ...] = ()
        #: Whether there may be something to report, and when the next report may be made.
        self._news = False
        self._next_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._followed)

    def add(self, followed: Iterable[Followed]) -> None:
        """Follow further tasks, and go back to where the coordinator is, which may be another one now."""
        for task in followed:
            at = (task.token, task.index)
            if at not in self._followed and len(self._followed) >= MOST_FOLLOWED:
                continue
            before = self._followed.get(at)
            sent = None if not task.known else task.offset if before is None else min(before, task.offset)
            self._news = self._news or sent is None or sent != before
            self._followed[at] = sent

    def only(self, followed: Iterable[Followed]) -> None:
        """Follow these tasks; and those whose first report was not made yet: its sender may not have known of them."""
        wanted = {(task.token, task.index): None for task in followed}
        self._followed = {at: sent for at, sent in self._followed.items() if sent is None or at in wanted}
        self.add(followed)

    def printed(self) -> bool:
        """Note that a slot has printed something; whether that is news."""
        if not self._followed or self._news:
            return False
        self._news = True
        return True

    @property
    def due_at(self) -> float | None:
        """When the next report is due, ``time.monotonic()``; None if there is nothing to report."""
        return self._next_at if self._news else None

    def take(self, children: Iterable[Child], held: Container[int]) -> tuple[PrintedNow, ...]:
        """What followed tasks have printed since the last report that has arrived, as much as one report has.

        Args:
            children: the slots.
            held: the worker's leases.
        """
        if not self._news or time.monotonic() < self._next_at:
            return ()
        self._news = False
        self._next_at = time.monotonic() + EVERY_S
        room = MOST
        told: list[PrintedNow] = []
        slots = list(children)
        for (token, index), sent in self._followed.items():
            said = next((said for child in slots if (said := _since(child, token, index, sent, room))), None)
            if said is None and sent is None and token in held:
                said = PrintedNow(token=token, index=index, offset=0, data=b"")
            if said is not None and room > 0:
                told.append(said)
                room -= len(said.data)
                self._news = self._news or len(said.data) > 0  # more may be behind a gap
        self._saying = tuple(told)
        return self._saying

    def arrived(self) -> None:
        """Note that the report under way has arrived."""
        for said in self._saying:
            if (said.token, said.index) in self._followed:
                self._followed[said.token, said.index] = said.offset + len(said.data)
        self._saying = ()

    def failed(self) -> None:
        """Note that the report under way has not arrived: it is made again."""
        self._news = self._news or bool(self._saying)
        self._saying = ()


def _since(child: Child, token: int, index: int, sent: int | None, room: int) -> PrintedNow | None:
    """What a task has printed since then, if this slot has its lease and there is news."""
    chunk = child.holding(token)  # not `running`, which is as of the last look
    if chunk is None:
        return None
    kept = child.output.kept(chunk.serial_of(index))
    if kept is None or kept.size == sent:
        return None
    offset, data = kept.printed(index).since(sent or 0, room)
    return PrintedNow(token=token, index=index, offset=offset, data=data)
