"""Limits in real processes: a mutex stays one, whatever is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.model.limits import Limit
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.cluster import Cluster, until
from tests.producer import Producer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def test_mutex_holds_over_kills_of_the_coordinator_and_others_go_on(cluster: Cluster, tmp_path: Path) -> None:
    # Given a mutex, tasks that count against it, and four slots
    directory = tmp_path / "marks"
    directory.mkdir()
    coordinator = cluster.coordinator()
    for _ in range(2):
        cluster.worker(slots=2)
    producer = Producer(cluster.service())
    producer.service.set_limit(Limit(name="printer", concurrency=1))
    held = producer.submit("alone", [(str(directory), f"{n}", 0.05) for n in range(30)], limits=("printer",))
    free = producer.submit("nap", [(0.01,)] * 40)

    # When the coordinator is killed in the middle, twice
    for share in (8, 16):
        until(lambda share=share: len(list(directory.iterdir())) > share, "some of them to start")  # type: ignore[misc]  # bound now
        coordinator.kill()
        coordinator = cluster.coordinator()

    # Then never two of them were at work, and all that waits for nothing was done beside
    assert producer.values(free) == [0.01] * 40
    assert producer.values(held) == [True] * 30
    (view,) = producer.service.limits("")
    assert (view.running, view.waiting) == (0, 0)
    assert producer.service.tasks(Selection(state=State.RUNNING)) == []
