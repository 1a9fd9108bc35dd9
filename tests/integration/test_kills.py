"""kill -9 of anything, in the middle of its work: what was acknowledged ends exactly once, and rightly."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.errors import Unreachable
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.cluster import Cluster, until
from tests.producer import Producer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def marks(directory: Path) -> list[str]:
    return [path.name.split("-", 1)[1] for path in sorted(directory.iterdir())]


def test_killed_worker_loses_nothing_and_is_replaced_in_time(cluster: Cluster, tmp_path: Path) -> None:
    """Row 19: kill -9 of a worker: its tasks start elsewhere at once."""
    # Given two workers, and tasks that run on both
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    cluster.coordinator()
    first = cluster.worker(slots=2)
    producer = Producer(cluster.service())
    batch = producer.submit("until_file", [(str(directory), f"{n}", str(gate)) for n in range(2)])
    until(lambda: len(marks(directory)) == 2, "both tasks to start", lambda: marks(directory))
    cluster.worker(slots=2).await_line("ready")
    until(lambda: len(producer.service.stats().workers) == 2, "the second worker to join")
    # When the one that runs them is killed
    killed_at = time.monotonic()
    first.kill()
    # Then they start again on the other
    until(lambda: len(marks(directory)) == 4, "both tasks to start again", lambda: marks(directory))
    print(f"started again after {time.monotonic() - killed_at:.2f} s")
    gate.touch()
    assert producer.values(batch) == ["0", "1"]


def test_killed_workers_under_load_lose_nothing(cluster: Cluster) -> None:
    """Row 19, again and again, under load."""
    cluster.coordinator()
    producer = Producer(cluster.service())
    batches = [producer.submit("square", [(n,) for n in range(500)], max_crashes=50) for _ in range(4)]
    naps = producer.submit("nap", [(0.01,)] * 200, max_crashes=50)
    for _ in range(3):
        worker = cluster.worker(slots=2)
        before = producer.service.stats().counts.succeeded
        until(lambda before=before: producer.service.stats().counts.succeeded > before, "some work to be done")
        worker.kill()
    cluster.worker(slots=2)
    for batch in batches:
        assert producer.values(batch) == [n * n for n in range(500)]
    assert producer.values(naps) == [0.01] * 200
    counts = producer.service.stats().counts
    assert (counts.succeeded, counts.unfinished, counts.dead) == (2_200, 0, 0)


def test_killed_coordinator_loses_nothing_it_acknowledged(cluster: Cluster) -> None:
    """Row 16; a hundred kills under full load are in `scripts/bench/recovery.py`."""
    # Given submitters, a worker, and a coordinator that is killed again and again
    coordinator = cluster.coordinator()
    cluster.worker(slots=2)
    stop = threading.Event()
    producers = [Producer(cluster.service()) for _ in range(2)]
    first = producers[0].service.stats().epoch

    def produce(producer: Producer) -> None:
        while not stop.is_set():
            try:
                producer.submit("square", [(n,) for n in range(200)], max_crashes=50)
            except Unreachable:  # not acknowledged: nothing is promised of it
                stop.wait(0.02)

    threads = [threading.Thread(target=produce, args=(producer,)) for producer in producers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            seen = sum(len(producer.acknowledged) for producer in producers)
            until(lambda seen=seen: sum(len(p.acknowledged) for p in producers) > seen + 10, "more to be accepted")
            coordinator.kill()
            coordinator = cluster.coordinator()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    # Then every acknowledged task ends, once, with the right result
    for producer in producers:
        assert len(producer.acknowledged) > 10
        for batch in producer.acknowledged:
            assert producer.values(batch) == [n * n for n in range(200)]
    stats = producers[0].service.stats()
    assert stats.epoch == first + 3
    assert stats.losses == ()
    assert stats.counts.unfinished == 0
    assert stats.counts.dead == 0


def test_worker_carries_on_over_a_restart_of_the_coordinator(cluster: Cluster, tmp_path: Path) -> None:
    # Given a task that runs while its coordinator is killed
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    coordinator = cluster.coordinator()
    worker = cluster.worker(slots=1)
    producer = Producer(cluster.service())
    batch = producer.submit("until_file", [(str(directory), "it", str(gate))])
    until(lambda: marks(directory), "the task to start")
    # What a caller was told is on disk: it runs
    assert producer.service.task(batch, 0).state is State.RUNNING
    coordinator.kill()
    worker.await_line("lost the coordinator")
    # When it ends while nobody is there to hear it, and the coordinator comes back
    gate.touch()
    cluster.coordinator()
    # Then its result counts: it ran once
    assert producer.values(batch) == ["it"]
    assert len(marks(directory)) == 1
    assert producer.service.task(batch, 0).history == ()
    assert worker.popen.poll() is None


def test_worker_takes_nothing_of_a_store_for_what_has_its_number_in_the_next(cluster: Cluster, tmp_path: Path) -> None:
    # Given a worker that has run a function, and runs a task of it, when the store is lost
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    coordinator = cluster.coordinator()
    cluster.worker(slots=1)
    lost = Producer(cluster.service())
    batch = lost.submit("until_file", [(str(directory), "lost", str(gate))])
    until(lambda: marks(directory), "the task to start")
    coordinator.kill()
    for path in tmp_path.glob("queue.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # When another takes its place, with another function and other tasks of the same numbers
    cluster.coordinator()
    producer = Producer(cluster.service())
    batches = [producer.submit("square", [(n,)]) for n in (3, 4)]
    assert batches[0] == batch
    until(lambda: producer.service.stats().workers, "the worker to be back")
    gate.touch()
    # Then they have their own results
    assert [producer.values(batch) for batch in batches] == [[9], [16]]


def test_restart_keeps_priorities_delays_and_dead_letters(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "marks"
    directory.mkdir()
    coordinator = cluster.coordinator()
    producer = Producer(cluster.service())
    low = producer.submit("note", [(str(directory), f"low{n}") for n in range(3)], priority=9)
    delayed = producer.submit("note", [(str(directory), "delayed")], delay_s=3600.0)
    high = producer.submit("note", [(str(directory), "high")], priority=1)
    coordinator.kill()
    coordinator = cluster.coordinator()
    worker = cluster.worker(slots=1)
    dead = producer.submit("fail", [("no",)], max_retries=0)
    for batch in (low, high, dead):
        producer.finish(batch)
    assert marks(directory) == ["high", "low0", "low1", "low2"]
    worker.kill()
    coordinator.kill()
    cluster.coordinator()
    assert producer.service.task(delayed, 0).state is State.SCHEDULED
    (letter,) = producer.service.dead_letters(Selection())
    assert (letter.batch, letter.exception, letter.message) == (dead, "ValueError", "no")
    assert producer.service.retry_dead(Selection()) == 1
    assert producer.service.task(dead, 0).state is State.PENDING


def test_stopped_coordinator_ends_in_order(cluster: Cluster) -> None:
    coordinator = cluster.coordinator()
    worker = cluster.worker()
    producer = Producer(cluster.service())
    batch = producer.submit("add", [(1, 2)])
    producer.finish(batch)
    coordinator.signal(signal.SIGTERM)
    assert coordinator.ended() == 0
    assert worker.popen.poll() is None
    cluster.coordinator()
    assert producer.values(batch) == [3]


def test_paused_coordinator_takes_no_lease_away(cluster: Cluster, tmp_path: Path) -> None:
    """Row 32."""
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    coordinator = cluster.coordinator("--lease", "2s")
    cluster.worker(slots=1)
    producer = Producer(cluster.service())
    batch = producer.submit("until_file", [(str(directory), "it", str(gate))])
    until(lambda: marks(directory), "the task to start")
    # When the coordinator's process is stopped for longer than a lease
    coordinator.signal(signal.SIGSTOP)
    threading.Event().wait(3.0)  # the fault itself: time passes
    coordinator.signal(signal.SIGCONT)
    # Then the task is not run elsewhere
    producer.submit("add", [(1, 2)])
    gate.touch()
    assert producer.values(batch) == ["it"]
    assert len(marks(directory)) == 1
    assert producer.service.stats().retries == 0
