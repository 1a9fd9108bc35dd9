"""Does a long queue cost speed, and how much memory?

A queue is filled while nobody serves it: with one map of 1 k to 10 million tasks, and with a million separate
submissions. How much memory do the coordinator and the submitter have then? A worker of two slots is started, and runs
a fixed number of no-op tasks off the front while at least that many wait: how many a second?
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from rig.filling import fill, served
from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.scene import Scene

from dtq import Client

SLOTS = 2


class Case(NamedTuple):
    """A queue to be filled, and how many tasks are run off it in a round."""

    name: str
    kind: str
    depth: int
    run: int
    memory: Bar | None = None


CASES = (
    Case("one map", "map", 1_000, 200_000),
    Case("one map", "map", 100_000, 200_000),
    Case("one map", "map", 1_000_000, 200_000),
    Case("one map", "map", 10_000_000, 200_000, Bar(most=1000)),
    Case("submissions", "submit", 1_000, 200_000),
    Case("submissions", "submit", 1_000_000, 200_000, Bar(most=600)),
    Case("submissions, each a batch of its own", "batches", 1_000, 20_000),
    Case("submissions, each a batch of its own", "batches", 1_000_000, 20_000, Bar(most=600)),
)
QUICK = (Case("submissions, each a batch of its own", "batches", 100, 50),)


def run(scene: Scene, client: Client, case: Case) -> float:
    """One round: some more tasks are queued, and as many run. How many a second."""
    fill(scene, case.kind, case.run)
    worker = scene.start_worker(SLOTS)
    rate = served(client, case.run)
    worker.end()
    return rate


def look(report: Report, options: Options, case: Case, shallow: dict[str, float]) -> None:
    """One case."""
    title = f"{case.name}, {case.depth:,} deep"
    with Scene("fsync", slots=0, directory=options.directory) as scene:
        filled = fill(scene, case.kind, case.depth)
        report.add(f"{title}: coordinator's memory", filled.coordinator_mb, "MB", case.memory)
        client_bar = Bar(most=500) if case.kind == "map" and case.depth == 10_000_000 else None
        report.add("  submitter's memory, at most", filled.client_mb, "MB", client_bar)
        report.add("  submitted", case.depth / filled.seconds, "/s")
        with scene.client() as client:
            rates = report.rounds.repeat(partial(run, scene, client, case))
        rate = report.add(f"  run with {case.depth:,} left waiting", rates, "/s")
        if case.kind in shallow:
            report.add("    of the rate with the fewest waiting", rate / shallow[case.kind], "", Bar(least=0.8))
        shallow.setdefault(case.kind, rate)
        report.add("  coordinator's memory, most at any time", scene.coordinator.most_mb, "MB")


def main() -> None:
    options = command_line(__doc__)
    report = Report("depth", "Does a long queue cost speed, and how much memory?", options)
    shallow: dict[str, float] = {}
    for case in QUICK if options.quick else CASES:
        look(report, options, case, shallow)
    report.note("Durability fsync. MB are millions of bytes of resident memory.")
    report.note("Neighbouring submissions of one client with equal options travel, and are kept, as one batch;")
    report.note("  where each is a batch of its own, options differ from neighbour to neighbour: the worst case.")
    report.print()


if __name__ == "__main__":
    main()
