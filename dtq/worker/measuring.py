"""Measures what the slots of a worker use: processor time and memory of each one's processes.

Worker, beside `link`, which sends it with every heartbeat. It reads a few small files of the kernel for each slot; on
other systems than Linux nothing is known.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from dtq.model.dashboard import SlotUse
from dtq.records import replace

#: Most slots in one account, and most processes of one slot that are looked at.
MOST_SLOTS: Final = 256
_PROCESSES: Final = 32
#: Most cores that a slot is said to use, whatever the kernel's clock says.
_CORES: Final = 1_024.0
_LINUX: Final = sys.platform == "linux"


#: A slot's process, when it was measured, and the processor seconds that its processes had used then.
_Look = tuple[int, float, float]


class Measures:
    """Measures slots, each against its last measurement."""

    def __init__(self) -> None:
        self._last: dict[int, _Look] = {}

    def of(self, slots: Iterable[tuple[int, SlotUse]]) -> list[SlotUse]:
        """The slots with what they use.

        Args:
            slots: each slot's process, 0 if that is unknown, and what it runs.
        """
        before, self._last = self._last, {}
        return [self._measured(pid, use, before.get(use.number)) for pid, use in list(slots)[:MOST_SLOTS]]

    def _measured(self, pid: int, use: SlotUse, before: _Look | None) -> SlotUse:
        found = _used(pid) if _LINUX and pid > 0 else None
        if found is None:
            return use
        cpu_s, memory = found
        now = time.monotonic()
        self._last[use.number] = pid, now, cpu_s
        if before is None:
            return replace(use, memory=memory)
        earlier, at, cpu_before_s = before
        if earlier != pid or now <= at:
            return replace(use, memory=memory)
        cores = (cpu_s - cpu_before_s) / (now - at)
        return replace(use, memory=memory, cpu=min(_CORES, max(0.0, cores)))


def _used(pid: int) -> tuple[float, int] | None:
    """Processor seconds of a process and its descendants, ended ones too, and resident bytes; None if it is gone."""
    ticks = pages = 0
    todo, seen = [pid], 0
    while todo and seen < _PROCESSES:
        one = todo.pop()
        seen += 1
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{one}/stat", "rb") as file:
                # The command's name, in parentheses, may contain anything.
                words = file.read().rpartition(b")")[2].split()
            ticks += sum(map(int, words[11:15]))  # of its own and of ended children, for users and in the kernel
            pages += int(words[21])
            with open(f"/proc/{one}/task/{one}/children", "rb") as file:
                todo += map(int, file.read().split())
    return (ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")) if pages else None
