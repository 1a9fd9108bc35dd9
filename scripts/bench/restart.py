"""How long until a killed coordinator is ready again, with a million tasks waiting?

From the start of its process to its readiness line, after kill -9; the store in the system's file cache. With one map
of a million tasks, and with a million submissions of which each is a batch of its own.
"""

from __future__ import annotations

from functools import partial

from rig.filling import fill
from rig.options import command_line
from rig.report import Bar, Report
from rig.scene import Scene

CASES = {"map": "one map of", "submit": "submissions:", "batches": "submissions, each a batch of its own:"}


def restart(scene: Scene) -> float:
    """Kill it and start it again: seconds until it is ready."""
    scene.coordinator.kill()
    return scene.start_coordinator().await_ready()


def main() -> None:
    options = command_line(__doc__)
    report = Report("restart", "How long until a killed coordinator is ready again?", options)
    count = options.pick(1_000_000, 500)
    for kind, name in [*CASES.items()][: options.pick(len(CASES), 1)]:
        with Scene("fsync", slots=0, directory=options.directory) as scene:
            fill(scene, kind, count)
            seconds = report.rounds.repeat(partial(restart, scene))
            with scene.client() as client:
                assert client.stats().counts.pending == count
            size = sum(file.stat().st_size for file in scene.directory.glob("queue.db*") if file.is_file())
            report.add(f"{name} {count:,}", seconds, "s", Bar(most=5))
            report.add("  size of the store", size / 1e6, "MB")
            report.add("  memory afterwards", scene.coordinator.rss_mb, "MB")
    if not options.quick:
        with Scene("fsync", slots=0, directory=options.directory) as scene:
            seconds = report.rounds.repeat(partial(restart, scene))
            report.add("an empty store", seconds, "s")
    report.print()


if __name__ == "__main__":
    main()
