"""Composes a worker's messages to the coordinator: calls for work, reports, and the use of its slots.

Worker, below the supervisor; everything here under its lock. Every message names all leases and the running tasks; a
report has as many of the waiting outcomes as have room.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dtq.model.dashboard import SlotUse
from dtq.model.messages import Exchange, Failed, Holding, Released, Succeeded
from dtq.worker.calls import Calls
from dtq.worker.child import Child
from dtq.worker.chunks import Holdings
from dtq.worker.dispatch import STUCK_S
from dtq.worker.lifecycle import Lifecycle
from dtq.worker.live_output import LiveOutput
from dtq.worker.takenback import TakenBack


class Exchanges:
    """The messages of a worker.

    Args:
        children: its slots.
        holdings: its leases, and the outcomes that it owes.
        lifecycle: whether it takes work.
        calls: numbers the messages.
        live: output that somebody follows.
        taken_back: tasks that went back because they would have had to wait.
    """

    def __init__(
        self,
        children: Sequence[Child],
        holdings: Holdings,
        lifecycle: Lifecycle,
        calls: Calls,
        live: LiveOutput,
        taken_back: TakenBack,
    ) -> None:
        self._children = children
        self._holdings = holdings
        self._lifecycle = lifecycle
        self._calls = calls
        self._live = live
        self._taken_back = taken_back

    def fetch(self, capacity: int, wait_s: float) -> Exchange:
        """A call for work, which reports nothing.

        Args:
            capacity: number of leases that the worker can hold.
            wait_s: how long the call may wait, in seconds.
        """
        call, beside = self._calls.begin(fetch=True)
        return Exchange(
            holding=self._holding(),
            capacity=capacity,
            fetch=True,
            wait_s=wait_s,
            call=call,
            beside=beside,
            trouble=self._lifecycle.trouble,
            follows=self._lifecycle.follows,
        )

    def report(self, capacity: int, room: int, largest: int, *, quiet: bool) -> Exchange:
        """A report, which takes the waiting outcomes.

        Args:
            capacity: number of leases that the worker can hold.
            room: bytes of outcomes; at least one outcome.
            largest: most bytes of one outcome, if it can be made smaller.
            quiet: whether it has no progress, and asks for nothing.
        """
        holding = self._holding()
        call, beside = self._calls.begin(fetch=False)
        said = self._holdings.take(room, largest)
        released = tuple([outcome for outcome in said if isinstance(outcome, Released)])
        more = not (quiet or released or self._holdings.burdened) and self._brisk(time.monotonic())
        return Exchange(
            succeeded=tuple([outcome for outcome in said if isinstance(outcome, Succeeded)]),
            failed=tuple([outcome for outcome in said if isinstance(outcome, Failed)]),
            released=released,
            holding=holding,
            progress=() if quiet else self._holdings.take_progress(),
            printed=() if quiet or not self._live else self._live.take(self._children, self._holdings.chunks),
            capacity=capacity,
            more=more,
            call=call,
            beside=beside,
            trouble=self._lifecycle.trouble,
            follows=self._lifecycle.follows,
        )

    def farewell(self) -> Exchange:
        """The last message: no call is under way any more, and no lease is held."""
        self._calls.all_over()
        call, _ = self._calls.begin(fetch=True)
        return Exchange(fetch=True, call=call, follows=self._lifecycle.follows)

    def acknowledged(self) -> None:
        """Note that the report under way has arrived and is durable."""
        self._live.arrived()
        if self._taken_back and any([isinstance(outcome, Released) for outcome in self._holdings.reporting]):
            self._taken_back.clear()
        self._holdings.acknowledged()

    @property
    def saturated(self) -> bool:
        """Whether every slot that can run tasks does, and more leases are at hand."""
        ready = [child for child in self._children if child.ready]
        return bool(ready) and all(child.chunks for child in ready)

    def slots_in_use(self) -> list[tuple[int, SlotUse]]:
        """Each slot's process, 0 if it is unknown, and what the slot runs."""
        now = time.monotonic()
        found = []
        for child in self._children:
            use = SlotUse(number=child.number)
            running = child.running()
            if running is not None:
                chunk, index, at = running
                use = SlotUse(number=child.number, token=chunk.token, index=index, seconds=max(0.0, now - at))
            found.append((child.slot_pid, use))
        return found

    def _holding(self) -> tuple[Holding, ...]:
        """All leases, and the running task of each."""
        started: dict[int, int] = {}
        for child in self._children:
            running = child.running()
            if running is not None:
                started[running[0].token] = running[1]
        return self._holdings.say(started)

    def _brisk(self, now: float) -> bool:
        """Whether all slots are busy with tasks that are about to end, so that the worker will want more soon. Work
        given to a worker behind a long task only comes back.
        """
        if not (self._lifecycle.takes and self.saturated):
            return False
        return all(now - running[2] < STUCK_S for child in self._children if (running := child.running()) is not None)
