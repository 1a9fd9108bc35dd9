"""Words and numbers of the dashboard: ages, sizes, shares, states. Pure."""

from __future__ import annotations

from typing import Final

from dtq.dashboard.lines import Look, Span
from dtq.model.dashboard import Depth, WorkerLine, WorkerState
from dtq.model.states import State

#: The look of each state of a worker: only the ones that somebody should see have one.
_WORKERS: Final = {
    WorkerState.LOST: Look.DEAD,
    WorkerState.IN_TROUBLE: Look.DEAD,
    WorkerState.SILENT: Look.CANCELLED,
    WorkerState.DRAINING: Look.CANCELLED,
    WorkerState.DRAINED: Look.CANCELLED,
    WorkerState.STOPPING: Look.CANCELLED,
    WorkerState.WORKING: Look.RUNNING,
}
_STATES: Final = {state: Look(state.value) for state in State}


def age(seconds: float | None) -> str:
    """A duration in at most six columns that do not jump: ``0.4s``, ``12s``, ``4m02s``, ``3h10m``, ``2d04h``."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3_600}h{whole % 3_600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3_600:02}h"


def size(count: int | None) -> str:
    """Bytes in few columns: ``12M``, ``3.4G``; empty if unknown."""
    if count is None:
        return ""
    value = float(count)
    for unit in "BKMGT":
        if value < 1_000 or unit == "T":
            return f"{value:.0f}{unit}" if value >= 10 or unit == "B" else f"{value:.1f}{unit}"
        value /= 1_024
    return ""


def cores(used: float | None) -> str:
    """A use of processors as top shows it: 100% is one core; empty if unknown."""
    return "" if used is None else f"{used:.0%}"


def count(value: int, look: Look = Look.PLAIN) -> Span:
    """A count; a zero has no weight."""
    return Span(f"{value:,}", look if value else Look.DIM)


def few(value: int) -> str:
    """A count in at most eight columns."""
    return f"{value:,}" if value < 10_000_000 else f"{value / 1e6:,.1f}M"


def state(of: State, text: str = "") -> Span:
    """A task's state in its colour."""
    return Span(text or of.value, _STATES[of])


def worker_state(worker: WorkerLine) -> Span:
    """A worker's state."""
    return Span(worker.state.value, _WORKERS.get(worker.state, Look.DIM))


def meter(used: int, whole: int, columns: int, blocks: str) -> str:
    """A bar of so many columns."""
    full = blocks[-1]
    part = 0 if whole <= 0 else min(columns, -(-used * columns // whole))
    return f"{full * part}{'·' * (columns - part)}"


def progress(of: tuple[float, float] | None) -> str:
    """A task's own account of its progress."""
    if of is None:
        return ""
    done, total = of
    return f"{min(1.0, max(0.0, done / total)):.0%}" if total > 0 else f"{done:g}"


def depths(of: tuple[Depth, ...]) -> str:
    """Waiting tasks by priority: ``P1 3  P5 1,000``; with a plus where less urgent ones are counted too."""
    return "  ".join(f"P{depth.priority}{'+' if depth.rest else ''} {depth.count:,}" for depth in of)
