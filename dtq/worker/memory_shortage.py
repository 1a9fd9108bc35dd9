"""Tells whether a killed process was killed for lack of memory, by what the kernel says of it.

Worker, below the settling of outcomes; Linux only. The kernel counts its kills, of each control group and of the
machine; and a process that had nearly all memory there is was probably killed for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dtq.config.cores import control_groups
from dtq.config.values import format_size

#: Part of all memory from which on a killed process probably had too much.
_NEARLY: Final = 0.8
#: Limits from this on are none: control groups of version 1 have a huge number then.
_NO_LIMIT: Final = 1 << 60


class MemoryShortage:
    """The kernel's kills for lack of memory, from now on.

    Args:
        proc: mount point of the process information.
        cgroups: mount point of the control groups.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._groups = control_groups(proc, cgroups, "memory")
        self._earlier = self._latest = self._kills()

    def look(self) -> None:
        """Note the kernel's kills by now, with every heartbeat. A later kill is news until the look after next."""
        self._earlier, self._latest = self._latest, self._kills()

    def sentence(self, peak: int | None) -> str:
        """What speaks for a lack of memory as the reason of a SIGKILL from outside; empty if nothing does.

        Args:
            peak: highest resident memory of the killed process, in bytes; None if unknown.
        """
        most = self._most()
        of_all = "" if peak is None or most is None else f"it had {format_size(peak)} of {format_size(most)}"
        if self._kills() > self._earlier:
            also = f", and {of_all}" if of_all else ""
            return f"out of memory: the kernel has just killed a process for lack of it{also}"
        if peak is not None and most is not None and peak >= _NEARLY * most:
            return f"probably out of memory: {of_all}"
        return ""

    def _kills(self) -> int:
        """Number of the kernel's kills, in the control groups and on the machine; only its rise has a meaning."""
        files = [self._proc / "vmstat"]
        files += [group / name for group in self._groups for name in ("memory.events", "memory.oom_control")]
        return sum(_number_of("oom_kill", file) or 0 for file in files)

    def _most(self) -> int | None:
        """Bytes of memory that a process here can have at most; None if unknown."""
        total = _number_of("MemTotal:", self._proc / "meminfo")
        limits = [] if total is None else [total << 10]
        for group in self._groups:
            for name in ("memory.max", "memory.limit_in_bytes"):
                text = _text(group / name).strip()
                if text.isdecimal() and int(text) < _NO_LIMIT:
                    limits.append(int(text))
        return min(limits, default=None)


def _number_of(word: str, file: Path) -> int | None:
    """The number behind a word at the beginning of a line; None if there is none."""
    for line in _text(file).splitlines():
        name, _, rest = line.partition(" ")
        if name == word:
            number = rest.split()[:1]
            return int(number[0]) if number and number[0].isdecimal() else None
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
