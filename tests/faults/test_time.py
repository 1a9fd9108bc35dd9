"""Rows 33, 34 and 36 of the catalogue of faults: clocks that jump or begin anew, and work that is due much later."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from dtq.coordinator.service import Coordinator
from dtq.core import invariants
from dtq.model.states import State
from dtq.testing import ManualClock
from tests.cluster import Cluster, until
from tests.contracts.service_scene import House
from tests.faults import shim
from tests.producer import Producer

HOUR_S = 3600


def marks(directory: Path) -> list[str]:
    return [path.name.split("-", 1)[1] for path in sorted(directory.iterdir())]


class WallClock:
    """The time of day of all processes of a cluster, and how to set it."""

    def __init__(self, cluster: Cluster) -> None:
        path = cluster.directory / "wall-offset"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)
        cluster.environment["LD_PRELOAD"] = str(shim.built("wallclock"))
        cluster.environment["DTQ_WALL_OFFSET"] = str(path)

    def set(self, seconds: int) -> None:
        """So much ahead of this machine's."""
        self._offset[:8] = struct.pack("=q", seconds)


def test_set_wall_clock_neither_loses_hastens_nor_starves(tmp_path: Path) -> None:
    """Row 33: the wall clock jumps hours ahead and back, under all processes: X = 0, delays are kept."""
    directory, gate = tmp_path / "marks", tmp_path / "gate"
    directory.mkdir()
    with Cluster(tmp_path) as cluster:
        wall = WallClock(cluster)
        coordinator = cluster.coordinator("--lease", "2s")
        cluster.worker(slots=2)
        producer = Producer(cluster.service())
        running = producer.submit("until_file", [(str(directory), "running", str(gate))])
        until(lambda: marks(directory), "the task to start")
        later = producer.submit("note", [(str(directory), "later")], delay_s=HOUR_S)
        for number, ahead in enumerate((5 * HOUR_S, -5 * HOUR_S, 0)):
            # When somebody sets the clock
            soon = producer.submit("note", [(str(directory), f"soon{number}")], delay_s=0.5)
            wall.set(ahead)
            submitted_at = producer.service.stats().now
            # Then what is due in half a second runs in a second or so,
            assert producer.values(soon) == [f"soon{number}"]
            assert producer.service.stats().now - submitted_at < 60
            # what is due in an hour waits, and what runs goes on.
            assert producer.service.task(later, 0).state is State.SCHEDULED
            assert producer.service.task(running, 0).state is State.RUNNING
        # And a coordinator that starts with a clock that was set back goes on, too.
        wall.set(-5 * HOUR_S)
        coordinator.kill()
        cluster.coordinator("--lease", "2s")
        soon = producer.submit("note", [(str(directory), "soon")], delay_s=0.5)
        assert producer.values(soon) == ["soon"]
        assert producer.service.task(later, 0).state is State.SCHEDULED
        gate.touch()
        assert producer.values(running) == ["running"]
        done = [name.split("-")[0] for name in marks(directory)]
        assert done == ["running", "soon0", "soon1", "soon2", "soon"]
        stats = producer.service.stats()
        assert (stats.retries, len(stats.workers), stats.losses) == (0, 1, ())


def test_coordinator_goes_on_after_the_monotonic_clock_began_anew(tmp_path: Path) -> None:
    """Row 34: after a reboot: leases are one lease long again, no longer, and what still runs is not run twice."""
    flags = ["-T"] if os.geteuid() == 0 else ["-rT"]
    within = ["unshare", *flags, "--fork", "--kill-child", f"--monotonic={-int(time.monotonic()) + 10}"]
    tried = subprocess.run([*within, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this machine lets us set no monotonic clock of our own: {tried.stderr.strip()}")
    directory, gate = tmp_path / "marks", tmp_path / "gate"
    directory.mkdir()
    with Cluster(tmp_path) as cluster:
        # Given a task that runs, and one whose worker dies with the coordinator
        coordinator = cluster.coordinator("--lease", "2s")
        cluster.worker(slots=1)
        producer = Producer(cluster.service())
        kept = producer.submit("until_file", [(str(directory), "kept", str(gate))])
        until(lambda: marks(directory), "the first task to start")
        doomed = cluster.worker(slots=1)
        lost = producer.submit("until_file", [(str(directory), "lost", str(gate))])
        until(lambda: len(marks(directory)) == 2, "the second task to start", lambda: marks(directory))
        producer.submit("add", [(1, 2)], delay_s=HOUR_S)  # acknowledged, so what came before is on disk: both leases
        coordinator.kill()
        doomed.kill()
        # When the coordinator comes back and its monotonic clock has begun anew
        cluster.within = within
        cluster.coordinator("--lease", "2s")
        started_at = producer.service.stats().started_at
        # Then the lost task runs again after a lease, on another worker
        cluster.worker(slots=1)
        until(lambda: len(marks(directory)) == 3, "the lost task to start again", lambda: marks(directory))
        waited_s = producer.service.stats().now - started_at
        print(f"started again after {waited_s:.1f} s")
        assert 1.9 < waited_s < 10
        gate.touch()
        assert producer.values(kept) == ["kept"]
        assert producer.values(lost) == ["lost"]
        assert sorted(name.split("-")[0] for name in marks(directory)) == ["kept", "lost", "lost"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of all coordinators in this process, over their restarts."""
    clock = ManualClock()
    start = Coordinator.start

    def start_with_it(self: Coordinator) -> object:
        self._make_clock = lambda: clock
        return start(self)

    monkeypatch.setattr(Coordinator, "start", start_with_it)
    return clock


def test_task_due_ten_leases_later_starts_once_over_three_restarts(tmp_path: Path, clock: ManualClock) -> None:
    """Row 36: a due time far beyond any lease, three restarts between: one start."""
    house = House("sqlite", tmp_path)
    lease_s = house.coordinator.setup.rules.lease_s
    try:
        batch = house.client().submit(submission={"delay_s": 10 * lease_s})
        for _ in range(3):
            # When nearly a third of the time has passed, it is not started, and the coordinator starts again
            clock.advance(3 * lease_s)
            house.coordinator.tick()
            assert house.worker().fetch() == []
            house.restart()
        assert house.client().states(batch, 1) == [State.SCHEDULED]
        # When it is due, then it is started, and once
        clock.advance(lease_s)
        house.coordinator.tick()
        hand = house.worker()
        grant = hand.fetch_one()
        assert (grant.batch, grant.attempt) == (batch, 1)
        assert house.worker().fetch() == []
        hand.succeed(grant)
        assert house.client().states(batch, 1) == [State.SUCCEEDED]
        assert house.coordinator.machine.queue_state.retries == 0
    finally:
        house.close()
        invariants.check(house.coordinator.machine)
