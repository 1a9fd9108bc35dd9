"""One frame of the demo's live dashboard, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dtq.model.dashboard import Dashboard, WorkerLine
from dtq.model.text import printable_line
from dtq.wording import duration, rate

#: Width of bars, in characters; most workers, and latest failures, that are shown.
_BAR: Final = 30
_WORKERS: Final = 16
_FAILURES: Final = 3


def frame(title: str, ended: int, total: int, seen: Dashboard) -> list[str]:
    """The lines of a frame.

    Args:
        title: what runs.
        ended: how many of its tasks have ended.
        total: how many it has.
        seen: the cluster.
    """
    return list(_lines(title, ended, total, seen))


def _lines(title: str, ended: int, total: int, seen: Dashboard) -> Iterator[str]:
    counts = seen.counts
    yield f"{title}  {bar(ended, total)}  {ended:,}/{total:,}"
    yield (
        f"pending {counts.pending:,}  running {counts.running:,}  backing off {counts.scheduled:,}"
        f"  succeeded {counts.succeeded:,}  dead {counts.dead:,}"
        f"  |  {rate(seen.rates.done)} done, {rate(seen.rates.failed)} failed"
    )
    yield ""
    yield f"{'WORKER':<12}{'STATE':<10}{'SLOTS':<{_BAR // 2 + 7}}{'DONE':>8}{'FAILED':>8}  RUNS"
    yield from (_worker(worker) for worker in seen.workers[:_WORKERS])
    yield ""
    depths = {depth.priority: depth.count for line in seen.queues for depth in line.depths}
    deepest = max(depths.values(), default=0)
    yield f"{'WAITING':<12}{counts.pending:,}"
    for priority in sorted(depths):
        yield f"  P{priority:<9}{bar(depths[priority], deepest)}  {depths[priority]:,}"
    yield ""
    for failure in seen.failures[:_FAILURES]:
        fate = "dead letter" if failure.dead else "again"
        text = f"{failure.id}  attempt {failure.attempt} of {failure.most}, {fate}: {failure.message}"
        yield printable_line(text)[:100]


def _worker(worker: WorkerLine) -> str:
    slots = f"{bar(worker.busy, worker.size, _BAR // 2)} {worker.busy}/{worker.size}"
    runs = " ".join(f"{slot.task} ({duration(slot.seconds)})" for slot in worker.slots if slot.task)
    name, state = printable_line(worker.name), worker.state.value
    return f"{name:<12}{state:<10}{slots:<{_BAR // 2 + 7}}{worker.done:>8,}{worker.failed:>8,}  {runs}"


def bar(part: int, whole: int, width: int = _BAR) -> str:
    """A bar of a part of a whole."""
    full = min(width, width * part // whole) if whole > 0 else 0
    return "#" * full + "." * (width - full)
