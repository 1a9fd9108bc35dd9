"""What do 500 idle workers cost the coordinator?

The workers' connections are real, and say and ask what a worker's do: two for each, one that reports every few seconds,
one that waits for work. What would run tasks is left out (500 times two processes do not fit this machine); they are
made in a few processes of their own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import uuid
from functools import partial
from pathlib import Path

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.scene import Scene

from dtq.config import load_authkey
from dtq.model.messages import Hello, Role
from dtq.transport.proxy import Proxy
from dtq.worker.link import Link
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import SlotTerms, WorkerTerms

#: How many workers are made in one process.
TOGETHER = 50


class Idle(Supervisor):
    """A supervisor that says it has a slot, and has none."""

    @property
    def capacity(self) -> int:
        return 1


def join(address: tuple[str, int], key_file: str, number: int) -> Link:
    """One worker, connected."""
    key, origin = load_authkey(key_file)
    name = f"idle-{os.getpid()}-{number}"
    session = uuid.uuid4().hex
    lines = [
        Proxy(
            [address],
            key,
            Hello(session=session, role=Role.WORKER, name=name, slots=1, primary=primary),
            key_source=origin,
        )
        for primary in (True, False)
    ]
    welcome = lines[0].connect()
    terms = SlotTerms(
        worker=name, paths=(), imports=(), max_result=1 << 20, max_tasks=None, max_memory=None
    )  # never used: it has no slot
    supervisor = Idle(WorkerTerms(slots=1, slot=terms))
    link = Link(supervisor, lines[0], lines[1], heartbeat_s=welcome.heartbeat_s, where=f"{address}")
    link.start()
    return link


def many(count: int) -> None:
    """So many workers in this process, until standard input ends."""
    host, _, port = os.environ["DTQ_ADDRESS"].rpartition(":")
    links = [join((host, int(port)), os.environ["DTQ_AUTHKEY_FILE"], number) for number in range(count)]
    print(len(links), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    threading.Event().wait()


def share(scene: Scene, seconds: float) -> float:
    """How much of a core the coordinator uses, in percent."""
    used, start = scene.coordinator.cpu_s, time.perf_counter()
    time.sleep(seconds)
    return (scene.coordinator.cpu_s - used) / (time.perf_counter() - start) * 100


def measure(scene: Scene, options: Options, report: Report, count: int) -> None:
    before_mb = scene.coordinator.rss_mb
    seconds = options.pick(15, 1)
    with contextlib.ExitStack() as stack:
        crowd = []
        for _ in range(0, count, TOGETHER):
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "--crowd", str(min(TOGETHER, count))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=scene.environment,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            crowd.append(process)
        for process in crowd:
            assert process.stdout is not None
            assert process.stdout.readline().strip(), "a process of idle workers ended"
        with scene.client() as client:
            deadline = time.monotonic() + 60
            while (here := len(client.stats().workers)) < count:
                assert time.monotonic() < deadline, f"{here} of {count} workers are connected"
                time.sleep(0.1)
        time.sleep(seconds / 3)
        shares = report.rounds.repeat(partial(share, scene, seconds))
        bar = Bar(most=2) if count == 500 else None
        report.add(f"{count} idle workers: the coordinator's share of a core", shares, "%", bar)
        report.add("  memory", scene.coordinator.rss_mb, "MB")
        report.add("  more than without, for a worker", (scene.coordinator.rss_mb - before_mb) / count * 1e3, "kB")


def main() -> None:
    if sys.argv[1:2] == ["--crowd"]:
        return many(int(sys.argv[2]))
    options = command_line(__doc__)
    report = Report("connections", "What do idle workers cost the coordinator?", options)
    with Scene("fsync", slots=0, directory=options.directory) as scene:
        shares = report.rounds.repeat(partial(share, scene, options.pick(5, 1)))
        report.add("no worker: the coordinator's share of a core", shares, "%")
        measure(scene, options, report, options.pick(500, 10))
    report.note("Each round is 15 s, in which a worker reports three times and asks for work once or twice.")
    return report.print()


if __name__ == "__main__":
    main()
