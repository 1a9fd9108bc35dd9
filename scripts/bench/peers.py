"""How does dtq compare with other ways to run Python functions in processes?

No-op and 1 ms tasks, two processes, from the call to the last result at the caller; dtq and one peer at a time, in
turns. Peers that are not installed are named. To have them, make a virtual environment with what is wanted of celery,
rq, dramatiq[redis], huey, distributed, ray, loky, and dtq's own dependencies (click, psutil, rich); have a redis-server
on the path; and run this with that environment's Python and the checkout in PYTHONPATH. Nothing is installed by this.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from rig.options import Options, command_line
from rig.peers.base import FUNCTIONS, Peer, RedisServer, redis_version
from rig.report import Report
from rig.rounds import rate
from rig.scene import Scene
from rig.work import turns_for

from dtq import Client, __version__

IN_MEMORY = ("pool", "executor", "loky", "dask", "ray")
ON_REDIS = ("celery", "rq", "rq_simple", "dramatiq", "huey")
#: About how long a peer's turn takes, in seconds; how many tasks that are is found out first.
TURN_S = 2.0
#: Most tasks in a turn.
MOST = 200_000

#: Has a function called for all values.
Runs = Callable[[str, list[int]], list[int]]


def contender(name: str) -> type[Peer] | None:
    """A peer; None where it is not installed."""
    try:
        found: type[Peer] = importlib.import_module(f"rig.peers.{name}_peer").Contender
    except ImportError:
        return None
    return found


def work(run: Runs, task: str, values: list[int]) -> int:
    results = run(task, values)
    assert len(results) == len(values)
    if task == "noop":
        assert sorted(results) == values
    return len(results)


def enough(run: Runs, task: str, value: int | None, options: Options) -> list[int]:
    """Values for a turn of the right length."""
    count = 10
    while True:
        values = list(range(count)) if value is None else [value] * count
        start = time.perf_counter()
        work(run, task, values)
        seconds = time.perf_counter() - start
        if options.quick or count >= MOST or seconds > TURN_S / 2:
            return values
        count = min(MOST, max(count * 2, int(count * min(10.0, TURN_S / max(seconds, 1e-3)))))


def compare(report: Report, options: Options, title: str, peer: Peer, run: Runs) -> None:
    """dtq and a peer in turns."""
    turns = turns_for(0.001)
    work(peer.run, "noop", list(range(20)))
    for task, value, name in (("noop", None, "no-op"), ("spin", turns, "1 ms")):
        theirs = enough(peer.run, task, value, options)
        ours = enough(run, task, value, options)
        found = report.rounds.alternate(
            {
                "dtq": rate(partial(work, run, task, ours)),
                "peer": rate(partial(work, peer.run, task, theirs)),
            }
        )
        rates = [
            report.add(f"{title}, {name}, {len(theirs):,} a turn", found["peer"], "/s"),
            report.add(f"  dtq beside it, {len(ours):,} a turn", found["dtq"], "/s"),
        ]
        report.add("  dtq is", rates[1] / rates[0], "times as fast")


def each(report: Report, options: Options, names: tuple[str, ...], run: Runs) -> None:
    """All that are installed."""
    for name in names:
        kind = contender(name)
        if kind is None:
            report.note(f"absent: {name}")
            continue
        with kind() as peer:
            compare(report, options, kind.title(), peer, run)


def main() -> None:
    options = command_line(__doc__)
    report = Report("peers", "How does dtq compare with other ways to run Python functions in processes?", options)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene("fsync", slots=2, directory=options.directory))
        client: Client = stack.enter_context(scene.client())

        def run(task: str, values: list[int]) -> list[int]:
            return list(client.map(FUNCTIONS[task], values))

        work(run, "noop", list(range(1000)))
        each(report, options, IN_MEMORY, run)
        program = shutil.which("redis-server")
        if program is None:
            report.note(f"absent: redis-server, and with it {', '.join(ON_REDIS)}")
        else:
            stack.callback(RedisServer(program).close)
            report.note(f"{redis_version(program)}, which keeps nothing on disk")
            each(report, options, ON_REDIS, run)
    report.note(f"dtq {__version__} with durability fsync: every task and every result is on disk; no peer's is.")
    report.print()


if __name__ == "__main__":
    main()
