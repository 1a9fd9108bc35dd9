"""How many futures a second does `dtq.Executor` end, beside `ProcessPoolExecutor`? And joblib with it, beside loky?

All in one program, two processes each, the same no-op calls: submitted one by one and waited for, read as they
complete, and mapped with each of two chunk sizes; and a `joblib.Parallel` of them, where joblib is installed. dtq's
queue is in memory here, as the pools' are; its tasks pass through a coordinator all the same.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed, wait
from functools import partial
from types import ModuleType

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import BENCH
from rig.work import noop

import dtq

SLOTS = 2
CHUNK = 100


def submitted(executor: Executor, count: int) -> int:
    """Submit, then wait for all."""
    futures = [executor.submit(noop, number) for number in range(count)]
    wait(futures)
    return sum(future.result() == number for number, future in enumerate(futures))


def completed(executor: Executor, count: int) -> int:
    """Submit, then read them as they complete."""
    return sum(1 for _ in as_completed([executor.submit(noop, number) for number in range(count)]))


def mapped(executor: Executor, count: int, chunksize: int) -> int:
    """Map, and read it all."""
    return sum(1 for _ in executor.map(noop, range(count), chunksize=chunksize))


def parallel(joblib: ModuleType, backend: str, count: int) -> int:
    """As joblib's users write it."""
    return len(joblib.Parallel(SLOTS, backend=backend)(joblib.delayed(noop)(number) for number in range(count)))


def beside(report: Report, ours: Executor, pool: Executor, count: int) -> None:
    """Each way to use an executor, with both in turns."""
    ways: dict[str, tuple[Callable[[Executor, int], int], Bar | None]] = {
        "submit and wait": (submitted, Bar(least=1)),
        "submit and as_completed": (completed, Bar(least=1)),
        "map": (partial(mapped, chunksize=1), Bar(least=1)),
        f"map, chunksize {CHUNK}": (partial(mapped, chunksize=CHUNK), None),
    }
    for name, (way, bar) in ways.items():
        work = {"dtq": rate(partial(way, ours, count)), "peer": rate(partial(way, pool, count))}
        found = report.rounds.alternate(work)
        mine = report.add(f"dtq.Executor: {name}", found["dtq"], "/s")
        theirs = report.add(f"ProcessPoolExecutor: {name}", found["peer"], "/s")
        report.add("  dtq against ProcessPoolExecutor", mine / theirs, "times", bar)


def beside_loky(report: Report, options: Options, ours: dtq.Executor, count: int) -> None:
    """joblib with its own processes and with the cluster's."""
    try:
        joblib = importlib.import_module("joblib")
    except ImportError:
        report.note("absent: joblib")
        return
    importlib.import_module("dtq.joblib").register(executor=ours)
    backends = ("dtq",) if options.quick else ("dtq", "loky")
    for backend in backends:
        parallel(joblib, backend, 10 * SLOTS)
    found = report.rounds.alternate({name: rate(partial(parallel, joblib, name, count)) for name in backends})
    mine = report.add('joblib, backend "dtq"', found["dtq"], "/s")
    if options.quick:
        return
    theirs = report.add('joblib, backend "loky"', found["loky"], "/s")
    report.add("  dtq against loky", mine / theirs, "times")
    report.note("joblib makes batches of calls by itself, larger ones after small ones were quick")
    importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown()


def main() -> None:
    options: Options = command_line(__doc__)
    report = Report("futures", "How many futures a second, beside ProcessPoolExecutor and loky?", options)
    count = options.pick(20_000, 50)
    context = multiprocessing.get_context("forkserver")
    with dtq.Executor.local(SLOTS, paths=[BENCH]) as ours, ProcessPoolExecutor(SLOTS, mp_context=context) as pool:
        for executor in (ours, pool):
            submitted(executor, 10 * SLOTS)
        beside(report, ours, pool, count)
        beside_loky(report, options, ours, count)
    report.print()


if __name__ == "__main__":
    main()
