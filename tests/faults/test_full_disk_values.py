"""Large results on a full disk: some go with the small ones, others wait for room, and nothing fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.model.snapshots import Selection
from dtq.model.values import is_description
from tests.cluster import TASKS, Cluster, Process, until
from tests.faults.disks import SmallDisk, small_disk
from tests.value_producer import ValueProducer

MB = 1_000_000


class Scene:
    """A coordinator whose store is on a small disk, and a worker; both see the disk."""

    def __init__(self, cluster: Cluster, disk: SmallDisk, by_reference: bool) -> None:
        self.disk = disk
        self.by_reference = by_reference
        cluster.coordinator("--max-message", "1MiB", "--lease", "2s")
        where = ["--connect", cluster.address, "--authkey-file", str(cluster.key_file), "--slots", "2"]
        how = "--by-reference" if by_reference else "--no-by-reference"
        self.worker: Process = cluster.run("worker", ["worker", *where, "--path", str(TASKS), how], disk.within)
        self.worker.await_line("ready")
        self.producer = ValueProducer(cluster)
        self.go = cluster.directory / "go"

    def running(self, size: int) -> int:
        """A task that is about to have a result, on a disk that is full by then."""
        batch = self.producer.submit("value_work:much_when", [(size, 7, str(self.go))], max_retries=0)
        until(lambda: self.producer.counts(batch).running, "it to run")
        self.disk.fill()
        self.go.touch()
        return batch


@pytest.fixture(params=[True, False], ids=["by reference", "by wire"])
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with (
        small_disk(tmp_path / "disk", 24) as disk,
        Cluster(tmp_path, store=tmp_path / "disk" / "queue.db", within=disk.within) as cluster,
    ):
        yield Scene(cluster, disk, request.param)


def test_a_result_that_is_too_large_for_a_message_waits_for_room(scene: Scene) -> None:
    # Given a result that is made on a full disk
    batch = scene.running(3 * MB)
    scene.worker.await_line("room")
    # When small tasks run beside it, for longer than a lease lasts, Then they are done
    for _ in range(3):
        scene.disk.make_room()
        small = scene.producer.submit("nap", [(0.8,)])
        until(lambda small=small: scene.producer.counts(small).running, "it to run")  # type: ignore[misc]
        scene.disk.fill()
        assert scene.producer.values(small) == [0.8]
        if scene.producer.counts(batch).succeeded:
            break  # it found room meanwhile
    # And a worker that is told to end says what it waits for
    if not scene.producer.counts(batch).succeeded:
        scene.worker.signal(signal.SIGTERM)
        scene.worker.await_line("the worker ends only after this: ")
        # And when there is room, the result is there, and the task ran once
        scene.disk.make_room()
        assert scene.worker.ended() == 0
    assert scene.producer.values(batch) == [b"\7" * 3 * MB]
    assert not scene.producer.service.task(batch, 0).history


def test_a_result_that_fits_into_a_message_needs_no_room(scene: Scene) -> None:
    batch = scene.running(200_000)

    (blob,) = scene.producer.blobs(batch)

    assert scene.producer.values(batch) == [b"\7" * 200_000]
    assert not is_description(blob)


def test_results_that_wait_for_room_leave_the_small_ones_theirs(scene: Scene) -> None:
    # Given results that are together larger than the disk, so that their slots try again and again to write them
    large = [scene.producer.submit("value_work:much", [(15 * MB,)], max_retries=0) for _ in range(2)]
    scene.worker.await_line("room")
    waiting = next(batch for batch in large if not scene.producer.counts(batch).succeeded)
    # When they are on their way over a connection; Then their slots are free for other work
    if not scene.by_reference:
        assert scene.producer.values(scene.producer.submit("nap", [(0.0,)] * 2)) == [0.0, 0.0]
    # When one of them is no longer wanted; Then that can be said and recorded, and its slot does other work
    scene.producer.service.cancel(Selection(ids=((waiting, 0),)))
    # (which of them has found room meanwhile is chance)
    until(lambda: not scene.producer.counts(waiting).running, "it to be stopped")
    assert scene.producer.values(scene.producer.submit("nap", [(0.0,)])) == [0.0]
    assert scene.disk.free > 2 * MB
