"""Rows 39 and 40 of the catalogue of faults: a store whose disk is full, or may not grow, under a real coordinator."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.errors import StoreError, StoreFull, StoreUnwritable
from tests.cluster import DEADLINE_S, Cluster, Process, until
from tests.faults import shim
from tests.faults.disks import SmallDisk, small_disk
from tests.integration.store_scene import ROOT
from tests.producer import Producer

#: Seconds within which work is accepted again once there is room; it is half a second, on a quiet machine.
RESUMES_S = 5.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 24) as disk:
        yield disk


def refused(producer: Producer) -> StoreError:
    """Submit until it is refused: the first few may find a place yet."""

    def refusal() -> StoreError | None:
        try:
            producer.submit("add", [(1, 2)] * 1000)
        except (StoreFull, StoreUnwritable) as error:
            return error
        return None

    return until(refusal, "a submission to be refused")


def refused_for_good(producer: Producer, disk: SmallDisk) -> StoreError:
    """Fill the disk, also with what the store's log gives back, until too little is left for any new work."""
    errors: list[StoreError] = []

    def full() -> bool:
        disk.fill()
        errors.append(refused(producer))
        return disk.free < 2**17

    until(full, "the disk to stay full", lambda: disk.free)
    return errors[-1]


def seconds_until_accepted(producer: Producer) -> float:
    start = time.monotonic()

    def accepted() -> bool:
        try:
            producer.submit("add", [(1, 2)])
        except (StoreFull, StoreUnwritable):
            return False
        return True

    until(accepted, "work to be accepted again")
    return time.monotonic() - start


def test_full_disk_refuses_new_work_and_records_what_was_accepted(disk: SmallDisk, tmp_path: Path) -> None:
    """Row 39: disk full. Nothing lost, the error names the disk, accepted work ends, service resumes by itself."""
    store = disk.place / "queue.db"
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    marks.mkdir()
    with Cluster(tmp_path, store=store, within=disk.within) as cluster:
        # Given work that was accepted, among it a task that outlasts its lease
        coordinator = cluster.coordinator("--lease", "2s")
        producer = Producer(cluster.service())
        long = producer.submit("until_file", [(str(marks), "long", str(gate))], priority=1)
        values = [f"{n:05000d}" for n in range(80)]
        batch = producer.submit("echo", [(value,) for value in values])
        lone = [producer.submit("square", [(n,)]) for n in range(100)]

        # When the disk is full
        error = refused_for_good(producer, disk)
        assert str(store) in str(error)
        assert "disk" in str(error)

        # Then what was accepted is done and recorded all the same
        cluster.worker(slots=2)
        until(lambda: list(marks.iterdir()), "the long task to start")
        accepted = {b: n for b, n in producer.acknowledged.items() if b not in (long, batch, *lone)}
        assert producer.values(batch) == values
        assert [producer.values(number) for number in lone] == [[n * n] for n in range(100)]
        for number, count in accepted.items():
            assert producer.values(number) == [3] * count

        # also over the death of the coordinator,
        disk.fill()
        coordinator.kill()
        coordinator = cluster.coordinator("--lease", "2s")
        until(lambda: len(producer.service.stats().workers) == 1, "the worker to be back")
        assert producer.values(batch) == values
        # while operators see why nothing new is accepted,
        refused_for_good(producer, disk)
        stats = producer.service.stats()
        assert stats.trouble == "store-full"
        assert "no new work is accepted (store-full)" in cluster.command("coordinator", "status").stderr
        assert stats.retries == 0

        # and when there is room it goes on by itself.
        disk.make_room()
        resumed_s = seconds_until_accepted(producer)
        print(f"accepted again after {resumed_s:.2f} s")
        assert resumed_s < RESUMES_S
        gate.touch()
        assert producer.values(long) == ["long"]
        assert len(list(marks.iterdir())) == 1
        for number in producer.acknowledged:
            producer.finish(number)
        stats = producer.service.stats()
        assert (stats.trouble, stats.losses, stats.counts.unfinished, stats.retries) == ("", (), 0, 0)
        coordinator.signal(signal.SIGTERM)
        assert coordinator.ended() == 0


def withheld(producer: Producer, batch: int) -> StoreError:
    """Ask for results until they are withheld: then all tasks have ended. None is told before."""

    def refusal() -> StoreError | None:
        try:
            told = producer.service.results(batch, 0, 50)
        except StoreError as error:
            return error
        assert not told, "a result is told that is not on disk"
        return None

    return until(refusal, "results to be withheld")


def wait_while_in_trouble(producer: Producer, trouble: str, seconds: float) -> None:
    """Let so much of the coordinator's time pass, in which it says what its trouble is."""
    deadline = time.monotonic() + DEADLINE_S
    started = producer.service.stats().now
    while (stats := producer.service.stats()).now < started + seconds:
        assert stats.trouble == trouble
        assert time.monotonic() < deadline
        time.sleep(0.05)  # time itself has to pass


def limit(process: Process, size: int) -> None:
    """Let a process have no file larger than so many bytes."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.parametrize("fault", ["file size limit", "I/O error"])
def test_store_that_cannot_be_written_loses_nothing_accepted(tmp_path: Path, fault: str) -> None:
    """Row 40: file size limit, I/O error. What is set aside does not help: outcomes wait until it can be written."""
    marks, gate, switch = tmp_path / "marks", tmp_path / "gate", tmp_path / "writes-fail"
    marks.mkdir()
    limited = fault == "file size limit"
    code = "store-full" if limited else "store-unwritable"
    within = [] if limited else shim.within(tmp_path / "queue.db", fail_when=switch)
    with Cluster(tmp_path, within=within) as cluster:
        # Given work that was accepted
        coordinator = cluster.coordinator("--lease", "1s")
        producer = Producer(cluster.service())
        long = producer.submit("until_file", [(str(marks), "long", str(gate))], priority=1)
        batch = producer.submit("echo", [(n,) for n in range(50)])
        # When its files cannot be written
        if limited:
            limit(coordinator, 40_000)
        else:
            switch.touch()
        error = refused(producer)
        assert error.code == code
        assert str(tmp_path / "queue.db") in str(error)
        assert "disk" in str(error)
        worker = cluster.worker(slots=2)
        # Then it is worked on, for longer than a lease, and nothing is told that is not on disk
        until(lambda: list(marks.iterdir()), "the long task to start")
        wait_while_in_trouble(producer, code, 1.5)
        assert "accepted work is safe" in str(withheld(producer, batch))
        # And when they can again, all of it is
        if limited:
            limit(coordinator, resource.RLIM_INFINITY)
        else:
            switch.unlink()
        assert seconds_until_accepted(producer) < RESUMES_S
        assert producer.values(batch) == list(range(50))
        gate.touch()
        assert producer.values(long) == ["long"]
        assert len(list(marks.iterdir())) == 1
        assert producer.service.stats().retries == 0
        worker.await_line("outcomes are recorded again")
        assert worker.output().count("outcomes cannot be recorded yet: the ") == 1
        assert "lost the coordinator" not in worker.output()
        assert worker.popen.poll() is None


def test_values_that_fill_the_disk_do_not_stop_accepted_work(disk: SmallDisk) -> None:
    """Values have no part of the reserve, and are gone from the disk as soon as nothing names them."""
    words = [*disk.within, sys.executable, "-m", "tests.integration.store_scene", "values", str(disk.place / "dtq.db")]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True)

    said = json.loads(done.stdout)

    assert said == {"values": said["values"], "recorded": True, "left": 0, "again": said["again"]}
    assert said["values"] > 20
    assert said["again"] > 0.8 * said["values"]  # the rest is what the small results take


def test_output_has_no_part_of_the_room_that_is_kept_for_the_ends_of_accepted_work(
    disk: SmallDisk, tmp_path: Path
) -> None:
    """Accepted tasks print more than a full disk's reserve holds: every outcome is recorded all the same."""
    with Cluster(tmp_path, store=disk.place / "queue.db", within=disk.within) as cluster:
        coordinator = cluster.coordinator()
        producer = Producer(cluster.service())
        # Given accepted tasks, and a disk that another program has filled
        batch = producer.submit("print_much", [(60_000,)] * 250)
        disk.fill()
        # When a worker runs them
        cluster.worker()
        # Then each has its result, and the last ones have no output
        assert producer.values(batch) == [60_000] * 250
        coordinator.await_line("for what tasks print: it is left out")
        assert producer.service.output(batch, 249, 0, 0, 0.0).data == b""
        # And with room again it is kept
        disk.make_room()
        assert seconds_until_accepted(producer) < RESUMES_S
        again = producer.submit("print_much", [(100,)])
        assert producer.values(again) == [100]
        assert len(producer.service.output(again, 0, 0, 0, 0.0).data) == 100
