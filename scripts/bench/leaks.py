"""Does anything grow that should not? Rounds of 200,000 tasks, and then nothing: memory, descriptors and threads.

Caches of pages, ours and SQLite's, have bounds and are full after a dozen rounds or so. Then nothing may grow.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
from rig.options import command_line
from rig.report import Bar, Report
from rig.scene import Process, Scene
from rig.work import noop

#: After which rounds there is a look.
LOOKS = (2, 4, 16, 24)
#: How long nothing happens before a look, in seconds: a waiting call of a client that has left ends within ten.
IDLE_S = 11.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a process and its children have."""

    megabytes: float
    descriptors: int
    threads: int


def look(process: Process) -> Look:
    whole = psutil.Process(process.popen.pid)
    family = [whole, *whole.children(recursive=True)]
    return Look(
        megabytes=sum(one.memory_info().rss for one in family) / 1e6,
        descriptors=sum(one.num_fds() for one in family),
        threads=sum(one.num_threads() for one in family),
    )


def main() -> None:
    options = command_line(__doc__)
    report = Report("leaks", "Does anything grow with the number of tasks?", options)
    tasks = options.pick(200_000, 50)
    looks: dict[str, list[Look]] = {"coordinator": [], "worker": []}
    with Scene("fsync", slots=2, directory=options.directory) as scene:
        for number in range(1, LOOKS[-1] + 1):
            with scene.client() as client:
                assert sum(1 for _ in client.map(noop, range(tasks))) == tasks
            if number in LOOKS:
                time.sleep(0.1 if options.quick else IDLE_S)
                for name, process in (("coordinator", scene.coordinator), ("worker", scene.workers[0])):
                    looks[name].append(look(process))
    for name, (second, fourth, filled, last) in looks.items():
        for number, one in zip(LOOKS, looks[name], strict=True):
            report.add(f"{name}: memory after {number} rounds", one.megabytes, "MB")
        report.add("  after 4 rounds against after 2", fourth.megabytes / second.megabytes, "", Bar(most=1.05))
        report.add("  after 24 rounds against after 16", last.megabytes / filled.megabytes, "", Bar(most=1.05))
        report.add("  descriptors more, after 24 than after 2", last.descriptors - second.descriptors, "", Bar(most=0))
        report.add("  threads more", last.threads - second.threads, "", Bar(most=0))
    report.note(f"A round is a map of {tasks:,} tasks by a client of its own; the worker has two slots.")
    report.print()


if __name__ == "__main__":
    main()
