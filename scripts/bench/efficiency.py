"""How much of two cores do two slots use?

CPU-bound tasks of 1, 10 and 100 ms: the rate of one map against twice the rate of a plain loop in one process. Beside
it what two plain processes reach without any queue (two cores of one machine are not always twice as fast as one), and
the standard library's pools.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.pool import Pool

from rig.options import command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import Scene
from rig.work import noop, spin, turns_for

SLOTS = 2
BARS = {1: Bar(least=0.90), 10: Bar(least=0.97)}


def loop(turns: int, count: int) -> int:
    for _ in range(count):
        spin(turns)
    return count


def drained(run: Callable[..., Iterable[int]], items: list[int]) -> int:
    return sum(1 for _ in run(spin, items))


def apart(pool: Pool, turns: int, count: int) -> int:
    """A plain loop in each of the pool's processes at once."""
    return sum(pool.starmap(loop, [(turns, count // SLOTS)] * SLOTS, chunksize=1))


def main() -> None:
    options = command_line(__doc__)
    report = Report("efficiency", "How much of two cores do two slots use?", options)
    seconds = 0.05 if options.quick else 4.0
    with ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.Pool(SLOTS))
        executor = stack.enter_context(ProcessPoolExecutor(SLOTS))
        list(executor.map(noop, range(100)))
        scene = stack.enter_context(Scene("fsync", slots=SLOTS, directory=options.directory))
        client = stack.enter_context(scene.client())
        list(client.map(noop, range(options.pick(1000, 100))))
        for milliseconds in (1,) if options.quick else (1, 10, 100):
            turns = turns_for(milliseconds / 1e3)
            count = int(seconds * 1e3 / milliseconds)
            items = [turns] * count
            found = report.rounds.alternate(
                {
                    "plain loop, one process": rate(partial(loop, turns, count // SLOTS)),
                    "plain loop, two processes": rate(partial(apart, pool, turns, count)),
                    "dtq.map": rate(partial(drained, client.map, items)),
                    "Pool.imap(chunksize=1)": rate(partial(drained, pool.imap, items)),
                    "ProcessPoolExecutor.map": rate(partial(drained, executor.map, items)),
                }
            )
            serial = report.add(
                f"{milliseconds} ms, plain loop, one process", found.pop("plain loop, one process"), "/s"
            )
            for name, values in found.items():
                shares = [value / serial / SLOTS for value in values]
                bar = BARS.get(milliseconds) if name == "dtq.map" else None
                report.add(f"  {name}, of twice that", shares, "", bar)
    report.note("The work of a task is fixed, not its time: what else takes a core makes it slower for everybody.")
    report.note("dtq with durability fsync; coordinator, worker and client run on the same two cores as the slots.")
    report.print()


if __name__ == "__main__":
    main()
