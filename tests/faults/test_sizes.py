"""Honest data of every size: whatever gathers, no message is too large, no worker ends, and each result is right."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.model import pages
from dtq.model.messages import Exchange, Role, Succeeded
from dtq.model.states import State
from tests.cluster import Cluster, Process, until
from tests.producer import Producer

#: Largest message, in bytes: small, so that little is too much.
LIMIT = 256 << 10


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator("--max-message", str(LIMIT), "--lease", "2s")
        yield cluster


@pytest.fixture
def producer(cluster: Cluster) -> Producer:
    return Producer(cluster.service())


def submit(producer: Producer, function: str, calls: list[tuple[object, ...]], each: int) -> list[int]:
    """In as many batches as messages carry, of about so many bytes a call."""
    some = max(1, LIMIT // 2 // each)
    return [producer.submit(function, calls[at : at + some]) for at in range(0, len(calls), some)]


def live(*workers: Process) -> bool:
    return all(worker.popen.poll() is None for worker in workers)


def values(producer: Producer, batches: list[int]) -> list[object]:
    return [value for batch in batches for value in producer.values(batch)]


def test_many_medium_arguments_and_results_are_worked_off_by_workers_that_join_one_by_one(
    cluster: Cluster, producer: Producer
) -> None:
    """6,000 times 20 kB with a limit of 16 MiB, in small: what waits is many times what a message holds."""
    # Given
    calls: list[tuple[object, ...]] = [(bytes([n % 256]) * 8_000, 8_000) for n in range(400)]
    batches = submit(producer, "grown", calls, 8_000)

    # When workers join, one after the other
    first = cluster.worker(slots=2)
    until(lambda: producer.service.stats().counts.succeeded, "the first results")
    second = cluster.worker(slots=2)

    # Then
    assert values(producer, batches) == [data for data, _ in calls]
    assert live(first, second)
    seen = producer.service.stats()
    assert (seen.retries, seen.refused) == (0, 0)


def test_arguments_and_results_near_the_limit_travel_one_by_one(cluster: Cluster, producer: Producer) -> None:
    """12 times 9 MiB, in small."""
    calls: list[tuple[object, ...]] = [(bytes([n]) * 180_000, 180_000) for n in range(12)]
    batches = submit(producer, "grown", calls, LIMIT)
    worker = cluster.worker(slots=2)

    assert values(producer, batches) == [data for data, _ in calls]
    assert live(worker)
    assert producer.service.stats().retries == 0


def test_small_arguments_with_large_results_among_small_ones_arrive(cluster: Cluster, producer: Producer) -> None:
    """Results of every size, of tasks that are known to be tiny."""
    sizes = [150_000 if n % 40 == 0 else n for n in range(400)]
    batch = producer.submit("grown", [(b"x", size) for size in sizes])
    worker = cluster.worker(slots=2)

    assert [len(value) for value in producer.values(batch)] == sizes
    assert live(worker)
    assert producer.service.stats().retries == 0


def test_failures_that_say_much_are_reported_and_listed(cluster: Cluster, producer: Producer) -> None:
    """1,000 failures with messages of 100 kB, in small."""
    batch = producer.submit("fail_at_length", [(f"number {n}", 100_000) for n in range(100)], max_retries=0)
    worker = cluster.worker(slots=2)

    ended = producer.finish(batch)

    assert {index: e.state for index, e in ended.items()} == dict.fromkeys(range(100), State.DEAD)
    failures = [e.failure for e in ended.values()]
    assert all(f is not None and f.message.startswith(f"number {n} xxx") for n, f in enumerate(failures))
    assert live(worker)


def test_results_that_waited_for_a_stopped_coordinator_arrive(tmp_path: Path) -> None:
    # Given a worker whose slots have made more than a message holds while nobody answered
    with Cluster(tmp_path, memory=True) as cluster:
        coordinator = cluster.coordinator("--max-message", str(LIMIT))
        producer = Producer(cluster.service())
        marks, gate = tmp_path / "marks", tmp_path / "gate"
        marks.mkdir()
        worker = cluster.worker(slots=4)
        held = producer.submit("until_file", [(str(marks), f"{n}", str(gate)) for n in range(4)])
        until(lambda: len(list(marks.iterdir())) == 4, "all slots to be busy")
        made = [producer.submit("grown", [(b"%d" % n, 150_000)]) for n in range(4)]
        coordinator.signal(signal.SIGSTOP)
        gate.touch()
        # When it goes on
        coordinator.signal(signal.SIGCONT)
        # Then
        assert values(producer, [held, *made]) == ["0", "1", "2", "3", *[b"%d" % n * 150_000 for n in range(4)]]
        assert live(worker)


def test_result_that_may_not_be_so_large_any_more_fails_its_own_task(tmp_path: Path) -> None:
    """A coordinator that was started again with a lower limit, while a task made what was allowed before."""
    with Cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator()
        producer = Producer(cluster.service())
        marks, gate = tmp_path / "marks", tmp_path / "gate"
        marks.mkdir()
        worker = cluster.worker(slots=1)
        batch = producer.submit("until_file_grown", [(str(marks), str(gate), 500_000)], max_retries=0)
        until(lambda: list(marks.iterdir()), "the task to start")
        # When
        coordinator.kill()
        cluster.coordinator("--max-value", str(LIMIT))
        gate.touch()
        # Then it fails with the reason, and the worker takes the next one
        (ended,) = producer.finish(batch).values()
        assert ended.failure is not None
        assert ended.failure.exception == "dtq.errors.TooLarge"
        assert producer.values(producer.submit("echo", [(1,)])) == [1]
        assert live(worker)


def worked_by_hand(cluster: Cluster, results: list[bytes]) -> None:
    """Lease one task after the other, and report these results of them."""
    service = cluster.service(Role.WORKER, slots=1, primary=True)
    for result in results:
        (grant,) = service.exchange(Exchange(capacity=1, fetch=True, wait_s=10)).grants
        done = Succeeded(token=grant.token, lo=grant.lo, results=pages.pack([result]), seconds=1)
        service.exchange(Exchange(capacity=1, succeeded=(done,)))
    service.close()


def test_what_was_stored_while_messages_could_be_larger_fails_alone(tmp_path: Path) -> None:
    """kestra#16642: what no message can carry any more is told so, and waits for nothing in no state."""
    with Cluster(tmp_path) as cluster:
        # Given a large argument that waits, and a large result beside a small one, in messages
        coordinator = cluster.coordinator("--max-message", "2MiB")
        producer = Producer(cluster.service())
        done = producer.submit("grown", [(b"a", 10), (b"b", 500_000), (b"c", 10)])
        worked_by_hand(cluster, [b"a", b"b" * 500_000, b"c"])
        producer.finish(done)
        waiting = producer.submit("grown", [(b"a", 1), (b"b" * 500_000, 1), (b"c", 1)], max_retries=0)
        coordinator.kill()
        # When the coordinator is started again with a lower limit
        cluster.coordinator("--max-message", str(LIMIT))
        worker = cluster.worker(slots=1)
        # Then
        ended = producer.finish(waiting)
        assert [ended[index].state for index in range(3)] == [State.SUCCEEDED, State.DEAD, State.SUCCEEDED]
        told = [ended[1].failure, producer.ended(done)[1].failure]
        assert [failure.exception for failure in told if failure is not None] == ["dtq.errors.TooLarge"] * 2
        assert [bool(producer.ended(done)[index].results) for index in range(3)] == [True, False, True]
        assert live(worker)
