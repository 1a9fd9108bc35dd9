"""How long from submit to result, one task at a time?

For each durability, on an idle cluster and on one whose slots are kept busy by somebody else's map of 1 ms tasks (the
task that is measured has priority 1, the map 10). Beside it what the disk takes for one fdatasync, and what
`ProcessPoolExecutor` takes for the same round trip.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import quantile
from rig.scene import Scene
from rig.work import noop, spin, turns_for

from dtq import Client

SLOTS = 2
STORES = ("fsync", "os", "none", "memory")
#: How many tasks of the map that is in the way are queued at a time.
FLOOD = 2_000


def round_trips(submit: Callable[..., Any], count: int, **options: Any) -> list[float]:
    """How long each took, in milliseconds."""
    taken = []
    for number in range(count):
        start = time.perf_counter()
        submit(noop, number, **options).result()
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def fdatasyncs(directory: Path | None, count: int) -> list[float]:
    """How long the disk takes for 4 KiB at the end of a file, each in milliseconds."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(count):
            file.write(os.urandom(4096))
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - start) * 1e3)
    return taken


def show(report: Report, name: str, found: list[list[float]], bar: Bar | None = None) -> None:
    """The medians of the rounds, and what one in a hundred of all took."""
    report.add(f"{name}, p50", [quantile(taken, 0.5) for taken in found], "ms", bar)
    report.add("  p99", quantile([one for taken in found for one in taken], 0.99), "ms")


@contextmanager
def flood(scene: Scene, turns: int) -> Iterator[None]:
    """Somebody else's 1 ms tasks on all slots."""
    context = multiprocessing.get_context("spawn")
    flowing, stop = context.Event(), context.Event()
    process = context.Process(target=_flood, args=(scene.address, str(scene.key_file), turns, flowing, stop))
    process.start()
    try:
        if not flowing.wait(60):
            raise RuntimeError("the flood does not flow")
        yield
    finally:
        stop.set()
        process.join()


def _flood(address: str, key_file: str, turns: int, flowing: Any, stop: Any) -> None:
    with Client(address, authkey_file=key_file) as client:

        def items() -> Iterator[int]:
            while not stop.is_set():
                yield turns

        for _ in client.map(spin, items(), priority=10, read_ahead=FLOOD):
            flowing.set()
            if stop.is_set():
                break


def idle(report: Report, options: Options, clients: dict[str, Client], executor: ProcessPoolExecutor) -> None:
    count = options.pick(400, 20)
    turns: dict[str, Callable[[], list[float]]] = {"disk": partial(fdatasyncs, options.directory, count)}
    for store, client in clients.items():
        turns[store] = partial(round_trips, client.submit, count)
    turns["executor"] = partial(round_trips, executor.submit, count)
    found = report.rounds.alternate(turns)
    bars = {
        "fsync": Bar(most=1.5, where="where fdatasync takes 0.3"),
        "none": Bar(most=0.5),
    }
    names = {"disk": "fdatasync of 4 KiB, this disk", "executor": "ProcessPoolExecutor.submit"}
    for name, taken in found.items():
        show(report, names.get(name, f"idle, {name}"), taken, bars.get(name))


def main() -> None:
    options = command_line(__doc__)
    report = Report("latency", "How long from submit to result, one task at a time?", options)
    with ExitStack() as stack:
        turns = turns_for(0.001)
        executor = stack.enter_context(ProcessPoolExecutor(SLOTS))
        executor.submit(noop, 1).result()
        clients: dict[str, Client] = {}
        scenes: dict[str, Scene] = {}
        for store in STORES[:1] if options.quick else STORES:
            scenes[store] = stack.enter_context(Scene(store, slots=SLOTS, directory=options.directory))
            clients[store] = stack.enter_context(scenes[store].client())
            round_trips(clients[store].submit, options.pick(50, 5))
        idle(report, options, clients, executor)
        for store in sorted({"fsync", "none"} & {*scenes}):
            with flood(scenes[store], turns):
                probes = partial(round_trips, clients[store].submit, options.pick(100, 5), priority=1)
                show(report, f"under load, {store}", report.rounds.repeat(probes))
    report.note("An idle p50 is the median of the rounds' medians; a p99 is of all rounds together.")
    report.note("A durable round trip waits for two commits, one after the other: the task's, and its result's.")
    report.note(
        f"Load: another client's map of 1 ms tasks at priority 10, {FLOOD:,} of them waiting, on all {SLOTS} slots;"
        " the task has priority 1 and waits for a slot, which holds up to 20 ms of work."
    )
    report.print()


if __name__ == "__main__":
    main()
