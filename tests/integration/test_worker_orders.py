"""Workers that are drained, resumed and stopped from afar: `dtq workers`, `Client.workers`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.model.snapshots import WorkerView
from tests.cluster import Cluster, until
from tests.producer import Producer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        cluster.coordinator()
        yield cluster


def shown(cluster: Cluster) -> dict[str, WorkerView]:
    """The workers, by name."""
    with cluster.service() as service:
        return {view.name: view for view in service.stats().workers}


def started(directory: Path, name: str) -> bool:
    """Whether a task has left its mark."""
    return any(f"-{name}-" in path.name for path in directory.iterdir())


def test_drained_worker_finishes_what_runs_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    # Given a worker that runs a task, with another waiting behind it
    producer, marks = Producer(cluster.service()), tmp_path / "marks"
    marks.mkdir()
    worker = cluster.worker("--name", "lab-1", slots=1)
    gate = tmp_path / "gate"
    batch = producer.submit("until_file", [(str(marks), "first", str(gate)), (str(marks), "second", str(gate))])
    until(lambda: started(marks, "first"), "the first task to run")

    # When it is drained
    done = cluster.command("workers", "drain", "lab-*")
    assert (done.stdout, done.returncode) == ("lab-1: takes no more tasks, and ends (1 task of it runs)\n", 0)
    until(lambda: shown(cluster)["lab-1"].state == "draining", "the worker to drain")

    # Then it finishes the first task, takes not the second, and ends well
    late = cluster.command("workers", "drain", "lab-1", "--wait", "--timeout", "0.1")
    assert (late.returncode, "lab-1" in late.stderr) == (124, True), late
    gate.touch()
    assert cluster.command("workers", "drain", "lab-1", "--wait").returncode in (0, 65)  # it may be gone already
    assert worker.ended() == 0, worker.output()
    assert "an operator orders this worker to finish its running tasks, and end" in worker.output()
    assert not started(marks, "second")
    cluster.worker("--name", "lab-2", slots=1)
    assert producer.values(batch) == ["first", "second"]


def test_worker_that_stays_takes_tasks_again_when_resumed(cluster: Cluster, tmp_path: Path) -> None:
    # Given a worker that is drained to stay
    producer = Producer(cluster.service())
    worker = cluster.worker("--name", "lab-1")
    cluster.command("workers", "drain", "--stay", "lab-1", "--wait")
    assert shown(cluster)["lab-1"].state == "drained"
    batch = producer.submit("square", [(3,), (4,)])

    # When the coordinator is killed meanwhile, Then it is still drained
    task = cluster.service().task(batch, 0)
    assert task.reason == "every worker that serves the queue 'default' is draining or has no slot ready"
    coordinator = next(process for process in cluster._processes if process.name.startswith("coordinator"))
    coordinator.kill()
    cluster.coordinator()
    until(lambda: shown(cluster).get("lab-1"), "the worker to be back")
    assert shown(cluster)["lab-1"].state == "drained"

    # When it is resumed, Then it works
    done = cluster.command("workers", "resume", "--all")
    assert done.stdout == "lab-1: takes tasks\n"
    assert Producer(cluster.service()).service.follow([batch]) == []
    until(lambda: cluster.service().batch(batch).counts.succeeded == 2, "the tasks to be done")
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0


def test_stopped_worker_gives_its_tasks_back_unblamed(cluster: Cluster, tmp_path: Path) -> None:
    # Given a worker that runs a task for ever, and drains
    producer = Producer(cluster.service())
    worker = cluster.worker("--name", "lab-1", slots=1)
    batch = producer.submit("spin", [(str(tmp_path), "spins")])
    until(lambda: started(tmp_path, "spins"), "the task to run")
    cluster.command("workers", "drain", "lab-1")

    # When it is stopped, Then it ends well, and the task waits again
    done = cluster.command("workers", "stop", "lab-1", "--json")
    assert json.loads(done.stdout)["workers"] == [{"name": "lab-1", "order": "stop", "busy": 1}]
    assert worker.ended() == 0, worker.output()
    view = until(
        lambda: (task := cluster.service().task(batch, 0)).state.value == "pending" and task, "the task to wait"
    )
    assert (view.failures, view.crashes) == (0, 0)
    until(lambda: not shown(cluster), "the worker to be forgotten")
    assert cluster.command("workers", "stop", "lab-1").returncode == 65
    assert cluster.command("workers", "list").stderr == "no workers.\n"
