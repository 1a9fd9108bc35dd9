"""How long does an urgent task wait behind a flood of unimportant ones?

Behind 100,000 no-op tasks of priority 10: from the call of `submit` at priority 1 to the start of the task. Behind 1 s
tasks of priority 10 on all slots: from the end of the first of them to the start of the urgent one.
"""

from __future__ import annotations

import time
from functools import partial

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import quantile
from rig.scene import Scene
from rig.work import begun, doze, noop

from dtq import Client

SLOTS = 2


def behind_tiny(client: Client, flood: int, probes: int) -> list[float]:
    """The waits in milliseconds of urgent tasks submitted one after another while floods run."""
    waits: list[float] = []
    while len(waits) < probes:
        batch = client.submit_map(noop, range(flood), priority=10)
        batch.accepted()
        while len(waits) < probes and not batch.done():
            start = time.monotonic()
            waits.append((client.submit(begun, priority=1).result() - start) * 1e3)
        batch.cancel()
    return waits


def behind_long(client: Client, seconds: float) -> float:
    """Milliseconds from the end of the first long task to the start of the urgent one."""
    batch = client.submit_map(doze, [seconds] * (4 * SLOTS), priority=10)
    while client.batch_status(batch.id).counts.running < SLOTS:
        time.sleep(0.01)
    time.sleep(seconds / 4)
    urgent = client.submit(begun, priority=1).result()
    times = list(batch.results())
    first_end = min(end for _, end, _ in times)
    later = [start for start, _, _ in times if start > first_end and start < urgent]
    assert len(later) < SLOTS, f"{len(later)} unimportant tasks began before the urgent one"
    return (urgent - first_end) * 1e3


def main() -> None:
    options = command_line(__doc__)
    report = Report("inversion", "How long does an urgent task wait behind a flood of unimportant ones?", options)
    run(report, options)
    report.note("Also behind the flood each submission is on disk before anything else happens to it.")
    report.print()


def run(report: Report, options: Options) -> None:
    flood, probes = options.pick(100_000, 2_000), options.pick(200, 5)
    with Scene("fsync", slots=SLOTS, directory=options.directory) as scene, scene.client() as client:
        client.submit(begun).result()
        found = report.rounds.repeat(partial(behind_tiny, client, flood, probes))
        taken = [wait for waits in found for wait in waits]
        medians = [quantile(waits, 0.5) for waits in found]
        report.add(f"behind {flood:,} no-op tasks: wait, p50", medians, "ms")
        report.add("  p99", quantile(taken, 0.99), "ms", Bar(most=50))
        report.add("  most", max(taken), "ms")
        report.note(f"{len(taken):,} urgent tasks, one at a time; a flood that has run dry is followed by another.")
        seconds = 0.2 if options.quick else 1.0
        gaps = report.rounds.repeat(partial(behind_long, client, seconds))
        report.add(f"behind {seconds:g} s tasks: start after the first of them ends", gaps, "ms", Bar(most=50))


if __name__ == "__main__":
    main()
