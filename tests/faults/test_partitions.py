"""Networks that stall, split and heal: what each side believes meanwhile, and what counts afterwards."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client
from tests.cluster import TASKS, Cluster, Process, until
from tests.producer import Producer

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # where the soak's misbehaving proxy stands

from soak_rig.wire import Mode, Wire

LEASE_S = 2.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        cluster.coordinator("--lease", f"{LEASE_S:g}s")
        yield cluster


@pytest.fixture
def producer(cluster: Cluster) -> Producer:
    """On this side of the network."""
    return Producer(cluster.service())


@pytest.fixture
def wire(cluster: Cluster) -> Iterator[Wire]:
    """To the other side."""
    wire = Wire(cluster.port)
    yield wire
    wire.close()


class Stage:
    """A task that waits for a gate, and leaves a mark each time it starts."""

    def __init__(self, place: Path, producer: Producer) -> None:
        self._directory = place / "marks"
        self._directory.mkdir()
        self._gate = place / "gate"
        self.batch = producer.submit("until_file", [(str(self._directory), "it", str(self._gate))])

    def started(self, times: int) -> None:
        until(lambda: self.starts >= times, f"start number {times} of the task", lambda: self.starts)

    @property
    def starts(self) -> int:
        return len(list(self._directory.iterdir()))

    def open(self) -> None:
        self._gate.touch()


@pytest.fixture
def stage(tmp_path: Path, producer: Producer) -> Stage:
    return Stage(tmp_path, producer)


def far_worker(cluster: Cluster, wire: Wire) -> Process:
    where = ["--connect", f"127.0.0.1:{wire.port}", "--authkey-file", str(cluster.key_file)]
    worker = cluster.run("far", ["worker", *where, "--slots", "1", "--path", str(TASKS)])
    worker.await_line("ready")
    return worker


def test_partition_shorter_than_the_lease_goes_unnoticed(
    cluster: Cluster, producer: Producer, wire: Wire, stage: Stage
) -> None:
    """Row 28."""
    # Given a task that runs on the other side
    worker = far_worker(cluster, wire)
    stage.started(1)
    # When nothing gets through for less than a lease, and the task ends meanwhile
    wire.be(Mode.STALL)
    stage.open()
    threading.Event().wait(LEASE_S / 4)  # the fault itself: time passes
    wire.be(Mode.PASS)
    # Then its result counts, and it ran once
    assert producer.values(stage.batch) == ["it"]
    assert stage.starts == 1
    assert producer.service.stats().retries == 0
    assert "taken back" not in worker.output()


@pytest.mark.parametrize(
    "fault", [Mode.STALL, Mode.DROP_DOWN, Mode.DROP_UP], ids=["both ways", "no replies", "no reports"]
)
def test_partition_longer_than_a_lease_moves_the_task_and_fences_the_first_run(
    cluster: Cluster, producer: Producer, wire: Wire, stage: Stage, fault: Mode
) -> None:
    """Rows 29 and 30: also where only one direction is lost."""
    # Given a task that runs on the other side, and a worker on this one
    far_worker(cluster, wire)
    stage.started(1)
    cluster.worker(slots=1)
    # When the network is split for longer than a lease
    wire.be(fault)
    stage.started(2)
    # Then the task runs here; when the network heals, the first run does not count
    wire.be(Mode.PASS)
    stage.open()
    assert producer.values(stage.batch) == ["it"]
    assert stage.starts == 2
    (attempt,) = producer.service.task(stage.batch, 0).history
    assert "was lost" in attempt.failure.message
    # And the worker over there works again
    until(lambda: len(producer.service.stats().workers) == 2, "the other worker", producer.service.stats)


def test_worker_that_was_stopped_for_longer_than_a_lease_reports_in_vain(
    cluster: Cluster, producer: Producer, wire: Wire, stage: Stage
) -> None:
    """Row 31."""
    # Given a worker that is stopped in the middle of a task
    worker = far_worker(cluster, wire)
    stage.started(1)
    cluster.worker(slots=1)
    worker.signal(signal.SIGSTOP)
    stage.started(2)
    # When the task has ended on both, and the first goes on
    stage.open()
    assert producer.values(stage.batch) == ["it"]
    worker.signal(signal.SIGCONT)
    # Then the first one's result does not count
    until(lambda: len(producer.service.stats().workers) == 2, "the first worker", producer.service.stats)
    counts = producer.service.stats().counts
    assert (counts.succeeded, counts.unfinished, counts.dead) == (1, 0, 0)
    assert stage.starts == 2


def test_submission_whose_reply_was_lost_is_one_task(cluster: Cluster, producer: Producer, wire: Wire) -> None:
    """Row 18."""
    with Client(f"127.0.0.1:{wire.port}", authkey_file=cluster.key_file) as client:

        def submitted() -> int:
            return producer.service.stats().submitted

        client.stats()
        # When a submission arrives, and the answer does not
        wire.be(Mode.DROP_DOWN)
        handle = client.submit("work:add", 1, 2)
        until(lambda: submitted() == 1, "the submission to arrive", submitted)
        # Then the client asks again over a new connection, and there is one task
        wire.be(Mode.PASS)
        assert handle.accepted()
        cluster.worker(slots=1)
        assert handle.result() == 3
        assert submitted() == 1
