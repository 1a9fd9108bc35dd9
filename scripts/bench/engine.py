"""How fast does an engine commit, and how long does a restart take?

Two shapes of commit, as the coordinator makes them under load: *map* (a large batch runs: a few batch rows, 30 leases
that come and 30 that go, 30 pages of 100 results) and *single* (500 one-task submissions a commit, each of which
finishes two commits later). *values* are ten results of 100 kB each, written to segments and committed, beside a loop
that writes as much to a file and syncs it. Then the restart of a store with a million one-task batches. Rows are made
before the clock starts, so the figures are the engine's own; ``--busy`` adds threads that call each other over sockets
meanwhile, as a coordinator's do.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dtq.core.changes import ArgumentPage, BatchRow, Change, LeaseEnded, LeaseRow, ResultPage, SpecRow, Stored, Totals
from dtq.engines.base import Engine
from dtq.engines.memory import MemoryEngine
from dtq.engines.sqlite import Durability, SqliteEngine
from dtq.model import pages
from dtq.model.options import Function, Options, Spec
from dtq.model.values import describe
from dtq.values.local import LocalValues

SESSION = "0123456789abcdef" * 2
SPEC = Stored(SpecRow(number=1, spec=Spec(function=Function(name="work:task"), options=Options())))
BLOB = os.urandom(30)
ARGUMENTS = pages.pack([BLOB])
RESULTS = pages.pack([BLOB] * 100)


def batch(number: int, size: int = 1, next_: int = 0, finished_at: float | None = None) -> Stored:
    done = next_ if finished_at is not None else 0
    return Stored(
        BatchRow(
            batch=number, spec=1, size=size, complete=True, next=next_, cut=None, due_at=None, submitted_at=1.7e9,
            finished_at=finished_at, succeeded=done, dead=0, cancelled=0, purged=0, key=f"{SESSION}/{number}",
            user_key=False, session=SESSION,
        )
    )  # fmt: skip


def lease(token: int, number: int, lo: int, hi: int) -> Stored:
    return Stored(
        LeaseRow(
            token=token, session=SESSION, worker="worker-1", batch=number, lo=lo, hi=hi, attempt=1, granted_at=1.7e9
        )
    )


def results(number: int, lo: int, hi: int, data: bytes, moment: float) -> Stored:
    return Stored(ResultPage(batch=number, lo=lo, hi=hi, data=data, worker="worker-1", ended_at=moment))


def map_commits(count: int) -> Iterator[list[Change]]:
    token = 0
    for step in range(count):
        changes: list[Change] = [batch(1, 10**7, token * 100), batch(2, 10**7, 0)]
        for _ in range(30):
            token += 1
            changes.append(lease(token, 1, token * 100, token * 100 + 100))
            changes.append(LeaseEnded(token - 30))
            changes.append(results(1, token * 100, token * 100 + 100, RESULTS, 1.7e9 + step))
        changes.append(Stored(Totals(last_batch=2, submitted=2 * 10**7, succeeded=token * 100)))
        yield changes


def single_commits(count: int, first: int = 3) -> Iterator[list[Change]]:
    for step in range(count):
        lo = first + step * 500
        changes: list[Change] = []
        for number in range(lo, lo + 500):
            changes.append(batch(number))
            changes.append(Stored(ArgumentPage(batch=number, lo=0, hi=1, data=ARGUMENTS)))
        for number in range(lo - 500, lo) if step else ():
            changes.append(batch(number, next_=1))
            changes.append(lease(number, number, 0, 1))
        for number in range(lo - 1000, lo - 500) if step > 1 else ():
            changes.append(batch(number, next_=1, finished_at=1.7e9 + number))
            changes.append(results(number, 0, 1, ARGUMENTS, 1.7e9 + number))
            changes.append(LeaseEnded(number))
        changes.append(Stored(Totals(last_batch=lo + 499, submitted=lo + 499)))
        yield changes


def commit_all(engine: Engine, commits: list[list[Change]]) -> dict[str, float]:
    taken = []
    cpu = time.thread_time()
    for changes in commits:
        start = time.perf_counter()
        engine.commit(changes)
        taken.append(time.perf_counter() - start)
    rows = sum(map(len, commits))
    spent = sum(taken)
    return {
        "commits_s": len(taken) / spent,
        "rows_s": rows / spent,
        "median_ms": statistics.median(taken) * 1e3,
        "p99_ms": sorted(taken)[int(len(taken) * 0.99)] * 1e3,
        "max_ms": max(taken) * 1e3,
        "thread_cpu_us_row": (time.thread_time() - cpu) / rows * 1e6,
    }


def large_values(engine: Engine, directory: Path, count: int, *, sync: bool) -> dict[str, float]:
    """Commits of ten values of 100 kB each; and a file with as much, synced after each ten, in turn."""
    place = engine.place
    assert place is not None
    writer = LocalValues(place)
    data = b"x" + os.urandom(99_999)
    ours, plain = [], []
    with open(directory / "plain", "wb", buffering=0) as file:
        for step in range(count):
            start = time.perf_counter()
            for _ in range(10):
                file.write(data)
            if sync:
                os.fdatasync(file.fileno())
            between = time.perf_counter()
            written = []
            for _ in range(10):
                draft = writer.draft()
                draft.write(data)
                written.append(draft.finish())
            page = pages.pack([describe([value]) for value in written], described=True)
            engine.commit([batch(1, 10**7, 0), results(1, 10 * step, 10 * step + 10, page, 1.7e9)])
            writer.settled(written)
            ours.append(time.perf_counter() - between)
            plain.append(between - start)
    writer.close()
    mb = 1e6 * count / 1e6
    return {
        "values_s": 10 * count / sum(ours),
        "mb_s": mb / sum(ours),
        "plain_mb_s": mb / sum(plain),
        "median_ms": statistics.median(ours) * 1e3,
        "plain_median_ms": statistics.median(plain) * 1e3,
    }


def pending(engine: Engine, count: int) -> None:
    """Submissions that nobody has run yet."""
    for lo in range(1, count + 1, 1000):
        changes: list[Change] = [SPEC]
        for number in range(lo, min(lo + 1000, count + 1)):
            changes.append(batch(number))
            changes.append(Stored(ArgumentPage(batch=number, lo=0, hi=1, data=ARGUMENTS)))
        engine.commit(changes)


def restart(path: Path, durability: Durability, count: int) -> dict[str, float]:
    engine = SqliteEngine(path, durability=durability)
    engine.open()
    start = time.perf_counter()
    pending(engine, count)
    filled = time.perf_counter() - start
    engine.close()
    engine = SqliteEngine(path, durability=durability)
    start = time.perf_counter()
    engine.open()
    opened = time.perf_counter()
    rows = sum(1 for _ in engine.restore())
    restored = time.perf_counter()
    engine.close()
    assert rows == count + 1, rows
    return {
        "batches": count,
        "fill_s": filled,
        "open_s": opened - start,
        "restore_s": restored - opened,
        "total_s": restored - start,
        "file_mb": path.stat().st_size / 1e6,
    }


def ping(stop: threading.Event) -> None:
    here, there = socket.socketpair()

    def answer() -> None:
        while message := there.recv(100):
            there.send(message)

    threading.Thread(target=answer, daemon=True).start()
    while not stop.is_set():
        here.send(b"x")
        for _ in range(1500):  # about 50 us of Python
            pass
        here.recv(100)
    here.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small iteration")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--busy", type=int, default=0, metavar="THREADS", help="threads that keep the interpreter busy")
    parser.add_argument("--directory", type=Path, help="where to put the store (default: a temporary directory)")
    options = parser.parse_args()
    map_count, single_count, value_count, waiting = (20, 5, 5, 5000) if options.quick else (2000, 400, 300, 1_000_000)
    stop = threading.Event()
    for _ in range(options.busy):
        threading.Thread(target=ping, args=(stop,), daemon=True).start()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    kinds: tuple[tuple[str, Durability | None], ...] = (("fsync", "fsync"), ("os", "os"), ("memory", None))
    for name, durability in kinds:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            path = Path(directory) / "bench.db"
            engine: Engine = MemoryEngine() if durability is None else SqliteEngine(path, durability=durability)
            engine.open()
            engine.commit([SPEC, batch(1, 10**7), batch(2, 10**7)])
            figures[name] = {
                "map": commit_all(engine, list(map_commits(map_count))),
                "single": commit_all(engine, list(single_commits(single_count))),
                "values": large_values(engine, Path(directory), value_count, sync=durability == "fsync"),
            }
            engine.close()
            if durability is not None and not options.busy:
                figures[name]["restart"] = restart(Path(directory) / "restart.db", durability, waiting)
    stop.set()
    if options.json:
        print(json.dumps(figures))
        return
    for name, shapes in figures.items():
        for shape, values in shapes.items():
            print(f"{name:7}{shape:8}", "  ".join(f"{what} {value:,.2f}" for what, value in values.items()))


if __name__ == "__main__":
    main()
