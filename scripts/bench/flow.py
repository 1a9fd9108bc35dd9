"""What does it cost that tasks wait for one another?

``chain``: tasks of which each is given the result of the one before, with one slot: how many a second, durable and in
memory, of a client and of an executor. ``long``: a chain of 100,000: what it takes to submit, in the coordinator's
memory too; to restart in the middle of, killed; and to cancel, by its head. ``fan``: a million tasks, and a function
that is given all of their results, beside a plain map of as many.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import BENCH, Scene
from rig.work import noop

import dtq
from dtq import Client, TaskHandle

#: How often one looks, in seconds.
LOOK_S = 0.01


def chained(client: Client, length: int) -> TaskHandle[int]:
    """A chain; its last task."""
    last: TaskHandle[int] = client.submit(noop, 1)
    for _ in range(length - 1):
        last = client.submit(noop, last)
    return last


def run_chain(client: Client, length: int) -> int:
    chained(client, length).result()
    return length


def run_futures(executor: dtq.Executor, length: int) -> int:
    last: Any = executor.submit(noop, 1)  # a future stands for its result among the arguments
    for _ in range(length - 1):
        last = executor.submit(noop, last)
    last.result()
    return length


def chain(report: Report, options: Options) -> None:
    """A chain from its submission to its last result, with one slot."""
    length = options.pick(10_000, 20)
    title = f"chain of {length:,}, one slot"
    for store in ("fsync", "memory"):
        with Scene(store, slots=1, directory=options.directory) as scene, scene.client() as client:
            run_chain(client, 20)
            before = scene.coordinator.cpu_s, scene.workers[0].cpu_s
            found = report.rounds.repeat(rate(partial(run_chain, client, length)))
            report.add(f"{title}, {'durable' if store == 'fsync' else 'in memory'}", found, "/s", Bar(least=1_500))
            count = length * len(found) / 1e6
            report.add("  coordinator's time a task", (scene.coordinator.cpu_s - before[0]) / count, "us")
            report.add("  worker's time a task", (scene.workers[0].cpu_s - before[1]) / count, "us")
    with dtq.Executor.local(1, paths=[BENCH]) as executor:
        run_futures(executor, 20)
        found = report.rounds.repeat(rate(partial(run_futures, executor, length)))
        report.add(f"{title}, of an executor", found, "/s", Bar(least=1_500))


def long(report: Report, options: Options) -> None:
    """A chain that is longer than anybody waits for."""
    length = options.pick(100_000, 50)
    with Scene("fsync", slots=0, directory=options.directory) as scene, scene.client() as client:
        start = time.perf_counter()
        last = chained(client, length)
        last.accepted()
        report.add(f"chain of {length:,}: submitted", length / (time.perf_counter() - start), "/s")
        report.add("  coordinator's memory", scene.coordinator.rss_mb, "MB", Bar(most=400))
        worker = scene.start_worker(1)
        until(lambda: client.stats().counts.succeeded >= length // 3)
        scene.coordinator.kill()
        report.add("  coordinator ready again, killed after a third", scene.start_coordinator().await_ready(), "s")
        start = time.perf_counter()
        before = client.stats().counts.succeeded
        until(lambda: client.stats().counts.succeeded > before)
        report.add("  goes on after", time.perf_counter() - start, "s")
        last.result()
        report.add("  the rest", (length - before) / (time.perf_counter() - start), "/s")
        assert client.stats().counts.succeeded == length
        worker.end()
        cancel_chain(report, scene, client, length)


def cancel_chain(report: Report, scene: Scene, client: Client, length: int) -> None:
    """One more, of which the first task is cancelled while nobody serves it."""
    first = client.submit(noop, 1)
    last = first
    for _ in range(length - 1):
        last = client.submit(noop, last)
    last.accepted()
    start = time.perf_counter()
    first.cancel()
    report.add("  another, cancelled by its head", time.perf_counter() - start, "s")
    until(lambda: client.stats().counts.cancelled == length)
    report.add("  coordinator's memory, most at any time", scene.coordinator.most_mb, "MB", Bar(most=400))


def until(seen: Callable[[], bool]) -> None:
    while not seen():
        time.sleep(LOOK_S)


def run_map(client: Client, count: int) -> int:
    return sum(1 for _ in client.map(noop, range(count)))


def run_fan(client: Client, count: int) -> int:
    assert client.submit(sum, client.submit_map(noop, range(count))).result() == count * (count - 1) // 2
    return count


def fan(report: Report, options: Options) -> None:
    """Out and in again, beside a map that is read."""
    count = options.pick(1_000_000, 2_000)
    with Scene("fsync", slots=2, directory=options.directory) as scene, scene.client() as client:
        run_fan(client, 2_000)
        ways = {"map": rate(partial(run_map, client, count)), "fan": rate(partial(run_fan, client, count))}
        found = report.rounds.alternate(ways)
        plain = report.add(f"map of {count:,}, read", found["map"], "/s")
        both = report.add(f"fan-out and fan-in of {count:,}", found["fan"], "/s", Bar(least=100_000))
        report.add("  of the map", both / plain, "")
        report.add("  coordinator's memory, most at any time", scene.coordinator.most_mb, "MB", Bar(most=400))


def main() -> None:
    parts = {"chain": chain, "long": long, "fan": fan}
    options = command_line(__doc__, parts=list(parts))
    report = Report("flow", "What does it cost that tasks wait for one another?", options)
    for name, part in parts.items():
        if options.wants(name):
            part(report, options)
    report.note("Durability fsync unless it says otherwise.")
    report.print()


if __name__ == "__main__":
    main()
