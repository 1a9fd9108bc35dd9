"""Further slots of a worker: one for each slot whose task waits for other tasks, within a bound.

Worker, below the supervisor. Pure. A task that waits for tasks holds a process but needs no slot: without another in
its place, a worker whose slots all wait would never run the tasks they wait for. If the bound is reached, all slots
wait and the queue has work for this worker, the task that began to wait last is ended with a sentence; but not while
one of them polls, for that one may go on.

Rules:

1. At most `slots` tasks that do not wait are begun; those whose wait ends go on beside them.
2. A slot is added once a task has waited for `WAIT_S`: many waits are shorter than the start of a process.
3. An unneeded slot stays for `KEEP_S`, for the next wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from dtq.worker.child import Child

#: Seconds that a task has waited before its slot is given to others.
WAIT_S: Final = 0.05
#: Seconds that an unneeded slot is kept.
KEEP_S: Final = 10.0


class Extras:
    """The further slots of a worker.

    Args:
        slots: its configured number of slots.
        most: bound of the further ones.
    """

    def __init__(self, slots: int, most: int) -> None:
        self._slots = slots
        self._most = most
        #: Whether a task with several slots has come.
        self._spread = False
        #: When further slots were last needed, ``time.monotonic()``.
        self._needed_at = 0.0

    def is_extra(self, child: Child) -> bool:
        """Whether a slot is one of them."""
        return child.number > self._slots

    def free(self, children: Sequence[Child], function: str, slots: int = 1) -> Child | None:
        """A slot for a lease: an idle one; or else one that imports the lease's function.

        Args:
            children: all slots.
            function: the name of the lease's function.
            slots: number of slots of its task.
        """
        self._spread = self._spread or slots > 1
        if self._spread or len(children) > self._slots:
            runs = [child for child in children if child.chunks and child.waiting_since is None]
            if sum(1 + child.spread for child in runs) + slots > self._slots:
                return None
        found = next((child for child in children if child.idle and not child.worn_out()), None)
        return found or next((child for child in children if child.awaits(function) and not child.worn_out()), None)

    def capacity(self, children: Sequence[Child]) -> int:
        """Number of slots that can run tasks, busy and waiting ones included. If all wait and none can be added, one
        more than exist: a grant then shows that work is kept from running.
        """
        sound = len([child for child in children if child.sound])
        waiting = self._waiting(children)
        if not waiting and sound <= self._slots:
            return sound
        probe = 1 if self.exhausted(children) else 0
        return min(sound, self._slots + waiting) + probe

    def exhausted(self, children: Sequence[Child]) -> bool:
        """Whether all are blocked, and none can be added. A polling task may be about to go on."""
        extra = sum(map(self.is_extra, children))
        return extra >= self._most and bool(children) and all(child.blocked for child in children)

    def missing(self, children: Sequence[Child], planned: Iterable[int], now: float) -> list[int]:
        """The numbers of slots to be started now.

        Args:
            children: all slots.
            planned: the numbers of slots that will be started anyway.
            now: ``time.monotonic()``.
        """
        need = self._need(children, now)
        if not need:
            return []
        self._needed_at = now
        taken = {child.number for child in children if self.is_extra(child)}
        taken.update(number for number in planned if number > self._slots)
        numbers = (number for number in range(self._slots + 1, self._slots + self._most + 1) if number not in taken)
        return [number for number, _ in zip(numbers, range(need - len(taken)), strict=False)]

    def surplus(self, children: Sequence[Child], now: float) -> list[Child]:
        """Slots that have not been needed for long."""
        extra = [child for child in children if self.is_extra(child)]
        if not extra or self._waiting(children) or now < self._needed_at + KEEP_S:
            return []
        return [child for child in extra if child.idle]

    def latest(self, children: Sequence[Child]) -> Child | None:
        """The slot whose task is to be ended, if all wait and none can be added: it began to wait last."""
        if not self.exhausted(children) or any(child.kill_reason is not None for child in children):
            return None
        return max(children, key=_since)

    def moments(self, children: Collection[Child]) -> list[float]:
        """The moments of the next looks."""
        moments = [since + WAIT_S for child in children if (since := child.waiting_since) is not None]
        if len(children) > self._slots:
            moments.append(self._needed_at + KEEP_S)
        return moments

    def _waiting(self, children: Iterable[Child]) -> int:
        return len([child for child in children if child.waiting_since is not None])

    def _need(self, children: Iterable[Child], now: float) -> int:
        waiting = sum(1 for child in children if (since := child.waiting_since) is not None and now - since >= WAIT_S)
        return min(waiting, self._most)


def _since(child: Child) -> float:
    return child.waiting_since or 0.0
