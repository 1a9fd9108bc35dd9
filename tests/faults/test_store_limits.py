"""Rows 43, 44, 46 and 47 of the catalogue of faults: a store that is gone or wrong, in use, slow, or has grown."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dtq.core.restoring import restore
from dtq.engines.schema import SCHEMA
from dtq.engines.sqlite import SqliteEngine
from dtq.model.messages import Exchange, Hello, Role
from dtq.transport.proxy import Proxy
from tests.cluster import DEADLINE_S, Cluster
from tests.driver import Driver
from tests.faults import shim
from tests.integration.store_scene import contents
from tests.producer import Producer

ALL = "DTQ_FAULTS_ALL" in os.environ


def remove(store: Path) -> None:
    store.unlink()


def replace_with_text(store: Path) -> None:
    store.write_bytes(b"notes of mine, not a queue\n" * 400)


def make_newer(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA user_version = 9")


@pytest.mark.parametrize(
    ("spoil", "sentence", "code"),
    [
        (remove, "is gone", 74),
        (replace_with_text, "it is not a database", 74),
        (make_newer, f"has schema 9, this dtq knows up to {SCHEMA}. Install the newer dtq; the file", 78),
    ],
)
def test_store_that_is_gone_or_wrong_is_refused_and_not_touched(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str, code: int
) -> None:
    """Row 43: store deleted or of a wrong version while the coordinator was down: an error, and nothing overwritten."""
    with Cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator()
        Producer(cluster.service()).submit("add", [(1, 2)] * 10)
        coordinator.signal(signal.SIGTERM)
        assert coordinator.ended() == 0
        store = tmp_path / "queue.db"
        spoil(store)
        before = contents(store)

        again = cluster.run("again", ["coordinator", "start", "--port", str(cluster.port), "--db", str(store)])

        assert again.ended() == code
        assert sentence in again.output()
        assert contents(store) == before


def test_second_coordinator_of_a_store_is_refused(tmp_path: Path) -> None:
    """Row 44: two coordinators on one store: the second ends with an error that names the first, which goes on."""
    with Cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator()
        producer = Producer(cluster.service())
        batch = producer.submit("add", [(1, 2)] * 10)

        second = cluster.run("second", ["coordinator", "start", "--port", "0", "--db", str(tmp_path / "queue.db")])

        assert second.ended() == 73
        assert f"in use by another coordinator (pid {coordinator.pid})" in second.output()
        cluster.worker()
        assert producer.values(batch) == [3] * 10


def test_slow_disk_delays_acknowledgements_and_no_heartbeat(tmp_path: Path) -> None:
    """Row 46: each sync takes half a second: back-pressure, heartbeats are answered meanwhile, nothing runs twice."""
    store = tmp_path / "queue.db"
    engine = SqliteEngine(store)
    engine.open()  # making it takes many syncs
    engine.close()
    with Cluster(tmp_path, within=shim.within(store, sync_ms=500)) as cluster:
        cluster.coordinator("--lease", "1s")
        producer = Producer(cluster.service())
        hello = Hello(session=os.urandom(16).hex(), role=Role.WORKER, name="heart", slots=1, primary=True)
        heart = Proxy([("127.0.0.1", cluster.port)], cluster.key_file.read_bytes().strip(), hello)
        heart.connect()
        # Given a submission on its way to the disk
        acknowledged = threading.Event()

        def submit() -> None:
            producer.submit("nap", [(1.5,), (0.1,), (0.1,)])
            acknowledged.set()

        submitting = threading.Thread(target=submit)
        submitting.start()
        # When a worker's heart beats meanwhile, then it is answered, again and again
        beats = 0
        while not acknowledged.is_set():
            heart.exchange(Exchange(capacity=0))
            beats += 1
            time.sleep(0.01)
        submitting.join(DEADLINE_S)
        heart.close()
        assert beats >= 5
        # and work that takes longer than a lease is done once.
        cluster.worker(slots=2)
        (batch,) = producer.acknowledged
        assert producer.values(batch) == [1.5, 0.1, 0.1]
        stats = producer.service.stats()
        assert (stats.retries, stats.refused) == (0, 0)


def test_store_does_not_grow_with_what_went_through_it(tmp_path: Path) -> None:
    """Row 47: 10^6 tasks through the queue (3 * 10^5 by default): the file stays in proportion to what is live."""
    # Given a store that keeps what ended in its last 20 s, at a second a batch
    driver = Driver(keep_results_s=20.0)
    path = tmp_path / "dtq.db"
    half = 500 if ALL else 150
    size_s = []
    driver.attach("worker", 4)
    for _ in range(2):
        engine = SqliteEngine(path, durability="os")
        engine.open()
        driver.store = engine  # type: ignore[assignment]  # in place of the memory
        for _ in range(half):
            number = driver.submit(1000)
            while driver.is_live(number):
                for lease in driver.lease("worker"):
                    driver.succeed(lease, lease.hi - lease.lo, seconds=0.000_01 * (lease.hi - lease.lo))
                driver.drain()
            driver.tick(1.0)
            driver.drain()
        assert Path(f"{path}-wal").stat().st_size < 64 * 2**20
        engine.close()
        size_s.append(path.stat().st_size)
    # Then twice as many have left no larger file
    assert driver.machine.queue_state.submitted == 2000 * half
    print(f"after {half},000 tasks {size_s[0] / 1e6:.1f} MB, after {2 * half},000 {size_s[1] / 1e6:.1f} MB")
    assert size_s[1] < 1.5 * size_s[0]

    # And a queue of 10^5 is restored soon.
    engine.open()
    for _ in range(100):
        driver.submit(1000)
        driver.drain()
    engine.close()
    again = SqliteEngine(path, durability="os")
    start = time.monotonic()
    opened = again.open()
    machine = restore(opened.epoch, driver.rules, opened.totals, again.restore(), driver.now)
    took_s = time.monotonic() - start
    again.close()
    assert machine.queue_state.tally.unfinished == 100_000
    assert opened.losses == ()
    print(f"restored in {took_s:.2f} s")
    assert took_s < 5.0
