"""Large arguments and results between real processes: by files on one machine, and by calls where these are off."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import dtq
from dtq.model.states import Outcome, State
from dtq.model.values import is_description, named
from tests.cluster import Cluster, Process, until
from tests.tasks import value_work
from tests.value_producer import ValueProducer

#: More than travels in pages over the wire.
MB = 1_100_000


class Scene:
    """A coordinator, and workers that have values one way or the other."""

    def __init__(self, cluster: Cluster, by_reference: bool) -> None:
        self.cluster = cluster
        self.by_reference = by_reference
        self.temporary = cluster.directory / "tmp"
        self.temporary.mkdir()
        self.coordinator = cluster.coordinator("--lease", "2s")
        self.producer = ValueProducer(cluster)

    def worker(self, *words: str, slots: int = 2) -> Process:
        words = (*words, "--by-reference" if self.by_reference else "--no-by-reference")
        before = self.cluster.environment
        self.cluster.environment = {**before, "TMPDIR": str(self.temporary)}
        try:
            return self.cluster.worker(*words, slots=slots)
        finally:
            self.cluster.environment = before

    @property
    def own(self) -> list[Path]:
        """The directories of workers."""
        return list(self.temporary.glob("dtq-values-*"))

    def copies(self) -> list[Path]:
        """What workers keep of arguments."""
        return [path for own in self.own for path in (own / "copies").iterdir()]


@pytest.fixture(params=[True, False], ids=["by reference", "by wire"], scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """With a worker of two slots, for all tests that neither end it nor its coordinator."""
    with Cluster(tmp_path_factory.mktemp("shared")) as cluster:
        scene = Scene(cluster, request.param)
        scene.worker()
        yield scene


@pytest.fixture(params=[True, False], ids=["by reference", "by wire"])
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with Cluster(tmp_path) as cluster:
        yield Scene(cluster, request.param)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Scene]:
    """Workers that cannot reach the coordinator's files."""
    with Cluster(tmp_path) as cluster:
        yield Scene(cluster, False)


def test_large_calls_and_results_come_back(shared: Scene) -> None:
    # Given a worker
    producer = shared.producer
    arrays = [np.arange(count) for count in (10, 20_000, 700_000)]
    whats: list[Any] = [b"x" * 100_000, *arrays, {"a": b"y" * 3 * MB, "b": arrays}, None, "z" * 70_000]
    # When large and small ones go through it
    batch = producer.large("echo", [(what,) for what in whats])
    found = producer.values(batch)
    # Then they are what they were, and what is large is a value where it is kept
    for what, one in zip(whats, found, strict=True):
        assert repr(what) == repr(one)
    assert np.array_equal(found[3], arrays[2])
    kept = [is_description(blob) for blob in producer.blobs(batch)]
    assert kept == [True, False, True, True, True, False, True]
    # And a worker elsewhere has had them in a directory of its own
    assert len(shared.own) == (0 if shared.by_reference else 1)


def test_a_worker_that_ends_leaves_nothing(remote: Scene) -> None:
    worker = remote.worker()
    remote.producer.values(remote.producer.large("echo", [(b"x" * MB,)]))
    assert remote.own

    worker.signal(signal.SIGTERM)

    assert worker.ended() == 0
    assert not remote.own


def test_what_a_killed_worker_leaves_goes_with_the_next(remote: Scene) -> None:
    worker = remote.worker()
    remote.producer.values(remote.producer.large("echo", [(b"x" * MB,)]))
    (left,) = remote.own
    worker.kill()

    remote.worker()
    assert remote.producer.values(remote.producer.large("echo", [(b"y" * MB,)])) == [b"y" * MB]
    assert left not in remote.own


def test_a_value_is_fetched_once_and_what_is_too_much_goes(remote: Scene) -> None:
    # Given a worker that keeps 5 MB
    remote.worker("--value-cache", "5MB", slots=1)
    producer = remote.producer
    # When it needs more than that, one after the other, and one that is larger
    for fill in range(4):
        assert producer.values(producer.large("echo", [(bytes([fill]) * 2 * MB,)])) == [bytes([fill]) * 2 * MB]
    assert producer.values(producer.large("total_and_write", [(np.ones(MB),)])) == [MB]
    # Then all is done, and no more is kept than it may
    until(lambda: sum(path.stat().st_size for path in remote.copies()) <= 5_100_000, "copies to go")


def test_results_do_not_stay_at_the_worker(remote: Scene) -> None:
    """A segment of results goes when it is full, and acknowledged."""
    remote.worker(slots=1)
    producer = remote.producer
    for _ in range(2):
        producer.values(producer.large("much", [(70 * MB,)]))

    def removed() -> bool:
        return not [path for own in remote.own for path in (own / "results").iterdir()]

    until(removed, "segments to go", lambda: list(remote.own[0].rglob("*")))


def test_a_slot_killed_at_any_time_costs_no_more_than_its_task(shared: Scene) -> None:
    producer = shared.producer

    for how in ("exit", "kill"):
        (ended,) = producer.finish(producer.large("end_in_the_middle", [(MB, how)], max_crashes=1)).values()
        assert ended.outcome is Outcome.CRASHED
    assert producer.values(producer.large("much", [(MB,)])) == [b"\7" * MB]


def test_killed_workers_tasks_run_elsewhere(scene: Scene, tmp_path: Path) -> None:
    # Given a worker with a large task under way
    worker = scene.worker(slots=1)
    producer = scene.producer
    data = b"x" * (10 * MB)
    batch = producer.large("echo_when", [(data, str(tmp_path / "go"))])
    until(lambda: producer.counts(batch).running, "it to be leased")
    # When the worker is killed, and there is another
    worker.kill()
    (tmp_path / "go").touch()
    scene.worker(slots=1)
    # Then it runs there
    assert producer.values(batch) == [data]


@pytest.mark.parametrize("size", [100_000, 10 * MB])
def test_killed_coordinator_gets_results_when_it_is_back(scene: Scene, tmp_path: Path, size: int) -> None:
    """It is killed while a task runs, while its result is made, and while it is on its way."""
    scene.worker(slots=2)
    producer = scene.producer
    batch = producer.large("much_when", [(size, fill, str(tmp_path / "go")) for fill in range(2)])
    until(lambda: producer.counts(batch).running == 2, "both to run")
    scene.coordinator.kill()
    (tmp_path / "go").touch()
    second = scene.cluster.coordinator("--lease", "2s")
    until(lambda: list(Path(producer.place.paths[0]).glob("*.values")), "something to arrive")
    second.kill()
    scene.cluster.coordinator("--lease", "2s")
    # Then both are there, and each ran once
    assert producer.values(batch) == [bytes([fill]) * size for fill in range(2)]
    assert not producer.service.task(batch, 0).history


@pytest.mark.parametrize("by_reference", [True, False], ids=["by reference", "by wire"])
def test_a_worker_goes_on_with_a_coordinator_that_keeps_values_elsewhere(tmp_path: Path, by_reference: bool) -> None:
    """One that keeps nothing has directories of its own each time."""
    with Cluster(tmp_path, memory=True) as cluster:
        scene = Scene(cluster, by_reference)
        scene.worker()
        producer = scene.producer
        running = producer.large("much_when", [(MB, 1, str(tmp_path / "go"))])
        assert producer.values(producer.large("echo", [(b"x" * MB,)])) == [b"x" * MB]
        until(lambda: producer.counts(running).running, "it to run")
        # When it is killed, and there is another
        scene.coordinator.kill()
        cluster.coordinator("--lease", "2s")
        (tmp_path / "go").touch()
        # Then the same worker goes on
        after = ValueProducer(cluster)
        assert after.place != producer.place
        for _ in range(4):
            assert after.values(after.large("echo", [(b"y" * MB,)])) == [b"y" * MB]
        assert not after.service.stats().retries


def test_a_large_function_by_value_runs_wherever_its_worker_is(shared: Scene) -> None:
    # Given a worker, and a function with an array in it
    cluster = shared.cluster
    with dtq.Client(cluster.address, authkey_file=cluster.key_file) as client:
        function = functools.partial(value_work.total_with, np.ones(40_000))
        # When it is called, Then it has that
        assert list(client.map(function, range(5))) == [40_000 + n for n in range(5)]


def test_an_argument_that_is_gone_fails_its_task_alone(remote: Scene) -> None:
    # Given calls of which one has lost its value, before a worker is there
    producer = remote.producer
    batch = producer.large("echo", [(b"a" * MB,)], max_retries=0)
    other = producer.large("echo", [(b"b" * 70 * MB,)], max_retries=0)
    third = producer.large("echo", [(b"c" * MB,)], max_retries=0)
    files = sorted(Path(producer.place.paths[0]).glob("*.values"), key=lambda path: path.stat().st_size)
    large = files[-1]
    small = [path for path in files if path != large]
    assert small
    large.unlink()
    # When they run
    remote.worker()
    # Then the others are done
    (ended,) = producer.finish(other).values()
    assert ended.state is State.DEAD
    assert ended.failure is not None
    assert ended.failure.exception == "dtq.errors.ValueGone"
    ended_states = {batch: producer.finish(batch)[0].state, third: producer.finish(third)[0].state}
    assert State.SUCCEEDED in ended_states.values()


def test_nothing_else_waits_while_values_travel(remote: Scene, tmp_path: Path) -> None:
    """Time limits, cancels, heartbeats and small tasks, while 40 MB go there and 40 MB come back."""
    # Given a worker with large values under way in both directions
    remote.worker(slots=4)
    producer = remote.producer
    large = producer.large("echo", [(b"x" * (20 * MB),) for _ in range(2)])
    # When small tasks run beside them
    small = [producer.submit("add", [(n, 1)]) for n in range(20)]
    spinning = producer.submit("nap", [(60.0,)], timeout_s=0.3, max_retries=0)
    for n, batch in enumerate(small):
        assert producer.values(batch) == [n + 1]
    (ended,) = producer.finish(spinning).values()
    assert ended.outcome is Outcome.TIMED_OUT
    # Then they are done, whatever the large ones are at; these come whole, and no lease was lost
    assert producer.values(large) == [b"x" * (20 * MB)] * 2
    stats = producer.service.stats()
    assert stats.retries == 0
    assert not producer.service.task(large, 0).history


def test_a_worker_that_is_told_twice_to_end_waits_for_no_upload(remote: Scene, tmp_path: Path) -> None:
    # Given a coordinator that is away while a large result waits to be sent
    worker = remote.worker(slots=1)
    producer = remote.producer
    batch = producer.large("much_when", [(20 * MB, 1, str(tmp_path / "go"))])
    until(lambda: producer.counts(batch).running, "it to run")
    os.kill(remote.coordinator.pid, signal.SIGSTOP)
    (tmp_path / "go").touch()

    def written() -> bool:
        found = [path for own in remote.own for path in (own / "results").iterdir()]
        return any(path.stat().st_size >= 20 * MB for path in found)

    until(written, "the result")
    worker.signal(signal.SIGTERM)
    worker.await_line("finishing running tasks")
    worker.signal(signal.SIGTERM)
    worker.await_line("giving running tasks back")
    os.kill(remote.coordinator.pid, signal.SIGCONT)
    # Then it ends, and another one does it
    assert worker.ended() == 0
    remote.worker(slots=1)
    assert producer.values(batch) == [b"\1" * 20 * MB]


def test_memory_of_a_worker_does_not_grow_with_its_values(remote: Scene) -> None:
    worker = remote.worker(slots=1)
    producer = remote.producer
    producer.values(producer.large("echo", [(b"x" * MB,)]))
    before = psutil.Process(worker.pid).memory_info().rss

    producer.values(producer.large("echo", [(b"y" * (50 * MB),)]))

    with open(f"/proc/{worker.pid}/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    assert peak - before < 20 * MB


def test_results_of_others_cannot_be_had(shared: Scene) -> None:
    """A task that removes or lies about what is in the directory ends as its own outcome; others are as they were."""
    producer = shared.producer
    for what in ("nowhere", "too long", "huge"):
        (ended,) = producer.finish(producer.large("lie", [(MB, what)], max_crashes=1, max_retries=0)).values()
        assert ended.state is State.DEAD
        assert producer.values(producer.large("much", [(MB,)])) == [b"\7" * MB]


def test_a_task_that_removes_what_it_finds_harms_no_worker(shared: Scene) -> None:
    producer = shared.producer
    producer.values(producer.large("much", [(MB,)]))
    directory = producer.place.paths[0] if shared.by_reference else str(shared.own[0] / "*")

    batch = producer.large("remove_segments", [(directory, MB)])

    assert producer.values(batch) == [b"\7" * MB]
    for _ in range(4):
        assert producer.values(producer.large("echo", [(b"x" * MB,)])) == [b"x" * MB]


def test_a_worker_killed_while_a_result_is_on_its_way_costs_another_run(remote: Scene) -> None:
    # Given a result of which something has arrived
    worker = remote.worker(slots=1)
    producer = remote.producer
    before = set(Path(producer.place.paths[0]).iterdir())
    batch = producer.large("much", [(30 * MB,)])

    def arriving() -> bool:
        return bool(set(Path(producer.place.paths[0]).iterdir()) - before)

    until(arriving, "something to arrive")
    # When its worker is killed, and there is another
    worker.kill()
    remote.worker(slots=1)
    # Then it comes whole
    assert producer.values(batch) == [b"\7" * 30 * MB]


def test_values_are_named_at_the_coordinator(shared: Scene) -> None:
    producer = shared.producer
    (blob,) = producer.blobs(producer.large("ones", [(MB,)]))
    (value,) = named(blob)
    assert value.trailer
    assert value.crc
    assert Path(producer.place.find(value.segment)).stat().st_size >= value.end
