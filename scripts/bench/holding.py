"""Does a large value lie in memory once, however many tasks use it, and does what was read go?

One array of 100 MB for 1,000 tasks of two slots, put once or as a `partial`'s constant: what each slot has in memory
while both use it. And 10,000 results of 4 MB, submitted a few at a time by `Executor.local`, each read and dropped: by
how much the coordinator grows, and how much lies in files, at most. Linux only.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.scene import BENCH
from rig.values import made_array, summed

import dtq

SLOTS: Final = 2
MB: Final = 10**6
MIB: Final = 1 << 20
#: How many results are asked for before the first is read.
WINDOW: Final = 16
#: How long to wait between two looks, in seconds.
LOOK_S: Final = 0.05


def part(pid: int, name: str) -> int:
    """So many bytes of a process are such memory, by the kernel's own account."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


@contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """Look again and again while the block runs."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(LOOK_S):
            with suppress(OSError):
                look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def shared(report: Report, options: Options, way: str) -> None:
    """One array for many tasks."""
    size, count = options.pick(100, 1) * MB, options.pick(1_000, 4)
    with dtq.Executor.local(SLOTS, paths=[BENCH]) as executor:
        slots = sorted({pid for _, pid in executor.map(summed, [np.ones(8)] * 20)})
        before = {pid: part(pid, "Anonymous") for pid in slots}
        together: list[int] = []
        alone: list[int] = []

        def look() -> None:
            together.append(sum(part(pid, "Pss") for pid in slots))
            alone.append(max(part(pid, "Anonymous") - before[pid] for pid in slots))

        array = made_array(size, 0)
        start = time.perf_counter()
        with looking(look):
            calls: Any
            if way == "put":
                calls = executor.map(summed, [executor.put(array)] * count)
            else:
                calls = executor.map(partial(summed, array), range(count))
            assert len({total for total, _ in calls}) == 1
            look()
        seconds = time.perf_counter() - start
    name = f"an array of {size // MB} MB for {count:,} tasks, {way}"
    report.add(f"{name}: Pss of both slots together", [found / MB for found in together], "MB")
    most = Bar(most=10) if not options.quick else None
    report.add("  of a slot's own memory, more than before, at most", max(alone, default=0) / MB, "MB", most)
    report.add("  in all", seconds, "s")


def in_files(directories: set[Path]) -> int:
    """How many bytes lie in files of some directories."""
    found = 0
    for directory in directories:
        for file in directory.rglob("*"):
            with suppress(OSError):
                found += file.stat().st_blocks * 512
    return found


def dropped(report: Report, options: Options, store: Path | None) -> None:
    """Results that are read and dropped."""
    size, count = 4 * MB, options.pick(10_000, 4)
    with dtq.Executor.local(SLOTS, paths=[BENCH], db=store) as executor:
        assert len(executor.submit(made_array, size, 0).result()) == size
        cluster = executor._completer.cluster
        assert cluster is not None
        coordinator = psutil.Process(cluster.pids["coordinator"])
        before = coordinator.memory_info().rss
        offer = executor._completer.core.session.values
        assert offer is not None
        places = {Path(directory) for directory in offer.directories} if store is None else {store.parent}
        memory, files = [before], [0]

        def look() -> None:
            memory.append(coordinator.memory_info().rss)
            files.append(in_files(places))

        waiting: deque[Any] = deque()
        start = time.perf_counter()
        with looking(look):
            for number in range(count + WINDOW):
                if number < count:
                    waiting.append(executor.submit(made_array, size, number))
                if number >= WINDOW and waiting:
                    value = waiting.popleft().result()
                    assert int.from_bytes(value[:8].tobytes(), "big") == number - WINDOW
        seconds = time.perf_counter() - start
    name = f"{count:,} results of {size // MB} MB, {'in memory' if store is None else 'durable'}"
    report.add(f"{name}: the coordinator grew by, at most", (max(memory) - before) / MIB, "MiB", Bar(most=64))
    report.add("  in files, at most", max(files) / MIB, "MiB", Bar(most=1024))
    report.add("  rate", count * size / MB / seconds, "MB/s")
    report.add("  files, median", statistics.median(files) / MIB, "MiB")


def main() -> None:
    parts = ["put", "partial", "memory", "durable"]
    options = command_line(__doc__, parts=parts)
    report = Report("holding", "Does a large value lie in memory once, and does what was read go?", options)
    for way in ("partial",) if options.quick else ("put", "partial"):
        if options.wants(way):
            shared(report, options, way)
    if options.wants("memory") and not options.quick:
        dropped(report, options, None)
    if options.wants("durable"):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as directory:
            dropped(report, options, Path(directory) / "queue.db")
    report.note(
        f"{WINDOW} results are asked for before the first is read. Pss counts a page that two processes have half."
    )
    report.print()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
