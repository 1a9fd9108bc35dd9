"""How soon does work go on after kill -9, and is everything still there?

A worker is killed in the middle of its tasks, while another one has free slots: the time until the last of them has
started there. And the coordinator is killed under full load, again and again, with 100,000 tasks waiting: the time from
the start of its successor until that answers a client that is new; afterwards everything that was acknowledged has to
end, and the workers have to be the same processes as before.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from itertools import count

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import quantile
from rig.scene import PATIENCE_S, Scene
from rig.work import noop, spin, stay, turns_for

from dtq import Client, TaskHandle
from dtq.errors import DtqError

#: Tasks of the killed worker, one a slot.
LOST = 2
#: How long work goes on between two kills of the coordinator, in seconds.
LOAD_S = 0.5


def until(directory: str, files: int) -> list[float]:
    """When tasks have started, once there are so many starts."""
    deadline = time.monotonic() + PATIENCE_S
    while len(names := os.listdir(directory)) < files:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(names)} of {files} tasks have started")
        time.sleep(0.002)
    return sorted(float(name.split()[0]) for name in names)


def lose_worker(scene: Scene, client: Client) -> float:
    """Seconds from the kill of a worker until all of its tasks have started elsewhere."""
    with tempfile.TemporaryDirectory() as directory:
        victim = scene.start_worker(LOST)
        batch = client.submit_map(stay, [directory] * LOST, [60.0] * LOST)
        until(directory, LOST)
        heir = scene.start_worker(LOST)
        killed = time.monotonic()
        victim.kill()
        last = until(directory, 2 * LOST)[-1]
        batch.cancel()
        heir.end()
    return last - killed


class Load(threading.Thread):
    """Submits one task after the other until it is asked to stop; what was acknowledged is kept."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._stopping = threading.Event()
        self.handles: list[TaskHandle[int]] = []

    def run(self) -> None:
        for number in count():
            if self._stopping.wait(0.002):
                return
            self.handles.append(self._client.submit(noop, number))

    def stop(self) -> None:
        self._stopping.set()
        self.join(PATIENCE_S)


def lose_coordinator(scene: Scene, load_s: float) -> float:
    """Seconds from the start of the next one until a new client has its answer."""
    time.sleep(load_s)
    scene.coordinator.kill()
    start = time.perf_counter()
    scene.start_coordinator()
    while True:
        try:
            with scene.client() as fresh:
                fresh.stats()
        except DtqError:
            continue
        return time.perf_counter() - start


def worker_kills(report: Report, options: Options) -> None:
    with Scene("fsync", slots=0, directory=options.directory) as scene, scene.client() as client:
        taken = [lose_worker(scene, client) for _ in range(options.pick(20, 1))]
    report.add("a killed worker's tasks start elsewhere", taken, "s", Bar(most=1.0))
    report.add("  in the worst case", max(taken), "s", Bar(most=3.0))


def coordinator_kills(report: Report, options: Options) -> None:
    kills, waiting = options.pick(100, 1), options.pick(100_000, 100)
    load_s = 0.1 if options.quick else LOAD_S
    turns = turns_for(0.001)
    with Scene("fsync", slots=2, directory=options.directory) as scene, scene.client() as client:
        worker = scene.workers[0]
        busy = client.options(priority=1).submit_map(spin, [turns] * waiting)
        behind = client.options(priority=9).submit_map(noop, range(waiting))
        while behind.size < waiting:
            time.sleep(0.01)
        load = Load(client)
        load.start()
        back = [lose_coordinator(scene, load_s) for _ in range(kills)]
        load.stop()
        assert worker.popen.poll() is None, "the worker has ended"
        assert sorted(behind.results()) == list(range(waiting))
        done = sum(1 for _ in busy.results())
        wrong = sum(handle.result() != number for number, handle in enumerate(load.handles))
        stats = client.stats()
    report.add(f"a coordinator that was killed {kills} times answers again", back, "s", Bar(most=2.0))
    report.add("  99th percentile", quantile(back, 0.99), "s")
    report.add("  acknowledged", 2 * waiting + len(load.handles), "tasks")
    report.add("  of them lost, wrong or dead", waiting - done + wrong + stats.counts.dead, "tasks", Bar(most=0))
    report.note(
        "While it was killed: 1 ms tasks on both slots, one task submitted every 2 ms, at least 100,000 waiting."
    )


def main() -> None:
    options = command_line(__doc__)
    report = Report("recovery", "How soon does work go on after kill -9?", options)
    worker_kills(report, options)
    coordinator_kills(report, options)
    report.print()


if __name__ == "__main__":
    main()
